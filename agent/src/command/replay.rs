//! `weir replay`: pcap and pcapng files through the same pipeline as live traffic.

use std::process::ExitCode;

/// Read statements from capture files.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("replay is not built yet")
    }
}
