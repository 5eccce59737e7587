//! Bytes of a connection -> statements. The trait that every database implements, the table of them, detection.

use std::sync::Arc;

use crate::exchange::{Blindness, Loss, Session, Statement, Ticket};
use crate::mask::Mask;
use crate::segment::{Nanos, Side};
use crate::sql::{Dialect, Texts};

pub mod inline; // held on its way to the server
pub mod postgresql;

/// What reassembly hands to a protocol, in stream order.
#[derive(Clone, Copy)]
pub enum Piece<'a> {
    /// The next bytes of the stream.
    Bytes(&'a [u8]),
    /// This many bytes are not there.
    Gap {
        /// Length of the hole in bytes; 0 where it is unknown (attached mid-stream).
        length: u64,
        /// True where the bytes were left out on purpose (HEAD+TAIL), false where they were lost.
        elided: bool,
    },
}

/// Everything a parser may touch besides its own state.
pub struct Context<'a> {
    /// Statement texts known so far, parsed once each.
    pub texts: &'a mut Texts,
    /// Where statements go.
    pub sink: &'a mut dyn Sink,
    /// When the piece was seen.
    pub time: Nanos,
    /// Which side of the connection the client is, to say whose bytes were lost.
    pub client: Side,
}

/// Receives what a connection yields, in order.
pub trait Sink {
    /// The bytes were recognised: `protocol` is an entry's name, `client` the side that asks. Called once, before
    /// everything else.
    fn detected(&mut self, protocol: &'static str, client: Side) {
        let _ = (protocol, client);
    }
    /// No entry of the table matched: nothing more will come from this connection.
    fn refused(&mut self) {}
    /// It was joined midway and carries TLS: of a database or of anything else. Nothing more will come from it.
    fn encrypted(&mut self) {
        self.refused();
    }
    /// The session began or changed (user, database, role, `application_name`, ...).
    fn session(&mut self, session: &Arc<Session>) {
        let _ = session;
    }
    /// A statement's request is complete and is, or soon will be, with the database. Judged here, because
    /// waiting for the answer would be too late. What is returned comes back in `Statement::ticket`.
    fn request(&mut self, statement: &Statement) -> Ticket {
        let _ = statement;
        Ticket::default()
    }
    /// A statement with its outcome, or without one where the connection ended first.
    fn statement(&mut self, statement: Statement);
    /// Bytes of this connection were lost.
    fn lost(&mut self, loss: Loss) {
        let _ = loss;
    }
    /// From here on the connection cannot be read (TLS, GSS encryption).
    fn blind(&mut self, blindness: Blindness) {
        let _ = blindness;
    }
    /// True: what `from` is sending is large and only the heads and tails of its segments are needed (a big
    /// result, a COPY). False: back to all. The other side's segments are needed whole at all times: a large
    /// request may follow at once.
    fn bulk(&mut self, from: Side, on: bool) {
        let _ = (from, on);
    }
}

/// One connection's parser. Never panics, never allocates what a length field merely claims.
pub trait Protocol: Send {
    /// Takes the next piece that the client sent.
    fn client(&mut self, piece: Piece<'_>, context: &mut Context<'_>);
    /// Takes the next piece that the server sent.
    fn server(&mut self, piece: Piece<'_>, context: &mut Context<'_>);
    /// The connection is gone: what is pending is handed out without an outcome.
    fn close(&mut self, context: &mut Context<'_>);
}

/// The first bytes of a connection, or the latest ones of one that was joined midstream.
#[derive(Clone, Copy)]
pub struct First<'a> {
    /// What the client sent, if it is the client.
    pub client: &'a [u8],
    /// What the server sent.
    pub server: &'a [u8],
    /// The port promises this protocol.
    pub hinted: bool,
    /// Whether these are the connection's first bytes.
    pub start: Start,
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// Not this protocol.
    No,
    /// More bytes are needed.
    Unsure,
    /// This protocol, from its first byte on.
    Start,
    /// This protocol, joined after its start.
    Midstream,
}

/// How a parser starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the connection's first byte.
    Beginning,
    /// At the first message boundary that is found.
    Midstream,
}

/// Whom a server process serves, by its title.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Titled {
    /// Database user that the session logged in as.
    pub user: String,
    /// Database.
    pub namespace: String,
}

/// What the process title of a server says about the session of the client at this port; none where the protocol's
/// servers say nothing there.
pub fn titled(protocol: &str, title: &str, client_port: u16) -> Option<Titled> {
    let entry = PROTOCOLS.iter().find(|entry| entry.name == protocol)?;
    (entry.title)(title, client_port)
}

/// One database protocol: a row of the table.
pub struct Entry {
    /// Value of `db_system_name` (OpenTelemetry).
    pub name: &'static str,
    /// How its statements are written.
    pub dialect: Dialect,
    /// Usual server port: a hint for detection and for who is the client, never a proof.
    pub port: u16,
    /// What the last part of its usual Unix socket's path begins with: a hint as `port` is; empty where there is none.
    pub socket: &'static str,
    /// Looks at the first bytes of both directions. Called again as more of them come.
    pub detect: fn(&First<'_>) -> Guess,
    /// Reads what the title of a server process says about the session that it serves for the client at this port.
    pub title: fn(&str, u16) -> Option<Titled>,
    /// Makes a parser for one connection.
    pub open: fn(Start) -> Box<dyn Protocol>,
    /// Makes a masker for one session, where answers can be masked.
    pub mask: Option<fn() -> Box<dyn Mask>>,
    /// How its statements are held before the server has them; none where they cannot be.
    pub inline: Option<&'static inline::Inline>,
}

/// Every database that weir reads. Adding one is a file and a row here.
pub static PROTOCOLS: &[Entry] = &[postgresql::ENTRY];

/// The protocol that a Unix socket's path promises.
pub fn of_socket(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    PROTOCOLS.iter().find(|e| !e.socket.is_empty() && name.starts_with(e.socket)).map(|e| e.name)
}

/// Can these be bytes of a database connection: its first ones, or proven ones of a connection that was there before?
/// Asked of plaintext before it is known whose it is.
pub fn could_be(one: &[u8], other: &[u8]) -> bool {
    [(one, other), (other, one)].into_iter().any(|(client, server)| {
        let first = First { client, server, hinted: false, start: Start::Beginning };
        let late = First { start: Start::Midstream, ..first };
        PROTOCOLS
            .iter()
            .any(|entry| (entry.detect)(&first) != Guess::No || (entry.detect)(&late) == Guess::Midstream)
    })
}

/// The protocol whose servers usually listen on this port.
pub fn of_port(port: u16) -> Option<&'static str> {
    PROTOCOLS.iter().find(|entry| entry.port == port).map(|entry| entry.name)
}
