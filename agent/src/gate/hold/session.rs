//! One connection in the shim: held bytes -> messages -> judged -> forwarded, replaced, or kept until somebody decides.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_common::gate::{Known, Name, late};
use agent_common::shape;
use agent_core::event::Disposition;
use agent_core::exchange::Blindness;
use agent_core::judge::{Subject, Verdict, judge, masks};
use agent_core::mask::{self, Plan};
use agent_core::policy::{Action, Mode, OnTimeout, Policy};
use agent_core::protocol::inline::{Meaning, Named, Refusal, Requests, Step};
use agent_core::protocol::{Entry, Start};
use agent_core::receipt::sha256;
use agent_core::segment::Nanos;
use agent_core::sql::{Analysis, Text};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::super::lanes::LaneRef;
use super::super::talk::{Decision, News, Told, digest};
use super::answers::{Answers, Masks};
use super::statements::Asked;
use super::{Class, Desk};

mod canary; // what rules that only watch would have done
mod judged; // what the rules say of a message
mod parsed; // the same, read in the server's parser
mod sealed; // the same over TLS, read in the client's process

use judged::may_be_known;

/// How long a session's first statements wait for the agent to say who it is, where rules ask for that.
const INTRODUCTION: Duration = Duration::from_millis(200);
/// How much longer than its terms say an approval is waited for, before the shim decides alone.
const GRACE: Duration = Duration::from_secs(5);
/// How long a client must have been quiet before what it sends goes straight to its server.
const QUIET: Duration = Duration::from_millis(20);
/// Names that are remembered of one session.
const GIVEN_MAX: usize = 4096;
/// Bytes that are understood in less time than anybody waits.
const LONG: u64 = 64 * 1024;
/// How long a byte of what is longer may take at most, nanoseconds.
const LONG_BYTE: u64 = 1000;
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
    asked: Asked,
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
    /// It was joined in the middle of a message: it passes until the agent joins it again.
    astray: bool,
    class: u32,
    held: Option<Held>,
    born: Instant,
    /// Names that were given to texts which were read here: hash of the name, hash of the text.
    given: HashMap<u64, u64>,
    /// The name that the last message gives, with what stood for it before: for the kernel side, and in `given`.
    renamed: Option<(Name, Option<u64>, Option<u64>)>,
    /// What its server sends, where that comes through here.
    answers: Option<Answers>,
    /// What is to be masked in the answers to what goes on.
    masks: Option<Masks>,
    /// What goes on is part of the handshake.
    greeting: bool,
    /// What its server sends is read; of a client whose server is elsewhere, what it sends itself.
    reading: bool,
    /// Its server is elsewhere: all that the client sends comes through here.
    client: bool,
    /// The same over TLS: what is in `buffer` is its plaintext.
    sealed: Option<Box<sealed::Sealed>>,
    /// The message that stands first is not all here.
    short: bool,
    /// When bytes came last.
    last: Instant,
}

impl Session {
    /// `hello`: the first message, where it has passed.
    pub(super) fn new(cookie: u64, entry: &'static Entry, hello: &[u8], lane: LaneRef<'_>) -> Option<Self> {
        lane.set_class(0);
        let start = if lane.late() == late::NO { Start::Beginning } else { Start::Midstream };
        let mut reader = (entry.inline?.open)(start);
        // What it is beside a beginning shows with the next bytes.
        let blind = start == Start::Beginning && !hello.is_empty() && reader.next(hello) == Step::Unknown;
        let client = lane.client() != 0;
        let through = lane.answers() != 0 && !client;
        let answers = through.then(|| mask::open(entry.name)).flatten().map(Answers::new);
        Some(Self { blind, answers, client, ..Self::with(cookie, entry, reader) })
    }

    fn with(cookie: u64, entry: &'static Entry, reader: Box<dyn Requests>) -> Self {
        Self {
            cookie,
            entry,
            reader,
            buffer: Vec::new(),
            start: 0,
            taken: 0,
            forwarded: 0,
            pass: 0,
            out: Vec::new(),
            blind: false,
            astray: false,
            class: 0,
            held: None,
            born: Instant::now(),
            given: HashMap::new(),
            renamed: None,
            answers: None,
            masks: None,
            greeting: false,
            reading: true,
            client: false,
            sealed: None,
            short: false,
            last: Instant::now(),
        }
    }

    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// True where more waits than may. It cannot go on.
    pub(super) fn is_full(&self, most: u64) -> bool {
        self.client && self.unsent() as u64 > most
    }

    /// Bytes have come.
    pub(super) fn take(&mut self, bytes: &[u8], lane: LaneRef<'_>) {
        if self.taken == 0 && lane.late() == late::NEW {
            // It was not followed for a while.
            lane.set_late(late::READ);
            self.reader.rejoin();
            (self.pass, self.astray) = (0, false);
        }
        if self.taken == 0 && self.answers.is_none() && !self.client {
            // The rest of a message that began to pass before something else had to be held.
            self.pass = u64::from(lane.skip());
            self.forwarded = 0;
        }
        self.last = Instant::now();
        if let Some(sealed) = &mut self.sealed {
            return sealed.take(bytes);
        }
        self.taken += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
    }

    fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Bytes that have come and have not gone on.
    fn unsent(&self) -> usize {
        self.sealed.as_ref().map_or(self.waiting().len(), |sealed| sealed.waiting())
    }

    /// Sends the first bytes that wait to the server, see [`forward`]. Plaintext goes nowhere: its ciphertext does.
    fn forward(&self, socket: &OwnedFd, count: usize) -> Option<usize> {
        if self.sealed.is_some() { Some(count) } else { forward(socket, &self.waiting()[..count]) }
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

    /// How long it may take to understand what waits, where that is longer than anybody waits for this process;
    /// nanoseconds.
    pub(super) fn long(&self) -> Option<u64> {
        let waiting = self.waiting().len() as u64;
        (waiting > LONG).then_some(waiting * LONG_BYTE)
    }

    /// Deals with what is there.
    pub(super) fn turn(
        &mut self,
        lane: LaneRef<'_>,
        socket: &OwnedFd,
        from_server: Option<&OwnedFd>,
        desk: &mut Desk,
    ) -> Turn {
        let turn = self.deal(lane, socket, desk);
        if self.client {
            lane.set_answering(u32::from(self.waits()));
        }
        let Some(answers) = &mut self.answers else { return turn };
        let flushed = from_server.is_none_or(|socket| answers.flush(socket, desk));
        lane.set_answering(u32::from(!answers.is_idle()));
        match turn {
            Turn::Done | Turn::At(_) if !flushed => Turn::Again,
            turn => turn,
        }
    }

    fn deal(&mut self, lane: LaneRef<'_>, socket: &OwnedFd, desk: &mut Desk) -> Turn {
        if let Some(turn) = self.unseal(lane, socket, desk) {
            return turn;
        }
        loop {
            if self.sealed.as_ref().is_some_and(|sealed| sealed.is_doomed()) {
                return Turn::Done;
            }
            if !desk.news.is_empty() {
                desk.speak();
            }
            while !self.out.is_empty() {
                match forward(socket, &self.out) {
                    Some(0) => return Turn::Again,
                    Some(sent) => {
                        if let Some(answers) = &mut self.answers {
                            answers.asked(&self.out[..sent], None, self.cookie, desk);
                        }
                        drop(self.out.drain(..sent));
                    }
                    None => {
                        desk.dropped += self.out.len() as u64;
                        self.out.clear();
                    }
                }
            }
            if self.blind && self.answers.is_some() {
                // Its answers go straight to the client first, see `settle`: nobody could tell which came first else.
                return Turn::Done;
            }
            if self.blind || self.astray || desk.draining && self.held.is_none() {
                self.pass = self.pass.max(self.waiting().len() as u64);
            }
            if self.pass > 0 {
                let count =
                    self.waiting().len().min(usize::try_from(self.pass).unwrap_or(usize::MAX)).min(PIECE);
                if count == 0 {
                    break;
                }
                match self.forward(socket, count) {
                    Some(0) => return Turn::Again,
                    Some(sent) => {
                        if let Some(answers) = &mut self.answers
                            && !self.greeting
                        {
                            let bytes = &self.buffer[self.start..self.start + sent];
                            answers.asked(bytes, self.masks.as_ref(), self.cookie, desk);
                        }
                        self.pass -= sent as u64;
                        self.consume(sent, lane);
                    }
                    None => {
                        desk.dropped += count as u64;
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
            self.short = false;
            self.masks = None;
            self.greeting = !self.reader.begun();
            match self.reader.next(&self.buffer[self.start..]) {
                Step::Short => {
                    self.short = true;
                    break;
                }
                Step::Pass(count) => self.pass = count,
                Step::Ask(length) => {
                    if let Some(wait) = self.introduce(desk) {
                        return Turn::At(wait);
                    }
                    self.ask(length, lane, desk);
                }
                Step::Cancel(length, backend) => {
                    self.pass = length as u64;
                    let turn = self.deal(lane, socket, desk);
                    return if matches!(turn, Turn::Done) { Turn::Cancel(backend) } else { turn };
                }
                Step::Blind(Blindness::Tls) if self.client && desk.plain.is_some() => {
                    self.seal();
                    return self.deal(lane, socket, desk);
                }
                Step::Blind(blindness) => {
                    let cause = match blindness {
                        Blindness::Tls => "tls",
                        Blindness::Gss => "gss",
                    };
                    self.give_up(cause, desk);
                }
                Step::Unknown => self.give_up("unknown", desk),
                // Whoever masks its answers has to see all that is asked: it cannot be joined again.
                Step::Astray if self.answers.is_some() || self.client => self.give_up("late", desk),
                Step::Astray => self.astray = true,
            }
        }
        if self.sealed.is_some() {
            // All that it is made of was judged.
            return self.flush(socket, desk);
        }
        self.let_go(lane, desk.draining);
        Turn::Done
    }

    /// Reads what its server has sent.
    pub(super) fn read_answers(&mut self, socket: &OwnedFd, scratch: &mut [u8], desk: &mut Desk) {
        let plain = self.blind || !self.reader.begun();
        if let Some(answers) = &mut self.answers {
            answers.read(socket, plain, scratch, self.cookie, desk);
        }
    }

    /// Whether more of that may be read, where that has changed.
    pub(super) fn reads(&mut self) -> Option<bool> {
        // Of what cannot go on yet no more is taken than what it needs to go on.
        let room = !self.client || self.short || self.unsent() < PIECE;
        let reads = self.answers.as_ref().is_none_or(Answers::reads) && room;
        (std::mem::replace(&mut self.reading, reads) != reads).then_some(reads)
    }

    /// True where answers need not come through here any more, as far as it knows.
    pub(super) fn may_settle(&self, desk: &Desk) -> bool {
        if self.client {
            // Nobody sees what it is answered. One that was quiet for so long waits for nothing.
            return (desk.draining || self.blind) && !self.waits() && self.last.elapsed() >= QUIET;
        }
        let unwanted = desk.draining || !desk.policies.may_mask(self.entry.name);
        let idle = !self.waits() && self.pass == 0 && self.held.is_none();
        self.answers.as_ref().is_none_or(Answers::is_idle) && (self.blind || unwanted && idle)
    }

    /// Answers do not come through here any more. It wants a turn.
    pub(super) fn settle(&mut self, lane: LaneRef<'_>, desk: &Desk) {
        self.answers = None;
        lane.set_answering(0);
        if self.taken == 0 && !self.client {
            let _ = lane.release(0, desk.draining);
        }
    }

    /// True where something waits in it.
    pub(super) fn waits(&self) -> bool {
        self.unsent() > 0 || !self.out.is_empty()
    }

    fn give_up(&mut self, cause: &str, desk: &mut Desk) {
        self.blind = true;
        // Before anything more of it reaches the server. One on another host judges nothing.
        if self.is_hidden() {
            desk.unseen.begin(self.cookie);
        }
        desk.tell(News::Blind { cookie: self.cookie, cause: cause.into() });
    }

    /// Opens the fast way again where all that came is dealt with, for good where `passes`.
    fn let_go(&mut self, lane: LaneRef<'_>, passes: bool) {
        if self.waiting().is_empty() && self.out.is_empty() && self.taken > 0 {
            if self.client {
                lane.set_late(if self.reader.begun() { late::READ } else { late::NO });
                (self.taken, self.forwarded) = (0, 0);
                return;
            }
            if self.answers.is_some() {
                // Whoever masks its answers has to see all that is asked.
                if lane.rest(self.taken) {
                    lane.set_late(late::READ);
                    (self.taken, self.forwarded) = (0, 0);
                }
                return;
            }
            lane.set_remain(u32::try_from(self.pass).unwrap_or(0));
            let fits = u32::try_from(self.pass).is_ok();
            if self.blind {
                lane.set_late(late::LEFT);
            }
            if fits && lane.release(self.taken, passes || self.blind || self.astray) {
                self.taken = 0;
                self.forwarded = 0;
                self.pass = 0;
            }
        }
    }

    /// When to look again whether the agent has said who this is; none where it has, or will not.
    fn introduce(&self, desk: &Desk) -> Option<Instant> {
        let late = self.born + INTRODUCTION;
        let unknown = desk.policies.needs_identity() && !desk.who.contains_key(&self.cookie);
        // A shim that has just begun may be asked before it was told the rules.
        let wanted = unknown || desk.generation == 0;
        (wanted && Instant::now() < late).then_some(late)
    }

    /// Says again whose known texts pass in this lane.
    pub(super) fn classify(&mut self, lane: LaneRef<'_>, desk: &mut Desk) {
        self.class = self.class_now(desk);
        lane.set_class(self.class);
    }

    fn class_now(&self, desk: &mut Desk) -> u32 {
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
        desk.known.class(class)
    }

    /// Judges a message of this many bytes, and does what the rule says.
    fn ask(&mut self, length: usize, lane: LaneRef<'_>, desk: &mut Desk) {
        let message = &self.buffer[self.start..self.start + length];
        let (cookie, key) = (self.cookie, desk.key);
        let given = &self.given;
        let Desk { texts, known, .. } = desk;
        let hash_name = |name: &[u8]| {
            let mut shape = shape::Shape::new(key);
            for &byte in name {
                shape.raw(byte);
            }
            shape.finish()
        };
        let meaning = self.reader.meaning(message, texts, &mut |name| {
            let hash = hash_name(name);
            known.named(&Name { cookie, hash }, given.get(&hash).copied())
        });
        let own = self.reader.text(message);
        let hash = own.map_or(0, |(_, text)| shape::text(key, text));
        self.renamed = None;
        if let Some((Some(name), _)) = own {
            let name = Name { cookie, hash: hash_name(name) };
            if self.given.len() >= GIVEN_MAX {
                self.given.clear();
            }
            self.renamed = Some((name, known.hash(&name), self.given.insert(name.hash, hash)));
            known.name(name, hash);
        }
        let prepares = matches!(own, Some((Some(_), _)));
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
        let masks = self.masks(&meaning, desk);
        let acts = verdict.policy_mode == Some(Mode::Enforce);
        let asked = Asked(meaning.texts.clone());
        let watched = self.watched(&meaning, desk);
        let unwatched = watched.is_empty();
        let may_pass = !acts || verdict.action < Action::RequireApproval;
        // A text that is only prepared is asked about again when it is bound; of what a client's end refuses, capture
        // sees what was put in its place.
        if !prepares && (may_pass || !self.client) {
            self.tell_watched(watched, desk);
        }
        if may_pass || verdict.action == Action::RequireApproval && !desk.draining {
            match self.maskable(length, masks.as_ref(), desk) {
                Ok(masks) => self.masks = masks,
                Err((verdict, why)) => {
                    let id = desk.ids.next(now());
                    self.block(id, length, &verdict, &format!(": {why}"), lane, desk);
                    return self.tell(desk, id, &verdict, Told::Blocked, &asked, Duration::ZERO);
                }
            }
        }
        if may_pass {
            if let Some(masks) = &self.masks
                && acts
                && verdict.action == Action::Mask
            {
                debug_assert!(masks.rules.contains(&verdict.policy_rule));
                let id = desk.ids.next(now());
                self.tell(desk, id, &verdict, Told::Masked, &asked, Duration::ZERO);
            }
            if masks.is_none()
                && unwatched
                && meaning.lasting
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
        let id = desk.ids.next(now());
        if verdict.action == Action::RequireApproval && !desk.draining {
            self.hold(id, length, verdict, asked, desk);
            return;
        }
        self.masks = None;
        self.block(id, length, &verdict, "", lane, desk);
        if verdict.action != Action::Kill {
            self.tell(desk, id, &verdict, Told::Blocked, &asked, Duration::ZERO);
        }
    }

    fn block(
        &mut self,
        id: u128,
        length: usize,
        verdict: &Verdict,
        why: &str,
        lane: LaneRef<'_>,
        desk: &mut Desk,
    ) {
        if self.sealed.is_some() {
            return self.doom(&verdict.policy_rule, desk);
        }
        let text = format!("blocked by policy {} (weir {}){why}", verdict.policy_rule, reference(id));
        let refusal = Refusal { message: &text, hint: &verdict.message, canceled: false };
        self.refuse(length, refusal, lane);
        self.undo(desk);
    }

    /// The message that was judged last does not reach the server, so a name in it stands for what it did before.
    fn undo(&mut self, desk: &mut Desk) {
        self.reader.refused();
        let Some((name, hash, given)) = self.renamed.take() else { return };
        match hash {
            Some(hash) => desk.known.name(name, hash),
            None => desk.known.unname(&name),
        }
        match given {
            Some(given) => self.given.insert(name.hash, given),
            None => self.given.remove(&name.hash),
        };
    }

    fn refuse(&mut self, length: usize, refusal: Refusal<'_>, lane: LaneRef<'_>) {
        let mut out = std::mem::take(&mut self.out);
        self.reader.refuse(&self.buffer[self.start..self.start + length], refusal, &mut out);
        self.out = out;
        self.consume(length, lane);
    }

    fn hold(&mut self, id: u128, length: usize, verdict: Verdict, asked: Asked, desk: &mut Desk) {
        let terms = desk.policies.named(&verdict.policy_rule).and_then(|policy| policy.approval.as_ref());
        let ttl = terms.map_or(agent_core::policy::TTL, |terms| terms.ttl);
        let allow = terms.is_some_and(|terms| terms.on_timeout == OnTimeout::Allow);
        let message = &self.buffer[self.start..self.start + length];
        desk.tell(News::Ask {
            id,
            cookie: self.cookie,
            rule: verdict.policy_rule.to_string(),
            digest: sha256(&[message]),
            shown: asked.shown(),
        });
        let since = Instant::now();
        let until = since + ttl + GRACE;
        self.held = Some(Held { id, length, verdict, asked, since, until, allow });
    }

    /// Somebody has decided, or time has. True where this session waited for it.
    pub(super) fn answer(&mut self, id: u128, approved: bool, reason: &str, desk: &mut Desk) -> bool {
        let Some(held) = self.held.take_if(|held| held.id == id) else { return false };
        let told = if approved { Told::Approved } else { Told::Denied };
        if approved {
            self.pass = held.length as u64;
        } else {
            let rule = &held.verdict.policy_rule;
            let text = format!("blocked by policy {rule} (weir {}): {reason}", reference(id));
            let refusal = Refusal { message: &text, hint: &held.verdict.message, canceled: false };
            self.replace(held.length, refusal, rule, desk);
        }
        self.tell(desk, id, &held.verdict, told, &held.asked, held.since.elapsed());
        true
    }

    /// The client does not want it any more. True where something was held.
    pub(super) fn cancel(&mut self, desk: &mut Desk) -> bool {
        let Some(held) = self.held.take() else { return false };
        desk.tell(News::Withdrawn { id: held.id });
        let message = "canceling statement due to user request";
        let refusal = Refusal { message, hint: "", canceled: true };
        self.replace(held.length, refusal, &held.verdict.policy_rule, desk);
        self.tell(desk, held.id, &held.verdict, Told::Denied, &held.asked, held.since.elapsed());
        true
    }

    /// Puts a refusal in the place of a message that was held; the next turn sends it.
    fn replace(&mut self, length: usize, refusal: Refusal<'_>, rule: &str, desk: &mut Desk) {
        if self.sealed.is_some() {
            return self.doom(rule, desk);
        }
        self.undo(desk);
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
        if let Some(plain) = &mut desk.plain {
            plain.forget(self.cookie);
        }
        if let Some(held) = self.held.take() {
            desk.tell(News::Withdrawn { id: held.id });
            self.tell(desk, held.id, &held.verdict, Told::Denied, &held.asked, held.since.elapsed());
        }
    }

    /// Tells the agent what was decided about a message: of each statement of it, by the text that the agent sees. The
    /// first has the reference.
    fn tell(&self, desk: &mut Desk, id: u128, verdict: &Verdict, told: Told, asked: &Asked, held: Duration) {
        debug_assert!(verdict.disposition != Disposition::Allowed);
        // The agent sees what leaves the client's socket: what was put in its place.
        let plain = self.client && self.sealed.is_none();
        let sent = self.reader.text(&self.out).filter(|_| plain).map(|(_, text)| digest(text));
        let (replaced, shown) = (sent.is_some(), asked.shown());
        for (index, text) in sent.map_or_else(|| asked.digests(), |sent| vec![sent]).into_iter().enumerate() {
            let decision = Decision {
                cookie: self.cookie,
                text,
                id: if index == 0 { id } else { 0 },
                policy_rule: verdict.policy_rule.to_string(),
                policy_version: verdict.policy_version.to_string(),
                enforced: verdict.policy_mode == Some(Mode::Enforce),
                disposition: told,
                held_ns: held.as_nanos() as u64,
                shown: shown.clone(),
                replaced,
                approval: None,
            };
            desk.tell(News::Decided(decision));
        }
    }
}

/// The event's id, as it is shown everywhere.
fn reference(id: u128) -> String {
    String::from_utf8_lossy(&agent_core::event::uuid(id)).into_owned()
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Sends to the server; how many bytes it took, 0 for none now, none where it goes nowhere. A connection that is gone is no
/// reason, but for the moment in which it closes: the kernel side takes what is meant for it all the same.
pub(super) fn forward(socket: &OwnedFd, bytes: &[u8]) -> Option<usize> {
    match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Ok(sent) => Some(sent),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => Some(0),
        Err(_) => None,
    }
}
