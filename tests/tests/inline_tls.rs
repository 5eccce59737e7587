//! Statements over TLS, held where the server is about to parse them: what a rule forbids is not executed, the session
//! goes on. The oracle is what the server's log says that it has executed, and its data.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::client::{self, Route, Session};
use tests::guarded::{ASK, POLICIES, audited as executed, blocked, guarding};
use tests::netns::NetNs;
use tests::operator::{operator, shim_of};
use tests::prevent::{Driver, compare};
use tests::server::{audited_tls, talkative};
use tests::stored::wait_for;
use xtask::weir::Weir;

#[test]
fn what_is_forbidden_is_not_executed_and_all_else_is_as_ever() -> Result<()> {
    let server = audited_tls()?;
    // The oracle sees what is executed.
    server.quietly("/* forbidden */ select 1")?;
    let before = executed(&server)?;
    ensure!(!before.is_empty(), "the server does not log what it executes");
    let namespace = NetNs::new()?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "gate: {tls: true}")?;
    let plain = talkative()?;
    let mut refused = 0;
    for (number, route) in [Route::loopback4(), Route::veth6(&namespace)].into_iter().enumerate() {
        let route = route.over_tls();
        for driver in Driver::ALL {
            let outcome = compare(&server, &plain, driver, &route, 200, 7 + number as u64)
                .with_context(|| format!("{} by {}: {}", driver.name(), route.host, agent.said()))?;
            ensure!(outcome.refused > 10, "{}: {outcome:?}", driver.name());
            refused += outcome.refused;
        }
    }
    assert_eq!(executed(&server)?, before);
    // Of several statements in one message, each is told as blocked.
    let told = wait_for(&clickhouse, &blocked(&server), |n| n >= refused as u64)?;
    assert!(told >= refused as u64, "{told} of {refused}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Many sessions wait at once, on fewer processors: each gets its own answer.
#[test]
fn sessions_that_wait_at_once_get_their_own_answers() -> Result<()> {
    let server = audited_tls()?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "gate: {tls: true}")?;
    let route = Route::loopback4().over_tls();
    let plain = talkative()?;
    let one = |number: u64| Ok(compare(&server, &plain, Driver::Tokio, &route, 100, number)?.refused);
    let refused = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || one(number))).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("panicked"))?);
        joined.sum::<Result<usize>>()
    })?;
    ensure!(refused > 8 * 10, "refused {refused} times only");
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Whatever its size and form, a forbidden text is not executed; one that is allowed is, however long it is.
#[test]
fn texts_of_every_size_and_form() -> Result<()> {
    let server = audited_tls()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, _clickhouse) = guarding(&server, &format!("{POLICIES}{ASK}"), "gate: {tls: true}")?;
    let route = Route::loopback4().over_tls();
    let long = |bytes: usize, text: &str| format!("/* forbidden {} */ {text}", "x".repeat(bytes));
    let file = server.home().join("long.sql");
    // Lengths around a page and around what is hashed, and one of many pages.
    for bytes in [0, 480, 4060, 4070, 4080, 4090, 8170, 200_000] {
        let allowed = format!("select length('{}');", "y".repeat(bytes));
        fs::write(&file, format!("{};\n{allowed}\n", long(bytes, "drop table kept")))?;
        let said = client::psql(&server, &route, &["-f", &file.to_string_lossy()])?;
        assert_eq!(said, bytes.to_string(), "with {bytes} bytes");
    }
    for texts in [
        &["/* forbidden */ begin; drop table kept; commit"][..],
        &["/* forbidden */ select 1; drop table kept"],
        &["/* forbidden */ do $$begin drop table kept; end$$"],
        &["/* forbidden */ prepare gone as delete from kept", "/* forbidden */ execute gone"],
        &["begin", "/* forbidden */ drop table kept", "commit"],
        &["/* forbidden */ grant select on kept to public"],
        &["/* forbidden */ explain analyze delete from kept"],
    ] {
        let mut arguments: Vec<&str> = texts.iter().flat_map(|text| ["-c", text]).collect();
        arguments.extend(["-c", "select 'goes on'"]);
        let said = client::psql(&server, &route, &arguments)?;
        assert!(said.ends_with("goes on"), "{texts:?}: {said}");
    }
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert_eq!(server.quietly("select count(*) from pg_class where relname = 'kept'")?, "1");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Waits until another shim than this one is at work.
fn another_shim(agent: &Weir, old: i32) -> Result<()> {
    for _ in 0..600 {
        match shim_of(agent) {
            Ok(new) if new != old => {
                // The agent answers once it has told the shim all.
                let (done, said) = operator(agent, &["gate", "status"])?;
                ensure!(done, "{said}");
                return Ok(());
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    anyhow::bail!("the shim was not replaced: {}", agent.said())
}

/// A shim that dies or hangs leaves nobody waiting, and another one refuses what is forbidden, in old sessions and new
/// ones.
#[test]
fn a_shim_that_is_gone_hangs_nobody() -> Result<()> {
    let server = audited_tls()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "gate: {tls: true}")?;
    let route = Route::loopback4().over_tls();
    let mut old = Session::psql(&server, &route)?;
    assert_eq!(old.ask("select 'before'")?, "before");
    for signal in [Signal::KILL, Signal::STOP] {
        let shim = shim_of(&agent)?;
        kill_process(Pid::from_raw(shim).context("a pid")?, signal)?;
        // Failing open: what nobody judges in time goes on.
        assert_eq!(old.ask("select /* odd */ 'through'")?, "through");
        another_shim(&agent, shim)?;
        let mut new = Session::psql(&server, &route)?;
        for session in [&mut old, &mut new] {
            assert_eq!(session.ask("/* forbidden */ drop table kept; select 'goes on'")?, "goes on");
        }
    }
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// An agent that is killed leaves nobody waiting. Failing closed, its shim goes on refusing for those who are there; failing
/// open, and where it ends in order, nothing is refused any more.
#[test]
fn sessions_outlive_the_agent() -> Result<()> {
    for (fail, kill, refuses) in [("open", true, false), ("closed", true, true), ("closed", false, false)] {
        let server = audited_tls()?;
        server.quietly("create table kept (id int)")?;
        let (mut agent, _clickhouse) =
            guarding(&server, POLICIES, &format!("gate: {{tls: true, fail: {fail}}}"))?;
        let shim = shim_of(&agent)?;
        let mut session = Session::psql(&server, &Route::loopback4().over_tls())?;
        assert_eq!(session.ask("/* forbidden */ drop table kept; select 'goes on'")?, "goes on");
        assert_eq!(executed(&server)?, Vec::<String>::new());
        if kill {
            agent.kill()?;
        } else {
            assert!(agent.stop()?.success(), "{}", agent.said());
        }
        if !refuses {
            // The shim has a moment to see that it is alone.
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(session.ask("/* forbidden */ drop table kept; select 'after'")?, "after");
        assert_eq!(executed(&server)?.is_empty(), refuses, "fail: {fail}, killed: {kill}");
        // It has nobody left to watch.
        drop(session);
        let begin = Instant::now();
        while Path::new(&format!("/proc/{shim}")).exists() {
            ensure!(
                begin.elapsed() < Duration::from_secs(20),
                "fail: {fail}: the shim stays without a session"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}
