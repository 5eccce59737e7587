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

mod glob; // pattern + name -> does it match
mod index; // rules -> the few that can match
mod read; // YAML -> rules

pub use glob::Glob;
pub(crate) use index::Ranking;
pub use read::{documents, nearest};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// True where this build can do it to a statement on the wire.
    pub fn is_enforceable(self) -> bool {
        matches!(self, Action::Allow | Action::Alert | Action::Kill)
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

/// One rule.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `metadata.name`: `policy_rule` of the event.
    pub name: Arc<str>,
    /// First 12 hexadecimal digits of the SHA-256 of its document: `policy_version` of the event.
    pub version: Arc<str>,
    /// Whether it acts.
    pub mode: Mode,
    /// What it is about.
    pub matching: Match,
    /// What it is not about after all.
    pub except: Vec<Match>,
    /// What it does.
    pub action: Action,
    /// What it does where the statement was not understood in full and may or may not match. Alert where not said.
    pub on_unknown: Action,
    /// What the client, or the one who reads the alert, is told.
    pub message: Arc<str>,
}

impl Policy {
    fn may_kill(&self) -> bool {
        self.mode == Mode::Enforce && (self.action == Action::Kill || self.on_unknown == Action::Kill)
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
    all: Vec<Arc<Policy>>,
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
            Ok(Self::new(read.into_iter().map(|(policy, _)| policy).collect()))
        } else {
            problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            Err(problems)
        }
    }

    /// Puts rules in force.
    pub fn new(policies: Vec<Policy>) -> Policies {
        let all: Vec<Arc<Policy>> = policies.into_iter().map(Arc::new).collect();
        Policies {
            certain: Ranking::new(&all, |policy| Some(policy.action), true),
            unknown: Ranking::new(
                &all,
                |policy| {
                    (policy.on_unknown != Action::Allow && policy.matching.is_about_statement())
                        .then_some(policy.on_unknown)
                },
                false,
            ),
            all,
        }
    }

    /// All rules, in the order of their files.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.all.iter().map(|policy| &**policy)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// True where a rule is about sensitive data: then its classes must be known before a statement is judged.
    pub fn needs_data(&self) -> bool {
        self.iter()
            .any(|policy| std::iter::once(&policy.matching).chain(&policy.except).any(|m| !m.data.is_empty()))
    }

    /// True where a rule in force may kill.
    pub fn needs_kill(&self) -> bool {
        self.iter().any(Policy::may_kill)
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
}

#[cfg(test)]
mod tests;
