//! `weir explain`: statement text in, what it does out.

use std::process::ExitCode;

/// Say what a statement does.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("explain is not built yet")
    }
}
