//! The command line: one file for each command, each with its arguments and what it does.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod clickhouse;
pub mod doctor;
pub mod explain;
pub mod replay;
pub mod run;
pub mod shim;
pub mod tap;
pub mod verify;

/// weir measures and gates the flow into databases.
#[derive(Parser)]
#[command(name = "weir", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Tap(tap::Args),
    Replay(replay::Args),
    Explain(explain::Args),
    Clickhouse(clickhouse::Args),
    Verify(verify::Args),
    Doctor(doctor::Args),
    Shim(shim::Args),
}

impl Cli {
    /// Runs the command that was asked for.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Tap(args) => args.run(),
            Command::Replay(args) => args.run(),
            Command::Explain(args) => args.run(),
            Command::Clickhouse(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Doctor(args) => args.run(),
            Command::Shim(args) => args.run(),
        }
    }
}
