//! Texts that servers are about to parse -> answers: those of sessions that nobody can read on their way.
//!
//! A server's process waits for each answer and keeps a processor busy meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_common::parse::{Asked, PIECE};
use agent_core::protocol::PROTOCOLS;
use aya::maps::{HashMap as BpfMap, Map, MapData, RingBuf};

use super::super::lanes::Slots;
use super::{Desk, Session};

/// Longest time that somebody waits for an answer; what is asked for longer was given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most bytes of texts that are not all here.
const PARTS_MAX: usize = 256 << 20;

/// Sessions whose texts are judged when they are parsed: cookie -> whose known texts pass.
pub(super) struct Unseen {
    classes: BpfMap<MapData, u64, u32>,
}

impl Unseen {
    /// From now on the server's parser asks about what this session says.
    pub(super) fn begin(&mut self, cookie: u64) {
        if let Err(error) = self.classes.insert(cookie, 0, 0) {
            tracing::error!(%error, "a session that cannot be read is not judged");
        }
    }
}

/// A text that is not all here, or waits to be judged.
struct Text {
    asked: Asked,
    bytes: Vec<u8>,
    since: Instant,
    whole: bool,
}

/// What is asked, and by which sessions.
pub(super) struct Questions {
    ring: RingBuf<MapData>,
    answers: Slots,
    sessions: HashMap<u64, Box<Session>>,
    /// By the server's process, which asks one question at a time.
    texts: HashMap<u32, Text>,
    kept: usize,
}

impl Questions {
    pub(super) fn new(ring: OwnedFd, answers: &OwnedFd, classes: OwnedFd) -> anyhow::Result<(Self, Unseen)> {
        let mut classes: BpfMap<_, u64, u32> = BpfMap::try_from(Map::HashMap(MapData::from_fd(classes)?))?;
        // Another shim's numbers mean nothing here.
        let old: Vec<u64> = classes.keys().filter_map(Result::ok).collect();
        for cookie in old {
            classes.insert(cookie, 0, 0)?;
        }
        let questions = Self {
            ring: RingBuf::try_from(Map::RingBuf(MapData::from_fd(ring)?))?,
            answers: Slots::map(answers.as_fd())?,
            sessions: HashMap::new(),
            texts: HashMap::new(),
            kept: 0,
        };
        Ok((questions, Unseen { classes }))
    }

    /// Answers what is asked.
    pub(super) fn answer(&mut self, desk: &mut Desk) {
        while let Some((asked, text)) = self.next() {
            self.piece(asked, text, desk);
        }
    }

    fn next(&mut self) -> Option<(Asked, Vec<u8>)> {
        loop {
            let record = self.ring.next()?;
            if let Some((asked, text)) = parse(&record) {
                return Some((asked, text.to_vec()));
            }
        }
    }

    fn piece(&mut self, asked: Asked, piece: Vec<u8>, desk: &mut Desk) {
        let pid = asked.pid;
        if asked.offset == 0 {
            self.forget(pid);
            if asked.last == 1 {
                return self.judge(Text { asked, bytes: piece, since: Instant::now(), whole: true }, desk);
            }
            self.kept += piece.len();
            self.texts.insert(pid, Text { asked, bytes: piece, since: Instant::now(), whole: false });
            return;
        }
        let Some(text) = self.texts.get_mut(&pid) else { return };
        let follows = text.asked.ticket == asked.ticket && text.bytes.len() as u64 == asked.offset;
        if !follows || self.kept + piece.len() > PARTS_MAX {
            // Nobody answers: what then, the kernel side knows.
            return self.forget(pid);
        }
        self.kept += piece.len();
        text.bytes.extend_from_slice(&piece);
        if asked.last == 1
            && let Some(mut text) = self.take(pid)
        {
            text.whole = true;
            self.judge(text, desk);
        }
    }

    fn take(&mut self, pid: u32) -> Option<Text> {
        let text = self.texts.remove(&pid)?;
        self.kept -= text.bytes.len();
        Some(text)
    }

    fn forget(&mut self, pid: u32) {
        drop(self.take(pid));
    }

    /// Judges a text, where it is known who asks, and answers.
    fn judge(&mut self, text: Text, desk: &mut Desk) {
        let Asked { ticket, cookie, framing, .. } = text.asked;
        let session = match self.sessions.entry(cookie) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let entry = PROTOCOLS.iter().filter(|entry| entry.inline.is_some()).nth(framing as usize);
                let Some(session) = entry.and_then(|entry| Session::unseen(cookie, entry)) else { return };
                new.insert(Box::new(session))
            }
        };
        if session.awaits_introduction(desk).is_some() {
            self.kept += text.bytes.len();
            self.texts.insert(text.asked.pid, text);
            return;
        }
        let before = session.class();
        let denied = session.denies(&text.bytes, desk);
        let class = session.class();
        if class != before {
            let _ = desk.unseen.classes.insert(cookie, class, 0);
        }
        self.answers.answer(ticket, denied);
    }

    /// Judges what had to wait, and forgets what nobody waits for any more.
    pub(super) fn tend(&mut self, desk: &mut Desk) {
        let old: Vec<u32> = self
            .texts
            .iter()
            .filter(|(_, text)| text.since.elapsed() > PATIENCE)
            .map(|(pid, _)| *pid)
            .collect();
        for pid in old {
            self.forget(pid);
        }
        let whole: Vec<u32> = self.texts.iter().filter(|(_, text)| text.whole).map(|(pid, _)| *pid).collect();
        for pid in whole {
            if let Some(text) = self.take(pid) {
                self.judge(text, desk);
            }
        }
    }

    /// Says again whose known texts pass: of all sessions, or of one.
    pub(super) fn reclass(&mut self, only: Option<u64>, desk: &mut Desk) {
        for (&cookie, session) in &mut self.sessions {
            if only.is_none_or(|only| only == cookie) && session.class() != 0 {
                let class = session.reclass(desk);
                let _ = desk.unseen.classes.insert(cookie, class, 0);
            }
        }
        self.tend(desk);
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, cookie: u64, desk: &mut Desk) {
        let _ = desk.unseen.classes.remove(&cookie);
        self.sessions.remove(&cookie);
    }
}

impl AsFd for Questions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

fn parse(record: &[u8]) -> Option<(Asked, &[u8])> {
    let head = record.get(..size_of::<Asked>())?;
    // SAFETY: as many bytes as it has; plain numbers, any bits are valid.
    let asked = unsafe { head.as_ptr().cast::<Asked>().read_unaligned() };
    let text = record.get(size_of::<Asked>()..)?.get(..asked.length.min(PIECE) as usize)?;
    Some((asked, text))
}
