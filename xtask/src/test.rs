//! README command 2: makes the machine ready, runs every test there is, says how many passed and failed.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build::{self, Profile};
use crate::setup::{self, Need};
use crate::terminal::{self, Step};
use crate::{scratch, shell};

mod architecture; // who may import whom, head comments, sizes, names that stay in their room
mod dependencies; // deny.toml -> licences, sources and bans of every crate
mod report; // what a test program printed -> counts

use report::Tally;

/// Run every test: checks, unit tests, fuzz bodies, end to end with real databases. Ends with `N passed, M failed`.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask test --only oracle")]
pub struct Args {
    /// Only the parts, and within `unit` and `end-to-end` the tests, whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Say what there is and run nothing.
    #[arg(long)]
    list: bool,
}

/// A part of the run.
struct Part {
    name: &'static str,
    what: &'static str,
    run: fn(&Filter, &mut Tally),
}

/// Which tests of a part are wanted; empty: all.
struct Filter(String);

const PARTS: &[Part] = &[
    Part { name: "format", what: "every file is formatted", run: format },
    Part {
        name: "architecture",
        what: "the crate street, head comments, sizes, laws",
        run: architecture::run,
    },
    Part { name: "dependencies", what: "licences, sources and bans of deny.toml", run: dependencies::run },
    Part { name: "clippy", what: "no warning anywhere", run: clippy },
    Part { name: "unit", what: "pure logic, properties, fuzz bodies", run: unit },
    Part {
        name: "end-to-end",
        what: "a live kernel, real databases and clients; needs root",
        run: end_to_end,
    },
];

impl Args {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        let only = self.only.unwrap_or_default();
        if self.list {
            return list();
        }
        let began = Instant::now();
        let whole: Vec<&Part> = PARTS.iter().filter(|p| p.name.contains(&only)).collect();
        // A name that is no part's is that of a test within the two parts that have some.
        let (parts, filter) = if whole.is_empty() {
            (PARTS.iter().filter(|p| ["unit", "end-to-end"].contains(&p.name)).collect(), Filter(only))
        } else {
            (whole, Filter(String::new()))
        };
        let mut needs = vec![Need::Build, Need::Lint, Need::Engine];
        if parts.iter().any(|p| p.name == "end-to-end") {
            if !rustix::process::geteuid().is_root() {
                bail!("the end-to-end tests load kernel programs: run this as root");
            }
            needs.extend([Need::Postgres, Need::Peers, Need::Drivers, Need::Clients, Need::Versions]);
        }
        setup::ensure(&needs)?;
        let mut tally = Tally::default();
        for part in parts {
            terminal::headline(&format!("{}: {}", part.name, part.what));
            (part.run)(&filter, &mut tally);
        }
        if !filter.0.is_empty() && tally.tests == 0 && tally.failed() == 0 {
            bail!("no test has a name with {:?} in it; `cargo xtask test --list` shows all", filter.0);
        }
        tally.print_failures();
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        eprintln!("\n  {minutes:.1} minutes in all");
        println!("{} passed, {} failed", tally.passed, tally.failed());
        Ok(if tally.failed() == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn list() -> Result<ExitCode> {
    for part in PARTS {
        println!("{}: {}", part.name, part.what);
        let text = match part.name {
            "unit" | "end-to-end" => {
                let mut cargo = tests(part.name == "end-to-end")?;
                shell::output(cargo.args(["--quiet", "--", "--list"]))?
            }
            _ => continue,
        };
        let names: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_suffix(": test")).collect();
        for name in names {
            println!("  {name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn format(_: &Filter, tally: &mut Tally) {
    tally.check("format", || shell::output(shell::cargo().args(["fmt", "--all", "--check"])).map(|_| ()));
}

fn clippy(_: &Filter, tally: &mut Tally) {
    let mut step = Step::start("clippy", "compiles everything once");
    let mut cargo = shell::cargo();
    cargo.args([
        "clippy",
        "--locked",
        "--workspace",
        "--exclude",
        "agent-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let outcome = shell::stream(&mut step, &mut cargo, |_| ());
    if outcome.is_ok() {
        step.done("");
    } else {
        step.failed();
    }
    tally.check("clippy", || outcome);
}

/// The command for the tests of all crates, or for those of the crate `tests`, which need root and servers. Both name
/// the same packages: else cargo would unite other features and compile every crate twice.
fn tests(end_to_end: bool) -> Result<Command> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let mut cargo = shell::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast", "--workspace", "--exclude", "agent-ebpf"]);
    if !end_to_end {
        cargo.args(["--lib", "--bins"]);
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut names = BTreeSet::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            let name = target["name"].as_str().unwrap_or_default();
            if target["kind"][0] != "test" {
                continue;
            }
            // Cargo would take both, here and there.
            if !names.insert(name.to_owned()) {
                bail!("two test programs are named {name}: rename one of them");
            }
            if (package["name"] == "tests") == end_to_end {
                cargo.args(["--test", name]);
            }
        }
    }
    Ok(cargo)
}

fn unit(filter: &Filter, tally: &mut Tally) {
    match tests(false) {
        Ok(mut cargo) => tally.tests("unit tests", "compiles them first", cargo.args(["--", &filter.0])),
        Err(error) => tally.fail("unit tests", &format!("{error:#}")),
    }
}

fn end_to_end(filter: &Filter, tally: &mut Tally) {
    let weir = match build::weir(Profile::Release) {
        Ok(weir) => weir,
        Err(error) => return tally.fail("weir builds", &format!("{error:#}")),
    };
    let run = std::process::id().to_string();
    let mut cargo = match tests(true) {
        Ok(cargo) => cargo,
        Err(error) => return tally.fail("end to end", &format!("{error:#}")),
    };
    cargo.args(["--", "--test-threads=1", &filter.0]);
    cargo.env("XTASK_WEIR", weir).env(scratch::RUN, &run);
    tally.tests("end to end", "real servers, real clients; some minutes", &mut cargo);
    tally.check("nothing is left behind", || {
        let traces = scratch::traces(&run);
        if traces.is_empty() { Ok(()) } else { bail!("left behind:\n{}", traces.join("\n")) }
    });
}

impl Tally {
    /// Runs a test program and counts what it reports.
    fn tests(&mut self, title: &str, note: &str, command: &mut Command) {
        let mut step = Step::start(title, note);
        let before = (self.passed, self.failed());
        let mut lines = report::Lines::default();
        let outcome = shell::stream(&mut step, command, |line| lines.take(line, self));
        lines.end(self);
        if let Err(error) = outcome {
            // Tests that failed are counted; a program that did not build or died is a failure of its own.
            if self.failed() == before.1 {
                self.fail(title, &format!("{error:#}"));
            }
        }
        self.tests += self.passed + self.failed() - before.0 - before.1;
        let counts = format!("{} passed, {} failed", self.passed - before.0, self.failed() - before.1);
        if self.failed() == before.1 { step.done(&counts) } else { step.failed() }
    }
}
