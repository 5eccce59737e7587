//! `weir key`: the key that signs the receipt chain: shown, or followed by another.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Subcommand;

use crate::store::key::KeyFile;
use crate::store::rotation_request;

/// How long a running agent may take to answer the wish for another key.
const PATIENCE: Duration = Duration::from_secs(10);

/// The key that signs the receipt chain: show it, or take another.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir key show                              the public keys, for `weir verify --key`
  weir key rotate --state /var/lib/weir      the agent signs with another key from now on")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the public keys of this agent, one JSON object a line, oldest first
    Show(State),
    /// Have the agent take another key: the present one signs what came before, and vouches for the next
    Rotate(State),
}

#[derive(clap::Args)]
struct State {
    /// The agent's state directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir", env = "WEIR_STATE")]
    state: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Show(State { state }) => {
                for key in known(&state)?.keys() {
                    println!("{}", serde_json::to_string(key)?);
                }
            }
            What::Rotate(State { state }) => {
                let before = known(&state)?.current().key_id;
                let request = rotation_request(&state);
                std::fs::write(&request, "")
                    .with_context(|| format!("cannot write {}", request.display()))?;
                let begun = Instant::now();
                while request.exists() && begun.elapsed() < PATIENCE {
                    std::thread::sleep(Duration::from_millis(50));
                }
                let now = known(&state)?.current().key_id;
                if now == before {
                    println!(
                        "no agent answers in {}: it takes another key at its next start",
                        state.display()
                    );
                } else {
                    println!("key {before} is followed by {now}");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn known(state: &std::path::Path) -> anyhow::Result<KeyFile> {
    KeyFile::read(state)?.with_context(|| {
        format!("no agent has a key in {}; say where with --state, as root", state.display())
    })
}
