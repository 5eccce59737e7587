//! A held statement and what somebody says about it -> whether it goes on. Pure: time comes in with each call.
//!
//! An approval is about the exact bytes that are held, never about a text that looks alike: requests carry their
//! SHA-256, and a decision that was made about other bytes is refused.

use std::fmt;
use std::sync::Arc;

use crate::event::{Event, clock, hex, uuid};
use crate::policy::Approval;

mod ledger; // requests and decisions -> answers

pub use ledger::{Asked, Counts, Ledger, Limits};

/// SHA-256 of the bytes that are held.
pub type Digest = [u8; 32];

/// Longest text that is kept to be shown, in bytes. The digest is about all of it.
pub const SHOWN: usize = 16 << 10;

/// A statement that waits for somebody to decide. Names are those of the event.
#[derive(Clone)]
pub struct Request {
    /// `event_id` of the statement, and `approval_id` of its receipt.
    pub id: u128,
    /// Its session.
    pub session_id: u64,
    /// When it was held, in nanoseconds since the epoch.
    pub asked: u64,
    /// The rule that holds it.
    pub policy_rule: Arc<str>,
    /// The rule's version: an approval under another one is void.
    pub policy_version: Arc<str>,
    /// What the rule says to people.
    pub message: Arc<str>,
    /// Who it is in the end.
    pub identity_principal: Arc<str>,
    /// Owner of the client process, where it is on this host: nobody approves what is his own.
    pub process_owner: Arc<str>,
    /// The AI agent runtime, where there is evidence of one.
    pub ai_agent_name: Arc<str>,
    /// The kind of database.
    pub db_system_name: Arc<str>,
    /// The database.
    pub db_namespace: Arc<str>,
    /// The database user.
    pub db_user: Arc<str>,
    /// Where the client is: address and port, or nothing.
    pub client: Arc<str>,
    /// The statement as the redaction setting allows, cut after [`SHOWN`] bytes.
    pub db_query_text: Arc<str>,
    /// SHA-256 of the exact bytes that are held.
    pub digest: Digest,
    /// On which terms it may go on.
    pub terms: Approval,
}

impl Request {
    /// A request about the statement of an event, whose text is redacted already.
    pub fn new(event: &Event, message: &Arc<str>, digest: Digest, terms: Approval) -> Self {
        let client = match (&*event.client_address, event.client_port) {
            (address, 0) => Arc::from(address),
            (address, port) if address.contains(':') => format!("[{address}]:{port}").into(),
            (address, port) => format!("{address}:{port}").into(),
        };
        let text = &event.db_query_text;
        let shown = if text.len() <= SHOWN {
            Arc::clone(text)
        } else {
            format!("{}… ({} bytes)", &text[..text.floor_char_boundary(SHOWN)], text.len()).into()
        };
        Self {
            id: event.event_id,
            session_id: event.session_id,
            asked: event.time,
            policy_rule: Arc::clone(&event.policy_rule),
            policy_version: Arc::clone(&event.policy_version),
            message: Arc::clone(message),
            identity_principal: Arc::clone(&event.identity_principal),
            process_owner: Arc::clone(&event.process_owner),
            ai_agent_name: Arc::clone(&event.ai_agent_name),
            db_system_name: Arc::clone(&event.db_system_name),
            db_namespace: Arc::clone(&event.db_namespace),
            db_user: Arc::clone(&event.db_user),
            client,
            db_query_text: shown,
            digest,
            terms,
        }
    }

    /// When nobody can decide any more, in nanoseconds since the epoch.
    pub fn expires(&self) -> u64 {
        after(self.asked, &self.terms)
    }
}

/// So long after that time as the terms say.
fn after(time: u64, terms: &Approval) -> u64 {
    time.saturating_add(u64::try_from(terms.ttl.as_nanos()).unwrap_or(u64::MAX))
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &id_text(self.id))
            .field("policy_rule", &self.policy_rule)
            .field("db_query_text", &format_args!("{} bytes", self.db_query_text.len()))
            .finish_non_exhaustive()
    }
}

/// An id as people write it.
pub fn id_text(id: u128) -> String {
    String::from_utf8_lossy(&uuid(id)).into_owned()
}

/// A digest as people write it.
pub fn digest_text(digest: &Digest) -> String {
    // Zeros are a digest too, which `hex` takes for none and writes as zeros.
    String::from_utf8_lossy(&hex(digest)).into_owned()
}

/// Reads what [`digest_text`] writes, in either case.
pub fn parse_digest(text: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It waits.
    Pending,
    /// Somebody let it go on.
    Approved,
    /// Somebody refused it.
    Denied,
    /// Nobody decided in time, or there was no room for it to wait.
    Expired,
    /// The client did not wait.
    Cancelled,
    /// It went on, and its approval holds for nothing else.
    Used,
}

impl State {
    /// `approval_state` of the event.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Approved => "approved",
            State::Denied => "denied",
            State::Expired => "expired",
            State::Cancelled => "cancelled",
            State::Used => "used",
        }
    }
}

/// What the gate is told about a statement that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request.
    pub id: u128,
    /// Its session.
    pub session_id: u64,
    /// The request that somebody decided about: another one where an approval that is not for single use still holds.
    pub decided: u128,
    /// Approved, denied or expired.
    pub state: State,
    /// True where the statement is to go on.
    pub goes_on: bool,
    /// `approval_actor` of the receipt; empty where nobody decided.
    pub actor: Arc<str>,
    /// What that one said about it.
    pub reason: Arc<str>,
}

/// What somebody may decide about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// Everything: root.
    All,
    /// What asks for one of these groups.
    MemberOf(Vec<Arc<str>>),
    /// The one request that he holds a signed link to.
    Bearer(u128),
}

/// Somebody who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// As receipts name him: `user:alice (uid 1000)`, `link:slack`.
    pub name: Arc<str>,
    /// His name as a user of this host; empty where he is none.
    pub user: Arc<str>,
    /// What he may decide about.
    pub power: Power,
}

impl Actor {
    /// Whether he may decide about this at all.
    pub fn may_decide(&self, request: &Request) -> bool {
        match &self.power {
            Power::All => true,
            Power::MemberOf(own) => own.iter().any(|group| request.terms.groups.contains(group)),
            Power::Bearer(id) => *id == request.id,
        }
    }

    /// True where the statement is his own. Root answers for himself.
    fn owns(&self, request: &Request) -> bool {
        self.power != Power::All && !self.user.is_empty() && self.user == request.process_owner
    }
}

/// What somebody says about a request.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// The request.
    pub id: u128,
    /// The bytes that he was shown the text of, where he says so.
    pub digest: Option<Digest>,
    /// Who.
    pub actor: &'a Actor,
    /// Whether it goes on.
    pub approve: bool,
    /// Why; may be empty.
    pub reason: &'a str,
}

/// Why a decision does not count. Each says what is so, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none with this id.
    #[error("no request with this id is known; `weir pending` lists those that wait")]
    Unknown,
    /// Several begin like this.
    #[error("{0} requests begin like this; write more of the id")]
    Ambiguous(usize),
    /// The beginning of an id says too little.
    #[error("write at least {0} characters of the id")]
    Short(usize),
    /// Somebody was quicker, or the link was used.
    #[error("already {} by {actor} at {}", .state.name(), moment(*.at))]
    Decided {
        /// What was decided, or that it was used.
        state: State,
        /// By whom.
        actor: Arc<str>,
        /// When, in nanoseconds since the epoch.
        at: u64,
    },
    /// It is too late.
    #[error("expired at {}: nobody had decided by then", moment(*.at))]
    Expired {
        /// When, in nanoseconds since the epoch.
        at: u64,
    },
    /// The statement is gone.
    #[error("withdrawn at {}: the client did not wait", moment(*.at))]
    Cancelled {
        /// When, in nanoseconds since the epoch.
        at: u64,
    },
    /// He is not asked.
    #[error("{}", asked(.groups))]
    NotInGroup {
        /// Who is.
        groups: Arc<[Arc<str>]>,
    },
    /// He cannot approve what he asked for himself.
    #[error("this is a statement of {user}'s own process: somebody else has to approve it")]
    Own {
        /// The user.
        user: Arc<str>,
    },
    /// He was shown something else.
    #[error("the digest is not that of the bytes that are held: look at them again with `weir pending`")]
    BytesDiffer,
}

impl Refusal {
    /// Its name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Unknown => "unknown",
            Refusal::Ambiguous(_) => "ambiguous",
            Refusal::Short(_) => "short",
            Refusal::Decided { .. } => "decided",
            Refusal::Expired { .. } => "expired",
            Refusal::Cancelled { .. } => "cancelled",
            Refusal::NotInGroup { .. } => "not_in_group",
            Refusal::Own { .. } => "own",
            Refusal::BytesDiffer => "bytes_differ",
        }
    }
}

fn asked(groups: &[Arc<str>]) -> String {
    if groups.is_empty() {
        return "the rule names no group: only root may decide".into();
    }
    format!("only root and members of {} may decide", groups.join(", "))
}

/// A time to the second: `2026-11-21T12:00:00Z`.
pub fn moment(nanos: u64) -> String {
    let text = clock(nanos);
    String::from_utf8_lossy(&text[..19]).into_owned() + "Z"
}

#[cfg(test)]
mod tests;
