//! One TCP connection: segments of both directions -> detection -> protocol -> sink.

use crate::exchange::Loss;
use crate::protocol::{Context, Entry, First, Guess, PROTOCOLS, Piece, Protocol, Sink, Start};
use crate::segment::{Nanos, Segment, Side};
use crate::sql::Texts;
use crate::stream::{Ordered, Stream};
use crate::tie::begins_with_records;

/// Bytes of each direction that detection looks at.
const WINDOW: usize = 16 << 10;
/// Bytes of one direction after which a connection that was joined midstream is given up.
const MIDSTREAM_MAX: u64 = 256 << 10;
/// The same where the port promises a database.
const HINTED_MAX: u64 = 4 << 20;

/// Both directions of one connection, from its first segment to its end.
pub struct Connection {
    streams: [Stream; 2],
    reading: Reading,
    ended: bool,
}

/// What the ordered bytes are read as.
struct Reading {
    client: Option<Side>,
    hint: Option<&'static str>,
    state: State,
}

enum State {
    Detecting(Box<Detecting>),
    Parsing(Box<dyn Protocol>),
    Refused,
}

impl Connection {
    /// `begins`: the connection's first byte will be seen. `hint`: the protocol that the port promises.
    pub fn new(begins: bool, hint: Option<&'static str>) -> Self {
        Self::with_patience(begins, hint, 0)
    }

    /// Like [`Connection::new`], for captures that are slightly out of order, as files often are: bytes that were
    /// acknowledged may still turn up within `patience` nanoseconds of capture time.
    pub fn with_patience(begins: bool, hint: Option<&'static str>, patience: u64) -> Self {
        let start = if begins { Start::Beginning } else { Start::Midstream };
        Self {
            streams: [Stream::new(patience), Stream::new(patience)],
            reading: Reading { client: None, hint, state: State::Detecting(Box::new(Detecting::new(start))) },
            ended: false,
        }
    }

    /// Both directions are known to begin with the sequence number 0, whichever piece comes first.
    pub fn from_zero(mut self) -> Self {
        self.streams.iter_mut().for_each(|stream| stream.start(0));
        self
    }

    /// Takes the next captured piece, in capture order.
    pub fn segment(&mut self, segment: &Segment<'_>, texts: &mut Texts, sink: &mut dyn Sink) {
        let (from, to) = (segment.from, segment.from.other());
        if segment.flags.syn && self.reading.client.is_none() {
            self.reading.client = Some(if segment.flags.ack { to } else { from });
        }
        self.ended |= segment.flags.rst;
        if matches!(self.reading.state, State::Refused) {
            return;
        }
        let [a, b] = &mut self.streams;
        let (own, peer) = if from == Side::A { (a, b) } else { (b, a) };
        let reading = &mut self.reading;
        let mut needs = 0;
        if segment.flags.ack && !segment.flags.rst {
            peer.acknowledged(segment.acknowledgment);
            needs = peer.offset(segment.acknowledgment);
        }
        if segment.flags.rst {
            return; // its sequence number may be anything
        }
        own.segment(segment, needs, peer.position(), &mut |ordered, time| {
            reading.take(from, ordered, time, texts, sink);
        });
        if own.is_waiting() || peer.is_waiting() {
            self.pump(segment.time, texts, sink);
        }
        let [a, b] = &self.streams;
        self.ended |= a.is_finished() && b.is_finished();
    }

    /// Hands on what one direction held back for the other, and gives up what is lost. An acknowledgment that came
    /// with bytes behind a hole of their own says nothing before that hole is settled.
    fn pump(&mut self, time: Nanos, texts: &mut Texts, sink: &mut dyn Sink) {
        let reading = &mut self.reading;
        let [a, b] = &mut self.streams;
        loop {
            let before = (a.position(), b.position());
            a.drain(b.position(), &mut |ordered, time| reading.take(Side::A, ordered, time, texts, sink));
            b.drain(a.position(), &mut |ordered, time| reading.take(Side::B, ordered, time, texts, sink));
            if !b.has_open_hole() {
                let peer = b.position();
                a.expire(time, peer, &mut |ordered, time| reading.take(Side::A, ordered, time, texts, sink));
            }
            if !a.has_open_hole() {
                let peer = a.position();
                b.expire(time, peer, &mut |ordered, time| reading.take(Side::B, ordered, time, texts, sink));
            }
            if before == (a.position(), b.position()) {
                return;
            }
        }
    }

    /// The sequence number that comes next of one side, as far as its bytes were handed on.
    pub fn next(&self, side: Side) -> u32 {
        self.streams[side.index()].position() as u32
    }

    /// Which side is the client, once it is known.
    pub fn client(&self) -> Option<Side> {
        self.reading.client
    }

    /// True once a protocol was recognised.
    pub fn is_detected(&self) -> bool {
        matches!(self.reading.state, State::Parsing(_))
    }

    /// True once nothing more will come of this connection: its bytes are of no use.
    pub fn is_refused(&self) -> bool {
        matches!(self.reading.state, State::Refused)
    }

    /// True once both sides have closed or one has reset: the caller may [`Connection::close`] it.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// True where this segment opens another connection between the same endpoints: the caller closes this one and
    /// makes a new one.
    pub fn is_reopened_by(&self, segment: &Segment<'_>) -> bool {
        segment.flags.syn
            && !segment.flags.ack
            && (self.ended || self.streams[segment.from.index()].is_another(segment.sequence))
    }

    /// The connection is gone (closed, reset, idle for too long): hands out what is pending.
    pub fn close(&mut self, time: Nanos, texts: &mut Texts, sink: &mut dyn Sink) {
        let reading = &mut self.reading;
        let order = if reading.client == Some(Side::B) { [Side::B, Side::A] } else { [Side::A, Side::B] };
        for side in order {
            self.streams[side.index()]
                .flush(time, &mut |ordered, time| reading.take(side, ordered, time, texts, sink));
        }
        let client = reading.client.unwrap_or(Side::A);
        if let State::Parsing(parser) = &mut reading.state {
            parser.close(&mut Context { texts, sink, time, client });
        }
        self.ended = true;
        reading.state = State::Refused;
    }
}

impl Reading {
    fn take(
        &mut self,
        from: Side,
        ordered: Ordered<'_>,
        time: Nanos,
        texts: &mut Texts,
        sink: &mut dyn Sink,
    ) {
        match &mut self.state {
            State::Parsing(parser) => {
                let client = self.client.unwrap_or(Side::A);
                parse(parser.as_mut(), from, client, ordered, time, texts, sink);
            }
            State::Detecting(detecting) => {
                detecting.push(from, ordered, time);
                match detecting.decide(self.client, self.hint) {
                    Verdict::Wait => {}
                    Verdict::Refuse => {
                        self.state = State::Refused;
                        sink.refused();
                    }
                    Verdict::Encrypted => {
                        self.state = State::Refused;
                        sink.encrypted();
                    }
                    Verdict::Open(entry, start, client) => {
                        self.client = Some(client);
                        sink.detected(entry.name, client);
                        let mut parser = (entry.open)(start);
                        let seen = std::mem::take(&mut detecting.seen);
                        for (loss, at) in std::mem::take(&mut detecting.losses) {
                            sink.lost(Loss { time: at, ..loss });
                        }
                        for Seen { from, time, bytes } in seen {
                            let bytes = Ordered::Bytes(&bytes);
                            parse(parser.as_mut(), from, client, bytes, time, texts, sink);
                        }
                        self.state = State::Parsing(parser);
                    }
                }
            }
            State::Refused => {}
        }
    }
}

fn parse(
    parser: &mut dyn Protocol,
    from: Side,
    client: Side,
    ordered: Ordered<'_>,
    time: Nanos,
    texts: &mut Texts,
    sink: &mut dyn Sink,
) {
    let piece = match ordered {
        Ordered::Bytes(bytes) => Piece::Bytes(bytes),
        Ordered::Elided(length) => Piece::Gap { length, elided: true },
        Ordered::Lost(bytes, reason) => {
            sink.lost(Loss { from, bytes, reason, time });
            Piece::Gap { length: bytes, elided: false }
        }
    };
    let context = &mut Context { texts, sink, time, client };
    if from == client { parser.client(piece, context) } else { parser.server(piece, context) }
}

/// A connection whose protocol is not known yet.
struct Detecting {
    start: Start,
    seen: Vec<Seen>,
    losses: Vec<(Loss, Nanos)>,
    total: [u64; 2],
    /// Whether something that a side sent, joined midway, began as TLS records do.
    records: [bool; 2],
}

struct Seen {
    from: Side,
    time: Nanos,
    bytes: Vec<u8>,
}

enum Verdict {
    Wait,
    Refuse,
    /// It was joined too late to see that it turned to TLS.
    Encrypted,
    Open(&'static Entry, Start, Side),
}

impl Detecting {
    fn new(start: Start) -> Self {
        Self { start, seen: Vec::new(), losses: Vec::new(), total: [0; 2], records: [false; 2] }
    }

    fn push(&mut self, from: Side, ordered: Ordered<'_>, time: Nanos) {
        match ordered {
            Ordered::Bytes(bytes) => {
                self.total[from.index()] += bytes.len() as u64;
                match self.seen.last_mut() {
                    Some(last) if last.from == from && last.time == time => {
                        last.bytes.extend_from_slice(bytes);
                    }
                    _ => self.seen.push(Seen { from, time, bytes: bytes.into() }),
                }
                if self.start == Start::Midstream {
                    self.records[from.index()] |= begins_with_records(bytes);
                    self.forget();
                }
            }
            // What came before a hole says nothing about what follows.
            Ordered::Elided(_) | Ordered::Lost(..) => {
                self.start = Start::Midstream;
                self.seen.clear();
                if let Ordered::Lost(bytes, reason) = ordered {
                    self.lose(Loss { from, bytes, reason, time });
                }
            }
        }
    }

    fn lose(&mut self, loss: Loss) {
        match self.losses.iter_mut().find(|(known, _)| known.from == loss.from) {
            Some((known, _)) => known.bytes += loss.bytes,
            None => self.losses.push((loss, loss.time)),
        }
    }

    /// Midstream, only the latest bytes count.
    fn forget(&mut self) {
        let mut held: usize = self.seen.iter().map(|s| s.bytes.len()).sum();
        let mut old = 0;
        while held > 2 * WINDOW && old + 1 < self.seen.len() {
            held -= self.seen[old].bytes.len();
            old += 1;
        }
        self.seen.drain(..old);
    }

    fn bytes(&self, of: Side) -> Vec<u8> {
        let parts = self.seen.iter().filter(|s| s.from == of);
        parts.flat_map(|s| &s.bytes).take(2 * WINDOW).copied().collect()
    }

    /// Asks every protocol of the table; the one that the port promises comes first.
    fn decide(&self, client: Option<Side>, hint: Option<&'static str>) -> Verdict {
        if self.seen.is_empty() {
            return Verdict::Wait;
        }
        if self.records == [true; 2] {
            return Verdict::Encrypted;
        }
        let sides = [self.bytes(Side::A), self.bytes(Side::B)];
        let mut unsure = self.records != [false; 2];
        let hinted = |entry: &&Entry| hint == Some(entry.name);
        let table = PROTOCOLS.iter().filter(hinted).chain(PROTOCOLS.iter().filter(|e| !hinted(e)));
        for entry in table {
            for side in [Side::A, Side::B] {
                if client.is_some_and(|client| client != side) {
                    continue;
                }
                let guess = (entry.detect)(&First {
                    client: &sides[side.index()],
                    server: &sides[side.other().index()],
                    hinted: hinted(&entry),
                    start: self.start,
                });
                match guess {
                    Guess::Start => return Verdict::Open(entry, Start::Beginning, side),
                    Guess::Midstream => return Verdict::Open(entry, Start::Midstream, side),
                    Guess::Unsure => unsure = true,
                    Guess::No => {}
                }
            }
        }
        let limit = match self.start {
            Start::Beginning => WINDOW as u64,
            Start::Midstream if hint.is_some() => HINTED_MAX,
            Start::Midstream => MIDSTREAM_MAX,
        };
        if unsure && self.total.iter().all(|&total| total <= limit) {
            Verdict::Wait
        } else if self.records == [false; 2] {
            Verdict::Refuse
        } else {
            // The other direction has nothing to say, or was met in the middle of something large.
            Verdict::Encrypted
        }
    }
}

#[cfg(test)]
#[path = "connection/tests.rs"]
mod tests;
