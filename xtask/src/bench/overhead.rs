//! What watching costs the database: pgbench with nothing, weir, pgaudit, pgbouncer and tcpdump beside it, in
//! interleaved rounds, so that whatever else the machine does hits all alike.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Table, grouped, load, median, rounded};
use crate::clickhouse::ClickHouse;
use crate::postgres::Postgres;
use crate::scratch::{self, Scratch};
use crate::shell;
use crate::terminal::Step;
use crate::weir::{self, Weir};

const CLIENTS: &str = "8";
const PEERS: &[&str] = &["nothing", "weir", "pgaudit", "pgbouncer", "tcpdump"];
/// Name, pgbench's arguments, statements of a transaction.
const WORKLOADS: &[(&str, &[&str], u64)] = &[("select", &["-S"], 1), ("tpcb", &[], 7)];

/// What one run of weir cost and told.
#[derive(Default)]
struct Agent {
    cpu: f64,
    cpu_with_engine: f64,
    peak: u64,
    statements: u64,
    captured: u64,
    losses: u64,
}

/// Measures.
pub(super) fn run(binary: &Path, rounds: u32, seconds: u32) -> Result<(Value, Table)> {
    let plain = Postgres::start(&[])?;
    let audited = Postgres::start(&[
        ("shared_preload_libraries", "pgaudit"),
        ("pgaudit.log", "all"),
        ("logging_collector", "on"),
        ("log_directory", "log"),
    ])?;
    for server in [&plain, &audited] {
        server.pgbench_tables(10)?;
    }
    let pooler = Pooler::start(&plain)?;
    let (mut value, mut lines) = (json!({}), Vec::new());
    for (workload, arguments, statements) in WORKLOADS {
        let mut tps: Vec<Vec<f64>> = vec![Vec::new(); PEERS.len()];
        let mut agents = Vec::new();
        for round in 0..rounds {
            for (number, peer) in PEERS.iter().enumerate() {
                let step = Step::start(&format!("{workload}, round {}, {peer}", round + 1), "");
                let server = if *peer == "pgaudit" { &audited } else { &plain };
                let mut pgbench = server.client("pgbench");
                pgbench.args(["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string()]).args(*arguments);
                if *peer == "pgbouncer" {
                    pgbench.env("PGPORT", pooler.port.to_string());
                }
                let measured = match *peer {
                    "weir" => {
                        let (measured, agent) = beside_weir(binary, &mut pgbench, server.port, *statements)?;
                        agents.push(agent);
                        measured
                    }
                    "tcpdump" => beside_tcpdump(&mut pgbench, server.port)?,
                    _ => load::run(&mut pgbench)?,
                };
                tps[number].push(measured.tps);
                step.done(&format!("{} transactions/s", grouped(measured.tps)));
            }
        }
        for (number, peer) in PEERS.iter().enumerate() {
            let ratios: Vec<f64> =
                tps[number].iter().zip(&tps[0]).map(|(with, without)| with / without).collect();
            let (tps, ratio) = (median(&tps[number]), median(&ratios));
            let mut entry = json!({ "tps": rounded(tps), "ratio": rounded(ratio) });
            let mut line = vec![format!("{workload} {peer}"), grouped(tps), format!("{ratio:.3}")];
            if *peer == "weir" {
                let total = |of: fn(&Agent) -> u64| agents.iter().map(of).sum::<u64>();
                let (statements, captured) = (total(|a| a.statements), total(|a| a.captured));
                let millions = statements as f64 / 1e6;
                let cpu = agents.iter().map(|a| a.cpu).sum::<f64>() / millions;
                let with_engine = agents.iter().map(|a| a.cpu_with_engine).sum::<f64>() / millions;
                let peak = agents.iter().map(|a| a.peak).max().unwrap_or(0);
                entry["cpu_seconds_per_million_statements"] = rounded(cpu);
                entry["cpu_seconds_per_million_statements_with_engine"] = rounded(with_engine);
                entry["peak_rss_bytes"] = json!(peak);
                entry["statements"] = json!(statements);
                entry["captured"] = json!(captured);
                entry["lost"] = json!(statements.abs_diff(captured));
                entry["loss_events"] = json!(total(|a| a.losses));
                line.extend([
                    format!("{cpu:.1} ({with_engine:.1})"),
                    format!("{} MiB", peak >> 20),
                    format!("{} of {}", statements.abs_diff(captured), grouped(statements as f64)),
                ]);
            }
            value[*workload][*peer] = entry;
            lines.push(line);
        }
    }
    let title = format!(
        "Overhead: pgbench, {CLIENTS} clients, {rounds} interleaved rounds of {seconds} s; ratio: median of each round's"
    );
    let heads = vec!["", "transactions/s", "ratio", "CPU s per million (with engine)", "peak memory", "lost"];
    Ok((value, Table { title, heads, lines }))
}

fn beside_weir(
    binary: &Path,
    pgbench: &mut Command,
    port: u16,
    statements: u64,
) -> Result<(load::Run, Agent)> {
    let (mut agent, clickhouse) = Weir::run(binary, Scratch::new("agent")?, "")?;
    let engine: Vec<u32> = children(agent.pid());
    let before = agent.cpu_seconds();
    let engine_before: f64 = engine.iter().map(|p| weir::cpu_seconds(*p)).sum();
    let measured = load::run(pgbench)?;
    // TPC-B's seven statements: BEGIN and END among them. `-S` sends one.
    let expected = measured.transactions * statements;
    let captured = settled(&clickhouse, port, expected);
    let cpu = agent.cpu_seconds() - before;
    let of_engine = engine.iter().map(|p| weir::cpu_seconds(*p)).sum::<f64>() - engine_before;
    let losses = clickhouse.number("SELECT count() FROM weir.events WHERE event_kind = 'loss'")?;
    let peak = agent.peak_memory();
    agent.stop()?;
    let agent = Agent { cpu, cpu_with_engine: cpu + of_engine, peak, statements: expected, captured, losses };
    Ok((measured, agent))
}

/// How many of pgbench's own statements are stored, once that no longer changes.
fn settled(clickhouse: &ClickHouse, port: u16, expected: u64) -> u64 {
    // pgbench itself asks once for the partitions of its table before it starts.
    let sql = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND server_port = {port} \
         AND process_executable_path LIKE '%pgbench' AND db_query_text NOT LIKE '%pg_catalog%' \
         AND db_query_text NOT LIKE '%count(*)%'"
    );
    let began = Instant::now();
    let mut last = 0;
    while began.elapsed() < Duration::from_secs(30) {
        let now = clickhouse.number(&sql).unwrap_or(0);
        if now >= expected {
            return now;
        }
        last = now;
        std::thread::sleep(Duration::from_millis(250));
    }
    last
}

fn beside_tcpdump(pgbench: &mut Command, port: u16) -> Result<load::Run> {
    let scratch = Scratch::new("tcpdump")?;
    let dump = dump(port, &scratch.path().join("traffic.pcap"))?;
    let measured = load::run(pgbench);
    stop(dump)?;
    measured
}

/// tcpdump of a port into a file, under way.
pub(super) fn dump(port: u16, file: &Path) -> Result<Child> {
    let tcpdump = shell::find("tcpdump").context("tcpdump is not installed")?;
    // 256 MiB of buffer: a peer that loses packets would be no peer.
    let child = shell::server("INT", tcpdump)
        .args(["-i", "lo", "-s", "0", "-B", "262144", "-w"])
        .arg(file)
        .arg(format!("tcp port {port}"))
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    while std::fs::metadata(file).map_or(0, |m| m.len()) == 0 {
        if began.elapsed() > Duration::from_secs(5) {
            break; // its file header may wait in a buffer
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok(child)
}

/// Ends it and waits until the file is whole.
pub(super) fn stop(mut child: Child) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).context("a process id is positive")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    child.wait()?;
    Ok(())
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// pgbouncer in front of a server, session pooling, its usual settings.
pub(super) struct Pooler {
    child: Child,
    pub(super) port: u16,
    _scratch: Scratch,
}

impl Pooler {
    pub(super) fn start(server: &Postgres) -> Result<Self> {
        let (scratch, port) = (Scratch::new("pgbouncer")?, scratch::free_port()?);
        let file = scratch.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = session\nunix_socket_dir =\ndefault_pool_size = 20\n",
            server.port
        );
        std::fs::write(&file, text)?;
        let program = shell::find("pgbouncer").context("pgbouncer is not installed")?;
        let child = shell::server("TERM", program)
            .args(["-u", "postgres"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()?;
        let pooler = Self { child, port, _scratch: scratch };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(pooler);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        bail!("pgbouncer does not listen")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
