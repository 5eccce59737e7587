//! Pieces of one direction -> whole messages. Knows lengths, never what a message means.
//!
//! A message that lies within one piece is handed on as a slice of it. Others are put together if they are wanted,
//! or skipped by their length. A hole inside a message is survived: its length says where the next one begins.
//! Everything else is hunted for.

use crate::protocol::Piece;
use crate::segment::Nanos;

/// Bytes of a direction that a hunt looks at.
const HUNT_MAX: usize = 16 << 10;

/// One message.
pub(super) struct Message<'a> {
    /// Its type byte; 0 for those of the startup phase.
    pub(super) kind: u8,
    /// What follows the length; empty where the receiver did not want it.
    pub(super) body: &'a [u8],
    /// Bytes that are missing from the body, and where.
    pub(super) cut: Option<Cut>,
    /// When its first byte was seen.
    pub(super) started: Nanos,
    /// True size in bytes, type and length included.
    pub(super) size: u64,
}

/// A place in a body where bytes are missing.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) at: usize,
    pub(super) missing: u64,
}

/// How the next message begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Length only: the startup phase.
    Untyped,
    /// Type byte and length.
    Typed,
    /// One byte: the answer to a request for encryption.
    Byte,
    /// Nothing that can be read follows.
    Stop,
}

/// What a hunt for a message boundary found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A boundary at this offset.
    At(usize),
    /// Nothing certain; bytes before this offset are of no use.
    Nothing(usize),
}

/// Takes the messages of one direction.
pub(super) trait Receiver {
    /// Bytes kept of a message's front, and of its end where it is longer.
    const KEEP: (usize, usize);
    /// How the next message begins.
    fn style(&self) -> Style;
    /// True where a message of this type may have this length (the length field's own four bytes included).
    fn plausible(kind: u8, length: u32) -> bool;
    /// Looks for a boundary. `fresh`: the bytes begin where the sender began to write, as far as is known.
    fn find(window: &[u8], fresh: bool) -> Found;
    /// A message begins: are its bytes wanted?
    fn wants(&mut self, kind: u8, size: u64) -> bool;
    /// A wanted message is there, or an unwanted one has begun.
    fn message(&mut self, message: Message<'_>);
    /// An unknown number of messages is missing here.
    fn hole(&mut self, elided: bool);
    /// These bytes are of no message.
    fn garbled(&mut self, bytes: u64);
}

/// The framing state of one direction.
pub(super) struct Frames {
    at: At,
}

enum At {
    Boundary,
    Header { bytes: [u8; 5], have: usize, started: Nanos },
    Skip { left: u64 },
    Body(Box<Assembly>),
    Hunt(Box<Hunt>),
}

struct Assembly {
    kind: u8,
    started: Nanos,
    size: u64,
    left: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    missing: u64,
}

#[derive(Default)]
struct Hunt {
    window: Vec<u8>,
    /// When the bytes from these offsets on were seen: a request is as old as its bytes, however late it is found.
    times: Vec<(usize, Nanos)>,
    fresh: bool,
    skipped: u64,
    /// Bytes that are passed over on the way are no news: they belong to a message that is known to be cut, or
    /// to a connection that was joined midstream.
    quiet: bool,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { at: At::Boundary }
    }

    /// Joined midstream: hunts for the first boundary.
    pub(super) fn adopted() -> Self {
        Self { at: At::Hunt(Box::new(Hunt { fresh: true, quiet: true, ..Hunt::default() })) }
    }

    /// True where the next byte begins a message.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.at, At::Boundary)
    }

    /// True where a boundary is looked for.
    pub(super) fn is_hunting(&self) -> bool {
        matches!(self.at, At::Hunt(_))
    }

    /// Takes the next piece.
    pub(super) fn feed<R: Receiver>(&mut self, piece: Piece<'_>, time: Nanos, receiver: &mut R) {
        match piece {
            Piece::Bytes(bytes) => self.bytes(bytes, time, receiver),
            Piece::Gap { length, elided } => self.gap(length, elided, receiver),
        }
    }

    /// The connection ends: tells what was never understood.
    pub(super) fn close<R: Receiver>(&mut self, receiver: &mut R) {
        match std::mem::replace(&mut self.at, At::Boundary) {
            At::Hunt(hunt) if !hunt.quiet => {
                receiver.garbled(hunt.skipped + hunt.window.len() as u64);
            }
            _ => {}
        }
    }

    fn bytes<R: Receiver>(&mut self, mut rest: &[u8], time: Nanos, receiver: &mut R) {
        if receiver.style() == Style::Stop {
            self.at = At::Boundary;
            return;
        }
        while !rest.is_empty() {
            match &mut self.at {
                At::Boundary => match receiver.style() {
                    Style::Stop => return,
                    Style::Byte => {
                        let message =
                            Message { kind: 0, body: &rest[..1], cut: None, started: time, size: 1 };
                        receiver.message(message);
                        rest = &rest[1..];
                    }
                    style => rest = self.message(rest, style, time, receiver),
                },
                At::Header { bytes, have, started } => {
                    let style = receiver.style();
                    let need = if style == Style::Untyped { 4 } else { 5 };
                    let (taken, after) = rest.split_at(rest.len().min(need - *have));
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    rest = after;
                    if *have == need {
                        let (bytes, started) = (*bytes, *started);
                        self.at = At::Boundary;
                        if !self.begin(&bytes[..need], style, started, receiver)
                            && let At::Hunt(hunt) = &mut self.at
                        {
                            hunt.push(&bytes[..need], started);
                        }
                    }
                }
                At::Skip { left } => {
                    let taken = (*left).min(rest.len() as u64);
                    *left -= taken;
                    rest = &rest[taken as usize..];
                    if *left == 0 {
                        self.at = At::Boundary;
                    }
                }
                At::Body(assembly) => {
                    let taken = assembly.left.min(rest.len() as u64);
                    assembly.take(&rest[..taken as usize], R::KEEP);
                    rest = &rest[taken as usize..];
                    self.finish_if_whole(receiver);
                }
                At::Hunt(_) => {
                    self.hunt(rest, time, receiver);
                    return;
                }
            }
        }
    }

    /// At a boundary: hands on a message that lies within `rest`, or begins to put one together.
    #[inline]
    fn message<'a, R: Receiver>(
        &mut self,
        rest: &'a [u8],
        style: Style,
        time: Nanos,
        receiver: &mut R,
    ) -> &'a [u8] {
        let Some(header) = header(rest, style) else {
            let mut bytes = [0; 5];
            bytes[..rest.len()].copy_from_slice(rest);
            self.at = At::Header { bytes, have: rest.len(), started: time };
            return &[];
        };
        if let Some(body) = rest.get(header.own..header.size)
            && header.fits::<R>(style)
        {
            let wanted = receiver.wants(header.kind, header.size as u64);
            receiver.message(Message {
                kind: header.kind,
                body: if wanted { body } else { &[] },
                cut: None,
                started: time,
                size: header.size as u64,
            });
            return &rest[header.size..];
        }
        let (own, after) = rest.split_at(header.own);
        if self.begin(own, style, time, receiver) {
            after
        } else {
            // Not a message: the hunt looks at these bytes again.
            rest
        }
    }

    /// A header is there, the body is to come. False where it cannot be a header.
    fn begin<R: Receiver>(&mut self, bytes: &[u8], style: Style, time: Nanos, receiver: &mut R) -> bool {
        let Some(header) = header(bytes, style).filter(|header| header.fits::<R>(style)) else {
            receiver.hole(false);
            self.at = At::Hunt(Box::default());
            return false;
        };
        let left = (header.size - header.own) as u64;
        let size = header.size as u64;
        if receiver.wants(header.kind, size) {
            let assembly = Assembly {
                kind: header.kind,
                started: time,
                size,
                left,
                head: Vec::new(),
                tail: Vec::new(),
                missing: 0,
            };
            self.at = At::Body(Box::new(assembly));
            self.finish_if_whole(receiver);
        } else {
            self.at = if left == 0 { At::Boundary } else { At::Skip { left } };
            receiver.message(Message { kind: header.kind, body: &[], cut: None, started: time, size });
        }
        true
    }

    fn finish_if_whole<R: Receiver>(&mut self, receiver: &mut R) {
        if let At::Body(assembly) = &self.at
            && assembly.left == 0
            && let At::Body(assembly) = std::mem::replace(&mut self.at, At::Boundary)
        {
            assembly.finish(receiver);
        }
    }

    fn gap<R: Receiver>(&mut self, length: u64, elided: bool, receiver: &mut R) {
        match &mut self.at {
            At::Skip { left } if length > 0 && length <= *left => {
                *left -= length;
                if *left == 0 {
                    self.at = At::Boundary;
                }
                return;
            }
            At::Body(assembly) if length > 0 && length <= assembly.left => {
                assembly.left -= length;
                assembly.missing += length;
                self.finish_if_whole(receiver);
                return;
            }
            _ => {}
        }
        if receiver.style() == Style::Stop {
            return;
        }
        let quiet = match std::mem::replace(&mut self.at, At::Boundary) {
            At::Body(mut assembly) => {
                assembly.missing += assembly.left;
                assembly.left = 0;
                assembly.finish(receiver);
                elided
            }
            At::Hunt(hunt) => {
                if !hunt.quiet {
                    receiver.garbled(hunt.skipped + hunt.window.len() as u64);
                }
                elided || hunt.quiet
            }
            _ => elided,
        };
        receiver.hole(elided);
        self.at = At::Hunt(Box::new(Hunt { fresh: true, quiet, ..Hunt::default() }));
    }

    fn hunt<R: Receiver>(&mut self, rest: &[u8], time: Nanos, receiver: &mut R) {
        let At::Hunt(hunt) = &mut self.at else { return };
        let mut seen = 0;
        for chunk in rest.chunks(HUNT_MAX) {
            seen += chunk.len();
            if hunt.window.is_empty() && hunt.skipped > 0 {
                hunt.fresh = false;
            }
            hunt.push(chunk, time);
            match R::find(&hunt.window, hunt.fresh) {
                Found::At(at) => {
                    if !hunt.quiet && hunt.skipped + at as u64 > 0 {
                        receiver.garbled(hunt.skipped + at as u64);
                    }
                    let hunt = std::mem::take(&mut **hunt);
                    self.at = At::Boundary;
                    let ends = hunt.times.iter().skip(1).map(|&(begin, _)| begin).chain([hunt.window.len()]);
                    for (&(begin, time), end) in hunt.times.iter().zip(ends) {
                        if let Some(bytes) = hunt.window.get(begin.max(at)..end) {
                            self.bytes(bytes, time, receiver);
                        }
                    }
                    self.bytes(&rest[seen..], time, receiver);
                    return;
                }
                Found::Nothing(before) => {
                    let before = before.max(hunt.window.len().saturating_sub(HUNT_MAX));
                    hunt.fresh &= before == 0;
                    hunt.skipped += before as u64;
                    hunt.drop_front(before);
                }
            }
        }
    }
}

impl Hunt {
    fn push(&mut self, bytes: &[u8], time: Nanos) {
        if self.times.last().is_none_or(|&(_, last)| last != time) {
            self.times.push((self.window.len(), time));
        }
        self.window.extend_from_slice(bytes);
    }

    fn drop_front(&mut self, count: usize) {
        self.window.drain(..count);
        let old = self.times.iter().take_while(|&&(begin, _)| begin <= count).count();
        self.times.drain(..old.saturating_sub(1));
        for (begin, _) in &mut self.times {
            *begin = begin.saturating_sub(count);
        }
        if self.window.is_empty() {
            self.times.clear();
        }
    }
}

impl Assembly {
    fn take(&mut self, bytes: &[u8], (head, tail): (usize, usize)) {
        self.left -= bytes.len() as u64;
        let mut rest = bytes;
        if self.missing == 0 && self.tail.is_empty() {
            let (front, after) = rest.split_at(rest.len().min(head - self.head.len().min(head)));
            self.head.extend_from_slice(front);
            rest = after;
        }
        if rest.is_empty() {
            return;
        }
        self.tail.extend_from_slice(rest);
        if self.tail.len() > 2 * tail {
            let surplus = self.tail.len() - tail;
            self.tail.drain(..surplus);
            self.missing += surplus as u64;
        }
    }

    fn finish<R: Receiver>(mut self, receiver: &mut R) {
        let at = self.head.len();
        self.head.append(&mut self.tail);
        receiver.message(Message {
            kind: self.kind,
            body: &self.head,
            cut: (self.missing > 0).then_some(Cut { at, missing: self.missing }),
            started: self.started,
            size: self.size,
        });
    }
}

struct Header {
    kind: u8,
    length: u32,
    /// Bytes of the header itself.
    own: usize,
    /// Bytes of the whole message.
    size: usize,
}

#[inline]
fn header(bytes: &[u8], style: Style) -> Option<Header> {
    let (kind, rest) = if style == Style::Untyped { (0, bytes) } else { (*bytes.first()?, bytes.get(1..)?) };
    let length = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let untyped = usize::from(style != Style::Untyped);
    Some(Header { kind, length, own: 4 + untyped, size: (length as usize).max(4) + untyped })
}

impl Header {
    fn fits<R: Receiver>(&self, style: Style) -> bool {
        if style == Style::Untyped {
            (8..=10_000).contains(&self.length)
        } else {
            R::plausible(self.kind, self.length)
        }
    }
}
