//! What the client sends -> requests that wait for their answers.

use std::sync::{Arc, OnceLock};

use super::command::{self, Command};
use super::frames::{Cut, Message};
use super::machine::{Copy, Expect, Machine, Phase};
use super::parameters;
use super::prepared::{Portal, Prepared, Undo};
use super::startup::{self, Packet};
use crate::exchange::{Batch, Blindness, Kind, Parameter, Statement};
use crate::protocol::Context;
use crate::reader::Reader;
use crate::sql::Text;

impl Machine {
    /// True where the body of a message of this type is read.
    pub(super) fn wants_request(kind: u8) -> bool {
        matches!(kind, b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' | b'F' | 0)
    }

    /// A message of the client.
    pub(super) fn request(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        if matches!(self.phase, Phase::Startup | Phase::Encryption { .. }) {
            self.startup(message, context);
            return;
        }
        match message.kind {
            b'Q' => self.query(message, context),
            b'P' => self.parse(message, context),
            b'B' => self.bind(message, context),
            b'E' => self.execute(message, context),
            b'D' => self.describe(message, context),
            b'C' => self.close_name(message, context),
            b'S' => self.sync(message, context),
            b'F' => self.function(message, context),
            b'd' if self.copy == Copy::In => self.moved(context.client, message.size, context),
            b'c' | b'f' if self.copy == Copy::In => {
                self.copy = Copy::None;
                self.end_bulk(context);
            }
            // Passwords and the like ('p') are never looked at; Terminate and Flush change nothing.
            _ => {}
        }
    }

    fn startup(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        match startup::packet(message.body) {
            Packet::Tls => self.phase = Phase::Encryption { gss: false },
            Packet::Gss => self.phase = Phase::Encryption { gss: true },
            Packet::Cancel(backend) => {
                self.phase = Phase::Stop;
                let statement = Statement {
                    kind: Kind::Cancel,
                    parameters: vec![Parameter::Text(backend.to_string().into())],
                    ..self.statement(message, None, true)
                };
                self.ask(statement, Vec::new(), context);
                if let Some(item) = self.items.pop_front() {
                    self.emit(item, context);
                }
            }
            Packet::Startup(parameters) => {
                self.phase = Phase::Login;
                let mut session = (*self.session).clone();
                self.settings = super::settings::Settings::new(startup::session(parameters, &mut session));
                self.session = Arc::new(session);
            }
            Packet::Unknown => {
                if self.phase == (Phase::Encryption { gss: true }) {
                    context.sink.blind(Blindness::Gss);
                }
                self.phase = Phase::Stop;
            }
        }
    }

    /// The client speaks TLS without having asked (PostgreSQL 17's direct TLS).
    pub(super) fn direct_tls(&mut self, context: &mut Context<'_>) {
        self.phase = Phase::Stop;
        context.sink.blind(Blindness::Tls);
    }

    fn statement(&self, message: &Message<'_>, text: Option<Arc<Text>>, complete: bool) -> Statement {
        Statement {
            session: Arc::clone(&self.session),
            text,
            started: message.started,
            bytes: message.size,
            complete: complete && message.cut.is_none(),
            truncated: message.cut.is_some(),
            ..Statement::default()
        }
    }

    fn begin(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.asks_behind_hole(context);
        self.asks(message.kind == b'Q', message.started);
    }

    fn query(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let cut;
        let bytes = if let Some(hole) = message.cut {
            cut = mark(message.body, hole);
            &cut[..]
        } else {
            message.body
        };
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        let whole = Self::text(bytes, context);
        self.messages += 1;
        let mut asked = 0;
        if let [first, _, ..] = whole.parts() {
            let _ = first;
            for (index, part) in whole.parts().iter().enumerate() {
                let batch = Some(Batch { id: self.messages, index: index as u32 });
                let bytes = part.bytes().len() as u64;
                let statement =
                    Statement { batch, bytes, ..self.statement(message, Some(Arc::clone(part)), true) };
                self.ask_text(statement, context);
                asked += 1;
            }
        } else {
            let kind = self.kind(bytes, context);
            let statement = Statement { kind, ..self.statement(message, Some(whole), true) };
            self.ask_text(statement, context);
            asked = 1;
        }
        // A simple query ends the unnamed statement and portal.
        self.statements.forget_unnamed();
        self.portals.remove(b"");
        self.ends_group();
        self.expect(Expect::Query(asked), context);
    }

    /// Queues a statement and follows what it does to names.
    fn ask_text(&mut self, mut statement: Statement, context: &mut Context<'_>) {
        // Few statements are about names; most of them need not be read twice.
        let text = match &statement.text {
            Some(text) if command::read(text.bytes()) != Command::Other => Arc::clone(text),
            _ => return self.ask(statement, Vec::new(), context),
        };
        let mut undo = Vec::new();
        match command::read(text.bytes()) {
            Command::Prepare { name, body } => {
                let prepared = Prepared {
                    text: Self::text(body, context),
                    declared: Box::default(),
                    described: OnceLock::new(),
                    doubtful: OnceLock::new(),
                    complete: statement.complete,
                    size: 0,
                    started: statement.started,
                    group: self.group,
                };
                undo.push(self.statements.set(&name.fold(), Some(Arc::new(prepared))));
            }
            Command::Execute { name } => match self.prepared(&name.fold()) {
                Some(prepared) => {
                    statement.prepared = Some(Arc::clone(&prepared.text));
                    statement.complete &= prepared.complete;
                }
                None => statement.complete = false,
            },
            Command::Deallocate { name: Some(name) } => undo.push(self.statements.set(&name.fold(), None)),
            Command::Deallocate { name: None } | Command::DiscardAll => undo = self.statements.set_all(),
            _ => {}
        }
        self.ask(statement, undo, context);
    }

    fn parse(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let Some((name, text, types)) = split_parse(message) else {
            // Which name it was is not known; the unnamed statement is the one that it may have replaced.
            self.statements.forget_unnamed();
            let undo = self.statements.set(b"", None);
            let whole = Self::text(b"", context);
            let prepared = Arc::new(Prepared {
                text: whole,
                declared: Box::default(),
                described: OnceLock::new(),
                doubtful: OnceLock::new(),
                complete: false,
                size: message.size,
                started: message.started,
                group: self.group,
            });
            self.expect(Expect::Parse { prepared, undo }, context);
            return;
        };
        let text = match text {
            Ok(text) => Self::text(text, context),
            Err(text) => Self::text(&text, context),
        };
        let prepared = Arc::new(Prepared {
            text,
            declared: types
                .chunks_exact(4)
                .filter_map(|b| Some(u32::from_be_bytes(*b.first_chunk()?)))
                .collect(),
            described: OnceLock::new(),
            doubtful: OnceLock::new(),
            complete: message.cut.is_none(),
            size: message.size,
            started: message.started,
            group: self.group,
        });
        let undo = self.statements.set(name, Some(Arc::clone(&prepared)));
        self.expect(Expect::Parse { prepared, undo }, context);
    }

    fn bind(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let body = message.cut.map_or(message.body, |cut| &message.body[..cut.at]);
        let Some(bind) = parameters::bind(body) else {
            // Not even the names are there: the portal is one that is not known.
            self.portals.clear();
            self.expect(Expect::Bind, context);
            return;
        };
        let prepared = self.prepared(bind.statement);
        // A Parse of the same group is part of the request.
        let fresh = prepared.as_ref().filter(|prepared| prepared.group == self.group && prepared.size > 0);
        let portal_name = bind.portal;
        let mut portal = Portal {
            started: fresh.map_or(message.started, |prepared| prepared.started),
            size: message.size + fresh.map_or(0, |prepared| prepared.size),
            ..Portal::default()
        };
        (portal.parameters, portal.complete) = bind.values(prepared.as_deref());
        portal.prepared = prepared;
        self.portals.set(portal_name, portal);
        self.expect(Expect::Bind, context);
    }

    fn execute(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let mut reader = Reader::new(message.body);
        let name = reader.cstring().unwrap_or_default();
        let limited = reader.i32().is_some_and(|rows| rows > 0);
        let mut statement = Statement { kind: Kind::Execute, ..self.statement(message, None, false) };
        if message.cut.is_none()
            && let Some(portal) = self.portals.get(name)
        {
            statement.parameters =
                if limited { portal.parameters.clone() } else { std::mem::take(&mut portal.parameters) };
            if portal.executed {
                statement.kind = Kind::Fetch;
            } else {
                statement.bytes += portal.size;
                statement.started = portal.started;
            }
            portal.executed = true;
            statement.truncated |= !portal.complete;
            if let Some(prepared) = &portal.prepared {
                statement.text = Some(Arc::clone(&prepared.text));
                statement.complete = prepared.complete && portal.complete && message.cut.is_none();
                statement.truncated |= !prepared.complete;
            }
        }
        self.ask_text(statement, context);
        self.expect(Expect::Execute, context);
    }

    fn describe(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let prepared = match message.body {
            _ if message.cut.is_some() => None,
            [b'S', name @ ..] => self.prepared(name.strip_suffix(b"\0").unwrap_or(name)),
            _ => None,
        };
        self.expect(Expect::Describe(prepared), context);
    }

    fn close_name(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let undo = match message.body {
            _ if message.cut.is_some() => {
                self.statements.set_all(); // it may have been any of them
                self.portals.clear();
                None
            }
            [b'S', name @ ..] => {
                let name = name.strip_suffix(b"\0").unwrap_or(name);
                Some(self.statements.set(name, None))
            }
            [b'P', name @ ..] => {
                self.portals.remove(name.strip_suffix(b"\0").unwrap_or(name));
                None
            }
            _ => None,
        };
        self.expect(Expect::Close(undo), context);
    }

    fn sync(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        if self.copy == Copy::In {
            return; // the server passes over it until the copy ends
        }
        self.begin(message, context);
        if self.skipping {
            self.skip(context);
            self.skipping = false;
        }
        self.ends_group();
        self.expect(Expect::Sync, context);
    }

    fn function(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        self.begin(message, context);
        let mut reader = Reader::new(message.cut.map_or(message.body, |cut| &message.body[..cut.at]));
        let function = reader.u32();
        let (parameters, whole) = parameters::arguments(&mut reader);
        let statement = Statement {
            kind: Kind::FunctionCall,
            function,
            parameters,
            ..self.statement(message, None, whole)
        };
        self.ask(statement, Vec::new(), context);
        self.ends_group();
        self.expect(Expect::Function, context);
    }
}

/// Name, text (put together where bytes are missing) and parameter types of a Parse message.
#[expect(clippy::type_complexity, reason = "used once, right above")]
fn split_parse<'a>(message: &Message<'a>) -> Option<(&'a [u8], Result<&'a [u8], Vec<u8>>, &'a [u8])> {
    let mut reader = Reader::new(message.body);
    let name = reader.cstring()?;
    if message.cut.is_some_and(|cut| cut.at <= name.len()) {
        return None;
    }
    let Some(cut) = message.cut else {
        let text = reader.cstring()?;
        let count = usize::from(reader.u16()?);
        return Some((name, Ok(text), reader.bytes(4 * count)?));
    };
    // The text goes on behind the missing bytes if what follows its end is a whole list of types.
    let begin = name.len() + 1;
    let head = message.body.get(begin..cut.at)?;
    let mut tail = Reader::new(message.body.get(cut.at..)?);
    let rest = tail.rest();
    if let Some(text) = tail.cstring()
        && let Some(count) = tail.u16()
        && let Some(types) = tail.bytes(4 * usize::from(count))
        && tail.is_empty()
    {
        let body = &message.body[begin..cut.at + text.len()];
        return Some((name, Err(mark(body, Cut { at: head.len(), ..cut })), types));
    }
    let _ = rest;
    Some((name, Err(mark(head, Cut { at: head.len(), ..cut })), &[]))
}

/// A text in which bytes are missing says so where they are.
fn mark(body: &[u8], cut: Cut) -> Vec<u8> {
    let (head, tail) = body.split_at(cut.at.min(body.len()));
    let note = format!(" /* {} bytes missing */ ", cut.missing);
    [head, note.as_bytes(), tail].concat()
}

impl Machine {
    /// The server skips what was sent since the error: hands it out as not executed.
    pub(super) fn skip(&mut self, context: &mut Context<'_>) {
        let end = self.expected.iter().position(|expect| matches!(expect, Expect::Sync));
        self.skipping = end.is_none();
        let end = end.unwrap_or(self.expected.len());
        let skipped: Vec<Expect> = self.expected.drain(..end).collect();
        let mut undone: Vec<Undo> = Vec::new();
        for expect in skipped {
            let statements = match expect {
                Expect::Parse { undo, .. } | Expect::Close(Some(undo)) => {
                    undone.push(undo);
                    0
                }
                Expect::Execute | Expect::Function => 1,
                Expect::Query(left) => left,
                _ => 0,
            };
            for _ in 0..statements {
                let Some(mut item) = self.items.pop_front() else { break };
                undone.append(&mut item.undo);
                item.statement.error = "not_executed";
                self.emit(item, context);
            }
        }
        for undo in undone.into_iter().rev() {
            self.statements.undo(undo);
        }
    }
}
