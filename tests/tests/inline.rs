//! Statements held before the server has them: what a rule forbids is not executed, all else is as without the gate.
//! The oracle is the server's own log and data.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::client::Route;
use tests::guarded::{ASK, POLICIES, blocked, executed, guarding};
use tests::netns::NetNs;
use tests::operator::{operator, pending, shim_of};
use tests::prevent::{Driver, compare};
use tests::server::talkative;
use tests::stored::wait_for;
use tests::stream;
use tests::wire::{self, Wire};

#[test]
fn what_is_forbidden_is_not_executed_and_all_else_is_as_ever() -> Result<()> {
    let (server, plain, namespace) = (talkative()?, talkative()?, NetNs::new()?);
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
    let mut refused = 0;
    let routes = [
        Route::loopback4(),
        Route::loopback6(),
        Route::veth4(&namespace),
        Route::veth6(&namespace),
        Route::unix(&server),
    ];
    for (number, route) in routes.iter().enumerate() {
        for driver in Driver::ALL.into_iter().filter(|driver| driver.goes(route)) {
            let outcome = compare(&server, &plain, driver, route, 250, 7 + number as u64)
                .with_context(|| format!("{driver:?} by {}: {}", route.host, agent.said()))?;
            ensure!(outcome.refused > 20, "{driver:?} was refused {} times only", outcome.refused);
            refused += outcome.refused;
        }
    }
    assert_eq!(executed(&server)?, Vec::<String>::new());
    // Of a batch, or of several statements in one message, each is told as blocked.
    let told = wait_for(&clickhouse, &blocked(&server), |n| n >= refused as u64)?;
    assert!(told >= refused as u64, "{told} of {refused}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// The shim dies, or hangs, with a statement in it: that session ends, all others go on, and what is forbidden is
/// refused again as soon as another shim is there.
#[test]
fn a_shim_that_is_gone_hangs_nobody() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, clickhouse) = guarding(&server, &format!("{POLICIES}{ASK}"), "")?;
    for signal in [Signal::KILL, Signal::STOP] {
        let mut idle = Wire::login(("127.0.0.1", server.port))?;
        let said = idle.ask("select 'before'")?;
        assert!(said.contains("before"), "{said}");
        let mut held = Wire::login(("127.0.0.1", server.port))?;
        held.send(&wire::query("grant select on kept to public"))?;
        let shim = shim_of(&agent)?;
        let gone = "SELECT count() FROM weir.events WHERE error_type = 'shim_gone'";
        let before = wait_for(&clickhouse, gone, |_| true)?;
        pending(&agent)?;
        rustix::process::kill_process(rustix::process::Pid::from_raw(shim).context("a pid")?, signal)?;
        assert!(held.until_ready().is_err(), "the statement came through a shim that was gone");
        wait_for(&clickhouse, gone, |n| n > before)?;
        let said = idle.ask("select 'after'")?;
        assert!(said.contains("after"), "{said}");
        assert_ne!(shim_of(&agent)?, shim);
        // An old session and a new one.
        let mut new = Wire::login(("127.0.0.1", server.port))?;
        for wire in [&mut idle, &mut new] {
            let said = wire.ask("/* forbidden */ drop table kept")?;
            assert!(said.contains("blocked by policy"), "{signal:?}: {said}");
        }
    }
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Neither the agent nor its shim gets a processor for a while, failing open: what passes then is told, and why it did.
#[test]
fn what_passes_while_nobody_holds_is_told() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    let said = wire.ask("/* forbidden */ drop table kept")?;
    assert!(said.contains("blocked by policy"), "{said}");
    let both = [i32::try_from(agent.pid())?, shim_of(&agent)?];
    let signal = |signal| {
        both.iter().try_for_each(|&pid| -> Result<()> {
            let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
            Ok(rustix::process::kill_process(pid, signal)?)
        })
    };
    signal(Signal::STOP)?;
    // Longer than a shim may say nothing.
    std::thread::sleep(Duration::from_secs(1));
    let said = wire.ask("/* forbidden */ drop table kept");
    signal(Signal::CONT)?;
    let said = said?;
    assert!(said.contains("DROP TABLE"), "{said}");
    let told = "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND policy_mode = 'enforce' \
                AND disposition = 'alerted' AND db_query_text LIKE '%drop table kept%'";
    assert_eq!(wait_for(&clickhouse, told, |n| n > 0)?, 1);
    let why = "SELECT count() FROM weir.events WHERE error_type = 'gate_unguarded'";
    assert_eq!(wait_for(&clickhouse, why, |n| n > 0)?, 1);
    let said = Wire::login(("127.0.0.1", server.port))?.ask("/* forbidden */ drop table if exists kept")?;
    assert!(said.contains("blocked by policy"), "{said}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// An agent that is killed leaves nobody waiting, and an agent that ends lets everybody go on.
#[test]
fn sessions_outlive_the_agent() -> Result<()> {
    for kill in [true, false] {
        let server = talkative()?;
        server.quietly("create table kept (id int)")?;
        let (mut agent, _clickhouse) = guarding(&server, &ASK.replace("grant", "drop"), "")?;
        let mut idle = Wire::login(("127.0.0.1", server.port))?;
        idle.ask("select 1")?;
        let mut held = Wire::login(("127.0.0.1", server.port))?;
        held.send(&wire::query("drop table kept"))?;
        pending(&agent)?;
        assert_eq!(server.quietly("select count(*) from pg_class where relname = 'kept'")?, "1");
        if kill {
            agent.kill()?;
        } else {
            assert!(agent.stop()?.success(), "{}", agent.said());
        }
        // Failing open is the default: what was held goes on.
        held.until_ready()?;
        let said = idle.ask("select 'after'")?;
        assert!(said.contains("after"), "{said}");
        let mut new = Wire::login(("127.0.0.1", server.port))?;
        assert!(new.ask("select 'new'")?.contains("new"));
    }
    Ok(())
}

/// A statement that needs approval waits, goes on when somebody approves, and does not where somebody denies, the client
/// gives up or time runs out.
#[test]
fn what_needs_approval_waits_for_it() -> Result<()> {
    let server = talkative()?;
    let policy = format!("{}  approval: {{ttl: 3s}}\n", ASK.replace("grant", "drop"));
    let (mut agent, clickhouse) = guarding(&server, &policy, "")?;
    let there = || server.quietly("select count(*) from pg_class where relname = 'kept'");
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    wire.ask("create table kept (id int)")?;
    for (decision, left) in [("deny", "1"), ("", "1"), ("cancel", "1"), ("approve", "0")] {
        let mut psql = server.client("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-h",
            "127.0.0.1",
            "-c",
            "drop table kept",
            "-c",
            "select 'goes on'",
        ]);
        let child = psql.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let id = pending(&agent)?;
        assert_eq!(there()?, "1", "{decision}: it did not wait");
        match decision {
            "" => {}
            "cancel" => {
                let pid = rustix::process::Pid::from_raw(child.id() as i32).context("a pid")?;
                rustix::process::kill_process(pid, Signal::INT)?;
            }
            _ => {
                let (done, said) = operator(&agent, &[decision, &id, "--reason", "as agreed"])?;
                assert!(done, "{decision}: {said}");
                let (again, said) = operator(&agent, &["approve", &id])?;
                assert!(!again, "decided twice: {said}");
            }
        }
        let out = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert_eq!(there()?, left, "{decision}: {said}");
        if decision != "cancel" {
            assert!(said.contains("goes on"), "{decision}: the session is over: {said}");
        }
        match decision {
            "deny" => assert!(said.contains("denied by user:root") && said.contains("as agreed"), "{said}"),
            "" => assert!(said.contains("blocked by policy ask-first"), "{said}"),
            "cancel" => assert!(said.contains("canceling statement due to user request"), "{said}"),
            _ => {}
        }
    }
    let told = |what: &str| {
        format!(
            "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND db_query_text LIKE 'drop table%' AND {what}"
        )
    };
    let approved =
        "disposition = 'approved' AND approval_state = 'approved' AND approval_actor LIKE 'user:root%'";
    assert_eq!(wait_for(&clickhouse, &told(approved), |n| n > 0)?, 1);
    assert_eq!(wait_for(&clickhouse, &told("disposition = 'denied'"), |n| n >= 3)?, 3);
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// The master switch lets go of what is held, holds nothing while it is off, and holds again when it is on.
#[test]
fn the_switch_lets_go_and_holds_again() -> Result<()> {
    let server = talkative()?;
    let (mut agent, _clickhouse) = guarding(&server, &POLICIES.replace("block", "require_approval"), "")?;
    let mut held = Wire::login(("127.0.0.1", server.port))?;
    held.ask("create table kept (id int)")?;
    held.send(&wire::query("drop table kept"))?;
    pending(&agent)?;
    let (done, said) = operator(&agent, &["gate", "off"])?;
    assert!(done, "{said}");
    // Failing open: what was held goes on.
    held.until_ready()?;
    assert_eq!(server.quietly("select count(*) from pg_class where relname = 'kept'")?, "0");
    let mut new = Wire::login(("127.0.0.1", server.port))?;
    new.ask("create table kept (id int)")?;
    new.ask("drop table kept")?;
    assert_eq!(server.quietly("select count(*) from pg_class where relname = 'kept'")?, "0");
    let (done, said) = operator(&agent, &["gate", "on"])?;
    assert!(done, "{said}");
    let mut guarded = Wire::login(("127.0.0.1", server.port))?;
    guarded.ask("create table kept (id int)")?;
    guarded.send(&wire::query("drop table kept"))?;
    let id = pending(&agent)?;
    assert!(operator(&agent, &["deny", &id])?.0);
    guarded.until_ready()?;
    assert_eq!(server.quietly("select count(*) from pg_class where relname = 'kept'")?, "1");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// A long stream of pipelined messages, cut anywhere: each is answered as it should be, in order.
#[test]
fn a_stream_cut_anywhere_is_answered_in_order() -> Result<()> {
    let server = talkative()?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    let outcome = stream::cut_anywhere(&server, 25_000, 4711).with_context(|| agent.said())?;
    assert!(outcome.refused > 2_000, "{outcome:?}");
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
