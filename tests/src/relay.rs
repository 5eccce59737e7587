//! A relay before a server that keeps what clients get to see. It changes nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// Odd, so that messages are torn.
const PIECE: usize = 1777;

/// A listening relay. Gone when dropped, with its sessions.
pub struct Relay {
    /// Where it listens, on IPv4 loopback.
    pub port: u16,
    told: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// Relays to this port of IPv4 loopback.
    pub fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (told, over) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicBool>::default());
        let (into, stop) = (Arc::clone(&told), Arc::clone(&over));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let _ = open(client, server, &into);
            }
        });
        Ok(Self { port, told, over })
    }

    /// Every byte that clients got so far.
    pub fn told(&self) -> Vec<u8> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn open(client: TcpStream, server: u16, told: &Arc<Mutex<Vec<u8>>>) -> Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (to_client, to_server, told) = (client.try_clone()?, server.try_clone()?, Arc::clone(told));
    std::thread::spawn(move || {
        let _ = pass(server, &to_client, |bytes| {
            told.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        });
        let _ = to_client.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let _ = pass(client, &to_server, |_| {});
        let _ = to_server.shutdown(Shutdown::Write);
    });
    Ok(())
}

fn pass(mut from: TcpStream, mut to: &TcpStream, mut see: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = [0; PIECE];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        see(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}
