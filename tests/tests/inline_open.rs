//! The gate and connections that were open before it: taken in between two messages, or told; nothing of them is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::client::{self, Route};
use tests::guarded::{POLICIES, executed, guarding};
use tests::netns::NetNs;
use tests::operator::{operator, shim_of};
use tests::server::{log_file, talkative};
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::postgres::Postgres;

/// `forbidden` is in each statement that must not be executed. Nothing exists that it could do harm to.
const FORBIDDEN: &str = "/* forbidden */ drop table if exists never";

/// Asks for what is forbidden until it is refused: a session that is at work is taken in at its next moment of rest.
fn until_refused(wire: &mut Wire) -> Result<usize> {
    let began = Instant::now();
    for count in 0.. {
        if wire.ask(FORBIDDEN)?.contains("blocked by policy") {
            return Ok(count);
        }
        ensure!(began.elapsed() < Duration::from_mins(1), "it is executed after a minute still");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(0)
}

#[test]
fn sessions_that_were_open_before_are_held() -> Result<()> {
    for unknown in ["alert", "block"] {
        let server = talkative()?;
        let route = Route::loopback4();
        let mut psycopg = open(&server, &route, "psycopg")?;
        let mut asyncpg = open(&server, &route, "asyncpg")?;
        let mut psql = client::Session::psql(&server, &Route::loopback6())?;
        assert_eq!(psql.ask("begin; select 'begun'")?, "begun");
        let mut wire = Wire::login(("127.0.0.1", server.port))?;
        let (mut agent, clickhouse) = guarding(&server, &format!("{POLICIES}  onUnknown: {unknown}\n"), "")?;
        // As ready as the agent says it is.
        let said = wire.ask(FORBIDDEN)?;
        assert!(said.contains("blocked by policy no-destroy"), "{said}: {}", agent.said());
        for session in [&mut psycopg, &mut asyncpg] {
            let said = session.ask(FORBIDDEN)?;
            let refused = said.split(" | ").all(|one| one.contains("blocked by policy"));
            assert!(refused, "{said}: {}", agent.said());
            let said = session.ask("select 'all ' || 'else'")?;
            assert!(said.split(" | ").all(|one| one == "all else"), "{said}");
            // Prepared while nobody read: what it is nobody knows.
            let said = session.ask("prepared")?;
            let wanted = if unknown == "alert" { "prepared 1" } else { "blocked by policy" };
            assert!(said.split(" | ").all(|one| one.contains(wanted)), "{unknown}: {said}");
        }
        // An error in the transaction ends it, as the server's own would.
        assert_eq!(psql.ask(&format!("{FORBIDDEN}; select 1; rollback; select 'goes on'"))?, "goes on");
        assert_eq!(executed(&server)?, Vec::<String>::new(), "{}", agent.said());
        // Who asked is known from the server's title and the client's process. What the capture joined too late to
        // see as a statement is told as a decision.
        let told = format!(
            "SELECT count() FROM weir.events WHERE event_kind IN ('statement', 'decision') AND \
             disposition = 'blocked' AND db_user = 'postgres' AND process_pid > 0 AND server_port = {}",
            server.port
        );
        let wanted = if unknown == "alert" { 6 } else { 10 };
        let found = wait_for(&clickhouse, &told, |n| n >= wanted).with_context(|| agent.said())?;
        assert_eq!(found, wanted);
        assert!(agent.stop()?.success(), "{}", agent.said());
    }
    Ok(())
}

fn open(server: &Postgres, route: &Route<'_>, driver: &str) -> Result<client::Session> {
    let mut session = client::Session::python_with(server, route, "open.py", &[driver])?;
    assert_eq!(session.line()?, "open");
    Ok(session)
}

/// One session at work: long and short statements, pipelined, cut anywhere; each answer is looked at.
fn at_work(mut wire: Wire, seed: u64, until: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut number = seed;
    while !until.load(Ordering::Relaxed) {
        let mut stream = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..8 {
            number += 1;
            let fill = "x".repeat((number * 7919 % 30_000) as usize * usize::from(number.is_multiple_of(5)));
            let text = format!("select /* {fill} */ 'n{number}'::text");
            match number % 3 {
                0 => stream.extend([wire::extended("", &text), wire::sync()].concat()),
                1 => stream.extend(wire::query(&text)),
                _ => {
                    let name = format!("s{number}");
                    stream.extend([wire::extended(&name, &text), wire::sync()].concat());
                }
            }
            wanted.push(format!("n{number}"));
        }
        let cut = stream.len() * (number % 97) as usize / 97;
        wire.send(&stream[..cut])?;
        if number.is_multiple_of(11) {
            std::thread::sleep(Duration::from_micros(300));
        }
        wire.send(&stream[cut..])?;
        for wanted in wanted {
            let said = wire.said().with_context(|| format!("{wanted} of {number}"))?;
            ensure!(said.contains(&wanted), "wanted {wanted}, got {said:?}");
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    // It came to rest: from some moment on it is held, and stays so.
    until_refused(&mut wire)?;
    for _ in 0..20 {
        let said = wire.ask(FORBIDDEN)?;
        ensure!(said.contains("blocked by policy"), "{said}");
    }
    Ok(())
}

#[test]
fn nothing_is_lost_of_what_is_under_way_when_the_gate_comes() -> Result<()> {
    let server = talkative()?;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut sessions = Vec::new();
    for seed in 0..6 {
        let wire = Wire::login(("127.0.0.1", server.port))?;
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        sessions.push(std::thread::spawn(move || at_work(wire, seed * 1_000_000, &stop, &done)));
    }
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    let before = done.load(Ordering::Relaxed);
    // While they are at work they are taken in, switched off and taken in again.
    for switch in ["on", "off", "on", "off", "on"] {
        let (switched, said) = operator(&agent, &["gate", switch])?;
        ensure!(switched, "{said}");
        let now = done.load(Ordering::Relaxed);
        let ended = |sessions: &[JoinHandle<Result<()>>]| sessions.iter().any(JoinHandle::is_finished);
        while done.load(Ordering::Relaxed) < now + 2000 && !ended(&sessions) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    stop.store(true, Ordering::Relaxed);
    for session in sessions {
        session.join().map_err(|_| anyhow::anyhow!("a session panicked"))?.with_context(|| agent.said())?;
    }
    ensure!(before > 0 && done.load(Ordering::Relaxed) > before);
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// What the switch, or a shim's death, has let go is held again.
#[test]
fn what_was_let_go_is_taken_back() -> Result<()> {
    let server = talkative()?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    let mut tcp = Wire::login(("127.0.0.1", server.port))?;
    let mut unix = open(&server, &Route::unix(&server), "psycopg")?;
    unix.ask("select 1")?;
    let said = tcp.ask(FORBIDDEN)?;
    assert!(said.contains("blocked by policy"), "{said}");
    // A Unix socket is taken in when the agent has seen both its ends.
    let began = Instant::now();
    while !unix.ask(FORBIDDEN)?.contains("blocked by policy") {
        ensure!(began.elapsed() < Duration::from_mins(1), "it is not held: {}", agent.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Each with a word of its own, to be found in the log.
    let forbidden = |word: &str| format!("/* forbidden {word} */ drop table if exists never");
    for round in 0..3 {
        assert!(operator(&agent, &["gate", "off"])?.0);
        let said = tcp.ask(&forbidden("off")).with_context(|| format!("{round}: {}", agent.said()))?;
        assert!(!said.contains("blocked by policy"), "{round}: {said}");
        assert_eq!(unix.ask(&forbidden("off"))?, "done", "{round}");
        assert!(operator(&agent, &["gate", "on"])?.0);
        let said = tcp.ask(&forbidden("on")).with_context(|| format!("{round}: {}", agent.said()))?;
        assert!(said.contains("blocked by policy"), "{round}: {said}: {}", agent.said());
        let said = unix.ask(&forbidden("on"))?;
        assert!(said.contains("blocked by policy"), "{round}: {said}: {}", agent.said());
    }
    let shim = shim_of(&agent)?;
    kill_process(Pid::from_raw(shim).context("a pid")?, Signal::KILL)?;
    // What is asked for before the agent sees that is lost, and its session with it: see the test of the shim.
    while shim_of(&agent).map_or(true, |now| now == shim) {
        std::thread::sleep(Duration::from_millis(20));
    }
    until_refused(&mut tcp).with_context(|| agent.said())?;
    assert!(tcp.ask("select 'all ' || 'else'")?.contains("all else"));
    for _ in 0..20 {
        let said = tcp.ask(&forbidden("on"))?;
        assert!(said.contains("blocked by policy"), "{said}");
    }
    let log = std::fs::read_to_string(log_file(&server)).context("the server's log")?;
    assert!(log.contains("forbidden off") && !log.contains("forbidden on"));
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// What never comes to rest, and what another gate has, is told, once and with its connection.
#[test]
fn what_is_not_taken_in_is_told() -> Result<()> {
    let server = talkative()?;
    let mut busy = Wire::login(("127.0.0.1", server.port))?;
    // Times of sockets are coarse: the last word must show as the client's.
    std::thread::sleep(Duration::from_millis(100));
    busy.send(&wire::query("select pg_sleep(600)"))?;
    let mut idle = Wire::login(("127.0.0.1", server.port))?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
    let said = idle.ask(FORBIDDEN)?;
    assert!(said.contains("blocked by policy"), "{said}");
    let told = |cause: &str, client: &Wire| -> Result<String> {
        Ok(format!(
            "SELECT count() FROM weir.events WHERE event_kind = 'blind' AND error_type = '{cause}' AND \
             client_port = {} AND db_system_name = 'postgresql' AND db_user = 'postgres'",
            client.stream.local_addr()?.port()
        ))
    };
    assert_eq!(wait_for(&clickhouse, &told("gate_late", &busy)?, |n| n > 0)?, 1);
    server.quietly("select pg_cancel_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)' and pid <> pg_backend_pid()")?;
    busy.until_ready()?;
    until_refused(&mut busy)?;
    assert_eq!(wait_for(&clickhouse, &told("gate_late", &busy)?, |_| true)?, 1);
    assert_eq!(wait_for(&clickhouse, &told("gate_late", &idle)?, |_| true)?, 0);
    // What an agent that was killed has enrolled stays with its programs.
    agent.kill()?;
    let (mut next, clickhouse) = guarding(&server, POLICIES, "")?;
    for wire in [&mut busy, &mut idle] {
        assert_eq!(wait_for(&clickhouse, &told("gate_refused", wire)?, |n| n > 0)?, 1);
        assert!(wire.ask("select 'all ' || 'else'")?.contains("all else"));
    }
    let mut new = Wire::login(("127.0.0.1", server.port))?;
    let said = new.ask(FORBIDDEN)?;
    assert!(said.contains("blocked by policy"), "{said}");
    assert!(next.stop()?.success(), "{}", next.said());
    Ok(())
}

/// A client that does not wait for the answer, only hangs up: what it may ask for is done, and what it may not is not.
#[test]
fn who_hangs_up_at_once_loses_nothing() -> Result<()> {
    const EACH: usize = 200;
    let server = talkative()?;
    server.quietly("create table parted (id int)")?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    for number in 0..EACH {
        let mut wire = Wire::login(("127.0.0.1", server.port))?;
        // Each is a text of its own: it has no hash that is known, and is held.
        let text = format!("insert into parted /* {} \\ */ values ({number})", "x".repeat(number));
        wire.send(&wire::query(if number % 4 == 3 { FORBIDDEN } else { &text }))?;
        if number % 2 == 0 {
            wire.stream.shutdown(std::net::Shutdown::Write)?;
        }
    }
    let wanted = (EACH * 3 / 4).to_string();
    let began = Instant::now();
    while server.quietly("select count(*) from parted")? != wanted {
        let found = server.quietly("select count(*) from parted")?;
        ensure!(began.elapsed() < Duration::from_secs(30), "{found} of {wanted}: {}", agent.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// On a network that swaps packets, or loses one, the end of a stream comes before what was asked.
#[test]
fn what_the_end_of_a_stream_overtakes_is_not_lost() -> Result<()> {
    const EACH: &str = "12";
    let (server, namespace) = (talkative()?, NetNs::new()?);
    namespace.two_speeds()?;
    server.quietly("create table parted (id int)")?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    client::python(&server, &Route::veth4(&namespace), "overtaken.py", &[EACH])?;
    let began = Instant::now();
    loop {
        let found = server.quietly("select count(*) from parted")?;
        if found == EACH {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "{found} of {EACH}: {}", agent.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Startup and a query in pieces of their own, before the server accepts: it does not spin.
#[test]
fn what_comes_before_the_accept_does_not_make_the_server_spin() -> Result<()> {
    let server = talkative()?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    let begins = wire::startup(&[("user", "postgres"), ("database", "postgres")]);
    let mut sessions = Vec::new();
    for number in 0..40 {
        let mut wire = Wire::connect(("127.0.0.1", server.port))?;
        let query = wire::query(&format!("select 'early{number}'"));
        if number % 2 == 0 {
            wire.send(&begins)?;
            wire.send(&query)?;
        } else {
            wire.send(&[&begins[..], &query].concat())?;
        }
        sessions.push(wire);
    }
    for (number, wire) in sessions.iter_mut().enumerate() {
        wire.until_ready()?;
        let said = wire.said().with_context(|| format!("{number}: {}", agent.said()))?;
        ensure!(said.contains(&format!("early{number}")), "{number}: {said}");
        let said = wire.ask(FORBIDDEN)?;
        ensure!(said.contains("blocked by policy"), "{number}: {said}");
    }
    // What spins burns its processor; these have nothing to do.
    let busy = |pid: &str| -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let rest = stat.rsplit(')').next().context("a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let pids = server.quietly("select pid from pg_stat_activity where client_port > 0 and state = 'idle'")?;
    let pids: Vec<&str> = pids.lines().collect();
    ensure!(pids.len() >= 40, "{pids:?}");
    let before: u64 = pids.iter().map(|pid| busy(pid)).sum::<Result<u64>>()?;
    std::thread::sleep(Duration::from_secs(2));
    let after: u64 = pids.iter().map(|pid| busy(pid)).sum::<Result<u64>>()?;
    // Hundredths of a second, of all of them.
    assert!(after - before < 20, "{} in two seconds", after - before);
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Where a rule forbids everything, weir still does what it has to: its request to cancel goes through its own gate.
#[test]
fn a_rule_against_all_does_not_lock_weir_out() -> Result<()> {
    const ALL: &str = "kind: DatabasePolicy
metadata: {name: nothing}
spec: {mode: enforce, match: {}, action: block}
";
    let server = talkative()?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
    // What it needs to be cancelled is known from its login, and what it asks is allowed still.
    let mut busy = Wire::login(("127.0.0.1", server.port))?;
    let port = busy.stream.local_addr()?.port();
    let id = format!(
        "SELECT max(session_id) FROM weir.events WHERE event_kind = 'session' AND client_port = {port}"
    );
    let id = wait_for(&clickhouse, &id, |id| id > 0)?.to_string();
    busy.send(&wire::query("select pg_sleep(600)"))?;
    std::fs::write(agent.home().join("policies/gate.yaml"), ALL)?;
    let mut other = Wire::login(("127.0.0.1", server.port))?;
    let began = Instant::now();
    while !other.ask("select 1")?.contains("blocked by policy nothing") {
        ensure!(began.elapsed() < Duration::from_secs(30), "it is not forbidden: {}", agent.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    let canceled = || -> Result<bool> {
        let log = std::fs::read_to_string(log_file(&server)).context("the server's log")?;
        Ok(log.contains("canceling statement due to user request"))
    };
    assert!(!canceled()?);
    let (done, said) = operator(&agent, &["kill", &id])?;
    assert!(done && said.contains("killed"), "{said}: {}", agent.said());
    assert!(busy.until_ready().is_err(), "the session goes on");
    let began = Instant::now();
    while !canceled()? {
        ensure!(began.elapsed() < Duration::from_secs(30), "it works on for nobody: {}", agent.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its own store is none of the rule's business either.
    let told = format!(
        "SELECT count() FROM weir.events WHERE disposition = 'blocked' AND policy_rule = 'nothing' AND server_port = {}",
        server.port
    );
    assert!(wait_for(&clickhouse, &told, |n| n > 0)? > 0);
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// A session over a Unix socket is ended by the operator too.
#[test]
fn a_session_over_a_unix_socket_is_killed() -> Result<()> {
    let server = talkative()?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
    let mut session = open(&server, &Route::unix(&server), "psycopg")?;
    assert_eq!(session.ask("select 'here'")?, "here");
    let id =
        "SELECT max(session_id) FROM weir.events WHERE network_transport = 'unix' AND event_kind = 'session'";
    let id = wait_for(&clickhouse, id, |id| id > 0)?.to_string();
    let (done, said) = operator(&agent, &["kill", &id])?;
    assert!(done && said.contains("killed"), "{said}");
    let said = session.ask("select 'still here'")?;
    assert!(said.contains("connection"), "{said}");
    let (done, said) = operator(&agent, &["kill", "1"])?;
    assert!(!done && said.contains("no session 1"), "{said}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
