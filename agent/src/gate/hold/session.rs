//! One connection in the shim: held bytes -> messages -> judged -> forwarded, replaced, or kept until somebody decides.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_common::gate::{Known, Name};
use agent_common::shape;
use agent_core::event::Disposition;
use agent_core::exchange::Blindness;
use agent_core::judge::{Subject, Verdict, judge};
use agent_core::policy::{Action, Mode, OnTimeout};
use agent_core::protocol::inline::{Meaning, Refusal, Requests, Step};
use agent_core::protocol::{Entry, Start};
use agent_core::segment::Nanos;
use agent_core::sql::{Analysis, Text};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use sha2::{Digest as _, Sha256};

use super::super::lanes::LaneRef;
use super::super::talk::{Decision, News, SHOWN_MAX, Told, digest};
use super::{Class, Desk};

/// How long a session's first statements wait for the agent to say who it is, where rules ask for that.
const INTRODUCTION: Duration = Duration::from_millis(200);
/// How much longer than its terms say an approval is waited for, before the shim decides alone.
const GRACE: Duration = Duration::from_secs(5);
/// Most bytes that are sent at once.
const PIECE: usize = 256 * 1024;

/// What a session wants after its turn.
pub(super) enum Turn {
    /// To be called when there is more.
    Done,
    /// To be called soon: its server did not take all.
    Again,
    /// To be called at this time at the latest.
    At(Instant),
    /// That another session's statement is given up: the one that the server knows by this number.
    Cancel(u32),
}

/// A statement that waits for somebody.
struct Held {
    id: u128,
    /// Bytes of its message.
    length: usize,
    verdict: Verdict,
    texts: Vec<u64>,
    since: Instant,
    until: Instant,
    allow: bool,
}

/// One connection.
pub(super) struct Session {
    cookie: u64,
    entry: &'static Entry,
    reader: Box<dyn Requests>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are gone already.
    start: usize,
    /// Bytes that came since the fast way was closed.
    taken: u64,
    /// Bytes of these that were dealt with.
    forwarded: u64,
    /// Bytes that go on unread.
    pass: u64,
    /// What is sent in place of a message, as far as it was not.
    out: Vec<u8>,
    blind: bool,
    class: u32,
    held: Option<Held>,
    born: Instant,
}

impl Session {
    /// `hello`: the first message, where it has passed.
    pub(super) fn new(cookie: u64, entry: &'static Entry, hello: &[u8], lane: LaneRef<'_>) -> Option<Self> {
        lane.set_class(0);
        let start = if lane.late() == 0 { Start::Beginning } else { Start::Midstream };
        let mut reader = (entry.inline?.open)(start);
        // What it is beside a beginning shows with the next bytes.
        let blind = start == Start::Beginning && !hello.is_empty() && reader.next(hello) == Step::Unknown;
        Some(Self {
            cookie,
            entry,
            reader,
            buffer: Vec::new(),
            start: 0,
            taken: 0,
            forwarded: 0,
            pass: 0,
            out: Vec::new(),
            blind,
            class: 0,
            held: None,
            born: Instant::now(),
        })
    }

    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Bytes have come.
    pub(super) fn take(&mut self, bytes: &[u8], lane: LaneRef<'_>) {
        if self.taken == 0 {
            // The rest of a message that began to pass before something else had to be held.
            self.pass = u64::from(lane.skip());
            self.forwarded = 0;
        }
        self.taken += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
    }

    fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// These many bytes are dealt with.
    fn consume(&mut self, count: usize, lane: LaneRef<'_>) {
        self.start += count;
        self.forwarded += count as u64;
        lane.set_forwarded(self.forwarded);
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
            if self.buffer.capacity() > 1 << 20 {
                self.buffer = Vec::new();
            }
        } else if self.start > 1 << 20 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    /// Deals with what is there.
    pub(super) fn turn(&mut self, lane: LaneRef<'_>, socket: &OwnedFd, desk: &mut Desk) -> Turn {
        loop {
            while !self.out.is_empty() {
                match forward(socket, &self.out) {
                    Some(0) => return Turn::Again,
                    Some(sent) => drop(self.out.drain(..sent)),
                    None => self.out.clear(),
                }
            }
            if self.blind || desk.draining && self.held.is_none() {
                self.pass = self.pass.max(self.waiting().len() as u64);
            }
            if self.pass > 0 {
                let count =
                    self.waiting().len().min(usize::try_from(self.pass).unwrap_or(usize::MAX)).min(PIECE);
                if count == 0 {
                    break;
                }
                match forward(socket, &self.waiting()[..count]) {
                    Some(0) => return Turn::Again,
                    Some(sent) => {
                        self.pass -= sent as u64;
                        self.consume(sent, lane);
                    }
                    // The server's socket is gone; what was meant for it goes nowhere.
                    None => {
                        self.pass -= count as u64;
                        self.consume(count, lane);
                    }
                }
                continue;
            }
            if let Some(held) = &self.held {
                if Instant::now() < held.until {
                    return Turn::At(held.until);
                }
                let (id, allow) = (held.id, held.allow);
                desk.tell(News::Withdrawn { id });
                self.answer(id, allow, "nobody approved it in time", desk);
                continue;
            }
            if self.waiting().is_empty() {
                break;
            }
            match self.reader.next(&self.buffer[self.start..]) {
                Step::Short => break,
                Step::Pass(count) => self.pass = count,
                Step::Ask(length) => {
                    if let Some(wait) = self.introduce(desk) {
                        return Turn::At(wait);
                    }
                    self.ask(length, lane, desk);
                }
                Step::Cancel(length, backend) => {
                    self.pass = length as u64;
                    let turn = self.turn(lane, socket, desk);
                    return if matches!(turn, Turn::Done) { Turn::Cancel(backend) } else { turn };
                }
                Step::Blind(blindness) => {
                    let cause = match blindness {
                        Blindness::Tls => "tls",
                        Blindness::Gss => "gss",
                    };
                    self.give_up(cause, desk);
                }
                Step::Unknown => self.give_up("unknown", desk),
            }
        }
        self.let_go(lane);
        Turn::Done
    }

    /// True where something waits in it.
    pub(super) fn waits(&self) -> bool {
        !self.waiting().is_empty() || !self.out.is_empty()
    }

    fn give_up(&mut self, cause: &str, desk: &mut Desk) {
        self.blind = true;
        desk.tell(News::Blind { cookie: self.cookie, cause: cause.into() });
    }

    /// Opens the fast way again where all that came is dealt with.
    fn let_go(&mut self, lane: LaneRef<'_>) {
        if self.waiting().is_empty() && self.out.is_empty() && self.taken > 0 {
            lane.set_remain(u32::try_from(self.pass).unwrap_or(0));
            let fits = u32::try_from(self.pass).is_ok();
            if fits && lane.release(self.taken, self.blind) {
                self.taken = 0;
                self.forwarded = 0;
                self.pass = 0;
            }
        }
    }

    /// When to look again whether the agent has said who this is; none where it has, or will not.
    fn introduce(&self, desk: &Desk) -> Option<Instant> {
        let late = self.born + INTRODUCTION;
        let wanted = desk.policies.needs_identity() && !desk.who.contains_key(&self.cookie);
        (wanted && Instant::now() < late).then_some(late)
    }

    /// Says again whose known texts pass in this lane.
    pub(super) fn classify(&mut self, lane: LaneRef<'_>, desk: &mut Desk) {
        let who = desk.who.get(&self.cookie);
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let class = Class {
            generation: desk.generation,
            system: self.entry.name,
            namespace: self.namespace(desk).to_owned(),
            users: self.contexts(desk),
            principal: text(who.map(|who| &who.identity_principal)),
            agent: text(who.map(|who| &who.ai_agent_name)),
        };
        self.class = desk.known.class(class);
        lane.set_class(self.class);
    }

    /// The session's database.
    fn namespace<'a>(&'a self, desk: &'a Desk) -> &'a str {
        let session = self.reader.session();
        let told = || desk.who.get(&self.cookie).map_or("", |who| &who.db_namespace);
        if session.namespace.is_empty() { told() } else { &session.namespace }
    }

    /// Users and search paths that may be in force.
    fn contexts(&self, desk: &Desk) -> Vec<(String, String)> {
        let session = self.reader.session();
        let mut contexts = Vec::new();
        if !session.user.is_empty() {
            contexts.push((session.user.clone(), session.search_path.clone()));
        }
        let who = desk.who.get(&self.cookie).map(|who| (who.db_user.clone(), who.search_path.clone()));
        for (user, path) in self.reader.also().iter().cloned().chain(who) {
            let user = if user.is_empty() { session.user.clone() } else { user };
            if !contexts.contains(&(user.clone(), path.clone())) {
                contexts.push((user, path));
            }
        }
        if contexts.is_empty() {
            // Nobody has said yet who this is.
            contexts.push(Default::default());
        }
        contexts
    }

    /// Judges a message of this many bytes, and does what the rule says.
    fn ask(&mut self, length: usize, lane: LaneRef<'_>, desk: &mut Desk) {
        let message = &self.buffer[self.start..self.start + length];
        let (cookie, key) = (self.cookie, desk.key);
        let Desk { texts, known, .. } = desk;
        let hash_name = |name: &[u8]| {
            let mut shape = shape::Shape::new(key);
            for &byte in name {
                shape.raw(byte);
            }
            shape.finish()
        };
        let meaning = self
            .reader
            .meaning(message, texts, &mut |name| known.named(&Name { cookie, hash: hash_name(name) }));
        let own = self.reader.text(message);
        let hash = own.map_or(0, |(_, text)| shape::text(key, text));
        if let Some((Some(name), _)) = own {
            known.name(Name { cookie, hash: hash_name(name) }, hash);
        }
        let whole = own.map(|(_, text)| texts.intern(self.entry.dialect, text));
        if meaning.lasting {
            if self.class == 0 {
                self.classify(lane, desk);
            }
        } else {
            // It may have changed what the session is.
            self.classify(lane, desk);
        }
        let verdict = self.judge(&meaning, desk);
        let acts = verdict.policy_mode == Some(Mode::Enforce);
        if !acts || verdict.action < Action::RequireApproval {
            if meaning.lasting
                && meaning.complete
                && desk.policies.is_steady()
                && let Some(text) = whole
                && may_be_known(&text, desk)
            {
                // It may be let through by name from now on: whatever it was judged by is the same for all of a class.
                desk.known.insert(Known { hash, class: self.class, padding: 0 }, &text);
            }
            self.pass = length as u64;
            return;
        }
        let digests = digests(&meaning);
        let id = desk.ids.next(now());
        if verdict.action == Action::RequireApproval && !desk.draining {
            self.hold(id, length, verdict, &meaning, digests, desk);
            return;
        }
        if verdict.action != Action::Kill {
            tell(desk, cookie, id, &verdict, Told::Blocked, &digests, Duration::ZERO);
        }
        let text = format!("blocked by policy {} (weir {})", verdict.policy_rule, reference(id));
        let refusal = Refusal { message: &text, hint: &verdict.message, canceled: false };
        self.refuse(length, refusal, lane);
    }

    fn refuse(&mut self, length: usize, refusal: Refusal<'_>, lane: LaneRef<'_>) {
        let mut out = std::mem::take(&mut self.out);
        self.reader.refuse(&self.buffer[self.start..self.start + length], refusal, &mut out);
        self.out = out;
        self.consume(length, lane);
    }

    fn hold(
        &mut self,
        id: u128,
        length: usize,
        verdict: Verdict,
        meaning: &Meaning,
        texts: Vec<u64>,
        desk: &mut Desk,
    ) {
        let terms = desk.policies.named(&verdict.policy_rule).and_then(|policy| policy.approval.as_ref());
        let ttl = terms.map_or(agent_core::policy::TTL, |terms| terms.ttl);
        let allow = terms.is_some_and(|terms| terms.on_timeout == OnTimeout::Allow);
        let mut shown = String::new();
        for text in &meaning.texts {
            if !shown.is_empty() {
                shown.push_str("; ");
            }
            shown.push_str(&text.analysis().redacted);
        }
        let end = (0..=shown.len().min(SHOWN_MAX)).rev().find(|&at| shown.is_char_boundary(at)).unwrap_or(0);
        shown.truncate(end);
        let message = &self.buffer[self.start..self.start + length];
        desk.tell(News::Ask {
            id,
            cookie: self.cookie,
            rule: verdict.policy_rule.to_string(),
            digest: Sha256::digest(message).into(),
            shown,
        });
        let since = Instant::now();
        let until = since + ttl + GRACE;
        self.held = Some(Held { id, length, verdict, texts, since, until, allow });
    }

    /// Somebody has decided, or time has. True where this session waited for it.
    pub(super) fn answer(&mut self, id: u128, approved: bool, reason: &str, desk: &mut Desk) -> bool {
        let Some(held) = self.held.take_if(|held| held.id == id) else { return false };
        let told = if approved { Told::Approved } else { Told::Denied };
        tell(desk, self.cookie, id, &held.verdict, told, &held.texts, held.since.elapsed());
        if approved {
            self.pass = held.length as u64;
            return true;
        }
        let text =
            format!("blocked by policy {} (weir {}): {reason}", held.verdict.policy_rule, reference(id));
        self.replace(held.length, Refusal { message: &text, hint: &held.verdict.message, canceled: false });
        true
    }

    /// The client does not want it any more. True where something was held.
    pub(super) fn cancel(&mut self, desk: &mut Desk) -> bool {
        let Some(held) = self.held.take() else { return false };
        desk.tell(News::Withdrawn { id: held.id });
        tell(desk, self.cookie, held.id, &held.verdict, Told::Denied, &held.texts, held.since.elapsed());
        let message = "canceling statement due to user request";
        self.replace(held.length, Refusal { message, hint: "", canceled: true });
        true
    }

    /// Puts a refusal in the place of a message that was held; the next turn sends it.
    fn replace(&mut self, length: usize, refusal: Refusal<'_>) {
        let mut out = std::mem::take(&mut self.out);
        self.reader.refuse(&self.buffer[self.start..self.start + length], refusal, &mut out);
        self.out = out;
        // The next `consume` tells the kernel side.
        self.start += length;
        self.forwarded += length as u64;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Lets go of what is held. True: it wants a turn.
    pub(super) fn drain(&mut self, desk: &mut Desk) -> bool {
        if let Some(held) = &self.held {
            let id = held.id;
            desk.tell(News::Withdrawn { id });
            self.answer(id, !desk.closed, "the gate was switched off", desk);
        }
        true
    }

    /// The connection is closed.
    pub(super) fn gone(&mut self, desk: &mut Desk) {
        if let Some(held) = self.held.take() {
            desk.tell(News::Withdrawn { id: held.id });
            tell(desk, self.cookie, held.id, &held.verdict, Told::Denied, &held.texts, held.since.elapsed());
        }
    }

    /// The strictest verdict over all that the message asks for, in every state that the session may be in.
    fn judge(&self, meaning: &Meaning, desk: &Desk) -> Verdict {
        let who = desk.who.get(&self.cookie);
        let contexts = self.contexts(desk);
        let mut worst = Verdict::default();
        let mut look = |analysis: &Analysis, data: &[agent_core::event::DataClass], complete: bool| {
            for (user, path) in &contexts {
                let subject = Subject {
                    db_system_name: self.entry.name,
                    db_namespace: self.namespace(desk),
                    db_user: user,
                    search_path: path,
                    ai_agent_name: who.map_or("", |who| &who.ai_agent_name),
                    identity_principal: who.map_or("", |who| &who.identity_principal),
                    data_classes: data,
                    statement_complete: complete && analysis.statement_complete,
                    time: now().0,
                    session_id: who.map_or(self.cookie, |who| who.session_id),
                    process: who.and_then(|who| who.process),
                    ..Subject::new(analysis)
                };
                let verdict = judge(&desk.policies, &subject);
                if verdict.outranks(&worst) {
                    worst = verdict;
                }
            }
        };
        for text in &meaning.texts {
            let data: &[_] = if desk.policies.needs_data() { text.data_classes(&desk.catalog) } else { &[] };
            // What EXECUTE runs is judged beside it, so it is known after all.
            let known = meaning.complete && meaning.texts.len() > 1;
            let analysis = text.analysis();
            let only_execute = &*analysis.db_operation_name == "EXECUTE" && known;
            if !only_execute {
                look(analysis, data, meaning.complete || meaning.texts.len() > 1);
            }
        }
        if let Some(id) = meaning.function {
            look(&Analysis::function_call(id), &[], true);
        } else if !meaning.complete {
            look(&Analysis::default(), &[], false);
        }
        worst
    }
}

/// Whether the kernel side may know a text: then it passes whatever its literals are.
fn may_be_known(text: &Arc<Text>, desk: &Desk) -> bool {
    let literals = text.bytes().iter().any(|byte| byte.is_ascii_digit() || *byte == b'\'');
    !literals || !text.is_literal_bound() && !desk.policies.needs_data()
}

fn digests(meaning: &Meaning) -> Vec<u64> {
    meaning.texts.iter().map(|text| digest(text.bytes())).collect()
}

fn tell(
    desk: &mut Desk,
    cookie: u64,
    id: u128,
    verdict: &Verdict,
    disposition: Told,
    texts: &[u64],
    held: Duration,
) {
    // One for each statement of the message; the first has the reference.
    for (index, &text) in texts.iter().enumerate() {
        let decision = Decision {
            cookie,
            text,
            id: if index == 0 { id } else { 0 },
            policy_rule: verdict.policy_rule.to_string(),
            policy_version: verdict.policy_version.to_string(),
            enforced: verdict.policy_mode == Some(Mode::Enforce),
            disposition,
            held_ns: held.as_nanos() as u64,
            approval: None,
        };
        desk.tell(News::Decided(decision));
    }
    debug_assert!(verdict.disposition != Disposition::Allowed);
}

/// The event's id, as it is shown everywhere.
fn reference(id: u128) -> String {
    String::from_utf8_lossy(&agent_core::event::uuid(id)).into_owned()
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Sends to the server; how many bytes it took, 0 for none now, none where there is nobody.
fn forward(socket: &OwnedFd, bytes: &[u8]) -> Option<usize> {
    match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Ok(sent) => Some(sent),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => Some(0),
        Err(_) => None,
    }
}
