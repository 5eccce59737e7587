//! stub
use std::process::ExitCode;
/// stub
#[derive(clap::Args)]
pub struct Args {}
impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        anyhow::bail!("not built yet")
    }
}
