//! Rules -> the few that can match a statement, strictest first. The cost does not grow with rules that cannot.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Action, AgentMatch, Glob, Match, Mode, Policy};
use crate::judge::Subject;
use crate::sql::Effect;

/// Rules in the order in which the first match decides, and for each of them where it can match.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranking {
    rules: Vec<(Rank, Arc<Policy>)>,
    /// True where the statement's own predicates may rule a policy out.
    certain: bool,
    system: Dimension,
    namespace: Dimension,
    user: Dimension,
    principal: Dimension,
    relation: Dimension,
    /// Rules that are not about AI agents only.
    without_agent: Bits,
    /// Rules that are not about unbounded statements only.
    bounded: Bits,
    any_effect: Bits,
    /// By the effect's number.
    effects: [Bits; Effect::ALL.len()],
}

/// What comes first decides: what is done before what would be done before what is allowed; then the strictest;
/// then the first by name.
pub(crate) type Rank = (u8, std::cmp::Reverse<Action>, Arc<str>);

fn rank(policy: &Policy, action: Action) -> Rank {
    let tier = match (action, policy.mode) {
        (Action::Allow, _) => 2,
        (_, Mode::Enforce) => 0,
        (_, Mode::Monitor) => 1,
    };
    (tier, std::cmp::Reverse(action), Arc::clone(&policy.name))
}

impl Ranking {
    /// Ranks the rules that have an action, by it.
    pub(crate) fn new(
        policies: &[Arc<Policy>],
        action: impl Fn(&Policy) -> Option<Action>,
        certain: bool,
    ) -> Self {
        let mut rules: Vec<(Rank, Arc<Policy>)> = policies
            .iter()
            .filter_map(|policy| Some((rank(policy, action(policy)?), Arc::clone(policy))))
            .collect();
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        let length = rules.len();
        let mut ranking = Ranking { certain, ..Ranking::default() };
        for (at, (_, policy)) in rules.iter().enumerate() {
            let Match { system, namespace, user, principal, ai_agent, effects, unbounded, relations, .. } =
                &policy.matching;
            ranking.system.add(at, length, system.iter().map(Glob::exact));
            ranking.namespace.add(at, length, namespace.iter().map(Glob::exact));
            ranking.user.add(at, length, user.iter().map(Glob::exact));
            ranking.principal.add(at, length, principal.iter().map(Glob::exact));
            let last = |pattern: &Glob| {
                let last = pattern.pattern().rsplit('.').next().unwrap_or_default();
                (!last.contains(['*', '?'])).then(|| last.to_owned())
            };
            let names: Vec<Option<String>> = relations.iter().map(|r| last(&r.name)).collect();
            ranking.relation.add(at, length, names.iter().map(Option::as_deref));
            if matches!(ai_agent, None | Some(AgentMatch::Nobody)) {
                ranking.without_agent.set(at, length);
            }
            if *unbounded != Some(true) {
                ranking.bounded.set(at, length);
            }
            if effects.is_empty() {
                ranking.any_effect.set(at, length);
            }
            for effect in effects {
                if let Some(bits) = ranking.effects.get_mut(*effect as usize) {
                    bits.set(at, length);
                }
            }
        }
        ranking.rules = rules;
        ranking
    }

    /// The rules that can match, in order. What is left out cannot match; what is left in may not.
    pub(crate) fn candidates<'a>(
        &'a self,
        subject: &'a Subject<'_>,
    ) -> impl Iterator<Item = (&'a Rank, &'a Policy)> {
        let system = self.system.bits(subject.db_system_name);
        let namespace = self.namespace.bits(subject.db_namespace);
        let user = self.user.bits(subject.db_user);
        let principal = self.principal.bits(subject.identity_principal);
        let no_agent = subject.ai_agent_name.is_empty();
        let analysis = subject.analysis;
        let words = self.rules.len().div_ceil(64);
        // Looked up once, not for each word.
        let named: Vec<&Bits> = if self.certain && !self.relation.exact.is_empty() {
            let last = |name: &'a str| name.rsplit('.').next().unwrap_or_default();
            analysis
                .statement_relations
                .iter()
                .filter_map(|r| self.relation.exact.get(last(&r.name)))
                .collect()
        } else {
            Vec::new()
        };
        (0..words)
            .flat_map(move |word| {
                let mut left =
                    system.word(word) & namespace.word(word) & user.word(word) & principal.word(word);
                if no_agent {
                    left &= self.without_agent.word(word);
                }
                if self.certain && left != 0 {
                    if !analysis.statement_unbounded {
                        left &= self.bounded.word(word);
                    }
                    let effects = analysis.statement_effects.iter();
                    left &= effects
                        .filter_map(|&effect| self.effects.get(effect as usize))
                        .fold(self.any_effect.word(word), |all, bits| all | bits.word(word));
                    left &=
                        named.iter().fold(self.relation.rest.word(word), |all, bits| all | bits.word(word));
                }
                Ones(left).map(move |bit| word * 64 + bit)
            })
            .filter_map(|at| self.rules.get(at).map(|(rank, policy)| (rank, &**policy)))
    }
}

/// Which rules can match a value of one field.
#[derive(Clone, Debug, Default)]
struct Dimension {
    /// Rules that do not ask, or ask with wildcards.
    rest: Bits,
    /// Rules that name the value.
    exact: HashMap<Arc<str>, Bits>,
}

impl Dimension {
    fn add<'p>(&mut self, at: usize, length: usize, values: impl Iterator<Item = Option<&'p str>>) {
        let mut asked = false;
        for value in values {
            asked = true;
            match value {
                Some(value) => self.exact.entry(value.into()).or_default().set(at, length),
                None => self.rest.set(at, length),
            }
        }
        if !asked {
            self.rest.set(at, length);
        }
    }

    fn bits(&self, value: &str) -> Either<'_> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(value) };
        Either(&self.rest, exact)
    }
}

/// The rules of a dimension for one value.
#[derive(Clone, Copy)]
struct Either<'a>(&'a Bits, Option<&'a Bits>);

impl Either<'_> {
    fn word(self, at: usize) -> u64 {
        self.0.word(at) | self.1.map_or(0, |bits| bits.word(at))
    }
}

/// A set of rules, by position.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, at: usize, length: usize) {
        self.0.resize(length.div_ceil(64), 0);
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

/// Positions of the ones in a word, lowest first.
struct Ones(u64);

impl Iterator for Ones {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let at = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(at)
    }
}
