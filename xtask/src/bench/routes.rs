//! What watching costs on the ways in that are no plain TCP: pgbench over TLS and over the Unix socket, with nothing and
//! with weir beside it, in interleaved rounds; and a tight loop of system calls that are none of weir's business.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Table, grouped, load, median, rounded};
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::terminal::Step;
use crate::weir::Weir;

const CLIENTS: &str = "8";
/// Calls of each loop.
const CALLS: u32 = 2_000_000;
/// What runs beside the loop, and weir's settings.
const BESIDE: &[(&str, Option<&str>)] = &[
    ("nothing", None),
    ("weir, no Unix tap", Some("capture: {unix: never}\n")),
    ("weir, Unix tap on", Some("capture: {unix: always}\n")),
];

/// A way in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `sslmode=require`, both ends on this machine.
    Tls,
    /// The Unix socket.
    Unix,
}

/// pgbench -S by one way.
pub(super) fn run(way: Way, binary: &Path, rounds: u32, seconds: u32) -> Result<(Value, Table)> {
    let server = Postgres::start(&[])?;
    server.pgbench_tables(10)?;
    if way == Way::Tls {
        server.offer_tls()?;
    }
    let (mut tps, mut losses, mut lost) = ([Vec::new(), Vec::new()], 0, 0);
    for round in 0..rounds {
        for (number, peer) in ["nothing", "weir"].iter().enumerate() {
            let step = Step::start(&format!("round {}, {peer}", round + 1), "");
            let mut pgbench = server.client("pgbench");
            match way {
                Way::Tls => pgbench.env("PGSSLMODE", "require"),
                Way::Unix => pgbench.env("PGHOST", server.socket_directory()),
            };
            pgbench.args(["-n", "-S", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string()]);
            let measured = if number == 0 {
                load::run(&mut pgbench)?
            } else {
                let (mut agent, clickhouse) = Weir::run(binary, Scratch::new("agent")?, "")?;
                let measured = load::run(&mut pgbench)?;
                let ours = if way == Way::Tls { "network_tls" } else { "network_transport = 'unix'" };
                let sql = format!(
                    "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND {ours} \
                     AND db_query_text LIKE '%abalance%'"
                );
                let began = Instant::now();
                let mut stored = 0;
                while began.elapsed().as_secs() < 30 && stored < measured.transactions {
                    std::thread::sleep(std::time::Duration::from_millis(250));
                    stored = clickhouse.number(&sql).unwrap_or(stored);
                }
                lost += measured.transactions.abs_diff(stored);
                losses += clickhouse.number("SELECT count() FROM weir.events WHERE event_kind = 'loss'")?;
                agent.stop()?;
                measured
            };
            tps[number].push(measured.tps);
            step.done(&format!("{} transactions/s", grouped(measured.tps)));
        }
    }
    let ratios: Vec<f64> = tps[1].iter().zip(&tps[0]).map(|(with, without)| with / without).collect();
    let (without, with, ratio) = (median(&tps[0]), median(&tps[1]), median(&ratios));
    let value = json!({
        "nothing": { "tps": rounded(without) },
        "weir": { "tps": rounded(with), "ratio": rounded(ratio), "lost": lost, "loss_events": losses },
    });
    let lines = vec![
        vec!["nothing".into(), grouped(without), "1.000".into(), String::new()],
        vec!["weir".into(), grouped(with), format!("{ratio:.3}"), lost.to_string()],
    ];
    let name = if way == Way::Tls { "TLS" } else { "Unix socket" };
    let title = format!(
        "{name}: pgbench -S, {CLIENTS} clients, {rounds} interleaved rounds of {seconds} s; ratio: median of each round's"
    );
    Ok((value, Table { title, heads: vec!["", "transactions/s", "ratio", "lost"], lines }))
}

/// `getppid` and `read` of one byte of a file, nanoseconds a call.
pub(super) fn syscalls(binary: &Path, rounds: u32) -> Result<(Value, Table)> {
    let mut took: Vec<[Vec<f64>; 2]> = vec![Default::default(); BESIDE.len()];
    for round in 0..rounds {
        for (number, (name, settings)) in BESIDE.iter().enumerate() {
            let step = Step::start(&format!("round {}, {name}", round + 1), "");
            let agent = match settings {
                Some(settings) => Some(Weir::run(binary, Scratch::new("agent")?, settings)?),
                None => None,
            };
            // The agent has just started: let it come to rest.
            std::thread::sleep(std::time::Duration::from_secs(2));
            let file = std::fs::File::open("/dev/zero")?;
            let began = Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(rustix::process::getppid());
            }
            let parent = began.elapsed().as_nanos() as f64 / f64::from(CALLS);
            let began = Instant::now();
            for _ in 0..CALLS {
                rustix::io::read(&file, &mut [0u8; 1])?;
            }
            let read = began.elapsed().as_nanos() as f64 / f64::from(CALLS);
            took[number][0].push(parent);
            took[number][1].push(read);
            if let Some((mut agent, _)) = agent {
                agent.stop()?;
            }
            step.done(&format!("getppid {parent:.0} ns, read {read:.0} ns"));
        }
    }
    let (mut value, mut lines) = (json!({}), Vec::new());
    for ((name, _), [parent, read]) in BESIDE.iter().zip(&took) {
        value[*name] = json!({ "getppid_ns": rounded(median(parent)), "read_ns": rounded(median(read)) });
        lines.push(vec![
            (*name).to_owned(),
            format!("{:.1} ns", median(parent)),
            format!("{:.1} ns", median(read)),
        ]);
    }
    let title =
        format!("System calls of others: {CALLS} calls in a loop, median of {rounds} interleaved rounds");
    Ok((value, Table { title, heads: vec!["", "getppid", "read"], lines }))
}
