//! `weir run`: nothing is lost, doubled or left behind, whatever dies or stops; a rule ends exactly one session.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tests::client::{self, Route};
use tests::kernel;
use tests::load::Load;
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::{self, Scratch};
use xtask::weir::{self, Weir};

const TABLE: &str = "weir.events";

fn run(more: &str) -> Result<(Weir, ClickHouse)> {
    Weir::run(&weir::binary()?, Scratch::new("agent")?, more)
}

fn statements(port: u16) -> String {
    format!(
        "SELECT count() FROM {TABLE} WHERE event_kind = 'statement' AND server_port = {port} \
         AND db_collection_name = 'pgbench_accounts'"
    )
}

fn doubled(clickhouse: &ClickHouse) -> Result<u64> {
    clickhouse.number(&format!("SELECT count() - uniqExact(event_id) FROM {TABLE}"))
}

/// Every loss on this port, and those that belong to no connection, in words; empty where there is none.
fn losses(clickhouse: &ClickHouse, port: u16) -> Result<String> {
    clickhouse.query(&format!(
        "SELECT event_kind, error_type, capture_lost_before, client_port, substring(db_query_text, 1, 40) FROM {TABLE} \
         WHERE server_port IN ({port}, 0) AND error_type != 'agent_down' \
         AND (event_kind = 'loss' OR capture_lost_before > 0) LIMIT 20 FORMAT TSV"
    ))
}

#[test]
fn a_clickhouse_that_stops_and_dies_loses_and_doubles_nothing() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    let (store, port) = (Scratch::new("clickhouse")?, scratch::free_port()?);
    let (path, listen) = (store.path().join("data").display().to_string(), format!("127.0.0.1:{port}"));
    let engine = || {
        let arguments = ["clickhouse", "--path", &path, "--listen", &listen];
        Weir::spawn(&weir::binary()?, Scratch::new("engine")?, &arguments)
    };
    let clickhouse = ClickHouse { url: format!("http://{listen}") };
    let mut first = engine()?;
    wait_for(&clickhouse, "SELECT 1", |n| n == 1)?;
    let (mut agent, _) = run(&format!("store: {{url: \"{}\"}}\n", clickhouse.url))?;

    let load = Load::start(server.port);
    std::thread::sleep(Duration::from_secs(4));
    first.signal(Signal::STOP)?;
    // Longer than the sender waits for an answer: what it gave up and sends again must not be stored twice.
    std::thread::sleep(Duration::from_mins(1));
    first.signal(Signal::CONT)?;
    std::thread::sleep(Duration::from_secs(4));
    first.kill()?;
    std::thread::sleep(Duration::from_secs(4));
    let mut second = engine()?;
    let executed = load.end()?;

    let sql = statements(server.port);
    let stored = wait_for(&clickhouse, &sql, |n| n >= executed)?;
    assert!(agent.stop()?.success(), "{}", agent.said());
    assert_eq!((stored, clickhouse.number(&sql)?), (executed, executed));
    assert_eq!(doubled(&clickhouse)?, 0);
    assert_eq!(losses(&clickhouse, server.port)?, "");
    second.stop()?;
    Ok(())
}

/// What finds the spool full is told missing by its connection: stored and told together are what was executed.
#[test]
fn what_a_slow_clickhouse_costs_is_told_by_connection() -> Result<()> {
    let server = Postgres::start(&[])?;
    let (store, port) = (Scratch::new("clickhouse")?, scratch::free_port()?);
    let (path, listen) = (store.path().join("data").display().to_string(), format!("127.0.0.1:{port}"));
    let arguments = ["clickhouse", "--path", &path, "--listen", &listen];
    let mut engine = Weir::spawn(&weir::binary()?, Scratch::new("engine")?, &arguments)?;
    let clickhouse = ClickHouse { url: format!("http://{listen}") };
    wait_for(&clickhouse, "SELECT 1", |n| n == 1)?;
    let (mut agent, _) = run(&format!("store: {{url: \"{}\", spool: 128KiB}}\n", clickhouse.url))?;

    let mut sessions = (0..4).map(|_| Wire::login(("127.0.0.1", server.port))).collect::<Result<Vec<_>>>()?;
    let all = format!(
        "SELECT count() FROM {TABLE} WHERE event_kind = 'statement' AND server_port = {}",
        server.port
    );
    for wire in &mut sessions {
        wire.send(&wire::query("select 'before'"))?;
        wire.until_ready()?;
    }
    wait_for(&clickhouse, &all, |n| n == 4)?;
    engine.signal(Signal::STOP)?;
    let mut executed = Vec::new();
    for (i, wire) in sessions.iter_mut().enumerate() {
        let count = 4_000 + 500 * i;
        for n in 0..count {
            wire.send(&wire::query(&format!("select {n}")))?;
            wire.until_ready()?;
        }
        executed.push((wire.stream.local_addr()?.port(), count as u64 + 2));
    }
    engine.signal(Signal::CONT)?;
    let missing =
        "sumIf(toUInt64OrZero(splitByChar(' ', toString(db_query_summary))[1]), error_type = 'not_recorded')";
    let told = format!("SELECT {missing} FROM {TABLE} WHERE server_port = {}", server.port);
    assert!(wait_for(&clickhouse, &told, |n| n > 0)? > 1_000, "the spool was too large");
    // There is room again, and every connection is in sync.
    for wire in &mut sessions {
        wire.send(&wire::query("select 'behind'"))?;
        wire.until_ready()?;
    }
    drop(sessions);
    let total: u64 = executed.iter().map(|(_, count)| count).sum();
    let both = format!(
        "SELECT countIf(event_kind = 'statement') + {missing} FROM {TABLE} WHERE server_port = {}",
        server.port
    );
    assert_eq!(wait_for(&clickhouse, &both, |n| n >= total)?, total);
    for (port, count) in executed {
        assert_eq!(clickhouse.number(&format!("{both} AND client_port = {port}"))?, count, "port {port}");
    }
    assert!(agent.stop()?.success(), "{}", agent.said());
    engine.stop()?;
    Ok(())
}

#[test]
fn an_embedded_clickhouse_that_dies_is_started_again() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    let (mut agent, clickhouse) = run("")?;
    let engine = |agent: &Weir| {
        let engines =
            kernel::children(agent.pid()).into_iter().filter(|(_, line)| line.contains(" clickhouse "));
        engines.map(|(pid, _)| pid).next()
    };
    let load = Load::start(server.port);
    let mut before = wait_for(&clickhouse, &statements(server.port), |n| n > 1_000)?;
    for _ in 0..2 {
        let first = engine(&agent).context("the embedded engine is a child")?;
        let pid = rustix::process::Pid::from_raw(first as i32).context("a process id is positive")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
        before = wait_for(&clickhouse, &statements(server.port), |n| n > before + 1_000)?;
        assert_ne!(engine(&agent), Some(first));
    }
    let executed = load.end()?;
    let sql = statements(server.port);
    let stored = wait_for(&clickhouse, &sql, |n| n >= executed)?;
    for what in ["clickhouse_ended", "clickhouse_restarted"] {
        let told =
            format!("SELECT count() FROM {TABLE} WHERE event_kind = 'config' AND error_type = '{what}'");
        assert_eq!(wait_for(&clickhouse, &told, |n| n >= 2)?, 2, "{what}");
    }
    assert_eq!((stored, clickhouse.number(&sql)?), (executed, executed));
    assert_eq!(doubled(&clickhouse)?, 0);
    assert_eq!(losses(&clickhouse, server.port)?, "");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

#[test]
fn an_agent_that_is_killed_is_noticed_by_nobody_but_the_receipts() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    let (mut agent, clickhouse) = run("")?;
    let held = kernel::held_by(agent.pid());
    assert!(!held.programs.is_empty() && !held.maps.is_empty(), "a running agent holds programs: {held:?}");
    let engines = kernel::children(agent.pid());
    assert!(!engines.is_empty(), "the embedded engine is a child");

    let load = Load::start(server.port);
    // Sessions that the second agent adopts had prepared their statement before: those events have no text.
    let sql = format!(
        "SELECT count() FROM {TABLE} WHERE event_kind = 'statement' AND server_port = {} AND process_pid = {}",
        server.port,
        std::process::id()
    );
    let before = wait_for(&clickhouse, &sql, |n| n > 1_000)?;
    agent.kill()?;
    kernel::wait_gone(&held)?;
    std::thread::sleep(Duration::from_secs(2));
    let scratch = agent.into_scratch()?;
    for (pid, command) in engines {
        let left = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(left.is_empty(), "the agent's child {pid} outlived it: {command}");
    }
    let (mut agent, clickhouse) = Weir::run(&weir::binary()?, scratch, "")?;
    let held = kernel::held_by(agent.pid());
    wait_for(&clickhouse, &sql, |n| n > before + 1_000)?;
    let executed = load.end().context("the database's clients noticed that the agent died")?;
    let gaps = format!("SELECT count() FROM {TABLE} WHERE event_kind = 'loss' AND error_type = 'agent_down'");
    assert_eq!(wait_for(&clickhouse, &gaps, |n| n > 0)?, 1, "the gap is one event");
    assert_eq!(doubled(&clickhouse)?, 0);
    // The gap says how long nobody watched: about the two seconds and the start.
    let gap = clickhouse.number(&format!(
        "SELECT intDiv(assumeNotNull(duration_ns), 1000000) FROM {TABLE} WHERE error_type = 'agent_down'"
    ))?;
    assert!(gap >= 1_000, "{gap} ms");
    let stored = clickhouse.number(&sql)?;
    assert!(stored < executed, "what ran while no agent watched cannot be known: {stored} of {executed}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    kernel::wait_gone(&held)
}

#[test]
fn a_kill_rule_ends_exactly_the_offending_session_of_fifty() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.quietly("create table victims as select generate_series(1, 300000) as id")?;
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(
        scratch.path().join("policies/writes.yaml"),
        "kind: DatabasePolicy\nmetadata: {name: no-unbounded-deletes}\nspec:\n  mode: enforce\n  match:\n    \
         database: {system: [postgresql], namespace: [postgres]}\n    statement: {effects: [delete], unbounded: true}\n  \
         action: kill\n",
    )?;
    let (mut agent, clickhouse) = Weir::run(&weir::binary()?, scratch, "")?;
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(Wire::login(("127.0.0.1", server.port))?);
    }
    for session in &mut sessions {
        session.send(&wire::query("delete from victims where id = 0"))?;
        session.until_ready()?;
    }
    let mut offender = sessions.swap_remove(17);
    let port = offender.stream.local_addr()?.port();
    offender.send(&wire::query("delete from victims"))?;
    // The answer may or may not come before the reset; the next exchange cannot.
    let ended = offender.until_ready().is_err()
        || offender.send(&wire::query("select 1")).and_then(|()| offender.until_ready().map(|_| ())).is_err();
    assert!(ended, "the offending session goes on; weir said: {}", agent.said());
    for session in &mut sessions {
        session.send(&wire::query("select 'still here'"))?;
        session.until_ready().context("another session was hit")?;
    }
    let killed =
        format!("SELECT count() FROM {TABLE} WHERE event_kind = 'statement' AND disposition = 'killed'");
    assert_eq!(wait_for(&clickhouse, &killed, |n| n > 0)?, 1);
    let receipt = clickhouse.query(&format!(
        "SELECT policy_rule, client_port, db_query_text, policy_mode FROM {TABLE} \
         WHERE event_kind = 'statement' AND disposition = 'killed' FORMAT TSV"
    ))?;
    assert_eq!(receipt.trim(), format!("no-unbounded-deletes\t{port}\tdelete from victims\tenforce"));
    let went_on = format!(
        "SELECT count() FROM {TABLE} WHERE db_query_text LIKE 'select \\'still here\\'' OR db_query_text = 'select ?'"
    );
    wait_for(&clickhouse, &went_on, |n| n >= 49)?;
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

#[test]
fn the_receipt_chain_is_whole_until_a_receipt_is_taken_out() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    let outside = Scratch::new("anchor")?;
    let anchor = outside.path().join("anchor.jsonl").display().to_string();
    let settings = format!("checkpoint: {{seconds: 1}}\nanchor: {{file: \"{anchor}\"}}\n");
    let (mut agent, clickhouse) = run(&settings)?;
    let weir = |arguments: &[&str]| -> Result<(bool, String)> {
        let out = std::process::Command::new(weir::binary()?).args(arguments).output()?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        Ok((out.status.success(), said))
    };
    let verify = || weir(&["verify", "--url", &clickhouse.url, "--anchor", &anchor]);
    let transactions = client::pgbench(&server, &Route::loopback4(), &["-S", "-c", "2", "-t", "500"])?;
    wait_for(&clickhouse, &statements(server.port), |n| n >= transactions)?;
    // Another key takes over; each has signed something.
    let state = agent.home().join("state").display().to_string();
    let (rotated, said) = weir(&["key", "rotate", "--state", &state])?;
    assert!(rotated && said.contains(" is followed by "), "{said}");
    let keys = "SELECT uniqExact(key_id) FROM weir.checkpoints";
    wait_for(&clickhouse, keys, |n| n == 2)?;
    let (whole, said) = verify()?;
    assert!(whole && said.contains("signed"), "{said}");
    let asked =
        ["report", "who", "--url", &clickhouse.url, "--relation", "pgbench_accounts", "--format", "jsonl"];
    let (answered, said) = weir(&asked)?;
    assert!(answered && said.contains("/pgbench\"") && said.contains("SELECT abalance"), "{said}");
    let middle = clickhouse.number(&format!("SELECT intDiv(max(sequence), 2) FROM {TABLE}"))?;
    clickhouse.query(&format!(
        "ALTER TABLE {TABLE} DELETE WHERE sequence = {middle} SETTINGS mutations_sync = 2"
    ))?;
    let (whole, said) = verify()?;
    assert!(!whole && said.contains(&middle.to_string()), "receipt {middle} is gone, verify says: {said}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
