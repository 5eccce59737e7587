//! Requests and answers of the gate: one datagram of a Unix SOCK_SEQPACKET socket each, in postcard's encoding.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, accept4, bind as nix_bind, connect as nix_connect, getsockopt, listen as nix_listen,
    recvmsg, sendmsg, socket, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest datagram: a rule's name is bounded by its sender.
const LENGTH_MAX: usize = 16 * 1024;
/// Most descriptors that come with one.
const FDS_MAX: usize = 16;
/// Longest part of a rule's name that travels.
pub(super) const RULE_MAX: usize = 256;

/// What the shim is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// To end a connection.
    Kill(Kill),
    /// To hold statements: a socket for [orders and news](super::talk), then the [maps](super::guard::Part), come along.
    Hold {
        /// Whether nothing passes where nobody can say that it may.
        closed: bool,
        /// Whether answers go through it too.
        answers: bool,
    },
}

/// End one connection. A `sock_diag` socket of its network namespace comes with it (SCM_RIGHTS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Repeated in the answer.
    pub id: u64,
    /// The connection's name: its socket's cookie.
    pub cookie: u64,
    /// The socket's own end.
    pub local: (IpAddr, u16),
    /// The other end.
    pub remote: (IpAddr, u16),
    /// Interface that the socket is bound to; 0 for none.
    pub interface: u32,
    /// The processes at its ends that are on this host: pid, start time in nanoseconds since boot.
    pub processes: Vec<(u32, u64)>,
    /// The rule that decided.
    pub rule: String,
    /// `CLOCK_MONOTONIC`: past it nobody waits for the answer, so nothing is done.
    pub deadline_ns: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// Nanoseconds that the kernel took.
    pub act_ns: u64,
}

/// What came of a request to end a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was destroyed: both ends see a reset.
    Killed,
    /// There is no such connection (any more) in the namespace.
    Gone,
    /// It must not be: the ends belong to another connection by now, or the agent depends on it.
    Refused(String),
    /// It could not be done, and why.
    Failed(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Killed => f.write_str("killed"),
            Self::Gone => f.write_str("already gone"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// A socket at `path`, for its owner only. Nobody can connect before [`listen`].
pub fn bind(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    // The mode comes from the umask at bind: no moment at which others could connect.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = nix_bind(socket.as_raw_fd(), &UnixAddr::new(path)?);
    nix::sys::stat::umask(mask);
    bound?;
    Ok(socket)
}

/// From here on callers are let in, one at a time.
pub fn listen(socket: &OwnedFd) -> io::Result<()> {
    Ok(nix_listen(socket, Backlog::new(1)?)?)
}

/// Connects to the socket at `path`.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    nix_connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Takes the next connection.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    Ok(owned(fd))
}

/// Who is at the other end.
pub fn peer(socket: &OwnedFd) -> io::Result<UnixCredentials> {
    Ok(getsockopt(socket, sockopt::PeerCredentials)?)
}

/// Waits until there is something to read (or the other end is gone); false when the time is up.
pub fn readable(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::POLLIN)];
    // Rounded up: a wait of less than a millisecond must not become none.
    let timeout = PollTimeout::try_from(patience + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::Error::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Sends one message, with a descriptor where there is one.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fd: Option<RawFd>) -> io::Result<()> {
    send_all(socket, message, fd.as_slice())
}

/// Sends one message with these descriptors.
pub fn send_all<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let mut buffer = [0u8; LENGTH_MAX];
    let bytes = postcard::to_slice(message, &mut buffer).map_err(io::Error::other)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Sends one message if it can be sent now.
pub fn send_now<T: Serialize>(socket: BorrowedFd<'_>, message: &T) -> io::Result<()> {
    let mut buffer = [0u8; LENGTH_MAX];
    let bytes = postcard::to_slice(message, &mut buffer).map_err(io::Error::other)?;
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &[], flags, None)?;
    Ok(())
}

/// Two sockets that are connected to each other.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Receives one message and the descriptor that came with it; none where the other end is gone.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    Ok(receive_all(socket)?.map(|(message, fds)| (message, fds.into_iter().next())))
}

/// Receives one message and the descriptors that came with it; none where the other end is gone.
pub fn receive_all<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = [0u8; LENGTH_MAX];
    let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(nix::Error::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = message {
            fds.extend(received.into_iter().map(owned));
        }
    }
    let (length, truncated) = (received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC));
    if length == 0 {
        return Ok(None);
    }
    if truncated {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let message = postcard::from_bytes(buffer.get(..length).unwrap_or_default());
    Ok(Some((message.map_err(io::Error::other)?, fds)))
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just handed this descriptor to us, and nobody else knows it.
    #[expect(unsafe_code, reason = "nix hands out received and accepted descriptors as plain numbers")]
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let kill = Kill {
            id: 7,
            cookie: u64::MAX,
            local: ("::1".parse().unwrap(), 5432),
            remote: ("127.0.0.1".parse().unwrap(), 1),
            interface: 0,
            processes: vec![(1, 2)],
            rule: "r".repeat(RULE_MAX),
            deadline_ns: now_ns(),
        };
        let file = std::fs::File::open("/dev/null").unwrap();
        send(a.as_fd(), &kill, Some(file.as_raw_fd())).unwrap();
        assert!(readable(b.as_fd(), Duration::from_secs(5)).unwrap());
        let (received, fd) = receive::<Kill>(b.as_fd()).unwrap().unwrap();
        assert_eq!(received, kill);
        assert_ne!(fd.unwrap().as_raw_fd(), file.as_raw_fd());
        let reply = Reply { id: 7, outcome: Outcome::Refused("no".into()), act_ns: 1 };
        send(b.as_fd(), &reply, None).unwrap();
        let (received, fd) = receive::<Reply>(a.as_fd()).unwrap().unwrap();
        assert!(received == reply && fd.is_none());
        assert!(!readable(a.as_fd(), Duration::ZERO).unwrap());
        drop(b);
        assert!(receive::<Reply>(a.as_fd()).unwrap().is_none());
    }

    #[test]
    fn garbage_is_an_error() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let long = vec![7; LENGTH_MAX + 1];
        for bytes in [&[255u8; 40][..], &[1; 3], &long] {
            nix::sys::socket::send(a.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
            assert!(receive::<Kill>(b.as_fd()).is_err());
        }
    }
}
