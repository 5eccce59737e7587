//! The head of the receipt chain -> signed checkpoints: which are due, which was the last, with which key.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_core::event::{Event, EventKind};
use agent_core::receipt::{Chain, Checkpoint, Key, Stub};

use super::key::{KeyError, KeyFile};
use super::{Config, writer};

/// How often the wish for another key is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Signs for one agent.
#[derive(Debug)]
pub(super) struct Notary {
    state: PathBuf,
    key: KeyFile,
    /// The last receipt under a checkpoint, and since when.
    signed: u64,
    since: Instant,
    receipts: u64,
    interval: Duration,
    looked: Instant,
}

/// The last checkpoint on disk; none where there is none of this agent.
pub(super) fn last(state: &Path, agent_id: &str) -> Option<Checkpoint> {
    let bytes = std::fs::read(state.join("checkpoint.json")).ok()?;
    serde_json::from_slice(&bytes).ok().filter(|last: &Checkpoint| &*last.agent_id == agent_id)
}

impl Notary {
    /// Reads the key or makes it. `chain`: where the agent goes on.
    pub(super) fn open(config: &Config, chain: &Chain) -> Result<Self, KeyError> {
        let key =
            KeyFile::open(&config.state, &config.agent_id, chain.sequence.saturating_add(1), writer::now())?;
        let known = last(&config.state, &config.agent_id).map_or(0, |last| last.sequence);
        // What came before the first key cannot be signed by it.
        let begun = key.keys().first().map_or(0, |first| first.from_sequence.saturating_sub(1));
        Ok(Self {
            state: config.state.clone(),
            key,
            signed: known.max(begun),
            since: Instant::now(),
            receipts: config.checkpoint_receipts.max(1),
            interval: config.checkpoint_interval,
            looked: Instant::now(),
        })
    }

    /// All public keys, oldest first.
    pub(super) fn keys(&self) -> &[Key] {
        self.key.keys()
    }

    /// True where so long a chain has receipts that should be signed by now. `ending`: at once.
    pub(super) fn is_due(&self, chain: &Chain, ending: bool) -> bool {
        let new = chain.sequence.saturating_sub(self.signed);
        new > 0 && (ending || new >= self.receipts || self.since.elapsed() >= self.interval)
    }

    /// Signs the head of the chain. It counts once [`Self::signed`] was told.
    pub(super) fn checkpoint(&self, chain: &Chain) -> Checkpoint {
        Checkpoint::new(&self.key.current().agent_id, self.key.key(), chain, self.signed, writer::now())
    }

    /// The checkpoint is on its way to the store: the next one goes on behind it.
    pub(super) fn signed(&mut self, checkpoint: &Checkpoint) {
        self.signed = checkpoint.sequence;
        self.since = Instant::now();
        let path = self.state.join("checkpoint.json");
        let next = path.with_extension("next");
        let written = serde_json::to_vec(checkpoint)
            .map_err(std::io::Error::from)
            .and_then(|bytes| std::fs::write(&next, bytes))
            .and_then(|()| std::fs::rename(&next, &path));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot note the last checkpoint: the next one signs its receipts again");
        }
    }

    /// The checkpoint could not be kept: it is tried again when the next one is due.
    pub(super) fn put_off(&mut self) {
        self.since = Instant::now();
    }

    /// Somebody asked for another key. Looks now and then.
    pub(super) fn wants_rotation(&mut self) -> bool {
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        request(&self.state).exists()
    }

    /// Takes another key for what follows the chain's last receipt, and says so.
    pub(super) fn rotate(&mut self, chain: &Chain, config: &Config) -> Result<Event, KeyError> {
        let before = self.key.current().key_id;
        self.key.rotate(chain.sequence.saturating_add(1), writer::now())?;
        let _ = std::fs::remove_file(request(&self.state));
        let text = format!("signing key {before} is followed by {}", self.key.current().key_id);
        tracing::info!("{text}");
        let event = writer::loss(config, "key_rotated", text);
        Ok(Event { event_kind: EventKind::Config, ..event })
    }

    /// Signs what is left of receipts that are removed.
    pub(super) fn stub(&self, stub: Stub) -> Stub {
        stub.sign(self.key.key())
    }
}

/// The file whose presence asks for another key.
pub fn request(state: &Path) -> PathBuf {
    state.join("rotate-key")
}
