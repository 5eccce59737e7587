//! Events, counters and gauges -> what Prometheus scrapes, and whether the agent is healthy and ready.
//!
//! The pipeline counts with atomics that it holds on to; everything that is known elsewhere is read when it is asked for.

mod collect; // what the store, the receivers of signals and the system count -> samples
pub mod fill; // how full the kernel's ring is
pub mod server; // HTTP -> answers

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_core::event::{Event, EventKind};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::approve::Counted;
use crate::gate::{Done, Outcome};
use crate::signals::Told;
use crate::store::Store;

/// A pipeline that says nothing for so long is not alive.
const SILENCE: Duration = Duration::from_secs(10);

/// Names of event kinds, by number.
const KINDS: [&str; 7] = ["session", "statement", "decision", "approval", "loss", "blind", "config"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct System {
    system: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Lost {
    stage: &'static str,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cause {
    cause: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decided {
    rule: String,
    mode: String,
    disposition: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Found {
    result: &'static str,
}

/// What only the pipeline's own thread knows; it says so once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Bytes of the kernel's ring.
    pub ring_bytes: u64,
    /// Most bytes that waited in it since the last time.
    pub ring_used: u64,
    /// Connections that are followed, and those of them in which a database was recognised.
    pub connections: [u64; 2],
    /// Statement texts that are kept, and their bytes.
    pub texts: (usize, usize),
    /// Texts that were found as they were, by their shape, or not.
    pub lookups: [u64; 3],
    /// Policies in force.
    pub policies: usize,
    /// Touches that are remembered, and windows that were forgotten.
    pub memory: (usize, u64),
}

/// All that is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    events: [Counter; KINDS.len()],
    statements: Family<System, Counter>,
    losses: Family<Lost, Counter>,
    lost_bytes: Family<Lost, Counter>,
    blind: Family<Cause, Counter>,
    verdicts: Family<Decided, Counter>,
    kills: Family<Ended, Counter>,
    kill_time: Histogram,
    gauges: [Gauge; 8],
    lookups: [Counter; 3],
    forgotten: Counter,
    begun: Instant,
    /// Milliseconds from `begun` to the pipeline's last sign of life.
    beat: AtomicU64,
    armed: AtomicBool,
}

/// Who reads the counters that others keep.
#[derive(Clone)]
pub struct Sources {
    /// The store.
    pub store: Arc<Store>,
    /// Receivers of signals.
    pub told: Vec<Told>,
    /// Approvals, where somebody can be asked.
    pub approvals: Option<Counted>,
}

impl Metrics {
    /// Makes what is counted known under its names.
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::with_prefix("weir");
        let known = |registry: &mut Registry, name: &str, help: &str| {
            let gauge: Gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The agent's version", Info::new(version));
        let by_kind = Family::<Kind, Counter>::default();
        registry.register("events", "Events told, by kind", by_kind.clone());
        let (statements, losses, lost_bytes) = (Family::default(), Family::default(), Family::default());
        registry.register("statements", "Statements told, by database system", statements.clone());
        registry.register("losses", "Times that something was lost, by stage and reason", losses.clone());
        registry.register("lost_bytes", "Bytes that were lost, by stage and reason", lost_bytes.clone());
        let (blind, verdicts, kills) = (Family::default(), Family::default(), Family::default());
        registry.register("blind_connections", "Connections that could not be read, by cause", blind.clone());
        registry.register("verdicts", "Statements that a rule spoke about", verdicts.clone());
        registry.register("kills", "Sessions that were to be ended, by outcome", kills.clone());
        let kill_time = Histogram::new(exponential_buckets(25e-6, 2.0, 14));
        let help = "From the decision to the kernel's answer";
        registry.register_with_unit("kill", help, Unit::Seconds, kill_time.clone());
        let gauges = [
            ("ring_bytes", "Size of the kernel's ring"),
            ("ring_used_bytes", "Most bytes that waited in the kernel's ring in the last second"),
            ("connections", "Connections that are followed"),
            ("database_connections", "Connections that are followed in which a database was recognised"),
            ("texts", "Statement texts that are kept"),
            ("texts_bytes", "Bytes of the statement texts that are kept"),
            ("policies", "Policies in force"),
            ("policy_touches", "Touches of relations that are remembered"),
        ]
        .map(|(name, help)| known(&mut registry, name, help));
        let lookups = Family::<Found, Counter>::default();
        registry.register("text_lookups", "Statement texts looked up, by what was found", lookups.clone());
        let forgotten = Counter::default();
        let help = "Windows of rate conditions that others needed the room of";
        registry.register("policy_windows_forgotten", help, forgotten.clone());
        registry.register_collector(Box::new(collect::OfStore(Arc::clone(&sources.store))));
        registry.register_collector(Box::new(collect::OfSignals(sources.told)));
        if let Some(approvals) = sources.approvals {
            registry.register_collector(Box::new(collect::OfApprovals(approvals)));
        }
        registry.register_collector(Box::new(collect::OfProcess));
        Self {
            registry: Mutex::new(registry),
            events: KINDS.map(|kind| by_kind.get_or_create(&Kind { kind }).clone()),
            statements,
            losses,
            lost_bytes,
            blind,
            verdicts,
            kills,
            kill_time,
            gauges,
            lookups: ["text", "shape", "none"].map(|result| lookups.get_or_create(&Found { result }).clone()),
            forgotten,
            begun: Instant::now(),
            beat: AtomicU64::new(0),
            armed: AtomicBool::new(false),
        }
    }

    /// Counts an event. Called for each: what is there already is found without a copy.
    pub fn event(&self, event: &Event, last: &mut OfSystem) {
        self.events[event.event_kind as usize].inc();
        match event.event_kind {
            EventKind::Statement => {
                if last.0 != event.db_system_name {
                    let system = event.db_system_name.to_string();
                    let counter = self.statements.get_or_create(&System { system }).clone();
                    *last = OfSystem(Arc::clone(&event.db_system_name), counter);
                }
                last.1.inc();
            }
            EventKind::Loss => self.lost(&event.error_type, 1, event.capture_lost_before),
            EventKind::Blind => {
                self.blind.get_or_create(&Cause { cause: event.error_type.to_string() }).inc();
            }
            _ => {}
        }
        if !event.policy_rule.is_empty() && event.event_kind == EventKind::Statement {
            let disposition = serde_json::to_value(event.disposition).unwrap_or_default();
            let decided = Decided {
                rule: event.policy_rule.to_string(),
                mode: event.policy_mode.to_string(),
                disposition: disposition.as_str().unwrap_or_default().to_owned(),
            };
            self.verdicts.get_or_create(&decided).inc();
        }
    }

    fn lost(&self, reason: &str, times: u64, bytes: u64) {
        let stage = match reason {
            "ring_full" | "sockets_full" | "unparsed" | "tls_full" | "shed" | "unreadable" => "kernel",
            "gap" | "buffer" => "reassembly",
            "oversize" | "garbled" => "protocol",
            "agent_down" | "agent_ended" => "agent",
            "signals_dropped" => "signals",
            _ => "other",
        };
        let lost = Lost { stage, reason: reason.to_owned() };
        self.losses.get_or_create(&lost).inc_by(times);
        self.lost_bytes.get_or_create(&lost).inc_by(bytes);
    }

    /// Counts a kill and how long it took.
    pub fn kill(&self, done: &Done) {
        let outcome = match done.outcome {
            Outcome::Killed => "killed",
            Outcome::Gone => "gone",
            Outcome::Refused(_) => "refused",
            Outcome::Failed(_) => "failed",
        };
        self.kills.get_or_create(&Ended { outcome }).inc();
        self.kill_time.observe(done.total_ns as f64 / 1e9);
    }

    /// Takes over what the pipeline knows.
    pub fn set(&self, gauges: &Gauges) {
        let values = [
            gauges.ring_bytes,
            gauges.ring_used,
            gauges.connections[0],
            gauges.connections[1],
            gauges.texts.0 as u64,
            gauges.texts.1 as u64,
            gauges.policies as u64,
            gauges.memory.0 as u64,
        ];
        for (gauge, value) in self.gauges.iter().zip(values) {
            gauge.set(value as i64);
        }
        for (counter, value) in self.lookups.iter().zip(gauges.lookups) {
            counter.inner().store(value, Relaxed);
        }
        self.forgotten.inner().store(gauges.memory.1, Relaxed);
    }

    /// The pipeline is alive.
    pub fn beat(&self) {
        self.beat.store(self.begun.elapsed().as_millis() as u64, Relaxed);
    }

    /// Capture is attached and rules are in force, or no longer.
    pub fn arm(&self, armed: bool) {
        self.beat();
        self.armed.store(armed, Relaxed);
    }

    /// Why the agent is not healthy, where it is not.
    pub fn sick(&self) -> Option<String> {
        let silence = self.begun.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Relaxed)));
        (self.armed.load(Relaxed) && silence > SILENCE)
            .then(|| format!("the pipeline has not said anything for {} s", silence.as_secs()))
    }

    /// Why the agent is not ready, where it is not.
    pub fn unready(&self) -> Option<String> {
        if self.armed.load(Relaxed) { self.sick() } else { Some("capture is not attached".into()) }
    }

    /// Everything, in OpenMetrics' text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// The counter of the database system that spoke last: mostly the next one is of the same.
#[derive(Debug, Default)]
pub struct OfSystem(Arc<str>, Counter);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Config;

    fn metrics(state: &std::path::Path) -> Arc<Metrics> {
        let config = Config { state: state.into(), url: "http://127.0.0.1:1".into(), ..Config::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = Arc::new(runtime.block_on(Store::open(config)).unwrap());
        Arc::new(Metrics::new(Sources { store, told: Vec::new(), approvals: None }))
    }

    #[test]
    fn ready_is_who_watches() {
        let state = tempfile::tempdir().unwrap();
        let metrics = metrics(state.path());
        assert!(metrics.sick().is_none() && metrics.unready().is_some());
        metrics.arm(true);
        assert_eq!((metrics.sick(), metrics.unready()), (None, None));
        metrics.arm(false);
        assert!(metrics.sick().is_none() && metrics.unready().is_some());
    }

    #[test]
    fn events_are_counted_by_what_they_say() {
        let state = tempfile::tempdir().unwrap();
        let (metrics, mut last) = (metrics(state.path()), OfSystem::default());
        let event = |event_kind, error_type: &str| Event {
            event_kind,
            error_type: error_type.into(),
            db_system_name: "postgresql".into(),
            capture_lost_before: 7,
            ..Event::default()
        };
        metrics.event(&event(EventKind::Statement, ""), &mut last);
        metrics.event(&event(EventKind::Statement, "42P01"), &mut last);
        metrics.event(&event(EventKind::Loss, "ring_full"), &mut last);
        metrics.event(&event(EventKind::Blind, "tls"), &mut last);
        let text = metrics.text();
        for line in [
            "weir_statements_total{system=\"postgresql\"} 2",
            "weir_events_total{kind=\"statement\"} 2",
            "weir_losses_total{stage=\"kernel\",reason=\"ring_full\"} 1",
            "weir_lost_bytes_total{stage=\"kernel\",reason=\"ring_full\"} 7",
            "weir_blind_connections_total{cause=\"tls\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn an_address_that_is_taken_is_an_error_not_the_end() {
        let state = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(server::Server::start(address, metrics(state.path())).is_err());
    }
}
