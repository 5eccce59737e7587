//! Clients whose forbidden statements are refused: an agent that does that, and what the clients say of it.

use std::fs;

use anyhow::{Context, Result, ensure};
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};

use crate::server::log_file;

/// What the clients' statements are refused by.
pub const POLICIES: &str = "kind: DatabasePolicy
metadata: {name: no-destroy}
spec:
  mode: enforce
  match:
    statement: {effects: [drop, truncate]}
  action: block
  message: Ask in the channel first.
---
kind: DatabasePolicy
metadata: {name: no-unbounded-writes}
spec:
  mode: enforce
  match:
    statement: {effects: [delete, update], unbounded: true}
  action: block
";

/// An agent that holds statements of this server by these rules.
pub fn guarding(server: &Postgres, policies: &str, config: &str) -> Result<(Weir, ClickHouse)> {
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(scratch.path().join("policies/gate.yaml"), policies)?;
    let config = format!("capture: {{ports: {{{}: postgresql}}}}\n{config}", server.port);
    Weir::run(&weir::binary()?, scratch, &config)
}

/// A run of a client program: its output with the gate before the server, and without what is forbidden.
pub type Run<'a> = &'a dyn Fn(&str, bool) -> Result<String>;

/// Runs a client twice, the second time without the forbidden statements, and compares.
pub fn same_but_refused(server: &Postgres, table: &str, run: Run<'_>) -> Result<usize> {
    // Each run has a table of its own: dropping one is forbidden.
    let mut said = Vec::new();
    for dry in [false, true] {
        let own = format!("{table}_{}", if dry { "dry" } else { "wet" });
        server.quietly(&format!("create table {own} (id int, v text)"))?;
        said.push(run(&own, dry)?.replace(&own, table));
    }
    let (guarded, dry) = (&said[0], &said[1]);
    for (number, (with, without)) in guarded.lines().zip(dry.lines()).enumerate() {
        ensure!(with == without, "line {}: {with}\ninstead of: {without}", number + 1);
    }
    ensure!(guarded.lines().count() == dry.lines().count(), "one of the two says more");
    Ok(guarded.lines().filter(|line| *line == "refused").count())
}

/// What the server's log says of what must never have reached it.
pub fn executed(server: &Postgres) -> Result<Vec<String>> {
    let log = fs::read_to_string(log_file(server)).context("the server's log")?;
    Ok(log.lines().filter(|line| line.contains("forbidden")).map(str::to_owned).collect())
}

/// Counts the statements to this server that were told as blocked.
pub fn blocked(server: &Postgres) -> String {
    format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND disposition = 'blocked' \
         AND (server_port = {} OR network_transport = 'unix')",
        server.port
    )
}
