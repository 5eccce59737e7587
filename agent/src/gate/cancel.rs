//! A session's cancel message -> its server: what a killed connection had asked for is not carried out after all.
//!
//! A server that works does not look at its client: without this, a statement outside of a transaction would be
//! executed and committed for nobody. One thread for each message, so that no verdict waits for a server.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_core::exchange::Cancel;
use agent_core::segment::Endpoint;

/// How long a server may take for each step.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages under way at once.
const MOST: usize = 64;

/// Cancel messages under way.
#[derive(Default)]
pub(super) struct Cancels {
    under_way: Arc<AtomicUsize>,
}

impl Cancels {
    /// Sends the message from the network namespace behind `entrance` (none: this one). Returns at once.
    pub(super) fn send(
        &self,
        server: Endpoint,
        interface: u32,
        cancel: &Cancel,
        entrance: Option<Arc<File>>,
    ) {
        let failed = move |error: io::Error| {
            tracing::warn!(server = %address(server, interface), %error, "a killed session's statement could not be cancelled");
        };
        if self.under_way.load(Ordering::Relaxed) >= MOST {
            return failed(io::Error::other("too many are under way"));
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let (under_way, cancel) = (Arc::clone(&self.under_way), cancel.clone());
        let deliver = move || {
            if let Err(error) = deliver(address(server, interface), cancel.bytes(), entrance.as_deref()) {
                failed(error);
            }
            under_way.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("cancel".into()).spawn(deliver) {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            failed(error);
        }
    }
}

fn address(end: Endpoint, interface: u32) -> SocketAddr {
    match end.address {
        IpAddr::V4(_) => (end.address, end.port).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, end.port, 0, interface).into(),
    }
}

/// Runs in a thread of its own: it does not come back from the namespace.
fn deliver(server: SocketAddr, message: &[u8], entrance: Option<&File>) -> io::Result<()> {
    if let Some(entrance) = entrance {
        nix::sched::setns(entrance, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(message)?;
    // The server answers nothing; it hangs up once it has done what was asked. A reset is as good.
    match stream.read(&mut [0]) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_arrives_whole() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let server = Endpoint { address: local.ip(), port: local.port() };
        let cancels = Cancels::default();
        cancels.send(server, 0, &Cancel::new(*b"stop"), None);
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = [0; 4];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"stop");
        drop(stream);
        while cancels.under_way.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_link_needs_its_interface() {
        let end = Endpoint { address: "fe80::1".parse().unwrap(), port: 5432 };
        assert_eq!(address(end, 7).to_string(), "[fe80::1%7]:5432");
    }
}
