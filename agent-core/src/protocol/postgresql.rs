//! PostgreSQL frontend/backend protocol 3.0 and 3.2 -> statements.
//!
//! Source: the manual's part VII, "Frontend/Backend Protocol". In the order of flow:

mod answer; // what the server sends
mod boundary; // where a message begins in a stream of unknown alignment
mod command; // statements that change the session
mod frames; // pieces -> whole messages
mod mask; // a gated session's answers with sensitive values masked
mod inline; // held messages -> what they ask for, what refuses them
mod machine; // the session: what waits for an answer, what is known by name
mod parameters; // Bind -> values
mod prepared; // names of statements and portals
mod request; // what the client sends
mod sample; // columns and first rows of an answer
mod settings; // role and search path, with their transaction
mod title; // title of a server process -> user and database
mod startup; // first packet -> session, encryption, cancellation
mod tag;
mod types; // values -> text // CommandComplete -> rows

use self::boundary::{find_client, find_server};
use self::frames::{Found, Frames, Message, Receiver, Style};
use self::machine::{Machine, Phase};
use super::{Context, Entry, First, Guess, Piece, Protocol, Start};
use crate::exchange::LossReason;
use crate::sql::Dialect;

/// PostgreSQL's row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "postgresql",
    dialect: Dialect::Postgresql,
    port: 5432,
    socket: ".s.PGSQL.",
    detect,
    title: title::read,
    open: |start| Box::new(Postgresql::new(start)),
    mask: Some(|| Box::new(mask::Masker::default())),
    inline: Some(&inline::INLINE),
};

fn detect(first: &First<'_>) -> Guess {
    match startup::begins(first.client) {
        Some(true) => return Guess::Start,
        // The server never speaks first.
        None if first.start == Start::Beginning && first.server.is_empty() => return Guess::Unsure,
        _ => {}
    }
    if first.client.first() == Some(&0x16) {
        match startup::direct_tls(first.client) {
            Some(true) => return Guess::Start,
            None => return Guess::Unsure,
            Some(false) => return Guess::No,
        }
    }
    if first.start == Start::Beginning {
        return Guess::No;
    }
    let client = find_client(first.client, true);
    let server = find_server(first.server, true);
    match (client, server) {
        (Found::At(_), _) | (_, Found::At(_)) => Guess::Midstream,
        _ => Guess::Unsure,
    }
}

struct Postgresql {
    client: Frames,
    server: Frames,
    machine: Machine,
}

impl Postgresql {
    fn new(start: Start) -> Self {
        let frames = || if start == Start::Midstream { Frames::adopted() } else { Frames::new() };
        Self { client: frames(), server: frames(), machine: Machine::new(start) }
    }
}

impl Protocol for Postgresql {
    fn client(&mut self, piece: Piece<'_>, context: &mut Context<'_>) {
        if let Piece::Bytes([0x16, ..]) = piece
            && matches!(self.machine.phase, Phase::Startup | Phase::Encryption { .. })
            && self.client.is_between()
        {
            self.machine.direct_tls(context);
        }
        if let Piece::Gap { length, elided: false } = piece {
            self.machine.lose(length);
        }
        let time = context.time;
        self.client.feed(piece, time, &mut Client { machine: &mut self.machine, context });
    }

    fn server(&mut self, piece: Piece<'_>, context: &mut Context<'_>) {
        if let Piece::Gap { length, elided: false } = piece {
            self.machine.lose(length);
        }
        let time = context.time;
        self.server.feed(piece, time, &mut Server { machine: &mut self.machine, context });
        if self.server.is_hunting() {
            self.machine.busy();
        }
    }

    fn close(&mut self, context: &mut Context<'_>) {
        self.client.close(&mut Client { machine: &mut self.machine, context });
        self.server.close(&mut Server { machine: &mut self.machine, context });
        self.machine.close(context);
    }
}

struct Client<'a, 'b> {
    machine: &'a mut Machine,
    context: &'a mut Context<'b>,
}

impl Receiver for Client<'_, '_> {
    const KEEP: (usize, usize) = (31 << 20, 1 << 20);

    fn style(&self) -> Style {
        match self.machine.phase {
            // Until the server has answered, nothing but encrypted bytes or another packet can come.
            Phase::Startup | Phase::Encryption { .. } => Style::Untyped,
            Phase::Stop => Style::Stop,
            Phase::Login | Phase::Ready => Style::Typed,
        }
    }

    fn plausible(kind: u8, length: u32) -> bool {
        boundary::client(kind, length)
    }

    fn find(window: &[u8], fresh: bool) -> Found {
        find_client(window, fresh)
    }

    fn wants(&mut self, kind: u8, _size: u64) -> bool {
        Machine::wants_request(kind)
    }

    fn message(&mut self, message: Message<'_>) {
        self.machine.request(&message, self.context);
    }

    fn hole(&mut self, elided: bool) {
        let _ = elided; // requests are never left out on purpose: they are missing either way
        self.machine.requests_missing(self.context);
    }

    fn garbled(&mut self, bytes: u64) {
        self.machine.garbled(self.context.client, bytes, LossReason::Garbled, self.context);
    }
}

struct Server<'a, 'b> {
    machine: &'a mut Machine,
    context: &'a mut Context<'b>,
}

impl Receiver for Server<'_, '_> {
    const KEEP: (usize, usize) = (64 << 10, 1 << 10);

    fn style(&self) -> Style {
        match self.machine.phase {
            Phase::Encryption { .. } => Style::Byte,
            Phase::Stop => Style::Stop,
            _ => Style::Typed,
        }
    }

    fn plausible(kind: u8, length: u32) -> bool {
        boundary::server(kind, length)
    }

    fn find(window: &[u8], fresh: bool) -> Found {
        find_server(window, fresh)
    }

    fn wants(&mut self, kind: u8, _size: u64) -> bool {
        self.machine.wants_answer(kind)
    }

    fn message(&mut self, message: Message<'_>) {
        self.machine.answer(&message, self.context);
    }

    fn hole(&mut self, elided: bool) {
        self.machine.answers_missing(elided, self.context);
    }

    fn garbled(&mut self, bytes: u64) {
        self.machine.garbled(self.context.client.other(), bytes, LossReason::Garbled, self.context);
    }
}

#[cfg(test)]
#[path = "postgresql/tests.rs"]
mod tests;
