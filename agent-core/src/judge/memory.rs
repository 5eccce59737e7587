//! Statements, one after the other -> which conditions on the past hold for the next. Bounded; time comes with them.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use lru::LruCache;

use super::seen::{self, Seen};
use super::window::Window;
use super::{About, Quantifier, Subject, excepted, is_relation, matches};
use crate::event::DataClass;
use crate::policy::{Amount, Per, Policies, Policy, Rate};

/// Most windows of one rule, and most entries in them: some 4 MiB. The window that was filled longest ago goes.
const WINDOWS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const ENTRIES: usize = 1 << 18;
/// Most rules whose windows are kept: rules that are gone leave theirs behind for as long as there is room.
const RULES: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();

/// The rules whose conditions on the past hold for one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    sure: Vec<u32>,
    maybe: Vec<u32>,
}

impl Held {
    /// None holds.
    pub const fn none() -> Self {
        Self { sure: Vec::new(), maybe: Vec::new() }
    }

    pub(super) fn holds(&self, rule: u32, sure: bool) -> bool {
        if sure { &self.sure } else { &self.maybe }.contains(&rule)
    }
}

/// When a statement is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Look<'a> {
    /// It is asked for: it counts.
    Request,
    /// It counts elsewhere.
    Aside,
    /// It is answered: its rows count, and it counts for rules that it fell under by its answer only.
    Answer {
        /// What was known of its data when it was asked for.
        before: &'a [DataClass],
        /// Rows that it returned or changed.
        rows: u64,
    },
}

/// What happened before, as far as a rule asks.
#[derive(Debug, Default)]
pub struct Memory {
    rules: Rules,
    seen: Seen,
    forgotten: u64,
    hashers: [DefaultHashBuilder; 2],
}

#[derive(Debug)]
struct Rules(LruCache<Arc<str>, Windows>);

impl Default for Rules {
    fn default() -> Self {
        Self(LruCache::new(RULES))
    }
}

/// The windows of one rule.
#[derive(Debug)]
struct Windows {
    /// By whom, and whether it counts what may fall under the rule too.
    windows: LruCache<((u64, u64), bool), Window>,
    entries: usize,
}

impl Memory {
    /// Which conditions hold for a statement.
    pub fn look(&mut self, policies: &Policies, subject: &Subject<'_>, look: Look<'_>) -> Held {
        let mut held = Held::default();
        if !policies.needs_memory() {
            return held;
        }
        self.seen.begin(policies.needs_habits(), subject.time);
        let [certain, unknown] = &policies.remembering;
        for (_, policy) in certain.candidates(subject) {
            if super::falls_under(policy, subject) && self.holds(policy, subject, look, true) {
                held.sure.push(policy.number);
            }
        }
        if !subject.statement_complete {
            for (_, policy) in unknown.candidates(subject) {
                let known = policy.unusual.is_none()
                    && matches(&policy.matching, subject, Quantifier::Any, About::All);
                if !known
                    && !held.sure.contains(&policy.number)
                    && matches(&policy.matching, subject, Quantifier::Any, About::Session)
                    && super::scheduled(policy, subject)
                    && !excepted(policy, subject, |_| true)
                    && self.holds(policy, subject, look, false)
                {
                    held.maybe.push(policy.number);
                }
            }
        }
        held
    }

    fn holds(&mut self, policy: &Policy, subject: &Subject<'_>, look: Look<'_>, sure: bool) -> bool {
        if let Some(unusual) = &policy.unusual {
            let wanted = &policy.matching.relations;
            let knows = self.seen.knows(unusual, subject.time);
            let mut relations = subject.analysis.statement_relations.iter().filter(|relation| {
                wanted.is_empty() || wanted.iter().any(|wanted| is_relation(wanted, relation, subject))
            });
            let seen = &mut self.seen;
            let first = if sure {
                relations.any(|relation| seen.is_first(unusual.per, subject, &relation.name))
            } else {
                seen.is_first(unusual.per, subject, &seen::opaque(subject))
            };
            if !knows || !first {
                return false;
            }
        }
        policy.rate.as_ref().is_none_or(|rate| self.counts(policy, rate, subject, look, sure))
    }

    fn counts(
        &mut self,
        policy: &Policy,
        rate: &Rate,
        subject: &Subject<'_>,
        look: Look<'_>,
        sure: bool,
    ) -> bool {
        let amount = match (rate.of, look) {
            (Amount::Statements, Look::Request) => 1,
            (Amount::Rows, Look::Answer { rows, .. }) => rows,
            (Amount::Statements, Look::Answer { before, .. }) if policy.is_about_data() => {
                let asked = Subject { data_classes: before, ..*subject };
                u64::from(sure && !super::falls_under(policy, &asked))
            }
            _ => 0,
        };
        let who = self.who(rate.per, subject);
        if !self.rules.0.contains(&policy.version) {
            let windows = Windows { windows: LruCache::new(WINDOWS), entries: 0 };
            self.rules.0.put(Arc::clone(&policy.version), windows);
        }
        let Some(of_rule) = self.rules.0.get_mut(&policy.version) else { return false };
        let reached = of_rule.add((who, sure), rate, subject.time, amount, &mut self.forgotten);
        if sure && policy.doubts() {
            // What is certain counts in doubt as well.
            of_rule.add((who, false), rate, subject.time, amount, &mut self.forgotten);
        }
        reached
    }

    fn who(&self, per: Per, subject: &Subject<'_>) -> (u64, u64) {
        let name = |name: &str| (self.hashers[0].hash_one(name), self.hashers[1].hash_one(name));
        match (per, subject.process) {
            (Per::Principal, _) => name(subject.identity_principal),
            (Per::User, _) => name(subject.db_user),
            (Per::Process, Some((pid, start))) => (u64::from(pid), start),
            (Per::Process, None) | (Per::Session, _) => (subject.session_id, u64::MAX),
        }
    }

    /// A statement passed, as far as the rules are concerned: what it touched is usual from now on.
    pub fn learn(&mut self, policies: &Policies, subject: &Subject<'_>) {
        if policies.needs_memory() {
            self.seen.learn(subject);
        }
    }

    /// Takes the lines about what was touched for the first time since this was asked last.
    pub fn fresh(&mut self) -> Vec<String> {
        self.seen.fresh()
    }

    /// All lines about what was touched, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.seen.lines()
    }

    /// Takes a line that [`Memory::lines`] gave. False where it is none.
    pub fn read(&mut self, line: &str) -> bool {
        self.seen.read(line)
    }

    /// Touches that are remembered, and windows that were forgotten because others needed their room.
    pub fn size(&self) -> (usize, u64) {
        (self.seen.len(), self.forgotten)
    }
}

impl Windows {
    fn add(
        &mut self,
        key: ((u64, u64), bool),
        rate: &Rate,
        time: u64,
        amount: u64,
        forgotten: &mut u64,
    ) -> bool {
        if amount == 0 && !self.windows.contains(&key) {
            return false;
        }
        if !self.windows.contains(&key)
            && let Some((_, gone)) = self.windows.push(key, Window::default())
        {
            self.entries -= gone.len();
            *forgotten += 1;
        }
        let Some(window) = self.windows.get_mut(&key) else { return false };
        self.entries -= window.len();
        let reached = window.add(rate, time, amount);
        self.entries += window.len();
        while self.entries > ENTRIES
            && self.windows.len() > 1
            && let Some((_, gone)) = self.windows.pop_lru()
        {
            self.entries -= gone.len();
            *forgotten += 1;
        }
        reached
    }
}

#[cfg(test)]
mod tests;
