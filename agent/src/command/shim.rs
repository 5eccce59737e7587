//! `weir shim`: the small process that acts on connections for the agent.

use std::process::ExitCode;

/// Act on connections for the agent.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("shim is not built yet")
    }
}
