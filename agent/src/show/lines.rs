//! An event -> one JSON object on one line, every field of the contract.

use std::io::{self, Write};

use agent_core::event::Event;

/// Writes the event and a newline.
pub fn write(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    out.write_all(b"\n")
}
