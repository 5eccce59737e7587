//! Policy files -> typed rules, all errors at once, and an index that finds the rules that can match.
//!
//! A file is a stream of YAML documents in the form that Kubernetes users know:
//!
//! ```yaml
//! kind: DatabasePolicy
//! metadata: {name: no-unbounded-writes}
//! spec:
//!   mode: enforce
//!   match: {statement: {effects: [delete, update], unbounded: true}}
//!   action: kill
//! ```

use std::sync::Arc;

use crate::event::Disposition;
use crate::sql::{Access, Effect};

mod approval; // who may release what is held, until when
mod condition; // how often, and whether for the first time
mod glob; // pattern + name -> does it match
mod index; // rules -> the few that can match
mod read; // YAML -> rules
mod schedule; // time -> does a rule hold

pub use approval::{Approval, OnTimeout, TTL};
pub use condition::{Amount, Per, Rate, Unusual};
pub use glob::Glob;
pub(crate) use index::Ranking;
pub use read::{documents, nearest};
pub use schedule::Schedule;

/// Whether a rule acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Records what `enforce` would have done.
    #[default]
    Monitor,
    /// Does it.
    Enforce,
}

impl Mode {
    /// Its name in policies and in `policy_mode`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Monitor => "monitor",
            Mode::Enforce => "enforce",
        }
    }
}

/// What a rule does about a statement, from the mildest to the strictest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Action {
    /// Lets it pass and names the rule.
    #[default]
    Allow,
    /// Lets it pass and says so.
    Alert,
    /// Lets it pass with values taken out of its answer.
    Mask,
    /// Holds it until somebody approves.
    RequireApproval,
    /// Refuses it.
    Block,
    /// Ends its session.
    Kill,
}

impl Action {
    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Alert => "alert",
            Action::Mask => "mask",
            Action::RequireApproval => "require_approval",
            Action::Block => "block",
            Action::Kill => "kill",
        }
    }

    /// What it makes of a statement.
    pub fn disposition(self) -> Disposition {
        match self {
            Action::Allow => Disposition::Allowed,
            Action::Alert => Disposition::Alerted,
            Action::Mask => Disposition::Masked,
            Action::RequireApproval => Disposition::Held,
            Action::Block => Disposition::Blocked,
            Action::Kill => Disposition::Killed,
        }
    }
}

/// One relation that a rule is about.
#[derive(Clone, Debug)]
pub struct RelationMatch {
    /// Pattern of its name. One without a dot is about any schema.
    pub name: Glob,
    /// How it is touched; any way where it is not said.
    pub access: Option<Access>,
}

/// Which AI agents a rule is about.
#[derive(Clone, Debug)]
pub enum AgentMatch {
    /// Any known one.
    Any,
    /// Nobody who is known to be one.
    Nobody,
    /// One of these.
    Named(Vec<Glob>),
}

/// Predicates; all that are given must hold. An empty list is a predicate that was not given.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// `db_system_name`.
    pub system: Vec<Glob>,
    /// `db_namespace`.
    pub namespace: Vec<Glob>,
    /// `db_user`.
    pub user: Vec<Glob>,
    /// `identity_principal`.
    pub principal: Vec<Glob>,
    /// `ai_agent_name`.
    pub ai_agent: Option<AgentMatch>,
    /// `statement_effects`: one of these.
    pub effects: Vec<Effect>,
    /// `statement_unbounded`.
    pub unbounded: Option<bool>,
    /// `statement_complete`.
    pub complete: Option<bool>,
    /// `db_operation_name`, in upper case.
    pub operation: Vec<Glob>,
    /// `db_query_fingerprint`.
    pub fingerprint: Vec<Glob>,
    /// `statement_relations`: one of the statement's is one of these.
    pub relations: Vec<RelationMatch>,
    /// `data_classes`: one of the statement's is one of these.
    pub data: Vec<Glob>,
}

impl Match {
    /// True where it says something about the statement itself, which may not have been understood.
    pub fn is_about_statement(&self) -> bool {
        !(self.effects.is_empty()
            && self.unbounded.is_none()
            && self.complete.is_none()
            && self.operation.is_empty()
            && self.fingerprint.is_empty()
            && self.relations.is_empty()
            && self.data.is_empty())
    }
}

/// What a rule is not about after all.
#[derive(Clone, Debug, Default)]
pub struct Exception {
    /// Predicates; all of a statement must fall under them.
    pub matching: Match,
    /// When it holds; always where not said.
    pub schedule: Option<Schedule>,
    /// When it ends, in nanoseconds since the epoch; never where not said.
    pub until: Option<u64>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its place among the rules in force.
    pub(crate) number: u32,
    /// `metadata.name`: `policy_rule` of the event.
    pub name: Arc<str>,
    /// First 12 hexadecimal digits of the SHA-256 of its document: `policy_version` of the event.
    pub version: Arc<str>,
    /// Whether it acts.
    pub mode: Mode,
    /// What it is about.
    pub matching: Match,
    /// How often that must have happened; once where not said.
    pub rate: Option<Rate>,
    /// What about it must be new; nothing where not said.
    pub unusual: Option<Unusual>,
    /// When it holds; always where not said.
    pub schedule: Option<Schedule>,
    /// What it is not about after all.
    pub except: Vec<Exception>,
    /// What it does.
    pub action: Action,
    /// What it does where the statement was not understood in full and may or may not match. Where not said: mask, of a
    /// rule that masks, else alert. Of a rule that masks also: what becomes of a statement whose answer cannot be
    /// masked. With `alert` or `allow` it passes, else it is blocked.
    pub on_unknown: Action,
    /// On which terms a statement that it holds may go on: of rules that ask for approval, and only of them.
    pub approval: Option<Approval>,
    /// What the client, or the one who reads the alert, is told.
    pub message: Arc<str>,
}

impl Policy {
    /// True where it may keep a statement from being executed.
    fn may_hold(&self) -> bool {
        let holds = |action| matches!(action, Action::RequireApproval | Action::Block | Action::Mask);
        self.mode == Mode::Enforce && (holds(self.action) || holds(self.on_unknown))
    }

    /// True where it only watches and would do something about a statement, did it act: what a canary is about. Of what
    /// happened before the shim knows nothing.
    fn would_act(&self) -> bool {
        self.mode == Mode::Monitor && !self.remembers() && self.action.max(self.on_unknown) >= Action::Mask
    }

    /// True where it may take values out of answers.
    pub(crate) fn may_mask(&self) -> bool {
        self.mode == Mode::Enforce && (self.action == Action::Mask || self.on_unknown == Action::Mask)
    }

    /// True where it asks who somebody is, beyond what the session itself says.
    fn asks_who(&self) -> bool {
        let asks = |wanted: &Match| !wanted.principal.is_empty() || wanted.ai_agent.is_some();
        asks(&self.matching) || self.except.iter().any(|except| asks(&except.matching))
    }

    /// True where the same statement of the same session is judged alike at any time.
    fn is_steady(&self) -> bool {
        let timed = |except: &Exception| except.until.is_some() || except.schedule.is_some();
        self.schedule.is_none() && !self.remembers() && !self.except.iter().any(timed)
    }

    fn may_kill(&self) -> bool {
        self.mode == Mode::Enforce && (self.action == Action::Kill || self.on_unknown == Action::Kill)
    }

    /// True where it depends on what happened before.
    pub fn remembers(&self) -> bool {
        self.rate.is_some() || self.unusual.is_some()
    }

    /// True where it says something about the statement itself, which may not have been understood.
    pub fn is_about_statement(&self) -> bool {
        self.matching.is_about_statement() || self.unusual.is_some()
    }

    /// True where it has something to say in doubt.
    pub(crate) fn doubts(&self) -> bool {
        self.on_unknown != Action::Allow && self.is_about_statement()
    }

    /// True where a predicate, its own or an exception's, is about sensitive data.
    pub(crate) fn is_about_data(&self) -> bool {
        !self.matching.data.is_empty() || self.except.iter().any(|except| !except.matching.data.is_empty())
    }

    fn counts_rows(&self) -> bool {
        self.rate.as_ref().is_some_and(|rate| rate.of == Amount::Rows)
    }
}

/// One file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name, for errors.
    pub file: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// Something wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// By what they do to a statement that matches.
    pub(crate) certain: Ranking,
    /// By what they do to a statement that may match.
    pub(crate) unknown: Ranking,
    /// Those of `certain`, and of `unknown`, that depend on what happened before.
    pub(crate) remembering: [Ranking; 2],
    /// Rules of a canary: what they would do to a statement that matches, and to one that may match.
    pub(crate) watching: [Ranking; 2],
    all: Vec<Arc<Policy>>,
    needs: Needs,
    sources: Vec<(String, String)>,
}

/// What judging by the rules takes.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    data: bool,
    kill: bool,
    rows: bool,
    memory: bool,
    habits: [bool; 2],
    /// Holding: by rules that act, and by those of a canary.
    hold: [bool; 2],
    who: bool,
    steady: bool,
}

impl Policies {
    /// Reads files; all problems of all files at once.
    pub fn load(sources: &[Source<'_>]) -> Result<Policies, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut read = Vec::new();
        for source in sources {
            read::file(*source, &mut read, &mut problems);
        }
        let mut named: std::collections::BTreeMap<Arc<str>, String> = std::collections::BTreeMap::new();
        for (policy, place) in &read {
            if let Some(first) = named.insert(Arc::clone(&policy.name), place.to_string()) {
                problems.push(place.problem(format!(
                    "a policy named '{}' is already in {first}: names must differ",
                    policy.name
                )));
            }
        }
        if problems.is_empty() {
            let mut policies = Self::new(read.into_iter().map(|(policy, _)| policy).collect());
            policies.sources = sources.iter().map(|s| (s.file.to_owned(), s.text.to_owned())).collect();
            Ok(policies)
        } else {
            problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            Err(problems)
        }
    }

    /// Puts rules in force.
    pub fn new(policies: Vec<Policy>) -> Policies {
        let numbered = (0..).zip(policies).map(|(number, policy)| Arc::new(Policy { number, ..policy }));
        Self::of(numbered.collect(), false)
    }

    /// The same rules; `canary`: statements are also held for those that only watch, and go on whatever they say.
    #[must_use]
    pub fn with_canary(self, canary: bool) -> Policies {
        Policies { sources: self.sources, ..Self::of(self.all, canary) }
    }

    fn of(all: Vec<Arc<Policy>>, canary: bool) -> Policies {
        let watches = |policy: &Policy| canary && policy.would_act();
        let acts = |action: &Action| *action >= Action::Mask;
        let certain = |policy: &Policy| Some(policy.action);
        let unknown = |policy: &Policy| policy.doubts().then_some(policy.on_unknown);
        let any = |wanted: fn(&Policy) -> bool| all.iter().any(|policy| wanted(policy));
        let needs = Needs {
            data: any(Policy::is_about_data),
            kill: any(Policy::may_kill),
            rows: any(Policy::counts_rows),
            memory: any(Policy::remembers),
            hold: [any(Policy::may_hold), all.iter().any(|policy| watches(policy))],
            who: all
                .iter()
                .any(|policy| (policy.mode == Mode::Enforce || watches(policy)) && policy.asks_who()),
            steady: all
                .iter()
                .all(|policy| policy.mode == Mode::Monitor && !watches(policy) || policy.is_steady()),
            habits: [
                any(|policy| policy.unusual.as_ref().is_some_and(|unusual| unusual.per != Per::User)),
                any(|policy| policy.unusual.as_ref().is_some_and(|unusual| unusual.per == Per::User)),
            ],
        };
        Policies {
            certain: Ranking::new(&all, certain, true),
            unknown: Ranking::new(&all, unknown, false),
            remembering: [
                Ranking::new(&all, |policy| certain(policy).filter(|_| policy.remembers()), true),
                Ranking::new(&all, |policy| unknown(policy).filter(|_| policy.remembers()), false),
            ],
            watching: [
                Ranking::new(&all, |policy| certain(policy).filter(acts).filter(|_| watches(policy)), true),
                Ranking::new(&all, |policy| unknown(policy).filter(acts).filter(|_| watches(policy)), false),
            ],
            all,
            needs,
            sources: Vec::new(),
        }
    }

    /// The files that they were read from: names and texts.
    pub fn sources(&self) -> &[(String, String)] {
        &self.sources
    }

    /// All rules, in the order of their files.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.all.iter().map(|policy| &**policy)
    }

    /// The rule of that name, which is how verdicts and events call it.
    pub fn named(&self, name: &str) -> Option<&Policy> {
        self.iter().find(|policy| &*policy.name == name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The rules with an exception that is over at that time, in nanoseconds since the epoch, and when it ended.
    pub fn expired(&self, time: u64) -> impl Iterator<Item = (&str, u64)> {
        self.iter().flat_map(move |policy| {
            let ended = policy.except.iter().filter_map(|except| except.until);
            ended.filter(move |until| *until <= time).map(|until| (&*policy.name, until))
        })
    }

    /// True where a rule is about sensitive data: then its classes must be known before a statement is judged.
    pub fn needs_data(&self) -> bool {
        self.needs.data
    }

    /// True where a rule in force may kill.
    pub fn needs_kill(&self) -> bool {
        self.needs.kill
    }

    /// True where a rule in force may kill a session of this database, or of this system where the database is not
    /// known (empty): then its statements must be seen at once, not in batches, and before all others.
    pub fn may_stop(&self, system: &str, namespace: &str) -> bool {
        let fits = |globs: &[Glob], name: &str| {
            globs.is_empty() || name.is_empty() || globs.iter().any(|glob| glob.matches(name))
        };
        self.iter().filter(|policy| policy.may_kill()).any(|policy| {
            fits(&policy.matching.system, system) && fits(&policy.matching.namespace, namespace)
        })
    }

    /// True where a rule in force may keep statements from being executed, or a canary looks what that would do: then
    /// they have to be held.
    pub fn needs_gate(&self) -> bool {
        self.needs.hold != [false; 2]
    }

    /// True where a rule in force may keep statements from being executed.
    pub fn may_refuse(&self) -> bool {
        self.needs.hold[0]
    }

    /// True where statements are held for rules that only watch.
    pub fn is_canary(&self) -> bool {
        self.needs.hold[1]
    }

    /// True where statements of a session of this system have to be held.
    pub fn may_hold(&self, system: &str) -> bool {
        self.any_about(system, Policy::may_hold)
            || self.is_canary() && self.any_about(system, Policy::would_act)
    }

    /// True where a rule in force may take values out of the answers to a session of this system.
    pub fn may_mask(&self, system: &str) -> bool {
        self.any_about(system, Policy::may_mask)
    }

    fn any_about(&self, system: &str, wanted: fn(&Policy) -> bool) -> bool {
        self.iter().filter(|policy| wanted(policy)).any(|policy| {
            let systems = &policy.matching.system;
            systems.is_empty() || systems.iter().any(|glob| glob.matches(system))
        })
    }

    /// True where a rule in force asks who somebody is, beyond what the session itself says.
    pub fn needs_identity(&self) -> bool {
        self.needs.who
    }

    /// True where every rule in force judges the same statement of the same session alike at any time.
    pub fn is_steady(&self) -> bool {
        self.needs.steady
    }

    /// True where a rule counts rows: then a statement is judged again when its answer is in.
    pub fn needs_rows(&self) -> bool {
        self.needs.rows
    }

    /// Whose habits a rule asks for: principals', users'.
    pub(crate) fn needs_habits(&self) -> [bool; 2] {
        self.needs.habits
    }

    /// True where a rule depends on what happened before.
    pub fn needs_memory(&self) -> bool {
        self.needs.memory
    }
}

#[cfg(test)]
mod tests;
