//! (policy, statement, identity) -> verdict and the rule that gave it. Pure; sees no protocol type.

use std::sync::Arc;

use crate::event::{DataClass, Disposition};
use crate::policy::{
    Action, AgentMatch, Exception, Glob, Match, Mode, Policies, Policy, Ranking, RelationMatch,
};
use crate::sql::{Analysis, Relation};

mod memory; // what happened before -> conditions that hold
mod seen; // who touched what before
mod window; // amounts with their times -> a limit reached

pub use memory::{Held, Look, Memory};

/// What is judged. Field names are those of the event.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// `postgresql`, `mysql`, ...
    pub db_system_name: &'a str,
    /// The database.
    pub db_namespace: &'a str,
    /// The database user in force.
    pub db_user: &'a str,
    /// Schemas in which a name without one is looked up, as PostgreSQL writes them; empty: the default.
    pub search_path: &'a str,
    /// The AI agent runtime; empty where there is no evidence of one.
    pub ai_agent_name: &'a str,
    /// Who it is in the end.
    pub identity_principal: &'a str,
    /// What the statement does.
    pub analysis: &'a Analysis,
    /// Sensitive data that it is known to touch.
    pub data_classes: &'a [DataClass],
    /// False where part of the statement was not understood or not seen: the analysis is a lower bound.
    pub statement_complete: bool,
    /// When it was asked for, or answered, in nanoseconds since the epoch.
    pub time: u64,
    /// Its session.
    pub session_id: u64,
    /// The client process, where it is on this host: pid and start time.
    pub process: Option<(u32, u64)>,
    /// The rules whose conditions on the past hold for it, as [`Memory::look`] says.
    pub held: &'a Held,
}

static NOTHING: Held = Held::none();

impl<'a> Subject<'a> {
    /// A statement of which nothing is known but what it does.
    pub fn new(analysis: &'a Analysis) -> Self {
        Self {
            db_system_name: "",
            db_namespace: "",
            db_user: "",
            search_path: "",
            ai_agent_name: "",
            identity_principal: "",
            analysis,
            data_classes: &[],
            statement_complete: analysis.statement_complete,
            time: 0,
            session_id: 0,
            process: None,
            held: &NOTHING,
        }
    }
}

/// What is to be done about a statement, and who says so. The default is what no rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The rule that decided; empty where none matched.
    pub policy_rule: Arc<str>,
    /// Hash of the rule's text.
    pub policy_version: Arc<str>,
    /// Whether the rule acts; `None` where none matched.
    pub policy_mode: Option<Mode>,
    /// What the rule does, or would do in monitor mode.
    pub action: Action,
    /// What becomes of the statement, or would become of it in monitor mode.
    pub disposition: Disposition,
    /// The rule's message.
    pub message: Arc<str>,
    /// The rule may match: the statement was not understood in full.
    pub unknown: bool,
}

impl Verdict {
    /// `policy_mode` of the event.
    pub fn mode_name(&self) -> &'static str {
        self.policy_mode.map_or("", Mode::name)
    }

    /// True where the session is to be ended now.
    pub fn kills(&self) -> bool {
        self.policy_mode == Some(Mode::Enforce) && self.action == Action::Kill
    }

    /// True where this verdict goes before that one: it acts while the other only watches, or is stricter.
    pub fn outranks(&self, other: &Verdict) -> bool {
        let rank = |verdict: &Verdict| match (verdict.policy_mode, verdict.action) {
            (None, _) => (0, Action::Allow),
            (Some(_), Action::Allow) => (1, Action::Allow),
            (Some(Mode::Monitor), action) => (2, action),
            (Some(Mode::Enforce), action) => (3, action),
        };
        rank(self) > rank(other)
    }

    fn of(policy: &Policy, action: Action, unknown: bool) -> Self {
        Verdict {
            policy_rule: Arc::clone(&policy.name),
            policy_version: Arc::clone(&policy.version),
            policy_mode: Some(policy.mode),
            action,
            disposition: action.disposition(),
            message: Arc::clone(&policy.message),
            unknown,
        }
    }
}

/// Judges a statement: the strictest matching action wins, equal ones by name. Rules that act go before rules that
/// only watch: the event tells what was done, and what would have been done where nothing was.
pub fn judge(policies: &Policies, subject: &Subject<'_>) -> Verdict {
    decide(&policies.certain, &policies.unknown, subject)
}

/// What a canary would do: the strictest of those rules that only watch and would act. No rule that acts hides it.
pub fn would(policies: &Policies, subject: &Subject<'_>) -> Verdict {
    let [certain, unknown] = &policies.watching;
    decide(certain, unknown, subject)
}

fn decide(certain: &Ranking, unknown: &Ranking, subject: &Subject<'_>) -> Verdict {
    let held = |policy: &Policy, sure| !policy.remembers() || subject.held.holds(policy.number, sure);
    let sure =
        certain.candidates(subject).find(|(_, policy)| held(policy, true) && falls_under(policy, subject));
    let maybe = if subject.statement_complete {
        None
    } else {
        unknown.candidates(subject).find(|(_, policy)| {
            held(policy, false)
                && matches(&policy.matching, subject, Quantifier::Any, About::Session)
                && (policy.unusual.is_some()
                    || !matches(&policy.matching, subject, Quantifier::Any, About::All))
                && scheduled(policy, subject)
                && !excepted(policy, subject, |_| true)
        })
    };
    match (sure, maybe) {
        // Equally strict: what matches goes before what may match.
        (Some((rank, policy)), Some((other, _))) if (rank.0, rank.1) <= (other.0, other.1) => {
            Verdict::of(policy, policy.action, false)
        }
        (_, Some((_, policy))) => Verdict::of(policy, policy.on_unknown, true),
        (Some((_, policy)), None) => Verdict::of(policy, policy.action, false),
        (None, None) => Verdict::default(),
    }
}

/// The rules that take values out of a statement's answer. Which columns have such values only the answer tells, so what a
/// rule says about the statement's data does not rule it out, and neither does an exception that is about data; nor does
/// what was not understood. All of them hold, whatever else is to be done about the statement.
pub fn masks<'p>(policies: &'p Policies, subject: &Subject<'_>) -> Vec<&'p Policy> {
    let about = if subject.statement_complete { About::AllButData } else { About::Session };
    let masks = |policy: &&Policy| {
        let acts =
            policy.action == Action::Mask || policy.on_unknown == Action::Mask && !subject.statement_complete;
        policy.may_mask()
            && acts
            && matches(&policy.matching, subject, Quantifier::Any, about)
            && scheduled(policy, subject)
            && !excepted(policy, subject, |except| except.matching.data.is_empty())
    };
    policies.iter().filter(masks).collect()
}

/// True where a rule is about a statement for sure, whatever happened before.
fn falls_under(policy: &Policy, subject: &Subject<'_>) -> bool {
    matches(&policy.matching, subject, Quantifier::Any, About::All)
        && scheduled(policy, subject)
        && !excepted(policy, subject, |_| true)
}

fn scheduled(policy: &Policy, subject: &Subject<'_>) -> bool {
    policy.schedule.as_ref().is_none_or(|schedule| schedule.holds(subject.time))
}

/// An exception holds only where all of the statement falls under it: `DROP TABLE tmp_1, orders` is not excepted by
/// `tmp_*`, and a statement that was not understood is excepted by nothing that depends on it.
fn excepted(policy: &Policy, subject: &Subject<'_>, counts: impl Fn(&Exception) -> bool) -> bool {
    policy.except.iter().filter(|except| counts(except)).any(|except| {
        (subject.statement_complete || !except.matching.is_about_statement())
            && matches(&except.matching, subject, Quantifier::All, About::All)
            && except.until.is_none_or(|until| subject.time < until)
            && except.schedule.as_ref().is_none_or(|schedule| schedule.holds(subject.time))
    })
}

/// How many of a statement's effects and relations a predicate must fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    Any,
    All,
}

/// Which predicates must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// Those about the session: not those about the statement itself.
    Session,
    /// Those about its data are left out.
    AllButData,
    All,
}

/// True where every predicate holds that counts.
fn matches(wanted: &Match, subject: &Subject<'_>, quantifier: Quantifier, about: About) -> bool {
    one_of(&wanted.system, subject.db_system_name)
        && one_of(&wanted.namespace, subject.db_namespace)
        && one_of(&wanted.user, subject.db_user)
        && one_of(&wanted.principal, subject.identity_principal)
        && match &wanted.ai_agent {
            None => true,
            Some(AgentMatch::Any) => !subject.ai_agent_name.is_empty(),
            Some(AgentMatch::Nobody) => subject.ai_agent_name.is_empty(),
            Some(AgentMatch::Named(names)) => {
                !subject.ai_agent_name.is_empty() && one_of(names, subject.ai_agent_name)
            }
        }
        && (about == About::Session || fits(wanted, subject, quantifier, about))
}

fn one_of(patterns: &[Glob], value: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(value))
}

fn fits(wanted: &Match, subject: &Subject<'_>, quantifier: Quantifier, about: About) -> bool {
    let analysis = subject.analysis;
    let effect = |effect| wanted.effects.contains(effect);
    let effects = &analysis.statement_effects;
    let relation = |relation: &Relation| wanted.relations.iter().any(|r| is_relation(r, relation, subject));
    let relations = &analysis.statement_relations;
    let class = |data: &DataClass| wanted.data.iter().any(|class| class.matches(&data.class));
    (wanted.effects.is_empty()
        || match quantifier {
            Quantifier::Any => effects.iter().any(effect),
            Quantifier::All => !effects.is_empty() && effects.iter().all(effect),
        })
        && wanted.unbounded.is_none_or(|unbounded| unbounded == analysis.statement_unbounded)
        && wanted.complete.is_none_or(|complete| complete == subject.statement_complete)
        && one_of(&wanted.operation, &analysis.db_operation_name)
        && one_of(&wanted.fingerprint, &analysis.db_query_fingerprint)
        && (wanted.relations.is_empty()
            || match quantifier {
                Quantifier::Any => relations.iter().any(relation),
                Quantifier::All => !relations.is_empty() && relations.iter().all(relation),
            })
        && (wanted.data.is_empty()
            || about == About::AllButData
            || match quantifier {
                Quantifier::Any => subject.data_classes.iter().any(class),
                Quantifier::All => !subject.data_classes.is_empty() && subject.data_classes.iter().all(class),
            })
}

fn is_relation(wanted: &RelationMatch, relation: &Relation, subject: &Subject<'_>) -> bool {
    if wanted.access.is_some_and(|access| access != relation.access) {
        return false;
    }
    let name = &*relation.name;
    let qualified_pattern = wanted.name.pattern().contains('.');
    match name.rsplit_once('.') {
        Some((_, last)) if !qualified_pattern => wanted.name.matches(last) || wanted.name.matches(name),
        // `database.schema.table` also goes by `schema.table`.
        Some(_) => {
            wanted.name.matches(name)
                || name
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest.contains('.') && wanted.name.matches(rest))
        }
        None if !qualified_pattern => wanted.name.matches(name),
        None => schemas(subject)
            // Only the catalog's own names are found there.
            .filter(|&schema| schema != "pg_catalog" || name.starts_with("pg_"))
            .any(|schema| wanted.name.matches_in(schema, name)),
    }
}

/// The schemas in which a name without one may be found.
fn schemas<'a>(subject: &'a Subject<'_>) -> impl Iterator<Item = &'a str> {
    let postgresql = subject.db_system_name == "postgresql";
    let path = match (postgresql, subject.search_path) {
        (true, "") => "\"$user\", public",
        (true, path) => path,
        (false, _) => "",
    };
    let user = subject.db_user;
    let listed = path.split(',').map(|schema| schema.trim().trim_matches('"')).filter(|s| !s.is_empty());
    let first = if postgresql { "pg_catalog" } else { subject.db_namespace };
    listed.map(move |schema| if schema == "$user" { user } else { schema }).chain(std::iter::once(first))
}

#[cfg(test)]
mod tests;
