//! How fast captured bytes become statements: `weir replay` and tshark on the same recorded file, each on one core.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Table, grouped, load, median, overhead, rounded};
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::shell;
use crate::terminal::Step;

/// What tshark prints of each message: when, who, the text, the outcome. Less than an event has.
const FIELDS: &[&str] = &[
    "frame.time_epoch",
    "ip.src",
    "tcp.srcport",
    "ip.dst",
    "tcp.dstport",
    "pgsql.query",
    "pgsql.tag",
    "pgsql.code",
];

/// Measures.
pub(super) fn run(binary: &Path, transactions: u32) -> Result<(Value, Table)> {
    let scratch = Scratch::new("pcap")?;
    let file = scratch.path().join("traffic.pcap");
    let (statements, port) = record(&file, transactions)?;
    let bytes = fs::metadata(&file)?.len();
    let mut seconds = Vec::new();
    let mut told = 0;
    for round in 0..3 {
        let step = Step::start(&format!("weir replay, round {}", round + 1), "pinned to one core");
        let out = scratch.path().join("events");
        let mut replay = on_one_core(binary);
        replay.args(["replay", "--format", "jsonl"]).arg(&file);
        // The first round is counted, the others write into the void.
        let to: Stdio =
            if round == 0 { File::create(&out)?.into() } else { File::create("/dev/null")?.into() };
        let took = timed(&mut replay, to)?;
        if round == 0 {
            told = count(&out)?;
            fs::remove_file(&out)?;
        } else {
            seconds.push(took);
        }
        step.done(&format!("{took:.2} s"));
    }
    let step = Step::start("tshark", "pinned to one core; some minutes");
    let tshark = shell::find("tshark").context("tshark is not installed")?;
    // A part is enough: its time grows with the file.
    let part = scratch.path().join("part.pcap");
    let share = head(&file, &part, 40 << 20)?;
    let mut peer = on_one_core(&tshark);
    peer.arg("-r").arg(&part).args(["-d", &format!("tcp.port=={port},pgsql"), "-Y", "pgsql", "-T", "fields"]);
    for field in FIELDS {
        peer.args(["-e", field]);
    }
    let peer_seconds = timed(&mut peer, File::create("/dev/null")?.into())? / share;
    step.done(&format!("{peer_seconds:.1} s for the whole (from {:.0} % of it)", share * 100.0));
    let took = median(&seconds);
    let (rate, peer_rate) = (told as f64 / took, statements as f64 / peer_seconds);
    let (speed, peer_speed) = (bytes as f64 / 1e6 / took, bytes as f64 / 1e6 / peer_seconds);
    let value = json!({
        "statements": statements, "told": told, "bytes": bytes,
        "weir": { "statements_per_second": rounded(rate), "megabytes_per_second": rounded(speed) },
        "tshark": { "statements_per_second": rounded(peer_rate), "megabytes_per_second": rounded(peer_speed) },
        "times_tshark": rounded(rate / peer_rate),
    });
    let title = format!(
        "Pipeline: {} statements in {} MB of pgbench -S, prepared; one core; weir told {}",
        grouped(statements as f64),
        grouped(bytes as f64 / 1e6),
        grouped(told as f64)
    );
    let line = |name: &str, rate: f64, speed: f64| vec![name.to_owned(), grouped(rate), grouped(speed)];
    let mut ours = line("weir replay", rate, speed);
    ours.push(format!("{:.0} x tshark", rate / peer_rate));
    let lines = vec![ours, line("tshark -T fields", peer_rate, peer_speed)];
    Ok((value, Table { title, heads: vec!["", "statements/s", "MB/s", ""], lines }))
}

/// Records pgbench with tcpdump; how many statements, on which port.
fn record(file: &Path, transactions: u32) -> Result<(u64, u16)> {
    let step = Step::start("record", "pgbench -S, prepared, 8 clients, with tcpdump on the port");
    let server = Postgres::start(&[])?;
    server.pgbench_tables(1)?;
    let dump = overhead::dump(server.port, file)?;
    let each = (transactions / 8).to_string();
    let measured = load::run(
        server.client("pgbench").args(["-n", "-S", "-M", "prepared", "-c", "8", "-j", "2", "-t", &each]),
    );
    std::thread::sleep(std::time::Duration::from_secs(1));
    overhead::stop(dump)?;
    step.done("");
    Ok((measured?.transactions, server.port))
}

fn on_one_core(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program);
    command
}

fn timed(command: &mut Command, to: Stdio) -> Result<f64> {
    let began = Instant::now();
    let status = command.stdout(to).stderr(Stdio::null()).status()?;
    if !status.success() {
        bail!("{} ended with {status}", shell::show(command));
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Statements among events, without reading JSON in full.
fn count(events: &Path) -> Result<u64> {
    use std::io::BufRead;
    let reader = std::io::BufReader::new(File::open(events)?);
    let mut number = 0;
    for line in reader.split(b'\n') {
        let line = line?;
        number += u64::from(line.windows(24).any(|w| w == br#""event_kind":"statement""#));
    }
    Ok(number)
}

/// Copies the first packets of a pcap file, about `limit` bytes of them; which share of the whole that is.
fn head(file: &Path, part: &Path, limit: u64) -> Result<f64> {
    let bytes = fs::read(file)?;
    // The file header is 24 bytes, a packet's 16: its length is the third word. tcpdump writes in this host's order.
    let mut at = 24;
    while at + 16 <= bytes.len() && (at as u64) < limit {
        let length = bytes.get(at + 8..at + 12).and_then(|l| l.try_into().ok()).map_or(0, u32::from_ne_bytes);
        at += 16 + length as usize;
    }
    let at = at.min(bytes.len());
    fs::write(part, &bytes[..at])?;
    Ok(at as f64 / bytes.len() as f64)
}
