//! Masked answers where things go otherwise: large results, slow clients, what cannot be masked, a gate that is switched
//! off, killed or told other rules. Never is a value shown that should not be, and no answer is lost in silence.

use std::fs;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::client::{self, Route};
use tests::operator::{operator, shim_of};
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};

const POLICY: &str = "kind: DatabasePolicy
metadata: {name: mask-mail}
spec:
  mode: enforce
  match: {data: {classes: [email]}}
  action: mask
";
const HIDDEN: &str = "zq-hidden@example.org";

fn server() -> Result<Postgres> {
    let server = Postgres::start(&[])?;
    server.quietly(&format!(
        "create table people (id int, email text, note text); insert into people values (1, '{HIDDEN}', 'seen')"
    ))?;
    Ok(server)
}

fn masking(server: &Postgres, policy: &str) -> Result<(Weir, ClickHouse)> {
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(scratch.path().join("policies/mask.yaml"), policy)?;
    Weir::run(&weir::binary()?, scratch, &format!("capture: {{ports: {{{}: postgresql}}}}\n", server.port))
}

fn login(server: &Postgres) -> Result<Wire> {
    Wire::login(("127.0.0.1", server.port))
}

/// Results larger than all buffers come whole and in order, and a client that reads slowly slows its server down.
#[test]
fn large_answers_come_whole_and_slow_clients_slow_the_server() -> Result<()> {
    const ROWS: usize = 40_000;
    let server = server()?;
    let (mut agent, _clickhouse) = masking(&server, POLICY)?;
    let shim = shim_of(&agent)?;
    let memory = || -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{shim}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("its memory")?;
        Ok(memory.trim().trim_end_matches(" kB").parse()?)
    };
    let mut wire = login(&server)?;
    assert!(wire.ask("select email from people")?.contains("SELECT 1"));
    let before = memory()?;
    let text = format!(
        "select i, repeat('y', 500) as note, 'zq' || i || '@example.org' as email from generate_series(1, {ROWS}) i"
    );
    wire.send(&wire::query(&text))?;
    // Nobody reads: the server has to wait, and nothing may pile up here.
    std::thread::sleep(Duration::from_secs(3));
    let grown = memory()?.saturating_sub(before);
    ensure!(grown < 8_000, "the shim has taken {grown} kB of an answer of 20 MB that nobody reads");
    let mut rows = 0;
    for (kind, body) in wire.messages().with_context(|| agent.said())? {
        if kind == b'D' {
            rows += 1;
            let (own, row) = (rows.to_string(), String::from_utf8_lossy(&body));
            ensure!(row.contains(&own) && row.contains("yyyyy"), "row {rows}: {row:?}");
            ensure!(!row.contains("zq"), "row {rows} is not masked: {row:?}");
        }
    }
    assert_eq!(rows, ROWS);
    assert!(wire.ask("select 'goes on'")?.contains("goes on"));
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Where the answers do not come through the gate a statement that has to be masked is not executed.
#[test]
fn what_cannot_be_masked_is_refused() -> Result<()> {
    let server = server()?;
    let (mut agent, clickhouse) = masking(&server, POLICY)?;
    let said = client::psql(
        &server,
        &Route::unix(&server),
        // The gate takes in a Unix socket once it speaks, which may take a moment on a busy host.
        &["-c", "select pg_sleep(1)", "-c", "select email from people"],
    )?;
    assert!(!said.contains(HIDDEN), "{said}");
    let blocked =
        "SELECT count() FROM weir.events WHERE disposition = 'blocked' AND policy_rule = 'mask-mail'";
    assert!(wait_for(&clickhouse, blocked, |n| n > 0)? > 0);
    // Other rules, while it runs: one that lets pass what cannot be masked.
    let said = login(&server)?.ask("copy people to stdout")?;
    assert!(said.contains("cannot be masked") && !said.contains(HIDDEN), "{said}");
    fs::write(agent.home().join("policies/mask.yaml"), format!("{POLICY}  onUnknown: alert\n"))?;
    let mut said = String::new();
    for _ in 0..100 {
        said = login(&server)?.ask("copy people to stdout")?;
        if said.contains(HIDDEN) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(said.contains(HIDDEN), "the rule says that it may pass: {said}");
    let said = login(&server)?.ask("select email from people")?;
    assert!(!said.contains(HIDDEN), "what can be masked is: {said}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// The gate is switched off and on, with answers on their way and without: no answer is cut, and masking begins again.
#[test]
fn switched_off_and_on_no_answer_is_cut() -> Result<()> {
    let server = server()?;
    let (mut agent, _clickhouse) = masking(&server, POLICY)?;
    let (mut idle, mut busy) = (login(&server)?, login(&server)?);
    assert!(!idle.ask("select email from people")?.contains(HIDDEN));
    busy.send(&wire::query(
        "select i, 'zq' || i || '@example.org' as email from generate_series(1, 100000) i",
    ))?;
    let mut first = [0; 4000];
    busy.stream.read_exact(&mut first)?;
    let (done, said) = operator(&agent, &["gate", "off"])?;
    assert!(done, "{said}");
    let seen = idle.ask("select email from people")?;
    assert!(seen.contains(HIDDEN), "nothing is masked while the gate is off: {seen}");
    // What was asked before is masked to its end.
    let mut rest = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let length = busy.stream.read(&mut piece)?;
        ensure!(length > 0, "the answer was cut");
        rest.extend_from_slice(&piece[..length]);
        if rest.ends_with(b"Z\0\0\0\x05I") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&rest);
    assert!(text.contains("SELECT 100000") && !text.contains("@example.org"));
    assert!(busy.ask("select 'goes on'")?.contains("goes on"));
    let (done, said) = operator(&agent, &["gate", "on"])?;
    assert!(done, "{said}");
    let seen = login(&server)?.ask("select email from people")?;
    assert!(!seen.contains(HIDDEN), "{seen}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// A shim that is gone shows nothing, and another one masks again.
#[test]
fn a_shim_that_is_gone_shows_nothing() -> Result<()> {
    let server = server()?;
    let (mut agent, clickhouse) = masking(&server, POLICY)?;
    let (mut idle, mut busy) = (login(&server)?, login(&server)?);
    assert!(!idle.ask("select email from people")?.contains(HIDDEN));
    busy.send(&wire::query("select pg_sleep(20), email from people"))?;
    std::thread::sleep(Duration::from_millis(100));
    let shim = rustix::process::Pid::from_raw(shim_of(&agent)?).context("a pid")?;
    rustix::process::kill_process(shim, Signal::KILL)?;
    let mut left = Vec::new();
    let _ = busy.stream.read_to_end(&mut left);
    assert!(!String::from_utf8_lossy(&left).contains(HIDDEN));
    let told = "SELECT count() FROM weir.events WHERE event_kind = 'loss' AND error_type = 'shim_gone'";
    assert!(wait_for(&clickhouse, told, |n| n > 0)? > 0);
    let seen = idle.ask("select email from people")?;
    assert!(!seen.contains(HIDDEN) && seen.contains("SELECT 1"), "{seen}");
    let seen = login(&server)?.ask("select email from people")?;
    assert!(!seen.contains(HIDDEN) && seen.contains("SELECT 1"), "{seen}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
