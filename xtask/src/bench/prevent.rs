//! How many dangerous statements of every driver by every route reach the executor, by the server's own log, and whether
//! all else is as without weir.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Table;
use crate::build;
use crate::shell;
use crate::terminal::Step;

/// Counts. `statements`: mixed ones, of each driver by each route; `messages`: of the stream that is cut anywhere.
pub(super) fn run(binary: &Path, statements: u32, messages: u32) -> Result<(Value, Table)> {
    let mut cargo = shell::cargo();
    // Clients wait for answers most of the time: theirs need no optimisation.
    cargo.args(["build", "--locked", "--package", "tests", "--bins"]);
    shell::step("clients", "compiling", &mut cargo)?;
    let mut step = Step::start("psql, psycopg, asyncpg, pgjdbc, tokio-postgres", "some minutes");
    let mut prevent = std::process::Command::new(build::target().join("debug/prevent"));
    prevent.args([statements, messages].map(|n| n.to_string())).env("XTASK_WEIR", binary);
    let mut last = String::new();
    shell::stream(&mut step, &mut prevent, |line| {
        if line.starts_with('{') {
            line.clone_into(&mut last);
        }
    })?;
    let value: Value = serde_json::from_str(&last).with_context(|| format!("it printed {last:?}"))?;
    step.done("");
    let count = |name: &str| value[name].as_u64().unwrap_or_default().to_string();
    let items = |name: &str| value[name].as_array().map_or(0, Vec::len).to_string();
    let lines = [
        ("dangerous statements", count("dangerous")),
        ("executed, by the server's log", count("executed")),
        ("answers compared with a server without weir", count("answers")),
        ("drivers and routes with a different answer", items("different")),
        ("messages of a stream cut anywhere, answered as they should be", count("stream")),
        ("streams with a wrong answer", items("wrong")),
    ];
    let mut lines = lines.map(|(what, count)| vec![what.to_owned(), count]).to_vec();
    // What went wrong is more than a number.
    for name in ["different", "reached", "wrong"] {
        let said = value[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.extend(said.map(|said| vec![format!("{name}: {said}"), String::new()]));
    }
    for (cause, times) in value["told"].as_object().into_iter().flatten() {
        lines.push(vec![format!("told: {cause}"), times.to_string()]);
    }
    let title = format!("Prevent: {statements} mixed statements of each driver by each route");
    Ok((value, Table { title, heads: vec!["", "count"], lines }))
}
