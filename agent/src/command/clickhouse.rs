//! `weir clickhouse`: the embedded ClickHouse engine behind ClickHouse's HTTP interface.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::store::{engine, server::Server};

/// Serve the embedded ClickHouse engine over HTTP.
///
/// Whoever reaches the address may read and write: it listens on this host only unless told otherwise.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weir clickhouse --path /var/lib/weir/clickhouse\n  \
    curl 'http://127.0.0.1:8123/?query=SELECT+version()'")]
pub struct Args {
    /// Directory that holds the data; created where it is missing.
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8123")]
    listen: SocketAddr,
    /// The engine, libchdb.so. Else: $WEIR_LIBCHDB, beside this program, the user's cache, /usr/lib/weir,
    /// /usr/local/lib.
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// End when standard input ends: with the process that holds its other end.
    #[arg(long, hide = true)]
    with_parent: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let library = engine::find_library(self.library.as_deref())?;
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(async {
            // Before the engine starts, so that a signal during its start is not lost.
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let orphaned = std::sync::Arc::new(tokio::sync::Notify::new());
            if self.with_parent {
                let orphaned = std::sync::Arc::clone(&orphaned);
                crate::store::embedded::when_parent_ends(move || orphaned.notify_one());
            }
            let server = Server::open(&library, &self.path, self.listen).await?;
            eprintln!("ready http://{}", server.address()?);
            server
                .run(async move {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        () = orphaned.notified() => {}
                    }
                })
                .await;
            anyhow::Ok(())
        })?;
        // The engine's background threads cannot all be joined (`chdb_shutdown` refuses while tables are
        // open); what was acknowledged is on disk, so the process ends without running their destructors.
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    }
}
