//! The shim's loop: bytes that the kernel side holds -> judged -> on to the server, or something else in their place.
//!
//! One thread, no store, no network of its own. It decides by the rules and the names that the agent told last; an agent
//! that hangs changes nothing.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_common::gate::{HELLO_MAX, Known, Name, PASSES, Shared, lane as state, late};
use agent_core::policy::{Policies, Problem, Source};
use agent_core::protocol::PROTOCOLS;
use agent_core::sensitive::Catalog;
use agent_core::sql::{Text, Texts};
use aya::maps::{Array, HashMap as BpfMap, Map, MapData, SockHash};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::guard::Part;
use super::lanes::{LaneRef, Lanes, Page};
use super::message::{self, now_ns};
use super::talk::{News, Order, Who};
use crate::pipeline::record::Ids;

mod plain; // what clients write into TLS sessions
mod pool; // the shim's sockets
mod session; // one connection: bytes in, bytes and decisions out
mod statements; // of a held message -> how they are told
mod answers; // what its server sends: bytes in, masked bytes out
mod asked; // texts that servers are about to parse: answers

use asked::{Questions, Unseen};
use plain::Plaintexts;
use pool::Pool;
use session::{Session, Turn};

/// How often the kernel side sees that somebody is here, and lanes of closed connections are cleaned.
const BEAT: Duration = Duration::from_millis(20);
/// Texts that the kernel side may know at once.
const KNOWN_MAX: usize = 60_000;
/// News that wait for an agent which does not listen.
const NEWS_MAX: usize = 4096;
/// How long the end may take where nobody's statements are to be lost.
const DRAIN: Duration = Duration::from_secs(1);
/// The agent's socket among the lanes of an epoll event.
const AGENT: u64 = u64::MAX;
/// What servers' parsers ask.
const ASKED: u64 = u64::MAX - 1;
/// Added to a lane: the socket of its answers.
const ANSWERS: u64 = 1 << 32;
/// Sessions beyond those that are open whose names are kept.
const STRANGERS: usize = 1024;
/// How soon what could not be sent is sent again.
const AGAIN: Duration = Duration::from_micros(500);

/// What sessions share.
pub(super) struct Desk {
    /// Where news go.
    agent: OwnedFd,
    pub(super) policies: Arc<Policies>,
    pub(super) generation: u32,
    pub(super) texts: Texts,
    pub(super) key: [u64; 2],
    pub(super) who: HashMap<u64, Who>,
    pub(super) known: KnownTexts,
    pub(super) news: VecDeque<News>,
    untold: u64,
    /// Bytes that could not be sent on, of connections that are there, and were not told.
    pub(super) dropped: u64,
    /// Messages that a canary has spoken about.
    pub(super) watched: u64,
    pub(super) draining: bool,
    pub(super) ids: Ids,
    pub(super) catalog: Arc<Catalog>,
    pub(super) closed: bool,
    /// Where clients' plaintext can be had.
    plain: Option<Plaintexts>,
    unseen: Unseen,
}

/// Texts that the kernel side lets pass.
pub(super) struct KnownTexts {
    map: BpfMap<MapData, Known, u32>,
    names: BpfMap<MapData, Name, u64>,
    texts: HashMap<u64, Arc<Text>>,
    order: VecDeque<Known>,
    classes: HashMap<Class, u32>,
}

/// Sessions that are judged alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) generation: u32,
    pub(super) system: &'static str,
    pub(super) namespace: String,
    pub(super) users: Vec<(String, String)>,
    pub(super) principal: String,
    pub(super) agent: String,
}

impl KnownTexts {
    /// The number of a class.
    pub(super) fn class(&mut self, class: Class) -> u32 {
        // Numbers are never used again: what was known of an old class must not be of a new one.
        let next = self.classes.values().max().copied().unwrap_or(0) + 1;
        *self.classes.entry(class).or_insert(next)
    }

    /// From now on the kernel side lets this text pass in lanes of this class.
    pub(super) fn insert(&mut self, known: Known, text: &Arc<Text>) {
        if known.hash == 0 || self.map.insert(known, 1, 0).is_err() {
            return;
        }
        self.texts.insert(known.hash, Arc::clone(text));
        self.order.push_back(known);
        while self.order.len() > KNOWN_MAX {
            let Some(old) = self.order.pop_front() else { break };
            let _ = self.map.remove(&old);
            self.texts.remove(&old.hash);
        }
    }

    /// A name was given to a text with this hash, as the kernel side would have noted; 0 for one without a hash.
    pub(super) fn name(&mut self, name: Name, hash: u64) {
        let _ = self.names.insert(name, hash, 0);
    }

    /// The hash that stands for a name now, as the kernel side has it.
    pub(super) fn hash(&self, name: &Name) -> Option<u64> {
        self.names.get(name, 0).ok()
    }

    /// A name stands for nothing any more.
    pub(super) fn unname(&mut self, name: &Name) {
        let _ = self.names.remove(name);
    }

    /// What a name stands for. `given`: hash of the text that it was given to last by what was read.
    pub(super) fn named(&self, name: &Name, given: Option<u64>) -> agent_core::protocol::inline::Named {
        use agent_core::protocol::inline::Named;
        match self.names.get(name, 0) {
            Err(_) | Ok(0) => Named::Unseen,
            Ok(hash) if given == Some(hash) => Named::Unseen,
            Ok(hash) => self.texts.get(&hash).map_or(Named::Lost, |text| Named::Text(Arc::clone(text))),
        }
    }
}

impl Desk {
    /// Tells the agent something.
    pub(super) fn tell(&mut self, news: News) {
        if self.news.len() >= NEWS_MAX {
            self.untold += 1;
            return;
        }
        self.news.push_back(news);
    }

    /// Tells the agent what there is to tell, as long as it listens. What becomes of a statement it has to know before the
    /// statement has an answer.
    pub(super) fn speak(&mut self) {
        if self.untold > 0 && self.news.len() < NEWS_MAX {
            let untold = std::mem::take(&mut self.untold);
            self.news.push_back(News::Untold(untold));
        }
        if self.dropped > 0 && self.news.len() < NEWS_MAX {
            let dropped = std::mem::take(&mut self.dropped);
            self.news.push_back(News::Dropped(dropped));
        }
        while let Some(news) = self.news.front() {
            if message::send_now(self.agent.as_fd(), news).is_err() {
                break;
            }
            self.news.pop_front();
        }
    }
}

/// A lane that wants to be looked at again, soonest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Later(std::cmp::Reverse<Instant>, usize);

/// The shim at work on held bytes.
pub struct Holder {
    epoll: Epoll,
    agent: OwnedFd,
    lanes: Lanes,
    shared: Page<Shared>,
    pool: Pool,
    guarded: SockHash<MapData, u64>,
    hellos: Array<MapData, [u8; HELLO_MAX as usize]>,
    sessions: Vec<Option<Box<Session>>>,
    later: BinaryHeap<Later>,
    desk: Desk,
    questions: Questions,
    /// What the agent wants to outlive it.
    kept: Vec<OwnedFd>,
    scratch: Box<[u8]>,
    /// Since when there is no agent.
    orphaned: Option<Instant>,
    /// The agent wants nothing to be held any more.
    drained: bool,
    /// Lanes that were in use when this shim began: up to here.
    used: usize,
    /// Those of them whose bytes were lost with another shim: the agent ends their connections.
    lost: HashSet<usize>,
}

impl Holder {
    /// `parts`: see [`Part`]. `agent`: where orders come from and news go to. `closed`: without it nothing passes that is
    /// held.
    /// `answers`: what servers send goes through it too.
    pub fn new(agent: OwnedFd, parts: Vec<OwnedFd>, closed: bool, answers: bool) -> anyhow::Result<Self> {
        let run = std::process::id().wrapping_mul(0x9e37_79b9) ^ now_ns() as u32;
        let mut parts: Vec<Option<OwnedFd>> = parts.into_iter().map(Some).collect();
        let mut sent = |part: Part| parts.get_mut(part as usize).and_then(Option::take);
        let plain = sent(Part::Plain).zip(sent(Part::Written));
        let mut take = |part: Part| sent(part).ok_or_else(|| anyhow::anyhow!("{part:?} is missing"));
        let lanes = Lanes::map(take(Part::Lanes)?.as_fd(), super::guard::LANES as usize)?;
        let shared = Page::<Shared>::map(take(Part::Shared)?.as_fd())?;
        let data = |fd: OwnedFd| MapData::from_fd(fd);
        let mut known: BpfMap<_, Known, u32> = BpfMap::try_from(Map::HashMap(data(take(Part::Known)?)?))?;
        // What another shim let pass was for classes that have other numbers here.
        let old: Vec<Known> = known.keys().filter_map(Result::ok).collect();
        for text in old {
            known.remove(&text)?;
        }
        let names = BpfMap::try_from(Map::LruHashMap(data(take(Part::Names)?)?))?;
        let hellos = Array::try_from(Map::Array(data(take(Part::Hello)?)?))?;
        let pool = Pool::new(
            data(take(Part::Shims)?)?,
            data(take(Part::Serves)?)?,
            data(take(Part::Free)?)?,
            lanes.count(),
            answers,
        )?;
        let (questions, unseen) =
            Questions::new(take(Part::Asked)?, &take(Part::Answers)?, take(Part::Classes)?)?;
        let guarded = SockHash::try_from(Map::SockHash(data(take(Part::Guarded)?)?))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&questions, EpollEvent::new(EpollFlags::EPOLLIN, ASKED))?;
        epoll.add(&agent, EpollEvent::new(EpollFlags::EPOLLIN, AGENT))?;
        let key = shared.key();
        let teller = agent.try_clone()?;
        let mut holder = Self {
            epoll,
            agent,
            sessions: Vec::new(),
            lanes,
            shared,
            pool,
            guarded,
            hellos,
            later: BinaryHeap::new(),
            desk: Desk {
                agent: teller,
                policies: Arc::default(),
                generation: 0,
                texts: Texts::default(),
                key,
                who: HashMap::new(),
                known: KnownTexts {
                    map: known,
                    names,
                    texts: HashMap::new(),
                    order: VecDeque::new(),
                    classes: HashMap::new(),
                },
                news: VecDeque::new(),
                untold: 0,
                dropped: 0,
                watched: 0,
                draining: false,
                ids: Ids::new(run),
                catalog: Arc::default(),
                closed,
                plain: plain.map(|(ring, written)| Plaintexts::new(ring, written)).transpose()?,
                unseen,
            },
            questions,
            kept: Vec::new(),
            scratch: vec![0; 256 * 1024].into(),
            orphaned: None,
            drained: false,
            used: 0,
            lost: HashSet::new(),
        };
        holder.take_over();
        holder.grow()?;
        Ok(holder)
    }

    /// Finds the connections that another shim has left behind.
    fn take_over(&mut self) {
        for index in 0..self.lanes.count() {
            let Some(lane) = self.lanes.get(index) else { break };
            if lane.state() == state::FREE {
                continue;
            }
            self.used = index + 1;
            match lane.word() {
                _ if lane.answering() != 0 => {
                    self.lost.insert(index);
                }
                // Nothing has come yet, all that came is dealt with, or it passes.
                1 | PASSES.. => {}
                word if word & 1 != 0 => {
                    self.lost.insert(index);
                }
                // What there is to know of it went with the other shim. Where its next message begins is known.
                _ => lane.set_late(late::NEW),
            }
        }
    }

    /// Serves until the agent is gone.
    pub fn run(mut self) -> io::Result<()> {
        self.serve()?;
        // The agent is gone. Failing open: what waits goes on, and nothing is held any more. Failing closed: those who
        // are here are watched to the end by the rules that were told last.
        let _ = self.epoll.delete(&self.agent);
        if !self.desk.closed {
            self.shared.armed(false);
            self.desk.draining = true;
            self.each(Session::drain);
        }
        self.orphaned = Some(Instant::now());
        self.serve()
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let mut beaten = Instant::now().checked_sub(BEAT).unwrap_or_else(Instant::now);
        loop {
            let now = Instant::now();
            if now.duration_since(beaten) >= BEAT {
                beaten = now;
                self.shared.beat(now_ns());
                if self.orphaned.is_some() {
                    self.look_for_ends();
                }
                self.clean();
                if let Some(plain) = &mut self.desk.plain {
                    plain.drain();
                    plain.tend(now_ns());
                }
                self.grow()?;
            }
            let next = self.later.peek().map_or(BEAT, |Later(at, _)| at.0.saturating_duration_since(now));
            let wait = next.min(BEAT.saturating_sub(now.duration_since(beaten)));
            // Rounded up: what is due in a moment would spin otherwise.
            let wait =
                EpollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(EpollTimeout::ZERO);
            let count = match self.epoll.wait(&mut events, wait) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    AGENT if !self.listen() => return Ok(()),
                    AGENT => {}
                    ASKED => self.questions.answer(&mut self.desk),
                    lane if lane & ANSWERS != 0 => self.read_answers((lane & !ANSWERS) as usize),
                    lane => self.read(lane as usize),
                }
                self.shared.beat(now_ns());
            }
            self.due();
            self.questions.tend(&mut self.desk);
            self.desk.speak();
            if let Some(since) = self.orphaned {
                // Each of them passes from here on, or has something on its way to this process.
                self.clean();
                let waits = self.sessions.iter().flatten().any(|session| session.waits());
                let open = |wanted: fn(LaneRef<'_>) -> bool| {
                    let lanes = (0..self.pool.len()).filter_map(|index| self.lanes.get(index));
                    lanes.filter(|lane| lane.state() == state::OPEN).any(wanted)
                };
                // Answers that come through here are not cut off.
                let answers = open(|lane| lane.answers() != 0);
                let held = open(|lane| lane.client() == 0 && lane.word() < PASSES);
                let over = if self.desk.closed && !self.drained {
                    !open(|_| true)
                } else {
                    !answers && (!waits && !held || since.elapsed() > DRAIN)
                };
                if over {
                    return Ok(());
                }
            }
        }
    }

    /// More sockets, before they run out.
    fn grow(&mut self) -> io::Result<()> {
        let is_open = |index| self.lanes.get(index).is_some_and(|lane| lane.state() != state::FREE);
        let open = (0..self.pool.len()).filter(|index| is_open(*index)).count();
        while self.pool.len() < self.lanes.count() && self.pool.len() < self.used.max(open + pool::SPARE) {
            let from = self.pool.len();
            let lanes = &self.lanes;
            self.pool.grow(|index| lanes.get(index).is_some_and(|lane| lane.state() == state::FREE))?;
            for lane in from..self.pool.len() {
                self.sessions.push(None);
                if let Some(socket) = self.pool.socket(lane) {
                    self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, lane as u64))?;
                }
                self.watch_answers(lane)?;
            }
        }
        Ok(())
    }

    fn watch_answers(&self, lane: usize) -> io::Result<()> {
        let Some(socket) = self.pool.answers(lane) else { return Ok(()) };
        Ok(self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, lane as u64 | ANSWERS))?)
    }

    /// The session of a lane, made where its connection is new.
    fn session(&mut self, index: usize) -> Option<&mut Session> {
        let (lane, slot) = (self.lanes.get(index)?, self.sessions.get_mut(index)?);
        let cookie = lane.cookie();
        if slot.as_ref().is_none_or(|session| session.cookie() != cookie) {
            let entry = PROTOCOLS.iter().filter(|entry| entry.inline.is_some()).nth(lane.framing() as usize);
            let hello = self.hellos.get(&(index as u32), 0).unwrap_or([0; HELLO_MAX as usize]);
            let hello = hello.get(..lane.hello() as usize).unwrap_or_default();
            *slot = entry.and_then(|entry| Session::new(cookie, entry, hello, lane)).map(Box::new);
            if slot.as_ref().is_some_and(|session| session.is_hidden()) {
                self.desk.unseen.begin(cookie);
            }
        }
        slot.as_deref_mut()
    }

    /// Reads what a server has sent, if what it sent before is gone.
    fn read_answers(&mut self, index: usize) {
        if self.lost.contains(&index) || self.session(index).is_none() {
            if let Some(socket) = self.pool.answers(index) {
                let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
                let _ = nix::sys::socket::recv(socket.as_raw_fd(), &mut self.scratch, flags);
            }
            return;
        }
        let (Some(lane), Some(socket)) = (self.lanes.get(index), self.pool.answers(index)) else { return };
        if let Some(Some(session)) = self.sessions.get_mut(index) {
            if lane.client() != 0 {
                let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
                if let Ok(count) = nix::sys::socket::recv(socket.as_raw_fd(), &mut self.scratch, flags) {
                    session.take(&self.scratch[..count], lane);
                }
                if session.is_full(self.shared.held_max()) {
                    self.lost.insert(index);
                    lane.set_overflow(1);
                    return;
                }
            }
            session.read_answers(socket, &mut self.scratch, &mut self.desk);
        }
        self.turn(index);
    }

    /// Reads what a lane holds, and does what is to be done about it.
    fn read(&mut self, index: usize) {
        let Some(socket) = self.pool.socket(index) else { return };
        if self.lost.contains(&index) {
            let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
            let _ = nix::sys::socket::recv(socket.as_raw_fd(), &mut self.scratch, flags);
            return;
        }
        if self.session(index).is_none() {
            return;
        }
        let (Some(lane), Some(socket)) = (self.lanes.get(index), self.pool.socket(index)) else { return };
        let Some(Some(session)) = self.sessions.get_mut(index) else { return };
        // Level-triggered: what is left behind comes again.
        for _ in 0..4 {
            match nix::sys::socket::recv(
                socket.as_raw_fd(),
                &mut self.scratch,
                nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let more = count == self.scratch.len();
                    session.take(&self.scratch[..count], lane);
                    if !more {
                        break;
                    }
                }
            }
        }
        self.turn(index);
    }

    fn turn(&mut self, index: usize) {
        let (Some(lane), Some(socket)) = (self.lanes.get(index), self.pool.socket(index)) else { return };
        let Some(Some(session)) = self.sessions.get_mut(index) else { return };
        if let Some(long) = session.long() {
            // What takes its time is no sign of a shim that hangs.
            self.shared.beat(now_ns() + long);
        }
        let answers = self.pool.answers(index);
        let socket = answers.filter(|_| lane.client() != 0).unwrap_or(socket);
        let turn = session.turn(lane, socket, answers, &mut self.desk);
        if let Some(answers) = answers
            && let Some(reads) = session.reads()
        {
            // What is not wanted yet waits in the kernel, and its server with it.
            let flags = if reads { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(flags, index as u64 | ANSWERS);
            let _ = self.epoll.modify(answers, &mut event);
        }
        match turn {
            Turn::Done => {}
            Turn::Again => self.later.push(Later(std::cmp::Reverse(Instant::now() + AGAIN), index)),
            Turn::At(when) => self.later.push(Later(std::cmp::Reverse(when), index)),
            Turn::Cancel(backend) => {
                let held = self.desk.who.values().find(|who| who.backend == backend && backend != 0);
                let Some(cookie) = held.map(|who| who.cookie) else { return };
                self.each(|session, desk| session.cookie() == cookie && session.cancel(desk));
                self.turn(index);
            }
        }
    }

    /// Changes sessions, and has a turn with those that want one.
    fn each(&mut self, mut change: impl FnMut(&mut Session, &mut Desk) -> bool) {
        let mut turns = Vec::new();
        for (index, slot) in self.sessions.iter_mut().enumerate() {
            if let Some(session) = slot
                && change(session, &mut self.desk)
            {
                turns.push(index);
            }
        }
        for index in turns {
            self.turn(index);
        }
    }

    fn due(&mut self) {
        let now = Instant::now();
        while self.later.peek().is_some_and(|Later(at, _)| at.0 <= now) {
            if let Some(Later(_, index)) = self.later.pop() {
                self.turn(index);
            }
        }
    }

    /// Frees the lanes of connections that are gone, and lets those go that have not said anything where nothing is held
    /// any more.
    fn clean(&mut self) {
        self.pool.clean(&mut self.scratch);
        if self.desk.who.len() > STRANGERS + self.pool.len() {
            // The agent may say who somebody is after he has gone.
            let lanes = (0..self.pool.len()).filter_map(|index| self.lanes.get(index));
            let here: HashSet<u64> =
                lanes.filter(|lane| lane.state() == state::OPEN).map(LaneRef::cookie).collect();
            self.desk.who.retain(|cookie, _| here.contains(cookie));
        }
        for index in 0..self.pool.len() {
            let Some(lane) = self.lanes.get(index) else { break };
            if lane.state() == state::OPEN && lane.answers() != 0 {
                self.settle(index);
            } else if self.desk.draining && lane.state() == state::OPEN {
                let _ = lane.release(0, true) || lane.set_passes();
            }
            let Some(lane) = self.lanes.get(index) else { break };
            if lane.state() != state::CLOSED {
                continue;
            }
            // What is still on its way to the shim belongs to the old connection.
            if let Some(socket) = self.pool.socket(index) {
                while nix::sys::socket::recv(
                    socket.as_raw_fd(),
                    &mut self.scratch,
                    nix::sys::socket::MsgFlags::MSG_DONTWAIT,
                )
                .is_ok_and(|count| count > 0)
                {}
            }
            if let Some(answers) = self.pool.answers(index) {
                let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
                while nix::sys::socket::recv(answers.as_raw_fd(), &mut self.scratch, flags)
                    .is_ok_and(|count| count > 0)
                {}
                if self.pool.flows(index) {
                    // The next connection of this lane must not get them: the next beat looks again.
                    continue;
                }
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64 | ANSWERS);
                let _ = self.epoll.modify(answers, &mut event);
            }
            if let Some(mut session) = self.sessions.get_mut(index).and_then(Option::take) {
                session.gone(&mut self.desk);
                self.desk.who.remove(&session.cookie());
                self.questions.closed(session.cookie(), &mut self.desk);
            }
            self.lost.remove(&index);
            lane.set_state(state::FREE);
            self.pool.free(index);
        }
    }

    /// The program that sees connections end has gone with the agent. Those that are over are in the kernel's map no more.
    fn look_for_ends(&mut self) {
        let here: HashSet<u64> = self.guarded.keys().filter_map(Result::ok).collect();
        for lane in (0..self.pool.len()).filter_map(|index| self.lanes.get(index)) {
            if lane.state() == state::OPEN && !here.contains(&lane.cookie()) {
                lane.set_state(state::CLOSED);
            }
        }
    }

    /// Lets the answers of a session go straight to its client, where nobody is to mask them any more and nothing of them
    /// is on its way.
    fn settle(&mut self, index: usize) {
        let (Some(lane), Some(slot)) = (self.lanes.get(index), self.sessions.get_mut(index)) else { return };
        let mut session = slot.as_mut().filter(|session| session.cookie() == lane.cookie());
        if self.pool.flows(index)
            || session.as_ref().map_or(!self.desk.draining, |s| !s.may_settle(&self.desk))
        {
            return;
        }
        // The server answers only what this thread forwards, so nothing can have come in between.
        lane.set_answers(0);
        if lane.client() != 0 && self.pool.flows(index) {
            // A client that began to send in this very moment: what it sends next may overtake that.
            self.lost.insert(index);
            lane.set_overflow(1);
            return;
        }
        match &mut session {
            Some(session) => session.settle(lane, &self.desk),
            // Nothing was asked yet.
            None => drop(lane.release(0, true)),
        }
        self.turn(index);
    }

    /// Takes the agent's orders; false once it is gone.
    fn listen(&mut self) -> bool {
        // One that hangs up in the middle of a word is gone too.
        let Ok(Some((order, fds))) = message::receive_all::<Order>(self.agent.as_fd()) else {
            return false;
        };
        match order {
            Order::Policies { generation, answers, canary, closed } => {
                if answers {
                    self.take_answers();
                }
                let read = fds.into_iter().next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
                match read.and_then(rules) {
                    Ok((policies, catalog)) => {
                        self.desk.policies = Arc::new(policies.with_canary(canary));
                        self.desk.closed = closed;
                        self.desk.catalog = Arc::new(catalog);
                        self.desk.generation = generation;
                        self.reclass();
                    }
                    Err(error) => tracing::error!(%error, "the agent's rules cannot be read"),
                }
            }
            Order::Who(who) => {
                let cookie = who.cookie;
                self.desk.who.insert(cookie, *who);
                self.reclass_one(cookie);
            }
            Order::Answer { id, approved, reason } => {
                self.each(|session, desk| session.answer(id, approved, &reason, desk));
            }
            Order::Keep => self.kept.extend(fds),
            Order::Gone { cookie } => {
                self.desk.who.remove(&cookie);
                self.questions.closed(cookie, &mut self.desk);
            }
            Order::Drain => {
                (self.desk.draining, self.drained) = (true, true);
                self.each(Session::drain);
                self.desk.tell(News::Drained);
            }
        }
        true
    }

    fn take_answers(&mut self) {
        let made =
            self.pool.through().and_then(|mut lanes| lanes.try_for_each(|lane| self.watch_answers(lane)));
        match made {
            Ok(()) => self.desk.tell(News::Answers),
            Err(error) => {
                tracing::error!(%error, "answers cannot go through the shim: they cannot be masked");
            }
        }
    }

    fn reclass(&mut self) {
        self.questions.reclass(None, &mut self.desk);
        for index in 0..self.sessions.len() {
            if let (Some(Some(session)), Some(lane)) = (self.sessions.get_mut(index), self.lanes.get(index)) {
                session.classify(lane, &mut self.desk);
            }
        }
    }

    fn reclass_one(&mut self, cookie: u64) {
        self.questions.reclass(Some(cookie), &mut self.desk);
        for index in 0..self.sessions.len() {
            if let (Some(Some(session)), Some(lane)) = (self.sessions.get_mut(index), self.lanes.get(index))
                && session.cookie() == cookie
            {
                session.classify(lane, &mut self.desk);
                self.turn(index);
                return;
            }
        }
    }
}

/// Rules and the catalogue, as the agent sent them.
fn rules(fd: OwnedFd) -> io::Result<(Policies, Catalog)> {
    type Told = (Vec<(String, String)>, Option<(String, String)>);
    let mut file = File::from(fd);
    let mut json = String::new();
    file.rewind()?;
    file.read_to_string(&mut json)?;
    let (texts, catalog): Told = serde_json::from_str(&json)?;
    let sources: Vec<_> = texts.iter().map(|(file, text)| Source { file, text }).collect();
    let said = |problems: Vec<Problem>| {
        io::Error::other(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let catalog = catalog.map_or_else(|| Ok(Catalog::default()), |(file, text)| Catalog::read(&file, &text));
    Ok((Policies::load(&sources).map_err(said)?, catalog.map_err(said)?))
}
