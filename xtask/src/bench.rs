//! The numbers, each against its peer in the same run: tables for a person, JSON for a machine.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::build::{self, Profile};
use crate::setup::{self, Need};
use crate::{shell, terminal};

mod conditions; // this machine -> what a number hangs on
mod load; // pgbench -> transactions
mod overhead; // what watching costs the database
mod pipeline; // how fast captured bytes become statements
mod routes; // what watching costs over TLS and Unix sockets, and those who have nothing to do with it
mod store; // how fast events become rows, and how small
mod explain; // texts -> statements a second, verdicts
mod gate; // what holding statements costs
mod prevent; // how much of what is dangerous is executed
mod kill; // how fast a session is ended
mod verify; // how fast receipts are verified

/// Measure, each number against its peers in the same run.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench overhead --rounds 5 --seconds 10
  cargo xtask bench pipeline --json")]
pub struct Args {
    /// Only this one: overhead, tls, unix, syscalls, pipeline, store, explain, verify, gate, prevent
    /// or kill
    name: Option<String>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Rounds of `overhead`, `tls`, `unix`, `syscalls` and `gate`: every configuration runs once in each
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each run in `overhead`, `tls`, `unix` and `gate`
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Transactions recorded for `pipeline`
    #[arg(long, default_value_t = 300_000)]
    transactions: u32,
    /// Rows stored in `store`
    #[arg(long, default_value_t = 2_000_000)]
    rows: u32,
    /// Receipts checked in `verify`
    #[arg(long, default_value_t = 1_000_000)]
    receipts: u32,
    /// Mixed statements of each driver by each route in `prevent`, every fourth a dangerous one
    #[arg(long, default_value_t = 2_000)]
    statements: u32,
    /// Messages of the stream that is cut anywhere, in `prevent`
    #[arg(long, default_value_t = 100_000)]
    messages: u32,
    /// Sessions ended in `kill`
    #[arg(long, default_value_t = 300)]
    kills: u32,
}

/// A table: what was measured, its heads, its lines.
struct Table {
    title: String,
    heads: Vec<&'static str>,
    lines: Vec<Vec<String>>,
}

const NAMES: &[&str] = &[
    "overhead", "tls", "unix", "syscalls", "pipeline", "store", "explain", "verify", "gate", "prevent",
    "kill",
];

impl Args {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        if let Some(name) = &self.name
            && !NAMES.contains(&name.as_str())
        {
            bail!("there is no bench {name:?}; there are {}", NAMES.join(", "));
        }
        if !rustix::process::geteuid().is_root() {
            bail!("weir loads kernel programs: run this as root");
        }
        let mut needs = vec![Need::Build, Need::Engine, Need::Postgres, Need::Peers];
        if self.name.as_ref().is_none_or(|name| name == "prevent") {
            needs.extend([Need::Drivers, Need::Clients]);
        }
        setup::ensure(&needs)?;
        terminal::headline("Build");
        // A binary that is there already, as for the tests.
        let weir = match std::env::var_os("XTASK_WEIR") {
            Some(built) => built.into(),
            None => build::weir(Profile::Release)?,
        };
        let conditions = conditions::now();
        let mut results = json!({ "conditions": conditions });
        for name in NAMES.iter().filter(|n| self.name.as_ref().is_none_or(|only| only == **n)) {
            terminal::headline(name);
            let processors = conditions::Processors::begin();
            let (value, table) = match *name {
                "overhead" => overhead::run(&weir, self.rounds, self.seconds)?,
                "tls" => routes::run(routes::Way::Tls, &weir, self.rounds, self.seconds)?,
                "unix" => routes::run(routes::Way::Unix, &weir, self.rounds, self.seconds)?,
                "syscalls" => routes::syscalls(&weir, self.rounds)?,
                "pipeline" => pipeline::run(&weir, self.transactions)?,
                "explain" => explain::run()?,
                "gate" => gate::run(&weir, self.rounds, self.seconds)?,
                "verify" => verify::run(self.receipts)?,
                "prevent" => prevent::run(&weir, self.statements, self.messages)?,
                "kill" => kill::run(&weir, self.kills)?,
                _ => store::run(self.rows)?,
            };
            let stolen = processors.stolen_percent();
            results[*name] = value;
            results["stolen_percent"][*name] = rounded(stolen);
            if !self.json {
                print(&table);
                if stolen >= 1.0 {
                    println!(
                        "{stolen:.0} % of the processors' time was taken from this virtual machine meanwhile: other numbers \
                         will come another time"
                    );
                }
            }
        }
        if self.json {
            println!("{results}");
        } else {
            println!("\nMeasured on: {}", conditions::sentence(&conditions));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds an example with optimisations, runs it and reads the JSON object that is its last line.
fn example(package: &str, name: &str, argument: Option<u32>) -> Result<Value> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--release", "--package", package, "--bins", "--example", name]);
    shell::step(name, "compiling", &mut cargo)?;
    let mut bench = std::process::Command::new(build::target().join("release/examples").join(name));
    let said = shell::output(bench.args(argument.map(|n| n.to_string())))?;
    let last = said.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("{name} printed {last:?}"))
}

fn print(table: &Table) {
    println!("\n{}", table.title);
    let width = |column: usize| {
        let cells = table.lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count());
        cells.chain([table.heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).enumerate();
        let padded = cells.map(|(n, (c, w))| if n == 0 { format!("{c:<w$}") } else { format!("{c:>w$}") });
        padded.collect::<Vec<_>>().join("  ")
    };
    println!("  {}", line(&mut table.heads.iter().copied()));
    for cells in &table.lines {
        println!("  {}", line(&mut cells.iter().map(String::as_str)));
    }
}

/// The value in the middle; of none, not a number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The value below which this part of the sorted ones lies; of none, not a number.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * at) as usize).copied().unwrap_or(f64::NAN)
}

/// 1234567 -> `1,234,567`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A JSON number rounded to four places: what is measured is not known better.
fn rounded(number: f64) -> Value {
    json!((number * 10_000.0).round() / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_groups() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9 && (median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!((grouped(12.0), grouped(123.4)), ("12".to_owned(), "123".to_owned()));
    }
}
