//! Sources -> the container image.

use std::process::ExitCode;

/// Build the container image.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("image is not built yet")
    }
}
