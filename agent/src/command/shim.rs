//! `weir shim`: the small process that acts on connections for the agent.

use std::path::PathBuf;
use std::process::ExitCode;

/// Act on connections for the agent.
///
/// Started by `weir run` where a policy enforces; not meant to be run by hand. It gives up every privilege but
/// CAP_NET_ADMIN, serves one caller (root or its own user), and ends with it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weir shim --socket /run/weir/shim.sock")]
pub struct Args {
    /// Where to listen: a Unix SOCK_SEQPACKET socket.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        crate::gate::shim::serve(&self.socket)?;
        Ok(ExitCode::SUCCESS)
    }
}
