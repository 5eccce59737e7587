//! PostgreSQL frontend/backend protocol 3.0 and 3.2 -> statements.

use super::{Context, Entry, Guess, Piece, Protocol, Start};
use crate::sql::Dialect;

/// PostgreSQL's row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "postgresql",
    dialect: Dialect::Postgresql,
    port: 5432,
    detect: |_, _, _| Guess::No,
    open: |_| Box::new(Postgresql {}),
};

struct Postgresql {}

impl Protocol for Postgresql {
    fn client(&mut self, _piece: Piece<'_>, _context: &mut Context<'_>) {}
    fn server(&mut self, _piece: Piece<'_>, _context: &mut Context<'_>) {}
    fn close(&mut self, _context: &mut Context<'_>) {}
}

#[allow(dead_code)]
fn start(_: Start) {}
