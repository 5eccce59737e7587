//! Judged events -> somebody's attention: a webhook, syslog, OTLP logs, OCSF. Never delays a verdict or the store.
//!
//! The pipeline hands over what somebody wants to know and goes on; a thread of its own gathers repetitions, words each
//! signal for its receiver and tries again where that does not take it. Every queue is bounded, every drop is counted.

pub mod settings; // `signals` of the configuration -> where to, about what
pub mod gather; // equal events within a window -> one signal with a count
pub mod words; // signal -> a line for people, attributes for machines
pub mod webhook; // signal -> Slack's JSON
pub mod syslog; // signal -> RFC 5424
pub mod otlp; // signal -> OTLP logs in JSON
pub mod ocsf; // signal -> OCSF Datastore Activity
pub(crate) mod deliver; // worded signals -> receiver, until it takes them
pub(crate) mod http; // body -> HTTP(S)

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_core::event::Event;
use agent_core::policy::Policies;
use tokio::sync::{mpsc, watch};

use self::deliver::Receiver;
use self::gather::Gathered;
use self::settings::{Problem, Sink, Wanted};

/// Events that wait to be gathered.
const QUEUE: usize = 4096;
/// Signals that wait for one receiver.
const OUTBOX: usize = 256;
/// How often windows are looked at.
const TICK: Duration = Duration::from_millis(250);

/// One signal on its way.
#[derive(Clone)]
pub struct Signal {
    /// The event; the first one of several equal ones.
    pub event: Arc<Event>,
    /// How many equal ones there were so far.
    pub count: u64,
    /// When the last of them was, in nanoseconds since the epoch.
    pub last: u64,
    /// The rule's message.
    pub message: Arc<str>,
}

/// What became of what one receiver was to be told.
#[derive(Debug, Default)]
pub struct Tally {
    /// Signals that it took.
    pub sent: AtomicU64,
    /// Events that became part of another signal's count.
    pub gathered: AtomicU64,
    /// Attempts that failed and were repeated.
    pub retries: AtomicU64,
    /// Events not told: the queue was full.
    pub dropped_queue: AtomicU64,
    /// Signals not told: the receiver was too slow.
    pub dropped_outbox: AtomicU64,
    /// Signals not told: the receiver was away for too long.
    pub dropped_gave_up: AtomicU64,
    /// Signals not told: the receiver refused them for good.
    pub dropped_refused: AtomicU64,
    /// Signals not told: the agent ended first.
    pub dropped_ended: AtomicU64,
}

impl Tally {
    /// What was dropped, by reason.
    pub fn dropped(&self) -> [(&'static str, u64); 5] {
        [
            ("queue_full", self.dropped_queue.load(Relaxed)),
            ("outbox_full", self.dropped_outbox.load(Relaxed)),
            ("gave_up", self.dropped_gave_up.load(Relaxed)),
            ("refused", self.dropped_refused.load(Relaxed)),
            ("agent_ended", self.dropped_ended.load(Relaxed)),
        ]
    }
}

/// A receiver's name and what became of what it was to be told.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its name.
    pub name: Arc<str>,
    /// Its counters.
    pub tally: Arc<Tally>,
}

/// The way to the receivers. Cheap where nobody wants to know.
pub struct Signals {
    wanted: Wanted,
    queue: Option<mpsc::Sender<Event>>,
    messages: Arc<Mutex<HashMap<Arc<str>, Arc<str>>>>,
    told: Vec<(Wanted, Told)>,
    stop: watch::Sender<Duration>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Starts the thread that tells; none where there is nobody to tell. Secrets are read from their files now.
    pub fn start(sinks: &[Sink]) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut receivers = Vec::new();
        for (number, sink) in sinks.iter().enumerate() {
            match Receiver::new(sink, number) {
                Ok(receiver) => receivers.push(receiver),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let wanted = receivers.iter().fold(Wanted::default(), |all, receiver| all | receiver.wanted);
        let told = receivers.iter().map(|receiver| (receiver.wanted, receiver.told.clone())).collect();
        let messages = Arc::new(Mutex::new(HashMap::new()));
        let (stop, stopped) = watch::channel(Duration::MAX);
        let mut signals =
            Self { wanted, queue: None, messages: Arc::clone(&messages), told, stop, thread: None };
        if receivers.is_empty() {
            return Ok(signals);
        }
        let (queue, events) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("weir-signals".into());
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(tell(receivers, events, &messages, stopped)),
            Err(error) => tracing::error!(%error, "no signals are sent"),
        };
        match thread.spawn(run) {
            Ok(thread) => signals.thread = Some(thread),
            Err(error) => return Err(vec![Problem(format!("signals: no thread can be started: {error}"))]),
        }
        signals.queue = Some(queue);
        Ok(signals)
    }

    /// Learns what rules say to people.
    pub fn rules(&self, policies: &Policies) {
        let known = policies.iter().filter(|policy| !policy.message.is_empty());
        let known = known.map(|policy| (Arc::clone(&policy.name), Arc::clone(&policy.message)));
        *self.messages.lock().unwrap_or_else(PoisonError::into_inner) = known.collect();
    }

    /// Hands an event over where somebody wants to know of it. Never waits.
    pub fn offer(&self, event: &Event) {
        if !self.wanted.wants(event) {
            return;
        }
        let Some(queue) = &self.queue else { return };
        // A place first: what finds none is not copied.
        if let Ok(place) = queue.try_reserve() {
            place.send(event.clone());
        } else {
            for (_, told) in self.told.iter().filter(|(wanted, _)| wanted.wants(event)) {
                told.tally.dropped_queue.fetch_add(1, Relaxed);
            }
        }
    }

    /// What became of what each receiver was to be told.
    pub fn told(&self) -> impl Iterator<Item = &Told> {
        self.told.iter().map(|(_, told)| told)
    }

    /// Tells what waits, at most until the deadline; what is left then is counted as dropped.
    pub fn close(&mut self, deadline: Duration) {
        self.queue = None;
        let _ = self.stop.send(deadline);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

/// Gathers events for each receiver until there are no more.
async fn tell(
    receivers: Vec<Receiver>,
    mut events: mpsc::Receiver<Event>,
    messages: &Mutex<HashMap<Arc<str>, Arc<str>>>,
    stopped: watch::Receiver<Duration>,
) {
    // Its rights are those of what it does: speak to receivers, append to a file of its own user.
    if let Err(error) = crate::privileges::keep(&[]) {
        tracing::warn!(%error, "signals keep the agent's capabilities");
    }
    let mut sinks = Vec::new();
    let mut tasks = Vec::new();
    for receiver in receivers {
        let (outbox, signals) = mpsc::channel(OUTBOX);
        let sink = Gathering {
            wanted: receiver.wanted,
            gathered: Gathered::new(receiver.within),
            outbox,
            tally: Arc::clone(&receiver.told.tally),
        };
        sinks.push(sink);
        tasks.push(tokio::spawn(receiver.run(signals, stopped.clone())));
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { break };
                let event = Arc::new(event);
                let message = messages.lock().unwrap_or_else(PoisonError::into_inner);
                let message = message.get(&event.policy_rule).cloned().unwrap_or_default();
                for sink in sinks.iter_mut().filter(|sink| sink.wanted.wants(&event)) {
                    sink.take(&event, &message);
                }
            }
            _ = tick.tick() => sinks.iter_mut().for_each(|sink| sink.look(false)),
        }
    }
    for sink in &mut sinks {
        sink.look(true);
    }
    drop(sinks);
    for task in tasks {
        let _ = task.await;
    }
}

/// One receiver's windows.
struct Gathering {
    wanted: Wanted,
    gathered: Gathered,
    outbox: mpsc::Sender<Signal>,
    tally: Arc<Tally>,
}

impl Gathering {
    fn take(&mut self, event: &Arc<Event>, message: &Arc<str>) {
        let told = self.gathered.take(event, message, tokio::time::Instant::now());
        if told.is_empty() {
            self.tally.gathered.fetch_add(1, Relaxed);
        }
        self.put(told);
    }

    /// Tells of windows that are over, or of all.
    fn look(&mut self, all: bool) {
        let now = tokio::time::Instant::now();
        let over = self.gathered.over(if all { None } else { Some(now) });
        self.put(over);
    }

    fn put(&self, signals: Vec<Signal>) {
        for signal in signals {
            if self.outbox.try_send(signal).is_err() {
                self.tally.dropped_outbox.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
