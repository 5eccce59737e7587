//! What the server sends -> outcomes of the requests that wait for it.

use super::command::{self, Command, Setting};
use super::frames::Message;
use super::machine::{Copy, Expect, Item, Machine, Phase};
use super::prepared::Undo;
use super::{startup, tag};
use crate::exchange::{Blindness, Kind, Statement};
use crate::protocol::Context;
use crate::reader::Reader;
use crate::sql::Effect;

impl Machine {
    /// True where the body of a message of this type is read.
    #[inline]
    pub(super) fn wants_answer(&self, kind: u8) -> bool {
        match kind {
            b'C' | b'E' | b'Z' | b'S' | b'K' | b'T' | 0 => true,
            b'D' => self.wants_row(),
            b't' => matches!(self.expected.front(), Some(Expect::Describe(Some(_)))),
            _ => false,
        }
    }

    /// A message of the server.
    pub(super) fn answer(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        let kind = message.kind;
        if let Phase::Encryption { gss } = self.phase {
            self.encryption(gss, message, context);
            return;
        }
        // These come at any time and answer nothing.
        match kind {
            b'S' | b'K' if message.cut.is_some() => return,
            b'S' => return self.parameter_status(message.body, context),
            b'K' => {
                let mut reader = Reader::new(message.body);
                let backend = reader.u32().unwrap_or(0);
                let cancel = startup::cancel(backend, reader.rest());
                return self.change(context, |session| {
                    session.backend = backend;
                    session.cancel = cancel;
                });
            }
            b'N' | b'A' | b'R' | b'v' => return,
            _ => {}
        }
        if self.first.is_none() {
            self.first = Some(message.started);
        }
        if kind != b'Z' {
            self.busy();
        }
        match kind {
            b'D' => {
                self.rows += 1;
                if message.cut.is_none() && !message.body.is_empty() && self.wants_row() {
                    self.row(message.body);
                }
                self.moved(context.client.other(), message.size, context);
            }
            b'd' => self.moved(context.client.other(), message.size, context),
            b'1' => {
                self.emit_finished(context);
                if self.is_suspect() {
                    self.forget_names();
                }
                self.pop(|expect| matches!(expect, Expect::Parse { .. }), context);
            }
            b'2' => {
                self.emit_finished(context);
                self.pop(|expect| matches!(expect, Expect::Bind), context);
                self.rows = 0;
            }
            b'3' => {
                self.emit_finished(context);
                if self.is_suspect() {
                    self.forget_names();
                }
                self.pop(|expect| matches!(expect, Expect::Close(_)), context);
            }
            b't' => {
                if let Some(Expect::Describe(Some(prepared))) = self.expected.front()
                    && message.cut.is_none()
                {
                    let mut types = Reader::new(message.body);
                    types.u16();
                    let types = types.rest().chunks_exact(4);
                    let types = types.filter_map(|b| Some(u32::from_be_bytes(*b.first_chunk()?)));
                    let _ = prepared.described.set(types.collect());
                }
            }
            b'T' | b'n' => {
                if kind == b'T' && message.cut.is_none() {
                    self.columns(message.body);
                }
                if matches!(self.expected.front(), Some(Expect::Describe(_))) {
                    self.emit_finished(context);
                    self.expected.pop_front();
                }
            }
            b'C' => self.complete(message, context),
            b'I' | b's' => self.end_statement(context, |_, _| {}, kind == b's'),
            b'V' => {
                if let Some(item) = self.items.front_mut()
                    && matches!(self.expected.front(), Some(Expect::Function))
                {
                    item.statement.first_byte = self.first;
                    item.statement.ended = Some(context.time);
                }
            }
            b'E' => self.error(message, context),
            b'Z' => self.ready_for_query(message.body, context),
            b'G' => {
                self.copy = Copy::In;
                // A Sync that was sent ahead of the data is passed over.
                if matches!(self.expected.front(), Some(Expect::Execute)) {
                    while matches!(self.expected.get(1), Some(Expect::Sync)) {
                        self.expected.remove(1);
                        self.ready(self.status, context.time);
                        self.busy();
                    }
                }
            }
            b'H' => self.copy = Copy::Out,
            b'W' => {
                self.copy = Copy::Both;
                // It may go on for months: that it began is the outcome.
                if let Some(Expect::Query(left)) = self.expected.front_mut()
                    && *left > 0
                    && let Some(item) = self.items.pop_front()
                {
                    *left -= 1;
                    self.finish(item, |_, _| {}, false, context);
                }
            }
            _ => {}
        }
    }

    fn encryption(&mut self, gss: bool, message: &Message<'_>, context: &mut Context<'_>) {
        match message.body.first() {
            Some(b'N') => self.phase = Phase::Startup,
            Some(b'S') if !gss => {
                self.phase = Phase::Stop;
                context.sink.blind(Blindness::Tls);
            }
            Some(b'G') if gss => {
                self.phase = Phase::Stop;
                context.sink.blind(Blindness::Gss);
            }
            // An ErrorResponse: the server knows nothing of encryption and hangs up.
            _ => self.phase = Phase::Stop,
        }
    }

    fn parameter_status(&mut self, body: &[u8], context: &mut Context<'_>) {
        let mut reader = Reader::new(body);
        let (Some(name), Some(value)) = (reader.cstring(), reader.cstring()) else { return };
        let text = String::from_utf8_lossy(value).into_owned();
        match name {
            b"application_name" => self.change(context, |session| session.application_name = text),
            b"server_version" => self.change(context, |session| session.server_version = text),
            b"search_path" => {
                self.settings.reported(|values| values.search_path.clone_from(&text));
                self.follow_settings(context);
            }
            b"session_authorization" => {
                // The first one, at login, is the user as the server knows it.
                if self.phase == Phase::Login || self.session.user.is_empty() {
                    self.change(context, |session| session.user = text);
                } else {
                    let user = if text == self.session.user { String::new() } else { text };
                    self.settings.reported(|values| {
                        // Another authorization resets the role.
                        if values.authorization != user {
                            values.role.clear();
                        }
                        values.authorization.clone_from(&user);
                    });
                    self.follow_settings(context);
                }
            }
            _ => {}
        }
    }

    /// Takes the front of the queue if it is what this message answers; else answers and requests do not match.
    fn pop(&mut self, matches: impl Fn(&Expect) -> bool, context: &mut Context<'_>) {
        match self.expected.front() {
            Some(front) if matches(front) => {
                self.expected.pop_front();
            }
            Some(_) => self.lose_answers(context),
            None => {}
        }
    }

    /// CommandComplete.
    fn complete(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        if message.cut.is_some() {
            // It is complete, but with how many rows is not known.
            self.end_statement(context, |_, statement| statement.complete = false, false);
            return;
        }
        let tag = tag::read(message.body);
        if self.is_suspect()
            && matches!(tag.verb, b"DEALLOCATE" | b"DEALLOCATE ALL" | b"DISCARD ALL" | b"PREPARE")
        {
            self.forget_names();
        }
        // A replication command may have several; ReadyForQuery ends it.
        if let Some(item) = self.items.front()
            && item.statement.kind == Kind::Replication
        {
            return;
        }
        let sent = (!self.holed).then_some(self.rows);
        let out = self.copy == Copy::Out;
        self.copy = Copy::None;
        self.end_statement(
            context,
            |machine, statement| {
                let out = out || tag.verb == b"COPY" && copies_out(statement);
                (statement.returned_rows, statement.affected_rows) = tag::rows(tag, sent, out);
                machine.failed &= tag.verb != b"ROLLBACK";
            },
            false,
        );
        match tag.verb {
            b"SET"
            | b"RESET"
            | b"DISCARD ALL"
            | b"SAVEPOINT"
            | b"ROLLBACK"
            | b"COMMIT"
            | b"PREPARE TRANSACTION" => {
                self.follow_settings(context);
            }
            _ => {}
        }
    }

    /// The front statement's command is complete.
    fn end_statement(
        &mut self,
        context: &mut Context<'_>,
        outcome: impl FnOnce(&mut Self, &mut Statement),
        suspended: bool,
    ) {
        match self.expected.front_mut() {
            Some(Expect::Execute) => {
                self.emit_finished(context);
                self.expected.pop_front();
                if let Some(item) = self.items.pop_front() {
                    self.finish(item, outcome, suspended, context);
                }
            }
            Some(Expect::Query(left)) if *left > 0 => {
                *left -= 1;
                if let Some(item) = self.items.pop_front() {
                    self.finish(item, outcome, suspended, context);
                    self.emit_finished(context);
                }
            }
            // More commands than statements: rules, or a text that was not split right. Or CopyBoth's end.
            Some(Expect::Query(_)) | None => self.clear_answer(),
            Some(_) => self.lose_answers(context),
        }
    }

    fn finish(
        &mut self,
        mut item: Item,
        outcome: impl FnOnce(&mut Self, &mut Statement),
        suspended: bool,
        context: &mut Context<'_>,
    ) {
        let statement = &mut item.statement;
        statement.first_byte = self.first;
        statement.ended = Some(context.time);
        statement.sample = self.sample.take().filter(|sample| sample.tells());
        if suspended && !self.holed {
            statement.returned_rows = Some(self.rows);
        }
        outcome(self, statement);
        // invalid_sql_statement_name, invalid_cursor_name: behind lost requests the server knows better than we do.
        let executes = matches!(statement.kind, Kind::Execute | Kind::Fetch);
        if self.doubtful && executes && ["26000", "34000"].contains(&statement.status.as_str()) {
            statement.text = None;
            statement.prepared = None;
            statement.parameters.clear();
            statement.complete = false;
        }
        self.clear_answer();
        if let Some(text) = &item.statement.text {
            self.apply(text.bytes(), &item.statement);
        }
        if matches!(item.statement.kind, Kind::Execute | Kind::Fetch) {
            self.finished = Some(item);
        } else {
            self.emit(item, context);
        }
    }

    /// A command has succeeded: follows what it did to the session's settings.
    fn apply(&mut self, text: &[u8], statement: &Statement) {
        let text = statement.prepared.as_ref().map_or(text, |prepared| prepared.bytes());
        match command::read(text) {
            Command::Set { setting, value, local } => {
                let initial = self.settings.initial().clone();
                self.settings.set(local, |values| match setting {
                    Setting::Role => values.role = value.map_or_else(String::new, |value| value.text()),
                    Setting::Authorization => {
                        let user = value.map_or_else(String::new, |value| value.text());
                        values.authorization = if user == self.session.user { String::new() } else { user };
                        values.role = String::new();
                    }
                    Setting::SearchPath => {
                        values.search_path =
                            value.map_or_else(|| initial.search_path.clone(), |value| value.list());
                    }
                    Setting::ApplicationName => {}
                });
            }
            Command::ResetAll => {
                // RESET ALL leaves role and authorization alone.
                let initial = self.settings.initial().clone();
                self.settings.set(false, |values| values.search_path.clone_from(&initial.search_path));
            }
            Command::DiscardAll => {
                let initial = self.settings.initial().clone();
                self.settings.set(false, |values| *values = initial.clone());
            }
            Command::Savepoint { name } => self.settings.savepoint(name.fold()),
            Command::RollbackTo { name } => self.settings.rollback_to(&name.fold()),
            Command::Other if ends_transaction(text) => {
                // COMMIT of a failed transaction answers ROLLBACK; `failed` knows.
                let rolled_back = text.first().is_some_and(|b| b.eq_ignore_ascii_case(&b'r'))
                    || text.first().is_some_and(|b| b.eq_ignore_ascii_case(&b'a'))
                    || self.failed;
                self.settings.end(!rolled_back);
                self.failed = false;
            }
            _ => {}
        }
    }

    fn error(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        let body = message.cut.map_or(message.body, |cut| &message.body[..cut.at]);
        let (severity, code) = error_fields(body);
        // An error whose code is cut off is an error all the same.
        let unknown = code.is_empty();
        self.failed = true;
        self.copy = Copy::None;
        self.end_bulk(context);
        if self.phase == Phase::Login || matches!(severity, b"FATAL" | b"PANIC") {
            let code = code.to_owned();
            self.change(context, |session| session.status = code);
            if self.phase == Phase::Login {
                self.announce(context);
                return;
            }
        }
        let fail = |machine: &mut Self, mut item: Item, context: &mut Context<'_>| {
            item.statement.status.push_str(code);
            if unknown {
                item.statement.error = "answer_lost";
                item.statement.complete = false;
            }
            item.statement.first_byte = machine.first;
            item.statement.ended = Some(context.time);
            for undo in std::mem::take(&mut item.undo).into_iter().rev() {
                machine.statements.undo(undo);
            }
            machine.emit(item, context);
        };
        match self.expected.front_mut() {
            Some(Expect::Query(left)) => {
                let left = std::mem::take(left);
                for index in 0..left {
                    let Some(mut item) = self.items.pop_front() else { break };
                    if index == 0 {
                        fail(self, item, context);
                    } else {
                        item.statement.error = "not_executed";
                        for undo in std::mem::take(&mut item.undo).into_iter().rev() {
                            self.statements.undo(undo);
                        }
                        self.emit(item, context);
                    }
                }
            }
            Some(Expect::Function) => {
                if let Some(item) = self.items.front_mut() {
                    item.statement.status.push_str(code);
                    item.statement.first_byte = self.first;
                    item.statement.ended = Some(context.time);
                }
            }
            // The Sync's commit fails what was complete before.
            Some(Expect::Sync) => {
                if let Some(mut item) = self.finished.take() {
                    item.statement.status.push_str(code);
                    (item.statement.returned_rows, item.statement.affected_rows) =
                        (item.statement.returned_rows, None);
                    item.statement.ended = Some(context.time);
                    self.emit(item, context);
                }
            }
            Some(Expect::Execute) => {
                self.emit_finished(context);
                self.expected.pop_front();
                if let Some(item) = self.items.pop_front() {
                    fail(self, item, context);
                }
                self.skip(context);
            }
            Some(_) => {
                self.emit_finished(context);
                self.fail_before_execution(fail, context);
                self.skip(context);
            }
            // Nobody asked: the session is being ended.
            None => {}
        }
    }

    /// A Parse, Bind or the like failed: the statement that it was for is the one that failed.
    fn fail_before_execution(
        &mut self,
        fail: impl Fn(&mut Self, Item, &mut Context<'_>),
        context: &mut Context<'_>,
    ) {
        let parsed = match self.expected.front() {
            Some(Expect::Parse { prepared, .. }) => Some(prepared.clone()),
            _ => None,
        };
        let mut group = self.expected.iter().take_while(|expect| !matches!(expect, Expect::Sync));
        let next = group.position(|expect| matches!(expect, Expect::Execute));
        let same = match (&parsed, next, self.items.front()) {
            (Some(parsed), Some(_), Some(item)) => {
                item.statement.text.as_ref().is_some_and(|text| std::sync::Arc::ptr_eq(text, &parsed.text))
            }
            (None, Some(_), Some(_)) => true,
            _ => false,
        };
        if same && let Some(next) = next {
            // Taken out of both queues; what is around it is skipped.
            self.expected.remove(next);
            if let Some(item) = self.items.pop_front() {
                fail(self, item, context);
            }
        } else if let Some(parsed) = parsed {
            let statement = Statement {
                session: self.session.clone(),
                text: Some(parsed.text.clone()),
                kind: Kind::Prepare,
                started: parsed.started,
                bytes: parsed.size,
                complete: parsed.complete,
                truncated: !parsed.complete,
                ..Statement::default()
            };
            fail(self, Item { statement, undo: Vec::new() }, context);
        }
    }

    fn ready_for_query(&mut self, body: &[u8], context: &mut Context<'_>) {
        self.emit_finished(context);
        if self.phase == Phase::Login {
            self.phase = Phase::Ready;
            self.announce(context);
            self.ready(b'I', context.time);
            self.clear_answer();
            return;
        }
        let status = body.first().copied().unwrap_or(b'I');
        if self.is_lost() {
            self.ready(status, context.time);
            self.end_transaction(status, context);
            self.clear_answer();
            return;
        }
        self.ready(status, context.time);
        loop {
            match self.expected.pop_front() {
                Some(Expect::Sync) | None => break,
                Some(Expect::Query(left)) => {
                    for _ in 0..left {
                        let Some(item) = self.items.pop_front() else { break };
                        self.end_without_tag(item, context);
                    }
                    break;
                }
                Some(Expect::Function) => {
                    if let Some(item) = self.items.pop_front() {
                        self.emit(item, context);
                    }
                    break;
                }
                // Its answer fell into a hole.
                Some(Expect::Execute) => {
                    if let Some(item) = self.items.pop_front() {
                        self.end_without_tag(item, context);
                    }
                }
                Some(Expect::Parse { undo, .. }) => undo.doubt(),
                Some(_) => {}
            }
        }
        self.end_transaction(status, context);
        self.clear_answer();
        self.end_bulk(context);
        self.copy = Copy::None;
    }

    /// ReadyForQuery came, but no CommandComplete: whether the statement did what it was to do is not known.
    fn end_without_tag(&mut self, mut item: Item, context: &mut Context<'_>) {
        item.undo.iter().for_each(Undo::doubt);
        let statement = &mut item.statement;
        statement.first_byte = self.first;
        statement.ended = Some(context.time);
        if statement.kind == Kind::Replication {
            statement.returned_rows = (!self.holed && self.rows > 0).then_some(self.rows);
        } else {
            statement.complete = false;
        }
        self.emit(item, context);
    }

    fn end_transaction(&mut self, status: u8, context: &mut Context<'_>) {
        if status != b'I' {
            return;
        }
        if self.settings.end(!self.failed) {
            self.follow_settings(context);
        }
        self.failed = false;
        if self.expected.is_empty() {
            self.portals.clear();
        }
    }
}

/// COMMIT, END, ROLLBACK, ABORT, PREPARE TRANSACTION.
fn ends_transaction(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    [&b"commit"[..], b"end", b"rollback", b"abort"].iter().any(|verb| {
        text.get(..verb.len()).is_some_and(|head| head.eq_ignore_ascii_case(verb))
            && text.get(verb.len()).is_none_or(|&b| !b.is_ascii_alphanumeric() && b != b'_')
    })
}

/// A COPY that sends nothing to the client writes a file or reads one.
fn copies_out(statement: &Statement) -> bool {
    let effects = statement.text.as_ref().map(|text| text.analysis().statement_effects.clone());
    effects.is_some_and(|effects| effects.contains(&Effect::CopyOut))
}

/// Severity and SQLSTATE of an ErrorResponse.
fn error_fields(body: &[u8]) -> (&[u8], &str) {
    let mut reader = Reader::new(body);
    let (mut severity, mut code): (&[u8], &str) = (b"", "");
    while let Some(field) = reader.u8().filter(|&field| field != 0) {
        let Some(value) = reader.cstring() else { break };
        match field {
            b'V' => severity = value, // never translated, unlike S
            b'S' if severity.is_empty() => severity = value,
            b'C' => code = std::str::from_utf8(value).unwrap_or_default(),
            _ => {}
        }
    }
    (severity, code)
}
