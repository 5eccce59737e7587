//! A running `weir tap` -> events, all that it printed once it has ended.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_core::event::{Event, EventKind};
use anyhow::{Context, Result, bail};
use xtask::weir::Weir;

/// A tap that writes JSON lines, unredacted, into its directory.
pub struct Tap {
    /// The process.
    pub weir: Weir,
}

impl Tap {
    /// Starts it and waits until it is attached.
    pub fn start(more: &[&str]) -> Result<Self> {
        let mut arguments = vec!["tap", "--format", "jsonl", "--redact", "none"];
        arguments.extend(more);
        Ok(Self { weir: Weir::start(&arguments)? })
    }

    /// Ends it and reads what it saw of one server's port. Others' traffic on this host is not ours.
    pub fn finish(self, port: u16) -> Result<Vec<Event>> {
        self.end(|event| of_port(event, port))
    }

    /// Ends it and reads what it saw of one server's Unix socket.
    pub fn finish_unix(self, port: u16) -> Result<Vec<Event>> {
        let name = format!("/.s.PGSQL.{port}");
        self.end(|event| {
            event.server_address.ends_with(&name)
                || event.server_address.is_empty() && &*event.network_transport != "unix"
        })
    }

    /// Ends it and reads what it saw of one server, by TCP and by its Unix socket.
    pub fn finish_both(self, port: u16) -> Result<Vec<Event>> {
        let name = format!("/.s.PGSQL.{port}");
        self.end(|event| of_port(event, port) || event.server_address.ends_with(&name))
    }

    /// Ends it and reads everything that it saw, of whatever connection of this host.
    pub fn finish_all(self) -> Result<Vec<Event>> {
        self.end(|_| true)
    }

    fn end(mut self, ours: impl Fn(&Event) -> bool) -> Result<Vec<Event>> {
        let status = self.weir.stop()?;
        if !status.success() {
            bail!("weir tap ended with {status}: {}", self.weir.said());
        }
        // Shown by the test runner where the test fails.
        eprint!("{}", self.weir.said());
        events(&self.weir.out(), ours)
    }

    /// Waits until an event of that port satisfies `wanted`.
    pub fn wait_for(&self, port: u16, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if let Some(event) = read(&self.weir.out(), port)?.into_iter().find(|e| wanted(e)) {
                return Ok(event);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no event for half a minute: {what}; weir said: {}", self.weir.said())
    }
}

/// The events of a JSON lines file whose server port is `port`, and those that belong to no connection.
/// A last line that is not whole yet is left alone.
pub fn read(file: &Path, port: u16) -> Result<Vec<Event>> {
    events(file, |event| of_port(event, port))
}

/// Every event of the file, of whatever connection of this host.
pub fn all(file: &Path) -> Result<Vec<Event>> {
    events(file, |_| true)
}

/// Over TCP: what runs over a Unix socket beside a test is housekeeping.
fn of_port(event: &Event, port: u16) -> bool {
    event.server_port == port || event.server_port == 0 && &*event.network_transport != "unix"
}

fn events(file: &Path, ours: impl Fn(&Event) -> bool) -> Result<Vec<Event>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let mut events = Vec::new();
    for line in bytes[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let event: Event = serde_json::from_slice(line)
            .with_context(|| format!("not an event: {}", String::from_utf8_lossy(line)))?;
        if ours(&event) {
            events.push(event);
        }
    }
    Ok(events)
}

/// The statements among events.
pub fn statements(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| e.event_kind == EventKind::Statement).collect()
}

/// The losses among events, in words: empty where nothing was lost.
pub fn losses(events: &[Event]) -> Vec<String> {
    let lost = events.iter().filter(|e| e.event_kind == EventKind::Loss || e.capture_lost_before > 0);
    lost.map(|e| format!("port {}: {} bytes, {}", e.client_port, e.capture_lost_before, e.error_type))
        .collect()
}
