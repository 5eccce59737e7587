//! Lengths of plaintext writes and of encrypted records -> which TLS session belongs to which socket.
//!
//! A session is an object in a process's memory; nothing in it names its socket. But what it writes appears on its
//! socket as records, in order, each longer than its plaintext by what the cipher adds. A session is tied to a socket
//! where that was seen, and where no other session of the process could be meant:
//! - the segment was sent from inside of the session's own write, or
//! - several records match the session's writes in a row, and those of no other.
//!
//! Each tie is checked on: a record of another length unties.

use std::collections::{HashMap, VecDeque};

mod certificate; // a client's handshake -> its certificate's subject
mod follow; // the same, once they are known to belong together
mod framer; // segments -> records

pub use certificate::Flight;
pub use follow::Follow;
pub use framer::{APPLICATION_DATA, Framer, Header, begins_with_records};

/// Longest plaintext of one record (RFC 8446, 5.1).
const PLAINTEXT_MAX: u32 = 1 << 14;
/// Writes and records that are remembered of a session or socket that is not tied.
const REMEMBERED: usize = 256;
/// Records that must match before the tie stands for good.
const SETTLED: u32 = 3;
/// The same before a tie is made, where no segment was sent from inside of a write.
const IN_A_ROW: usize = 2;

/// A TLS session: an object at an address in a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// Its address.
    pub object: u64,
    /// The process.
    pub pid: u32,
}

/// Which end of a tapped socket's connection a session is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The socket's own process has it.
    Near,
    /// Its peer's process has it, on this host too.
    Far,
}

impl End {
    fn index(self) -> usize {
        self as usize
    }
}

/// In whose context a segment passed. Often its sender, but a segment that waited for the network passes in anyone's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// The process.
    pub pid: u32,
    /// The session in whose write the thread is; 0 where it is in none.
    pub object: u64,
}

/// What a segment or write brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The session's plaintext is that of this socket.
    Tied(Session, u64, End),
    /// And that was confirmed: its records need not be looked at any more.
    Settled(Session, u64, End),
    /// It was not: what was said of it is doubtful.
    Untied(Session, u64, End),
}

/// All sessions and sockets that are not settled.
#[derive(Debug, Default)]
pub struct Ties {
    sessions: HashMap<Session, Writes>,
    sockets: HashMap<u64, [Way; 2]>,
    /// Counts what was seen: the order of writes and records.
    clock: u64,
}

#[derive(Debug, Default)]
struct Writes {
    begun: u64,
    /// Offset of its first write.
    first: u64,
    /// Plaintext lengths of the writes whose records must come, oldest first; what is left of the first one.
    expected: VecDeque<u32>,
    /// Plaintext bytes that were taken into account.
    end: u64,
    socket: Option<(u64, End)>,
    nested: bool,
}

/// One direction of a socket.
#[derive(Debug, Default)]
struct Way {
    framer: Framer,
    /// Lengths of its records with the time of each.
    records: Vec<(u64, u16)>,
    tied: Option<Tied>,
    done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tied {
    session: Session,
    overhead: u32,
    matched: u32,
}

impl Ties {
    /// A socket from whose next segments on everything is TLS.
    pub fn socket(&mut self, cookie: u64) {
        self.sockets.entry(cookie).or_default();
    }

    /// A socket that carried TLS before anybody looked.
    pub fn joined_socket(&mut self, cookie: u64) {
        let way = || Way { framer: Framer::joined(), ..Way::default() };
        self.sockets.entry(cookie).or_insert_with(|| [way(), way()]);
    }

    /// The socket is gone, or nothing more is asked of it.
    pub fn forget_socket(&mut self, cookie: u64) {
        for way in self.sockets.remove(&cookie).into_iter().flatten() {
            if let Some(tied) = way.tied {
                self.sessions.remove(&tied.session);
            }
        }
    }

    /// The session is over, or nothing more is asked of it.
    pub fn forget_session(&mut self, session: Session) {
        if let Some((cookie, end)) = self.sessions.remove(&session).and_then(|writes| writes.socket)
            && let Some(ways) = self.sockets.get_mut(&cookie)
        {
            ways[end.index()].done = true;
        }
    }

    /// Whether anything is still asked of the socket.
    pub fn knows_socket(&self, cookie: u64) -> bool {
        self.sockets.contains_key(&cookie)
    }

    /// Whether nothing more can come of it: more records were seen than are compared with what sessions write.
    pub fn is_exhausted(&self, cookie: u64) -> bool {
        self.sockets.get(&cookie).is_none_or(|ways| ways.iter().all(|way| way.done))
    }

    /// How many records of its peer were seen without a session of this host that could have written them.
    pub fn unexplained(&self, cookie: u64) -> usize {
        self.sockets.get(&cookie).map_or(0, |ways| {
            if ways[End::Far.index()].tied.is_some() { 0 } else { ways[End::Far.index()].records.len() }
        })
    }

    /// How many records of application data the socket itself sent without a session to explain them.
    pub fn unexplained_own(&self, cookie: u64) -> usize {
        self.sockets.get(&cookie).map_or(0, |ways| {
            if ways[End::Near.index()].tied.is_some() { 0 } else { ways[End::Near.index()].records.len() }
        })
    }

    /// A session writes `length` bytes behind the `offset` that it has written so far. What it writes again, because
    /// the socket was full, it wrote before.
    pub fn wrote(&mut self, session: Session, offset: u64, length: u32) {
        self.clock += 1;
        let clock = self.clock;
        let writes = self.sessions.entry(session).or_insert_with(|| Writes {
            begun: clock,
            first: offset,
            end: offset,
            ..Writes::default()
        });
        if offset == writes.first && writes.socket.is_none() {
            // Tried again: the handshake was not done yet, and its own records came in between.
            writes.begun = clock;
        }
        let end = offset + u64::from(length);
        let start = offset.max(writes.end);
        let fresh = end.saturating_sub(start);
        writes.end = writes.end.max(end);
        if fresh > 0 && writes.expected.len() < REMEMBERED {
            writes.expected.push_back(u32::try_from(fresh).unwrap_or(u32::MAX));
        }
    }

    /// A segment of the socket: sent by it (`End::Near`) or by its peer (`End::Far`).
    pub fn segment(
        &mut self,
        cookie: u64,
        from: End,
        context: Context,
        (sequence, head, length): (u32, &[u8], u32),
        out: &mut impl FnMut(Step),
    ) {
        let Some(ways) = self.sockets.get_mut(&cookie) else { return };
        let way = &mut ways[from.index()];
        let mut records = Vec::new();
        way.framer.segment(sequence, head, length, &mut |header| {
            if header.kind == APPLICATION_DATA {
                records.push(header.length);
            }
        });
        for length in records {
            self.record(cookie, from, context, length, out);
        }
    }

    fn record(&mut self, cookie: u64, from: End, context: Context, length: u16, out: &mut impl FnMut(Step)) {
        self.clock += 1;
        let clock = self.clock;
        let Some(ways) = self.sockets.get_mut(&cookie) else { return };
        let way = &mut ways[from.index()];
        if way.done {
            return;
        }
        let Some(tied) = &mut way.tied else {
            if way.records.len() >= REMEMBERED {
                way.done = true; // it is nobody's that is seen
                return;
            }
            way.records.push((clock, length));
            return self.search(cookie, from, context, out);
        };
        let Some(writes) = self.sessions.get_mut(&tied.session) else { return };
        // Without a write it is the library's own: a ticket, a key update, an alert.
        let session = tied.session;
        match next(&mut writes.expected, tied.overhead, length) {
            Next::Write => {
                tied.matched += 1;
                if tied.matched >= SETTLED {
                    way.done = true;
                    self.sessions.remove(&session);
                    out(Step::Settled(session, cookie, from));
                }
            }
            Next::Library | Next::Unexpected => {}
            Next::Foreign => {
                way.done = true;
                self.sessions.remove(&session);
                out(Step::Untied(session, cookie, from));
            }
        }
    }

    fn search(&mut self, cookie: u64, from: End, context: Context, out: &mut impl FnMut(Step)) {
        let records = &self.sockets[&cookie][from.index()].records;
        let inside = Session { object: context.object, pid: context.pid };
        let found = if context.object != 0 {
            self.sessions
                .get(&inside)
                .filter(|writes| writes.socket.is_none())
                .and_then(|writes| Some((inside, in_order(writes, records)?, true)))
        } else if from == End::Near && context.pid != 0 {
            let mut possible = self
                .sessions
                .iter()
                .filter(|(session, writes)| {
                    session.pid == context.pid && writes.socket.is_none() && !writes.nested
                })
                .filter_map(|(session, writes)| Some((*session, in_order(writes, records)?, false)));
            let first = possible.next().filter(|(_, fit, _)| fit.records >= IN_A_ROW);
            first.filter(|_| possible.next().is_none())
        } else {
            None
        };
        let Some((session, fit, nested)) = found else { return };
        self.tie(session, cookie, from, fit, nested, out);
        // One session less for those that could not be told apart.
        if from == End::Near && !nested {
            let others: Vec<u64> = self.sockets.keys().copied().filter(|other| *other != cookie).collect();
            for other in others {
                let way = &self.sockets[&other][from.index()];
                if way.tied.is_none() && !way.done && way.records.len() >= IN_A_ROW {
                    self.search(other, from, Context { object: 0, ..context }, out);
                }
            }
        }
    }

    fn tie(
        &mut self,
        session: Session,
        cookie: u64,
        from: End,
        fit: Fit,
        nested: bool,
        out: &mut impl FnMut(Step),
    ) {
        let (Some(writes), Some(ways)) = (self.sessions.get_mut(&session), self.sockets.get_mut(&cookie))
        else {
            return;
        };
        writes.socket = Some((cookie, from));
        writes.nested |= nested;
        writes.expected.drain(..fit.writes);
        if let Some(next) = writes.expected.front_mut().filter(|_| fit.left > 0) {
            *next = fit.left;
        }
        let way = &mut ways[from.index()];
        way.records = Vec::new();
        way.framer.hunt_no_more();
        let matched = fit.records as u32;
        way.tied = Some(Tied { session, overhead: fit.added, matched });
        out(Step::Tied(session, cookie, from));
        if matched >= SETTLED {
            way.done = true;
            self.sessions.remove(&session);
            out(Step::Settled(session, cookie, from));
        }
    }
}

/// Longest record that a library sends on its own behind the handshake, tickets aside.
const LIBRARY_MAX: u16 = 64;

/// What the cipher adds to this plaintext if that is this record; `None` where it cannot be.
fn matches(plain: u32, record: u16) -> Option<u32> {
    let added = u32::from(record).checked_sub(plain)?;
    // TLS 1.3: content type and tag; TLS 1.2: tag alone (ChaCha20), with an explicit nonce (GCM, CCM).
    (matches!(added, 9 | 16 | 17 | 24) || is_padded(added)).then_some(added)
}

/// Whether one session's cipher may add that much to one record and that much to another.
fn are_alike(one: u32, other: u32) -> bool {
    one == other || is_padded(one) && is_padded(other)
}

/// What a record of a session is, by what the session has written and not sent yet.
enum Next {
    /// What is to come next of a write.
    Write,
    /// Not written by the program: a key update, an alert.
    Library,
    /// It has written nothing that has not been sent; the write itself may be told later.
    Unexpected,
    /// Not this session's.
    Foreign,
}

/// Takes what a record carries from what is to come. `added`: what the session's cipher adds to a record.
fn next(expected: &mut VecDeque<u32>, added: u32, record: u16) -> Next {
    let Some(left) = expected.front_mut() else { return Next::Unexpected };
    if let Some((plain, _)) = part(*left, record).filter(|(_, its)| are_alike(*its, added)) {
        *left -= plain;
        if *left == 0 {
            expected.pop_front();
        }
        Next::Write
    } else if record > LIBRARY_MAX || u32::from(record) > *left {
        Next::Foreign
    } else {
        Next::Library
    }
}

/// TLS 1.2's block ciphers: initialisation vector, MAC, padding to the block.
fn is_padded(added: u32) -> bool {
    (37..=96).contains(&added)
}

/// Records with which a handshake ends: certificate, its proof, the end; and one to spare.
const HANDSHAKE_MAX: usize = 4;

/// Plaintext of the records that Go's `crypto/tls` begins with, and what the cipher adds to each (TLS 1.3; ChaCha20
/// and GCM under TLS 1.2): a first record fills a segment, and those that follow are longer by that much each
/// (`maxPayloadSizeForWrite`).
const GROWING: [(u32, u32); 3] = [(1186, 17), (1187, 16), (1179, 24)];

/// How much of a write, of which so much is left, is in this record, and what the cipher adds to it; `None` where it
/// cannot be.
fn part(left: u32, record: u16) -> Option<(u32, u32)> {
    let whole = left.min(PLAINTEXT_MAX);
    if let Some(added) = matches(whole, record) {
        return Some((whole, added));
    }
    GROWING.into_iter().find_map(|(unit, added)| {
        let plain = u32::from(record).checked_sub(added).filter(|plain| *plain > 0 && *plain < whole)?;
        plain.is_multiple_of(unit).then_some((plain, added))
    })
}

/// Records that are a session's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fit {
    /// How many.
    records: usize,
    /// Writes that are in them as a whole.
    writes: usize,
    /// What is left of the next one.
    left: u32,
    /// What the cipher adds to each.
    added: u32,
}

/// How all records since a session's first write are its writes, in order. The first write may bring the handshake's
/// last records before its own.
fn in_order(writes: &Writes, records: &[(u64, u16)]) -> Option<Fit> {
    let since: Vec<u16> = records.iter().filter(|(at, _)| *at > writes.begun).map(|(_, n)| *n).collect();
    (0..=HANDSHAKE_MAX).find_map(|before| {
        let own = since.get(before..).filter(|own| !own.is_empty())?;
        let fit = aligned(&writes.expected, own)?;
        (before == 0 || own.len() >= IN_A_ROW).then_some(fit)
    })
}

/// The same, if these records are the session's first writes.
fn aligned<'a>(writes: impl IntoIterator<Item = &'a u32>, records: &[u16]) -> Option<Fit> {
    let mut expected = writes.into_iter();
    let mut fit: Option<Fit> = None;
    for record in records {
        let left = match fit.map_or(0, |fit| fit.left) {
            0 => *expected.next()?,
            left => left,
        };
        let (plain, added) = part(left, *record)?;
        let so_far = fit.get_or_insert(Fit { records: 0, writes: 0, left: 0, added });
        if !are_alike(added, so_far.added) {
            return None;
        }
        so_far.records += 1;
        so_far.left = left - plain;
        so_far.writes += usize::from(so_far.left == 0);
    }
    fit
}

#[cfg(test)]
#[path = "tie/tests.rs"]
mod tests;
