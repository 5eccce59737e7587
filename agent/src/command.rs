//! The command line: one file for each command, each with its arguments and what it does.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub mod approve; // pending, approve, deny
pub mod catalog;
pub mod clickhouse;
pub mod database; // arguments of those that read the store
pub mod doctor;
pub mod explain;
pub mod key;
pub mod operate; // kill, gate
pub mod policy;
pub mod replay;
pub mod report;
pub mod run;
pub mod session; // what `run` and `tap` share: a live capture from attach to end
pub mod shim;
pub mod tap;
pub mod values; // arguments that more than one command takes
pub mod verify;

/// weir measures and gates the flow into databases.
///
/// It reads the traffic of database sockets in the kernel, without changing a connection, ties every statement to
/// the process that sent it, judges it by policy and stores a tamper-evident receipt in ClickHouse.
#[derive(Parser)]
#[command(
    name = "weir",
    version,
    propagate_version = true,
    after_help = "Examples:
  weir tap                      watch every statement on this host
  weir run                      the agent, with the embedded ClickHouse
  weir pending                  held statements that wait for somebody to approve them
  weir doctor                   what this host supports, and what stays blind
  weir explain 'DELETE FROM t'  what a statement does
  weir completions bash         shell completion"
)]
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
    Policy(policy::Args),
    Pending(approve::Pending),
    Approve(approve::Approve),
    Deny(approve::Deny),
    Kill(operate::Kill),
    Gate(operate::Gate),
    Catalog(catalog::Args),
    Clickhouse(clickhouse::Args),
    Verify(verify::Args),
    Key(key::Args),
    Report(report::Args),
    Doctor(doctor::Args),
    #[command(hide = true)]
    Shim(shim::Args),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Runs the command that was asked for.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Tap(args) => args.run(),
            Command::Replay(args) => args.run(),
            Command::Explain(args) => args.run(),
            Command::Policy(args) => args.run(),
            Command::Pending(args) => args.run(),
            Command::Approve(args) => args.run(),
            Command::Deny(args) => args.run(),
            Command::Kill(args) => args.run(),
            Command::Gate(args) => args.run(),
            Command::Catalog(args) => args.run(),
            Command::Clickhouse(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Key(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Doctor(args) => args.run(),
            Command::Shim(args) => args.run(),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "weir", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
