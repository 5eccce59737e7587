//! Rules that hold statements -> kernel programs and the shim; what the shim has decided -> whoever makes events.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_common::gate::{Framing, Shared, Tally, act, lane as state};
use agent_core::policy::Policies;
use agent_core::protocol::inline::Act;
use agent_core::protocol::{Entry, PROTOCOLS};
use agent_core::segment::Endpoint;
use agent_core::sensitive::Catalog;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::guard::{Barred, Guard};
use super::lanes::LaneRef;
use super::message::{self, Request, now_ns};
use super::parse::Parsers;
use super::talk::{Approval, Decision, News, Order, Told, Who, Would, digest};
use crate::capture::live::{CaptureError, Plaintext};

/// A shim that has not shown itself for so long is not there.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long it may take to begin.
const START: Duration = Duration::from_secs(5);
/// How long what is held may take to go on when holding ends.
const DRAIN: Duration = Duration::from_millis(900);
/// How long all of the end may take.
const FAREWELL: Duration = Duration::from_millis(980);
/// Decisions that wait for their statement's event, for each connection.
const DECISIONS_MAX: usize = 4096;
/// How long a decision waits for it.
const UNCLAIMED: Duration = Duration::from_secs(10);

/// How statements are held.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where nobody can say that a statement may pass: it does not.
    pub closed: bool,
    /// Most bytes of a connection that wait in the shim.
    pub held_bytes: u64,
    /// Switched off by the operator.
    pub off: bool,
    /// What cannot be read on its way is judged in the server's own parser.
    pub tls: bool,
    /// Ports of servers whose connections go through the gate; empty: of every database that rules are about.
    pub ports: Vec<u16>,
    /// Servers elsewhere, and their protocols: what processes here ask them is held.
    pub remote: Vec<(SocketAddr, String)>,
    /// Declared columns.
    pub catalog: Arc<Catalog>,
    /// What clients of servers elsewhere write into TLS sessions, where that can be had.
    pub plaintext: Option<Arc<Plaintext>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            closed: false,
            held_bytes: 64 << 20,
            off: false,
            tls: false,
            ports: Vec::new(),
            remote: Vec::new(),
            catalog: Arc::default(),
            plaintext: None,
        }
    }
}

/// The agent's side of holding.
pub struct Inline {
    guard: Guard,
    /// See [`Settings::closed`].
    fails_closed: bool,
    /// The same, where a rule acts: for one that only watches nobody is refused anything.
    closed: bool,
    link: Option<OwnedFd>,
    /// When it was handed over.
    since: Instant,
    policies: Arc<Policies>,
    catalog: Arc<Catalog>,
    /// See [`Settings::plaintext`].
    plaintext: Option<Arc<Plaintext>>,
    generation: u32,
    /// Which framing, and whether answers go through the shim.
    ports: HashMap<u16, (&'static Entry, bool)>,
    /// See [`Settings::ports`].
    only: Vec<u16>,
    /// See [`Settings::remote`].
    remote: Vec<(SocketAddr, &'static Entry)>,
    /// Ports whose servers cannot have their statements held.
    unheld: HashSet<u16>,
    /// Open connections that the kernel did not let in.
    unadopted: u64,
    /// The shim takes answers.
    answers: bool,
    /// See [`Inline::era`].
    era: u64,
    who: HashMap<u64, Who>,
    decisions: HashMap<u64, VecDeque<(Instant, Decision)>>,
    news: VecDeque<News>,
    /// Who decided about what, until its event is made.
    approved: HashMap<u128, Approval>,
    /// What somebody is asked about.
    asked: HashSet<u128>,
    /// What a canary would have done, as the shim says.
    would: Vec<Would>,
    /// Those that were left with their bytes in a shim that has ended were looked for.
    looked: bool,
    /// What was counted when it was told last.
    pub told: Option<Tally>,
}

/// The protocols whose statements can be held; what the kernel side calls a framing is a place among them.
fn entries() -> impl Iterator<Item = &'static Entry> {
    PROTOCOLS.iter().filter(|entry| entry.inline.is_some())
}

fn framings() -> Vec<Framing> {
    let framing = |entry: &Entry| {
        let inline = entry.inline?;
        let mut framing = Framing { more: inline.more, never: inline.never, acts: [act::HOLD; 256] };
        for (first, act) in (0..=u8::MAX).zip(&mut framing.acts) {
            *act = match (inline.act)(first) {
                Act::Pass => act::PASS,
                Act::Text => act::TEXT,
                Act::NamedText => act::NAMED_TEXT,
                Act::Named => act::NAMED,
                Act::Hold => act::HOLD,
            };
        }
        Some(framing)
    };
    entries().filter_map(framing).collect()
}

impl Inline {
    /// Loads and attaches the kernel side; nothing is held before the shim has it too.
    pub fn start(settings: &Settings, policies: &Arc<Policies>) -> Result<Self, CaptureError> {
        let closed = settings.closed && policies.may_refuse();
        let shared = Shared {
            armed: 0,
            closed: u32::from(closed),
            pulse: 0,
            patience: PATIENCE.as_nanos() as u64,
            held_max: settings.held_bytes,
            key: [random(), random()],
        };
        let mut guard = Guard::attach(&framings(), shared, settings.tls)?;
        if let Some(parsers) = guard.parsers() {
            parsers.look_at_all();
        }
        Ok(Self {
            guard,
            fails_closed: settings.closed,
            closed,
            link: None,
            since: Instant::now(),
            policies: Arc::clone(policies),
            catalog: Arc::clone(&settings.catalog),
            plaintext: settings.plaintext.clone(),
            generation: 1,
            ports: HashMap::new(),
            only: settings.ports.clone(),
            remote: settings
                .remote
                .iter()
                .filter_map(|(server, name)| Some((*server, entries().find(|entry| entry.name == name)?)))
                .collect(),
            unadopted: 0,
            unheld: HashSet::new(),
            answers: false,
            era: 0,
            who: HashMap::new(),
            decisions: HashMap::new(),
            news: VecDeque::new(),
            approved: HashMap::new(),
            asked: HashSet::new(),
            would: Vec::new(),
            looked: false,
            told: None,
        })
    }

    /// Gives a shim that has just started what it needs.
    pub(super) fn hand_over(&mut self, shim: BorrowedFd<'_>) -> io::Result<()> {
        let (own, its) = message::pair()?;
        let plaintext = self.plaintext.iter().flat_map(|both| both.iter().map(AsRawFd::as_raw_fd));
        let fds: Vec<RawFd> =
            std::iter::once(its.as_raw_fd()).chain(self.guard.parts()).chain(plaintext).collect();
        let answers = self.wants_answers();
        message::send_all(shim, &Request::Hold { closed: self.closed, answers }, &fds)?;
        self.link = Some(own);
        self.since = Instant::now();
        self.guard.shared().beat(0);
        self.tell_policies()?;
        for who in self.who.values() {
            self.tell(&Order::Who(Box::new(who.clone())))?;
        }
        if self.closed {
            self.lend_probes()?;
        }
        // Nothing may be enrolled before somebody is there to let it pass.
        while self.guard.shared().pulse() == 0 {
            if self.since.elapsed() > START {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.take_answers(answers);
        self.guard.shared().armed(true);
        self.era += 1;
        self.looked = false;
        Ok(())
    }

    /// True where what is asked of this server elsewhere is held on its way.
    pub fn holds_for(&self, server: Endpoint) -> bool {
        let is = |of: &SocketAddr| of.ip().to_canonical() == server.address && of.port() == server.port;
        self.remote.iter().any(|(of, entry)| is(of) && self.policies.may_hold(entry.name))
    }

    /// Probes on servers' parsers stay as long as the shim, where nothing is to pass without somebody's word.
    fn lend_probes(&mut self) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let Some(parsers) = self.guard.parsers() else { return Ok(()) };
        let mut links = parsers.links();
        links.try_for_each(|probe| message::send(link.as_fd(), &Order::Keep, Some(probe.as_raw_fd())))
    }

    /// A process runs another program from now on.
    pub fn executed(&mut self, pid: u32) {
        let Some(probe) = self.guard.parsers().and_then(|parsers| parsers.look(pid)) else { return };
        if let (true, Some(link)) = (self.closed, &self.link)
            && let Err(error) = message::send(link.as_fd(), &Order::Keep, Some(probe.as_raw_fd()))
        {
            tracing::error!(%error, "a probe on a server's parser ends with the agent");
        }
    }

    /// Probes on servers' parsers, where this kernel can have them.
    pub fn parsers(&mut self) -> Option<&mut Parsers> {
        self.guard.parsers()
    }

    fn wants_answers(&self) -> bool {
        // What clients send to servers elsewhere comes in the same way.
        !self.remote.is_empty()
            || entries().any(|entry| entry.mask.is_some() && self.policies.may_mask(entry.name))
    }

    /// The shim takes answers, or not any more: which ports' new connections send theirs through it.
    pub(super) fn take_answers(&mut self, taken: bool) {
        self.answers = taken;
        let ports: Vec<_> = self.ports.iter().map(|(port, (entry, _))| (*port, *entry)).collect();
        for (port, entry) in ports {
            self.enrol_port(port, entry);
        }
    }

    fn enrol_port(&mut self, port: u16, entry: &'static Entry) {
        let Some(framing) = entries().position(|other| other.name == entry.name) else { return };
        let answers = self.answers && entry.mask.is_some() && self.policies.may_mask(entry.name);
        if self.ports.insert(port, (entry, answers)).is_none_or(|(_, before)| before != answers) {
            self.guard.enrol_port(port, framing as u32, answers);
        }
    }

    /// Puts rules in force, and watches the ports of databases that they are about.
    /// True where they are others than before.
    pub(super) fn follow(&mut self, policies: &Arc<Policies>, ports: &HashMap<u16, &'static str>) -> bool {
        let new = !Arc::ptr_eq(policies, &self.policies);
        if new {
            self.policies = Arc::clone(policies);
            self.generation += 1;
            let closed = self.fails_closed && policies.may_refuse();
            if std::mem::replace(&mut self.closed, closed) != closed {
                self.guard.shared().closed(closed);
                if closed && let Err(error) = self.lend_probes() {
                    tracing::error!(%error, "probes on servers' parsers end with the agent");
                }
            }
            if let Err(error) = self.tell_policies() {
                tracing::error!(%error, "the shim did not get the new rules");
            }
            // Where they want answers that the shim does not take yet, it says when it does.
            self.take_answers(self.answers && self.wants_answers());
        }
        let configured = ports.iter().map(|(port, name)| (*port, *name));
        let usual = entries().map(|entry| (entry.port, entry.name));
        for (port, name) in usual.chain(configured) {
            self.watch_port(port, name, policies);
        }
        let remote = std::mem::take(&mut self.remote);
        for (server, entry) in &remote {
            if let Some(framing) = entries().position(|other| other.name == entry.name)
                && policies.may_hold(entry.name)
            {
                self.guard.enrol_remote(*server, framing as u32);
            }
        }
        self.remote = remote;
        new
    }

    /// True where it is to be looked at whether a port's connections can go through the gate.
    pub fn wants_port(&self, port: u16, name: &str, policies: &Policies) -> bool {
        let left = self.unheld.contains(&port) || !self.takes_port(port);
        !self.ports.contains_key(&port) && !left && policies.may_hold(name)
    }

    /// True where the settings let connections to this port go through the gate.
    pub fn takes_port(&self, port: u16) -> bool {
        self.only.is_empty() || self.only.contains(&port)
    }

    /// A connection that was to be held could not be: the next [tally](Self::tally) has it.
    pub fn unadopted(&mut self) {
        self.unadopted += 1;
    }

    /// Connections to this port are left alone.
    pub fn leave_port(&mut self, port: u16) {
        self.unheld.insert(port);
    }

    /// New connections to this port go through the gate, where a rule may hold statements of this database.
    pub fn watch_port(&mut self, port: u16, name: &str, policies: &Policies) {
        if !self.wants_port(port, name, policies) {
            return;
        }
        let Some(entry) = entries().find(|entry| entry.name == name) else { return };
        self.enrol_port(port, entry);
        self.era += 1;
    }

    /// Holds what a connection sends that is open already: the server's process has its socket. `key`: the cookie that it
    /// goes by; `socket`: that of the server's socket. It has to stand between two messages.
    pub fn adopt(&mut self, key: u64, pid: u32, socket: u64, name: &str) -> io::Result<()> {
        if self.guard.has(key) || !self.policies.may_hold(name) {
            return Ok(());
        }
        let Some(framing) = entries().position(|entry| entry.name == name) else { return Ok(()) };
        let fd = super::borrow::socket(pid, socket)?;
        self.guard.adopt(key, fd.as_fd(), framing as u32).map_err(io::Error::other)
    }

    /// Lets connections in that are open already, by the cookies of their servers' sockets in this network namespace and
    /// what is spoken there: they pass until they are [taken back](Self::take_back).
    pub fn let_in(
        &mut self,
        wanted: &[(u64, &str)],
        namespace: &File,
    ) -> io::Result<Vec<(u64, Result<(), Barred>)>> {
        let place = |name| entries().position(|entry| entry.name == name);
        let wanted: Vec<_> =
            wanted.iter().filter_map(|&(cookie, name)| Some((cookie, place(name)? as u32))).collect();
        self.guard.let_in(&wanted, namespace)
    }

    /// Holds what a connection that passes sends from now on, where `is_between` says that it stands between two messages
    /// and nothing comes meanwhile. True where it does not pass any more.
    pub fn take_back(&self, cookie: u64, mut is_between: impl FnMut() -> bool) -> bool {
        let Some(lane) = self.guard.lane(cookie) else { return false };
        let word = lane.word();
        !lane.is_resting() || is_between() && lane.take_back(word)
    }

    /// Cookies of the connections that pass and may be taken back.
    pub fn resting(&self) -> Vec<u64> {
        let lanes = (0..self.guard.lanes().count()).filter_map(|index| self.guard.lanes().get(index));
        lanes.filter(|lane| lane.is_resting()).map(LaneRef::cookie).collect()
    }

    /// Ports that are watched, with what is spoken there.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &'static Entry)> {
        self.ports.iter().map(|(port, (entry, _))| (*port, *entry))
    }

    /// Grows whenever there may be connections that were open before: when it begins to hold, or watches one port more.
    pub fn era(&self) -> u64 {
        self.era
    }

    /// How many connections are enrolled now.
    pub fn open(&self) -> u64 {
        self.guard.open() as u64
    }

    /// Cookies of the sockets that are enrolled and open, however they came in.
    pub fn members(&self) -> HashSet<u64> {
        self.guard.members()
    }

    /// A connection is gone whose end the kernel side does not see.
    pub fn closed(&mut self, key: u64) {
        self.guard.closed(key);
        self.forget(key);
    }

    /// Says who a session is.
    pub fn introduce(&mut self, who: Who) {
        if self.who.get(&who.cookie) != Some(&who) {
            let _ = self.tell(&Order::Who(Box::new(who.clone())));
            self.who.insert(who.cookie, who);
        }
    }

    /// A connection is gone. Decisions that no statement has claimed are [told](Self::unclaimed) all the same.
    pub fn forget(&mut self, cookie: u64) {
        if self.who.remove(&cookie).is_some() {
            let _ = self.tell(&Order::Gone { cookie });
        }
    }

    /// Somebody has decided about what is held, or nobody did in time.
    pub fn answer(&mut self, id: u128, approved: bool, reason: &str, approval: Approval) {
        if self.approved.len() >= DECISIONS_MAX {
            self.approved.clear();
        }
        self.approved.insert(id, approval);
        self.asked.remove(&id);
        let _ = self.tell(&Order::Answer { id, approved, reason: reason.to_owned() });
    }

    fn tell(&self, order: &Order) -> io::Result<()> {
        let link = self.link.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        message::send(link.as_fd(), order, None)
    }

    fn tell_policies(&self) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let fd = memfd_create(c"weir-policies", MFdFlags::MFD_CLOEXEC)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(&serde_json::to_vec(&(self.policies.sources(), self.catalog.source()))?)?;
        let order = Order::Policies {
            generation: self.generation,
            answers: self.wants_answers(),
            canary: self.policies.is_canary(),
            closed: self.closed,
        };
        message::send(link.as_fd(), &order, Some(file.as_raw_fd()))
    }

    /// Reads what the shim tells; false where it is gone or hangs.
    pub(super) fn poll(&mut self) -> bool {
        if self.link.is_none() {
            return false;
        }
        let mut answers = false;
        while let Some(link) = &self.link {
            if !message::readable(link.as_fd(), Duration::ZERO).unwrap_or(false) {
                break;
            }
            match message::receive::<News>(link.as_fd()) {
                Ok(Some((News::Answers, _))) => answers = true,
                Ok(Some((news, _))) => self.heard(news),
                Ok(None) | Err(_) => return false,
            }
        }
        if answers {
            self.take_answers(true);
        }
        let pulse = self.guard.shared().pulse();
        now_ns().saturating_sub(pulse) < PATIENCE.as_nanos() as u64 || self.since.elapsed() < PATIENCE
    }

    /// What a canary would have done since that was asked last.
    pub(super) fn would(&mut self) -> Vec<Would> {
        std::mem::take(&mut self.would)
    }

    /// What was told that is no decision, oldest first.
    pub fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Whose plaintext a connection's is, if the shim has told that and nobody has heard it: object and process.
    pub fn unsealed(&mut self, of: u64) -> Option<(u64, u32)> {
        self.poll();
        let is = |news: &News| matches!(news, News::Unsealed { cookie, .. } if *cookie == of);
        match self.news.remove(self.news.iter().position(is)?)? {
            News::Unsealed { object, pid, .. } => Some((object, pid)),
            _ => None,
        }
    }

    /// What was decided about a statement of this connection. Its event may be made now.
    pub fn decision(&mut self, cookie: u64, text: &[u8]) -> Option<Decision> {
        let waiting = self.decisions.get_mut(&cookie)?;
        let text = digest(text);
        let at = waiting.iter().position(|(_, decision)| decision.text == text)?;
        let (_, mut decision) = waiting.remove(at)?;
        if let Some(approval) = self.approved.get(&decision.id) {
            decision.approval = Some(approval.clone());
        }
        Some(decision)
    }

    /// Decisions that no statement of this connection has claimed, and none will.
    pub fn unclaimed_of(&mut self, cookie: u64) -> impl Iterator<Item = Decision> + use<> {
        self.decisions.remove(&cookie).into_iter().flatten().map(|(_, decision)| decision)
    }

    /// Decisions that no statement has claimed for long.
    pub fn unclaimed(&mut self) -> Vec<Decision> {
        let mut old = Vec::new();
        self.decisions.retain(|_, waiting| {
            while waiting.front().is_some_and(|(since, _)| since.elapsed() > UNCLAIMED) {
                old.extend(waiting.pop_front().map(|(_, decision)| decision));
            }
            !waiting.is_empty()
        });
        old
    }

    /// Nobody needs to decide about it any more.
    pub fn settled(&mut self, id: u128) {
        self.asked.remove(&id);
    }

    /// What somebody is asked about and is not held any more.
    pub(super) fn forsaken(&mut self) -> Vec<u128> {
        self.news.retain(|news| !matches!(news, News::Ask { .. }));
        self.asked.drain().collect()
    }

    /// Nobody is there to let anything pass: no new connection goes this way.
    pub(super) fn pause(&self) {
        self.guard.stop_enrolling();
    }

    /// Cookies of the connections whose bytes were with a shim that is gone.
    pub(super) fn stranded(&self) -> Vec<u64> {
        let lanes = (0..self.guard.lanes().count()).filter_map(|index| self.guard.lanes().get(index));
        let lost = |lane: &LaneRef<'_>| lane.is_held() || lane.answering() != 0;
        let held = lanes.filter(|lane| lane.state() == state::OPEN && lost(lane));
        held.map(LaneRef::cookie).collect()
    }

    /// Cookies of the connections that have lost bytes: more waited than may wait, or nobody was there.
    pub fn overflowed(&self) -> Vec<u64> {
        let lanes = (0..self.guard.lanes().count()).filter_map(|index| self.guard.lanes().get(index));
        lanes
            .filter(|lane| lane.state() == state::OPEN && lane.overflow() != 0)
            .map(LaneRef::cookie)
            .collect()
    }

    /// What the kernel side counted.
    pub fn tally(&self) -> Tally {
        let mut tally = self.guard.tally();
        tally.refused += self.unadopted;
        tally
    }

    /// True where the connection goes through the gate.
    pub fn has(&self, cookie: u64) -> bool {
        self.guard.has(cookie)
    }

    /// Holds nothing more until it is [handed over](Self::hand_over) again: what is held goes on first, and what is open
    /// passes.
    pub(super) fn suspend(&mut self) {
        let begin = Instant::now();
        self.guard.stop_enrolling();
        let told = self.tell(&Order::Drain).is_ok();
        let lanes = || (0..self.guard.lanes().count()).filter_map(|index| self.guard.lanes().get(index));
        let open = || lanes().filter(|lane| lane.state() == state::OPEN);
        let busy = |lane: LaneRef<'_>| lane.is_held() || lane.answers() != 0;
        while told && begin.elapsed() < DRAIN && open().any(busy) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.guard.shared().armed(false);
        // A socket that leaves the map loses what its server has not read yet. So none leaves: what is open passes,
        // and the kernel forgets it when it closes.
        // The shim itself lets those go whose answers are still on their way through it.
        for lane in open().filter(|lane| lane.answers() == 0) {
            // Nothing is held, or nothing has come yet.
            let _ = lane.set_passes() || lane.release(0, true);
        }
        // What it has decided is told before it hangs up.
        if let Some(link) = &self.link {
            let _ = nix::sys::socket::shutdown(link.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        }
        self.hear_out(begin + FAREWELL);
    }

    /// True once the shim has ended what it held: another must not begin before.
    pub(super) fn is_over(&mut self) -> bool {
        self.hear_out(Instant::now());
        self.link.is_none()
    }

    /// While it is suspended: cookies of the connections that a shim which has ended has left with their bytes in it, once.
    pub(super) fn left_behind(&mut self) -> Vec<u64> {
        if self.looked || !self.is_over() && self.is_at_work() {
            return Vec::new();
        }
        self.looked = true;
        // One may have come in the moment in which all others were let go.
        for lane in (0..self.guard.lanes().count()).filter_map(|index| self.guard.lanes().get(index)) {
            if lane.state() == state::OPEN && lane.answers() == 0 {
                let _ = lane.release(0, true) || lane.set_passes();
            }
        }
        let mut left = self.stranded();
        left.extend(self.overflowed());
        left
    }

    /// True while the shim shows itself.
    pub(super) fn is_at_work(&self) -> bool {
        now_ns().saturating_sub(self.guard.shared().pulse()) < PATIENCE.as_nanos() as u64
    }

    /// Reads what the shim tells until it hangs up.
    fn hear_out(&mut self, deadline: Instant) {
        while let Some(link) = &self.link {
            let left = deadline.saturating_duration_since(Instant::now());
            if !message::readable(link.as_fd(), left).unwrap_or(false) {
                break;
            }
            match message::receive::<News>(link.as_fd()) {
                Ok(Some((news, _))) => self.heard(news),
                Ok(None) | Err(_) => self.link = None,
            }
        }
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Decided(mut decision) => {
                if decision.disposition == Told::Unasked {
                    let state = "impossible".into();
                    decision.approval = Some(Approval { state, ..Approval::default() });
                }
                let waiting = self.decisions.entry(decision.cookie).or_default();
                if waiting.len() < DECISIONS_MAX {
                    waiting.push_back((Instant::now(), decision));
                }
            }
            News::Would(would) => self.would.push(would),
            news => {
                if let News::Ask { id, .. } = &news {
                    self.asked.insert(*id);
                }
                self.news.push_back(news);
            }
        }
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: as many bytes as the buffer has.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 8, "getrandom never gives less than 256 bytes once the kernel is up");
    u64::from_ne_bytes(bytes)
}
