//! Events -> terminal: lines for programs, a table for people.

mod json; // values of an event -> JSON
pub mod grid; // rows -> aligned columns
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

/// Bytes that are handed on at once.
const BUFFER: usize = 128 << 10;

/// Prints events to standard output.
pub struct Printer {
    out: std::io::StdoutLock<'static>,
    format: Format,
    table: table::Table,
    lines: lines::Lines,
    /// Printed, but not handed to the reader yet.
    buffer: Vec<u8>,
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
            out: stdout.lock(),
            format,
            table: table::Table::new(colour),
            lines: lines::Lines::default(),
            buffer: Vec::with_capacity(BUFFER + (8 << 10)),
            broken: false,
        }
    }

    /// Prints one event. Whole lines only ever leave: [`Printer::flush`] after each batch.
    pub fn print(&mut self, event: &Event) {
        match self.format {
            Format::Jsonl => self.lines.write(event, &mut self.buffer),
            Format::Table => self.broken |= self.table.write(&mut self.buffer, event).is_err(),
        }
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Hands what was printed to the reader.
    pub fn flush(&mut self) {
        let written = self.out.write_all(&self.buffer).and_then(|()| self.out.flush());
        self.broken |= written.is_err();
        self.buffer.clear();
    }
}
