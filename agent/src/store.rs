//! Events -> ClickHouse, through a spool when it is away.

mod writer; // queue -> receipts -> blocks in the spool
mod block; // events -> a Native block
mod missed; // what could not be recorded -> losses
mod chain; // the head of the receipt chain on disk
pub mod key; // the signing key on disk
mod notary; // the head of the chain -> signed checkpoints
mod anchor; // checkpoints -> a place outside
mod retention; // old receipts -> stubs
mod row; // one row of a small table -> a Native block
mod spool; // blocks -> files until ClickHouse has them
mod sender; // files -> ClickHouse
pub mod clickhouse; // the client, errors by kind
pub mod schema; // numbered SQL files -> tables
pub mod embedded; // the agent's own ClickHouse as a child process
pub mod supervise; // that process died -> another one
pub mod server; // HTTP -> engine
mod form; // a form -> its fields
mod statement; // request text -> statement and data
mod frame; // ClickHouse's compressed frames
pub mod engine; // libchdb's C interface
pub mod bench; // rows/s and bytes per row

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_core::event::{Event, EventKind};
use agent_core::receipt::{Chain, Checkpoint, Proof};

use self::anchor::{Anchor, Place};
use self::chain::{Head, State};
use self::missed::Reason;
use self::notary::Notary;
pub use self::notary::request as rotation_request;
pub use self::retention::Removed;
pub use self::row::PolicyText;
use self::row::Row;
use self::sender::{Outbox, Sender};
use self::spool::{Found, Spool};
use self::writer::{Queue, Writer};

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
    /// ... or when it is this old and nothing else is being sent; older where inserting is much work.
    pub batch_interval: Duration,
    /// The chain is signed once so many receipts are new ...
    pub checkpoint_receipts: u64,
    /// ... or when new ones have waited so long.
    pub checkpoint_interval: Duration,
    /// File outside of ClickHouse that keys and checkpoints are appended to.
    pub anchor_file: Option<PathBuf>,
    /// Address that they are posted to.
    pub anchor_url: Option<String>,
    /// Receipts are removed after so many days; 0: never.
    pub retention_days: u32,
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
            checkpoint_receipts: 100_000,
            checkpoint_interval: Duration::from_mins(1),
            anchor_file: None,
            anchor_url: None,
            retention_days: 0,
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
    /// There is no key to sign the receipts with.
    #[error(transparent)]
    Key(#[from] key::KeyError),
    /// No thread could be started.
    #[error("cannot start the store's threads: {source}")]
    Thread {
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

/// The counters as the threads keep them.
#[derive(Debug, Default)]
struct Tally {
    pushed: AtomicU64,
    stored: AtomicU64,
    spooled: AtomicU64,
    spooled_bytes: AtomicU64,
    dropped_queue: AtomicU64,
    dropped_spool: AtomicU64,
    dropped_disk: AtomicU64,
    retries: AtomicU64,
}

impl Tally {
    fn dropped(&self, reason: Reason, count: u64) {
        match reason {
            Reason::Queue => self.dropped_queue.fetch_add(count, Relaxed),
            Reason::Spool => self.dropped_spool.fetch_add(count, Relaxed),
            Reason::Disk => self.dropped_disk.fetch_add(count, Relaxed),
        };
    }
}

/// The writer: takes events, chains them, keeps them on disk until ClickHouse has confirmed them.
pub struct Store {
    queue: Arc<Queue>,
    outbox: Arc<Outbox>,
    tally: Arc<Tally>,
    threads: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
    config: Arc<Config>,
    notary: Arc<Mutex<Notary>>,
    retention: Option<tokio::task::JoinHandle<()>>,
}

impl Store {
    /// Opens the spool, recovers the chain's head and starts the writer. Applies the schema as soon as
    /// ClickHouse answers; does not wait for it.
    ///
    /// What the last life of this agent left unsaid becomes an event: that it was killed, that a part of its
    /// spool was cut off, that the head of its chain is gone.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let failed = |source| OpenError::State { path: config.state.clone(), source };
        std::fs::create_dir_all(&config.state).map_err(failed)?;
        let (spool, found) =
            Spool::open(&config.state.join("spool"), &config.agent_id, &block::target()).map_err(failed)?;
        let head = Head::new(&config.state);
        let known = head.read().filter(|state| state.agent_id == config.agent_id);
        let signed = notary::last(&config.state, &config.agent_id);
        let (chain, first) = recover(&config, known, &found, signed.as_ref()).await;
        let notary = Notary::open(&config, &chain)?;
        let state = State {
            agent_id: config.agent_id.clone(),
            sequence: chain.sequence,
            head: chain.head,
            time: writer::now(),
            closed: false,
        };
        head.write(&state).map_err(failed)?;

        let tally = Arc::new(Tally::default());
        tally.spooled.store(found.batches.iter().map(spool::Batch::receipts).sum(), Relaxed);
        tally.spooled_bytes.store(found.batches.iter().map(|b| b.bytes).sum(), Relaxed);
        let (config, queue) = (Arc::new(config), Arc::new(Queue::default()));
        let outbox = Arc::new(Outbox::new(found.batches));
        let anchors = anchors(&config, &notary, signed)?;
        let notary = Arc::new(Mutex::new(notary));
        let writer = Writer {
            config: Arc::clone(&config),
            queue: Arc::clone(&queue),
            outbox: Arc::clone(&outbox),
            tally: Arc::clone(&tally),
            spool,
            chain,
            head: head.clone(),
            first,
            // Published at every start: ClickHouse may be another one than it was.
            notes: writer::lock(&notary).keys().iter().map(Row::from).collect(),
            notary: Arc::clone(&notary),
            anchors,
        };
        let sender = Sender {
            config: Arc::clone(&config),
            outbox: Arc::clone(&outbox),
            tally: Arc::clone(&tally),
            head,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let threads = (
            thread("weir-writer")
                .spawn(move || writer.run())
                .map_err(|source| OpenError::Thread { source })?,
            thread("weir-sender")
                .spawn(move || sender.run())
                .map_err(|source| OpenError::Thread { source })?,
        );
        let retention = (config.retention_days > 0).then(|| {
            tokio::spawn(retention::keep(Arc::clone(&config), Arc::clone(&notary), Arc::clone(&queue)))
        });
        Ok(Self { queue, outbox, tally, threads: Mutex::new(Some(threads)), config, notary, retention })
    }

    /// Hands an event over. Never waits: an event that cannot be taken is counted, and false is returned.
    /// `sequence`, `previous_hash` and `hash` are filled in by the writer, and `event_id` where it is 0.
    pub fn push(&self, event: Event) -> bool {
        let taken = self.queue.push(event);
        if taken {
            self.tally.pushed.fetch_add(1, Relaxed);
        } else {
            self.tally.dropped(Reason::Queue, 1);
        }
        taken
    }

    /// Keeps the texts of the policies that are in force from now on: receipts name them by rule and version.
    pub fn policies(&self, policies: &[PolicyText]) {
        self.queue.note(policies.iter().map(|policy| policy.row(&self.config.agent_id)));
    }

    /// Removes what is older than the configuration wants it kept, as of a time: nanoseconds since the epoch.
    pub async fn remove_old(&self, now: u64) -> anyhow::Result<Removed> {
        retention::remove(&clickhouse::client(&self.config), &self.config, &self.notary, now).await
    }

    /// What became of the events so far.
    pub fn counters(&self) -> Counters {
        let t = &self.tally;
        Counters {
            pushed: t.pushed.load(Relaxed),
            stored: t.stored.load(Relaxed),
            spooled: t.spooled.load(Relaxed),
            spooled_bytes: t.spooled_bytes.load(Relaxed),
            dropped_queue: t.dropped_queue.load(Relaxed),
            dropped_spool: t.dropped_spool.load(Relaxed),
            dropped_disk: t.dropped_disk.load(Relaxed),
            retries: t.retries.load(Relaxed),
        }
    }

    /// The next `push` would be refused.
    fn queue_is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Writes out what is queued and waits, at most until the deadline, for ClickHouse to confirm it.
    /// What is not confirmed by then stays in the spool for the next start. Calling it again does nothing.
    pub async fn close(&self, deadline: Duration) -> Counters {
        self.retention.iter().for_each(tokio::task::JoinHandle::abort);
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            let (queue, outbox) = (Arc::clone(&self.queue), Arc::clone(&self.outbox));
            let ended = tokio::task::spawn_blocking(move || end(&queue, &outbox, threads, deadline)).await;
            if ended.is_err() {
                tracing::error!("the store's threads did not end in order");
            }
        }
        self.counters()
    }
}

impl Drop for Store {
    /// As `close` without waiting for ClickHouse: everything pushed is on disk afterwards.
    fn drop(&mut self) {
        self.retention.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(threads) = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            end(&self.queue, &self.outbox, threads, Duration::ZERO);
        }
    }
}

/// The writer first, because it always ends soon; the sender at the deadline, or in the middle of what it does:
/// a batch that is not confirmed is sent again by the next agent under the same token.
fn end(queue: &Queue, outbox: &Outbox, threads: (JoinHandle<()>, JoinHandle<()>), deadline: Duration) {
    let (writer, sender) = threads;
    queue.close();
    let _ = writer.join();
    outbox.drain(deadline);
    if outbox.is_idle() {
        let _ = sender.join();
    }
}

/// The places outside, which are told the keys and the last checkpoint again.
fn anchors(config: &Config, notary: &Notary, signed: Option<Checkpoint>) -> Result<Vec<Anchor>, OpenError> {
    let file = config.anchor_file.iter().cloned().map(Place::File);
    let places = file.chain(config.anchor_url.iter().cloned().map(Place::Url));
    let proofs: Vec<Proof> =
        notary.keys().iter().cloned().map(Proof::Key).chain(signed.map(Proof::Checkpoint)).collect();
    let mut anchors = Vec::new();
    for place in places {
        let anchor = Anchor::start(place).map_err(|source| OpenError::Thread { source })?;
        for proof in &proofs {
            anchor.send(proof);
        }
        anchors.push(anchor);
    }
    Ok(anchors)
}

/// Where the chain goes on, and what there is to say about how the last agent ended.
async fn recover(
    config: &Config,
    known: Option<State>,
    found: &Found,
    signed: Option<&Checkpoint>,
) -> (Chain, Vec<Event>) {
    let mut events = Vec::new();
    let mut chain = known.as_ref().map(State::chain).unwrap_or_default();
    let mut last_time = known.as_ref().map_or(0, |state| state.time);
    if let Some(batch) = found.batches.iter().max_by_key(|batch| batch.chain.sequence)
        && batch.chain.sequence > chain.sequence
    {
        chain = batch.chain.clone();
        last_time = last_time.max(batch.time);
    }
    let ended_in_order = known.as_ref().is_none_or(|state| state.closed);
    if !ended_in_order || (known.is_none() && !found.batches.is_empty()) {
        let text =
            "the agent ended without closing its store: what happened until now was not seen".to_owned();
        events.push(Event {
            time: last_time,
            duration_ns: Some(writer::now().saturating_sub(last_time)),
            ..writer::loss(config, "agent_ended", text)
        });
    }
    if found.torn > 0 {
        let text = format!("the ends of {} spooled batches were cut off: their events are lost", found.torn);
        events.push(writer::loss(config, "spool_torn", text));
    }
    if let Some(signed) = signed
        && signed.sequence > chain.sequence
    {
        // Their places are taken: what comes now must not be signed as if it were they.
        let text = format!(
            "receipts {} to {} were signed, but are not on the disk any more: they are lost unless ClickHouse has them",
            chain.sequence + 1,
            signed.sequence
        );
        events.push(writer::loss(config, "receipts_lost", text));
        chain = Chain { sequence: signed.sequence, head: signed.head.0 };
    }
    // Without a state of its own, or after an end that may have lost some of it, the agent asks ClickHouse.
    if known.is_none() || !ended_in_order {
        match clickhouse::chain(config).await {
            Ok(stored) if stored.sequence > chain.sequence => {
                if known.is_some() {
                    let text = format!(
                        "the state directory is older than ClickHouse: the chain goes on after receipt {}",
                        stored.sequence
                    );
                    events.push(writer::loss(config, "state_lost", text));
                }
                chain = stored;
            }
            Err(error) if known.is_none() && found.batches.is_empty() => {
                let text =
                    "no earlier receipt is known here and ClickHouse does not answer: a new chain begins";
                tracing::info!(%error, "{text}");
                let event = writer::loss(config, "chain_begins", text.to_owned());
                events.push(Event { event_kind: EventKind::Config, ..event });
            }
            Ok(_) | Err(_) => {}
        }
    }
    (chain, events)
}
