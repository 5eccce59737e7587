//! Link-layer frames -> TCP segments with their endpoints. Copies nothing.

use std::net::IpAddr;

use agent_core::segment::{Endpoint, Flags, Nanos, Segment, Side};
use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice, TcpHeaderSlice};
use pcap_parser::Linktype;

/// A connection by its endpoints, in the order of their addresses: the same for both directions. `Side::A` is the
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// `Side::A`, `Side::B`.
    pub ends: [Endpoint; 2],
}

/// What a frame is.
pub enum Frame<'a> {
    /// A TCP segment.
    Segment(Flow, Segment<'a>),
    /// A fragment of an IP packet; its TCP header may be elsewhere.
    Fragment,
    /// Not TCP over IP.
    Other,
    /// Its headers are cut off by the capture's snap length.
    Truncated,
    /// Its headers contradict themselves.
    Malformed,
}

/// True where frames of this link type can be read.
pub fn is_known(link: Linktype) -> bool {
    matches!(
        link,
        Linktype::ETHERNET
            | Linktype::LINUX_SLL
            | Linktype::LINUX_SLL2
            | Linktype::RAW
            | Linktype::IPV4
            | Linktype::IPV6
            | Linktype::NULL
            | Linktype::LOOP
            | Linktype(12 | 14) // raw IP as some systems number it
    )
}

/// Reads a frame. `length`: its true length; `bytes` may be fewer.
pub fn read(link: Linktype, bytes: &[u8], length: usize, time: Nanos) -> Frame<'_> {
    let Some(at) = network(link, bytes) else { return Frame::Truncated };
    let (Some(at), Some(packet)) = (at, at.and_then(|at| bytes.get(at..))) else { return Frame::Other };
    let length = length.max(bytes.len()) - at;
    match packet.first().map(|b| b >> 4) {
        Some(4) => ipv4(packet, length, time),
        Some(6) => ipv6(packet, length, time),
        Some(_) => Frame::Other,
        None => Frame::Truncated,
    }
}

/// Where the IP packet begins: `None` where the frame is too short to tell, `Some(None)` where there is none.
#[expect(clippy::option_option, reason = "cut off and not IP are counted apart")]
fn network(link: Linktype, bytes: &[u8]) -> Option<Option<usize>> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    let u16_at = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut at = match link {
        Linktype::ETHERNET => 12,
        Linktype::LINUX_SLL => 14,
        Linktype::LINUX_SLL2 => {
            let protocol = u16_at(0)?;
            return Some(matches!(protocol, IPV4 | IPV6).then_some(20));
        }
        Linktype::NULL | Linktype::LOOP => return Some(Some(4)),
        _ => return Some(Some(0)),
    };
    loop {
        match u16_at(at)? {
            IPV4 | IPV6 => return Some(Some(at + 2)),
            // VLAN tags, one within the other.
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            _ => return Some(None),
        }
    }
}

fn ipv4(packet: &[u8], length: usize, time: Nanos) -> Frame<'_> {
    let Ok(header) = Ipv4HeaderSlice::from_slice(packet) else {
        return if packet.len() < 20 { Frame::Truncated } else { Frame::Malformed };
    };
    if header.is_fragmenting_payload() {
        return Frame::Fragment;
    }
    if header.protocol() != IpNumber::TCP {
        return Frame::Other;
    }
    // Segmentation offload may leave the length empty: then it is the frame's.
    let total = match usize::from(header.total_len()) {
        0 => length,
        total => total,
    };
    let own = header.slice().len();
    let Some(payload) = total.checked_sub(own) else { return Frame::Malformed };
    let ends = (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()));
    tcp(&packet[own..], payload, ends, time)
}

fn ipv6(packet: &[u8], length: usize, time: Nanos) -> Frame<'_> {
    let Ok(header) = Ipv6HeaderSlice::from_slice(packet) else {
        return if packet.len() < 40 { Frame::Truncated } else { Frame::Malformed };
    };
    let total = match usize::from(header.payload_length()) {
        0 => length - packet.len().min(40), // a jumbogram, or segmentation offload
        total => total,
    };
    let rest = &packet[header.slice().len()..];
    let (extensions, next, rest, error) = Ipv6ExtensionsSlice::from_slice_lax(header.next_header(), rest);
    if extensions.is_fragmenting_payload() {
        return Frame::Fragment;
    }
    if error.is_some() {
        return Frame::Truncated;
    }
    if next != IpNumber::TCP {
        return Frame::Other;
    }
    let Some(payload) = total.checked_sub(extensions.slice().len()) else { return Frame::Malformed };
    let ends = (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()));
    tcp(rest, payload, ends, time)
}

fn tcp(bytes: &[u8], length: usize, (source, destination): (IpAddr, IpAddr), time: Nanos) -> Frame<'_> {
    let Ok(header) = TcpHeaderSlice::from_slice(bytes) else {
        return if bytes.len() < length.min(60) { Frame::Truncated } else { Frame::Malformed };
    };
    let own = header.slice().len();
    let Some(length) = length.checked_sub(own) else { return Frame::Malformed };
    let source = Endpoint { address: source.to_canonical(), port: header.source_port() };
    let destination = Endpoint { address: destination.to_canonical(), port: header.destination_port() };
    let from = if source <= destination { Side::A } else { Side::B };
    let payload = &bytes[own..];
    let segment = Segment {
        from,
        time,
        sequence: header.sequence_number(),
        acknowledgment: header.acknowledgment_number(),
        flags: Flags { syn: header.syn(), fin: header.fin(), rst: header.rst(), ack: header.ack() },
        length: u32::try_from(length).unwrap_or(u32::MAX),
        // What follows the packet is the link's padding.
        head: payload.get(..length).unwrap_or(payload),
        tail: &[],
    };
    let ends = if from == Side::A { [source, destination] } else { [destination, source] };
    Frame::Segment(Flow { ends }, segment)
}
