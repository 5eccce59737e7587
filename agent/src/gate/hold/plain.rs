//! What clients write into TLS sessions, before it is encrypted -> the connection whose ciphertext the shim has.
//!
//! Nothing in a session names its socket. But its writes come before their records, each longer by what the cipher adds:
//! a session is a connection's where their lengths say so and no other session of the process could be meant, or where
//! the thread that sent wrote to it last.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::OwnedFd;

use agent_common::TlsKey;
use agent_common::plain::{PIECE, Plain, Written};
use agent_core::protocol::PROTOCOLS;
use agent_core::protocol::Start;
use agent_core::protocol::inline::Step;
use agent_core::tie::Follow;
use aya::maps::{HashMap as BpfMap, Map, MapData, RingBuf};

/// Bytes of all sessions that wait for their connection.
const KEPT_MAX: usize = 64 << 20;
/// The same of one.
const KEPT_ONE: usize = 4 << 20;
/// How long a session may write nothing before it is forgotten that has no connection; nanoseconds.
const IDLE: u64 = 30_000_000_000;
/// Writes that are remembered before a session's connection is known.
const WRITES_MAX: usize = 64;

/// All sessions that may be a database client's.
pub(super) struct Plaintexts {
    ring: RingBuf<MapData>,
    written: BpfMap<MapData, TlsKey, Written>,
    streams: Streams,
}

/// Sessions, with their connection or without. An object's address is used again as soon as its session is over.
#[derive(Default)]
struct Streams {
    /// Those whose connection is not known.
    free: HashMap<TlsKey, Stream>,
    /// By their connection's cookie.
    owned: HashMap<u64, Stream>,
    /// Of these, those that are not over.
    owners: HashMap<TlsKey, u64>,
    kept: usize,
}

/// One session.
struct Stream {
    bytes: Vec<u8>,
    /// Bytes that it has written, and how many when its last write began.
    end: u64,
    offset: u64,
    /// Part of it was not seen.
    lost: bool,
    /// When its first write began, and its last one, and by which thread.
    begun: u64,
    last: u64,
    thread: u32,
    /// Lengths of its writes, before its connection is known.
    writes: Vec<u32>,
    /// Of the last write's pieces: where each begins, how long it is, and what it hashes to.
    pieces: Vec<(u64, usize, u64)>,
    hasher: RandomState,
    key: TlsKey,
    follow: Option<Follow>,
}

/// Whether a connection's session is known.
pub(super) enum Found {
    /// It is.
    Bound(TlsKey),
    /// Nobody in that process has written anything that could be it.
    Nothing,
    /// There are some, and which one it is does not show.
    Unclear,
}

/// A connection's ciphertext, as far as it tells whose it is.
pub(super) struct Traits<'a> {
    pub(super) cookie: u64,
    /// Process and thread that sent last, and when.
    pub(super) sender: u64,
    pub(super) sent: u64,
    /// When its handshake began, nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) since: u64,
    /// Lengths of its records of application data.
    pub(super) records: &'a [u16],
}

impl Plaintexts {
    pub(super) fn new(ring: OwnedFd, written: OwnedFd) -> anyhow::Result<Self> {
        Ok(Self {
            ring: RingBuf::try_from(Map::RingBuf(MapData::from_fd(ring)?))?,
            written: BpfMap::try_from(Map::LruHashMap(MapData::from_fd(written)?))?,
            streams: Streams::default(),
        })
    }

    /// Reads all that was written so far.
    pub(super) fn drain(&mut self) {
        while let Some(record) = self.ring.next() {
            let Some(head) = record.get(..size_of::<Plain>()) else { continue };
            // SAFETY: as many bytes as it has; plain numbers, any bits are valid.
            let head = unsafe { head.as_ptr().cast::<Plain>().read_unaligned() };
            let bytes = record.get(size_of::<Plain>()..).unwrap_or_default();
            let Some(bytes) = bytes.get(..head.length.min(PIECE) as usize) else { continue };
            if self.streams.take(&head, bytes) {
                ignore(&mut self.written, head.session);
                self.streams.drop_free(head.session);
            }
        }
    }

    /// Whose plaintext a connection's ciphertext is, as far as can be told now.
    pub(super) fn find(&mut self, of: &Traits<'_>) -> Found {
        let (pid, thread) = ((of.sender >> 32) as u32, of.sender as u32);
        let possible = |(key, stream): &(&TlsKey, &Stream)| key.pid == pid && stream.begun >= of.since;
        let free = &self.streams.free;
        let mut any = false;
        let mut fits = Vec::new();
        for (key, stream) in free.iter().filter(possible) {
            any = true;
            fits.extend(Follow::begin(&stream.writes, of.records).map(|follow| (*key, follow)));
        }
        let index = match fits.len() {
            0 => None,
            1 => Some(0),
            _ => {
                let wrote = |stream: &&Stream| stream.thread == thread && stream.last <= of.sent;
                let all = free.values().chain(self.streams.owned.values());
                let last = all.filter(wrote).max_by_key(|stream| stream.last);
                last.and_then(|last| fits.iter().position(|(key, _)| *key == last.key))
            }
        };
        let Some(index) = index else { return if any { Found::Unclear } else { Found::Nothing } };
        let (key, follow) = fits.swap_remove(index);
        let Some(mut stream) = self.streams.free.remove(&key) else { return Found::Nothing };
        stream.follow = Some(follow);
        stream.writes = Vec::new();
        self.streams.owned.insert(of.cookie, stream);
        self.streams.owners.insert(key, of.cookie);
        Found::Bound(key)
    }

    /// Hands out what was written on a connection whose session is known, and compares the lengths of the records that
    /// have come since. False where part of it is missing, or it is another one's.
    pub(super) fn read(&mut self, cookie: u64, records: &[u16], out: &mut Vec<u8>) -> bool {
        let Some(stream) = self.streams.owned.get_mut(&cookie) else { return false };
        let is_over = self.streams.owners.get(&stream.key) != Some(&cookie);
        let lost = !is_over && self.written.get(&stream.key, 0).is_ok_and(|written| written.lost != 0);
        self.streams.kept -= stream.bytes.len();
        out.append(&mut stream.bytes);
        let Some(follow) = &mut stream.follow else { return false };
        !lost && !stream.lost && records.iter().all(|length| follow.record(*length))
    }

    /// Forgets sessions that no connection came for: what their processes ask is asked of servers that are not held.
    pub(super) fn tend(&mut self, now: u64) {
        let Streams { free, kept, .. } = &mut self.streams;
        for (_, gone) in free.extract_if(|_, stream| now.saturating_sub(stream.last) > IDLE) {
            *kept -= gone.bytes.len();
        }
    }

    /// A connection is not read any more.
    pub(super) fn give_up(&mut self, cookie: u64) {
        if let Some(key) = self.forget(cookie) {
            ignore(&mut self.written, key);
        }
    }

    /// A connection is gone. Gives its session, where that is not over.
    pub(super) fn forget(&mut self, cookie: u64) -> Option<TlsKey> {
        let stream = self.streams.owned.remove(&cookie)?;
        self.streams.kept -= stream.bytes.len();
        let is_open = self.streams.owners.get(&stream.key) == Some(&cookie);
        is_open.then(|| self.streams.owners.remove(&stream.key)).map(|_| stream.key)
    }
}

/// Nothing more of this session is wanted.
fn ignore(written: &mut BpfMap<MapData, TlsKey, Written>, session: TlsKey) {
    let known = written.get(&session, 0).unwrap_or_default();
    let _ = written.insert(session, Written { ignored: 1, ..known }, 0);
}

impl Streams {
    fn drop_free(&mut self, session: TlsKey) {
        if let Some(gone) = self.free.remove(&session) {
            self.kept -= gone.bytes.len();
        }
    }

    /// Takes a piece. True where nobody wants to know more of its session.
    fn take(&mut self, head: &Plain, bytes: &[u8]) -> bool {
        let key = head.session;
        if head.length == 0 {
            // The session is over. What its connection has to say of it may still come.
            self.owners.remove(&key);
            self.drop_free(key);
            return false;
        }
        if let Some(stream) = self.owners.get(&key).and_then(|owner| self.owned.get_mut(owner)) {
            self.kept += stream.take(head, bytes);
            return false;
        }
        let stream = self.free.entry(key).or_insert_with(|| Stream {
            bytes: Vec::new(),
            end: 0,
            offset: 0,
            // It may be that the shim has begun in the middle of it.
            lost: head.offset != 0,
            begun: head.time,
            last: head.time,
            thread: head.thread,
            writes: Vec::new(),
            pieces: Vec::new(),
            hasher: RandomState::new(),
            key,
            follow: None,
        });
        if head.offset == 0 && head.call != 0 && stream.writes.len() <= 1 {
            // Tried again: the handshake was not done yet.
            stream.begun = head.time;
        }
        self.kept += stream.take(head, bytes);
        self.kept > KEPT_MAX
            || stream.bytes.len() > KEPT_ONE
            || stream.writes.len() > WRITES_MAX
            || !may_be_a_database(&stream.bytes)
    }
}

impl Stream {
    /// Takes a piece; gives how many bytes are kept of it.
    fn take(&mut self, head: &Plain, bytes: &[u8]) -> usize {
        (self.last, self.thread) = (head.time, head.thread);
        if head.call != 0 {
            // A number that goes back is that of a session which the kernel side does not remember.
            self.lost |= head.offset < self.offset;
            if head.offset > self.offset {
                self.pieces.clear();
            }
            self.offset = head.offset;
            let fresh = (head.offset + u64::from(head.call)).saturating_sub(self.end.max(head.offset));
            let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
            match &mut self.follow {
                _ if fresh == 0 => {}
                Some(follow) => follow.wrote(fresh),
                None => self.writes.push(fresh),
            }
        }
        self.lost |= head.offset > self.end;
        self.lost |= self.differs(head.offset, bytes);
        // What is written again was there before.
        let known = usize::try_from(self.end.saturating_sub(head.offset)).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        self.end = self.end.max(head.offset + bytes.len() as u64);
        if self.follow.is_some() && self.bytes.len() + new.len() > KEPT_MAX {
            // Nothing of it is sent.
            self.lost = true;
            return 0;
        }
        self.bytes.extend_from_slice(new);
        new.len()
    }

    /// Whether a piece of a write that is tried again is another one than before: a library encrypts what it is given the
    /// last time, and what was judged is what it was given first. More may come behind it.
    fn differs(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let piece = (offset, bytes.len(), self.hasher.hash_one(bytes));
        let Some(known) = self.pieces.iter_mut().find(|(at, ..)| *at == offset) else {
            self.pieces.push(piece);
            return false;
        };
        let (_, length, hash) = *known;
        let same = bytes.get(..length).is_some_and(|before| self.hasher.hash_one(before) == hash);
        *known = piece;
        !same
    }
}

fn may_be_a_database(bytes: &[u8]) -> bool {
    let begins = |inline: &agent_core::protocol::inline::Inline| (inline.open)(Start::Beginning).next(bytes);
    PROTOCOLS.iter().filter_map(|entry| entry.inline).any(|inline| match begins(inline) {
        Step::Unknown | Step::Blind(_) => false,
        Step::Short => bytes.len() < usize::from(u16::MAX),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: TlsKey = TlsKey { object: 1, pid: 2, padding: 0 };

    fn startup() -> Vec<u8> {
        let mut packet = b"\0\0\0\0\0\x03\0\0user\0u\0database\0d\0\0".to_vec();
        packet[3] = packet.len() as u8;
        packet
    }

    fn head(offset: u64, bytes: &[u8]) -> Plain {
        let length = bytes.len() as u32;
        Plain { session: KEY, time: 5, offset, length, call: length, ..Plain::default() }
    }

    #[test]
    fn what_is_written_again_is_there_once_and_a_hole_is_seen() {
        let mut streams = Streams::default();
        let first = startup();
        for _ in 0..2 {
            assert!(!streams.take(&head(0, &first), &first));
        }
        let end = first.len() as u64;
        assert!(!streams.take(&head(end, b"next"), b"next"));
        let stream = &streams.free[&KEY];
        assert_eq!(stream.bytes, [&*first, b"next"].concat());
        assert_eq!((&*stream.writes, stream.lost), (&[end as u32, 4][..], false));
        assert_eq!(streams.kept, first.len() + 4);
        streams.take(&head(end + 5, b"x"), b"x");
        assert!(streams.free[&KEY].lost);
        let mut streams = Streams::default();
        streams.take(&head(0, &first), &first);
        streams.take(&head(end, b"next"), b"next");
        streams.take(&head(0, b"else"), b"else");
        assert!(streams.free[&KEY].lost, "the kernel side has begun to count anew");
    }

    #[test]
    fn what_is_tried_again_with_other_bytes_is_not_trusted() {
        let asked = |again: &[u8]| {
            let mut streams = Streams::default();
            let first = startup();
            streams.take(&head(0, &first), &first);
            let end = first.len() as u64;
            streams.take(&head(end, b"select 1"), b"select 1");
            streams.take(&head(end, again), again);
            let stream = &streams.free[&KEY];
            (stream.lost, stream.bytes.len() - first.len())
        };
        assert_eq!(asked(b"select 1"), (false, 8));
        assert_eq!(asked(b"select 1, 2"), (false, 11));
        assert!(asked(b"select 2").0, "it is the second that is sent");
        assert!(asked(b"select").0, "less than was tried");
    }

    #[test]
    fn what_is_no_database_is_not_kept() {
        let mut streams = Streams::default();
        let bytes = b"GET / HTTP/1.1\r\n\r\n";
        assert!(streams.take(&head(0, bytes), bytes));
        assert!(!Streams::default().take(&head(0, &startup()[..6]), &startup()[..6]));
    }

    /// The next session has the same address as soon as one is over, and another connection.
    #[test]
    fn a_session_that_is_over_and_the_next_one_are_two() {
        let mut streams = Streams::default();
        let first = startup();
        streams.take(&head(0, &first), &first);
        let stream = streams.free.remove(&KEY).unwrap();
        streams.owned.insert(7, stream);
        streams.owners.insert(KEY, 7);
        streams.take(&Plain { session: KEY, ..Plain::default() }, b"");
        streams.take(&head(0, &first), &first);
        assert_eq!(streams.owned[&7].bytes, first);
        assert_eq!(streams.free[&KEY].bytes, first);
    }
}
