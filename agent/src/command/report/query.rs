//! Conditions with bound values -> a query of the receipts -> a table, JSON lines or CSV.
//!
//! What a user gives is a parameter that the server binds: nothing of it is ever part of a statement's text.

use std::io::Write as _;
use std::process::ExitCode;

use agent_core::event::parse_rfc3339;
use anyhow::Context as _;
use clickhouse::Client;
use serde_json::Value;

use super::Common;
use crate::show::grid::{cell, grid};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a head.
    Csv,
}

/// A query under construction.
pub(super) struct Query {
    conditions: Vec<&'static str>,
    values: Vec<(&'static str, String)>,
}

impl Query {
    /// With what every question takes.
    pub(super) fn new(common: &Common) -> Self {
        let mut query = Self { conditions: Vec::new(), values: Vec::new() };
        let nanos = |time: u64| time.min(i64::MAX as u64).to_string();
        query.given(
            "time >= fromUnixTimestamp64Nano({since:Int64}, 'UTC')",
            "since",
            common.since.map(nanos),
        );
        query.given("time < fromUnixTimestamp64Nano({until:Int64}, 'UTC')", "until", common.until.map(nanos));
        query.given("db_namespace = {namespace:String}", "namespace", common.namespace.clone());
        query.given("db_system_name = {system:String}", "system", common.system.clone());
        query.given("agent_id = {agent:String}", "agent", common.agent.clone());
        query.value("limit", common.limit.to_string());
        query
    }

    /// A condition that is always there.
    pub(super) fn holds(&mut self, condition: &'static str) {
        self.conditions.push(condition);
    }

    /// A condition that is there where its value is given.
    pub(super) fn given(&mut self, condition: &'static str, name: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.conditions.push(condition);
            self.value(name, value);
        }
    }

    /// A value that the query needs.
    pub(super) fn value(&mut self, name: &'static str, value: String) {
        self.values.push((name, value));
    }

    /// `select` with `WHERE` in the place of `{where}`.
    fn sql(&self, select: &str) -> String {
        let conditions = if self.conditions.is_empty() { "1".into() } else { self.conditions.join(" AND ") };
        select.replace("{where}", &conditions)
    }

    /// The answer's bytes in one of ClickHouse's formats.
    pub(super) async fn bytes(&self, client: &Client, select: &str, format: &str) -> anyhow::Result<Vec<u8>> {
        let mut query = client
            .query(&self.sql(select))
            .with_setting("output_format_json_quote_64bit_integers", "0")
            .with_setting("output_format_json_escape_forward_slashes", "0");
        for (name, value) in &self.values {
            query = query.param(name, value);
        }
        Ok(query.fetch_bytes(format)?.collect().await?.into())
    }

    /// Asks and prints.
    pub(super) async fn print(&self, common: &Common, select: &str) -> anyhow::Result<ExitCode> {
        let client = common.database.client()?;
        let format = match common.format {
            Format::Table => "JSONCompact",
            Format::Jsonl => "JSONEachRow",
            Format::Csv => "CSVWithNames",
        };
        let bytes = self
            .bytes(&client, select, format)
            .await
            .with_context(|| format!("cannot ask {}", common.database.url))?;
        let text = if common.format == Format::Table { table(&bytes)?.into_bytes() } else { bytes };
        match std::io::stdout().write_all(&text) {
            // Whoever read our output has seen enough.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

fn table(bytes: &[u8]) -> anyhow::Result<String> {
    let answer: Value = serde_json::from_slice(bytes).context("ClickHouse's answer is not JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let columns = list(&answer["meta"]);
    let heads: Vec<String> =
        columns.iter().map(|column| column["name"].as_str().unwrap_or_default().to_uppercase()).collect();
    let right: Vec<bool> = columns
        .iter()
        .map(|column| column["type"].as_str().is_some_and(|kind| kind.contains("UInt")))
        .collect();
    let shown = |value: &Value| match value {
        Value::String(text) => cell(text),
        Value::Null => "-".to_owned(),
        other => cell(&other.to_string()),
    };
    let rows: Vec<Vec<String>> =
        list(&answer["data"]).iter().map(|row| list(row).iter().map(shown).collect()).collect();
    if rows.is_empty() {
        return Ok("nothing of that kind is recorded\n".to_owned());
    }
    Ok(grid(&heads, &rows, &right))
}

/// A time, or so long ago -> nanoseconds since the epoch.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is no time; write e.g. 2026-11-01, 2026-11-01T08:00:00Z, 90m, 24h or 7d");
    if let Some(unit) = text.chars().last().filter(|c| "smhdw".contains(*c)) {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => 7 * 86_400,
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        let ago = number.checked_mul(seconds).and_then(|s| s.checked_mul(1_000_000_000)).ok_or_else(wrong)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        return Ok((now.as_nanos() as u64).saturating_sub(ago));
    }
    let whole = if text.contains(['T', ' ']) { text.to_owned() } else { format!("{text}T00:00:00Z") };
    parse_rfc3339(&whole).ok_or_else(wrong)
}

/// What somebody types -> a pattern of LIKE. `*` is anything; without one, `contains` looks anywhere in the text.
pub(super) fn pattern(text: &str, contains: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '*' => out.push('%'),
            '%' | '_' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    if contains && !text.contains('*') { format!("%{out}%") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(moment("2026-11-21"), Ok(1_795_219_200_000_000_000));
        assert_eq!(moment("2026-11-21T12:00:00Z"), Ok(1_795_262_400_000_000_000));
        assert!(moment("7d").unwrap() < moment("1h").unwrap());
        for wrong in ["", "yesterday", "2026-13-01", "d", "99999999999999999999d", "2026-11-21T12"] {
            assert!(moment(wrong).unwrap_err().contains("24h"), "{wrong}");
        }
    }

    #[test]
    fn patterns_are_literal_but_for_stars() {
        assert_eq!(pattern("drop table*", true), "drop table%");
        assert_eq!(pattern("50%_\\", true), "%50\\%\\_\\\\%");
        assert_eq!(pattern("psql", false), "psql");
    }
}
