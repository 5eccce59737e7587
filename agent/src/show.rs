//! Events -> terminal: lines for programs, a table for people.

pub mod lines; // event -> one JSON object a line
pub mod table; // event -> one aligned, coloured line

use std::io::Write;

use agent_core::event::Event;

/// How events are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON object a line, all fields of the contract.
    Jsonl,
}

/// Prints events to standard output.
pub struct Printer {
    out: std::io::BufWriter<std::io::StdoutLock<'static>>,
    format: Format,
    table: table::Table,
    line: Vec<u8>,
    /// Set once the reader is gone (`weir tap | head`).
    pub broken: bool,
}

impl Printer {
    /// Colour goes to terminals only, and not where `NO_COLOR` is set.
    pub fn new(format: Format) -> Self {
        use std::io::IsTerminal as _;
        let stdout = std::io::stdout();
        let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self {
            out: std::io::BufWriter::with_capacity(256 << 10, stdout.lock()),
            format,
            table: table::Table::new(colour),
            line: Vec::with_capacity(4096),
            broken: false,
        }
    }

    /// Prints one event. Whole lines only ever leave: [`Printer::flush`] after each batch.
    pub fn print(&mut self, event: &Event) {
        let done = match self.format {
            Format::Jsonl => lines::write(&mut self.out, &mut self.line, event),
            Format::Table => self.table.write(&mut self.out, event),
        };
        self.broken |= done.is_err();
    }

    /// Hands what was printed to the reader.
    pub fn flush(&mut self) {
        self.broken |= self.out.flush().is_err();
    }
}
