//! Measures `weir verify`: `verify_bench [RECEIPTS]` stores so many receipts in the embedded engine, verifies them
//! there and as JSON lines, three times each, and prints one JSON line with the best. The program `weir` is expected
//! beside `examples/`.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::audit::{self, Known};
use agent::store::{Config, Store, bench::Samples, clickhouse, embedded};
use agent_core::receipt::{Chain, Link, Proofs, Receipt, Verifier, canonical};

const ROUNDS: usize = 3;

fn main() -> anyhow::Result<()> {
    let receipts = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let directory = std::env::temp_dir().join(format!("weir-verify-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let outcome = measure(receipts, &directory);
    let _ = std::fs::remove_dir_all(&directory);
    println!("{}", outcome?);
    Ok(())
}

fn measure(receipts: u64, directory: &Path) -> anyhow::Result<serde_json::Value> {
    let (memory, bytes) = memory(receipts)?;
    let lines = lines(receipts, &directory.join("events.jsonl"))?;
    let program = Some(std::env::current_exe()?.with_file_name("../weir"));
    let settings = embedded::Config { program, ..embedded::Config::new(directory.join("clickhouse")) };
    let engine = embedded::Embedded::start(&settings)?;
    let config = Config {
        url: engine.url(),
        state: directory.join("state"),
        agent_id: "bench".into(),
        ..Config::default()
    };
    let stored = tokio::runtime::Runtime::new()?.block_on(stored(receipts, config))?;
    drop(engine);
    Ok(serde_json::json!({
        "receipts": receipts,
        "bytes_hashed_per_receipt": bytes,
        "in_memory_per_second": memory,
        "clickhouse_per_second": stored,
        "json_lines_per_second": lines,
    }))
}

/// The best of some rounds, in receipts a second.
fn best(receipts: u64, mut round: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        round()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(receipts as f64 / best)
}

/// The hash and the link alone, on one core.
fn memory(receipts: u64) -> anyhow::Result<(f64, u64)> {
    let (mut chain, mut scratch, mut samples) = (Chain::default(), Vec::new(), Samples::new());
    let (mut bytes, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..receipts.min(100_000) {
        let mut event = samples.next_event();
        chain.append(&mut event, &mut scratch);
        let start = bytes.len();
        canonical(&event, &mut bytes);
        rows.push((event.sequence, event.previous_hash, event.hash, start, bytes.len()));
    }
    let rate = best(rows.len() as u64, || {
        let mut verifier = Verifier::default();
        for &(sequence, previous_hash, hash, start, end) in &rows {
            let receipt = Receipt { sequence, previous_hash, hash, canonical: &bytes[start..end] };
            verifier.link(&Link::of(&receipt, 0))?;
        }
        Ok(())
    })?;
    Ok((rate, bytes.len() as u64 / rows.len() as u64))
}

fn lines(receipts: u64, path: &Path) -> anyhow::Result<f64> {
    let (mut chain, mut scratch, mut samples) = (Chain::default(), Vec::new(), Samples::new());
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..receipts {
        let mut event = samples.next_event();
        chain.append(&mut event, &mut scratch);
        serde_json::to_writer(&mut out, &event)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let rate = best(receipts, || {
        let report = audit::lines(path, Proofs::default(), &Known::default())?;
        anyhow::ensure!(report.is_whole() && report.count() == receipts, "{report:?}");
        Ok(())
    });
    std::fs::remove_file(path)?;
    rate
}

async fn stored(receipts: u64, config: Config) -> anyhow::Result<f64> {
    let client = clickhouse::client(&config);
    let store = Store::open(config).await?;
    let mut samples = Samples::new();
    for _ in 0..receipts {
        let event = samples.next_event();
        // The bench may wait, the pipeline never does.
        while !store.push(event.clone()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let counters = store.close(Duration::from_mins(5)).await;
    anyhow::ensure!(counters.spooled == 0, "{counters:?}");
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let report = audit::clickhouse(&client, &Known::default()).await?;
        best = best.min(begun.elapsed().as_secs_f64());
        // What found no room in the queue was told: a few receipts more.
        anyhow::ensure!(report.is_whole() && report.count() >= receipts, "{report:?}");
    }
    Ok(receipts as f64 / best)
}
