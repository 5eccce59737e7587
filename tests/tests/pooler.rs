//! Behind a pooler: every statement of a connection to the server is its client's, or nobody's.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::{Child, Stdio};

use agent_core::event::{CaptureSource, Event, EventKind};
use anyhow::{Context, Result};
use tests::client;
use tests::pooler::Pooler;
use tests::tap::{self, Tap};
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;

/// What client `number` executes: its marker in most texts, transactions, and texts that all clients have.
fn script(number: usize, statements: usize) -> String {
    let mut script = String::new();
    for n in 0..statements {
        let _ = match n % 10 {
            7 => writeln!(script, "begin;\nselect 'client {number}' as who, {n};\ncommit;"),
            9 => writeln!(script, "select 'the same of all';"),
            _ => writeln!(script, "select 'client {number}' as who, {n};"),
        };
    }
    script
}

/// The client whose marker is in a text.
fn marked(event: &Event) -> Option<usize> {
    event.db_query_text.strip_prefix("select 'client ")?.split('\'').next()?.parse().ok()
}

fn claim<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    event.identity_claims.iter().find(|claim| &*claim.key == key).map(|claim| &*claim.value)
}

/// How the statements of the connections to the server were told.
#[derive(Debug, Default)]
struct Told {
    marked: usize,
    joined: usize,
    joined_without_marker: usize,
    without_actor: usize,
}

fn run(mode: &str, connections: usize, clients: usize, statements: usize) -> Result<Told> {
    let server = Postgres::start(&[])?;
    let pooler = Pooler::start(&server, mode, connections)?;
    let scratch = Scratch::new("clients")?;
    let tap = Tap::start(&[])?;
    let mut running: Vec<Child> = Vec::new();
    for number in 0..clients {
        let file = scratch.path().join(format!("{number}.sql"));
        std::fs::write(&file, script(number, statements))?;
        let mut psql = server.client("psql");
        psql.args(["-X", "-q", "-o", "/dev/null", "-f"]).arg(&file).env("PGPORT", pooler.port.to_string());
        if number % 2 == 1 {
            psql.env("PGHOST", server.socket_directory());
        }
        running.push(psql.stderr(Stdio::inherit()).spawn().context("cannot run psql")?);
    }
    let pids: Vec<u32> = running.iter().map(Child::id).collect();
    for mut child in running {
        assert!(child.wait()?.success());
    }
    let out = tap.weir.out();
    let mut tap = tap;
    assert!(tap.weir.stop()?.success(), "{}", tap.weir.said());
    eprint!("{}", tap.weir.said());

    // From the clients: each statement once, of its own process, labelled.
    let own = format!(".s.PGSQL.{}", pooler.port);
    let all = tap::all(&out)?;
    assert!(all.iter().all(|e| e.event_kind != EventKind::Loss), "{:?}", tap::losses(&all));
    let statement = |e: &&Event| e.event_kind == EventKind::Statement;
    let asked: Vec<&Event> = all
        .iter()
        .filter(statement)
        .filter(|e| e.server_port == pooler.port || e.server_address.ends_with(&own))
        .collect();
    let mut sessions: HashMap<u32, u64> = HashMap::new();
    let mut counts = vec![0; clients];
    for event in &asked {
        if let Some(number) = marked(event) {
            assert_eq!(event.process_pid, Some(pids[number]), "{}", event.db_query_text);
            counts[number] += 1;
        }
        // A pooler is known by the sessions that it opens: the first statement of one may come before that.
        let first = sessions.insert(event.process_pid.unwrap_or(0), event.session_id).is_none();
        let labelled = claim(event, "pooler").is_some_and(|pooler| pooler.starts_with("pgbouncer("));
        assert!(labelled || first, "{}", event.db_query_text);
    }
    let marked_each = (0..statements).filter(|n| n % 10 != 9).count();
    assert_eq!(counts, vec![marked_each; clients]);
    assert!(asked.iter().any(|e| e.capture_source == CaptureSource::Unix));

    // To the server: each of its client, or of nobody. Never of the pooler.
    let mut told = Told::default();
    let mut open: HashMap<u64, &Event> = HashMap::new();
    for event in all.iter().filter(statement).filter(|e| e.server_port == server.port) {
        assert_ne!(event.process_pid, Some(pooler.pid()));
        assert_eq!(claim(event, "pooler_pid").unwrap_or_default(), pooler.pid().to_string());
        if let Some(pid) = event.process_pid {
            let session = sessions.get(&pid).context("a process that is no client")?;
            assert_eq!(claim(event, "pooled_session"), Some(&*session.to_string()));
        } else {
            assert!(event.identity_principal.is_empty() && event.process_command_line.is_empty());
            assert_eq!(claim(event, "pooled_session"), None);
            told.without_actor += 1;
        }
        if let Some(number) = marked(event) {
            told.marked += 1;
            told.joined += usize::from(event.process_pid.is_some());
            assert!(
                event.process_pid.is_none_or(|pid| pid == pids[number]),
                "{}: told of {:?}, was of {}",
                event.db_query_text,
                event.process_pid,
                pids[number]
            );
            // A transaction is one client's.
            if let Some(begin) = open.get(&event.session_id) {
                assert!(begin.process_pid.is_none_or(|pid| pid == pids[number]), "begin");
            }
        } else {
            told.joined_without_marker += usize::from(event.process_pid.is_some());
        }
        match &*event.db_query_text {
            "begin;" | "begin" => drop(open.insert(event.session_id, event)),
            _ => drop(open.remove(&event.session_id)),
        }
    }
    assert_eq!(told.marked, marked_each * clients, "each statement reached the server once");
    eprintln!("{mode}: {told:?}");
    Ok(told)
}

#[test]
fn in_transaction_mode_no_statement_has_a_wrong_actor() -> Result<()> {
    let told = run("transaction", 4, 20, 2_500)?;
    assert!(told.joined * 100 >= told.marked * 99, "{told:?}");
    Ok(())
}

#[test]
fn in_session_mode_no_statement_has_a_wrong_actor() -> Result<()> {
    let told = run("session", 20, 20, 250)?;
    assert!(told.joined * 100 >= told.marked * 99, "{told:?}");
    Ok(())
}

#[test]
fn bound_parameters_tell_clients_of_one_text_apart() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    let pooler = Pooler::start(&server, "transaction", 4)?;
    let tap = Tap::start(&[])?;
    // The same text in each, with other values: of two processes.
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut pgbench = server.client("pgbench");
        pgbench.env("PGPORT", pooler.port.to_string());
        pgbench.args(["-n", "-S", "-M", "extended", "-c", "4", "-t", "500"]).stdout(Stdio::null());
        running.push(pgbench.stderr(Stdio::null()).spawn()?);
    }
    let pids: Vec<u32> = running.iter().map(Child::id).collect();
    running.iter_mut().try_for_each(|child| child.wait().map(|_| ()))?;
    client::psql(&server, &client::Route::loopback4(), &["-c", "select 'straight to the server'"])?;
    let out = tap.weir.out();
    let mut tap = tap;
    assert!(tap.weir.stop()?.success(), "{}", tap.weir.said());
    let all = tap::all(&out)?;
    let of =
        |port: u16| all.iter().filter(move |e| e.event_kind == EventKind::Statement && e.server_port == port);
    let direct = of(server.port).find(|e| e.db_query_text.contains("straight")).context("missed")?;
    assert!(direct.process_executable_path.ends_with("/psql") && claim(direct, "pooler").is_none());
    let relayed: Vec<_> =
        of(server.port).filter(|e| e.db_query_text.starts_with("SELECT abalance")).collect();
    assert_eq!(relayed.len(), 2 * 4 * 500);
    let mut joined = 0;
    for event in &relayed {
        let Some(session) = claim(event, "pooled_session") else { continue };
        joined += 1;
        assert!(event.process_pid.is_some_and(|pid| pids.contains(&pid)));
        let same = of(pooler.port).any(|e| {
            e.session_id.to_string() == session
                && e.process_pid == event.process_pid
                && e.db_query_parameters == event.db_query_parameters
                && e.time <= event.time
        });
        assert!(same, "no statement of that session has these values");
    }
    eprintln!("{joined} of {} joined", relayed.len());
    assert!(joined * 100 >= relayed.len() * 95, "{joined} of {}", relayed.len());
    Ok(())
}
