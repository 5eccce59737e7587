//! What the store, the receivers of signals and the system count -> samples, at the time of the scrape.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::approve::Counted;
use crate::signals::Told;
use crate::store::Store;

/// The store's counters.
pub(super) struct OfStore(pub(super) Arc<Store>);

/// What became of signals, by receiver.
#[derive(Debug)]
pub(super) struct OfSignals(pub(super) Vec<Told>);

/// What became of held statements.
pub(super) struct OfApprovals(pub(super) Counted);

impl std::fmt::Debug for OfApprovals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfApprovals").finish_non_exhaustive()
    }
}

/// What the agent takes of the host.
#[derive(Debug)]
pub(super) struct OfProcess;

impl std::fmt::Debug for OfStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfStore").finish_non_exhaustive()
    }
}

type Done = Result<(), std::fmt::Error>;

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Done {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Done {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// One counter for each set of labels.
fn family<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    samples: &[([(&str, &str); N], u64)],
) -> Done {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
    }
    Ok(())
}

impl Collector for OfStore {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Done {
        let counters = self.0.counters();
        let to = &mut encoder;
        counter(to, "store_pushed", "Events that the store took", counters.pushed)?;
        counter(to, "store_stored", "Rows that ClickHouse confirmed", counters.stored)?;
        counter(to, "store_retries", "Inserts that had to be tried again", counters.retries)?;
        let dropped = [
            ([("reason", "queue_full")], counters.dropped_queue),
            ([("reason", "spool_full")], counters.dropped_spool),
            ([("reason", "disk")], counters.dropped_disk),
        ];
        family(to, ("store_dropped", "Events that were not recorded, by reason"), &dropped)?;
        let help = "Rows on disk that ClickHouse has not confirmed";
        gauge(to, "store_spooled_rows", help, counters.spooled as f64)?;
        let help = "Bytes on disk that ClickHouse has not confirmed";
        gauge(to, "store_spooled_bytes", help, counters.spooled_bytes as f64)
    }
}

impl Collector for OfSignals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Done {
        if self.0.is_empty() {
            return Ok(());
        }
        let (mut told, mut retries, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        for Told { name, tally } in &self.0 {
            let receiver = ("receiver", &**name);
            told.push(([receiver, ("state", "sent")], tally.sent.load(Relaxed)));
            told.push(([receiver, ("state", "gathered")], tally.gathered.load(Relaxed)));
            retries.push(([receiver], tally.retries.load(Relaxed)));
            for (reason, count) in tally.dropped() {
                dropped.push(([receiver, ("reason", reason)], count));
            }
        }
        let to = &mut encoder;
        family(to, ("signals", "Signals sent, and events that became part of another's count"), &told)?;
        family(to, ("signal_retries", "Attempts to send a signal that were repeated"), &retries)?;
        family(to, ("signals_dropped", "Signals that were not sent, by reason"), &dropped)
    }
}

impl Collector for OfApprovals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Done {
        let (waiting, counts, refused) = self.0.read();
        let to = &mut encoder;
        gauge(to, "approvals_pending", "Statements that wait for somebody to decide", waiting as f64)?;
        let outcomes = counts.named().map(|(outcome, count)| ([("outcome", outcome)], count));
        family(to, ("approvals", "Statements that were held for somebody to decide, by outcome"), &outcomes)?;
        let refused: Vec<_> = refused.iter().map(|(reason, count)| ([("reason", *reason)], *count)).collect();
        if refused.is_empty() {
            return Ok(());
        }
        family(to, ("approval_refusals", "Decisions that did not count, by reason"), &refused)
    }
}

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Done {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let Ok(stat) = process.stat() else { return Ok(()) };
        let to = &mut encoder;
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let help = "Processor time that the agent used, user and system";
        let used = to.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(seconds).encode(used)?;
        let resident = (stat.rss * procfs::page_size()) as f64;
        gauge(to, "process_resident_memory_bytes", "Memory that the agent holds", resident)?;
        let files = process.fd_count().unwrap_or(0);
        gauge(to, "process_open_fds", "Descriptors that the agent has open", files as f64)
    }
}
