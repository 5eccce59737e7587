//! Capture files (pcap, pcapng) -> TCP segments with their connections.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use agent_core::segment::{Nanos, Segment};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::frame::{self, Flow, Frame};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;
/// No packet is longer: what claims to be is no packet.
const BUFFER_MAX: usize = 64 << 20;

/// Why a capture file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{path}: {what}, not a pcap or pcapng file{cure}", path = path.display())]
    NotACapture {
        /// Which file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do, if anything helps.
        cure: &'static str,
    },
    /// The file breaks off in the middle of nonsense.
    #[error("{path}: unreadable behind packet {packets}: the file is damaged there", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Packets that were read before.
        packets: u64,
    },
    /// The packets are framed in a way that is not read.
    #[error("{path}: link type {link} is not read; capture on an Ethernet, loopback, raw IP or `any` interface", path = path.display())]
    LinkType {
        /// Which file.
        path: PathBuf,
        /// Its number, see tcpdump.org/linktypes.html.
        link: i32,
    },
}

/// What was in the file, packet by packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// All packets.
    pub packets: u64,
    /// Bytes captured of them.
    pub bytes: u64,
    /// Packets that are not TCP over IP.
    pub non_tcp: u64,
    /// IP fragments: not put together.
    pub fragments: u64,
    /// Packets of which bytes are missing, by the capture's snap length.
    pub truncated: u64,
    /// Packets whose headers contradict themselves.
    pub malformed: u64,
    /// The file ends in the middle of a packet, as that of a capture that was stopped hard does.
    pub unfinished: u64,
}

/// An open capture file.
pub struct Capture {
    path: PathBuf,
    reader: Box<dyn PcapReaderIterator + Send>,
    interfaces: Vec<Interface>,
    nanoseconds: bool,
    buffer: usize,
    last: Nanos,
    /// What was read so far.
    pub counters: Counters,
}

struct Interface {
    link: Linktype,
    resolution: u64,
    offset: i64,
}

impl Capture {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
        Self::read(path, file)
    }

    /// Reads from anything; `path` is for messages.
    pub fn read(path: &Path, mut input: impl Read + Send + 'static) -> Result<Self, Error> {
        let mut start = Vec::new();
        let first = input.by_ref().take(512).read_to_end(&mut start);
        first.map_err(|source| Error::Io { path: path.into(), source })?;
        let whole = std::io::Cursor::new(start.clone()).chain(input);
        let reader = create_reader(BUFFER, whole).map_err(|_| {
            let (what, cure) = describe(&start);
            Error::NotACapture { path: path.into(), what, cure }
        })?;
        Ok(Self {
            path: path.into(),
            reader,
            interfaces: Vec::new(),
            nanoseconds: false,
            buffer: BUFFER,
            last: Nanos(0),
            counters: Counters::default(),
        })
    }

    /// Hands every TCP segment to `each`, in the file's order.
    pub fn for_each(&mut self, mut each: impl FnMut(Flow, &Segment<'_>)) -> Result<(), Error> {
        loop {
            match self.reader.next() {
                Ok((length, block)) => {
                    let done = take(
                        &block,
                        &mut self.interfaces,
                        &mut self.nanoseconds,
                        &mut self.last,
                        &mut self.counters,
                        &mut each,
                    );
                    drop(block);
                    if let Err(link) = done {
                        return Err(Error::LinkType { path: self.path.clone(), link });
                    }
                    self.reader.consume_noshift(length);
                }
                Err(PcapError::Eof) => return Ok(()),
                Err(PcapError::Incomplete(_)) => {
                    // Nothing but the end of the file, or a packet larger than the buffer.
                    if self.reader.reader_exhausted() {
                        self.counters.unfinished += 1;
                        return Ok(());
                    }
                    let before = self.reader.data().len();
                    let refilled = self.reader.refill().is_ok();
                    if !refilled || self.reader.data().len() == before && !self.reader.reader_exhausted() {
                        self.grow()?;
                    }
                }
                Err(PcapError::BufferTooSmall) => self.grow()?,
                Err(PcapError::UnexpectedEof) => {
                    self.counters.unfinished += 1;
                    return Ok(());
                }
                Err(_) => return Err(self.damaged()),
            }
        }
    }

    fn grow(&mut self) -> Result<(), Error> {
        self.buffer *= 2;
        if self.buffer > BUFFER_MAX || !self.reader.grow(self.buffer) {
            return Err(self.damaged());
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        Error::Damaged { path: self.path.clone(), packets: self.counters.packets }
    }
}

/// Reads one block of the file; fails with the number of a link type that is not read.
fn take(
    block: &PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    nanoseconds: &mut bool,
    last: &mut Nanos,
    counters: &mut Counters,
    each: &mut impl FnMut(Flow, &Segment<'_>),
) -> Result<(), i32> {
    let (link, bytes, length, time) = match block {
        PcapBlockOwned::LegacyHeader(header) => {
            *nanoseconds = header.is_nanosecond_precision();
            // The upper bits may say how long the frame check sequence is.
            let link = Linktype(header.network.0 & 0xffff);
            if !frame::is_known(link) {
                return Err(link.0);
            }
            interfaces.push(Interface { link, resolution: 0, offset: 0 });
            return Ok(());
        }
        PcapBlockOwned::Legacy(packet) => {
            let fraction = u64::from(packet.ts_usec) * if *nanoseconds { 1 } else { 1_000 };
            let time = u64::from(packet.ts_sec) * 1_000_000_000 + fraction;
            let link = interfaces.first().map_or(Linktype::ETHERNET, |interface| interface.link);
            (link, packet.data, packet.origlen, Nanos(time))
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            return Ok(());
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            interfaces.push(Interface {
                link: interface.linktype,
                resolution: interface.ts_resolution().unwrap_or(1_000_000),
                offset: interface.ts_offset(),
            });
            return Ok(());
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let Some(interface) = interfaces.get(packet.if_id as usize) else {
                counters.packets += 1;
                counters.malformed += 1;
                return Ok(());
            };
            let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let data = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
            (interface.link, data, packet.origlen, interface.time(ticks))
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let link = interfaces.first().map_or(Linktype::ETHERNET, |interface| interface.link);
            let data = packet.data.get(..packet.origlen as usize).unwrap_or(packet.data);
            (link, data, packet.origlen, *last) // it has no time of its own
        }
        PcapBlockOwned::NG(_) => return Ok(()),
    };
    if !frame::is_known(link) {
        return Err(link.0);
    }
    *last = time;
    counters.packets += 1;
    counters.bytes += bytes.len() as u64;
    match frame::read(link, bytes, length as usize, time) {
        Frame::Segment(flow, segment) => {
            counters.truncated += u64::from(segment.head.len() < segment.length as usize);
            each(flow, &segment);
        }
        Frame::Fragment => counters.fragments += 1,
        Frame::Other => counters.non_tcp += 1,
        Frame::Truncated => counters.truncated += 1,
        Frame::Malformed => counters.malformed += 1,
    }
    Ok(())
}

impl Interface {
    fn time(&self, ticks: u64) -> Nanos {
        let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(self.resolution.max(1));
        let nanos = i128::try_from(nanos).unwrap_or(0) + i128::from(self.offset) * 1_000_000_000;
        Nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// Names what a file is by its first bytes, and what would help.
fn describe(start: &[u8]) -> (&'static str, &'static str) {
    const KNOWN: &[(&[u8], &str, &str)] = &[
        (b"\x1f\x8b", "a gzip file", "; unpack it with gunzip"),
        (b"\x28\xb5\x2f\xfd", "a zstd file", "; unpack it with unzstd"),
        (b"\xfd7zXZ", "an xz file", "; unpack it with unxz"),
        (b"BZh", "a bzip2 file", "; unpack it with bunzip2"),
        (b"PK\x03\x04", "a zip file", "; unpack it with unzip"),
        (b"snoop\0\0\0", "a snoop file", "; convert it with editcap -F pcapng"),
        (b"\x7fELF", "a program", ""),
        (b"{", "a JSON file", ""),
        (b"\xff\xfe", "a text file", ""),
    ];
    if start.is_empty() {
        return ("an empty file", "");
    }
    for &(magic, what, cure) in KNOWN {
        if start.starts_with(magic) {
            return (what, cure);
        }
    }
    let text = start.iter().all(|&b| b >= b' ' || b.is_ascii_whitespace());
    if text { ("a text file", "") } else { ("a file of an unknown kind", "") }
}

#[cfg(test)]
mod tests;
