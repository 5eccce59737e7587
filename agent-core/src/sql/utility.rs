//! Tokens of a utility statement -> findings. PostgreSQL's command list is the map: manual, "SQL Commands".
//!
//! Queries and changes of rows are not read here. A statement that is not recognised from its first words is left
//! to the scan.

use super::draft::Draft;
use super::shape::Kept;
use super::token::Kind;
use super::{Access, Dialect, Effect, feed, function, scan, understand};

pub(super) mod clickhouse; // what only ClickHouse has
mod mysql; // what only MySQL has
mod object; // CREATE, ALTER, DROP, GRANT and their objects
pub(super) mod tsql; // what only SQL Server has

/// Reads a utility statement; `None` where its first words are not known.
pub(super) fn read(dialect: Dialect, text: &[u8], kept: &[Kept], depth: u8) -> Option<Draft> {
    let mut words = Words { dialect, text, kept, at: 0, depth };
    let mut draft = Draft { depth, ..Draft::default() };
    let verb = words.next_word()?.to_ascii_lowercase();
    if dialect == Dialect::Mysql && mysql::read(&verb, &mut words, &mut draft) {
        return Some(draft);
    }
    if dialect == Dialect::Clickhouse && clickhouse::read(&verb, &mut words, &mut draft) {
        return Some(draft);
    }
    if dialect == Dialect::Tsql && tsql::read(&verb, &mut words, &mut draft) {
        return Some(draft);
    }
    draft.operation = verb.to_ascii_uppercase();
    match verb.as_str() {
        "create" => object::create(&mut words, &mut draft),
        "alter" => object::alter(&mut words, &mut draft),
        "drop" => object::drop(&mut words, &mut draft),
        "grant" | "revoke" => object::grant(&verb, &mut words, &mut draft),
        "truncate" => {
            draft.effect(Effect::Truncate);
            words.eat("table");
            object::relations(&mut words, &mut draft, Access::Write)
        }
        "copy" => copy(&mut words, &mut draft),
        "explain" | "describe" | "desc" => explain(&mut words, &mut draft),
        "prepare" => prepare(&mut words, &mut draft),
        "execute" => {
            draft.effect(Effect::Execute);
            draft.incomplete = true; // what it runs stands elsewhere
            draft.literal_bound = true;
            scan::executed(&mut words, &mut draft);
            Some(())
        }
        "call" => {
            draft.effect(Effect::Call);
            draft.incomplete = true; // what the procedure does stands elsewhere
            draft.literal_bound = true;
            let name = words.name()?;
            draft.mention(&name);
            scan::functions(&words, &mut draft);
            Some(())
        }
        "do" => {
            draft.effect(Effect::Execute);
            draft.incomplete = true; // the body is a program
            draft.literal_bound = true;
            for Kept { token, .. } in words.rest() {
                if token.kind.is_literal() && token.kind != Kind::Number {
                    scan::body(dialect, feed::value(text, *token).as_bytes(), &mut draft, depth + 1);
                }
            }
            Some(())
        }
        "declare" => {
            let cursor = words.find("for")?;
            words.at = cursor + 1;
            draft.absorb(understand::read(dialect, text, words.rest(), depth + 1));
            Some(())
        }
        "fetch" | "move" | "show" => {
            draft.effect(Effect::Read);
            Some(())
        }
        "set" => set(&mut words, &mut draft),
        "reset" => {
            let setting = words.name();
            draft.effect(Effect::Session);
            if let Some(setting) = setting.filter(|s| s != "role") {
                function::set(&setting, &mut draft);
                draft.mention(&setting);
            }
            Some(())
        }
        "close" | "deallocate" | "discard" | "listen" | "unlisten" | "notify" | "use" => {
            draft.effect(Effect::Session);
            Some(())
        }
        // Transaction control changes neither data nor the session's settings: no effect of its own.
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
            if verb == "start" && !words.eat("transaction") {
                return None;
            }
            Some(())
        }
        "lock" => {
            draft.effect(Effect::Lock);
            words.eat("table");
            object::relations(&mut words, &mut draft, Access::Read)
        }
        "vacuum" | "analyze" | "analyse" | "cluster" | "reindex" | "refresh" | "checkpoint" => {
            maintain(&verb, &mut words, &mut draft)
        }
        "load" => {
            draft.effect(Effect::Admin);
            draft.effect(Effect::File);
            Some(())
        }
        "comment" => {
            draft.effect(Effect::Alter);
            words.eat("on");
            object::one(&mut words, &mut draft, Access::Write)
        }
        "security" => {
            draft.effect(Effect::Alter);
            draft.effect(Effect::Admin);
            Some(())
        }
        "reassign" => {
            draft.operation = "REASSIGN OWNED".into();
            draft.effect(Effect::Alter);
            draft.effect(Effect::Admin);
            Some(())
        }
        "import" => {
            draft.operation = "IMPORT FOREIGN SCHEMA".into();
            draft.effect(Effect::Create);
            draft.effect(Effect::Admin);
            Some(())
        }
        // Replication commands (manual, "Streaming Replication Protocol").
        "start_replication"
        | "identify_system"
        | "base_backup"
        | "create_replication_slot"
        | "drop_replication_slot"
        | "alter_replication_slot"
        | "read_replication_slot"
        | "timeline_history"
        | "upload_manifest" => {
            draft.effect(Effect::Replicate);
            Some(())
        }
        _ => None,
    }?;
    Some(draft)
}

/// A walk over the tokens of one statement.
pub(super) struct Words<'a> {
    pub dialect: Dialect,
    pub text: &'a [u8],
    pub kept: &'a [Kept],
    pub at: usize,
    pub depth: u8,
}

impl<'a> Words<'a> {
    /// The same walk again.
    pub(super) fn of(other: &Words<'a>) -> Self {
        Words { ..*other }
    }

    pub(super) fn kind(&self, at: usize) -> Option<Kind> {
        self.kept.get(at).map(|k| k.token.kind)
    }

    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.kept.get(at).is_some_and(|k| k.token.is(self.text, word))
    }

    pub(super) fn any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(at, word))
    }

    /// Moves behind the word if it is next.
    pub(super) fn eat(&mut self, word: &str) -> bool {
        let found = self.is(self.at, word);
        self.at += usize::from(found);
        found
    }

    /// Moves behind the words if all of them are next.
    pub(super) fn eat_all(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(i, word)| self.is(self.at + i, word));
        if found {
            self.at += words.len();
        }
        found
    }

    fn next_word(&mut self) -> Option<String> {
        let token = self.kept.get(self.at)?.token;
        if token.kind != Kind::Word {
            return None;
        }
        self.at += 1;
        Some(String::from_utf8_lossy(token.of(self.text)).into_owned())
    }

    /// A name as written, folded, with its schema; moves behind it.
    pub(super) fn name(&mut self) -> Option<String> {
        let mut out = String::new();
        loop {
            let token = self.kept.get(self.at)?.token;
            match token.kind {
                Kind::Word => {
                    let word = String::from_utf8_lossy(token.of(self.text));
                    if self.dialect == Dialect::Postgresql {
                        out.push_str(&word.to_ascii_lowercase());
                    } else {
                        out.push_str(&word);
                    }
                }
                Kind::Name => out.push_str(&feed::name(token.of(self.text), '\\')),
                _ => return None,
            }
            self.at += 1;
            if self.kind(self.at) != Some(Kind::Dot) {
                return Some(out);
            }
            out.push('.');
            self.at += 1;
            // SQL Server's `master..t`: the default schema.
            if self.kind(self.at) == Some(Kind::Dot) && self.dialect == Dialect::Tsql {
                out.push('.');
                self.at += 1;
            }
        }
    }

    pub(super) fn rest(&self) -> &'a [Kept] {
        self.kept.get(self.at..).unwrap_or_default()
    }

    /// Position of the next such word outside parentheses.
    pub(super) fn find(&self, word: &str) -> Option<usize> {
        let mut depth = 0usize;
        for at in self.at..self.kept.len() {
            match self.kind(at)? {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Word if depth == 0 && self.is(at, word) => return Some(at),
                _ => {}
            }
        }
        None
    }

    /// Position of the bracket that closes the one at `open`.
    pub(super) fn close_of(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for at in open..self.kept.len() {
            match self.kind(at)? {
                Kind::Open => depth += 1,
                Kind::Close => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// True where the word stands anywhere in the rest.
    pub(super) fn has(&self, words: &[&str]) -> bool {
        (self.at..self.kept.len()).any(|at| words.iter().enumerate().all(|(i, word)| self.is(at + i, word)))
    }
}

/// `COPY t | (query) FROM | TO 'file' | PROGRAM 'command' | STDIN | STDOUT`.
fn copy(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    words.eat("binary");
    if words.kind(words.at) == Some(Kind::Open) {
        let close = words.close_of(words.at)?;
        let inner = words.kept.get(words.at + 1..close).unwrap_or_default();
        draft.absorb(understand::read(words.dialect, words.text, inner, words.depth + 1));
        words.at = close + 1;
    } else {
        let name = words.name()?;
        if words.kind(words.at) == Some(Kind::Open) {
            words.at = words.close_of(words.at)? + 1;
        }
        let reads = words.is(words.at, "to");
        draft.effect(if reads { Effect::Read } else { Effect::Insert });
        draft.target(&name, if reads { Access::Read } else { Access::Write });
        if !reads && function::is_catalog(&name) {
            draft.effect(Effect::Admin);
        }
    }
    if words.eat("to") {
        draft.effect(Effect::CopyOut);
    } else if words.eat("from") {
        draft.effect(Effect::CopyIn);
    } else {
        return None;
    }
    if words.eat("program") {
        draft.effect(Effect::Program);
    } else if words.kind(words.at).is_some_and(Kind::is_literal) {
        draft.effect(Effect::File);
    } else if !(words.eat("stdin") || words.eat("stdout")) {
        return None;
    }
    Some(())
}

/// A plan without `ANALYZE` touches nothing: its relations are read at most, whatever the statement would do.
fn explain(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    let mut runs = false;
    if words.kind(words.at) == Some(Kind::Open) && !understand::starts_query(words.text, words.rest()) {
        let close = words.close_of(words.at)?;
        for at in words.at + 1..close {
            let off = words.any(at + 1, &["false", "off"])
                || words.kept.get(at + 1).is_some_and(|k| k.token.of(words.text) == b"0");
            if words.any(at, &["analyze", "analyse"]) {
                runs = !off;
            }
        }
        draft.literal_bound = true;
        words.at = close + 1;
    } else {
        while words.any(words.at, &["analyze", "analyse", "verbose", "extended", "partitions", "format"]) {
            runs |= words.any(words.at, &["analyze", "analyse"]);
            let format = words.is(words.at, "format");
            words.at += if format { 3 } else { 1 };
        }
    }
    let inner = understand::read(words.dialect, words.text, words.rest(), words.depth + 1);
    draft.operation = "EXPLAIN".into();
    if runs {
        draft.absorb(inner);
        return Some(());
    }
    draft.effect(Effect::Read);
    let mut planned =
        Draft { operation: inner.operation.clone(), incomplete: inner.incomplete, ..Draft::default() };
    planned.literal_bound = inner.literal_bound;
    for relation in &inner.relations {
        planned.relation(&relation.name, Access::Read);
    }
    let mut inner = inner;
    inner.take_summary().iter().for_each(|word| planned.mention(word));
    draft.absorb(planned);
    Some(())
}

/// `PREPARE x AS ...` runs nothing yet; `EXECUTE` will.
fn prepare(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    if words.eat("transaction") {
        draft.operation = "PREPARE TRANSACTION".into();
        return Some(());
    }
    draft.effect(Effect::Session);
    let name = words.name()?;
    draft.mention(&name);
    if words.kind(words.at) == Some(Kind::Open) {
        words.at = words.close_of(words.at)? + 1;
    }
    if words.eat("as") {
        let inner = understand::read(words.dialect, words.text, words.rest(), words.depth + 1);
        draft.incomplete |= inner.incomplete;
    } else if !words.eat("from") {
        return None;
    }
    Some(())
}

fn set(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    draft.effect(Effect::Session);
    let session = words.eat("session");
    if session && words.eat_all(&["characteristics", "as", "transaction"]) || words.eat("constraints") {
        return Some(());
    }
    words.eat("local");
    if words.eat("authorization") {
        if !words.eat("default") {
            draft.effect(Effect::Admin);
        }
        draft.mention("session_authorization");
        return Some(());
    }
    if words.eat("role") {
        // Another role has other rights.
        if !words.eat("none") {
            draft.effect(Effect::Admin);
        }
        draft.mention("role");
        return Some(());
    }
    if words.eat("transaction") {
        draft.operation = "SET TRANSACTION".into();
        return Some(());
    }
    let name = if words.eat_all(&["time", "zone"]) { "timezone".into() } else { words.name()? };
    function::set(&name, draft);
    draft.mention(&name);
    Some(())
}

fn maintain(verb: &str, words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    draft.effect(Effect::Admin);
    if words.kind(words.at) == Some(Kind::Open) {
        words.at = words.close_of(words.at)? + 1;
    }
    while words.any(words.at, &["full", "freeze", "verbose", "analyze", "analyse", "concurrently"]) {
        words.at += 1;
    }
    match verb {
        "refresh" => {
            draft.operation = "REFRESH MATERIALIZED VIEW".into();
            words.eat_all(&["materialized", "view"]);
        }
        "reindex" => {
            let object = words.next_word()?;
            if !["table", "index"].contains(&object.to_ascii_lowercase().as_str()) {
                return Some(());
            }
        }
        _ => {}
    }
    words.eat("concurrently");
    // `CLUSTER index ON table`, as it was written before 8.4.
    if verb == "cluster" && words.is(words.at + 1, "on") {
        words.at += 2;
    }
    if words.at < words.kept.len() {
        let access = if verb.starts_with("analy") { Access::Read } else { Access::Write };
        object::relations(words, draft, access)?;
    }
    Some(())
}
