//! Both directions of one gated connection -> the server's bytes with sensitive values masked. The seam that databases
//! fill: a row of the protocol table names its masker, and nothing here knows a protocol.
//!
//! The caller sees every message before it forwards it. It asks [`Mask::check`] whether the answer to a message can be
//! masked, and hands what it forwards to [`Mask::request`], with the plan that the judge's verdict gave. What the
//! server sends goes through [`Mask::answer`]. Nothing is ever masked by half: a value of a sensitive column, or of a
//! column that cannot be shown to be none, leaves masked, or the session ends with [`Unmaskable`].

use std::sync::Arc;

use crate::policy::{Glob, Policy};
use crate::sensitive::{Catalog, class_of_relation, values};

/// The class of a column that may hold anything: an expression whose function is not known, a whole row.
pub const UNPROVEN: &str = "unproven";

/// What is to be masked in the answers to a statement.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The classes that the rules name; empty: every class.
    pub classes: Box<[Glob]>,
    /// Declared columns.
    pub catalog: Arc<Catalog>,
    /// Values of other columns are masked too where they look like one of the classes.
    pub by_value: bool,
}

impl Plan {
    /// A plan for these classes, none named: for all of them. Values are looked at too.
    pub fn new(classes: impl IntoIterator<Item = Glob>, catalog: Arc<Catalog>) -> Self {
        Self { classes: classes.into_iter().collect(), catalog, by_value: true }
    }

    /// What several rules want together; none where there is no rule.
    pub fn of<'p>(policies: impl IntoIterator<Item = &'p Policy>, catalog: &Arc<Catalog>) -> Option<Self> {
        let (mut classes, mut every, mut any) = (Vec::new(), false, false);
        for policy in policies {
            any = true;
            every |= policy.matching.data.is_empty();
            classes.extend(policy.matching.data.iter().cloned());
        }
        if every {
            classes.clear();
        }
        any.then(|| Self::new(classes, Arc::clone(catalog)))
    }

    /// True where values of this class are masked.
    pub fn takes(&self, class: &str) -> bool {
        self.classes.is_empty() || self.classes.iter().any(|c| c.matches(class))
    }

    /// The class to mask that a column's name tells. `relations`: those that it may belong to; `name` in lower case.
    pub(crate) fn class_of_name(&self, relations: &[Arc<str>], name: &str) -> Option<Arc<str>> {
        let relations = relations.iter().map(|relation| &**relation);
        self.catalog.column(&relations, name).filter(|class| self.takes(class))
    }

    /// The class to mask of a column that has none by its name: that of a relation whose name tells it and whose columns
    /// nobody declared, such as `credit_cards`.
    pub(crate) fn class_of_relation(&self, relations: &[Arc<str>], name: &str) -> Option<Arc<str>> {
        let told = |relation: &Arc<str>| {
            let class = class_of_relation(relation).filter(|class| self.takes(class))?;
            let only = std::iter::once(&**relation);
            let declared =
                self.catalog.declared(relation).next().is_some() || self.catalog.excepts(&only, name);
            (!declared).then(|| class.into())
        };
        relations.iter().find_map(told)
    }

    /// The class to mask that a value tells.
    pub(crate) fn class_of_value(&self, value: &str) -> Option<&'static str> {
        let mut found = None;
        values::classes(value, &mut |class| {
            if found.is_none() && self.takes(class) {
                found = Some(class);
            }
        });
        found
    }
}

/// Why an answer cannot be masked. Its name stands in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmaskable {
    /// The statement was prepared, or the cursor opened, before the session was gated.
    #[error("the statement behind the name is not known")]
    UnknownStatement,
    /// The statement is of no kind whose result columns can be told apart.
    #[error("what the statement returns is not understood")]
    NotUnderstood,
    /// The columns of the answer are not known before their values come.
    #[error("the columns of the answer are not known: name them")]
    UnknownColumns,
    /// Sensitive values are kept under names that do not tell: `CREATE TABLE x AS SELECT card AS y`.
    #[error("sensitive values would be kept under another name")]
    Renamed,
    /// The values go to a file, a program or another server.
    #[error("the values do not come through this connection")]
    Elsewhere,
    /// The result of a function call message has no column and no type.
    #[error("the result of a function call message has no name")]
    FunctionCall,
    /// Replication streams are not taken apart.
    #[error("a replication stream cannot be masked")]
    Replication,
    /// A row, or another message that has to be read whole, is longer than the bound.
    #[error("a row is longer than what is kept of one")]
    TooLong,
    /// The server's messages are not those that the requests ask for.
    #[error("the answer is not the one that was asked for")]
    OutOfStep,
    /// A message is not formed as the protocol wants it.
    #[error("a message is malformed")]
    Malformed,
}

impl Unmaskable {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownStatement => "unknown_statement",
            Self::NotUnderstood => "not_understood",
            Self::UnknownColumns => "unknown_columns",
            Self::Renamed => "renamed",
            Self::Elsewhere => "elsewhere",
            Self::FunctionCall => "function_call",
            Self::Replication => "replication",
            Self::TooLong => "too_long",
            Self::OutOfStep => "out_of_step",
            Self::Malformed => "malformed",
        }
    }
}

/// What to send to the client for the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// The bytes as they came: nothing was written to `out`.
    AsIs,
    /// What was appended to `out`, which may be nothing while a message is not whole.
    Rewritten,
}

/// Rows in which values of a class were masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    /// The class, or [`UNPROVEN`].
    pub class: Arc<str>,
    /// Rows with at least one masked value of it.
    pub rows: u64,
}

/// Masks the answers of one session. Attached at a message boundary with no answer outstanding; sees everything from
/// then on. Holds no more than one row, one description and the texts of statements that wait or are prepared.
pub trait Mask: Send {
    /// Can the answer to this message be masked? `message` is whole and not yet given to [`Mask::request`].
    fn check(&self, message: &[u8], plan: &Plan) -> Result<(), Unmaskable>;

    /// Takes what is forwarded to the server, torn anywhere. `plan` goes with each message that begins in these bytes.
    fn request(&mut self, bytes: &[u8], plan: Option<&Arc<Plan>>) -> Result<(), Unmaskable>;

    /// Takes what the server sent, torn anywhere, and appends to `out` what the client is to get. After an error nothing
    /// more may reach the client: the session is to be ended.
    fn answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Flow, Unmaskable>;

    /// What was masked since the last call, by class.
    fn masked(&mut self) -> Vec<Masked>;

    /// True where nothing waits for an answer, and no message is here in part: it may end.
    fn is_idle(&self) -> bool;
}

/// A masker for a session of this database; none where it has none.
pub fn open(protocol: &str) -> Option<Box<dyn Mask>> {
    let entry = crate::protocol::PROTOCOLS.iter().find(|entry| entry.name == protocol)?;
    entry.mask.map(|open| open())
}
