//! `weir doctor`: what this host supports and what stays blind, with cause and cure.

use std::process::ExitCode;

/// Say what this host supports and what stays blind.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("doctor is not built yet")
    }
}
