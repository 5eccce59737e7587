//! How fast receipts are verified: in ClickHouse, as JSON lines and in memory, by the audit's own benchmark.

use anyhow::Result;
use serde_json::Value;

use super::{Table, example, grouped};

/// Measures.
pub(super) fn run(receipts: u32) -> Result<(Value, Table)> {
    let value = example("agent", "verify_bench", Some(receipts))?;
    let line = |what: &str, name: &str| {
        let rate = value[name].as_f64().unwrap_or(f64::NAN);
        let million = if rate > 0.0 { format!("{:.2} s", 1e6 / rate) } else { String::new() };
        vec![what.to_owned(), grouped(rate), million]
    };
    let lines = vec![
        line("in ClickHouse (embedded, on the same cores)", "clickhouse_per_second"),
        line("JSON lines, read and compared to the byte", "json_lines_per_second"),
        line("hash and link alone, one core", "in_memory_per_second"),
    ];
    let title = format!(
        "Verify: {} receipts of a pgbench workload, {} bytes hashed for each",
        grouped(f64::from(receipts)),
        value["bytes_hashed_per_receipt"]
    );
    Ok((value, Table { title, heads: vec!["", "receipts/s", "a million"], lines }))
}
