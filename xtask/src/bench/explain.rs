//! How fast statements are understood and judged, beside the parser alone, by the analysis' own benchmark.

use anyhow::Result;
use serde_json::Value;

use super::{Table, example, grouped};

/// Measures.
pub(super) fn run() -> Result<(Value, Table)> {
    let value = example("agent-core", "explain_bench", None)?;
    let line = |what: &str, name: &str, unit: &str| {
        vec![what.to_owned(), format!("{} {unit}", grouped(value[name].as_f64().unwrap_or(f64::NAN)))]
    };
    let lines = vec![
        line("a new text of a new shape", "cold_statements_per_second", "a second"),
        line("a new text of a known shape", "new_literals_per_second", "a second"),
        line("a known text", "cached_per_second", "a second"),
        line("sqlparser alone, a new text", "parser_alone_per_second", "a second"),
        line("an INSERT of 500,000 rows", "long_insert_megabytes_per_second", "MB a second"),
        line("judged by 10 policies that do not match", "judge_10_policies_ns", "ns"),
        line("by 100", "judge_100_policies_ns", "ns"),
        line("by 1,000", "judge_1000_policies_ns", "ns"),
    ];
    let title = "Explain and judge, one core".to_owned();
    Ok((value, Table { title, heads: vec!["", ""], lines }))
}
