//! `weir verify`: checks the receipt chain, from ClickHouse or from a file.

use std::process::ExitCode;

/// Check the receipt chain.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("verify is not built yet")
    }
}
