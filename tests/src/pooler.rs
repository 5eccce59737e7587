//! pgbouncer in front of a server -> two legs, on a free port and on a Unix socket.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xtask::postgres::Postgres;
use xtask::scratch::{self, Scratch};
use xtask::shell;

use crate::wire::Wire;

/// A running pgbouncer; ended when dropped.
pub struct Pooler {
    child: Child,
    _scratch: Scratch,
    /// Where it listens, on loopback and in the server's socket directory.
    pub port: u16,
}

impl Pooler {
    /// `mode`: `session` or `transaction`. `size`: connections to the server at most.
    pub fn start(server: &Postgres, mode: &str, size: usize) -> Result<Self> {
        let (scratch, port) = (Scratch::new("pgbouncer")?, scratch::free_port()?);
        let file = scratch.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir = {}\n\
             max_client_conn = 200\ndefault_pool_size = {size}\nignore_startup_parameters = extra_float_digits\n",
            server.port,
            server.socket_directory().display()
        );
        std::fs::write(&file, text)?;
        let program = shell::find("pgbouncer").context("pgbouncer is not installed")?;
        let mut pgbouncer = shell::server("TERM", program);
        pgbouncer.args(["-u", "postgres"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let pooler = Self { child: pgbouncer.spawn()?, _scratch: scratch, port };
        for _ in 0..200 {
            if Wire::connect(("127.0.0.1", port)).is_ok() {
                return Ok(pooler);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("pgbouncer does not listen")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
