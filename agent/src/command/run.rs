//! `weir run`: the agent: capture, identify, judge, act, record, store.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_core::event::{Event, EventKind};
use agent_core::policy::Policies;
use agent_core::segment::{Endpoint, Nanos};
use anyhow::Context as _;

use super::session;
use super::values::{self, PortHint};
use crate::approve::Approvals;
use crate::capture::live::Bell;
use crate::config::Config;
use crate::gate::Gate;
use crate::habits::Habits;
use crate::metrics::server::Server;
use crate::metrics::{Metrics, OfSystem, Sources};
use crate::pipeline::record::Recorder;
use crate::pipeline::{Output, Pipeline};
use crate::rules::{RuleText, Rules, RulesError};
use crate::signals::Signals;
use crate::store::supervise::{News, Supervisor};
use crate::store::{self, Store, embedded};

/// How long the end may take: what ClickHouse has not confirmed by then waits in the spool.
const CLOSING: Duration = Duration::from_secs(20);
/// How long the last signals may take at the end.
const SIGNALLING: Duration = Duration::from_secs(5);

/// Run the agent: capture every database on this host, judge, act, store receipts.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir run                                   every database, monitor only, embedded ClickHouse
  weir run --config /etc/weir/weir.yaml
  WEIR_STORE_URL=https://clickhouse:8443 weir run
  weir run --print-config > weir.yaml        all settings with their values

Prints `ready` on standard error once it is attached and armed; ends on SIGTERM or Ctrl-C.")]
pub struct Args {
    /// YAML file; every key is optional, `WEIR_...` variables go over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration in force and end
    #[arg(long)]
    print_config: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (config, unused) = Config::load(self.config.as_deref(), std::env::vars())?;
        if self.print_config {
            print!("{}", config.to_yaml());
            return Ok(ExitCode::SUCCESS);
        }
        for key in unused {
            tracing::warn!(key, "this setting has no effect in this version");
        }
        let stop = session::stop_flag()?;
        std::fs::create_dir_all(&config.state)
            .with_context(|| format!("cannot make {}; set another `state`", config.state.display()))?;
        let host = session::host_name();
        let agent_id = agent_id(&config.state, &host)?;
        let mut rules = Rules::load(&config.policies, config.gate.canary)?;

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let engine = if config.store.url.is_empty() { Some(engine(&config)?) } else { None };
        let url = engine.as_ref().map_or(config.store.url.clone(), Supervisor::url);
        let store = Arc::new(runtime.block_on(Store::open(store_config(&config, url, &agent_id, &host)?))?);

        store.policies(&policy_texts(&rules));

        let mut recorder = Recorder::new(&agent_id, &host, config.redaction.default);
        recorder.redaction_by_database.clone_from(&config.redaction.databases);
        if let Some(file) = &config.catalog {
            recorder.catalog = values::catalog(&file.to_string_lossy()).map_err(anyhow::Error::msg)?;
        }
        let texts = Arc::clone(&store);
        let signals = Rc::new(RefCell::new(start_signals(&config)?));
        signals.borrow().rules(&rules.policies());
        let bell = Bell::new().context("cannot make an eventfd")?;
        let approvals = Arc::new(approvals(&config, &host, bell.clone())?);
        approvals.rules(&rules.policies());
        let told = signals.borrow().told().cloned().chain(approvals.told()).collect();
        let sources = Sources { store: Arc::clone(&store), told, approvals: Some(approvals.counted()) };
        let metrics = Arc::new(Metrics::new(sources));
        let server = serve_metrics(&config, &metrics);
        let mut pipeline = Pipeline::new(recorder, rules.policies(), output(&store, &signals, &metrics));
        pipeline.gauges.ring_bytes = config.ring_bytes().unwrap_or(0).into();
        let (mut habits, memory) = Habits::open(&config.state);
        pipeline.memory = memory;
        note_expired(&rules.policies());
        let alive = Alive::begin(&config.state, &mut pipeline);
        let mut gate = gate(&config.state, engine.as_ref())?;
        let counted = Arc::clone(&metrics);
        gate.watch(move |done| counted.kill(done));
        gate.approvals = Some(Arc::clone(&approvals));
        gate.bell = Some(bell);
        for (server, name) in &config.gate.remote {
            let addresses = values::remote(server, name).map_err(anyhow::Error::msg)?;
            gate.settings.remote.extend(addresses.into_iter().map(|address| (address, name.clone())));
        }
        gate.settings.tls = config.gate.tls;
        gate.settings.ports.clone_from(&config.gate.ports);
        gate.settings.catalog = Arc::clone(&pipeline.recorder.catalog);
        gate.settings.closed = config.gate.fail == "closed";
        gate.settings.held_bytes = crate::config::bytes(&config.gate.held_bytes).unwrap_or(64 << 20);
        let ports = config
            .capture
            .ports
            .iter()
            .filter_map(|(port, name)| format!("{port}={name}").parse::<PortHint>().ok())
            .map(|hint| (hint.port, hint.protocol))
            .collect();
        let tls = config.capture.tls != "off";
        let taps = session::Taps { ports, unix: config.capture.unix, tls };
        let ring = config.ring_bytes().context("capture.ring is not usable")?;

        let mut looked = std::time::Instant::now();
        let mut untold = Untold::default();
        let captured = session::capture(ring, taps, Some(gate), &mut pipeline, &stop, |pipeline| {
            metrics.arm(true);
            if looked.elapsed() >= Duration::from_secs(1) {
                looked = std::time::Instant::now();
                alive.beat();
                metrics.set(&pipeline.gauges());
                untold.note(pipeline, &signals.borrow());
                habits.save(&mut pipeline.memory);
                note_engine(pipeline, engine.as_ref());
                if let Some(change) = rules.changed() {
                    note_rules(pipeline, &change);
                    pipeline.policies = rules.policies();
                    if change.is_ok() {
                        texts.policies(&policy_texts(&rules));
                    }
                    signals.borrow().rules(&pipeline.policies);
                    approvals.rules(&pipeline.policies);
                    note_expired(&pipeline.policies);
                }
            }
            true
        });
        metrics.arm(false);
        signals.borrow_mut().close(SIGNALLING);
        untold.note(&mut pipeline, &signals.borrow());
        pipeline.note(EventKind::Config, now(), |event| event.error_type = "agent_stopped".into());
        habits.save(&mut pipeline.memory);
        drop(pipeline);
        drop(texts);
        let counters = runtime.block_on(store.close(CLOSING));
        drop(server);
        drop(engine);
        if counters.spooled > 0 {
            eprintln!(
                "weir: {} receipts wait in {} for the next start: ClickHouse did not take them in time",
                counters.spooled,
                config.state.display()
            );
        }
        captured?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Where events go: counted, told to whom it concerns, stored. None of it waits.
fn output(store: &Arc<Store>, signals: &Rc<RefCell<Signals>>, metrics: &Arc<Metrics>) -> Output {
    let (store, signals, metrics) = (Arc::clone(store), Rc::clone(signals), Arc::clone(metrics));
    let mut last = OfSystem::default();
    Box::new(move |event: &Event| {
        metrics.event(event, &mut last);
        signals.borrow().offer(event);
        // A full queue is counted there, and becomes an event of its own.
        store.push(event.clone());
    })
}

fn start_signals(config: &Config) -> anyhow::Result<Signals> {
    Signals::start(&config.signals).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", problems.join("; "))
    })
}

/// Those who decide about what is held. The pipeline fetches their answers when it is rung for.
fn approvals(config: &Config, host: &str, bell: Bell) -> anyhow::Result<Approvals> {
    let opened = config.approvals.open(&config.listen.control, &config.state, host)?;
    Approvals::start(opened, Box::new(move || bell.ring())).context("cannot start the thread of approvals")
}

/// An address that is taken is no reason not to watch databases: it is said, and the agent goes on without.
fn serve_metrics(config: &Config, metrics: &Arc<Metrics>) -> Option<Server> {
    let address: SocketAddr = config.listen.metrics.parse().ok()?;
    let served = Server::start(address, Arc::clone(metrics));
    served
        .inspect_err(|error| {
            tracing::warn!(%error, %address, "no metrics: choose another `listen.metrics`, or \"\" for none");
        })
        .ok()
}

/// Signals that nobody was told: how many of them have become events.
#[derive(Default)]
struct Untold(u64);

impl Untold {
    fn note(&mut self, pipeline: &mut Pipeline, signals: &Signals) {
        let all = signals.told().flat_map(|told| told.tally.dropped()).map(|(_, count)| count).sum();
        let more = all - std::mem::replace(&mut self.0, all);
        if more > 0 {
            pipeline.note(EventKind::Loss, now(), |event| {
                event.error_type = "signals_dropped".into();
                event.db_query_text = format!("{more} signals were not told").into();
                event.statement_complete = false;
            });
        }
    }
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The rules in force as receipts will name them.
fn policy_texts(rules: &Rules) -> Vec<store::PolicyText> {
    let time = now().0;
    let text = |rule: &RuleText| store::PolicyText {
        rule: rule.rule.clone(),
        version: rule.version.clone(),
        text: rule.text.clone(),
        file: rule.file.clone(),
        time,
    };
    rules.texts().iter().map(text).collect()
}

/// New rules are in force, or were refused: either is an event.
fn note_rules(pipeline: &mut Pipeline, change: &Result<(), RulesError>) {
    let what = match change {
        Ok(()) => "policies_loaded",
        Err(error) => {
            tracing::error!(%error, "the policies were refused; the ones before stay in force");
            "policies_refused"
        }
    };
    pipeline.note(EventKind::Config, now(), |event| event.error_type = what.into());
}

/// Exceptions that are over are left in files by oversight: nobody should believe in them.
fn note_expired(policies: &Policies) {
    for (name, until) in policies.expired(now().0) {
        let until = agent_core::event::rfc3339(until);
        tracing::warn!(policy = name, until, "an exception of this policy is over");
    }
}

/// The embedded engine died, or is there again: either is an event.
fn note_engine(pipeline: &mut Pipeline, engine: Option<&Supervisor>) {
    for news in engine.into_iter().flat_map(Supervisor::news) {
        let what = match news {
            News::Ended => "clickhouse_ended",
            News::Restarted => "clickhouse_restarted",
        };
        pipeline.note(EventKind::Config, now(), |event| event.error_type = what.into());
    }
}

/// The shim is always there: rules that act may come while the agent runs.
fn gate(state: &Path, engine: Option<&Supervisor>) -> anyhow::Result<Gate> {
    let mut gate = Gate::start(&std::env::current_exe()?, &state.join("run"))?;
    if let Some(engine) = engine {
        let address = engine.address();
        gate.spare_endpoint(Endpoint { address: address.ip(), port: address.port() });
    }
    Ok(gate)
}

/// The embedded engine, as a child process that is looked after.
fn engine(config: &Config) -> anyhow::Result<Supervisor> {
    let listen: SocketAddr = config.store.listen.parse().with_context(|| {
        format!("store.listen: `{}` is no address; write e.g. 127.0.0.1:8123", config.store.listen)
    })?;
    let mut settings = embedded::Config::new(config.state.join("clickhouse"));
    settings.listen = (listen.port() != 0).then_some(listen);
    Ok(Supervisor::start(settings)?)
}

fn store_config(config: &Config, url: String, agent_id: &str, host: &str) -> anyhow::Result<store::Config> {
    let password = match &config.store.password_file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read store.password_file {}", path.display()))?
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    Ok(store::Config {
        url,
        database: config.store.database.clone(),
        user: config.store.user.clone(),
        password: store::Secret(password),
        state: config.state.clone(),
        agent_id: agent_id.to_owned(),
        host_name: host.to_owned(),
        spool_bytes: crate::config::bytes(&config.store.spool).unwrap_or(1 << 30),
        checkpoint_receipts: config.checkpoint.receipts,
        checkpoint_interval: Duration::from_secs(config.checkpoint.seconds),
        anchor_file: config.anchor.file.clone(),
        anchor_url: config.anchor.url.clone(),
        retention_days: config.retention.days,
        ..store::Config::default()
    })
}

/// The agent's name: the host's, and what tells two hosts of one name apart. Made at the first start and kept, for
/// the receipt chain hangs on it.
fn agent_id(state: &Path, host: &str) -> anyhow::Result<String> {
    let path = state.join("agent_id");
    if let Ok(known) = std::fs::read_to_string(&path)
        && !known.trim().is_empty()
    {
        return Ok(known.trim().to_owned());
    }
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let tail = machine.trim().get(..8).map_or_else(|| format!("{:08x}", std::process::id()), str::to_owned);
    let id = format!("{host}-{tail}");
    std::fs::write(&path, &id).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(id)
}

/// A file whose time says when the agent was last at work, so that the next start can say what was not watched.
struct Alive {
    path: PathBuf,
}

impl Alive {
    /// Notes the start, and the time before it in which nobody watched.
    fn begin(state: &Path, pipeline: &mut Pipeline) -> Self {
        let alive = Self { path: state.join("alive") };
        let before = std::fs::metadata(&alive.path).and_then(|m| m.modified()).ok();
        let now = now();
        if let Some(before) = before.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            let from = Nanos(before.as_nanos() as u64);
            pipeline.note(EventKind::Loss, from, |event| {
                event.error_type = "agent_down".into();
                event.duration_ns = Some(now.since(from));
                event.statement_complete = false;
            });
        }
        pipeline.note(EventKind::Config, now, |event| event.error_type = "agent_started".into());
        alive.beat();
        alive
    }

    fn beat(&self) {
        if let Err(error) = std::fs::write(&self.path, agent_core::event::rfc3339(now().0)) {
            tracing::warn!(%error, path = %self.path.display(), "cannot note that the agent is alive");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_keeps_its_name() {
        let dir = std::env::temp_dir().join(format!("weir-agent-id-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = agent_id(&dir, "one").unwrap();
        assert!(first.starts_with("one-"), "{first}");
        assert_eq!(agent_id(&dir, "two").unwrap(), first);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
