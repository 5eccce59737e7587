//! How fast receipts are verified: in ClickHouse, as JSON lines and in memory, by the audit's own benchmark.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Table, grouped};
use crate::{build, shell};

/// Measures.
pub(super) fn run(receipts: u32) -> Result<(Value, Table)> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--release", "--package", "agent", "--bin", "weir"]);
    cargo.args(["--example", "verify_bench"]);
    shell::step("verify_bench", "compiling", &mut cargo)?;
    let mut bench = std::process::Command::new(build::target().join("release/examples/verify_bench"));
    let said = shell::output(bench.arg(receipts.to_string()))?;
    let last = said.lines().next_back().unwrap_or_default();
    let value: Value =
        serde_json::from_str(last).with_context(|| format!("verify_bench printed {last:?}"))?;
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
