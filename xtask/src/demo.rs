//! README command 1: makes the machine ready, runs weir against a real PostgreSQL and shows what it captured.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::clickhouse::ClickHouse;
use crate::postgres::Postgres;
use crate::scratch::{self, Scratch};
use crate::setup::{self, Need};
use crate::shell;
use crate::terminal::{self, Step, style};
use crate::weir::Weir;

/// Run weir against a real PostgreSQL: installs what is missing, drives traffic, shows what was captured.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask demo --keep")]
pub struct Args {
    /// Keep PostgreSQL and the agent running afterwards, until Enter or Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// What the demo does with psql: a statement each, as a person would type them.
const TYPED: &[&str] = &[
    "select name, email from customers where id = 42",
    "insert into customers (name, email) select 'guest ' || g, 'guest' || g || '@example.com' from generate_series(1, 25) g",
    "update customers set name = upper(name) where id <= 10",
    "select * from no_such_table",
    "delete from customers",
];

const SHOWN: &str = "SELECT formatDateTime(time, '%H:%i:%S') AS at, \
     splitByChar('/', process_executable_path)[-1] AS process, process_pid AS pid, process_owner AS owner, db_user AS user, \
     ifNull(toString(coalesce(db_response_affected_rows, db_response_returned_rows)), '-') AS rows, \
     concat(toString(round(duration_ns / 1e6, 2)), ' ms') AS took, db_response_status_code AS error, \
     db_query_text AS statement \
     FROM weir.events WHERE event_kind = 'statement' AND server_port = {port} AND process_executable_path LIKE '%psql' \
     ORDER BY time, batch_index FORMAT PrettyCompactMonoBlock";

impl Args {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            bail!("weir loads kernel programs: run this as root");
        }
        setup::ensure(&[Need::Build, Need::Engine, Need::Postgres])?;
        terminal::headline("Build");
        let binary = build::weir(Profile::Release)?;
        terminal::headline("Start");
        let mut step =
            Step::start("PostgreSQL", "a server of its own, on a free port, in a temporary directory");
        let server = Postgres::start(&[])?;
        step.alive("tables");
        server.pgbench_tables(1)?;
        server.quietly(
            "create table customers (id serial primary key, name text, email text); \
             insert into customers (name, email) select 'customer ' || g, 'c' || g || '@example.com' \
             from generate_series(1, 100) g; create role alice login; grant all on all tables in schema public to alice; \
             grant all on all sequences in schema public to alice",
        )?;
        step.done(&format!("127.0.0.1:{}", server.port));
        let (mut agent, clickhouse) = start(&binary)?;
        terminal::headline("Traffic");
        let processed = drive(&server)?;
        show(&server, &clickhouse, processed)?;
        if self.keep {
            keep(&server, &clickhouse)?;
        }
        terminal::headline("Stop");
        let step = Step::start("agent and servers", "nothing is left behind");
        let status = agent.stop()?;
        drop((agent, server));
        if !status.success() {
            bail!("weir ended with {status}");
        }
        let traces = scratch::traces(&scratch::run());
        if !traces.is_empty() {
            bail!("left behind:\n{}", traces.join("\n"));
        }
        step.done("");
        Ok(ExitCode::SUCCESS)
    }
}

fn start(binary: &Path) -> Result<(Weir, ClickHouse)> {
    let step = Step::start("weir run", "loads its kernel programs and the embedded ClickHouse");
    let (agent, clickhouse) = Weir::run(binary, Scratch::new("agent")?, "redaction: {default: none}\n")?;
    step.done(&format!("ready; process {}", agent.pid()));
    Ok((agent, clickhouse))
}

/// Real clients over TCP; returns how many transactions pgbench counted.
fn drive(server: &Postgres) -> Result<u64> {
    let step = Step::start("psql", "five sessions of user alice, one statement each");
    for statement in TYPED {
        // Statements that fail are part of it.
        server.client("psql").env("PGUSER", "alice").args(["-X", "-q", "-c", statement]).output()?;
    }
    step.done("");
    let step = Step::start("pgbench", "8 clients, 20,000 prepared SELECTs");
    let mut pgbench = server.client("pgbench");
    pgbench.args(["-n", "-S", "-M", "prepared", "-c", "8", "-j", "2", "-t", "2500"]);
    let said = shell::output(&mut pgbench)?;
    let processed = said
        .lines()
        .find_map(|l| {
            l.strip_prefix("number of transactions actually processed: ")?.split('/').next()?.parse().ok()
        })
        .context("pgbench counted nothing")?;
    let tps = said.lines().find_map(|l| l.strip_prefix("tps = ")?.split('.').next()).unwrap_or("?");
    step.done(&format!("{processed} transactions, {tps} a second"));
    Ok(processed)
}

fn show(server: &Postgres, clickhouse: &ClickHouse, processed: u64) -> Result<()> {
    let fancy = terminal::fancy();
    let port = server.port;
    let of_pgbench = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND server_port = {port} \
         AND process_executable_path LIKE '%pgbench' AND db_operation_name = 'SELECT' AND db_collection_name = 'pgbench_accounts'"
    );
    let lost = "SELECT count() FROM weir.events WHERE event_kind = 'loss' AND error_type != 'agent_down'";
    let began = Instant::now();
    let mut stored = 0;
    while stored < processed && began.elapsed() < Duration::from_secs(20) {
        // Receipts arrive in batches; the tables are made with the first one.
        stored = clickhouse.number(&of_pgbench).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(200));
    }
    terminal::headline("Captured: what psql did, as ClickHouse tells it");
    print!("{}", clickhouse.query(&SHOWN.replace("{port}", &port.to_string()))?);
    terminal::headline("Counted");
    let equal = stored == processed;
    println!(
        "  pgbench says {processed} transactions, ClickHouse has {stored} of them: {}",
        if equal { style(fancy, "32", "equal") } else { style(fancy, "31", "NOT EQUAL") }
    );
    println!("  losses told: {}", clickhouse.number(lost)?);
    terminal::headline("Try (with `cargo xtask demo --keep`)");
    for sql in [
        "SELECT db_query_summary, count(), quantile(0.99)(duration_ns) / 1e6 AS p99_ms FROM weir.events GROUP BY 1 ORDER BY 2 DESC FORMAT PrettyCompact",
        "SELECT db_query_text, process_command_line FROM weir.events WHERE statement_unbounded FORMAT Vertical",
        "SELECT minute, sum(statements) FROM weir.statements_per_minute GROUP BY 1 FORMAT PrettyCompact",
    ] {
        println!("  {}", clickhouse.example(sql));
    }
    println!(
        "  dashboards: point Grafana's ClickHouse data source at {} and import dashboards/*.json",
        clickhouse.url
    );
    if !equal {
        bail!("pgbench counted {processed} transactions, ClickHouse has {stored}");
    }
    Ok(())
}

fn keep(server: &Postgres, clickhouse: &ClickHouse) -> Result<()> {
    terminal::headline("Running until you press Enter");
    println!("  psql -h 127.0.0.1 -p {} -U alice postgres", server.port);
    println!(
        "  {}",
        clickhouse.example("SELECT * FROM weir.events ORDER BY time DESC LIMIT 1 FORMAT Vertical")
    );
    // An end of input (no terminal) is no Enter: wait for a signal then.
    if std::io::stdin().read_line(&mut String::new())? == 0 {
        let _ = Command::new("sleep").arg("infinity").status();
    }
    Ok(())
}
