//! Request + answer -> one statement with its outcome: rows, status, times.

use std::sync::Arc;

use crate::event::DataClass;
use crate::segment::{Nanos, Side};
use crate::sensitive::{Catalog, Found, Sample, values};
use crate::sql::Text;

/// What the wire said about a session. Shared by its statements until something changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// `db_system_name`.
    pub system: &'static str,
    /// Database user that the session logged in as.
    pub user: String,
    /// User in force after `SET ROLE` or `SET SESSION AUTHORIZATION`; empty where none.
    pub role: String,
    /// Database.
    pub namespace: String,
    /// `application_name` as last set.
    pub application_name: String,
    /// `search_path` as last seen; empty where never shown.
    pub search_path: String,
    /// `server_version` as the server reported.
    pub server_version: String,
    /// True for a replication connection.
    pub replication: bool,
    /// True where the start of the session was not seen: user and database may be unknown.
    pub adopted: bool,
    /// The server's name for the session (PostgreSQL: the backend's process id); 0 where unknown.
    pub backend: u32,
    /// How to stop what the session is executing, where its beginning was seen.
    pub cancel: Option<Cancel>,
    /// Status with which the server refused or ended the session (a SQLSTATE); empty where it did not.
    pub status: String,
}

/// What makes a server stop what a session is executing: one message, sent to the server's address on a connection of
/// its own. It holds the session's secret: `Debug` prints a length.
#[derive(Clone, PartialEq, Eq)]
pub struct Cancel(Box<[u8]>);

impl Cancel {
    /// A message as the protocol wants it.
    pub fn new(message: impl Into<Box<[u8]>>) -> Self {
        Self(message.into())
    }

    /// The message.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cancel[{}]", self.0.len())
    }
}

/// What a statement is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A text sent to be executed at once.
    #[default]
    Simple,
    /// An execution of a prepared statement.
    Execute,
    /// A further fetch from a portal whose execution stopped at its row limit.
    Fetch,
    /// A text sent to be prepared, not executed: handed out only where the server refused it.
    Prepare,
    /// A function call message without a text.
    FunctionCall,
    /// A replication command.
    Replication,
    /// A request to cancel another session's statement.
    Cancel,
}

/// A bound parameter. Its value is a secret: `Debug` prints a length.
#[derive(Clone, PartialEq, Eq)]
pub enum Parameter {
    /// SQL NULL.
    Null,
    /// The value as text.
    Text(Box<str>),
    /// A binary value of a type that was not decoded.
    Binary(Box<[u8]>),
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Parameter::Null => f.write_str("null"),
            Parameter::Text(t) => write!(f, "text[{}]", t.len()),
            Parameter::Binary(b) => write!(f, "binary[{}]", b.len()),
        }
    }
}

/// What the sink wants to find again when the statement's answer is in. Opaque to protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// One of several statements of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Counts messages of this connection; unique within it.
    pub id: u64,
    /// Position of the statement in its message, from 0.
    pub index: u32,
}

/// One statement of one session, with its outcome once the answer is in.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// The session's state when the statement was sent.
    pub session: Arc<Session>,
    /// The text; `None` where it was never seen (prepared before the agent came, lost bytes).
    pub text: Option<Arc<Text>>,
    /// The text behind a name that `text` executes (`EXECUTE name`), where it is known.
    pub prepared: Option<Arc<Text>>,
    /// Object id of the function that a function call message calls.
    pub function: Option<u32>,
    /// What it is on the wire.
    pub kind: Kind,
    /// Bound values in order.
    pub parameters: Vec<Parameter>,
    /// Several statements in one message.
    pub batch: Option<Batch>,
    /// What the answer's columns and first rows are.
    pub sample: Option<Box<Sample>>,
    /// Set by the sink at the request.
    pub ticket: Ticket,
    /// Request's first byte.
    pub started: Nanos,
    /// Answer's first byte.
    pub first_byte: Option<Nanos>,
    /// Answer's last byte.
    pub ended: Option<Nanos>,
    /// Rows sent to the client (also rows of a COPY out).
    pub returned_rows: Option<u64>,
    /// Rows changed (also rows of a COPY in).
    pub affected_rows: Option<u64>,
    /// SQLSTATE or the like; empty on success.
    pub status: String,
    /// Why it has no proper outcome, in words (`not_executed`, `connection_closed`, `answer_lost`); empty otherwise.
    pub error: &'static str,
    /// False where part of the request or of its answer was not understood or not seen.
    pub complete: bool,
    /// Part of the request's bytes is missing.
    pub truncated: bool,
    /// Bytes lost on this connection since the statement before.
    pub lost_before: u64,
    /// True size of the request in bytes.
    pub bytes: u64,
}

impl Statement {
    /// The classes of sensitive data that it touches, as far as is known now: by its text, its parameters and its answer.
    pub fn data_classes(&self, catalog: &Catalog) -> Arc<[DataClass]> {
        let meant = self.prepared.as_ref().or(self.text.as_ref());
        let told = meant.map(|text| Arc::clone(text.data_classes(catalog))).unwrap_or_default();
        let mut found = None::<Found>;
        let from = || Found::from(&*told);
        // The arguments of EXECUTE stand in its own text.
        if let (Some(_), Some(own)) = (&self.prepared, &self.text)
            && !own.data_classes(catalog).is_empty()
        {
            found.get_or_insert_with(from).extend(own.data_classes(catalog));
        }
        for (number, parameter) in (1..).zip(&self.parameters) {
            let Parameter::Text(value) = parameter else { continue };
            values::classes(value, &mut |class| {
                let column = self.text.as_ref().and_then(|text| text.column_of_parameter(number));
                found.get_or_insert_with(from).add(class, &column.unwrap_or_else(|| format!("${number}")));
            });
        }
        if let Some(sample) = &self.sample {
            let relations = meant.map(|text| &*text.analysis().statement_relations).unwrap_or_default();
            sample.classes(catalog, relations, found.get_or_insert_with(from));
        }
        match found {
            Some(found) if found.as_slice() != &*told => found.into(),
            _ => told,
        }
    }
}

/// Bytes that never reached the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Whose bytes.
    pub from: Side,
    /// How many; 0 where it cannot be known.
    pub bytes: u64,
    /// Where they went.
    pub reason: LossReason,
    /// When it was noticed.
    pub time: Nanos,
}

/// Where bytes were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// A hole in the TCP sequence that nothing filled.
    Gap,
    /// More out-of-order bytes than the bounded buffer holds.
    Buffer,
    /// A message longer than the parser keeps.
    Oversize,
    /// Bytes that are no message of the protocol.
    Garbled,
}

/// Why a connection cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blindness {
    /// TLS, and no probe supplies the plaintext.
    Tls,
    /// GSS encryption.
    Gss,
}
