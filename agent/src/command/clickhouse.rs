//! `weir clickhouse`: the embedded ClickHouse engine behind ClickHouse's HTTP interface.

use std::process::ExitCode;

/// Serve the embedded ClickHouse engine over HTTP.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("clickhouse is not built yet")
    }
}
