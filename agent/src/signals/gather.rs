//! Equal events within a window -> one signal at once, and one with the count when the window is over.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use agent_core::event::{Disposition, Event, EventKind};
use lru::LruCache;
use tokio::time::Instant;

use super::Signal;

/// Most windows of one receiver; beyond, the one that was quiet longest is told before its time.
const MOST: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What makes events equal: the rule, what it did, the statement but for its literals, and who.
type Key = (EventKind, Arc<str>, Arc<str>, Disposition, Arc<str>, Arc<str>);

/// The windows that are open.
pub struct Gathered {
    within: Duration,
    open: LruCache<Key, (Signal, Instant)>,
}

impl Gathered {
    /// `within`: the length of a window; nothing gathers where it is zero.
    pub fn new(within: Duration) -> Self {
        Self { within, open: LruCache::new(MOST) }
    }

    /// Takes an event; gives what is to be told now: nothing where it was counted only.
    pub fn take(&mut self, event: &Arc<Event>, message: &Arc<str>, now: Instant) -> Vec<Signal> {
        let signal =
            Signal { event: Arc::clone(event), count: 1, last: event.time, message: Arc::clone(message) };
        if self.within.is_zero() {
            return vec![signal];
        }
        let key = key(event);
        let mut told = Vec::new();
        if let Some((known, until)) = self.open.get_mut(&key) {
            if now < *until {
                known.count += 1;
                known.last = event.time;
                return told;
            }
            told.extend(self.open.pop(&key).and_then(|(known, _)| repeated(known)));
        }
        if let Some((_, (early, _))) = self.open.push(key, (signal.clone(), now + self.within)) {
            told.extend(repeated(early));
        }
        told.push(signal);
        told
    }

    /// Closes windows that are over, or all; gives those in which something was counted.
    pub fn over(&mut self, now: Option<Instant>) -> Vec<Signal> {
        let ended = |until: &Instant| now.is_none_or(|now| *until <= now);
        let over: Vec<Key> =
            self.open.iter().filter(|(_, (_, until))| ended(until)).map(|(key, _)| key.clone()).collect();
        over.iter().filter_map(|key| self.open.pop(key)).filter_map(|(signal, _)| repeated(signal)).collect()
    }
}

/// A signal that was told when it was the first is told again where there were more.
fn repeated(signal: Signal) -> Option<Signal> {
    (signal.count > 1).then_some(signal)
}

fn key(event: &Event) -> Key {
    let ruled = !event.policy_rule.is_empty();
    let rule = if ruled { &event.policy_rule } else { &event.error_type };
    (
        event.event_kind,
        Arc::clone(rule),
        Arc::clone(&event.policy_mode),
        event.disposition,
        Arc::clone(&event.db_query_fingerprint),
        Arc::clone(&event.identity_principal),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(rule: &str, fingerprint: &str, who: &str, time: u64) -> Arc<Event> {
        Arc::new(Event {
            policy_rule: rule.into(),
            db_query_fingerprint: fingerprint.into(),
            identity_principal: who.into(),
            time,
            ..Event::default()
        })
    }

    fn counts(signals: &[Signal]) -> Vec<(u64, u64)> {
        signals.iter().map(|s| (s.count, s.last)).collect()
    }

    #[test]
    fn equal_ones_are_told_at_once_and_counted_at_the_end() {
        let mut gathered = Gathered::new(Duration::from_secs(60));
        let (begin, text) = (Instant::now(), Arc::from(""));
        let mut take = |event: &Arc<Event>, seconds| {
            counts(&gathered.take(event, &text, begin + Duration::from_secs(seconds)))
        };
        assert_eq!(take(&event("r", "f", "joe", 1), 0), [(1, 1)]);
        assert_eq!(take(&event("r", "f", "joe", 2), 1), []);
        assert_eq!(take(&event("r", "f", "joe", 3), 59), []);
        // Another rule, statement or person is another signal.
        for other in [event("s", "f", "joe", 4), event("r", "g", "joe", 4), event("r", "f", "ann", 4)] {
            assert_eq!(take(&other, 59), [(1, 4)]);
        }
        // The window is over: what was counted is told, and a new one begins.
        assert_eq!(take(&event("r", "f", "joe", 5), 60), [(3, 3), (1, 5)]);
        assert_eq!(counts(&gathered.over(Some(begin + Duration::from_secs(61)))), []);
        take_again(&mut gathered, begin);
        assert_eq!(counts(&gathered.over(Some(begin + Duration::from_secs(121)))), [(2, 6)]);
        assert_eq!(counts(&gathered.over(None)), []);
    }

    fn take_again(gathered: &mut Gathered, begin: Instant) {
        let told = gathered.take(&event("r", "f", "joe", 6), &Arc::from(""), begin + Duration::from_secs(62));
        assert!(told.is_empty());
    }

    #[test]
    fn without_a_window_each_is_told() {
        let mut gathered = Gathered::new(Duration::ZERO);
        for time in 0..3 {
            assert_eq!(gathered.take(&event("r", "f", "joe", time), &Arc::from(""), Instant::now()).len(), 1);
        }
    }

    #[test]
    fn windows_are_bounded_and_none_is_lost() {
        let mut gathered = Gathered::new(Duration::from_secs(60));
        let (now, text) = (Instant::now(), Arc::from(""));
        let mut told = 0;
        for round in 0..2 {
            for n in 0..MOST.get() + 5 {
                let signals = gathered.take(&event("r", &n.to_string(), "joe", round), &text, now);
                told += signals.iter().filter(|signal| signal.count == 1).count();
            }
        }
        assert!(gathered.open.len() == MOST.get() && told >= MOST.get() + 5);
    }
}
