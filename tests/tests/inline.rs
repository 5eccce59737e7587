//! Statements held before the server has them: what a rule forbids is not executed, all else is as without the gate.
//! The oracle is the server's own log and data.

use std::fs;

use anyhow::{Context, Result, ensure};
use tests::client::{self, Route};
use tests::netns::NetNs;
use tests::server::{log_file, talkative};
use tests::stored::wait_for;
use tests::drivers;
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};

const POLICIES: &str = "kind: DatabasePolicy
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
fn guarding(server: &Postgres, policies: &str, config: &str) -> Result<(Weir, ClickHouse)> {
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(scratch.path().join("policies/gate.yaml"), policies)?;
    let config = format!("capture: {{ports: {{{}: postgresql}}}}\n{config}", server.port);
    Weir::run(&weir::binary()?, scratch, &config)
}

/// A run of a client program: its output with the gate before the server, and without what is forbidden.
type Run<'a> = &'a dyn Fn(&str, bool) -> Result<String>;

/// Runs a client twice, the second time without the forbidden statements, and compares.
fn same_but_refused(server: &Postgres, table: &str, run: Run<'_>) -> Result<usize> {
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
fn executed(server: &Postgres) -> Result<Vec<String>> {
    let log = fs::read_to_string(log_file(server)).context("the server's log")?;
    Ok(log.lines().filter(|line| line.contains("forbidden")).map(str::to_owned).collect())
}

fn blocked(server: &Postgres) -> String {
    format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND disposition = 'blocked' \
         AND server_port = {}",
        server.port
    )
}

#[test]
fn what_is_forbidden_is_not_executed_and_all_else_is_as_ever() -> Result<()> {
    let server = talkative()?;
    let namespace = NetNs::new()?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
    let mut refused = 0;
    let routes =
        [Route::loopback4(), Route::loopback6(), Route::veth4(&namespace), Route::veth6(&namespace)];
    for (number, route) in routes.iter().enumerate() {
        let seed = format!("{}", 7 + number);
        for driver in ["psycopg", "asyncpg"] {
            let run = |table: &str, dry: bool| {
                let mut arguments = vec![driver, table, "800", &seed];
                arguments.extend(dry.then_some("dry"));
                client::python(&server, route, "guarded.py", &arguments)
            };
            let count = same_but_refused(&server, &format!("{driver}{number}"), &run)
                .with_context(|| format!("{driver} by {}: {}", route.host, agent.said()))?;
            ensure!(count > 50, "{driver} was refused {count} times only");
            refused += count;
        }
        let run = |table: &str, dry: bool| {
            let mut arguments = vec![table, "800", &seed];
            arguments.extend(dry.then_some("dry"));
            drivers::java(&server, route, "Guarded.java", &arguments)
        };
        let count = same_but_refused(&server, &format!("jdbc{number}"), &run)
            .with_context(|| format!("pgjdbc by {}: {}", route.host, agent.said()))?;
        ensure!(count > 50, "pgjdbc was refused {count} times only");
        refused += count;
    }
    assert_eq!(executed(&server)?, Vec::<String>::new());
    // Of a batch, or of several statements in one message, each is told as blocked.
    let told = wait_for(&clickhouse, &blocked(&server), |n| n >= refused as u64)?;
    assert!(told >= refused as u64, "{told} of {refused}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
