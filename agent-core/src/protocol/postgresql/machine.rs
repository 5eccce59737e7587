//! The state of one session: what was asked, what is known by name, what the answers still have to say.
//!
//! Requests enter at the back of a queue (`request.rs`), answers take them from its front (`answer.rs`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::prepared::{Portals, Prepared, Statements, Undo};
use super::sample::Described;
use super::settings::Settings;
use crate::exchange::{Kind, Loss, LossReason, Session, Statement};
use crate::protocol::{Context, Start};
use crate::segment::{Nanos, Side};
use crate::sensitive::Sample;
use crate::sql::{Dialect, Text};

/// Answers that are waited for at most, for each session; then the oldest statements go without theirs.
const PENDING_MAX: usize = 32 << 10;
/// An answer is large from here on: only the heads and tails of its segments are needed.
const BULK: u64 = 256 << 10;
/// A server that is silent for so long has nothing more to say about what was asked before.
const QUIET: u64 = 20_000_000;

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client's untyped packets.
    Startup,
    /// The client asked for encryption (TLS, or GSS), the server's one byte is awaited.
    Encryption { gss: bool },
    /// From the startup packet to the first ReadyForQuery.
    Login,
    /// Statements.
    Ready,
    /// Encrypted, cancelled or garbled: nothing more can be read.
    Stop,
}

/// An answer that is owed.
pub(super) enum Expect {
    Parse {
        prepared: Arc<Prepared>,
        undo: Undo,
    },
    Bind,
    Describe(Option<Arc<Prepared>>),
    Close(Option<Undo>),
    /// One statement of the queue.
    Execute,
    /// So many statements of the queue, then ReadyForQuery.
    Query(u32),
    /// One statement of the queue, then ReadyForQuery.
    Function,
    Sync,
}

/// A statement that waits for its answer.
pub(super) struct Item {
    pub(super) statement: Statement,
    /// What a SQL-level PREPARE or DEALLOCATE did to the names.
    pub(super) undo: Vec<Undo>,
}

/// COPY under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    None,
    In,
    Out,
    Both,
}

/// Answers cannot be told apart any more: bytes between them are missing.
pub(super) struct Hole {
    /// ReadyForQuery messages that are still owed, as far as is known.
    owed: u64,
    /// The client's bytes are missing, so that number is a guess.
    requests: bool,
}

pub(super) struct Machine {
    pub(super) phase: Phase,
    pub(super) session: Arc<Session>,
    announced: bool,
    pub(super) settings: Settings,
    pub(super) statements: Statements,
    pub(super) portals: Portals,
    pub(super) expected: VecDeque<Expect>,
    pub(super) items: VecDeque<Item>,
    /// An extended query's statement whose command is complete: the Sync may still fail it.
    pub(super) finished: Option<Item>,
    /// The server skips everything until the client's Sync.
    pub(super) skipping: bool,
    hole: Option<Hole>,
    /// Names that were prepared before this Sync group are in doubt while requests are missing.
    suspect: Option<u64>,
    /// Sync groups and simple queries that the client sent.
    pub(super) group: u64,
    /// Groups whose ReadyForQuery is owed.
    owed: u64,
    /// The client has sent a group before the last one was answered.
    pipelined: bool,
    /// The last thing that the server said was ReadyForQuery, at this time.
    idle: Option<Nanos>,
    /// The session was joined midstream and the server has said nothing since.
    silent: bool,
    /// First byte of the answer under way.
    pub(super) first: Option<Nanos>,
    /// Rows of the answer under way.
    pub(super) rows: u64,
    /// Columns and first rows of the answer under way.
    pub(super) sample: Option<Box<Sample>>,
    /// Columns of statements that were described before they are executed.
    pub(super) described: Described,
    /// Part of the answer under way was not seen.
    pub(super) holed: bool,
    /// Requests of this connection were lost at some time: what a name stands for may have changed unseen.
    pub(super) doubtful: bool,
    /// ReadyForQuery's last word.
    pub(super) status: u8,
    /// The transaction under way has seen an error.
    pub(super) failed: bool,
    pub(super) copy: Copy,
    bulk: Option<Side>,
    bulk_bytes: u64,
    lost: u64,
    pub(super) messages: u64,
}

impl Machine {
    pub(super) fn new(start: Start) -> Self {
        let adopted = start == Start::Midstream;
        let session = Session { system: super::ENTRY.name, adopted, ..Session::default() };
        Self {
            phase: if adopted { Phase::Ready } else { Phase::Startup },
            session: Arc::new(session),
            announced: false,
            settings: Settings::default(),
            statements: Statements::default(),
            portals: Portals::default(),
            expected: VecDeque::new(),
            items: VecDeque::new(),
            finished: None,
            skipping: false,
            // Answers to requests that were sent before the session was joined come first.
            hole: adopted.then_some(Hole { owed: 0, requests: true }),
            suspect: None,
            group: 0,
            owed: 0,
            pipelined: false,
            idle: None,
            silent: adopted,
            first: None,
            rows: 0,
            sample: None,
            described: Described::default(),
            holed: false,
            doubtful: false,
            status: 0,
            failed: false,
            copy: Copy::None,
            bulk: None,
            bulk_bytes: 0,
            lost: 0,
            messages: 0,
        }
    }

    /// The statement behind a name, unless missing requests may have changed it.
    pub(super) fn prepared(&mut self, name: &[u8]) -> Option<Arc<Prepared>> {
        let (suspect, group) = (self.suspect, self.group);
        let prepared = self.statements.get(name)?;
        let known = suspect.is_none_or(|since| prepared.group >= since)
            && (prepared.doubtful.get().is_none() || prepared.group == group);
        known.then(|| Arc::clone(prepared))
    }

    /// Changes the session from here on: for statements that wait for their answers too.
    pub(super) fn change(&mut self, context: &mut Context<'_>, change: impl FnOnce(&mut Session)) {
        let mut session = (*self.session).clone();
        change(&mut session);
        if session == *self.session {
            return;
        }
        self.session = Arc::new(session);
        // The first one's answer is under way: it was sent with the session as it was.
        for item in self.items.iter_mut().skip(1) {
            item.statement.session = Arc::clone(&self.session);
        }
        if self.announced {
            context.sink.session(&self.session);
        }
    }

    /// Follows what SET, RESET and ends of transactions did.
    pub(super) fn follow_settings(&mut self, context: &mut Context<'_>) {
        let (role, path) = (self.settings.role(), &self.settings.now().search_path);
        if self.session.role != role || self.session.search_path != *path {
            let (role, path) = (role.to_owned(), path.clone());
            self.change(context, |session| {
                session.role = role;
                session.search_path = path;
            });
        }
    }

    pub(super) fn announce(&mut self, context: &mut Context<'_>) {
        if !self.announced {
            self.announced = true;
            context.sink.session(&self.session);
        }
    }

    /// A request message begins.
    pub(super) fn asks(&mut self, simple: bool, time: Nanos) {
        // Clients that send simple queries wait for the answer: the first one that is seen finds the server idle.
        if simple && std::mem::take(&mut self.silent) {
            self.idle = Some(time);
        }
        if let Some(hole) = &self.hole
            && let Some(idle) = self.idle
            && time >= idle
            && (!self.pipelined || time.since(idle) >= QUIET || !hole.requests && hole.owed == 0)
        {
            self.hole = None;
            self.suspect = None;
            self.owed = 0;
        }
        self.idle = None;
    }

    /// A message that ReadyForQuery answers.
    pub(super) fn ends_group(&mut self) {
        self.group += 1;
        if let Some(hole) = &mut self.hole {
            hole.owed += 1;
        } else {
            self.owed += 1;
            self.pipelined |= self.owed > 1;
        }
    }

    /// True where answers cannot be told apart.
    pub(super) fn is_lost(&self) -> bool {
        self.hole.is_some() && self.expected.is_empty()
    }

    /// Queues an answer that is owed; where answers cannot be told apart there is no point.
    pub(super) fn expect(&mut self, expect: Expect, context: &mut Context<'_>) {
        if self.hole.is_some() && self.expected.is_empty() {
            self.abandon_one(expect, context);
            return;
        }
        if self.expected.len() >= PENDING_MAX {
            self.lose_answers(context);
            self.abandon_one(expect, context);
            return;
        }
        self.expected.push_back(expect);
    }

    /// Judges a request and queues it.
    pub(super) fn ask(&mut self, mut statement: Statement, undo: Vec<Undo>, context: &mut Context<'_>) {
        if self.phase == Phase::Ready {
            self.announce(context); // joined midstream, it has not been yet
        }
        statement.ticket = context.sink.request(&statement);
        self.items.push_back(Item { statement, undo });
    }

    /// Hands a statement out.
    pub(super) fn emit(&mut self, mut item: Item, context: &mut Context<'_>) {
        item.statement.lost_before = std::mem::take(&mut self.lost);
        context.sink.statement(item.statement);
    }

    pub(super) fn emit_finished(&mut self, context: &mut Context<'_>) {
        if let Some(item) = self.finished.take() {
            self.emit(item, context);
        }
    }

    /// Hands out the statements of an answer that will not be recognised. What it may have said about names is
    /// doubtful.
    fn abandon_one(&mut self, expect: Expect, context: &mut Context<'_>) {
        let statements = match expect {
            Expect::Execute | Expect::Function => 1,
            Expect::Query(left) => left as usize,
            Expect::Parse { undo, .. } => {
                undo.doubt();
                0
            }
            _ => 0,
        };
        for _ in 0..statements {
            let Some(mut item) = self.items.pop_front() else { return };
            item.undo.iter().for_each(Undo::doubt);
            item.statement.error = "answer_lost";
            item.statement.complete = false;
            item.statement.first_byte = None;
            self.emit(item, context);
        }
    }

    /// Answers cannot be told apart from here on: hands out all that wait for one.
    pub(super) fn lose_answers(&mut self, context: &mut Context<'_>) {
        self.emit_finished(context);
        let requests = self.hole.as_ref().is_some_and(|hole| hole.requests);
        self.hole = Some(Hole { owed: self.owed, requests });
        for expect in std::mem::take(&mut self.expected) {
            self.abandon_one(expect, context);
        }
        self.items.clear();
        self.skipping = false;
        self.copy = Copy::None;
        self.clear_answer();
    }

    pub(super) fn clear_answer(&mut self) {
        self.first = None;
        self.rows = 0;
        self.sample = None;
        self.holed = false;
    }

    /// Requests are missing.
    pub(super) fn requests_missing(&mut self, context: &mut Context<'_>) {
        match self.phase {
            Phase::Stop => return,
            Phase::Ready => {}
            _ => {
                self.phase = Phase::Ready;
                self.change(context, |session| session.adopted = true);
                self.announce(context);
            }
        }
        self.asks_behind_hole(context);
        self.hole = Some(Hole { owed: self.owed, requests: true });
        self.doubtful = true;
        self.idle = None;
        // What the missing requests did to names shows in their answers.
        self.suspect = Some(self.group + 1);
        self.group += 1;
        self.statements.forget_unnamed();
        self.portals.clear();
    }

    /// Answers are missing.
    pub(super) fn answers_missing(&mut self, elided: bool, context: &mut Context<'_>) {
        self.idle = None;
        if self.phase != Phase::Ready {
            // What the client sends next tells what the server has said about encryption.
            if !matches!(self.phase, Phase::Stop | Phase::Encryption { .. }) {
                self.phase = Phase::Ready;
                self.hole = Some(Hole { owed: 0, requests: false });
                self.announce(context);
            }
            return;
        }
        if !elided && let Some(item) = &mut self.finished {
            item.statement.complete = false; // the Sync behind it may have failed
        }
        if self.suspect.is_some() && !elided {
            self.forget_names();
        }
        // One answer is under way, and it is to one statement: the end of it will be recognised.
        if self.hole.is_none() && self.owed <= 1 && self.items.len() <= 1 {
            self.holed = self.owed > 0;
            if !elided && let Some(item) = self.items.front_mut() {
                item.statement.complete = false;
            }
            return;
        }
        self.lose_answers(context);
    }

    /// The missing requests have changed names: none that is older can be trusted.
    pub(super) fn forget_names(&mut self) {
        if let Some(group) = self.suspect {
            self.statements.forget_before(group);
        }
    }

    /// Do answers to missing requests come in?
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// A new request, while the answer to the last one has a hole: whether its end was in that hole is unknown.
    pub(super) fn asks_behind_hole(&mut self, context: &mut Context<'_>) {
        if self.holed && self.owed > 0 && self.hole.is_none() {
            self.lose_answers(context);
        }
    }

    /// ReadyForQuery.
    pub(super) fn ready(&mut self, status: u8, time: Nanos) {
        self.status = status;
        self.idle = Some(time);
        match &mut self.hole {
            Some(hole) if self.expected.is_empty() => hole.owed = hole.owed.saturating_sub(1),
            _ => self.owed = self.owed.saturating_sub(1),
        }
    }

    /// The server says something else than ReadyForQuery.
    pub(super) fn busy(&mut self) {
        self.silent = false;
        self.idle = None;
    }

    /// Bytes of the connection are missing before the next statement.
    pub(super) fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// Bytes that are no message.
    pub(super) fn garbled(&mut self, from: Side, bytes: u64, reason: LossReason, context: &mut Context<'_>) {
        self.lost += bytes;
        context.sink.lost(Loss { from, bytes, reason, time: context.time });
    }

    /// Counts what a result or a COPY moves; tells when it becomes large. Only while one statement awaits its answer:
    /// of several, whose answer ended inside what is left out could not be told.
    pub(super) fn moved(&mut self, from: Side, bytes: u64, context: &mut Context<'_>) {
        self.bulk_bytes += bytes;
        let alone = self.owed <= 1 && self.items.len() <= 1;
        if self.bulk_bytes >= BULK && self.bulk != Some(from) && alone {
            self.end_bulk(context);
            self.bulk = Some(from);
            context.sink.bulk(from, true);
        }
    }

    pub(super) fn end_bulk(&mut self, context: &mut Context<'_>) {
        self.bulk_bytes = 0;
        if let Some(from) = self.bulk.take() {
            context.sink.bulk(from, false);
        }
    }

    /// Shared text of a statement.
    pub(super) fn text(text: &[u8], context: &mut Context<'_>) -> Arc<Text> {
        context.texts.intern(Dialect::Postgresql, text)
    }

    /// The connection is gone.
    pub(super) fn close(&mut self, context: &mut Context<'_>) {
        self.emit_finished(context);
        for mut item in std::mem::take(&mut self.items) {
            item.statement.error = "connection_closed";
            item.statement.first_byte = self.first.take();
            self.emit(item, context);
        }
        self.expected.clear();
        if !matches!(self.phase, Phase::Startup | Phase::Encryption { .. } | Phase::Stop) {
            self.announce(context);
        }
        self.end_bulk(context);
    }

    /// What kind a text sent at once is. Walsenders have a language of their own; but for SHOW, none of its commands
    /// is SQL, so that one of them tells what a session joined midstream is.
    pub(super) fn kind(&mut self, text: &[u8], context: &mut Context<'_>) -> Kind {
        const COMMANDS: [&[u8]; 9] = [
            b"IDENTIFY_SYSTEM",
            b"START_REPLICATION",
            b"BASE_BACKUP",
            b"CREATE_REPLICATION_SLOT",
            b"ALTER_REPLICATION_SLOT",
            b"DROP_REPLICATION_SLOT",
            b"READ_REPLICATION_SLOT",
            b"TIMELINE_HISTORY",
            b"UPLOAD_MANIFEST",
        ];
        if !self.session.replication && !self.session.adopted {
            return Kind::Simple;
        }
        let text = text.trim_ascii_start();
        let end = text.iter().position(|&b| !(b.is_ascii_alphanumeric() || b == b'_')).unwrap_or(text.len());
        let word = &text[..end];
        if COMMANDS.iter().any(|command| word.eq_ignore_ascii_case(command)) {
            self.change(context, |session| session.replication = true);
            Kind::Replication
        } else if self.session.replication && word.eq_ignore_ascii_case(b"SHOW") {
            Kind::Replication
        } else {
            Kind::Simple
        }
    }
}
