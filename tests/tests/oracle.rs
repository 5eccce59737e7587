//! The oracle test: what weir told about a mixed workload equals what the server logged, one to one.

use agent_core::event::{CaptureSource, Event, EventKind};
use anyhow::Result;
use tests::client::{self, Route};
use tests::netns::NetNs;
use tests::tap::{self, Tap};
use tests::{drivers, oracle, server, serverlog};
use xtask::postgres::Postgres;

/// COPY is not counted by pgaudit; these are the rows that the clients send and get.
const COPIED: &[(&str, u64)] = &[
    ("copy mixed (id, note) from stdin", 500),
    ("copy mixed to stdout (format binary)", 500),
    ("COPY \"t\" FROM STDIN (FORMAT binary) ", 100),
    // It runs nothing, and sends its one line of a plan.
    ("explain (costs off) select * from words;", 1),
];

const TOKIO: &str = env!("CARGO_BIN_EXE_mixed-tokio");

fn tables(server: &Postgres) -> Result<()> {
    server.pgbench_tables(1)?;
    server.quietly("create table mixed (id int, note text)")?;
    server.quietly("create role reader login superuser")?;
    server.quietly("create role writer login superuser")?;
    server.quietly("create database shop").map(|_| ())
}

/// Everything that clients do, by one route. `pace`: transactions of each pgbench client.
fn workload(server: &Postgres, route: &Route<'_>, pace: u32) -> Result<()> {
    let transactions = pace.to_string();
    for mode in ["simple", "extended", "prepared"] {
        client::pgbench(server, route, &["-S", "-M", mode, "-c", "8", "-j", "2", "-t", &transactions])?;
        let tpcb = (pace / 8).to_string();
        client::pgbench(server, route, &["-M", mode, "-c", "4", "-j", "2", "-t", &tpcb])?;
    }
    let pipeline = client::clients().join("pipeline.pgbench");
    let file = pipeline.to_string_lossy();
    for mode in ["extended", "prepared"] {
        client::pgbench(
            server,
            route,
            &["-M", mode, "-c", "4", "-j", "2", "-t", &(pace / 40).to_string(), "-f", &file],
        )?;
    }
    client::python(server, route, "mixed_psycopg.py", &["4"])?;
    client::python(server, route, "mixed_asyncpg.py", &["4"])?;
    client::program(server, route, TOKIO, &["10"])?;
    client::psql(server, route, &["-c", "select 1; select 2", "-c", "\\d pgbench_accounts", "-c", "selekt"])?;
    client::psql(server, route, &["-c", "select 'a' ; ; select 'b' -- end", "-c", "select 1/0; select 2"])?;
    client::psql(server, route, &["-c", "select * from generate_series(1, 100000)"])?;
    client::psql(server, route, &["-f", &client::clients().join("script.sql").to_string_lossy()])?;
    Ok(())
}

fn compare(route: impl FnOnce(&Postgres) -> Result<()>) -> Result<oracle::Report> {
    compare_on(server::talkative()?, route).map(|(report, _)| report)
}

fn compare_on(
    mut server: Postgres,
    route: impl FnOnce(&Postgres) -> Result<()>,
) -> Result<(oracle::Report, Vec<Event>)> {
    tables(&server)?;
    let port = server.port;
    let tap = Tap::start(&[])?;
    route(&server)?;
    let events = tap.finish(port)?;
    server.halt()?;
    let report = judge(&serverlog::read(&server::log_file(&server))?, &events);
    Ok((report, events))
}

fn judge(log: &[serverlog::Session], events: &[Event]) -> oracle::Report {
    let lost = tap::losses(events);
    let report = oracle::compare(log, events, COPIED);
    eprintln!("{report}");
    assert!(lost.is_empty(), "lost: {lost:?}\n{report}");
    report.assert_equal();
    assert!(report.rows_compared > report.logged / 4 && report.parameters_compared > 100, "{report}");
    report
}

#[test]
fn loopback_ipv4_and_ipv6() -> Result<()> {
    let report = compare(|server| {
        workload(server, &Route::loopback4(), 2_000)?;
        workload(server, &Route::loopback6(), 200)
    })?;
    assert!(report.matched > 75_000, "{report}");
    Ok(())
}

#[test]
fn another_network_namespace_ipv4_and_ipv6() -> Result<()> {
    let ns = NetNs::new()?;
    let report = compare(|server| {
        workload(server, &Route::veth4(&ns), 600)?;
        workload(server, &Route::veth6(&ns), 600)
    })?;
    assert!(report.matched > 30_000, "{report}");
    Ok(())
}

#[test]
fn unix_socket() -> Result<()> {
    let mut server = server::talkative()?;
    tables(&server)?;
    let before = serverlog::read_all(&server::log_file(&server))?.len();
    let tap = Tap::start(&[])?;
    workload(&server, &Route::unix(&server), 600)?;
    let events = tap.finish_unix(server.port)?;
    server.halt()?;
    let log = serverlog::read_all(&server::log_file(&server))?.split_off(before);
    let report = judge(&log, &events);
    assert!(report.matched > 15_000, "{report}");
    // The process is that of the client, on every statement.
    let statements = tap::statements(&events);
    let strange = statements.iter().find(|e| {
        let program = e.process_executable_path.rsplit('/').next().unwrap_or_default();
        !["psql", "pgbench", "mixed-tokio"].contains(&program) && !program.starts_with("python")
    });
    assert_eq!(strange.map(|e| (&e.process_executable_path, &e.process_command_line)), None);
    Ok(())
}

/// What the clients that have a TLS of their own, or use one in a way of their own, say of themselves; and what they are.
const FOREIGN: [(&str, &str); 5] = [
    ("node-postgres", "node"),
    ("pgjdbc", "java"),
    ("lib-pq", "mixed_go"),
    ("tokio-postgres", "mixed-tokio"),
    ("tokio-postgres openssl", "mixed-tokio"),
];

/// Psql, pgbench and psycopg by libpq on sockets; asyncpg and Node.js by OpenSSL on memory, Node's built in;
/// tokio-postgres by rustls and by OpenSSL. Java and Go have their own, which may be out of sight: then the server
/// tells. All of it with the client's process.
#[test]
fn tls() -> Result<()> {
    let (report, events) = compare_on(server::talkative_tls()?, |server| {
        let loopback = || Route::loopback4().over_tls();
        workload(server, &loopback(), 1_000)?;
        workload(server, &Route::loopback6().over_tls(), 100)?;
        // Many at once in one process, all alike.
        for mode in ["simple", "prepared"] {
            client::pgbench(server, &loopback(), &["-S", "-M", mode, "-c", "150", "-j", "4", "-t", "20"])?;
        }
        client::python(server, &loopback(), "crowd_asyncpg.py", &["150", "5"])?;
        client::program(server, &loopback(), TOKIO, &["10", "openssl"])?;
        drivers::node(server, &loopback(), "mixed_pg.js", &["5"])?;
        drivers::java(server, &loopback(), "Mixed.java", &["5"])?;
        drivers::go(server, &loopback(), "mixed_go", &["5"])?;
        client::pgbench(server, &loopback(), &["-S", "-C", "-c", "4", "-t", "50"]).map(|_| ())
    })?;
    assert!(report.matched > 40_000, "{report}");
    for event in events.iter().filter(|event| event.event_kind == EventKind::Statement) {
        let text = &event.db_query_text;
        assert!(event.network_tls && event.capture_source == CaptureSource::Tls, "{text}");
        assert!(event.process_pid.is_some(), "nobody's: {text}");
    }
    for (application, program) in FOREIGN {
        let own = events.iter().filter(|event| *event.db_application_name == *application);
        let own = own.filter(|event| event.event_kind == EventKind::Statement);
        let own: Vec<&str> = own.map(|event| &*event.process_executable_path).collect();
        assert!(own.len() > 100, "{application}: only {}", own.len());
        let stranger = own.iter().find(|path| path.rsplit('/').next() != Some(program));
        assert_eq!(stranger, None, "{application}");
    }
    let blind = events.iter().filter(|event| event.event_kind == EventKind::Blind);
    let blind: Vec<_> = blind.map(|e| (&e.error_type, e.client_port, &e.process_command_line)).collect();
    assert!(blind.is_empty(), "{blind:?}");
    Ok(())
}
