//! Clients whose forbidden statements are refused: an agent that does that, and what the server says of it.

use std::fs;

use anyhow::{Context, Result};
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

/// A rule by which somebody is asked before rights are given; goes behind [`POLICIES`], or stands alone.
pub const ASK: &str = "---
kind: DatabasePolicy
metadata: {name: ask-first}
spec:
  mode: enforce
  match:
    statement: {effects: [grant]}
  action: require_approval
";

/// An agent that holds statements of this server by these rules.
pub fn guarding(server: &Postgres, policies: &str, config: &str) -> Result<(Weir, ClickHouse)> {
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(scratch.path().join("policies/gate.yaml"), policies)?;
    let config = format!("capture: {{ports: {{{}: postgresql}}}}\n{config}", server.port);
    Weir::run(&weir::binary()?, scratch, &config)
}

/// What the server's log says of what must never have reached it.
pub fn executed(server: &Postgres) -> Result<Vec<String>> {
    let log = fs::read_to_string(log_file(server)).context("the server's log")?;
    Ok(log.lines().filter(|line| line.contains("forbidden")).map(str::to_owned).collect())
}

/// What a server that audits has executed of what is forbidden: it logs a statement that is refused behind its parser.
pub fn audited(server: &Postgres) -> Result<Vec<String>> {
    Ok(executed(server)?.into_iter().filter(|line| line.contains("AUDIT: ")).collect())
}

/// Counts the statements to this server that were told as blocked.
pub fn blocked(server: &Postgres) -> String {
    format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND disposition = 'blocked' \
         AND (server_port = {} OR network_transport = 'unix')",
        server.port
    )
}
