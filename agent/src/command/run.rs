//! `weir run`: the agent: capture, identify, judge, act, record, store.

use std::process::ExitCode;

/// Run the agent.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("run is not built yet")
    }
}
