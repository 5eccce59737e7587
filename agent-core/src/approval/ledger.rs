//! Requests and decisions -> answers, each request exactly one. Remembers a bounded number of what is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Actor, Answer, Decision, Digest, Refusal, Request, State, after};
use crate::policy::OnTimeout;

/// Characters of an id that must be given: requests of one minute have the first ones in common.
const PREFIX: usize = 8;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait, or whose answer was not fetched yet.
    pub pending: usize,
    /// Requests that are over, so that a late decision is told why it does not count.
    pub over: usize,
    /// Approvals that hold for more than one statement.
    pub standing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending: 10_000, over: 4_096, standing: 10_000 }
    }
}

/// What became of requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Somebody approved.
    pub approved: u64,
    /// An earlier approval still held.
    pub standing: u64,
    /// Somebody denied.
    pub denied: u64,
    /// Nobody decided in time.
    pub expired: u64,
    /// The client did not wait.
    pub cancelled: u64,
    /// There was no room to wait: answered as the rule says for the end of its time.
    pub no_room: u64,
}

impl Counts {
    /// By the name of the outcome.
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("approved", self.approved),
            ("standing", self.standing),
            ("denied", self.denied),
            ("expired", self.expired),
            ("cancelled", self.cancelled),
            ("no_room", self.no_room),
        ]
    }
}

/// What comes of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The statement is to wait; the answer comes later.
    Waits,
    /// This is the answer already.
    Answered(Answer),
}

/// What an approval that is not for single use holds for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    digest: Digest,
    texts: [Arc<str>; 7],
}

impl Key {
    fn of(request: &Request) -> Self {
        let texts = [
            &request.policy_rule,
            &request.policy_version,
            &request.identity_principal,
            &request.process_owner,
            &request.db_system_name,
            &request.db_user,
            &request.db_namespace,
        ];
        Self { digest: request.digest, texts: texts.map(Arc::clone) }
    }
}

/// An approval that still holds.
struct Standing {
    until: u64,
    decided: u128,
    actor: Arc<str>,
    reason: Arc<str>,
}

/// A request and what became of it.
struct Entry {
    request: Request,
    state: State,
    /// When its state came about, in nanoseconds since the epoch.
    at: u64,
    actor: Arc<str>,
    reason: Arc<str>,
    decided: u128,
}

impl Entry {
    fn answer(&self) -> Answer {
        let goes_on = match self.state {
            State::Approved => true,
            State::Expired => self.request.terms.on_timeout == OnTimeout::Allow,
            State::Pending | State::Denied | State::Cancelled | State::Used => false,
        };
        Answer {
            id: self.request.id,
            session_id: self.request.session_id,
            decided: self.decided,
            state: self.state,
            goes_on,
            actor: Arc::clone(&self.actor),
            reason: Arc::clone(&self.reason),
        }
    }

    /// Why nobody can decide about it any more, where that is so.
    fn settled(&self) -> Option<Refusal> {
        let (state, at) = (self.state, self.at);
        match state {
            State::Pending => None,
            State::Approved | State::Denied | State::Used => {
                Some(Refusal::Decided { state, actor: Arc::clone(&self.actor), at })
            }
            State::Expired => Some(Refusal::Expired { at }),
            State::Cancelled => Some(Refusal::Cancelled { at }),
        }
    }
}

/// All requests: those that wait, and the last ones that are over.
#[derive(Default)]
pub struct Ledger {
    limits: Limits,
    known: BTreeMap<u128, Entry>,
    /// Those that wait, by when they expire.
    waiting: BTreeSet<(u64, u128)>,
    /// Those that are over, oldest first.
    over: VecDeque<u128>,
    /// Those whose answer was not fetched.
    untold: VecDeque<u128>,
    /// Those that waited and do not any more, for people to be told.
    news: VecDeque<u128>,
    standing: BTreeMap<Key, Standing>,
    /// When the first of those ends.
    standing_ends: u64,
    counts: Counts,
}

impl Ledger {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a request. A request has one answer: asking again about one that had it is denied.
    pub fn ask(&mut self, request: Request, now: u64) -> Asked {
        self.expire(now);
        let (id, key) = (request.id, Key::of(&request));
        if let Some(entry) = self.known.get(&id) {
            let same = Key::of(&entry.request) == key;
            if same && (entry.state == State::Pending || self.untold.contains(&id)) {
                return Asked::Waits;
            }
            let reason = "another statement had this id, or this one had its answer".into();
            let denied = Answer {
                goes_on: false,
                state: State::Denied,
                actor: Arc::default(),
                reason,
                ..entry.answer()
            };
            return Asked::Answered(denied);
        }
        let mut entry = Entry {
            request,
            state: State::Pending,
            at: now,
            actor: Arc::default(),
            reason: Arc::default(),
            decided: id,
        };
        if let Some(standing) = self.standing.get(&key) {
            self.counts.standing += 1;
            entry.state = State::Approved;
            (entry.actor, entry.reason) = (Arc::clone(&standing.actor), Arc::clone(&standing.reason));
            entry.decided = standing.decided;
        } else if self.waiting.len() + self.untold.len() >= self.limits.pending {
            self.counts.no_room += 1;
            entry.state = State::Expired;
            entry.reason = "too many statements wait for approval".into();
        } else {
            self.waiting.insert((entry.request.expires(), id));
            self.known.insert(id, entry);
            return Asked::Waits;
        }
        let answer = entry.answer();
        self.known.insert(id, entry);
        self.remember(id);
        Asked::Answered(answer)
    }

    /// The client did not wait, or is gone. True where somebody could still have decided, or the answer was not fetched.
    pub fn withdraw(&mut self, id: u128, now: u64) -> bool {
        let told = self.untold.iter().position(|untold| *untold == id);
        let Some(entry) = self.known.get_mut(&id) else { return false };
        let waited = entry.state == State::Pending;
        if !waited && told.is_none() {
            return false;
        }
        (entry.state, entry.at) = (State::Cancelled, now);
        self.counts.cancelled += u64::from(waited);
        if let Some(at) = told {
            self.untold.remove(at);
        }
        let expires = entry.request.expires();
        self.waiting.remove(&(expires, id));
        self.remember(id);
        if waited {
            self.tell(id);
        }
        true
    }

    /// Takes a decision; what was decided about, where it counts.
    pub fn decide(&mut self, decision: &Decision<'_>, now: u64) -> Result<&Request, Refusal> {
        self.expire(now);
        let id = decision.id;
        let entry = self.known.get(&id).ok_or(Refusal::Unknown)?;
        let request = &entry.request;
        if !decision.actor.may_decide(request) {
            return Err(Refusal::NotInGroup { groups: Arc::clone(&request.terms.groups) });
        }
        if decision.approve && decision.actor.owns(request) {
            return Err(Refusal::Own { user: Arc::clone(&decision.actor.user) });
        }
        if decision.digest.is_some_and(|digest| digest != request.digest) {
            return Err(Refusal::BytesDiffer);
        }
        if let Some(refusal) = entry.settled() {
            return Err(refusal);
        }
        let (key, terms) = (Key::of(request), request.terms.clone());
        let (actor, reason) = (&decision.actor.name, Arc::from(decision.reason));
        if decision.approve {
            self.counts.approved += 1;
            self.settle(id, State::Approved, now, (actor, &reason, id));
            if !terms.single_use {
                self.stand(&key, after(now, &terms), now, (actor, &reason, id));
            }
        } else {
            self.counts.denied += 1;
            self.settle(id, State::Denied, now, (actor, &reason, id));
        }
        self.known.get(&id).map(|entry| &entry.request).ok_or(Refusal::Unknown)
    }

    /// An approval holds on: for those that wait for the same, and for those that will ask.
    fn stand(&mut self, key: &Key, until: u64, now: u64, by: (&Arc<str>, &Arc<str>, u128)) {
        let waits = |id: &u128| self.known.get(id).is_some_and(|entry| Key::of(&entry.request) == *key);
        let same: Vec<u128> = self.waiting.iter().map(|(_, id)| *id).filter(waits).collect();
        for id in same {
            self.counts.standing += 1;
            self.settle(id, State::Approved, now, by);
        }
        // Where there is no room the approval was for those that waited.
        if self.standing.len() < self.limits.standing || self.standing.contains_key(key) {
            let (actor, reason) = (Arc::clone(by.0), Arc::clone(by.1));
            let first = if self.standing.is_empty() { until } else { self.standing_ends.min(until) };
            self.standing_ends = first;
            self.standing.insert(key.clone(), Standing { until, decided: by.2, actor, reason });
        }
    }

    /// What became of one that waited.
    fn settle(&mut self, id: u128, state: State, now: u64, by: (&Arc<str>, &Arc<str>, u128)) {
        let Some(entry) = self.known.get_mut(&id) else { return };
        (entry.state, entry.at, entry.decided) = (state, now, by.2);
        (entry.actor, entry.reason) = (Arc::clone(by.0), Arc::clone(by.1));
        self.waiting.remove(&(entry.request.expires(), id));
        self.untold.push_back(id);
        self.tell(id);
    }

    /// Nobody need fetch news: the oldest give way.
    fn tell(&mut self, id: u128) {
        if self.news.len() >= self.limits.pending {
            self.news.pop_front();
        }
        self.news.push_back(id);
    }

    /// Keeps what is over for a while: a late decision is told why it does not count.
    fn remember(&mut self, id: u128) {
        self.over.push_back(id);
        if self.over.len() > self.limits.over
            && let Some(oldest) = self.over.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Ends what nobody decided about in time, and approvals that held for so long. How many requests that were.
    pub fn expire(&mut self, now: u64) -> usize {
        let mut count = 0;
        while let Some((expires, id)) = self.waiting.first().copied().filter(|(expires, _)| *expires <= now) {
            self.waiting.remove(&(expires, id));
            self.settle(id, State::Expired, expires, (&Arc::default(), &Arc::default(), id));
            count += 1;
        }
        self.counts.expired += count as u64;
        if self.standing_ends <= now && !self.standing.is_empty() {
            self.standing.retain(|_, standing| standing.until > now);
            self.standing_ends =
                self.standing.values().map(|standing| standing.until).min().unwrap_or(u64::MAX);
        }
        count
    }

    /// When the next request expires, in nanoseconds since the epoch.
    pub fn next_expiry(&self) -> Option<u64> {
        self.waiting.first().map(|(expires, _)| *expires)
    }

    /// The answers since the last time, oldest first. An approval for single use is used by that.
    pub fn answers(&mut self) -> Vec<Answer> {
        let untold = std::mem::take(&mut self.untold);
        let mut answers = Vec::with_capacity(untold.len());
        for id in untold {
            let Some(entry) = self.known.get_mut(&id) else { continue };
            answers.push(entry.answer());
            if entry.state == State::Approved && entry.request.terms.single_use {
                entry.state = State::Used;
            }
            self.remember(id);
        }
        answers
    }

    /// True where an answer waits to be fetched.
    pub fn has_answers(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Requests that ceased to wait since the last time, with what became of them, by whom and why.
    pub fn news(&mut self) -> Vec<(Request, Answer)> {
        let entries = self.news.drain(..).filter_map(|id| self.known.get(&id));
        entries.map(|entry| (entry.request.clone(), entry.answer())).collect()
    }

    /// Those that wait and that this one may decide about, oldest first.
    pub fn pending<'a>(&'a self, actor: &'a Actor) -> impl Iterator<Item = &'a Request> {
        let waits = self.known.values().filter(|entry| entry.state == State::Pending);
        waits.map(|entry| &entry.request).filter(|request| actor.may_decide(request))
    }

    /// A request and what became of it.
    pub fn get(&self, id: u128) -> Option<(&Request, State)> {
        self.known.get(&id).map(|entry| (&entry.request, entry.state))
    }

    /// Why nobody can decide about a request any more; none where it waits.
    pub fn settled(&mut self, id: u128, now: u64) -> Option<Refusal> {
        self.expire(now);
        self.known.get(&id).map_or(Some(Refusal::Unknown), Entry::settled)
    }

    /// The request whose id begins like this, in hexadecimal with or without hyphens. Among those that are over too:
    /// what was meant may have just ended, and its neighbour is another statement.
    pub fn find(&self, prefix: &str) -> Result<u128, Refusal> {
        let plain: String = prefix.chars().filter(|c| *c != '-').collect();
        if plain.len() < PREFIX {
            return Err(Refusal::Short(PREFIX));
        }
        // A sign would be taken for part of a number.
        let hexadecimal = plain.len() <= 32 && plain.bytes().all(|b| b.is_ascii_hexdigit());
        let start = u128::from_str_radix(&plain, 16).ok().filter(|_| hexadecimal).ok_or(Refusal::Unknown)?;
        let open = 128 - 4 * plain.len() as u32;
        let first = start.checked_shl(open).unwrap_or(start);
        let last = first | 1u128.checked_shl(open).map_or(0, |bit| bit - 1);
        let mut found = self.known.range(first..=last).map(|(id, _)| *id);
        let id = found.next().ok_or(Refusal::Unknown)?;
        match found.count() {
            0 => Ok(id),
            more => Err(Refusal::Ambiguous(more + 1)),
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What became of requests so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
