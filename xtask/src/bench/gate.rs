//! What holding statements costs: pgbench with nothing, weir watching, weir armed with nothing, one in a hundred and all
//! statements held, pgbouncer; in interleaved rounds. And how long one held statement takes longer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::conditions::Processors;
use super::overhead::Pooler;
use super::{Table, grouped, load, median, quantile, rounded};
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::terminal::Step;
use crate::weir::Weir;

const CLIENTS: &str = "8";
const PEERS: &[&str] = &["nothing", "weir watching", "armed", "1 % held", "all held", "pgbouncer"];
/// What pgbench's `-S` asks. The kernel side knows it after the first time.
const KNOWN: &str =
    "\\set aid random(1, 100000 * :scale)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
/// What it asks without that, TPC-B's transaction.
const TPCB: &str = "\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
";

/// The same with comments: it is judged each time.
fn held(script: &str) -> String {
    let hold = |line: &str| match line.split_once(' ') {
        Some((verb, rest)) if !verb.starts_with('\\') => format!("{verb} /* held */ {rest}\n"),
        // BEGIN, END.
        None => format!("/* held */ {line}\n"),
        _ => format!("{line}\n"),
    };
    script.lines().map(hold).collect()
}

/// Nothing that pgbench asks, but rules that have to look.
const RULES: &str = "kind: DatabasePolicy
metadata: {name: no-destroy}
spec:
  mode: enforce
  match: {statement: {effects: [drop, truncate]}}
  action: block
---
kind: DatabasePolicy
metadata: {name: no-unbounded-writes}
spec:
  mode: enforce
  match: {statement: {effects: [delete, update], unbounded: true}}
  action: block
";

/// An agent at this server, with rules or without.
fn agent(binary: &Path, server: &Postgres, rules: bool) -> Result<Weir> {
    let scratch = Scratch::new("agent")?;
    if rules {
        fs::create_dir_all(scratch.path().join("policies"))?;
        fs::write(scratch.path().join("policies/rules.yaml"), RULES)?;
    }
    let config = format!("capture: {{ports: {{{}: postgresql}}}}\n", server.port);
    Ok(Weir::run(binary, scratch, &config)?.0)
}

/// Measures.
pub(super) fn run(binary: &Path, rounds: u32, seconds: u32) -> Result<(Value, Table)> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(10)?;
    let pooler = Pooler::start(&server)?;
    let scripts = Scratch::new("scripts")?;
    let script = |name: &str, text: &str| -> Result<String> {
        let path = scripts.path().join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (mut value, mut lines) = (json!({}), Vec::new());
    for (workload, known) in [("-S", KNOWN), ("TPC-B", TPCB)] {
        let (known, held) = (script("known.sql", known)?, script("held.sql", &held(known))?);
        let measured = rounds_of(binary, &server, &pooler, workload, &known, &held, rounds, seconds)?;
        for (number, peer) in PEERS.iter().enumerate() {
            let of = |other: usize| {
                let both = measured[number].iter().zip(&measured[other]);
                median(&both.map(|(with, without)| with.tps / without.tps).collect::<Vec<_>>())
            };
            let (nothing, watching) = (of(0), of(1));
            let each =
                |what: fn(&Round) -> f64| median(&measured[number].iter().map(what).collect::<Vec<_>>());
            let (tps, busy) = (each(|round| round.tps), each(|round| round.busy_us));
            value[workload][*peer] = json!({
                "tps": rounded(tps),
                "ratio": rounded(nothing),
                "ratio_to_watching": rounded(watching),
                "busy_us": rounded(busy),
            });
            lines.push(vec![
                format!("{workload}, {peer}"),
                grouped(tps),
                format!("{nothing:.3}"),
                format!("{watching:.3}"),
                format!("{busy:.1} us"),
            ]);
        }
        let step = Step::start(&format!("{workload}, one client, each transaction timed"), "");
        let timed = |peer: &str, script: &str| -> Result<Vec<f64>> {
            let mut weir = (peer == "weir").then(|| agent(binary, &server, true)).transpose()?;
            let port = if peer == "pgbouncer" { pooler.port } else { server.port };
            let times = latencies(&server, scripts.path(), script, seconds, port);
            weir.as_mut().map(Weir::stop).transpose()?;
            times
        };
        let ways = [
            ("nothing", timed("", &known)?),
            ("passing", timed("weir", &known)?),
            ("held", timed("weir", &held)?),
            ("pgbouncer", timed("pgbouncer", &known)?),
        ];
        step.done("");
        for (name, at) in [("p50", 0.5), ("p99", 0.99)] {
            let nothing = quantile(&ways[0].1, at);
            let mut line = vec![format!("{workload}, one client, added at {name}")];
            for (way, times) in &ways {
                let added = quantile(times, at) - nothing;
                value[workload][format!("{way}_{name}_us")] = rounded(quantile(times, at));
                if *way != "nothing" {
                    line.push(format!("{added:.0} us {way}"));
                }
            }
            lines.push(line);
        }
    }
    let title = format!(
        "Gate: pgbench, {CLIENTS} clients, {rounds} interleaved rounds of {seconds} s; ratio: median of each round's"
    );
    Ok((
        value,
        Table {
            title,
            heads: vec!["", "transactions/s", "to nothing", "to watching", "processors, each"],
            lines,
        },
    ))
}

/// What one run of pgbench came to.
struct Round {
    /// Transactions a second.
    tps: f64,
    /// What all processors did for each, in microseconds: without what was taken from a virtual machine.
    busy_us: f64,
}

/// What every peer came to, in each round.
#[expect(clippy::too_many_arguments, reason = "called once; a struct would name them a second time")]
fn rounds_of(
    binary: &Path,
    server: &Postgres,
    pooler: &Pooler,
    workload: &str,
    known: &str,
    held: &str,
    rounds: u32,
    seconds: u32,
) -> Result<Vec<Vec<Round>>> {
    let mut all: Vec<Vec<Round>> = PEERS.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds as usize {
        // Each round begins with another one, or what the machine does over a round would fall on the same ones.
        for number in (0..PEERS.len()).map(|turn| (round + turn) % PEERS.len()) {
            let peer = &PEERS[number];
            let step = Step::start(&format!("{workload}, round {}, {peer}", round + 1), "");
            // TPC-B leaves its small tables full of old rows: whoever comes later would find more of them.
            server.quietly("VACUUM (FULL) pgbench_branches, pgbench_tellers")?;
            let mut pgbench = server.client("pgbench");
            pgbench.args(["-n", "-h", "127.0.0.1", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string()]);
            match *peer {
                "1 % held" => pgbench.args(["-f", &format!("{known}@99"), "-f", &format!("{held}@1")]),
                "all held" => pgbench.args(["-f", held]),
                _ => pgbench.args(["-f", known]),
            };
            let mut weir = match *peer {
                "nothing" | "pgbouncer" => None,
                peer => Some(agent(binary, server, peer != "weir watching")?),
            };
            if *peer == "pgbouncer" {
                pgbench.args(["-p", &pooler.port.to_string()]);
            }
            let processors = Processors::begin();
            let measured = load::run(&mut pgbench)?;
            let busy_us = processors.busy_us() / measured.transactions.max(1) as f64;
            if let Some(weir) = &mut weir {
                weir.stop()?;
            }
            all[number].push(Round { tps: measured.tps, busy_us });
            step.done(&format!("{} transactions/s, {busy_us:.1} us each", grouped(measured.tps)));
        }
    }
    Ok(all)
}

/// What each transaction of one client took, in microseconds.
fn latencies(server: &Postgres, directory: &Path, script: &str, seconds: u32, port: u16) -> Result<Vec<f64>> {
    let mut pgbench = server.client("pgbench");
    pgbench.args(["-n", "-h", "127.0.0.1", "-p", &port.to_string()]);
    pgbench.args(["-c", "1", "-T", &seconds.to_string(), "-f", script]);
    pgbench.args(["-l", "--log-prefix=times"]).current_dir(directory);
    load::run(&mut pgbench)?;
    let mut times = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("times.")) {
            let text = fs::read_to_string(&path)?;
            times.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
            fs::remove_file(&path)?;
        }
    }
    times.sort_by(f64::total_cmp);
    (!times.is_empty()).then_some(times).context("pgbench timed nothing")
}
