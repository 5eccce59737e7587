//! What agent and shim tell each other about held statements: one datagram of a Unix `SOCK_SEQPACKET` socket each.

use agent_core::event::Disposition;
use agent_core::policy::{Action, Mode};
use serde::{Deserialize, Serialize};

/// Longest part of a text that is shown to somebody who is asked.
pub const SHOWN_MAX: usize = 2048;

/// What the agent tells the shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Rules, as JSON in the file that comes along: a list of (file, text), then the catalogue's (file, text) or null.
    Policies {
        /// Grows with each.
        generation: u32,
        /// Answers have to go through the shim.
        answers: bool,
        /// Statements are held for rules that only watch, too.
        canary: bool,
        /// Without the agent, what is held does not go on.
        closed: bool,
    },
    /// Who a session is.
    Who(Box<Who>),
    /// Somebody has decided about what is held under this id, or nobody in time.
    Answer {
        /// [`News::Ask`]'s.
        id: u128,
        /// Whether it may go on.
        approved: bool,
        /// Why, in the words that the client is told where it may not.
        reason: String,
    },
    /// A connection is over.
    Gone {
        /// Cookie of the server's socket.
        cookie: u64,
    },
    /// Keep what comes along open, for as long as you are there.
    Keep,
    /// Let everything go that is held, as failing open or closed wants, and hold nothing more.
    Drain,
}

/// Who a session is: names are the event's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Cookie of the server's socket.
    pub cookie: u64,
    /// The session.
    pub session_id: u64,
    /// Who it is in the end.
    pub identity_principal: String,
    /// The AI agent runtime.
    pub ai_agent_name: String,
    /// Database, where the session's beginning told.
    pub db_namespace: String,
    /// User in force.
    pub db_user: String,
    /// Search path in force.
    pub search_path: String,
    /// The client process: pid and start time.
    pub process: Option<(u32, u64)>,
    /// The server's number for the session; 0 where unknown.
    pub backend: u32,
}

/// What the shim tells the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum News {
    /// What became of a statement.
    Decided(Decision),
    /// What would have become of a statement that went on.
    Would(Would),
    /// A statement is held until somebody approves.
    Ask {
        /// Names it.
        id: u128,
        /// Cookie of the server's socket.
        cookie: u64,
        /// Which rule wants that.
        rule: String,
        /// SHA-256 of the exact bytes.
        digest: [u8; 32],
        /// The statement without its literals.
        shown: String,
    },
    /// What was asked for is not wanted any more: the client is gone or has cancelled.
    Withdrawn {
        /// [`News::Ask`]'s.
        id: u128,
    },
    /// A session is not looked at any more, and why.
    Blind {
        /// Cookie of the server's socket.
        cookie: u64,
        /// `tls`, `gss`, `unknown`.
        cause: String,
    },
    /// Values were masked in what a session's server sent.
    Masked {
        /// Cookie of the server's socket.
        cookie: u64,
        /// The rules that wanted that, their names joined by commas.
        rules: String,
        /// Classes, and in how many rows.
        classes: Vec<(String, u64)>,
    },
    /// What a session's server sent could not be masked: nothing more of it reaches the client, the session is over.
    Unmasked {
        /// Cookie of the server's socket.
        cookie: u64,
        /// Why.
        cause: String,
    },
    /// Which TLS session's plaintext a connection's is.
    Unsealed {
        /// Cookie of the client's socket.
        cookie: u64,
        /// Address of the library's object.
        object: u64,
        /// The process.
        pid: u32,
    },
    /// Nothing more of a connection goes to its server: it is to be ended.
    Ended {
        /// Cookie of the client's socket.
        cookie: u64,
        /// The rule that wants it; empty where what it says cannot be judged.
        rule: String,
    },
    /// New connections' answers may go through the shim from now on.
    Answers,
    /// Decisions were not told because the agent did not listen.
    Untold(u64),
    /// Bytes of statements or answers were let through and could not be sent on.
    Dropped(u64),
    /// Everything is let go.
    Drained,
}

/// What became of a held statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Cookie of the server's socket.
    pub cookie: u64,
    /// Tells which text: see [`digest`].
    pub text: u64,
    /// Its reference: `event_id` of the statement's event.
    pub id: u128,
    /// The rule.
    pub policy_rule: String,
    /// Its version.
    pub policy_version: String,
    /// Whether it acts.
    pub enforced: bool,
    /// What was done.
    pub disposition: Told,
    /// Nanoseconds that it was held.
    pub held_ns: u64,
    /// What was asked for, without literals.
    pub shown: String,
    /// The agent sees only what was put in its place.
    pub replaced: bool,
    /// Who decided, where somebody was asked. The agent knows that.
    #[serde(skip)]
    pub approval: Option<Approval>,
}

/// What a rule that only watches would have done about a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// Cookie of the server's socket.
    pub cookie: u64,
    /// Tells which message it was part of.
    pub message: u64,
    /// Tells which text: see [`digest`].
    pub text: u64,
    /// The rule.
    pub policy_rule: String,
    /// Its version.
    pub policy_version: String,
    /// What it wants.
    pub action: Action,
}

/// Who decided about a statement. Names are the event's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approval {
    /// `approval_id`.
    pub id: String,
    /// `approval_state`.
    pub state: String,
    /// `approval_actor`.
    pub actor: String,
}

/// The dispositions that the shim can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Refused by a rule.
    Blocked,
    /// It goes on, and its answer is masked.
    Masked,
    /// Held, and somebody let it go on.
    Approved,
    /// Held, and nobody did.
    Denied,
    /// Somebody should have been asked, and it could not wait for that.
    Unasked,
}

impl Decision {
    /// `disposition` of the event.
    pub fn disposition(&self) -> Disposition {
        match self.disposition {
            Told::Blocked => Disposition::Blocked,
            Told::Masked => Disposition::Masked,
            Told::Approved => Disposition::Approved,
            Told::Denied | Told::Unasked => Disposition::Denied,
        }
    }

    /// `policy_mode` of the event.
    pub fn mode(&self) -> Mode {
        if self.enforced { Mode::Enforce } else { Mode::Monitor }
    }
}

/// What agent and shim know a text by.
pub fn digest(text: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}
