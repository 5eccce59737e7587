//! A gated session's answers -> the same with values of sensitive columns masked.
//!
//! Requests are queued as they are forwarded, and what they do to names (statements, portals, cursors) happens when the
//! server says that it did it: so names mean here what they mean in the server, whatever fails. A DataRow is held until
//! it is whole where its result has a plan; everything else passes as it comes.

mod answer; // what the server sends
mod check; // can the answer to this message be masked
mod columns; // statement, plan, description -> which columns; row -> masked row
mod copy; // COPY TO STDOUT
mod errors; // errors and notices without values
mod follow; // what the server did -> names, what is answered next
mod request; // what the client sends
mod rows; // descriptions and rows -> masked rows
mod statement; // text -> what it does to names
mod tally; // masked rows by class
#[cfg(test)]
mod tests;
mod types; // type id -> how it is masked
mod value; // value -> one that says nothing

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use self::answer::Incoming;
use self::columns::{Described, Meaning};
use self::request::Outgoing;
use self::statement::Step;
use self::tally::Tally;
use crate::mask::{Flow, Mask, Masked, Plan, Unmaskable};
use crate::sql::lineage::Returned;

/// Longest message that is held or read whole.
pub(super) const LONGEST: usize = 16 << 20;
/// Longest statement whose text is kept.
const LONGEST_TEXT: usize = 1 << 20;
/// Most requests that wait for their answers.
const MOST_WAITING: usize = 1 << 20;
/// Most bytes of texts that are kept, of statements that wait or have a name.
const MOST_TEXT: usize = 64 << 20;
/// Most names that are kept.
const MOST_NAMES: usize = 1 << 16;
/// Deepest chain of names behind names.
const DEEPEST: usize = 4;

/// A statement: by its name, or as a cursor's query. `Debug` is not derived: texts are secrets.
#[derive(Default)]
struct Prepared {
    /// `None` where it was not kept, or sent before the session was gated.
    text: Option<Box<[u8]>>,
    /// It was not kept: it may change any name.
    unseen: bool,
    plan: Option<Arc<Plan>>,
    described: OnceLock<Vec<Described>>,
    /// What it returns, once asked.
    meaning: OnceLock<Meaning>,
}

/// A portal, or a cursor.
#[derive(Default)]
struct Portal {
    prepared: Option<Arc<Prepared>>,
    /// Formats of its result; `None` where they are not known.
    formats: Option<Box<[u16]>>,
    plan: Option<Arc<Plan>>,
    described: OnceLock<Vec<Described>>,
}

/// A simple query.
#[derive(Default)]
struct Query {
    /// Its statements; empty where neither a plan nor a name is about it.
    parts: Vec<Box<[u8]>>,
    /// The one that is being answered.
    at: usize,
    /// The text was not kept: it may have changed any name.
    unseen: bool,
    plan: Option<Arc<Plan>>,
}

/// A request that waits for its answer.
enum Ask {
    Query(Query),
    Parse {
        name: Box<[u8]>,
        prepared: Arc<Prepared>,
    },
    Bind {
        name: Box<[u8]>,
        statement: Box<[u8]>,
        formats: Option<Box<[u16]>>,
        plan: Option<Arc<Plan>>,
    },
    DescribeStatement(Box<[u8]>),
    DescribePortal(Box<[u8]>),
    Execute {
        portal: Box<[u8]>,
        plan: Option<Arc<Plan>>,
    },
    CloseStatement(Box<[u8]>),
    ClosePortal(Box<[u8]>),
    Sync,
    Function {
        plan: Option<Arc<Plan>>,
    },
    /// CopyDone or CopyFail: until then a Sync counts for nothing.
    CopyEnd,
}

/// What becomes of the rows of the result that is being sent.
#[derive(Default)]
enum Outcome {
    /// Its first row will tell.
    #[default]
    Unset,
    Clear,
    Masked(Box<columns::Rows>),
    Copy(Box<copy::Data>),
}

/// Masks the answers of one PostgreSQL session.
#[derive(Default)]
pub(super) struct Masker {
    outgoing: Outgoing,
    incoming: Incoming,
    waiting: VecDeque<Ask>,
    statements: HashMap<Box<[u8]>, Arc<Prepared>>,
    portals: HashMap<Box<[u8]>, Arc<Portal>>,
    /// Bytes of texts that wait or have a name, at most; counted up, and anew when names go.
    texts: usize,
    outcome: Outcome,
    /// Some plan was given: from here on messages are held where they must be.
    armed: bool,
    /// An extended request failed and its Sync was not sent yet: the server passes over what comes.
    skipping: bool,
    /// The server takes COPY data.
    copying_in: bool,
    /// The server cuts texts otherwise than we do (`standard_conforming_strings` off).
    strange: bool,
    /// COPY cannot be cut into fields byte by byte (`client_encoding`).
    ambiguous: bool,
    /// The answers are not those that were asked for.
    lost: bool,
    /// The plan and text of the last statement that had a plan, until the server is ready again.
    recent: Option<Recent>,
    tally: Tally,
}

/// A statement that had a plan, whose errors may still come.
struct Recent {
    plan: Arc<Plan>,
    text: Option<Box<[u8]>>,
}

/// A statement as it is executed, behind names.
struct Executed<'m> {
    text: Option<&'m [u8]>,
    plan: Option<&'m Arc<Plan>>,
}

impl Masker {
    /// The statement behind a text: of EXECUTE and FETCH that of the name.
    fn behind<'m>(&'m self, text: Option<&'m [u8]>, plan: Option<&'m Arc<Plan>>) -> Executed<'m> {
        let mut executed = Executed { text, plan };
        for _ in 0..DEEPEST {
            let Some(text) = executed.text else { break };
            let prepared = match statement::step(text) {
                Step::Execute { name } => self.statements.get(&name).map(|prepared| &**prepared),
                Step::Fetch { name } => self.portals.get(&name).and_then(|portal| portal.prepared.as_deref()),
                _ => return executed,
            };
            let Some(prepared) = prepared else {
                executed.text = None;
                break;
            };
            executed.text = prepared.text.as_deref();
            executed.plan = executed.plan.or(prepared.plan.as_ref());
        }
        executed
    }

    fn meaning(&self, text: Option<&[u8]>) -> Meaning {
        if self.strange { Meaning::Known(Returned::Unknown) } else { Meaning::of(text) }
    }
}

impl Mask for Masker {
    fn check(&self, message: &[u8], plan: &Plan) -> Result<(), Unmaskable> {
        self.checked(message, plan)
    }

    fn request(&mut self, bytes: &[u8], plan: Option<&Arc<Plan>>) -> Result<(), Unmaskable> {
        self.sent(bytes, plan)
    }

    fn answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Flow, Unmaskable> {
        self.received(bytes, out)
    }

    fn masked(&mut self) -> Vec<Masked> {
        self.tally.take()
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.outgoing.is_between() && self.incoming.is_between()
    }
}
