//! What the shim would have done by rules that only watch, and what capture made of the same statements -> counts of both.
//!
//! Either may come first. A statement is known by its connection and its text.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use agent_core::judge::Verdict;
use agent_core::policy::Action;
use serde_json::{Map, Value};

use super::talk::Would;

/// How long either of the two waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Texts that are remembered of one connection, and statements of all that wait.
const TEXTS_MAX: usize = 4096;

/// Counts of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    held: u64,
    block: u64,
    ask: u64,
    mask: u64,
    kill: u64,
    agree: u64,
    differ: u64,
    not_held: u64,
}

/// What the shim has said of a text last.
struct Seen {
    since: Instant,
    would: Would,
    claimed: bool,
}

/// What capture has said of a statement, before the shim has said anything of it.
struct Waiting {
    since: Instant,
    cookie: u64,
    text: u64,
    rule: String,
    version: String,
    action: Action,
    gated: bool,
}

/// A statement that only one of the two has a rule for, or each another one.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Cookie of the server's socket.
    pub cookie: u64,
    /// The rule.
    pub rule: String,
    /// Its version.
    pub version: String,
    /// What it would have done.
    pub action: Action,
    /// Which of the two says so.
    pub said_by: &'static str,
}

/// Both, compared.
#[derive(Default)]
pub struct Canary {
    rules: BTreeMap<String, Counts>,
    seen: HashMap<u64, HashMap<u64, Seen>>,
    waiting: VecDeque<Waiting>,
    /// Connections that the shim cannot read.
    blind: HashSet<u64>,
    differences: Vec<Difference>,
}

impl Canary {
    /// What the shim would have done about a statement.
    pub(super) fn inline(&mut self, would: Would) {
        let counts = self.rules.entry(would.policy_rule.clone()).or_default();
        counts.held += 1;
        match would.action {
            Action::Kill => counts.kill += 1,
            Action::Block => counts.block += 1,
            Action::RequireApproval => counts.ask += 1,
            _ => counts.mask += 1,
        }
        let (cookie, text) = (would.cookie, would.text);
        let texts = self.seen.entry(cookie).or_default();
        if texts.len() >= TEXTS_MAX {
            texts.retain(|_, seen| !seen.claimed);
        }
        if texts.len() < TEXTS_MAX {
            texts.insert(text, Seen { since: Instant::now(), would, claimed: false });
        }
        let found = |waiting: &Waiting| waiting.cookie == cookie && waiting.text == text;
        while let Some(waiting) = self.waiting.iter().position(found).and_then(|at| self.waiting.remove(at)) {
            self.compare(&waiting);
        }
    }

    /// What capture's verdict on a statement is. `gated`: its connection goes through the gate.
    pub(super) fn passive(&mut self, cookie: u64, text: u64, verdict: &Verdict, gated: bool) {
        let waiting = Waiting {
            since: Instant::now(),
            cookie,
            text,
            rule: verdict.policy_rule.to_string(),
            version: verdict.policy_version.to_string(),
            action: verdict.action,
            gated: gated && !self.blind.contains(&cookie),
        };
        if self.compare(&waiting) {
            return;
        }
        if self.waiting.len() >= TEXTS_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.missed(&oldest);
        }
        self.waiting.push_back(waiting);
    }

    /// The shim cannot read this connection.
    pub(crate) fn blind(&mut self, cookie: u64) {
        self.blind.insert(cookie);
    }

    /// False where the shim has not said anything of it.
    fn compare(&mut self, waiting: &Waiting) -> bool {
        let Some(texts) = self.seen.get_mut(&waiting.cookie) else { return false };
        let Some(seen) = texts.get_mut(&waiting.text) else { return false };
        seen.claimed = true;
        let (message, same) = (
            seen.would.message,
            seen.would.policy_rule == waiting.rule && seen.would.action == waiting.action,
        );
        // PREPARE is one message and one statement, with two texts.
        for other in texts.values_mut().filter(|other| other.would.message == message) {
            other.claimed = true;
        }
        let counts = self.rules.entry(waiting.rule.clone()).or_default();
        if same {
            counts.agree += 1;
        } else {
            counts.differ += 1;
            self.differences.push(waiting.difference());
        }
        true
    }

    /// The shim has not said anything of it in time.
    fn missed(&mut self, waiting: &Waiting) {
        let counts = self.rules.entry(waiting.rule.clone()).or_default();
        if waiting.gated && !self.blind.contains(&waiting.cookie) {
            counts.differ += 1;
            self.differences.push(waiting.difference());
        } else {
            counts.not_held += 1;
        }
    }

    /// The rules are others now: what was said by the old ones is not compared with what is said by the new ones.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.waiting.clear();
    }

    /// What was found to differ. `is_gated`: whether a connection still goes through the gate.
    pub fn settle(&mut self, is_gated: impl Fn(u64) -> bool) -> Vec<Difference> {
        self.settle_after(PATIENCE, is_gated)
    }

    fn settle_after(&mut self, patience: Duration, is_gated: impl Fn(u64) -> bool) -> Vec<Difference> {
        while self.waiting.front().is_some_and(|waiting| waiting.since.elapsed() >= patience)
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.missed(&waiting);
        }
        for (&cookie, texts) in &mut self.seen {
            let late: HashSet<u64> = texts
                .values()
                .filter(|seen| !seen.claimed && seen.since.elapsed() >= patience)
                .map(|seen| seen.would.message)
                .collect();
            // Once for each message, whatever the number of its texts.
            let mut told = HashSet::new();
            for seen in texts.values_mut().filter(|seen| late.contains(&seen.would.message)) {
                seen.claimed = true;
                if told.insert(seen.would.message) {
                    self.rules.entry(seen.would.policy_rule.clone()).or_default().differ += 1;
                    self.differences.push(Difference {
                        cookie,
                        rule: seen.would.policy_rule.clone(),
                        version: seen.would.policy_version.clone(),
                        action: seen.would.action,
                        said_by: "shim",
                    });
                }
            }
        }
        self.seen.retain(|cookie, texts| {
            is_gated(*cookie) || texts.values().any(|seen| !seen.claimed || seen.since.elapsed() < patience)
        });
        self.blind.retain(|cookie| is_gated(*cookie) || self.waiting.iter().any(|w| w.cookie == *cookie));
        std::mem::take(&mut self.differences)
    }

    /// The counts, by rule; none where no rule has said anything.
    pub fn told(&self) -> Option<Value> {
        let rule = |counts: &Counts| {
            let named = [
                ("held", counts.held),
                ("would_block", counts.block),
                ("would_ask", counts.ask),
                ("would_mask", counts.mask),
                ("would_kill", counts.kill),
                ("agree", counts.agree),
                ("differ", counts.differ),
                ("not_held", counts.not_held),
            ];
            Value::Object(named.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
        };
        let rules: Map<_, _> = self.rules.iter().map(|(name, counts)| (name.clone(), rule(counts))).collect();
        (!rules.is_empty()).then_some(Value::Object(rules))
    }
}

impl Waiting {
    fn difference(&self) -> Difference {
        Difference {
            cookie: self.cookie,
            rule: self.rule.clone(),
            version: self.version.clone(),
            action: self.action,
            said_by: "capture",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn would(message: u64, text: u64, rule: &str, action: Action) -> Would {
        Would { cookie: 1, message, text, policy_rule: rule.into(), policy_version: "v".into(), action }
    }

    fn verdict(rule: &str, action: Action) -> Verdict {
        Verdict { policy_rule: rule.into(), action, ..Verdict::default() }
    }

    fn counts(canary: &Canary, rule: &str) -> [u64; 4] {
        let counts = canary.rules.get(rule).copied().unwrap_or_default();
        [counts.held, counts.agree, counts.differ, counts.not_held]
    }

    #[test]
    fn both_may_come_first() {
        let mut canary = Canary::default();
        canary.inline(would(1, 10, "a", Action::Block));
        canary.passive(1, 10, &verdict("a", Action::Block), true);
        canary.passive(1, 11, &verdict("a", Action::Block), true);
        canary.inline(would(2, 11, "a", Action::Block));
        // A prepared text is executed again.
        canary.passive(1, 11, &verdict("a", Action::Block), true);
        assert_eq!(canary.settle_after(Duration::ZERO, |_| true), []);
        assert_eq!(counts(&canary, "a"), [2, 3, 0, 0]);
    }

    #[test]
    fn what_only_one_of_them_says_is_a_difference() {
        let mut canary = Canary::default();
        canary.passive(1, 10, &verdict("a", Action::Block), true);
        canary.inline(would(1, 11, "b", Action::Mask));
        // Two texts, one statement.
        canary.inline(would(2, 12, "c", Action::Block));
        canary.inline(would(2, 13, "c", Action::Block));
        canary.inline(would(3, 14, "d", Action::Block));
        canary.passive(1, 14, &verdict("d", Action::RequireApproval), true);
        assert_eq!(canary.settle_after(PATIENCE, |_| true).len(), 1, "the others may still come");
        assert_eq!(canary.settle_after(Duration::ZERO, |_| true).len(), 3);
        for (rule, expected) in [("a", [0, 0, 1, 0]), ("b", [1, 0, 1, 0]), ("c", [2, 0, 1, 0])] {
            assert_eq!(counts(&canary, rule), expected, "{rule}");
        }
        assert_eq!(counts(&canary, "d"), [1, 0, 1, 0]);
        assert_eq!(canary.settle_after(Duration::ZERO, |_| true), [], "each is told once");
    }

    #[test]
    fn what_is_not_in_the_gate_is_no_difference() {
        let mut canary = Canary::default();
        canary.passive(1, 10, &verdict("a", Action::Block), false);
        canary.blind(2);
        canary.passive(2, 10, &verdict("a", Action::Block), true);
        assert_eq!(canary.settle_after(Duration::ZERO, |_| false), []);
        assert_eq!(counts(&canary, "a"), [0, 0, 0, 2]);
        assert!(canary.blind.is_empty() && canary.waiting.is_empty());
    }

    #[test]
    fn one_message_with_two_texts_is_claimed_by_one_statement() {
        let mut canary = Canary::default();
        canary.inline(would(1, 10, "a", Action::Block));
        canary.inline(would(1, 11, "a", Action::Block));
        canary.passive(1, 10, &verdict("a", Action::Block), true);
        assert_eq!(canary.settle_after(Duration::ZERO, |_| true), []);
        assert_eq!(counts(&canary, "a"), [2, 1, 0, 0]);
        assert!(canary.settle_after(Duration::ZERO, |_| false).is_empty() && canary.seen.is_empty());
    }
}
