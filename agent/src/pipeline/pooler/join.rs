//! Statements of a pooler's clients and statements that it sends to servers -> the client behind each of the latter.
//!
//! A statement sent to a server belongs to the client that asked for the same text with the same parameters and waits
//! for its answer, where there is exactly one such client and none could have gone unseen. Whatever is less than that
//! has no actor.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use agent_core::event::Event;
use agent_core::exchange::{Parameter, Statement};
use agent_core::segment::Nanos;

use super::super::record;

/// Longest that an event waits for its client to be known, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;
/// Most events of one pooler that wait.
const HELD_MAX: usize = 64 << 10;
/// Most clients that are told apart behind one statement.
const CANDIDATES_MAX: usize = 16;

/// A statement of a session: the session, and the ticket that it got there.
pub type Place = (u64, u64);

/// Stands for a text and its parameters. 128 bits under keys of this run: nobody can make two alike.
type Key = (u64, u64);

/// Makes keys.
#[derive(Default)]
pub(super) struct Keys(RandomState, RandomState);

impl Keys {
    /// None where the statement was not seen in full.
    pub(super) fn of(&self, statement: &Statement) -> Option<Key> {
        let text = statement.text.as_ref().filter(|_| !statement.truncated)?;
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            text.bytes().hash(&mut hasher);
            for parameter in &statement.parameters {
                match parameter {
                    Parameter::Null => hasher.write_u8(0),
                    Parameter::Text(text) => (1u8, text.as_bytes()).hash(&mut hasher),
                    Parameter::Binary(bytes) => (2u8, bytes).hash(&mut hasher),
                }
            }
            hasher.finish()
        };
        Some((half(&self.0), half(&self.1)))
    }
}

/// What both legs must say alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    status: Arc<str>,
    returned: Option<u64>,
    affected: Option<u64>,
}

impl Outcome {
    /// Of an answered statement.
    pub fn of(event: &Event) -> Self {
        Self {
            status: Arc::clone(&event.error_type),
            returned: event.db_response_returned_rows,
            affected: event.db_response_affected_rows,
        }
    }
}

/// A client's statement that waits for its answer.
pub(super) struct Asking {
    pub(super) place: Place,
    /// None where its text is not known.
    pub(super) key: Option<Key>,
    /// When it may have been sent at the earliest.
    pub(super) from: Nanos,
    pub(super) actor: Arc<Event>,
}

/// One side of a pooler: whether all of its sessions could be read.
#[derive(Default)]
pub(super) struct Sight {
    blind: HashSet<u64>,
    dark: HashSet<u64>,
    /// When one of them could not be read last.
    last: Nanos,
}

impl Sight {
    /// Something of the session was lost, or it cannot be read any more.
    pub(super) fn darken(&mut self, session: u64, forever: bool) {
        if forever {
            self.blind.insert(session)
        } else {
            self.dark.insert(session)
        };
    }

    /// Something may have been lost, nobody knows of which session.
    pub(super) fn shaken(&mut self, now: Nanos) {
        self.last = self.last.max(now);
    }

    /// The session says something new: what was lost before is over.
    fn light(&mut self, session: u64, now: Nanos) {
        if !self.dark.is_empty() && self.dark.remove(&session) {
            self.shaken(now);
        }
    }

    fn left(&mut self, session: u64, now: Nanos) {
        if self.dark.remove(&session) | self.blind.remove(&session) {
            self.shaken(now);
        }
    }

    /// Nothing of what was under way at that time could have gone unseen.
    fn was_clear(&self, at: Nanos) -> bool {
        self.blind.is_empty() && self.dark.is_empty() && at > self.last
    }
}

/// What joins the two legs of one pooler.
#[derive(Default)]
pub(super) struct Join {
    /// By key: what clients wait for.
    asked: HashMap<Key, Vec<Waiting>>,
    /// Where to find it.
    places: HashMap<Place, Key>,
    relayed: HashMap<Place, Relayed>,
    by_key: HashMap<Key, Vec<Place>>,
    queues: HashMap<u64, VecDeque<Held>>,
    held: usize,
    /// Sessions of clients whose requests may be told late.
    late: HashSet<u64>,
    pub(super) clients: Sight,
    pub(super) servers: Sight,
}

struct Waiting {
    asking: Asking,
    /// What the pooler has asked servers for since, that may be this.
    relayed: Vec<Place>,
}

/// A statement sent to a server.
struct Relayed {
    key: Option<Key>,
    started: Nanos,
    /// The clients, one for each session, that may be behind it.
    candidates: Vec<Arc<Event>>,
    /// What the only candidate's answer said.
    answered: Option<Answered>,
}

enum Answered {
    /// It waited for nothing else that the pooler did.
    Alone(Outcome),
    Otherwise,
}

struct Held {
    event: Event,
    place: Option<Place>,
    since: Nanos,
}

enum Decision {
    Wait,
    Tell,
    Join(u8),
}

impl Join {
    /// A client's session ends at this pooler.
    pub(super) fn joined(&mut self, session: u64, late: bool) {
        if late {
            self.late.insert(session);
        }
    }

    /// A session of either side is gone.
    pub(super) fn left(&mut self, session: u64, now: Nanos) {
        self.late.remove(&session);
        self.clients.left(session, now);
        self.servers.left(session, now);
        let gone: Vec<Place> = self.places.keys().filter(|place| place.0 == session).copied().collect();
        for place in gone {
            self.take(place);
        }
    }

    /// A client asks.
    pub(super) fn asked(&mut self, asking: Asking, started: Nanos) {
        let session = asking.place.0;
        self.clients.light(session, started);
        let Some(key) = asking.key else {
            // It may be anything until it is answered.
            self.clients.darken(session, false);
            return;
        };
        let mut waiting = Waiting { asking, relayed: Vec::new() };
        // Told late: what it has caused may be known already.
        for place in self.by_key.get(&key).into_iter().flatten() {
            if let Some(relayed) = self.relayed.get_mut(place)
                && relayed.started >= waiting.asking.from
            {
                relayed.consider(&waiting.asking.actor);
                waiting.relayed.push(*place);
            }
        }
        self.places.insert(waiting.asking.place, key);
        self.asked.entry(key).or_default().push(waiting);
    }

    /// A client is answered.
    pub(super) fn answered(&mut self, place: Place, outcome: &Outcome) {
        let Some(waiting) = self.take(place) else { return };
        let alone = waiting.relayed.len() == 1;
        for place in &waiting.relayed {
            if let Some(relayed) = self.relayed.get_mut(place)
                && relayed.is_of(waiting.asking.place.0)
                && relayed.answered.is_none()
            {
                let said = if alone { Answered::Alone(outcome.clone()) } else { Answered::Otherwise };
                relayed.answered = Some(said);
            }
        }
    }

    fn take(&mut self, place: Place) -> Option<Waiting> {
        let key = self.places.remove(&place)?;
        let known = self.asked.get_mut(&key)?;
        let at = known.iter().position(|waiting| waiting.asking.place == place)?;
        let waiting = known.swap_remove(at);
        if known.is_empty() {
            self.asked.remove(&key);
        }
        Some(waiting)
    }

    /// The pooler asks a server: who may be behind it, as far as is known now.
    pub(super) fn relayed(&mut self, place: Place, key: Option<Key>, started: Nanos) -> &[Arc<Event>] {
        self.servers.light(place.0, started);
        if key.is_none() {
            self.servers.darken(place.0, false);
        }
        let mut relayed = Relayed { key, started, candidates: Vec::new(), answered: None };
        if let Some(key) = key {
            for waiting in self.asked.get_mut(&key).into_iter().flatten() {
                if waiting.asking.from <= started {
                    relayed.consider(&waiting.asking.actor);
                    waiting.relayed.push(place);
                }
            }
            self.by_key.entry(key).or_default().push(place);
        }
        &self.relayed.entry(place).insert_entry(relayed).into_mut().candidates
    }

    /// The server has answered.
    pub(super) fn hold(&mut self, place: Place, event: Event, now: Nanos) {
        self.held += 1;
        let held = Held { event, place: Some(place), since: now };
        self.queues.entry(place.0).or_default().push_back(held);
    }

    /// Another event of a connection to a server: true where it waits behind others.
    pub(super) fn queue(&mut self, session: u64, event: &Event, now: Nanos) -> bool {
        let Some(queue) = self.queues.get_mut(&session) else { return false };
        self.held += 1;
        queue.push_back(Held { event: event.clone(), place: None, since: now });
        true
    }

    /// Tells what is decided. `unseen`: there may be clients that are not tapped.
    pub(super) fn settle(&mut self, now: Nanos, unseen: bool, output: &mut dyn FnMut(&Event)) {
        let mut queues = std::mem::take(&mut self.queues);
        for queue in queues.values_mut() {
            while let Some(first) = queue.front() {
                let patient = now.since(first.since) < PATIENCE && self.held <= HELD_MAX;
                let decision = match first.place.and_then(|place| self.relayed.get(&place)) {
                    Some(relayed) => self.decide(relayed, &first.event, unseen),
                    None => Decision::Tell,
                };
                if matches!(decision, Decision::Wait) && patient {
                    break;
                }
                let Some(mut held) = queue.pop_front() else { break };
                self.held -= 1;
                let relayed = held.place.and_then(|place| self.told(place));
                if let (Decision::Join(confidence), Some(client)) =
                    (decision, relayed.as_ref().and_then(|relayed| relayed.candidates.first()))
                {
                    record::act_for(&mut held.event, client, confidence);
                }
                output(&held.event);
            }
        }
        queues.retain(|_, queue| !queue.is_empty());
        self.queues = queues;
    }

    fn decide(&self, relayed: &Relayed, event: &Event, unseen: bool) -> Decision {
        let surprises = unseen || !self.late.is_empty();
        match relayed.candidates.as_slice() {
            [] if surprises => Decision::Wait,
            [_] if !surprises && self.clients.was_clear(relayed.started) => Decision::Join(95),
            [_] if self.servers.was_clear(relayed.started) => match &relayed.answered {
                None => Decision::Wait,
                Some(Answered::Alone(outcome)) if *outcome == Outcome::of(event) => Decision::Join(90),
                Some(_) => Decision::Tell,
            },
            _ => Decision::Tell,
        }
    }

    fn told(&mut self, place: Place) -> Option<Relayed> {
        let relayed = self.relayed.remove(&place)?;
        if let Some(key) = relayed.key
            && let Some(places) = self.by_key.get_mut(&key)
        {
            places.retain(|other| *other != place);
            if places.is_empty() {
                self.by_key.remove(&key);
            }
        }
        Some(relayed)
    }
}

impl Relayed {
    fn consider(&mut self, actor: &Arc<Event>) {
        if self.candidates.len() < CANDIDATES_MAX
            && !self.candidates.iter().any(|known| known.session_id == actor.session_id)
        {
            self.candidates.push(Arc::clone(actor));
        }
    }

    /// True where this session is the only one that may be behind it.
    fn is_of(&self, session: u64) -> bool {
        matches!(self.candidates.as_slice(), [only] if only.session_id == session)
    }
}

#[cfg(test)]
mod tests;
