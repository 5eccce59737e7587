//! The ABI of the gate's lane in the server's own parser: what its kernel program asks, and how the shim answers.

/// Bytes of a text in one record of the ring `ASKED`, with a NUL behind it.
pub const PIECE: u32 = 4096;
/// Bytes of what the kernel side remembers of a server's process.
pub const BACKEND: usize = 672;
/// Places for answers; the map `ANSWERS` is mapped by the shim. A question's place is its ticket modulo this.
pub const SLOTS: u32 = 4096;

/// Head of a record of the ring `ASKED`: a server's process is about to parse a text, and waits. The text follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Names the question; never 0.
    pub ticket: u64,
    /// The server's socket.
    pub cookie: u64,
    /// Bytes of the text that came before.
    pub offset: u64,
    /// Bytes of it that are here.
    pub length: u32,
    /// 1: the text ends here.
    pub last: u32,
    /// The server's process.
    pub pid: u32,
    /// Index into `FRAMINGS`.
    pub framing: u32,
}

/// What the shim writes into the question's place.
pub const fn answer(ticket: u64, denied: bool) -> u64 {
    ticket << 1 | denied as u64
}

/// Value of the map `PARSED`, mapped by the agent: totals, each changed atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Questions so far.
    pub tickets: u64,
    /// Texts that were known.
    pub known: u64,
    /// Texts that the shim allowed.
    pub allowed: u64,
    /// Texts whose execution was cancelled because the shim said so.
    pub denied: u64,
    /// Texts that nobody judged in time.
    pub unanswered: u64,
    /// Texts that could not be read.
    pub unread: u64,
    /// Texts that are longer than what may wait, or long and not judged in time; they are cancelled.
    pub long: u64,
    /// Processes that found no room to be remembered.
    pub crowded: u64,
    /// Cancellations that the kernel refused.
    pub failed: u64,
}

const _: () = {
    assert!(size_of::<Asked>() == 40);
    assert!(size_of::<Parsed>() == 72);
};
