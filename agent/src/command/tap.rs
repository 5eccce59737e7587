//! `weir tap`: live statements to the terminal, stores nothing.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use agent_core::event::Event;
use agent_core::sensitive::Catalog;
use agent_core::sql::Redaction;

use super::session;
use super::values::{self, PortHint};
use crate::pipeline::Pipeline;
use crate::pipeline::record::Recorder;
use crate::show::{Format, Printer};

/// Show live statements of every database on this host; store nothing, change nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir tap                                every statement, as a table
  weir tap --format jsonl | jq .db_query_text
  weir tap --database postgresql --pid 4711
  weir tap --port 6432=postgresql         a database on a port of its own

Ends on Ctrl-C with what was pending. Needs root, or the capabilities that `weir doctor` names.")]
pub struct Args {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// What a server port speaks: a hint, other ports are looked at too
    #[arg(long, value_name = "N=PROTOCOL")]
    port: Vec<PortHint>,
    /// Only this database system, by its `db_system_name`
    #[arg(long, value_name = "PROTOCOL", value_parser = values::protocol)]
    database: Option<&'static str>,
    /// Only statements of this client process
    #[arg(long)]
    pid: Option<u32>,
    /// Only statements of this client container, by the beginning of its id
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// What is taken out of texts and parameters: literals, sensitive or none
    #[arg(long, default_value = "literals", value_parser = values::redaction)]
    redact: Redaction,
    /// Which columns hold sensitive data, beyond what names and values tell: see `weir catalog`
    #[arg(long, value_name = "FILE", value_parser = values::catalog)]
    catalog: Option<Arc<Catalog>>,
    /// Size of the kernel's ring buffer in KiB (a power of two)
    #[arg(long, value_name = "KIB", default_value = "65536", value_parser = values::ring_kib)]
    ring: u32,
    /// Put no probes on TLS libraries: encrypted connections stay blind
    #[arg(long)]
    no_tls: bool,
}

impl Args {
    fn wants(&self, event: &Event) -> bool {
        self.database.is_none_or(|name| *event.db_system_name == *name || event.session_id == 0)
            && self.pid.is_none_or(|pid| event.process_pid == Some(pid) || event.session_id == 0)
            && self
                .container
                .as_ref()
                .is_none_or(|id| event.container_id.starts_with(id.as_str()) || event.session_id == 0)
    }

    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let host = session::host_name();
        let mut recorder = Recorder::new(&host, &host, self.redact);
        recorder.catalog = self.catalog.clone().unwrap_or_default();
        let ports = self.port.iter().map(|hint| (hint.port, hint.protocol)).collect();
        let taps = session::Taps { ports, tls: !self.no_tls, ..session::Taps::default() };
        let ring = self.ring << 10;
        let printer = Rc::new(RefCell::new(Printer::new(self.format)));
        let to = Rc::clone(&printer);
        let output = Box::new(move |event: &Event| {
            if self.wants(event) {
                to.borrow_mut().print(event);
            }
        });
        let mut pipeline = Pipeline::new(recorder, Arc::default(), output);
        let stop = session::stop_flag()?;
        session::capture(ring, taps, None, &mut pipeline, &stop, |_| {
            let mut printer = printer.borrow_mut();
            printer.flush();
            !printer.broken
        })?;
        printer.borrow_mut().flush();
        Ok(ExitCode::SUCCESS)
    }
}
