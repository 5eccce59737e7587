//! The head of the receipt chain and whether the last agent ended in order, in one small file.

use std::io;
use std::path::{Path, PathBuf};

use agent_core::receipt::Chain;
use serde::{Deserialize, Serialize};

/// What is kept between two lives of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Whose chain it is.
    pub(super) agent_id: String,
    /// Sequence of the last receipt that ClickHouse has confirmed, or of the last one at all if closed.
    pub(super) sequence: u64,
    /// Its hash.
    pub(super) head: [u8; 32],
    /// Time of its event.
    pub(super) time: u64,
    /// The agent closed its store.
    pub(super) closed: bool,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Head {
    path: PathBuf,
}

impl Head {
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join("chain.json") }
    }

    /// What is there; none where nothing readable is.
    pub(super) fn read(&self) -> Option<State> {
        serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()
    }

    /// Replaces it as a whole: a reader sees the old or the new, never a part.
    pub(super) fn write(&self, state: &State) -> io::Result<()> {
        let next = self.path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(state)?)?;
        std::fs::rename(next, &self.path)
    }
}

impl State {
    pub(super) fn chain(&self) -> Chain {
        Chain { sequence: self.sequence, head: self.head }
    }
}
