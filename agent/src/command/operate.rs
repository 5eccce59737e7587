//! `weir kill` and `weir gate`: the operator's hand on a running agent.

use std::process::ExitCode;

use serde_json::{Map, Value};

use super::approve::Socket;
use crate::show::Format;
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
  weir gate status --format jsonl | jq .canary

With `gate.canary`, `canary` counts for each rule in monitor mode what the gate would have done, how often capture judged
the same statement alike, and how often it was not in the gate. Only root may. Exit status 1: it was not done, and why.")]
pub struct Gate {
    /// What is to be done
    #[arg(value_enum)]
    switch: Switch,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
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
        let told = self.socket.client().gate(switch)?;
        match self.format {
            Format::Table => print(&told),
            Format::Jsonl => println!("{}", Value::Object(told)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One line for each thing that is said.
fn print(told: &Map<String, Value>) {
    for (name, value) in told {
        if let Value::Object(rules) = value {
            for (rule, counts) in rules {
                let counts = counts.as_object().into_iter().flatten();
                let counts: Vec<_> = counts.map(|(what, count)| format!("{what} {count}")).collect();
                println!("{name} {}: {}", cell(rule), counts.join(", "));
            }
            continue;
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!("{name}: {}", cell(&value));
    }
}
