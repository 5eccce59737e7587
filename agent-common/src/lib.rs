//! The ABI between the kernel programs and the agent: plain records, each size asserted here.
//!
//! Enums cross as integers, padding is named, everything is in host byte order unless a field says otherwise.
#![no_std]

pub mod gate; // what gate and kernel share
pub mod parse; // what the gate asks before a server parses
pub mod plain; // what processes write into TLS sessions, for the gate
#[expect(
    clippy::inline_always,
    reason = "the verifier follows what is inlined, and calls cost the kernel side"
)]
pub mod shape; // a statement -> what the kernel side knows it by

/// Raised with every change of a record or a map; the agent refuses an object built for another one.
pub const ABI_VERSION: u32 = 3;

/// Longest piece of payload in one record; longer segments come as several records.
pub const CHUNK: u32 = 32 * 1024;

/// Bytes of a segment's head, and of its tail, that [`Mode::HeadTail`] keeps.
pub const EDGE: u32 = 512;

/// Bytes of each direction of a socket that are copied whole before the agent has said what it is; of what follows
/// only the edges, as in [`mode::HEAD_TAIL`]. Generous: its first byte wakes the agent at once, but on loopback, with
/// every processor busy, 17 MiB of a result went by before the agent ran.
pub const UNKNOWN_BUDGET: u32 = 4 * 1024 * 1024;

/// What an undecided socket that has used up [`UNKNOWN_BUDGET`] gets back with each answer to something new: a new
/// request never meets a shortened answer from its first byte on.
pub const UNKNOWN_ALLOWANCE: u32 = 1024 * 1024;

/// The same for each direction of a TLS session's plaintext: most sessions of a host are no database's.
pub const TLS_BUDGET: u32 = UNKNOWN_BUDGET;

/// What a ring buffer record is: the first word of each.
pub mod kind {
    /// [`super::Packet`] with its payload behind it.
    pub const PACKET: u32 = 1;
    /// [`super::Open`].
    pub const OPEN: u32 = 2;
    /// [`super::Close`].
    pub const CLOSE: u32 = 3;
    /// [`super::Connect`].
    pub const CONNECT: u32 = 4;
    /// [`super::Exec`].
    pub const EXEC: u32 = 5;
    /// [`super::Fork`].
    pub const FORK: u32 = 6;
    /// [`super::Exit`].
    pub const EXIT: u32 = 7;
    /// [`super::UnixOpen`].
    pub const UNIX_OPEN: u32 = 16;
    /// [`super::UnixData`] with its payload behind it.
    pub const UNIX_DATA: u32 = 17;
    /// [`super::Tls`] with its plaintext behind it.
    pub const TLS: u32 = 8;
    /// [`super::TlsEnd`].
    pub const TLS_END: u32 = 9;
}

/// What the kernel side does with one direction of a socket.
pub mod mode {
    /// Nobody has decided: everything, until [`super::UNKNOWN_BUDGET`] is used up.
    pub const UNKNOWN: u32 = 0;
    /// Every byte.
    pub const FULL: u32 = 1;
    /// The first and last [`super::EDGE`] bytes of each segment that still acknowledges no more than `guard`: as
    /// soon as its sender has seen new bytes of the other direction, everything. A new request must never meet a
    /// shortened answer, however late the agent's word for the old one came.
    pub const HEAD_TAIL: u32 = 2;
    /// Nothing before the sequence number `skip_until`, everything after.
    pub const SKIP: u32 = 3;
    /// Nothing.
    pub const IGNORE: u32 = 4;
}

/// Direction as the tapped socket sees it; index of the pairs below.
pub mod direction {
    /// Sent by the tapped socket.
    pub const EGRESS: u8 = 0;
    /// Received by it.
    pub const INGRESS: u8 = 1;
}

/// What a probe on a TLS library sits on: its cookie, where one program serves them all.
pub mod call {
    /// A write begins; it returns how many bytes it took.
    pub const WRITE: u64 = 1;
    /// The same; it says so through its fourth argument.
    pub const WRITE_EX: u64 = 2;
    /// The same, through its fifth.
    pub const WRITE_EX2: u64 = 3;
    /// A write returns.
    pub const WRITTEN: u64 = 4;
    /// A read begins; it returns how many bytes it brought.
    pub const READ: u64 = 5;
    /// The same; it says so through its fourth argument.
    pub const READ_EX: u64 = 6;
    /// A read returns.
    pub const WAS_READ: u64 = 7;
    /// A session is freed, or begins anew.
    pub const END: u64 = 8;
    /// A write of Go begins.
    pub const GO_WRITE: u64 = 9;
    /// It returns.
    pub const GO_WRITTEN: u64 = 10;
    /// A read of Go begins.
    pub const GO_READ: u64 = 11;
    /// It returns.
    pub const GO_WAS_READ: u64 = 12;
    /// A session of Go begins or ends.
    pub const GO_END: u64 = 13;
}

/// TCP control bits as on the wire.
pub mod tcp {
    #![expect(missing_docs, reason = "RFC 9293 names them")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// The two ends of a socket. Addresses lie in memory as on the wire; IPv4 stands in the first word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The tapped socket's address, network byte order.
    pub local: [u32; 4],
    /// Its peer's, network byte order.
    pub remote: [u32; 4],
    /// The tapped socket's port.
    pub local_port: u16,
    /// Its peer's.
    pub remote_port: u16,
    /// 4 or 6.
    pub version: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// One piece of payload, or a segment that ends a direction. `head + tail` bytes of payload follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// [`kind::PACKET`].
    pub kind: u32,
    /// True length of this piece in bytes.
    pub length: u32,
    /// Bytes of its head that follow.
    pub head: u32,
    /// Bytes of its tail that follow the head; 0 unless the middle was left out.
    pub tail: u32,
    /// `bpf_get_socket_cookie`; 0 where the segment met a listening socket.
    pub cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// TCP sequence number of the piece's first byte.
    pub sequence: u32,
    /// TCP acknowledgment number.
    pub acknowledgment: u32,
    /// The ends.
    pub tuple: Tuple,
    /// See [`tcp`].
    pub flags: u8,
    /// See [`direction`].
    pub direction: u8,
    /// Zero.
    pub padding: [u8; 6],
    /// Thread group (upper half) and thread in whose context the segment passed; often, not always, its sender.
    pub task: u64,
    /// The TLS session whose write that thread is inside of; 0 where it is in none.
    pub call: u64,
}

/// One piece of a TLS session's plaintext. `head + tail` bytes of it follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Tls {
    /// [`kind::TLS`].
    pub kind: u32,
    /// True length of this piece in bytes.
    pub length: u32,
    /// Bytes of its head that follow.
    pub head: u32,
    /// Bytes of its tail that follow the head; 0 unless the middle was left out.
    pub tail: u32,
    /// Whose session it is.
    pub session: TlsKey,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Bytes of this direction before the piece. What is written again because the socket was full has the offset
    /// that it had before.
    pub offset: u64,
    /// Bytes of the other direction so far.
    pub peer: u64,
    /// Length of the whole call in its first piece; 0 in the others.
    pub call: u32,
    /// See [`direction`]: written or read by the process.
    pub direction: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// Names a TLS session: its object in a process's memory. Used anew after [`TlsEnd`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsKey {
    /// Address of the library's object.
    pub object: u64,
    /// Process (thread group) id in the initial pid namespace.
    pub pid: u32,
    /// Zero.
    pub padding: u32,
}

/// A TLS session's object was freed or cleared.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsEnd {
    /// [`kind::TLS_END`].
    pub kind: u32,
    /// Zero.
    pub padding: u32,
    /// Which.
    pub session: TlsKey,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
}

/// Value of the map `TLS`: how far a session is. The kernel side writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsState {
    /// Bytes written and read so far; by direction.
    pub offset: [u64; 2],
}

/// Value of the map `TLS_MODES`: what to copy of a session. The agent writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsMode {
    /// See [`mode`]; by direction. `SKIP` is not among them.
    pub mode: [u32; 2],
    /// For [`mode::HEAD_TAIL`]: the other direction's offset (its lower half) for which it holds; by direction.
    pub guard: [u32; 2],
    /// 1: every piece wakes the agent at once.
    pub urgent: u32,
    /// Zero.
    pub padding: u32,
}

/// A connection was established.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    /// [`kind::OPEN`].
    pub kind: u32,
    /// 1 where this socket connected, 0 where it accepted.
    pub active: u32,
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Next sequence number that this socket sends.
    pub send_next: u32,
    /// Next sequence number that it expects.
    pub receive_next: u32,
    /// The ends.
    pub tuple: Tuple,
}

/// A connection's socket reached TCP's CLOSE state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Close {
    /// [`kind::CLOSE`].
    pub kind: u32,
    /// Zero.
    pub padding: u32,
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
}

/// A process is connecting a TCP socket; sent from within that process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect {
    /// [`kind::CONNECT`].
    pub kind: u32,
    /// Process (thread group) id in the initial pid namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// cgroup v2 id of the process.
    pub cgroup: u64,
    /// Thread's name, NUL-padded.
    pub comm: [u8; 16],
}

/// Longest part of a program's path that is kept.
pub const PATH: usize = 256;
/// Longest part of its arguments that is kept.
pub const ARGUMENTS: usize = 1024;

/// A process began to run another program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// [`kind::EXEC`].
    pub kind: u32,
    /// Process id.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Bytes of `path` that are valid.
    pub path_length: u32,
    /// Bytes of `arguments` that are valid; 0 where they could not be read.
    pub arguments_length: u32,
    /// Process id of its parent; 0 where unknown.
    pub parent: u32,
    /// Nanoseconds of `CLOCK_BOOTTIME`, as `/proc/PID/stat` counts.
    pub time: u64,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Thread's name, NUL-padded.
    pub comm: [u8; 16],
    /// Path of the program as it was named to `execve`.
    pub path: [u8; PATH],
    /// Its arguments, each ended by NUL.
    pub arguments: [u8; ARGUMENTS],
}

/// A process made another one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Fork {
    /// [`kind::FORK`].
    pub kind: u32,
    /// The process that forked (thread group id).
    pub parent: u32,
    /// The new one; threads are left out.
    pub child: u32,
    /// Zero.
    pub padding: u32,
    /// Nanoseconds of `CLOCK_BOOTTIME`, as `/proc/PID/stat` counts.
    pub time: u64,
}

/// A process ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exit {
    /// [`kind::EXIT`].
    pub kind: u32,
    /// Process id.
    pub pid: u32,
    /// Nanoseconds of `CLOCK_BOOTTIME`, as `/proc/PID/stat` counts.
    pub time: u64,
}

/// Longest name of a Unix socket (`sun_path`).
pub const UNIX_NAME: usize = 108;

/// A Unix stream socket sent or received its first bytes since the programs were attached.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnixOpen {
    /// [`kind::UNIX_OPEN`].
    pub kind: u32,
    /// Process (thread group) id.
    pub pid: u32,
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// What names this socket while it lives: pairs it with its peer, means nothing else.
    pub own: u64,
    /// What names its peer.
    pub peer: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Bytes of `name` that are valid. An abstract name begins with NUL.
    pub name_length: u32,
    /// 1 where the name is this socket's own: it was accepted; 0 where it is its peer's.
    pub bound: u32,
    /// Path or abstract name.
    pub name: [u8; UNIX_NAME],
    /// Zero.
    pub padding: u32,
}

/// Bytes that a Unix stream socket sent. `head + tail` bytes of payload follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct UnixData {
    /// [`kind::UNIX_DATA`].
    pub kind: u32,
    /// True length of this piece in bytes.
    pub length: u32,
    /// Bytes of its head that follow; fewer than `length` where they could not be read.
    pub head: u32,
    /// Bytes of its tail that follow the head; 0 unless the middle was left out.
    pub tail: u32,
    /// The sender's cookie.
    pub cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Bytes that this socket sent before, since the programs were attached.
    pub sequence: u32,
    /// Bytes that it had received.
    pub acknowledgment: u32,
    /// Process (thread group) id of the sender.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
}

/// Value of the map `UNIX`, key: cookie. Written by the kernel side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct UnixSocket {
    /// Bytes sent since the programs were attached.
    pub sent: u32,
    /// Bytes received.
    pub received: u32,
}

/// Value of the map `SOCKETS`, key: cookie. The agent writes the modes, the kernel side the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Socket {
    /// See [`mode`]; by direction.
    pub mode: [u32; 2],
    /// For [`mode::SKIP`]; by direction.
    pub skip_until: [u32; 2],
    /// For [`mode::HEAD_TAIL`]: the acknowledgment number of the segments that may be shortened; by direction.
    pub guard: [u32; 2],
    /// Bytes copied while undecided; by direction.
    pub unknown: [u32; 2],
    /// 1: every record of this socket wakes the agent at once, and has the ring's last room (a policy may have to act
    /// on it).
    pub urgent: u32,
    /// Bit 1 << direction: what flows there are results, the first to be left out when the ring fills up.
    pub answers: u32,
}

/// Value of the map `LOST`, key: cookie. What the kernel side could not hand over.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Payload bytes that found no room in the ring, by direction.
    pub bytes: [u64; 2],
    /// Records that found no room.
    pub records: u64,
    /// Payload bytes between the edges of segments over [`UNKNOWN_BUDGET`].
    pub undecided: u64,
}

/// Value of the per-CPU map `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// TCP segments with payload seen on any socket.
    pub segments: u64,
    /// Records handed over.
    pub records: u64,
    /// Payload bytes handed over.
    pub bytes: u64,
    /// Records that found no room in the ring.
    pub ring_full: u64,
    /// Payload bytes that found no room in the ring.
    pub ring_full_bytes: u64,
    /// Sockets that found no room in `SOCKETS`.
    pub sockets_full: u64,
    /// Segments whose headers were not understood.
    pub unparsed: u64,
    /// Payload bytes left out between the edges of segments of undecided sockets.
    pub undecided_bytes: u64,
    /// Payload bytes that could not be found or read in the sender's memory: Unix sockets, TLS.
    pub unreadable_bytes: u64,
    /// TLS sessions that found no room in `TLS`.
    pub tls_full: u64,
    /// Payload bytes of results that were left out because the ring was filling up.
    pub shed_bytes: u64,
}

const _: () = {
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<Packet>() == 104);
    assert!(size_of::<Tls>() == 64);
    assert!(size_of::<TlsEnd>() == 32);
    assert!(size_of::<TlsState>() == 16);
    assert!(size_of::<TlsMode>() == 24);
    assert!(size_of::<Open>() == 72);
    assert!(size_of::<Close>() == 24);
    assert!(size_of::<Connect>() == 56);
    assert!(size_of::<Exec>() == 56 + PATH + ARGUMENTS);
    assert!(size_of::<Fork>() == 24);
    assert!(size_of::<Exit>() == 16);
    assert!(size_of::<UnixOpen>() == 48 + UNIX_NAME + 4);
    assert!(size_of::<UnixData>() == 48);
    assert!(size_of::<UnixSocket>() == 8);
    assert!(size_of::<Socket>() == 40);
    assert!(size_of::<Lost>() == 32);
    assert!(size_of::<Counters>() == 88);
};

#[cfg(feature = "user")]
mod user {
    use super::gate::{Framing, Known, Lane, Name, Remote, Shared, Tally};
    use super::parse::{Asked, Parsed};
    use super::plain::{Plain, Written};
    use super::{Counters, Lost, Socket, TlsKey, TlsMode, TlsState, UnixSocket};

    macro_rules! pod {
        ($($t:ty),*) => { $(
            // SAFETY: plain integers without padding, as the assertions above show.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(Counters, Lost, Socket, TlsKey, TlsMode, TlsState, UnixSocket);
    pod!(Framing, Known, Lane, Name, Remote, Shared, Tally);
    pod!(Asked, Parsed);
    pod!(Plain, Written);
}
