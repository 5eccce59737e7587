//! `weir tap`: live statements to the terminal, stores nothing.

use std::process::ExitCode;

/// Show live statements, store nothing.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("tap is not built yet")
    }
}
