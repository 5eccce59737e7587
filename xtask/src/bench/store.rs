//! How fast events become rows in ClickHouse, and how small: the store's own benchmark, run as it ships.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Table, grouped};
use crate::{build, shell};

/// Measures.
pub(super) fn run(rows: u32) -> Result<(Value, Table)> {
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--locked",
        "--release",
        "--package",
        "agent",
        "--bin",
        "weir",
        "--example",
        "store_bench",
    ]);
    shell::step("store_bench", "compiling", &mut cargo)?;
    let mut bench = std::process::Command::new(build::target().join("release/examples/store_bench"));
    let said = shell::output(bench.arg(rows.to_string()))?;
    let last = said.lines().next_back().unwrap_or_default();
    let value: Value = serde_json::from_str(last).with_context(|| format!("store_bench printed {last:?}"))?;
    let lines = value.as_object().into_iter().flatten().map(|(name, number)| {
        let shown = match number.as_f64() {
            Some(n) if n >= 1_000.0 => grouped(n),
            Some(n) => format!("{n:.1}"),
            None => number.as_str().map_or_else(|| number.to_string(), str::to_owned),
        };
        vec![name.replace('_', " "), shown]
    });
    let lines = lines.collect();
    Ok((value, Table { title: "Store: events of a pgbench workload".into(), heads: vec!["", ""], lines }))
}
