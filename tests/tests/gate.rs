//! A kill wherever the session is, and what the session had asked for with it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tests::client::{self, Route};
use tests::netns::NetNs;
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};

/// Sleeps at every row: ten seconds in all, unless something stops it.
const SLOW_DELETE: &str = "delete from victims where pg_sleep(0.05) is not null";
const VICTIMS: &str = "create table victims as select generate_series(1, 200) as id";

/// An agent that ends every session that deletes where the predicates hold.
fn no_deletes(where_: &str, config: &str) -> Result<(Weir, ClickHouse)> {
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(
        scratch.path().join("policies/deletes.yaml"),
        format!(
            "kind: DatabasePolicy\nmetadata: {{name: no-deletes}}\nspec:\n  mode: enforce\n  match:\n    \
             statement: {{effects: [delete]}}\n{where_}  action: kill\n"
        ),
    )?;
    Weir::run(&weir::binary()?, scratch, config)
}

/// Waits until no session but our own is at work, then counts what is left.
fn victims_left(server: &Postgres) -> Result<String> {
    while server.quietly(
        "select count(*) from pg_stat_activity where query like 'delete%' and pid != pg_backend_pid()",
    )? != "0"
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.quietly("select count(*) from victims")
}

const KILLED: &str =
    "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND disposition = 'killed'";

#[test]
fn what_a_killed_session_had_asked_for_is_not_done() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.quietly(VICTIMS)?;
    let (mut agent, clickhouse) = no_deletes("", "")?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    wire.send(&wire::query(SLOW_DELETE))?;
    assert!(wire.until_ready().is_err(), "the session goes on");
    assert_eq!(victims_left(&server)?, "200", "the statement was carried out without its session");

    // Whoever sends and hangs up at once gets no further.
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    rustix::net::sockopt::set_socket_linger(&wire.stream, Some(std::time::Duration::ZERO))?;
    wire.send(&wire::query(SLOW_DELETE))?;
    drop(wire);
    while server.quietly("select count(*) from pg_stat_activity where application_name = 'wire'")? != "0" {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(victims_left(&server)?, "200", "a client that hung up had its way");
    wait_for(&clickhouse, KILLED, |n| n > 0)?;
    // The agent hides nothing that it does: its requests to cancel are events of its own process.
    let own = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND process_pid = {} AND server_port = {}",
        agent.pid(),
        server.port
    );
    assert_eq!(wait_for(&clickhouse, &own, |n| n >= 2)?, 2);
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

#[test]
fn a_session_in_another_namespace_or_on_a_link_is_killed() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.quietly(VICTIMS)?;
    let namespace = NetNs::new()?;
    let link = namespace.host_on_link().context("the host has no link-local address")?;
    let (mut agent, clickhouse) = no_deletes("", "")?;
    let routes = [
        Route::veth4(&namespace),
        Route::veth6(&namespace),
        Route { host: link, namespace: Some(&namespace), tls: false, port: None },
    ];
    for (number, route) in routes.iter().enumerate() {
        // The session ends with an error of its own, which is what is wanted.
        let said = client::psql(&server, route, &["-c", "select 'at work'", "-c", SLOW_DELETE]);
        assert!(said.is_err(), "{}: the session went on: {said:?}", route.host);
        assert_eq!(victims_left(&server)?, "200", "{}: {}", route.host, agent.said());
        let known = format!("{KILLED} AND process_executable_path LIKE '%/psql'");
        assert_eq!(wait_for(&clickhouse, &known, |n| n > number as u64)?, number as u64 + 1);
    }
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// A flood that fills the ring leaves room for the session that a rule may end.
#[test]
fn a_flood_leaves_room_for_what_a_rule_is_about() -> Result<()> {
    let server = Postgres::start(&[])?;
    for name in ["covered", "free"] {
        server.quietly(&format!("create database {name}"))?;
    }
    let (mut agent, clickhouse) =
        no_deletes("    database: {namespace: [covered]}\n", "capture: {ring: 4MiB}\n")?;
    let login = |database| Wire::login_to(("127.0.0.1", server.port), database);
    let (mut free, mut covered) = (login("free")?, login("covered")?);
    let told = |database: &str, what: &str| {
        format!(
            "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND server_port = {} \
             AND db_namespace = '{database}' AND {what}",
            server.port
        )
    };
    for wire in [&mut free, &mut covered] {
        wire.send(&wire::query("select 'warm'"))?;
        wire.until_ready()?;
    }
    for database in ["free", "covered"] {
        wait_for(&clickhouse, &told(database, "true"), |n| n == 1)?;
    }
    // What the flood leaves is taken by those that a rule is about.
    agent.signal(Signal::STOP)?;
    let long = "x".repeat(1_000);
    for _ in 0..4_000 {
        free.send(&wire::query(&format!("select 1 /*{long}*/")))?;
        free.until_ready()?;
    }
    for _ in 0..20 {
        covered.send(&wire::query("select 'covered'"))?;
        covered.until_ready()?;
    }
    agent.signal(Signal::CONT)?;
    assert_eq!(wait_for(&clickhouse, &told("covered", "true"), |n| n >= 21)?, 21);
    assert_eq!(clickhouse.number(&told("covered", "capture_lost_before > 0"))?, 0);
    for _ in 0..3 {
        free.send(&wire::query("select 'behind'"))?;
        free.until_ready()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let gap = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'loss' AND error_type = 'gap' AND server_port = {} \
         AND client_port = {}",
        server.port,
        free.stream.local_addr()?.port()
    );
    wait_for(&clickhouse, &gap, |n| n > 0)?;
    assert!(clickhouse.number(&told("free", "true"))? < 4_000, "the ring did not run over");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
