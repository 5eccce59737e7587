//! Sessions at work in the background: each executes one prepared statement over and over, and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::wire::{self, Wire};

/// Four sessions under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<Result<u64>>>,
}

impl Load {
    /// Starts them on a server with the pgbench tables.
    pub fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let session = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || work(port, &stop))
        };
        Self { sessions: (0..4).map(session).collect(), stop }
    }

    /// Ends them; how many statements they executed in all. Any error of any session is an error here.
    pub fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut executed = 0;
        for session in self.sessions {
            match session.join() {
                Ok(counted) => executed += counted?,
                Err(_) => bail!("a session panicked"),
            }
        }
        Ok(executed)
    }
}

fn work(port: u16, stop: &AtomicBool) -> Result<u64> {
    let mut wire = Wire::login(("127.0.0.1", port))?;
    wire.send(
        &[wire::extended("s", "select abalance from pgbench_accounts where aid = 7"), wire::sync()].concat(),
    )?;
    wire.until_ready()?;
    let again = [wire::execute("s"), wire::sync()].concat();
    let mut executed = 1;
    while !stop.load(Ordering::Relaxed) {
        wire.send(&again)?;
        let types = wire.until_ready()?;
        if types.contains(&b'E') {
            bail!("the server answered with an error after {executed} statements");
        }
        executed += 1;
        // A steady pace, far below what the server can do: this is about what is kept, not about speed.
        std::thread::sleep(Duration::from_micros(500));
    }
    wire.send(&wire::message(b'X', b""))?;
    Ok(executed)
}
