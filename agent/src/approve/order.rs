//! What somebody wants of the agent that is not about an approval -> its main loop, and back.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::oneshot;

/// What somebody wants of the agent that is not about an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End a session.
    Kill {
        /// Which.
        session_id: u64,
    },
    /// The gate's master switch.
    Gate(Switch),
}

/// What is to be done with the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Arm it.
    On,
    /// Let go of everything that is held, and take it off every connection.
    Off,
    /// Say how it stands.
    Status,
}

/// What an order says when it was carried out, by name; or why it was not, in one line.
pub type Reply = Result<Map<String, Value>, String>;

/// A command, by whom, and the way back.
#[derive(Debug)]
pub struct Order {
    /// What is to be done.
    pub command: Command,
    /// By whom: `user:root (uid 0)`.
    pub actor: Arc<str>,
    reply: oneshot::Sender<Reply>,
}

impl Order {
    pub(super) fn new(command: Command, actor: &Arc<str>, reply: oneshot::Sender<Reply>) -> Self {
        Self { command, actor: Arc::clone(actor), reply }
    }

    /// Says what came of it.
    pub fn answer(self, reply: Reply) {
        // Who asked may have gone.
        let _ = self.reply.send(reply);
    }
}
