//! The shim's sockets: for each lane one that has what is held, and where answers go through the shim a connection for
//! them. All are both ends of connections that it has with itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use agent_common::gate::{FROM_SHIM, SINK, TO_SHIM};
use aya::maps::{HashMap, Map, MapData, Queue, SockHash};

/// How many more sockets than connections there are.
pub(super) const SPARE: usize = 128;
/// How many are made at once.
const MORE: usize = 128;

/// Sockets by lane.
pub(super) struct Pool {
    sockets: Vec<OwnedFd>,
    /// Empty where no answer goes through the shim.
    answers: Vec<Answers>,
    through: bool,
    shims: SockHash<MapData, u64>,
    serves: HashMap<MapData, u32, u64>,
    free: Queue<MapData, u32>,
    most: usize,
    /// Takes what is meant for connections that are gone.
    sink: OwnedFd,
    /// Its other end.
    _sink: OwnedFd,
}

/// The connection of a lane's answers.
struct Answers {
    /// The kernel side puts them in here.
    into: OwnedFd,
    /// The shim reads them here, and writes here what the client is to have.
    from: OwnedFd,
}

impl Pool {
    /// `through`: answers go through the shim.
    pub(super) fn new(
        shims: MapData,
        serves: MapData,
        free: MapData,
        most: usize,
        through: bool,
    ) -> anyhow::Result<Self> {
        let mut free = Queue::try_from(Map::Queue(free))?;
        // Lanes that another shim had prepared have its sockets.
        while free.pop(0).is_ok() {}
        let mut serves: HashMap<_, u32, u64> = HashMap::try_from(Map::HashMap(serves))?;
        // Its sockets are closed, and their ports may be anybody's; left here, they fill the map up.
        let old: Vec<u32> = serves.keys().filter_map(Result::ok).collect();
        for ports in old {
            serves.remove(&ports)?;
        }
        let ((sink, _), (other, _)) = Pairs::open()?.next()?;
        let mut shims = SockHash::try_from(Map::SockHash(shims))?;
        shims.insert(SINK, sink.as_raw_fd(), 0)?;
        Ok(Self {
            sockets: Vec::new(),
            answers: Vec::new(),
            through,
            shims,
            serves,
            free,
            most,
            sink,
            _sink: other,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn socket(&self, lane: usize) -> Option<&OwnedFd> {
        self.sockets.get(lane)
    }

    /// Where a lane's answers come out.
    pub(super) fn answers(&self, lane: usize) -> Option<&OwnedFd> {
        self.answers.get(lane).map(|answers| &answers.from)
    }

    /// True where bytes are on their way between the two ends of a lane's answers.
    pub(super) fn flows(&self, lane: usize) -> bool {
        let Some(Answers { into, from }) = self.answers.get(lane) else { return false };
        let count = |socket: &OwnedFd, request: libc::Ioctl| {
            let mut count: libc::c_int = 0;
            // SAFETY: both requests write one number.
            let got = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) };
            got == 0 && count > 0
        };
        count(into, libc::TIOCOUTQ) || peeks(from)
    }

    /// From now on answers go through the shim: lanes whose connection was missing, to be watched.
    pub(super) fn through(&mut self) -> io::Result<std::ops::Range<usize>> {
        self.through = true;
        let from = self.answers.len();
        self.complete()?;
        Ok(from..self.answers.len())
    }

    /// Forgets what was meant for connections that are gone.
    pub(super) fn clean(&self, scratch: &mut [u8]) {
        use nix::sys::socket::{MsgFlags, recv};
        while recv(self.sink.as_raw_fd(), scratch, MsgFlags::MSG_DONTWAIT).is_ok_and(|count| count > 0) {}
    }

    /// The lane may be used again.
    pub(super) fn free(&mut self, lane: usize) {
        if let Err(error) = self.free.push(lane as u32, 0) {
            tracing::error!(%error, lane, "a lane of the gate is lost");
        }
    }

    /// Makes more of them. `is_free`: a lane may be used by a new connection.
    pub(super) fn grow(&mut self, is_free: impl Fn(usize) -> bool) -> io::Result<()> {
        let first = self.sockets.len();
        let more = MORE.min(self.most - first) / 2;
        let pairs = Pairs::open()?;
        for _ in 0..more {
            let (near, far) = pairs.next()?;
            for (socket, ports) in [near, far] {
                let lane = self.sockets.len() as u64;
                self.enter(lane, &socket, ports)?;
                self.sockets.push(socket);
            }
        }
        self.complete()?;
        for lane in (first..self.sockets.len()).filter(|lane| is_free(*lane)) {
            self.free(lane);
        }
        Ok(())
    }

    /// Makes the connections that are missing for answers.
    fn complete(&mut self) -> io::Result<()> {
        if !self.through || self.answers.len() == self.sockets.len() {
            return Ok(());
        }
        let pairs = Pairs::open()?;
        for lane in self.answers.len()..self.sockets.len() {
            let ((into, _), (from, ports)) = pairs.next()?;
            self.enter(lane as u64 | FROM_SHIM, &from, ports)?;
            self.shims.insert(lane as u64 | TO_SHIM, into.as_raw_fd(), 0).map_err(io::Error::other)?;
            self.answers.push(Answers { into, from });
        }
        Ok(())
    }

    /// What the shim sends on this socket goes where its place says.
    fn enter(&mut self, place: u64, socket: &OwnedFd, ports: u32) -> io::Result<()> {
        self.serves.insert(ports, place, 0).map_err(io::Error::other)?;
        self.shims.insert(place, socket.as_raw_fd(), 0).map_err(io::Error::other)
    }
}

fn peeks(socket: &OwnedFd) -> bool {
    use nix::sys::socket::{MsgFlags, recv};
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    recv(socket.as_raw_fd(), &mut [0], flags).is_ok_and(|count| count > 0)
}

/// A socket, and its ports as the kernel side looks for them: its own in the upper half.
type End = (OwnedFd, u32);

/// Makes connections of this process with itself.
struct Pairs {
    listener: TcpListener,
    address: SocketAddr,
}

impl Pairs {
    fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    fn next(&self) -> io::Result<(End, End)> {
        let near = TcpStream::connect(self.address)?;
        let own = near.local_addr()?;
        // Anybody may connect to a port of this host.
        let far = loop {
            let (far, peer) = self.listener.accept()?;
            if peer == own {
                break far;
            }
        };
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ports =
            |own: SocketAddr, other: SocketAddr| u32::from(own.port()) << 16 | u32::from(other.port());
        Ok(((near.into(), ports(own, self.address)), (far.into(), ports(self.address, own))))
    }
}
