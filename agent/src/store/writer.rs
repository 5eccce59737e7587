//! The queue -> receipts -> blocks in the spool. One thread; waits for nothing but the disk.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::event::{Event, EventKind};
use agent_core::receipt::{Chain, Proof};

use super::anchor::Anchor;
use super::block::Encoder;
use super::chain::{Head, State};
use super::missed::{Missed, Reason, is_report};
use super::notary::Notary;
use super::row::Row;
use super::sender::Outbox;
use super::spool::{Block, Spool};
use super::{Config, Tally};

/// Events that wait for the writer; a few milliseconds of the fastest traffic.
const QUEUE: usize = 32 * 1024;
/// Most events of one block: a block costs ClickHouse some work for each of its columns, however few its rows.
const BLOCK: usize = 8192;
/// How long the writer lets events gather once it has been woken, so that blocks become large. It is also what a
/// killed agent may have seen and not written down.
const GATHER: Duration = Duration::from_millis(150);

/// Between `push` and the writer.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    notes: Vec<Row>,
    /// What found the queue full.
    missed: Missed,
    closed: bool,
}

impl Queue {
    /// False where the queue is full or closed.
    pub(super) fn push(&self, event: Event) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed || inner.events.len() >= QUEUE {
            inner.missed.add(Reason::Queue, &event);
            return false;
        }
        inner.events.push(event);
        let wakes = [1, QUEUE / 4].contains(&inner.events.len());
        drop(inner);
        if wakes {
            self.filled.notify_one();
        }
        true
    }

    /// Rows for other tables than that of the events.
    pub(super) fn note(&self, rows: impl Iterator<Item = Row>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).notes.extend(rows);
        self.filled.notify_one();
    }

    fn take_notes(&self) -> Vec<Row> {
        std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).notes)
    }

    pub(super) fn is_full(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).events.len() >= QUEUE
    }

    pub(super) fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.filled.notify_one();
    }

    /// Swaps the events out; true where there will be no more. Waits at most so long for the first.
    fn take(&self, into: &mut Vec<Event>, missed: &mut Missed, patience: Duration) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut inner, _) = self
            .filled
            .wait_timeout_while(inner, patience, |inner| inner.events.is_empty() && !inner.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if !inner.events.is_empty() && !inner.closed && inner.events.len() < QUEUE / 4 {
            let gathering = |inner: &mut Inner| !inner.closed && inner.events.len() < QUEUE / 4;
            let waited = self.filled.wait_timeout_while(inner, GATHER, gathering);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut inner.events, into);
        if !inner.missed.is_empty() {
            missed.append(std::mem::take(&mut inner.missed));
        }
        inner.closed && into.is_empty()
    }
}

/// The writer's thread.
pub(super) struct Writer {
    pub(super) config: Arc<Config>,
    pub(super) queue: Arc<Queue>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) tally: Arc<Tally>,
    pub(super) spool: Spool,
    pub(super) chain: Chain,
    pub(super) head: Head,
    /// Events to record first: what the last life of the agent left unsaid.
    pub(super) first: Vec<Event>,
    /// Rows for other tables that are not in the spool yet.
    pub(super) notes: Vec<Row>,
    pub(super) notary: Arc<Mutex<Notary>>,
    pub(super) anchors: Vec<Anchor>,
}

impl Writer {
    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let agent_id: Arc<str> = self.config.agent_id.as_str().into();
        let (mut encoder, mut block, mut scratch) = (Encoder::default(), Vec::new(), Vec::new());
        let mut events = std::mem::take(&mut self.first);
        let (mut missed, mut last_time) = (Missed::default(), 0);
        let tick = self.config.batch_interval.clamp(Duration::from_millis(5), Duration::from_millis(250));
        loop {
            if !missed.is_empty() && !self.full() {
                events.splice(0..0, missed.events(&self.config));
            }
            for slice in events.chunks_mut(BLOCK) {
                let reports = slice.first().is_some_and(is_report);
                let recorded = if self.full() {
                    Err(Reason::Spool)
                } else {
                    self.spool(slice, &agent_id, &mut encoder, &mut block, &mut scratch)
                };
                match recorded {
                    Ok(()) => {
                        if reports {
                            missed = Missed::default();
                        }
                        last_time = slice.last().map_or(last_time, |e| e.time);
                    }
                    Err(reason) => {
                        let lost = slice.iter().filter(|e| !is_report(e));
                        self.tally
                            .dropped(reason, lost.map(|event| missed.add(reason, event)).count() as u64);
                    }
                }
            }
            events.clear();
            events.shrink_to(QUEUE);
            self.write_notes();
            self.seal(false);
            let ends = self.queue.take(&mut events, &mut missed, tick);
            if let Some(event) = self.rotate() {
                events.insert(0, event);
            } else if ends {
                break;
            }
        }
        // The last words have room, whatever the cap says: they are a few KiB.
        for slice in missed.events(&self.config).chunks_mut(BLOCK) {
            if self.spool(slice, &agent_id, &mut encoder, &mut block, &mut scratch).is_err() {
                tracing::error!("cannot write to the spool which events were not recorded");
            }
        }
        self.write_notes();
        self.seal(true);
        let state = State {
            agent_id: self.config.agent_id.clone(),
            sequence: self.chain.sequence,
            head: self.chain.head,
            time: last_time,
            closed: true,
        };
        self.outbox.finish(&state, &self.head);
    }

    fn full(&self) -> bool {
        self.tally.spooled_bytes.load(Relaxed) >= self.config.spool_bytes
    }

    /// Chains, encodes and spools some events; the chain stands still where that fails.
    fn spool(
        &mut self,
        events: &mut [Event],
        agent_id: &Arc<str>,
        encoder: &mut Encoder,
        block: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        let mut chain = self.chain.clone();
        let first = chain.sequence + 1;
        for event in &mut *events {
            if *event.agent_id != **agent_id {
                event.agent_id = Arc::clone(agent_id);
            }
            if event.event_id == 0 {
                event.event_id = event_id(event.time, agent_id, chain.sequence + 1);
            }
            chain.append(event, scratch);
        }
        block.clear();
        encoder.encode(events, block);
        let written = Block {
            first,
            rows: events.len() as u64,
            head: chain.head,
            time: events.last().map_or(0, |e| e.time),
            bytes: block,
        };
        // Packed only where it has to wait: what is sent at once is not worth the cycles.
        match self.spool.append(&written, self.outbox.is_waiting()) {
            Ok(bytes) => {
                self.chain = chain;
                self.tally.spooled.fetch_add(events.len() as u64, Relaxed);
                self.tally.spooled_bytes.fetch_add(bytes, Relaxed);
                Ok(())
            }
            Err(error) => {
                if self.tally.dropped_disk.load(Relaxed) == 0 {
                    tracing::error!(%error, "cannot write to the spool: events are being dropped and counted");
                }
                Err(Reason::Disk)
            }
        }
    }

    /// Hands the batch over once it is large enough, or old enough and nothing else is being sent, or its receipts
    /// have to be signed. A checkpoint follows the receipts that it is about.
    fn seal(&mut self, ending: bool) {
        let due = lock(&self.notary).is_due(&self.chain, ending);
        if let Some((rows, age)) = self.spool.pending() {
            let large = rows >= self.config.batch_rows as u64;
            let old = age >= self.outbox.patience(self.config.batch_interval) && self.outbox.is_idle();
            if (ending || large || old || due)
                && let Some(batch) = self.spool.seal(self.outbox.is_waiting())
            {
                self.outbox.put(batch);
            }
        }
        if due && self.spool.pending().is_none() {
            self.checkpoint();
        }
    }

    /// Signs the chain up to here; false where that cannot be kept.
    fn checkpoint(&mut self) -> bool {
        let mut notary = lock(&self.notary);
        let checkpoint = notary.checkpoint(&self.chain);
        match self.spool.note(&Row::from(&checkpoint), &self.chain, checkpoint.time, self.outbox.is_waiting())
        {
            Ok(batch) => {
                self.tally.spooled_bytes.fetch_add(batch.bytes, Relaxed);
                self.outbox.put(batch);
                notary.signed(&checkpoint);
                let proof = Proof::Checkpoint(checkpoint);
                for anchor in &self.anchors {
                    anchor.send(&proof);
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot write a checkpoint to the spool: it is tried again");
                notary.put_off();
                false
            }
        }
    }

    /// Writes what is for other tables; what finds no room on the disk is tried again.
    fn write_notes(&mut self) {
        self.notes.append(&mut self.queue.take_notes());
        while let Some(row) = self.notes.first() {
            match self.spool.note(row, &self.chain, now(), self.outbox.is_waiting()) {
                Ok(batch) => {
                    self.tally.spooled_bytes.fetch_add(batch.bytes, Relaxed);
                    self.outbox.put(batch);
                    self.notes.remove(0);
                }
                Err(error) => {
                    tracing::error!(%error, "cannot write to the spool: it is tried again");
                    return;
                }
            }
        }
    }

    /// Takes another key where somebody asked for it: the present one signs all that came before.
    fn rotate(&mut self) -> Option<Event> {
        if !lock(&self.notary).wants_rotation() {
            return None;
        }
        self.seal(true);
        if lock(&self.notary).is_due(&self.chain, true) {
            return None; // it could not be signed: later
        }
        let mut notary = lock(&self.notary);
        match notary.rotate(&self.chain, &self.config) {
            Ok(event) => {
                if let Some(key) = notary.keys().last() {
                    self.notes.push(Row::from(key));
                    let proof = Proof::Key(key.clone());
                    for anchor in &self.anchors {
                        anchor.send(&proof);
                    }
                }
                Some(event)
            }
            Err(error) => {
                tracing::error!(%error, "cannot take another signing key: the present one goes on");
                None
            }
        }
    }
}

/// The one who signs.
pub(super) fn lock(notary: &Mutex<Notary>) -> MutexGuard<'_, Notary> {
    notary.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loss that the store itself has to tell.
pub(super) fn loss(config: &Config, kind: &str, text: String) -> Event {
    Event {
        time: now(),
        event_kind: EventKind::Loss,
        agent_id: config.agent_id.as_str().into(),
        host_name: config.host_name.as_str().into(),
        error_type: kind.into(),
        db_query_summary: text.into(),
        statement_complete: true,
        ..Event::default()
    }
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// A UUIDv7 whose random part is the agent and its counter: unique as well, and ClickHouse stores only the
/// difference to the row before.
fn event_id(time: u64, agent_id: &str, sequence: u64) -> u128 {
    let agent = u64::from(crc32fast::hash(agent_id.as_bytes()));
    let high = (time / 1_000_000) << 16 | 0x7000 | agent & 0xfff;
    let low = 0b10 << 62 | (agent >> 12) << 42 | sequence & ((1 << 42) - 1);
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_version_7() {
        let id = event_id(1_795_262_400_123_456_789, "agent", 5);
        assert_eq!((id >> 76) & 0xf, 7);
        assert_eq!((id >> 62) & 0b11, 0b10);
        assert_eq!((id >> 80) as u64, 1_795_262_400_123);
        assert_ne!(id, event_id(1_795_262_400_123_456_789, "agent", 6));
    }

    #[test]
    fn a_full_queue_refuses() {
        let queue = Queue::default();
        assert!((0..QUEUE).all(|_| queue.push(Event::default())));
        assert!(!queue.push(Event::default()));
        let (mut events, mut missed) = (Vec::new(), Missed::default());
        assert!(!queue.take(&mut events, &mut missed, Duration::ZERO));
        assert_eq!(events.len(), QUEUE);
        assert!(!missed.is_empty(), "what was refused is counted");
        assert!(queue.push(Event::default()));
        queue.close();
        assert!(!queue.push(Event::default()));
        events.clear();
        assert!(
            !queue.take(&mut events, &mut missed, Duration::ZERO),
            "what was pushed before the end is handed out"
        );
        events.clear();
        assert!(queue.take(&mut events, &mut missed, Duration::ZERO));
    }
}
