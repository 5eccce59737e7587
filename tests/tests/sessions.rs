//! Who is at work: short sessions, connections made before the agent came, ports used again, sockets handed on.

use std::process::Stdio;

use anyhow::{Context, Result};
use tests::client::{self, Route};
use tests::tap::{self, Tap};
use tests::wire::{self, Wire};
use xtask::postgres::Postgres;

#[test]
fn a_short_session_has_its_process() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let mut pids = Vec::new();
    for number in 0..25 {
        let mut psql = server.client("psql");
        psql.args(["-X", "-c", &format!("select 'short {number}'")]).stdout(Stdio::null());
        let mut child = psql.spawn()?;
        pids.push(child.id());
        assert!(child.wait()?.success());
    }
    let events = tap.finish(server.port)?;
    for (number, pid) in pids.iter().enumerate() {
        let text = format!("select 'short {number}'");
        let event =
            events.iter().find(|e| *e.db_query_text == *text).with_context(|| format!("missed: {text}"))?;
        assert_eq!(event.process_pid, Some(*pid), "{text}");
        assert!(event.process_executable_path.ends_with("/psql"), "{}", event.process_executable_path);
        assert!(event.process_command_line.contains("psql -X -c"), "{}", event.process_command_line);
        assert_eq!(&*event.process_owner, "root");
        assert_eq!((&*event.db_user, &*event.db_application_name), ("postgres", "psql"));
        assert!(event.process_start_ns.is_some() && !event.process_ancestry.is_empty());
        assert_eq!(event.db_response_returned_rows, Some(1));
        assert!(
            event.duration_ns.zip(event.first_byte_ns).is_some_and(|(all, first)| all >= first && first > 0)
        );
    }
    Ok(())
}

#[test]
fn connections_from_before_are_adopted() -> Result<()> {
    let server = Postgres::start(&[])?;
    let address = ("127.0.0.1", server.port);
    let (mut simple, mut extended) = (Wire::login(address)?, Wire::login(address)?);
    extended.send(&[wire::extended("early", "select 'early'"), wire::sync()].concat())?;
    extended.until_ready()?;
    let simple_port = simple.stream.local_addr()?.port();
    let extended_port = extended.stream.local_addr()?.port();

    let tap = Tap::start(&[])?;
    for text in ["select 'adopted'", "select 'again'"] {
        simple.send(&wire::query(text))?;
        simple.until_ready()?;
    }
    for _ in 0..3 {
        extended.send(&[wire::execute("early"), wire::sync()].concat())?;
        extended.until_ready()?;
    }
    extended.send(&[wire::extended("late", "select 'late'"), wire::sync()].concat())?;
    extended.until_ready()?;
    extended.send(&[wire::execute("late"), wire::sync()].concat())?;
    extended.until_ready()?;

    let events = tap.finish(server.port)?;
    let of = |port| {
        let of_port = tap::statements(&events).into_iter().filter(|e| e.client_port == port);
        of_port
            .map(|e| (e.db_query_text.to_string(), e.statement_complete, e.db_response_returned_rows))
            .collect::<Vec<_>>()
    };
    let known = |text: &str| (text.to_owned(), true, Some(1));
    // Nothing may be invented for the statement that was prepared before: an event without a text, and not complete.
    let unknown = (String::new(), false, Some(1));
    assert_eq!(of(simple_port), [known("select 'adopted'"), known("select 'again'")]);
    let (late, early) = (known("select 'late'"), unknown);
    let (first, rest) =
        of(extended_port).split_first().map(|(f, r)| (f.clone(), r.to_vec())).unwrap_or_default();
    // Whose answer the first one is cannot be known: requests from before the join may be unanswered.
    assert!(first == early || first == (String::new(), false, None), "{first:?}");
    assert_eq!(rest, [early.clone(), early, late.clone(), late]);
    // Nor is who they are, from the wire: the server's own processes tell.
    for event in tap::statements(&events) {
        assert_eq!((&*event.db_user, &*event.db_namespace), ("postgres", "postgres"));
        let claim = event.identity_claims.iter().find(|claim| &*claim.key == "db_user");
        assert_eq!(claim.map(|claim| &*claim.source), Some("server_title"));
    }
    let ours = std::process::id();
    assert!(
        tap::statements(&events).iter().all(|e| e.process_pid == Some(ours)),
        "the process is found after the fact"
    );
    Ok(())
}

#[tokio::test]
async fn a_port_used_again_is_another_session() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let mut local = None;
    for turn in 0..3 {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        if let Some(address) = local {
            socket.bind(address)?;
        }
        let stream = socket.connect(([127, 0, 0, 1], server.port).into()).await?;
        local = Some(stream.local_addr()?);
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        // A reset on close: the port is free at once.
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO))?;
        let mut wire = Wire { stream };
        wire.send(&wire::startup(&[("user", "postgres"), ("database", "postgres")]))?;
        wire.until_ready()?;
        // The same name, another text: what the session before had prepared must not be told.
        wire.send(&[wire::extended("s", &format!("select 'turn {turn}'")), wire::sync()].concat())?;
        wire.until_ready()?;
        wire.send(&[wire::execute("s"), wire::sync()].concat())?;
        wire.until_ready()?;
    }
    let events = tap.finish(server.port)?;
    let told = tap::statements(&events);
    let texts: Vec<&str> = told.iter().map(|e| &*e.db_query_text).collect();
    assert_eq!(
        texts,
        [
            "select 'turn 0'",
            "select 'turn 0'",
            "select 'turn 1'",
            "select 'turn 1'",
            "select 'turn 2'",
            "select 'turn 2'"
        ]
    );
    assert!(told.iter().all(|e| e.client_port == told[0].client_port), "one port");
    let sessions: std::collections::BTreeSet<u64> = told.iter().map(|e| e.session_id).collect();
    assert_eq!(sessions.len(), 3, "three sessions");
    Ok(())
}

#[test]
fn a_socket_handed_on_keeps_a_process() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let said = client::python(&server, &Route::loopback4(), "passing.py", &[])?;
    let pids: Vec<u32> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let events = tap.finish(server.port)?;
    let texts: Vec<&str> = tap::statements(&events).iter().map(|e| &*e.db_query_text).collect();
    assert_eq!(texts, ["select 'the maker'", "select 'the child'", "select 'the stranger'"]);
    for event in tap::statements(&events) {
        let pid = event.process_pid.context("a statement without a process")?;
        assert!(pids.contains(&pid), "{pid} is none of {pids:?}");
        assert!(event.process_command_line.contains("passing.py"), "{}", event.process_command_line);
    }
    Ok(())
}
