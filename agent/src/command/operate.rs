//! `weir kill` and `weir gate`: the operator's hand on a running agent.

use std::process::ExitCode;

use serde_json::{Map, Value};

use super::approve::Socket;
use crate::show::grid::cell;

/// End one session, and cancel what its server executes for it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir kill 4611686018427388123           `session_id` of its events
  weir tap --format jsonl | jq -r .session_id

Only root may. Exit status 1: it was not ended, and why.")]
pub struct Kill {
    /// The session: `session_id` of its events
    #[arg(value_name = "SESSION")]
    session: u64,
    #[command(flatten)]
    socket: Socket,
}

/// The gate's master switch: arm it, take it off every connection, or say how it stands.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir gate status
  weir gate off      lets go of everything that is held and detaches; rules go on watching
  weir gate on

Only root may. Exit status 1: it was not done, and why.")]
pub struct Gate {
    /// What is to be done
    #[arg(value_enum)]
    switch: Switch,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    /// Arm it
    On,
    /// Take it off every connection
    Off,
    /// Say how it stands
    Status,
}

impl Kill {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        print(&self.socket.client().kill(self.session)?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Gate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let switch = match self.switch {
            Switch::On => Some(true),
            Switch::Off => Some(false),
            Switch::Status => None,
        };
        print(&self.socket.client().gate(switch)?);
        Ok(ExitCode::SUCCESS)
    }
}

/// One line for each thing that is said.
fn print(told: &Map<String, Value>) {
    for (name, value) in told {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!("{name}: {}", cell(&value));
    }
}
