//! Spooled batches -> ClickHouse, oldest first, each until it is confirmed. One thread with a runtime of its own.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::Client;

use super::chain::{Head, State};
use super::clickhouse::{Meaning, client, insert, meaning};
use super::spool::Batch;
use super::{Config, Tally, schema};

/// Pause before the first repetition, and the longest.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(10);
/// Inserting takes at most one part in so many of the time, while batches may still grow.
const REST: u32 = 40;
/// The oldest that a batch becomes for that.
const STALE: Duration = Duration::from_secs(5);
/// How often something that only an operator can mend is tried.
const SELDOM: Duration = Duration::from_secs(15);

/// Between the writer and the sender: complete batches.
#[derive(Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    batches: VecDeque<Batch>,
    /// A batch is on its way.
    sending: bool,
    /// The last attempt failed.
    failing: bool,
    /// What the last batch took ClickHouse.
    took: Duration,
    /// The writer has ended and left this state behind.
    finished: bool,
    /// The sender shall end even though batches are left.
    abandoned: bool,
}

impl Outbox {
    pub(super) fn new(batches: VecDeque<Batch>) -> Self {
        Self { inner: Mutex::new(Inner { batches, ..Inner::default() }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, batch: Batch) {
        self.lock().batches.push_back(batch);
        self.changed.notify_all();
    }

    /// Nothing is being sent and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.batches.is_empty() && !inner.sending
    }

    /// How old a batch should be before it goes: at least `least`, and more where an insert is much work. What an
    /// insert costs is mostly its part of the table, written now and merged again later, whatever the rows.
    pub(super) fn patience(&self, least: Duration) -> Duration {
        (self.lock().took * REST).clamp(least, least.max(STALE))
    }

    /// Batches wait because ClickHouse does not take them.
    pub(super) fn is_waiting(&self) -> bool {
        let inner = self.lock();
        inner.failing || inner.batches.len() > 1
    }

    /// The writer has ended: the state on disk says so from now on.
    pub(super) fn finish(&self, state: &State, head: &Head) {
        let mut inner = self.lock();
        if let Err(error) = head.write(state) {
            tracing::warn!(%error, "cannot write the head of the receipt chain");
        }
        inner.finished = true;
        self.changed.notify_all();
    }

    /// Waits until everything is confirmed; at most so long. Then the sender ends.
    pub(super) fn drain(&self, deadline: Duration) {
        let begun = Instant::now();
        let mut inner = self.lock();
        while !(inner.finished && inner.batches.is_empty()) {
            let Some(left) = deadline.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                break;
            };
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.abandoned = true;
        self.changed.notify_all();
    }

    /// The oldest batch; none where the sender shall end.
    fn next(&self) -> Option<Batch> {
        let mut inner = self.lock();
        loop {
            if inner.abandoned || (inner.finished && inner.batches.is_empty()) {
                return None;
            }
            if let Some(batch) = inner.batches.front().cloned() {
                inner.sending = true;
                return Some(batch);
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn failed(&self) {
        self.lock().failing = true;
    }

    /// Waits before the next attempt; ends early where the sender shall end.
    fn pause(&self, pause: Duration) {
        let inner = self.lock();
        let _ = self.changed.wait_timeout_while(inner, pause, |inner| !inner.abandoned);
    }
}

/// The sender's thread.
pub(super) struct Sender {
    pub(super) config: Arc<Config>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) tally: Arc<Tally>,
    pub(super) head: Head,
}

impl Sender {
    pub(super) fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot send to ClickHouse: events stay in the spool");
                return;
            }
        };
        let client = client(&self.config);
        let (mut ready, mut failures) = (false, 0u32);
        while let Some(batch) = self.outbox.next() {
            let begun = Instant::now();
            match runtime.block_on(self.send(&client, &batch, &mut ready)) {
                Ok(()) => {
                    self.outbox.lock().took = begun.elapsed();
                    if failures > 0 {
                        tracing::info!(failures, "ClickHouse takes events again");
                    }
                    failures = 0;
                    self.confirmed(&batch);
                }
                Err(problem) => {
                    self.outbox.failed();
                    self.tally.retries.fetch_add(1, Relaxed);
                    failures += 1;
                    let pause = self.explain(&problem, &mut ready, failures, &batch);
                    self.outbox.pause(pause);
                }
            }
        }
    }

    async fn send(&self, client: &Client, batch: &Batch, ready: &mut bool) -> Result<(), Problem> {
        let blocks = batch.blocks().map_err(Problem::Spool)?;
        if !*ready {
            schema::apply(client, &self.config.database).await?;
            *ready = true;
        }
        Ok(insert(client, batch, blocks).await?)
    }

    /// Says what went wrong, once for each kind in a row, and how long to wait.
    fn explain(&self, problem: &Problem, ready: &mut bool, failures: u32, batch: &Batch) -> Duration {
        let backoff = SOON.saturating_mul(1 << failures.min(10)).min(LATE);
        let error = match problem {
            Problem::ClickHouse(error) => error,
            Problem::Spool(error) => {
                tracing::error!(%error, "a spooled batch cannot be read: it is put aside as *.garbled");
                let _ = batch.put_aside();
                self.removed(batch);
                return Duration::ZERO;
            }
        };
        let url = &self.config.url;
        match meaning(error) {
            Meaning::Retry => {
                if failures == 1 {
                    tracing::warn!(%error, url, "ClickHouse does not take events: they wait in the spool");
                }
                backoff
            }
            Meaning::Schema => {
                if failures > 1 {
                    tracing::error!(%error, url, "the tables do not fit");
                }
                *ready = false;
                backoff
            }
            Meaning::Operator(cure) => {
                tracing::error!(%error, url, "ClickHouse refuses events, they wait in the spool: {cure}");
                SELDOM
            }
        }
    }

    /// The head of the chain is on disk before the batch that holds it goes.
    fn confirmed(&self, batch: &Batch) {
        let state = State {
            agent_id: self.config.agent_id.clone(),
            sequence: batch.chain.sequence,
            head: batch.chain.head,
            time: batch.time,
            closed: false,
        };
        {
            let inner = self.outbox.lock();
            // After its end the writer's own state counts: it is the newer one.
            if !inner.finished
                && let Err(error) = self.head.write(&state)
            {
                tracing::warn!(%error, "cannot write the head of the receipt chain");
            }
        }
        if let Err(error) = batch.remove() {
            tracing::warn!(%error, "cannot remove a stored batch: it will be sent again and dropped as a repetition");
        }
        self.tally.stored.fetch_add(batch.receipts(), Relaxed);
        self.removed(batch);
    }

    fn removed(&self, batch: &Batch) {
        self.tally.spooled.fetch_sub(batch.receipts(), Relaxed);
        self.tally.spooled_bytes.fetch_sub(batch.bytes, Relaxed);
        let mut inner = self.outbox.lock();
        inner.batches.pop_front();
        (inner.sending, inner.failing) = (false, false);
        drop(inner);
        self.outbox.changed.notify_all();
    }
}

enum Problem {
    ClickHouse(clickhouse::error::Error),
    Spool(std::io::Error),
}

impl From<clickhouse::error::Error> for Problem {
    fn from(error: clickhouse::error::Error) -> Self {
        Self::ClickHouse(error)
    }
}
