//! The ABI of what processes write into TLS sessions, for the gate at the client's end: records of the ring `PLAIN`.

use crate::TlsKey;

/// Longest piece of a write in one record; shorter ones have less room.
pub const PIECE: u32 = 1 << 15;
/// Room of a short one.
pub const SHORT: u32 = 1 << 10;

/// Head of a record: a piece of what a process is about to write into a TLS session. Its bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain {
    /// Whose session it is.
    pub session: TlsKey,
    /// When the call began: nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Bytes that the session had written before. What is written again because the socket was full has the offset that
    /// it had before.
    pub offset: u64,
    /// Bytes of the piece; 0: the session is over.
    pub length: u32,
    /// Bytes of the whole call in its first piece; 0 in the others.
    pub call: u32,
    /// The thread, in the initial pid namespace.
    pub thread: u32,
    /// Zero.
    pub padding: u32,
}

/// Value of the map `WRITTEN`: how far a session is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes written so far. The kernel side's.
    pub offset: u64,
    /// 1: nobody wants to know more of it. The shim's.
    pub ignored: u32,
    /// 1: something of it could not be handed over. The kernel side's.
    pub lost: u32,
}

const _: () = {
    assert!(size_of::<Plain>() == 48);
    assert!(size_of::<Written>() == 16);
};
