//! One captured piece of a connection: who sent it, where it belongs in the stream, what was copied.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// Nanoseconds since the Unix epoch, UTC. `agent-core` never reads a clock: time comes in with the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nanoseconds from `earlier` to `self`; 0 where the clock went backwards.
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One end of a TCP connection. IPv4-mapped IPv6 addresses are stored as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address on the wire.
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
}

/// One number or two: connections are looked up once for each packet of a file.
impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.address {
            IpAddr::V4(address) => state.write_u64(u64::from(address.to_bits()) << 16 | u64::from(self.port)),
            IpAddr::V6(address) => {
                state.write_u128(address.to_bits());
                state.write_u16(self.port);
            }
        }
    }
}

/// The two ends of a connection, before it is known which one is the client.
/// Live capture: `A` is the socket that was tapped. Files: `A` is the lower of the two
/// endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The tapped socket, or the lower endpoint.
    A,
    /// Its peer.
    B,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
    /// 0 for `A`, 1 for `B`: to index a pair.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// TCP control bits that reassembly needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// SYN: `sequence` is the initial one; data, if any, starts one later.
    pub syn: bool,
    /// FIN: the sender will send nothing after this segment.
    pub fin: bool,
    /// RST: the connection is gone.
    pub rst: bool,
    /// ACK: `acknowledgment` is valid.
    pub ack: bool,
}

/// One captured piece of one direction.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// Who sent it.
    pub from: Side,
    /// When it was seen.
    pub time: Nanos,
    /// TCP sequence number of the first payload byte (of the SYN itself where `flags.syn`).
    pub sequence: u32,
    /// TCP acknowledgment number; valid where `flags.ack`.
    pub acknowledgment: u32,
    /// Control bits.
    pub flags: Flags,
    /// True payload length in bytes; `head.len() + tail.len()` may be less.
    pub length: u32,
    /// The payload's first bytes as captured.
    pub head: &'a [u8],
    /// The payload's last bytes where the middle was left out on purpose (HEAD+TAIL); else empty.
    pub tail: &'a [u8],
}
