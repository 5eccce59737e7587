//! Segments of one direction -> bytes in order, with explicit gaps, in bounded memory.
//!
//! Offsets are TCP sequence numbers unwrapped to 64 bits, so streams longer than 4 GiB need no special care.
//! Segments that arrive in order are handed on as slices of themselves; only those ahead of a hole are copied.

use std::collections::BTreeMap;

use crate::exchange::LossReason;
use crate::segment::{Nanos, Segment};

/// What a stream yields, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// This many bytes were sent but not captured, on purpose (HEAD+TAIL, a capture's snap length).
    Elided(u64),
    /// This many bytes are gone for good; 0 where the number cannot be known.
    Lost(u64, LossReason),
}

/// Bytes kept of segments ahead of a hole, bookkeeping included, for each direction.
const HELD_MAX: usize = 4 << 20;
/// What one held segment costs besides its bytes.
const HELD_COST: usize = 128;
/// No TCP window is larger than 1 GiB (RFC 7323): what lies further away is not of this stream.
const WINDOW: i64 = 1 << 30;
/// So many successive segments outside the window that follow one another are the stream after all.
const STRAYS: u8 = 4;
/// A hole that no acknowledgment has passed is given up after so many times the patience.
const UNACKNOWLEDGED: u64 = 100;

/// One direction of a connection.
#[derive(Default)]
pub struct Stream {
    started: bool,
    next: u64,
    acked: u64,
    fin: Option<u64>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    patience: u64,
    stuck: Option<(u64, Nanos)>,
    stray: (u32, u8),
    /// When the last bytes were handed on: those that waited for a hole are as late as what filled it.
    latest: Nanos,
}

struct Held {
    head: Box<[u8]>,
    tail: Box<[u8]>,
    length: u32,
    needs: u64,
    time: Nanos,
}

impl Stream {
    /// `patience`: nanoseconds of capture time for which bytes that the peer has acknowledged may still turn up.
    /// 0 for taps that see packets in order: there such bytes are lost the moment they are acknowledged.
    pub fn new(patience: u64) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Offset of the next number to come: of the next byte, or behind the FIN, which takes a number too.
    pub fn position(&self) -> u64 {
        self.next + u64::from(self.is_finished())
    }

    /// True where segments wait for a hole to be filled.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty() || self.acked > self.position()
    }

    /// True once everything up to the FIN was handed on.
    pub fn is_finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next >= fin)
    }

    /// True where `sequence` cannot be the initial one of the stream seen so far.
    pub fn is_another(&self, sequence: u32) -> bool {
        self.started && self.next >> 32 == 1 && {
            let distance = (self.next as u32).wrapping_sub(sequence.wrapping_add(1));
            distance > 1 << 31 || (self.fin.is_some() && distance > 0)
        }
    }

    /// The offset that a sequence or acknowledgment number of this stream stands for.
    pub fn offset(&self, number: u32) -> u64 {
        let distance = number.wrapping_sub(self.next as u32) as i32;
        self.next.wrapping_add_signed(i64::from(distance))
    }

    /// The stream begins with this sequence number, whatever is seen first.
    pub fn start(&mut self, sequence: u32) {
        self.started = true;
        // Starting at 2^32 leaves room for what was sent before the first segment that was seen.
        self.next = 1 << 32 | u64::from(sequence);
        self.acked = self.next;
    }

    /// Takes a segment of this direction. `needs`: the peer's stream must have come to this offset before the
    /// segment may be handed on, and `peer` is where it is: an answer never overtakes its request.
    pub fn segment(
        &mut self,
        segment: &Segment<'_>,
        needs: u64,
        peer: u64,
        out: &mut impl FnMut(Ordered<'_>, Nanos),
    ) {
        let sequence = segment.sequence.wrapping_add(u32::from(segment.flags.syn));
        if !self.started {
            self.start(sequence);
        }
        let ready = peer >= needs;
        if sequence == self.next as u32 && self.held.is_empty() && ready {
            self.stray.1 = 0;
            self.next += u64::from(segment.length);
            self.latest = self.latest.max(segment.time);
            hand_on(segment.head, segment.tail, segment.length, 0, self.latest, out);
        } else if segment.length > 0 {
            let distance = sequence.wrapping_sub(self.next as u32) as i32;
            if i64::from(distance).abs() > WINDOW && !self.strays(sequence, segment.length, segment.time, out)
            {
                return;
            }
            self.hold(self.offset(sequence), segment, needs);
            self.drain(peer, out);
            self.bound(segment.time, out);
        }
        if segment.flags.fin && !segment.flags.syn {
            self.fin = Some(self.offset(sequence.wrapping_add(segment.length)));
        }
    }

    /// True where a segment outside the window belongs to the stream, which then goes on from there.
    fn strays(
        &mut self,
        sequence: u32,
        length: u32,
        time: Nanos,
        out: &mut impl FnMut(Ordered<'_>, Nanos),
    ) -> bool {
        self.stray =
            (sequence.wrapping_add(length), if self.stray.0 == sequence { self.stray.1 + 1 } else { 1 });
        if self.stray.1 < STRAYS {
            return false;
        }
        self.held.clear();
        self.held_bytes = 0;
        out(Ordered::Lost(0, LossReason::Gap), time);
        self.next += u64::from(sequence.wrapping_sub(self.next as u32));
        self.acked = self.next;
        self.stray.1 = 0;
        true
    }

    fn hold(&mut self, offset: u64, segment: &Segment<'_>, needs: u64) {
        if offset + u64::from(segment.length) <= self.next {
            return; // sent again
        }
        if let Some(old) = self.held.get(&offset) {
            if old.length >= segment.length {
                return;
            }
            self.held_bytes -= old.cost();
        }
        let held = Held {
            head: segment.head.into(),
            tail: segment.tail.into(),
            length: segment.length,
            needs,
            time: segment.time,
        };
        self.held_bytes += held.cost();
        self.held.insert(offset, held);
    }

    /// Hands on what is held and in order by now.
    pub fn drain(&mut self, peer: u64, out: &mut impl FnMut(Ordered<'_>, Nanos)) {
        while let Some(first) = self.held.first_entry() {
            let offset = *first.key();
            let needs = first.get().needs;
            if offset > self.next || needs > peer {
                return;
            }
            let held = first.remove();
            self.held_bytes -= held.cost();
            let end = offset + u64::from(held.length);
            if end > self.next {
                let known = self.next - offset;
                self.next = end;
                self.latest = self.latest.max(held.time);
                hand_on(&held.head, &held.tail, held.length, known, self.latest, out);
            }
        }
    }

    /// The peer has received everything before `number`. What was not seen of it is lost, at once or after some
    /// patience: [`Stream::expire`] decides.
    pub fn acknowledged(&mut self, number: u32) {
        if !self.started {
            self.start(number);
            return;
        }
        let offset = self.offset(number);
        if offset > self.acked && offset <= self.next.saturating_add(WINDOW as u64) {
            self.acked = offset;
        }
    }

    /// True where segments wait for a hole of which it is not known whether the peer has received its bytes.
    pub fn has_open_hole(&self) -> bool {
        self.acked <= self.next && self.held.keys().next().is_some_and(|&first| first > self.next)
    }

    /// Gives up holes that have been waited for long enough. Call it as capture time goes on.
    pub fn expire(&mut self, time: Nanos, peer: u64, out: &mut impl FnMut(Ordered<'_>, Nanos)) {
        if !self.is_waiting() {
            self.stuck = None;
            return;
        }
        let since = match self.stuck {
            Some((next, since)) if next == self.next => since,
            _ => {
                self.stuck = Some((self.next, time));
                time
            }
        };
        let waited = time.since(since);
        if self.acked > self.position() && waited >= self.patience {
            self.give_up(time, peer, out);
        } else if self.patience > 0 && waited >= self.patience.saturating_mul(UNACKNOWLEDGED) {
            self.skip_hole(LossReason::Gap, time, peer, out);
        }
    }

    /// Declares acknowledged bytes that were not seen lost.
    fn give_up(&mut self, time: Nanos, peer: u64, out: &mut impl FnMut(Ordered<'_>, Nanos)) {
        loop {
            self.drain(peer, out);
            let hole = match self.held.keys().next() {
                Some(&first) => first.min(self.acked),
                None => self.acked,
            };
            let hole = self.fin.map_or(hole, |fin| hole.min(fin));
            if hole <= self.next {
                return;
            }
            out(Ordered::Lost(hole - self.next, LossReason::Gap), time);
            self.next = hole;
        }
    }

    /// Goes on behind the first hole, whoever may still fill it.
    fn skip_hole(
        &mut self,
        reason: LossReason,
        time: Nanos,
        peer: u64,
        out: &mut impl FnMut(Ordered<'_>, Nanos),
    ) {
        if let Some(&first) = self.held.keys().next()
            && first > self.next
        {
            out(Ordered::Lost(first - self.next, reason), time);
            self.next = first;
        }
        self.drain(peer, out);
    }

    /// Keeps what is held within its bound. What follows a hole without another hole is the stream, and the hole
    /// is lost; scattered segments are not to be trusted, and the farthest go.
    fn bound(&mut self, time: Nanos, out: &mut impl FnMut(Ordered<'_>, Nanos)) {
        if self.held_bytes <= HELD_MAX {
            return;
        }
        let mut run = 0;
        let mut end = None;
        for (&offset, held) in &self.held {
            if end.is_some_and(|end| offset > end) {
                break;
            }
            run += held.cost();
            end = Some(offset + u64::from(held.length));
        }
        if run >= HELD_MAX / 2 {
            // Where the peer's stream is what is waited for, it will not come any more either.
            self.skip_hole(LossReason::Buffer, time, u64::MAX, out);
        } else {
            while self.held_bytes > HELD_MAX / 2
                && let Some((_, held)) = self.held.pop_last()
            {
                self.held_bytes -= held.cost();
            }
        }
    }

    /// The connection is gone: hands on what is held, with its holes.
    pub fn flush(&mut self, time: Nanos, out: &mut impl FnMut(Ordered<'_>, Nanos)) {
        while !self.held.is_empty() {
            self.skip_hole(LossReason::Gap, time, u64::MAX, out);
        }
        if self.acked > self.next {
            self.give_up(time, u64::MAX, out);
        }
    }
}

impl Held {
    fn cost(&self) -> usize {
        self.head.len() + self.tail.len() + HELD_COST
    }
}

/// Hands on a segment of which the first `known` bytes were handed on before.
fn hand_on(
    head: &[u8],
    tail: &[u8],
    length: u32,
    known: u64,
    time: Nanos,
    out: &mut impl FnMut(Ordered<'_>, Nanos),
) {
    let length = length as usize;
    let known = known as usize;
    let head = head.get(..length).unwrap_or(head);
    let tail = tail.get(tail.len().saturating_sub(length - head.len())..).unwrap_or_default();
    let tail_at = length - tail.len();
    if let Some(bytes) = head.get(known..)
        && !bytes.is_empty()
    {
        out(Ordered::Bytes(bytes), time);
    }
    let elided = tail_at.saturating_sub(known.max(head.len()));
    if elided > 0 {
        out(Ordered::Elided(elided as u64), time);
    }
    if let Some(bytes) = tail.get(known.saturating_sub(tail_at)..)
        && !bytes.is_empty()
    {
        out(Ordered::Bytes(bytes), time);
    }
}

#[cfg(test)]
mod tests;
