//! The shim's sockets: one for each lane, both ends of connections that it has with itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, Queue, SockHash};

/// How many more sockets than connections there are.
pub(super) const SPARE: usize = 128;
/// How many are made at once.
const MORE: usize = 128;

/// Sockets by lane.
pub(super) struct Pool {
    sockets: Vec<OwnedFd>,
    shims: SockHash<MapData, u64>,
    serves: HashMap<MapData, u32, u32>,
    free: Queue<MapData, u32>,
    most: usize,
}

impl Pool {
    pub(super) fn new(shims: MapData, serves: MapData, free: MapData, most: usize) -> anyhow::Result<Self> {
        let mut free = Queue::try_from(Map::Queue(free))?;
        // Lanes that another shim had prepared have its sockets.
        while free.pop(0).is_ok() {}
        Ok(Self {
            sockets: Vec::new(),
            shims: SockHash::try_from(Map::SockHash(shims))?,
            serves: HashMap::try_from(Map::HashMap(serves))?,
            free,
            most,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn socket(&self, lane: usize) -> Option<&OwnedFd> {
        self.sockets.get(lane)
    }

    /// The lane may be used again.
    pub(super) fn free(&mut self, lane: usize) {
        if let Err(error) = self.free.push(lane as u32, 0) {
            tracing::error!(%error, lane, "a lane of the gate is lost");
        }
    }

    /// Makes more of them. `is_free`: a lane may be used by a new connection.
    pub(super) fn grow(&mut self, is_free: impl Fn(usize) -> bool) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let more = MORE.min(self.most - self.sockets.len()) / 2;
        for _ in 0..more {
            let near = TcpStream::connect(address)?;
            let own = near.local_addr()?;
            // Anybody may connect to a port of this host.
            let far = loop {
                let (far, peer) = listener.accept()?;
                if peer == own {
                    break far;
                }
            };
            self.add(near, own, address, &is_free)?;
            self.add(far, address, own, &is_free)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        stream: TcpStream,
        own: SocketAddr,
        other: SocketAddr,
        is_free: &impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let lane = self.sockets.len();
        let socket = OwnedFd::from(stream);
        let ports = u32::from(own.port()) << 16 | u32::from(other.port());
        self.serves.insert(ports, lane as u32, 0).map_err(io::Error::other)?;
        self.shims.insert(lane as u64, socket.as_raw_fd(), 0).map_err(io::Error::other)?;
        self.sockets.push(socket);
        if is_free(lane) {
            self.free(lane);
        }
        Ok(())
    }
}
