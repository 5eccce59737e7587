//! What holding statements costs: pgbench with nothing, weir watching, weir armed with nothing, one in a hundred and all
//! statements held, pgbouncer; in interleaved rounds. And how long one held statement takes longer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::overhead::Pooler;
use super::{Table, grouped, load, median, rounded};
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::terminal::Step;
use crate::weir::Weir;

const CLIENTS: &str = "8";
const PEERS: &[&str] = &["nothing", "weir watching", "armed", "1 % held", "all held", "pgbouncer"];
/// What pgbench's `-S` asks. The kernel side knows it after the first time.
const KNOWN: &str =
    "\\set aid random(1, 100000 * :scale)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
/// The same with a comment: it is judged each time.
const HELD: &str = "\\set aid random(1, 100000 * :scale)\nSELECT /* held */ abalance FROM pgbench_accounts WHERE aid = :aid;\n";
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
    let (known, held) = (script("known.sql", KNOWN)?, script("held.sql", HELD)?);
    let mut tps: Vec<Vec<f64>> = vec![Vec::new(); PEERS.len()];
    for round in 0..rounds {
        for (number, peer) in PEERS.iter().enumerate() {
            let step = Step::start(&format!("round {}, {peer}", round + 1), "");
            let mut pgbench = server.client("pgbench");
            pgbench.args(["-n", "-h", "127.0.0.1", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string()]);
            match *peer {
                "1 % held" => pgbench.args(["-f", &format!("{known}@99"), "-f", &format!("{held}@1")]),
                "all held" => pgbench.args(["-f", &held]),
                _ => pgbench.args(["-f", &known]),
            };
            let mut weir = match *peer {
                "nothing" | "pgbouncer" => None,
                peer => Some(agent(binary, &server, peer != "weir watching")?),
            };
            if *peer == "pgbouncer" {
                pgbench.args(["-p", &pooler.port.to_string()]);
            }
            let measured = load::run(&mut pgbench)?;
            if let Some(weir) = &mut weir {
                weir.stop()?;
            }
            tps[number].push(measured.tps);
            step.done(&format!("{} transactions/s", grouped(measured.tps)));
        }
    }
    let step = Step::start("one client, each transaction timed", "");
    let mut weir = agent(binary, &server, true)?;
    let [fast, slow] = [&known, &held].map(|script| latencies(&server, scripts.path(), script, seconds));
    weir.stop()?;
    let (fast, slow) = (fast?, slow?);
    step.done("");

    let (mut value, mut lines) = (json!({}), Vec::new());
    for (number, peer) in PEERS.iter().enumerate() {
        let of = |other: usize| {
            let ratios: Vec<f64> =
                tps[number].iter().zip(&tps[other]).map(|(with, without)| with / without).collect();
            median(&ratios)
        };
        let (nothing, watching) = (of(0), of(1));
        value[*peer] = json!({
            "tps": rounded(median(&tps[number])), "ratio": rounded(nothing), "ratio_to_watching": rounded(watching),
        });
        let tps = grouped(median(&tps[number]));
        lines.push(vec![(*peer).to_owned(), tps, format!("{nothing:.3}"), format!("{watching:.3}")]);
    }
    for (name, at) in [("p50", 0.5), ("p99", 0.99)] {
        let (fast, slow) = (quantile(&fast, at), quantile(&slow, at));
        value[format!("held_{name}_us")] = rounded(slow - fast);
        let (fast, slow) = (format!("{fast:.0} us passing"), format!("{slow:.0} us held"));
        lines.push(vec![format!("one client, {name}"), fast, slow, String::new()]);
    }
    let title = format!(
        "Gate: pgbench -S, {CLIENTS} clients, {rounds} interleaved rounds of {seconds} s; ratio: median of each round's"
    );
    Ok((value, Table { title, heads: vec!["", "transactions/s", "to nothing", "to watching"], lines }))
}

/// What each transaction of one client took, in microseconds.
fn latencies(server: &Postgres, directory: &Path, script: &str, seconds: u32) -> Result<Vec<f64>> {
    let mut pgbench = server.client("pgbench");
    pgbench.args(["-n", "-h", "127.0.0.1", "-c", "1", "-T", &seconds.to_string(), "-f", script]);
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

fn quantile(sorted: &[f64], at: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * at) as usize).copied().unwrap_or(f64::NAN)
}
