//! `weir replay`: pcap and pcapng files through the same pipeline as live traffic.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_core::event::Event;
use agent_core::sensitive::Catalog;
use agent_core::sql::Redaction;
use anyhow::Context as _;

use super::session;
use super::values::{self, PortHint};
use crate::pipeline::Pipeline;
use crate::pipeline::files::Files;
use crate::pipeline::record::Recorder;
use crate::show::{Format, Printer};
use crate::store::{self, Store};

/// How long ClickHouse may take to confirm the last rows.
const CLOSING: Duration = Duration::from_secs(60);

/// Read statements from capture files, by the same code that reads live traffic.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir replay traffic.pcap
  weir replay --format jsonl day1.pcapng day2.pcapng > statements.jsonl
  weir replay --port 6432=postgresql pooler.pcap
  weir replay --store http://127.0.0.1:8123 traffic.pcap   into ClickHouse instead of the terminal

Files are read in the order given; a connection may go on from one file to the next.")]
pub struct Args {
    /// pcap or pcapng files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// What a server port speaks: a hint, other ports are looked at too
    #[arg(long, value_name = "N=PROTOCOL")]
    port: Vec<PortHint>,
    /// What is taken out of texts and parameters: literals, sensitive or none
    #[arg(long, default_value = "literals", value_parser = values::redaction)]
    redact: Redaction,
    /// Which columns hold sensitive data, beyond what names and values tell: see `weir catalog`
    #[arg(long, value_name = "FILE", value_parser = values::catalog)]
    catalog: Option<Arc<Catalog>>,
    /// Store the events in this ClickHouse, print nothing
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match &self.store {
            Some(url) => self.store(url),
            None => Ok(self.print()),
        }
    }

    fn recorder(&self, agent_id: &str) -> Recorder {
        let mut recorder = Recorder::new(agent_id, &session::host_name(), self.redact);
        recorder.catalog = self.catalog.clone().unwrap_or_default();
        recorder
    }

    /// Reads all files; a file that cannot be read is said, and the others are read all the same.
    fn read(&self, pipeline: &mut Pipeline, mut each: impl FnMut()) -> ExitCode {
        let mut files = Files::new(self.port.iter().map(|hint| (hint.port, hint.protocol)).collect());
        let mut code = ExitCode::SUCCESS;
        for path in &self.files {
            if let Err(error) = files.read(path, pipeline, &mut each) {
                eprintln!("weir: {error}");
                code = ExitCode::FAILURE;
            }
        }
        files.finish(pipeline);
        code
    }

    fn print(&self) -> ExitCode {
        let printer = Rc::new(RefCell::new(Printer::new(self.format)));
        let to = Rc::clone(&printer);
        let output = Box::new(move |event: &Event| {
            let mut printer = to.borrow_mut();
            if printer.broken {
                // The reader went away (`weir replay | head`): nobody wants the rest.
                std::process::exit(0);
            }
            printer.print(event);
        });
        let mut pipeline = Pipeline::new(self.recorder("replay"), Arc::default(), output);
        let code = self.read(&mut pipeline, || {});
        printer.borrow_mut().flush();
        code
    }

    fn store(&self, url: &str) -> anyhow::Result<ExitCode> {
        let state = tempfile::tempdir().context("cannot make a temporary directory for the spool")?;
        // A chain of its own: each replay is a run of its own, and says so.
        let agent_id = format!("replay-{:x}", crate::pipeline::record::random());
        let config = store::Config {
            url: url.to_owned(),
            state: state.path().to_owned(),
            agent_id: agent_id.clone(),
            host_name: session::host_name(),
            ..store::Config::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let store = Arc::new(runtime.block_on(Store::open(config))?);
        let to = Arc::clone(&store);
        let output = Box::new(move |event: &Event| {
            // A file can wait, a live capture cannot: here nothing is dropped for a full queue.
            while !to.push(event.clone()) {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut pipeline = Pipeline::new(self.recorder(&agent_id), Arc::default(), output);
        let code = self.read(&mut pipeline, || {});
        drop(pipeline);
        let counters = runtime.block_on(store.close(CLOSING));
        if counters.spooled > 0 {
            anyhow::bail!(
                "{} of {} events were not confirmed by {url} in time; see whether ClickHouse answers there",
                counters.spooled,
                counters.pushed
            );
        }
        eprintln!("{} events stored as agent {agent_id}", counters.stored);
        Ok(code)
    }
}
