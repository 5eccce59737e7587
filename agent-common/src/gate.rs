//! The ABI of the gate: what its kernel programs, the shim and the agent share. All of it lies in memory that each of
//! them has mapped, or in maps that outlive the shim.

/// What to do with a message whose first byte is this: value of [`Framing::acts`].
pub mod act {
    /// Cannot ask for anything.
    pub const PASS: u8 = 0;
    /// A text follows the header up to the end, ended by NUL.
    pub const TEXT: u8 = 1;
    /// A name, then a text, each ended by NUL: the text goes by that name from now on.
    pub const NAMED_TEXT: u8 = 2;
    /// A name that does not matter, then one of a text, each ended by NUL.
    pub const NAMED: u8 = 3;
    /// Always to the shim.
    pub const HOLD: u8 = 4;
}

/// How a protocol's messages lie in the stream, in words that need no protocol: value of the map `FRAMINGS`. A message
/// is a first byte, a length of four bytes in network order, and what follows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// What to add to the length to get the whole message's.
    pub more: u32,
    /// Second word, in network order, of a first message that has to be read; 0 for none.
    pub never: u32,
    /// By a message's first byte: see [`act`].
    pub acts: [u8; 256],
}

/// Longest first message that passes: it begins with its length, four bytes in network order that count themselves.
pub const HELLO_MAX: u32 = 512;

/// Bytes of a message's header.
pub const HEADER: u32 = 5;
/// Longest name of a prepared text that the kernel side follows.
pub const NAME_MAX: u32 = 64;
/// Most messages that the kernel side looks at in one piece of a stream.
pub const MESSAGES_MAX: u32 = 24;

/// What all of the gate shares: the map `SHARED`, mapped by agent and shim.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    /// 1: new connections are enrolled, and those that are pass through the gate. 2: no new ones are. 0: everything
    /// passes. The agent's.
    pub armed: u32,
    /// 1: without a shim nothing passes. 0: everything does. The agent's.
    pub closed: u32,
    /// When the shim was last at work: nanoseconds of `CLOCK_MONOTONIC`. The shim's.
    pub pulse: u64,
    /// A shim whose pulse is older than this is not there; nanoseconds. The agent's.
    pub patience: u64,
    /// Most bytes of a connection that may wait in the shim. The agent's.
    pub held_max: u64,
    /// Key of the hashes of texts. The agent's.
    pub key: [u64; 2],
}

/// Bit of a port's value in the map `PORTS`, beside its framing: what the server sends there goes through the shim too.
pub const ANSWERS: u32 = 1 << 31;
/// Added to a lane in the map `SHIMS`: the socket into which the kernel side puts what its server sends. What comes out
/// at that connection's other end the shim reads.
pub const TO_SHIM: u64 = 1 << 32;
/// Added to a lane in the map `SHIMS`: that other end. What the shim writes to it leaves the server's socket.
pub const FROM_SHIM: u64 = 1 << 33;

/// Place in the map `SHIMS` of a socket for what is meant for a connection that is gone.
pub const SINK: u64 = 1 << 34;

/// [`Lane::word`] of a connection that is not looked at. Bit 0 stays clear; above it are the bytes that went by since, so
/// that whoever takes it back can tell that none did in between.
pub const PASSES: u64 = 1 << 63;

/// Since when a connection is followed: value of [`Lane::late`].
pub mod late {
    /// From its first byte on.
    pub const NO: u32 = 0;
    /// It was open, or not followed for a while, and the shim has read nothing of it since.
    pub const NEW: u32 = 1;
    /// The same, and the shim has.
    pub const READ: u32 = 2;
    /// It cannot be read and is not taken back.
    pub const LEFT: u32 = 3;
}

/// What came of a socket that is to be enrolled while it is open: value of the map `LATE`.
pub mod entry {
    /// It is wanted: it was not seen yet, or it had something unread.
    pub const WANTED: u32 = 0;
    /// It is enrolled.
    pub const IN: u32 = 1;
    /// Another program has it.
    pub const TAKEN: u32 = 2;
    /// The kernel does not want it.
    pub const FAILED: u32 = 3;
}

/// What a lane is for.
pub mod lane {
    /// Nothing.
    pub const FREE: u32 = 0;
    /// A connection.
    pub const OPEN: u32 = 1;
    /// A connection that is gone; the shim cleans up and frees it.
    pub const CLOSED: u32 = 2;
}

/// One enrolled connection: an element of the map `LANES`, mapped by agent and shim.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    /// Bit 0: what comes goes to the shim. Above: bytes that went there since that began. Kernel side and shim change it
    /// atomically: the shim sets it to 0, or to [`PASSES`], only where it has forwarded exactly what went there.
    pub word: u64,
    /// Bytes of these that were forwarded. The shim's.
    pub forwarded: u64,
    /// Cookie of the enrolled socket. The kernel side's.
    pub cookie: u64,
    /// Statements that were known and went by. The kernel side's.
    pub passed: u64,
    /// See [`lane`]. The kernel side's; the shim frees.
    pub state: u32,
    /// Whose known texts pass. The shim's.
    pub class: u32,
    /// Index into `FRAMINGS`. The kernel side's.
    pub framing: u32,
    /// Bytes of a passing message that come with the next piece. The kernel side's, and the shim's while it holds.
    pub remain: u32,
    /// See [`late`]. The agent's while it passes, else the shim's.
    pub late: u32,
    /// Bytes of a passing message at the beginning of what went to the shim first. The kernel side's.
    pub skip: u32,
    /// 1: bytes are lost: more waited than may wait, or nobody was there. The kernel side's.
    pub overflow: u32,
    /// Bytes of the connection's first message that passed and lie in `HELLO`. The kernel side's.
    pub hello: u32,
    /// 1: what the server sends goes to the shim, which hands it on. 0: it goes to the client. The kernel side's at the
    /// beginning, the shim's from then on.
    pub answers: u32,
    /// 1: an answer is on its way, or parts of one lie in the shim: without it they are lost. The shim's.
    pub answering: u32,
    /// 1: the socket is a client's, whose server is elsewhere. What [`Lane::answers`] says is about what it asks.
    pub client: u32,
    /// Bit 0: a packet with bytes was let in before any was looked at. Bit 1: one came with the end of the stream. Bit 2:
    /// [`Lane::base`] is known. The kernel side's.
    pub begun: u32,
    /// When it was enrolled, or when the shim got the first of what it has: nanoseconds of `CLOCK_MONOTONIC`. The kernel
    /// side's.
    pub since: u64,
    /// Who sent last on a socket of a client's: process in the upper half, thread in the lower. The kernel side's.
    pub sender: u64,
    /// When: nanoseconds of `CLOCK_MONOTONIC`. The kernel side's.
    pub sent: u64,
    /// Sequence number of the first byte that was looked at. The kernel side's.
    pub base: u32,
    /// Bytes that were looked at, whatever became of them: modulo 2^32. The kernel side's.
    pub looked: u32,
    /// When the end of the stream came too early for the first time: nanoseconds of `CLOCK_MONOTONIC`; 0: never. The
    /// kernel side's.
    pub ending: u64,
}

/// How long what follows a connection's first message has to come again, at most, while the server has not read that one;
/// nanoseconds.
pub const UNREAD: u64 = 10_000_000_000;
/// How long first bytes that are more, or less, than one message have to come again: by then somebody has accepted their
/// connection; nanoseconds.
pub const UNACCEPTED: u64 = 1_000_000_000;
/// How long the end of a stream may have to come again, so that the shim hands on what came before it; nanoseconds.
pub const PARTING: u64 = 2_000_000_000;

/// Key of the map `REMOTES`: a server elsewhere whose clients here are enrolled. Its value is the framing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Address as it lies in memory on the wire; IPv4, also where mapped into IPv6, in the first word.
    pub address: [u32; 4],
    /// Port.
    pub port: u32,
}

impl Remote {
    /// Of an address of IPv4, as it lies in memory on the wire.
    #[inline]
    pub const fn v4(address: u32, port: u32) -> Self {
        Self { address: [address, 0, 0, 0], port }
    }

    /// Of an address of IPv6, as it lies in memory on the wire.
    #[inline]
    pub const fn v6(address: [u32; 4], port: u32) -> Self {
        let mapped = address[0] == 0 && address[1] == 0 && u32::from_be(address[2]) == 0xffff;
        if mapped { Self::v4(address[3], port) } else { Self { address, port } }
    }
}

/// Key of the map `KNOWN`: a text that may pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// See [`crate::shape`].
    pub hash: u64,
    /// Of which lanes.
    pub class: u32,
    /// Zero.
    pub padding: u32,
}

/// Key of the map `NAMES`; its value is the hash of the text that goes by this name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name {
    /// The connection.
    pub cookie: u64,
    /// Hash of the name.
    pub hash: u64,
}

/// Value of the per-CPU map `TALLY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections enrolled.
    pub enrolled: u64,
    /// Connections that found no free lane.
    pub crowded: u64,
    /// Connections that the kernel did not let in.
    pub refused: u64,
    /// Pieces that went to the shim.
    pub held: u64,
    /// Pieces that passed.
    pub passed: u64,
    /// Pieces that found no shim at work.
    pub unguarded: u64,
    /// Pieces that could not be handed over.
    pub failed: u64,
    /// Pieces that were dropped because too much waited.
    pub overflowed: u64,
    /// Held because a message was not all there, was too long, or is always held.
    pub long: u64,
    /// Held because a text has no hash.
    pub odd: u64,
    /// Held because a text was not known.
    pub new: u64,
    /// Held because a name was not known.
    pub unnamed: u64,
    /// Pieces of answers that went to the shim.
    pub answers: u64,
    /// Packets that have to come again because they came too early.
    pub early: u64,
    /// Ends of streams that came with, or before, bytes that are held: they may be lost.
    pub parted: u64,
}

const _: () = {
    assert!(size_of::<Framing>() == 264);
    assert!(size_of::<Shared>() == 48);
    assert!(size_of::<Lane>() == 120);
    assert!(size_of::<Remote>() == 20);
    assert!(size_of::<Known>() == 16);
    assert!(size_of::<Name>() == 16);
    assert!(size_of::<Tally>() == 120);
};
