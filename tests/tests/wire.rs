//! What is hard on the wire: sizes, odd cuts, pipelines, other protocols, pools, replication, cancels, overload.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_core::event::Event;
use agent_core::sql::Effect;
use anyhow::{Context, Result};
use rustix::process::Signal;
use tests::client::{self, Route};
use tests::tap::{self, Tap};
use tests::wire::{self, Wire};
use tests::{oracle, server, serverlog};
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::shell;

fn texts(events: &[Event]) -> Vec<&str> {
    tap::statements(events).iter().map(|e| &*e.db_query_text).collect()
}

#[test]
fn odd_cuts_and_pipelines_equal_the_log() -> Result<()> {
    let mut server = server::talkative()?;
    let tap = Tap::start(&[])?;
    let address = ("127.0.0.1", server.port);
    let mut wire = Wire::login(address)?;
    wire.send_one_by_one(&wire::query(
        "select 'a statement in many one-byte writes, the verb at its end'; drop table if exists no_such",
    ))?;
    wire.until_ready()?;
    wire.send_one_by_one(&[wire::extended("", "select 'extended, byte by byte'"), wire::sync()].concat())?;
    wire.until_ready()?;
    // Fifty in one write, each with its own ReadyForQuery.
    wire.send(&(0..50).flat_map(|n| wire::query(&format!("select 'packed {n}'"))).collect::<Vec<_>>())?;
    (0..50).try_for_each(|_| wire.until_ready().map(|_| ()))?;
    // Fifty under one Sync, the thirtieth fails: the rest is skipped by the server.
    let batch = |n| if n == 30 { "select 1/0".to_owned() } else { format!("select 'batched {n}'") };
    wire.send(&[(0..50).flat_map(|n| wire::extended("", &batch(n))).collect(), wire::sync()].concat())?;
    wire.until_ready()?;
    // An unnamed statement parsed anew before the first is executed twice.
    wire.send(
        &[
            wire::extended("", "select 'first'"),
            wire::extended("", "select 'second'"),
            wire::execute(""),
            wire::sync(),
        ]
        .concat(),
    )?;
    wire.until_ready()?;
    wire.send(&wire::query("select 1; select 2;; select 3/0; select 4"))?;
    wire.until_ready()?;
    wire.send(&wire::message(b'X', b""))?;
    drop(wire);

    let port = server.port;
    let events = tap.finish(port)?;
    server.halt()?;
    let report = oracle::compare(&serverlog::read(&server::log_file(&server))?, &events, &[]);
    report.assert_equal();
    assert_eq!(report.skipped, 19, "{report}");
    assert!(report.matched >= 87, "{report}");
    Ok(())
}

#[test]
fn long_statements_are_whole_with_the_verb_at_the_end() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    let sizes = [1 << 10, 8 << 10, 31 << 10, 64 << 10, 1 << 20, 17 << 20];
    for size in sizes {
        let text = format!("select length('{}'); drop table if exists victim_{size}", "x".repeat(size));
        wire.send(&wire::query(&text))?;
        wire.until_ready()?;
    }
    wire.send(&wire::query("select 'in sync'"))?;
    wire.until_ready()?;
    let events = tap.finish(server.port)?;
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    let told = tap::statements(&events);
    assert_eq!(told.len(), sizes.len() * 2 + 1);
    for (pair, size) in told.chunks(2).zip(sizes) {
        assert_eq!(pair[0].db_query_text.len(), size + "select length('')".len());
        assert_eq!(&*pair[1].db_query_text, format!("drop table if exists victim_{size}"));
        assert!(pair[1].statement_effects.contains(&Effect::Drop), "{size}");
        assert_eq!((pair[0].batch_index, pair[1].batch_index), (0, 1));
        assert!(!pair[0].batch_id.is_empty() && pair[0].batch_id == pair[1].batch_id);
    }
    assert_eq!(told.last().map(|e| &*e.db_query_text), Some("select 'in sync'"));
    Ok(())
}

#[test]
fn after_bulk_the_next_statement_is_in_sync() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.quietly("create table bulk (id int, note text)")?;
    let tap = Tap::start(&[])?;
    let copy_in = "\\copy bulk from program 'seq -f \"%.0f\tsome words that take their place\" 1 400000'";
    client::psql(
        &server,
        &Route::loopback4(),
        &[
            "-o",
            "/dev/null",
            // Right behind the login: on a busy host megabytes of it pass before the connection is known.
            "-c",
            "select repeat('x', 1024) from generate_series(1, 1048576)",
            "-c",
            "select 'after the result'",
            "-c",
            copy_in,
            "-c",
            "select 'after the copy in'",
            "-c",
            "copy bulk to stdout",
            "-c",
            "select 'after the copy out'",
        ],
    )?;
    let events = tap.finish(server.port)?;
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    let told: Vec<(&str, Option<u64>, Option<u64>)> = tap::statements(&events)
        .iter()
        .map(|e| (&*e.db_query_text, e.db_response_returned_rows, e.db_response_affected_rows))
        .collect();
    assert_eq!(told.len(), 6, "{told:?}");
    assert_eq!(told[0].1, Some(1 << 20), "a gigabyte in a million rows");
    assert_eq!(told[1], ("select 'after the result'", Some(1), None));
    assert_eq!(told[2].2, Some(400_000), "{told:?}");
    assert_eq!(told[3], ("select 'after the copy in'", Some(1), None));
    assert_eq!(told[4].1, Some(400_000), "{told:?}");
    assert_eq!(told[5], ("select 'after the copy out'", Some(1), None));
    Ok(())
}

#[test]
fn what_is_no_protocol_is_no_statement() -> Result<()> {
    let server = Postgres::start(&[])?;
    let hint = format!("{}=postgresql", server.port);
    let tap = Tap::start(&["--port", &hint])?;
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut strangers = Vec::new();
    for round in 0..40 {
        let mut noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(64 << (round % 8))
        .collect();
        match round % 4 {
            0 => noise = b"GET / HTTP/1.1\r\nHost: db\r\n\r\nselect 1; drop table t".to_vec(),
            // The head of a Query, then noise in place of a text.
            1 => noise.splice(..5, *b"Q\0\0\xff\xff").for_each(drop),
            _ => {}
        }
        let mut wire = Wire::connect(("127.0.0.1", server.port))?;
        strangers.push(wire.stream.local_addr()?.port());
        let _ = wire.stream.write_all(&noise);
    }
    client::psql(&server, &Route::loopback4(), &["-c", "select 'still sane'"])?;
    let events = tap.finish(server.port)?;
    let invented: Vec<&str> = tap::statements(&events)
        .iter()
        .filter(|e| strangers.contains(&e.client_port) && e.statement_complete)
        .map(|e| &*e.db_query_text)
        .collect();
    assert!(invented.is_empty(), "{invented:?}");
    assert!(texts(&events).contains(&"select 'still sane'"));
    Ok(())
}

#[test]
fn a_cancelled_statement_says_so() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let mut psql = server.client("psql");
    let child = psql.args(["-X", "-c", "select pg_sleep(600)"]).stderr(Stdio::null()).spawn()?;
    while server.quietly(
        "select count(*) from pg_stat_activity where state = 'active' and query like '%sleep(600)'",
    )? == "0"
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    // On SIGINT psql sends a CancelRequest over a connection of its own.
    let pid = rustix::process::Pid::from_raw(child.id() as i32).context("a process id is positive")?;
    rustix::process::kill_process(pid, Signal::INT)?;
    child.wait_with_output()?;
    let events = tap.finish(server.port)?;
    let told = tap::statements(&events);
    let slept = told.iter().find(|e| e.db_query_text.contains("pg_sleep")).context("missed the statement")?;
    assert_eq!(&*slept.db_response_status_code, "57014");
    assert!(told.iter().any(|e| e.client_port != slept.client_port), "the request to cancel is an event too");
    Ok(())
}

#[test]
fn a_function_call_is_one_event_that_names_the_function() -> Result<()> {
    let mut server = server::talkative()?;
    let id = |function: &str| -> Result<u32> {
        Ok(server.quietly(&format!("select '{function}'::regprocedure::oid"))?.parse()?)
    };
    let (plus, divide) = (id("int4pl(int4, int4)")?, id("int4div(int4, int4)")?);
    let tap = Tap::start(&[])?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    let (two, zero) = (2_u32.to_be_bytes(), [0; 4]);
    wire.send(&wire::function_call(plus, &[&two, &two]))?;
    assert_eq!(wire.until_ready()?, b"VZ");
    wire.send(&wire::function_call(divide, &[&two, &zero]))?;
    assert_eq!(wire.until_ready()?, b"EZ");
    wire.send(&wire::query("select 'behind them'"))?;
    wire.until_ready()?;
    drop(wire);
    let events = tap.finish(server.port)?;
    server.halt()?;
    let told: Vec<_> = tap::statements(&events)
        .iter()
        .map(|e| {
            assert_eq!(e.statement_complete, !e.db_query_text.is_empty());
            assert!(e.duration_ns.is_some(), "{}", e.db_query_summary);
            (
                e.db_query_summary.to_string(),
                e.statement_effects.to_vec(),
                e.db_response_status_code.to_string(),
            )
        })
        .collect();
    let call = |id, status: &str| (format!("CALL {id}"), vec![Effect::Call], status.to_owned());
    assert_eq!(told[..2], [call(plus, ""), call(divide, "22012")]);
    assert_eq!(told.len(), 3, "{told:?}");
    // As the server tells it: fast-path calls have names there.
    let log = std::fs::read_to_string(server::log_file(&server))?;
    for name in ["int4pl", "int4div"] {
        assert!(log.contains(&format!("fastpath function call: \\\"{name}\\\"")), "{name} is not in the log");
    }
    Ok(())
}

#[test]
fn replication_connections_are_read() -> Result<()> {
    let server = Postgres::start(&[("wal_level", "logical")])?;
    server.quietly("create table changes (id int)")?;
    let tap = Tap::start(&[])?;
    let receive = |arguments: &[&str]| {
        let mut command = server.client("pg_recvlogical");
        shell::output(command.args(["-d", "postgres", "-S", "weir_slot"]).args(arguments))
    };
    receive(&["--create-slot", "-P", "test_decoding"])?;
    server.quietly("insert into changes select generate_series(1, 5000)")?;
    let end = server.quietly("select pg_current_wal_insert_lsn()")?;
    receive(&["--start", "--no-loop", "-f", "-", "--endpos", &end])?;
    receive(&["--drop-slot"])?;
    let events = tap.finish(server.port)?;
    let told = texts(&events).join("\n");
    for command in
        ["IDENTIFY_SYSTEM", "CREATE_REPLICATION_SLOT", "START_REPLICATION", "DROP_REPLICATION_SLOT"]
    {
        assert!(told.contains(command), "{command} is missing: {told}");
    }
    let start = tap::statements(&events)
        .into_iter()
        .find(|e| e.db_query_text.starts_with("START"))
        .context("no start")?;
    assert!(start.statement_effects.contains(&Effect::Replicate), "{:?}", start.statement_effects);
    Ok(())
}

#[test]
fn replay_of_a_capture_file_equals_the_tap() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    server.quietly("create table mixed (id int, note text)")?;
    server.quietly("create role reader login superuser; create role writer login superuser")?;
    server.quietly("create database shop")?;
    let scratch = Scratch::new("pcap")?;
    let file = scratch.path().join("traffic.pcap");
    let tap = Tap::start(&[])?;
    let mut tcpdump = shell::server("INT", shell::find("tcpdump").context("tcpdump is not installed")?);
    tcpdump
        .args(["-i", "lo", "-s", "0", "-B", "65536", "-U", "-w"])
        .arg(&file)
        .arg(format!("port {}", server.port));
    let mut tcpdump = tcpdump.stderr(Stdio::null()).spawn()?;
    // Its file header is written when it listens.
    while std::fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    let route = Route::loopback4();
    client::pgbench(&server, &route, &["-S", "-M", "prepared", "-c", "4", "-t", "500"])?;
    client::pgbench(&server, &route, &["-M", "extended", "-c", "2", "-t", "100"])?;
    client::python(&server, &route, "mixed_psycopg.py", &["2"])?;
    client::psql(&server, &route, &["-f", &client::clients().join("script.sql").to_string_lossy()])?;
    let live = tap.finish(server.port)?;
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_raw(tcpdump.id() as i32).context("a process id is positive")?;
    rustix::process::kill_process(pid, Signal::INT)?;
    tcpdump.wait()?;
    let mut replay = Command::new(xtask::weir::binary()?);
    replay.args(["replay", "--format", "jsonl", "--redact", "none"]).arg(&file);
    let told = shell::output(&mut replay)?;
    let out = scratch.path().join("replayed");
    std::fs::write(&out, told + "\n")?;
    let replayed = tap::read(&out, server.port)?;
    // Told in the order of each connection.
    let essence = |events: &[Event]| {
        let mut told: Vec<_> = tap::statements(events)
            .iter()
            .map(|e| {
                let rows = (e.db_response_returned_rows, e.db_response_affected_rows);
                let names = (e.db_user.to_string(), e.db_namespace.to_string());
                (
                    e.client_port,
                    e.db_query_text.to_string(),
                    e.db_response_status_code.to_string(),
                    rows,
                    names,
                )
            })
            .collect();
        told.sort_by_key(|t| t.0);
        told
    };
    let (live, replayed) = (essence(&live), essence(&replayed));
    assert!(live.len() > 3_500, "{}", live.len());
    let differs = live.iter().zip(&replayed).position(|(l, r)| l != r);
    assert_eq!(differs.map(|at| (&live[at], &replayed[at])), None);
    assert_eq!(live.len(), replayed.len());
    Ok(())
}

/// Results make room for requests while nobody reads: every statement is told.
#[test]
fn results_are_left_out_before_requests() -> Result<()> {
    // What others send on this host fills the ring too, and may fill it up.
    for _ in 0..3 {
        if results_make_room()? {
            return Ok(());
        }
    }
    anyhow::bail!("requests were lost three times")
}

/// False where requests were lost.
fn results_make_room() -> Result<bool> {
    const EACH: usize = 120;
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&["--ring", "4096"])?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    wire.send(&wire::query("select 'warm'"))?;
    wire.until_ready()?;
    std::thread::sleep(Duration::from_millis(500));
    tap.weir.signal(Signal::STOP)?;
    for n in 0..EACH {
        // The double of the ring in all.
        wire.send(&wire::query(&format!("select {n}, repeat('x', 70000)")))?;
        wire.until_ready()?;
    }
    tap.weir.signal(Signal::CONT)?;
    std::thread::sleep(Duration::from_secs(1));
    wire.send(&wire::query("select 'in sync'"))?;
    wire.until_ready()?;
    drop(wire);
    let events = tap.finish(server.port)?;
    let told: Vec<&str> = texts(&events).into_iter().filter(|text| text.contains("repeat")).collect();
    let all: Vec<String> = (0..EACH).map(|n| format!("select {n}, repeat('x', 70000)")).collect();
    if told != all {
        return Ok(false);
    }
    let behind = tap::statements(&events).into_iter().next_back().context("nothing was told")?;
    assert_eq!((&*behind.db_query_text, behind.db_response_returned_rows), ("select 'in sync'", Some(1)));
    let shed = events.iter().filter(|e| &*e.error_type == "shed").map(|e| e.capture_lost_before);
    assert!(shed.sum::<u64>() > 1 << 20, "what was left out is told");
    Ok(true)
}

/// Connections that end while nobody reads lose their last bytes, and the record of their end: no hole shows it.
#[test]
fn what_is_lost_at_the_end_of_a_connection_is_told() -> Result<()> {
    const REQUEST: u64 = 20_011;
    const EACH: u64 = 150;
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&["--ring", "1024"])?;
    let text = |n: u64| {
        let head = format!("select {:>6} /*", n + 100_000);
        format!("{head}{}*/", "x".repeat(REQUEST as usize - 1 - 4 - 1 - head.len() - 2))
    };
    let mut sessions = (0..4).map(|_| Wire::login(("127.0.0.1", server.port))).collect::<Result<Vec<_>>>()?;
    let ports: Vec<u16> =
        sessions.iter().map(|w| w.stream.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?;
    let mut answer = 0;
    for wire in &mut sessions {
        wire.send(&wire::query(&text(0)))?;
        answer = wire.until_ready_bytes()?;
    }
    std::thread::sleep(Duration::from_millis(500));
    tap.weir.signal(Signal::STOP)?;
    for n in 1..=EACH {
        for wire in &mut sessions {
            wire.send(&wire::query(&text(n)))?;
            wire.until_ready_bytes()?;
        }
    }
    drop(sessions);
    std::thread::sleep(Duration::from_millis(200));
    tap.weir.signal(Signal::CONT)?;
    // Told while the tap goes on: the ends of these connections are found missing.
    for port in &ports {
        tap.wait_for(server.port, "the loss at the end", |e| {
            e.client_port == *port && &*e.error_type == "ring_full"
        })?;
    }
    let events = tap.finish(server.port)?;
    for port in ports {
        let of: Vec<&Event> = events.iter().filter(|e| e.client_port == port).collect();
        let losses = of.iter().filter(|e| ["gap", "ring_full"].contains(&&*e.error_type));
        let lost: u64 = losses.map(|e| e.capture_lost_before).sum();
        let told = of.iter().filter(|e| e.db_query_text.len() as u64 == REQUEST - 6).count() as u64;
        let (requests, answers) = (lost / REQUEST, lost % REQUEST / answer);
        assert_eq!(lost % REQUEST % answer, 0, "port {port}: {lost} bytes are no whole messages");
        assert!(requests > 0, "port {port}: the ring did not run over: {lost} bytes lost");
        assert_eq!(told, EACH + 1 - requests, "port {port}: {lost}: {requests} requests, {answers} answers");
    }
    Ok(())
}

/// Every request is `REQUEST` bytes long and every answer `answer` bytes, each in one packet: so the bytes that weir
/// says it lost on a connection tell how many of each they were, and the events must agree.
#[test]
fn the_loss_told_is_the_loss_counted() -> Result<()> {
    const REQUEST: u64 = 20_011;
    const EACH: u64 = 150;
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&["--ring", "1024"])?;
    let text = |n: u64| {
        let head = format!("select {:>6} /*", n + 100_000);
        let rest = REQUEST as usize - 1 - 4 - 1 - head.len() - 2;
        format!("{head}{}*/", "x".repeat(rest))
    };
    let mut sessions = (0..4).map(|_| Wire::login(("127.0.0.1", server.port))).collect::<Result<Vec<_>>>()?;
    let mut answer = 0;
    // Warm: every session is known as what it is before the ring runs over.
    for wire in &mut sessions {
        let query = wire::query(&text(0));
        assert_eq!(query.len() as u64, REQUEST);
        wire.send(&query)?;
        answer = wire.until_ready_bytes()?;
    }
    std::thread::sleep(Duration::from_millis(500));
    tap.weir.signal(Signal::STOP)?;
    for n in 1..=EACH {
        for wire in &mut sessions {
            wire.send(&wire::query(&text(n)))?;
            assert_eq!(wire.until_ready_bytes()?, answer, "every answer is as long");
        }
    }
    tap.weir.signal(Signal::CONT)?;
    std::thread::sleep(Duration::from_secs(1));
    for wire in &mut sessions {
        for n in 0..3 {
            wire.send(&wire::query(&text(1_000 + n)))?;
            wire.until_ready_bytes()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let ports: Vec<u16> =
        sessions.iter().map(|w| w.stream.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?;
    let events = tap.finish(server.port)?;
    let mut lost_in_all = 0;
    for port in ports {
        let of: Vec<&Event> = events.iter().filter(|e| e.client_port == port).collect();
        let lost: u64 = of.iter().filter(|e| &*e.error_type == "gap").map(|e| e.capture_lost_before).sum();
        let told = of.iter().filter(|e| e.db_query_text.len() as u64 == REQUEST - 6).count() as u64;
        let (requests, answers) = (lost / REQUEST, lost % REQUEST / answer);
        assert_eq!(lost % REQUEST % answer, 0, "port {port}: {lost} bytes are no whole messages");
        assert!(requests > 0 && answers > 0, "port {port}: the ring did not run over: {lost} bytes lost");
        assert_eq!(
            told,
            EACH + 4 - requests,
            "port {port}: {lost} bytes: {requests} requests, {answers} answers"
        );
        lost_in_all += lost;
    }
    // The kernel counts on its own what did not fit into the ring.
    let kernel: u64 = events
        .iter()
        .filter(|e| &*e.error_type == "ring_full" && e.session_id == 0)
        .map(|e| e.capture_lost_before)
        .sum();
    assert!(kernel >= lost_in_all, "the kernel says {kernel}, the connections {lost_in_all}");
    Ok(())
}
