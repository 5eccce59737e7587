//! Questions to the kernel's table of TCP sockets (`sock_diag`, man 7): dump, find one, destroy one.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use agent_core::segment::Endpoint;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Parseable,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::unix::{self, UnixRequest, UnixResponse};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// No answer is larger: the kernel fills pages, not more than 32 KiB at once.
const BUFFER: usize = 32 * 1024;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// One TCP socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique on this host until it reboots; the same number that `bpf_get_socket_cookie` gives.
    pub cookie: u64,
    /// The socket's own end.
    pub local: Endpoint,
    /// The other end; port 0 for a listener.
    pub remote: Endpoint,
    /// Interface the socket is bound to; 0 for any.
    pub interface: u32,
    /// Inode in sockfs, as in `/proc/PID/fd`; 0 once no process holds it.
    pub inode: u32,
    /// Uid of the process that made it.
    pub uid: u32,
}

/// Which sockets a dump lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Connections in any state but TIME_WAIT.
    Connections,
    /// Listening sockets.
    Listeners,
}

/// A `sock_diag` socket. It speaks for the network namespace that it was opened in, from any thread.
#[derive(Debug)]
pub struct Diag {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// For the network namespace of this thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        Ok(Self::from_socket(socket))
    }

    /// For the network namespace that `namespace` (a `/proc/PID/ns/net` or the like) stands for. A thread enters it
    /// and ends; the caller's thread stays where it is. Needs CAP_SYS_ADMIN.
    pub fn open_in(namespace: &File) -> io::Result<Self> {
        std::thread::scope(|scope| {
            let enter = || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Self::open()
            };
            scope.spawn(enter).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }

    /// A socket that another process opened and passed.
    pub fn from_fd(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned and given up here; `Socket` closes it.
        #[expect(unsafe_code, reason = "netlink-sys takes ownership of a descriptor only this way")]
        let socket = unsafe { netlink_sys::Socket::from_raw_fd(fd.into_raw_fd()) };
        Self::from_socket(socket)
    }

    fn from_socket(socket: netlink_sys::Socket) -> Self {
        // The agent and its shims ask by one socket, in turn: no answer to another's question may pass for one's own.
        Self { socket, sequence: std::process::id() << 16, buffer: vec![0; BUFFER] }
    }

    /// Every TCP socket, IPv4 and IPv6. About 1 us a socket.
    pub fn dump(&mut self, which: Which, mut each: impl FnMut(Entry)) -> io::Result<()> {
        let states = match which {
            Which::Connections => StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT,
            Which::Listeners => StateFlags::LISTEN,
        };
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = request(family, states.clone(), socket_id);
            self.send(SockDiagMessage::InetRequest(request), NLM_F_DUMP)?;
            self.receive(&mut each)?;
        }
        Ok(())
    }

    /// The cookie of every connected Unix socket of the namespace.
    pub fn dump_unix(&mut self, mut each: impl FnMut(u64)) -> io::Result<()> {
        self.ask_unix(unix::StateFlags::ESTABLISHED, unix::ShowFlags::empty())?;
        self.answers(&mut |payload| {
            // What follows the header is of no interest, and need not be read.
            if let Ok(header) = unix::UnixResponseHeader::parse(payload) {
                each(u64::from_ne_bytes(header.cookie));
            }
        })
    }

    /// The name of every listening Unix socket of the namespace: a path, or an abstract name behind a NUL.
    /// With each its inode.
    pub fn dump_unix_listeners(&mut self, mut each: impl FnMut(u32, &[u8])) -> io::Result<()> {
        self.ask_unix(unix::StateFlags::LISTEN, unix::ShowFlags::NAME)?;
        self.answers(&mut |payload| {
            if let Ok(answer) = UnixResponse::parse(payload) {
                let inode = answer.header.inode;
                match answer.name() {
                    Some(unix::nlas::UnixDiagName::Pathname(path)) => {
                        each(inode, path.to_string_lossy().as_bytes());
                    }
                    Some(unix::nlas::UnixDiagName::Abstract(name)) => {
                        each(inode, &[&[0], name.as_slice()].concat());
                    }
                    _ => {}
                }
            }
        })
    }

    fn ask_unix(&mut self, state_flags: unix::StateFlags, show_flags: unix::ShowFlags) -> io::Result<()> {
        let request = UnixRequest { state_flags, inode: 0, show_flags, cookie: [0xff; 8] };
        self.send(SockDiagMessage::UnixRequest(request), NLM_F_DUMP)
    }

    /// The socket with exactly these two ends. Asked for a connection that is gone, the kernel answers with the
    /// listener that would accept it: that is not taken for an answer.
    pub fn find(&mut self, local: Endpoint, remote: Endpoint) -> io::Result<Option<Entry>> {
        let request = exact(local, remote, 0, None);
        self.send(SockDiagMessage::InetRequest(request), 0)?;
        let mut found = None;
        match self.receive(&mut |entry| found = Some(entry)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|()| found.filter(|entry| entry.local == local && entry.remote == remote)),
        }
    }

    /// The socket with these ports and this cookie, by a dump: unlike [`Diag::find`] this finds sockets that are bound
    /// to an interface. The kernel goes through all sockets, but tells of few.
    pub fn find_bound(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        cookie: u64,
    ) -> io::Result<Option<Entry>> {
        let mut found = None;
        // A socket of the one family may have ends of the other.
        for family in [AF_INET, AF_INET6] {
            let mut asked = exact(local, remote, 0, None);
            asked.family = family;
            asked.states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT;
            self.send(SockDiagMessage::InetRequest(asked), NLM_F_DUMP)?;
            self.receive(&mut |entry| found = found.or(Some(entry).filter(|entry| entry.cookie == cookie)))?;
        }
        Ok(found)
    }

    /// Destroys the socket with these two ends and this cookie: both ends see a reset. The kernel answers ENOENT
    /// where there is no such socket or it has another cookie (the ends were reused, or only the listener is left:
    /// without the cookie it would be the listener that is destroyed), EPERM without CAP_NET_ADMIN, EOPNOTSUPP
    /// without CONFIG_INET_DIAG_DESTROY.
    pub fn destroy(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        interface: u32,
        cookie: u64,
    ) -> io::Result<()> {
        let request = exact(local, remote, interface, Some(cookie));
        self.send(SockDiagDestroy::new(SockDiagMessage::InetRequest(request)), 0)?;
        self.receive(&mut |_| ())
    }

    fn send<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> io::Result<()>
    where
        NetlinkPayload<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if flags == 0 { NLM_F_ACK } else { flags };
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = netlink_sys::SocketAddr::new(0, 0);
        self.socket.send_to(&bytes, &kernel, 0).map(|_| ())
    }

    /// Reads answers up to the end of the dump or the acknowledgment. Answers to earlier questions, left over when
    /// a reader gave up, are skipped by their sequence number.
    fn receive(&mut self, each: &mut impl FnMut(Entry)) -> io::Result<()> {
        self.answers(&mut |payload| {
            if let Ok(header) = InetResponseHeader::parse(payload) {
                each(Entry::of(&header));
            }
        })
    }

    fn answers(&mut self, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let mut buffer = self.buffer.as_mut_slice();
            let length = self.socket.recv(&mut buffer, 0)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while let Some(message) = Message::split(&mut rest) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return message.error(),
                    SOCK_DIAG_BY_FAMILY => each(message.payload),
                    _ => {}
                }
            }
        }
    }
}

impl AsRawFd for Diag {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Cuts the next message off; none at the end or where the length makes no sense.
    fn split(rest: &mut &'a [u8]) -> Option<Self> {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let message = Self {
            kind: u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?),
            payload: rest.get(HEADER..length)?,
        };
        *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }

    /// `struct nlmsgerr`: a negative errno, 0 for an acknowledgment.
    fn error(&self) -> io::Result<()> {
        let code = self.payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) }
    }
}

impl Entry {
    fn of(header: &InetResponseHeader) -> Self {
        let id = &header.socket_id;
        let end = |address: IpAddr, port| Endpoint { address: address.to_canonical(), port };
        Self {
            cookie: u64::from_ne_bytes(id.cookie),
            local: end(id.source_address, id.source_port),
            remote: end(id.destination_address, id.destination_port),
            interface: id.interface_id,
            inode: header.inode,
            uid: header.uid,
        }
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

fn exact(local: Endpoint, remote: Endpoint, interface: u32, cookie: Option<u64>) -> InetRequest {
    // IPv4 finds IPv4-mapped sockets too: the kernel keeps both in one table.
    let family = match (local.address.to_canonical(), remote.address.to_canonical()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AF_INET,
        _ => AF_INET6,
    };
    let socket_id = SocketId {
        source_port: local.port,
        destination_port: remote.port,
        source_address: local.address.to_canonical(),
        destination_address: remote.address.to_canonical(),
        interface_id: interface,
        cookie: cookie.map_or([0xff; 8], u64::to_ne_bytes),
    };
    request(family, StateFlags::all(), socket_id)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn endpoint(address: std::net::SocketAddr) -> Endpoint {
        Endpoint { address: address.ip().to_canonical(), port: address.port() }
    }

    #[test]
    fn dump_and_find_see_both_ends() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_server, _) = listener.accept().unwrap();
            let (near, far) = (endpoint(client.local_addr().unwrap()), endpoint(client.peer_addr().unwrap()));
            let mut diag = Diag::open().unwrap();
            let mut ends = Vec::new();
            diag.dump(Which::Connections, |e| {
                if [e.local.port, e.remote.port].contains(&near.port) {
                    ends.push(e);
                }
            })
            .unwrap();
            assert_eq!(ends.len(), 2, "{ends:?}");
            let found = diag.find(near, far).unwrap().unwrap();
            assert!(ends.contains(&found) && found.local == near && found.remote == far);
            assert_ne!(found.inode, 0);
            assert_eq!(found.uid, nix::unistd::getuid().as_raw());
            let mut listeners = Vec::new();
            diag.dump(Which::Listeners, |e| listeners.push(e.local)).unwrap();
            assert!(listeners.contains(&far));
            drop(client);
            assert!(diag.find(far, Endpoint { port: 1, ..near }).unwrap().is_none());
        }
    }

    #[test]
    fn messages_with_lengths_that_lie() {
        for bytes in [&[][..], &[0; 15], &[255; 64], &[16, 0, 0, 0], &[0; 64]] {
            let mut rest = bytes;
            assert!(Message::split(&mut rest).is_none());
        }
        let mut done = [0u8; 20];
        done[0] = 20;
        done[4] = 3;
        let mut rest = &done[..];
        assert_eq!(Message::split(&mut rest).unwrap().kind, NLMSG_DONE);
        assert!(rest.is_empty());
    }
}
