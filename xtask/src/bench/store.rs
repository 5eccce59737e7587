//! How fast events become rows in ClickHouse, and how small: the store's own benchmark, run as it ships.

use anyhow::Result;
use serde_json::Value;

use super::{Table, example, grouped};

/// Measures.
pub(super) fn run(rows: u32) -> Result<(Value, Table)> {
    let value = example("agent", "store_bench", Some(rows))?;
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
