//! Every supported major version of PostgreSQL, over TCP, TLS and the Unix socket, without a setting for any of them.

use std::os::unix::fs::PermissionsExt;

use agent_core::event::Event;
use anyhow::{Context, Result};
use tests::client::{self, Route};
use tests::tap::{self, Tap};
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::setup::servers;

/// What is told of one route: text, rows, status.
fn told(events: &[Event]) -> Vec<(String, Option<u64>, String)> {
    let rows = |e: &Event| e.db_response_returned_rows.or(e.db_response_affected_rows);
    let told = tap::statements(events).into_iter();
    told.map(|e| (e.db_query_text.to_string(), rows(e), e.db_response_status_code.to_string())).collect()
}

#[test]
fn versions_12_to_18_are_read_alike() -> Result<()> {
    let script =
        ["select 1", "create table t as select g from generate_series(1, 7) g", "select * from t", "selekt"];
    let expected: Vec<(String, Option<u64>, String)> = [
        ("select 1", Some(1), ""),
        ("create table t as select g from generate_series(1, 7) g", Some(7), ""),
        ("select * from t", Some(7), ""),
        ("selekt", None, "42601"),
    ]
    .map(|(text, rows, status)| (text.to_owned(), rows, status.to_owned()))
    .into();
    for major in servers::versions() {
        let home = Scratch::new("version")?;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;
        let programs = servers::unpack(major, home.path())?;
        let server = Postgres::start_from(&programs, &[]).with_context(|| format!("PostgreSQL {major}"))?;
        server.offer_tls()?;
        let tap = Tap::start(&[])?;
        for route in [Route::loopback4(), Route::loopback4().over_tls(), Route::unix(&server)] {
            for text in script {
                // psql fails with its statement: that is part of the script.
                let _ = client::psql(&server, &route, &["-c", text]);
            }
            client::psql(&server, &route, &["-c", "drop table t"])?;
        }
        let events = tap.finish_both(server.port)?;
        assert!(tap::losses(&events).is_empty(), "PostgreSQL {major}: {:?}", tap::losses(&events));
        for way in ["tcp", "tls", "unix"] {
            let place = format!("PostgreSQL {major} over {way}");
            let by =
                |e: &Event| if e.network_tls { "tls".to_owned() } else { e.network_transport.to_string() };
            let events: Vec<Event> = events.iter().filter(|e| by(e) == way).cloned().collect();
            assert_eq!(told(&events).split_last().map(|(_, first)| first), Some(&expected[..]), "{place}");
            let statements = tap::statements(&events);
            let process = statements.iter().find(|e| !e.process_executable_path.ends_with("/psql"));
            let shown = process
                .map(|e| (&e.process_executable_path, e.process_pid, &e.identity_claims, &e.db_query_text));
            assert_eq!(shown, None, "{place}");
        }
    }
    Ok(())
}
