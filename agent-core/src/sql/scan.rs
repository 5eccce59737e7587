//! Tokens that no grammar understands -> every effect whose verb stands in a statement's position. Never complete.
//!
//! Also reads program bodies (`DO`) and texts that a statement runs (`dblink`, `EXECUTE '...'`): each piece that a
//! grammar understands is read by it, the rest by its verbs.

use super::draft::{Draft, Effects};
use super::shape::{self, Kept};
use super::token::{self, Kind};
use super::utility::{Words, clickhouse, tsql};
use super::{Access, Dialect, Effect, condition, feed, function, understand};

/// How often each token may be looked at, on average, by pieces that are offered to the grammars and by searches for
/// conditions. Beyond that verbs alone must do: the scan stays linear in hostile texts.
const EFFORT: usize = 16;

/// Scans one statement that the grammars did not understand.
pub(super) fn statement(dialect: Dialect, text: &[u8], kept: &[Kept], depth: u8) -> Draft {
    let mut draft = Draft { incomplete: true, literal_bound: true, depth, ..Draft::default() };
    let words = Words { dialect, text, kept, at: 0, depth };
    draft.operation = operation(&words);
    let bare = procedure(&words);
    if dialect == Dialect::Clickhouse
        && let Some(at) = understand::settings(text, kept)
    {
        clickhouse::settings(&Words { at, ..Words::of(&words) }, &mut draft);
    }
    Scan::new(words).run(&mut draft, true);
    if let Some(name) = bare.filter(|_| draft.effects == Effects::default()) {
        draft.effect(Effect::Execute);
        tsql::procedure(&name, &mut draft);
    }
    draft
}

/// The procedure that SQL Server runs where a batch begins with a name: `xp_cmdshell 'dir'`.
fn procedure(words: &Words<'_>) -> Option<String> {
    if words.dialect != Dialect::Tsql || words.is(0, "set") {
        return None;
    }
    Words { at: 0, ..Words::of(words) }.name()
}

/// Scans the body of a program, or a text that is run.
pub(super) fn body(dialect: Dialect, text: &[u8], draft: &mut Draft, depth: u8) {
    if depth > understand::DEEPEST {
        return;
    }
    let mut tokens = Vec::new();
    token::tokenize(dialect, text, &mut tokens);
    let mut kept = Vec::new();
    shape::reduce(text, &tokens, &mut kept);
    drop(tokens);
    let words = Words { dialect, text, kept: &kept, at: 0, depth };
    let mut found = Draft { incomplete: true, literal_bound: true, depth, ..Draft::default() };
    Scan::new(words).run(&mut found, false);
    draft.absorb(found);
}

/// Scans a text that a function runs.
pub(super) fn dynamic(dialect: Dialect, text: &[u8], draft: &mut Draft) {
    let depth = draft.depth + 1;
    body(dialect, text, draft, depth);
}

/// Scans what `EXECUTE` is given as literals, put together as far as they can be.
pub(super) fn executed(words: &mut Words<'_>, draft: &mut Draft) {
    let mut said = String::new();
    let mut known = false;
    for at in words.at..words.kept.len() {
        let Some(Kept { token, .. }) = words.kept.get(at).copied() else { break };
        match token.kind {
            Kind::Semicolon => break,
            Kind::Operator if matches!(token.of(words.text), b"||" | b"+") => {}
            kind if kind.is_literal() && kind != Kind::Number => {
                said.push_str(&feed::value(words.text, token));
                known = true;
            }
            _ => said.push(' '),
        }
    }
    if known {
        body(words.dialect, said.as_bytes(), draft, words.depth + 1);
    }
}

/// Notes the functions that are called anywhere in the rest of the statement.
pub(super) fn functions(words: &Words<'_>, draft: &mut Draft) {
    for at in words.at..words.kept.len() {
        call(words, at, draft);
    }
}

/// Notes the call at this position, if there is one.
fn call(words: &Words<'_>, at: usize, draft: &mut Draft) {
    if words.kind(at + 1) != Some(Kind::Open) {
        return;
    }
    let Some(Kept { token, .. }) = words.kept.get(at).copied() else { return };
    let name = match token.kind {
        Kind::Word => String::from_utf8_lossy(token.of(words.text)).to_ascii_lowercase(),
        Kind::Name => feed::name(token.of(words.text), '\\'),
        _ => return,
    };
    let schema =
        at.checked_sub(2).filter(|_| words.kind(at - 1) == Some(Kind::Dot)).and_then(|s| words.kept.get(s));
    let schema = schema.map(|k| String::from_utf8_lossy(k.token.of(words.text)).to_ascii_lowercase());
    let bulk = words.is(at + 2, "bulk"); // OPENROWSET(BULK 'file', ...)
    match function::called(
        if bulk { "openrowset_bulk" } else { &name },
        schema.as_deref(),
        words.dialect,
        draft,
    ) {
        function::Arguments::Plain => {}
        function::Arguments::Setting => {
            draft.literal_bound = true;
            match words.kept.get(at + 2).map(|k| k.token).filter(|t| t.kind.is_literal()) {
                Some(setting) => function::set(&feed::value(words.text, setting), draft),
                None => draft.effect(Effect::Admin),
            }
        }
        function::Arguments::Sequence => {
            draft.literal_bound = true;
            if let Some(token) = words.kept.get(at + 2).map(|k| k.token).filter(|t| t.kind.is_literal()) {
                draft.relation(&feed::value(words.text, token), Access::Write);
            }
        }
        function::Arguments::Statement => {
            draft.literal_bound = true;
            draft.incomplete = true;
            let close = words.close_of(at + 1).unwrap_or(words.kept.len());
            for inner in at + 2..close.min(at + 64) {
                let Some(token) = words.kept.get(inner).map(|k| k.token) else { break };
                if token.kind.is_literal() && token.kind != Kind::Number {
                    body(words.dialect, feed::value(words.text, token).as_bytes(), draft, words.depth + 1);
                }
            }
        }
    }
}

/// The first word, where it is one; `WITH` has the verb behind it.
fn operation(words: &Words<'_>) -> String {
    let word = |at: usize| words.kept.get(at).map(|k| k.token).filter(|t| t.kind == Kind::Word);
    let first = (0..words.kept.len()).find(|&at| words.kind(at) != Some(Kind::Open)).unwrap_or(0);
    let mut verb = first;
    if words.is(first, "with") {
        let mut depth = 0usize;
        for at in first..words.kept.len() {
            match words.kind(at) {
                Some(Kind::Open) => depth += 1,
                Some(Kind::Close) => depth = depth.saturating_sub(1),
                _ if depth == 0
                    && words.any(at, &["select", "insert", "update", "delete", "merge", "values"]) =>
                {
                    verb = at;
                    break;
                }
                _ => {}
            }
        }
    }
    word(verb).map(|t| String::from_utf8_lossy(t.of(words.text)).to_ascii_uppercase()).unwrap_or_default()
}

struct Scan<'a> {
    words: Words<'a>,
    /// Names of `WITH` queries, which are no relations.
    names: Vec<String>,
    /// Looks at tokens that are left.
    effort: usize,
    /// `USING` names a relation: in `DELETE` and `MERGE`, not in `CYCLE` or an index.
    using: bool,
    /// Every text of the program was looked at.
    swept: bool,
}

/// Verbs that change something, or may.
const VERBS: &[&str] = &[
    "insert",
    "update",
    "delete",
    "merge",
    "replace",
    "truncate",
    "drop",
    "create",
    "alter",
    "grant",
    "revoke",
    "copy",
    "call",
    "execute",
    "exec",
    "do",
    "lock",
    "set",
    "reset",
    "vacuum",
    "reindex",
    "cluster",
    "refresh",
    "load",
    "reassign",
    "comment",
    "security",
    "import",
    "notify",
    "start_replication",
    "base_backup",
    "declare",
    "prepare",
];

impl<'a> Scan<'a> {
    fn new(words: Words<'a>) -> Self {
        let effort = words.kept.len().saturating_mul(EFFORT) + 4096;
        let using = words.has(&["delete"]) || words.has(&["merge"]);
        Self { words, names: Vec::new(), effort, using, swept: false }
    }

    /// Pays for looking at the tokens from here to the end of the piece; false where there is nothing left.
    fn afford(&mut self, at: usize) -> bool {
        let Some(left) = self.effort.checked_sub(self.piece_end(at) - at) else {
            self.effort = 0; // or every later piece would be measured in vain
            return false;
        };
        self.effort = left;
        true
    }

    /// Where the piece that begins here ends: at a separator, or at the bracket around it.
    fn piece_end(&self, at: usize) -> usize {
        let mut depth = 0usize;
        let mut end = at;
        while let Some(kind) = self.words.kind(end) {
            match kind {
                Kind::Open => depth += 1,
                Kind::Close | Kind::Semicolon if depth == 0 => break,
                Kind::Close => depth -= 1,
                // `FOR r IN SELECT ... LOOP`
                Kind::Word if depth == 0 && self.words.is(end, "loop") => break,
                _ => {}
            }
            end += 1;
            if end - at > self.effort {
                break;
            }
        }
        end
    }

    /// `known`: the whole is known not to be understood by a grammar.
    fn run(&mut self, draft: &mut Draft, known: bool) {
        self.with_names();
        let mut at = 0;
        while at < self.words.kept.len() {
            if self.is_position(at) {
                if !(known && at == 0)
                    && let Some(end) = self.piece(at, draft)
                {
                    at = end;
                    continue;
                }
                self.verb(at, draft);
            }
            self.reads(at, draft);
            call(&self.words, at, draft);
            at += 1;
        }
    }

    fn with_names(&mut self) {
        if !self.words.has(&["with"]) {
            return;
        }
        for at in 1..self.words.kept.len() {
            let opens = self.words.is(at, "as")
                && (self.words.kind(at + 1) == Some(Kind::Open)
                    || self.words.any(at + 1, &["materialized", "not"]));
            if !opens {
                continue;
            }
            // `name AS (` or `name (columns) AS (`
            let mut name = at - 1;
            if self.words.kind(name) == Some(Kind::Close) {
                let open = (0..name).rev().take(256).find(|&back| self.words.kind(back) == Some(Kind::Open));
                let Some(before) = open.and_then(|open| open.checked_sub(1)) else { continue };
                name = before;
            }
            self.words.at = name;
            if let Some(name) = self.words.name() {
                self.names.push(name);
            }
        }
        self.words.at = 0;
    }

    /// True where a statement may begin: at the start, behind a separator, a bracket, or a word that opens a block.
    fn is_position(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return true };
        match self.words.kind(before) {
            Some(Kind::Semicolon | Kind::Open | Kind::Close | Kind::Other) => true,
            // A label, `<<name>>`.
            Some(Kind::Operator) => {
                self.words.kept.get(before).is_some_and(|k| k.token.of(self.words.text) == b">>")
            }
            Some(Kind::Word) => self.words.any(
                before,
                &[
                    "as",
                    "begin",
                    "then",
                    "else",
                    "loop",
                    "do",
                    "instead",
                    "also",
                    "atomic",
                    "analyze",
                    "verbose",
                    "query",
                    "for",
                    "in",
                    "immediate",
                    "all",
                    "union",
                    "except",
                    "intersect",
                ],
            ),
            _ => false,
        }
    }

    /// Offers the piece from here to its end to the grammars. Its end, where they understood it.
    fn piece(&mut self, at: usize, draft: &mut Draft) -> Option<usize> {
        let words = &self.words;
        let opens = words.any(at, VERBS) || words.any(at, &["select", "with"]);
        if !opens || words.any(at, &["execute", "exec", "set", "do"]) || !self.afford(at) {
            return None;
        }
        let end = self.piece_end(at);
        let words = &self.words;
        let piece = words.kept.get(at..end)?;
        let mut found = understand::strict(words.dialect, words.text, piece, words.depth + 1)?;
        found.relations.retain(|relation| !self.names.iter().any(|name| **name == *relation.name));
        draft.absorb(found);
        Some(end)
    }

    /// Notes the effect of a verb in a statement's position.
    fn verb(&mut self, at: usize, draft: &mut Draft) {
        let affordable = VERBS.iter().any(|verb| self.words.is(at, verb)) && self.afford(at);
        let end = if affordable { self.piece_end(at) } else { (at + 16).min(self.words.kept.len()) };
        let whole = self.words.kept;
        let Words { dialect, text, depth, .. } = self.words;
        let words =
            &mut Words { dialect, text, kept: whole.get(..end).unwrap_or_default(), at: at + 1, depth };
        let Some(token) = words.kept.get(at).map(|k| k.token).filter(|t| t.kind == Kind::Word) else {
            return;
        };
        let verb = String::from_utf8_lossy(token.of(words.text)).to_ascii_lowercase();
        let next =
            |words: &Words<'_>, kinds: &[Kind]| words.kind(words.at).is_some_and(|k| kinds.contains(&k));
        let named = &[Kind::Word, Kind::Name];
        // `format('UPDATE %I SET ...')`
        let gap = words.kept.get(words.at).is_some_and(|k| k.token.of(words.text) == b"%");
        match verb.as_str() {
            "select" | "values" | "table" | "perform" | "with" => draft.effect(Effect::Read),
            "insert" | "replace" => {
                while words.any(words.at, &["low_priority", "delayed", "high_priority", "ignore"]) {
                    words.at += 1;
                }
                if words.eat("into") {
                    draft.effect(Effect::Insert);
                    write(words, draft);
                } else if verb == "insert" && next(words, &[Kind::Word, Kind::Name, Kind::Open]) {
                    draft.effect(Effect::Insert); // MERGE ... WHEN NOT MATCHED THEN INSERT
                }
            }
            "update" => {
                words.eat("only");
                if words.is(words.at, "set") && words.any(at.wrapping_sub(1), &["do", "then"]) {
                    draft.effect(Effect::Update); // ON CONFLICT DO UPDATE, MERGE ... WHEN MATCHED THEN UPDATE
                } else if gap || next(words, named) && !words.any(words.at, &["set", "of", "on", "as"]) {
                    draft.effect(Effect::Update);
                    write(words, draft);
                    draft.unbounded |= !affordable || unbounded(words);
                }
            }
            "delete" => {
                let known = next(words, named) && !words.any(words.at, &["as", "then", "or", "and"]);
                if words.eat("from") || known && words.dialect != Dialect::Postgresql {
                    words.eat("only");
                    draft.effect(Effect::Delete);
                    write(words, draft);
                    draft.unbounded |= !affordable || unbounded(words);
                } else if words.is(at.wrapping_sub(1), "then") {
                    draft.effect(Effect::Delete); // MERGE ... WHEN MATCHED THEN DELETE
                }
            }
            "merge" if affordable && words.eat("into") => {
                for (effect, name) in
                    [(Effect::Insert, "insert"), (Effect::Update, "update"), (Effect::Delete, "delete")]
                {
                    if words.has(&["then", name]) {
                        draft.effect(effect);
                    }
                }
                write(words, draft);
            }
            "execute" | "exec" => {
                draft.effect(Effect::Execute);
                if !affordable {
                    return;
                }
                executed(words, draft);
                if std::mem::replace(&mut self.swept, true) {
                    return;
                }
                // What it runs may have been put together elsewhere: look at every text of the program.
                for Kept { token, .. } in whole.iter().take(4096) {
                    if token.kind.is_literal() && token.kind != Kind::Number {
                        body(dialect, feed::value(text, *token).as_bytes(), draft, depth + 2);
                    }
                }
            }
            "set" if !next(words, &[Kind::Open]) => {
                words.eat("local");
                words.eat("session");
                if let Some(name) = words.name() {
                    function::set(&name, draft);
                }
            }
            "copy" if !affordable => draft.effect(Effect::CopyOut),
            other => object(other, words, draft),
        }
    }

    /// Notes a relation behind `FROM`, `JOIN` or `USING`, and its neighbours behind commas.
    fn reads(&mut self, at: usize, draft: &mut Draft) {
        let words = &mut self.words;
        let opens = words.any(at, &["from", "join"]) || self.using && words.is(at, "using");
        let before = at.checked_sub(1);
        if !opens
            || before.is_some_and(|b| words.any(b, &["delete", "distinct", "both", "leading", "trailing"]))
        {
            return;
        }
        words.at = at + 1;
        loop {
            while words.any(words.at, &["only", "lateral"]) || words.kind(words.at) == Some(Kind::Open) {
                words.at += 1;
            }
            let from = words.at;
            let Some(name) = words.name() else { return };
            let is_function = words.kind(words.at) == Some(Kind::Open);
            let is_name = self.names.contains(&name);
            let is_keyword =
                words.at == from + 1 && words.any(from, &["select", "unnest", "rows", "current_date"]);
            if !is_function && !is_name && !is_keyword && !in_function(words, at) {
                draft.effect(Effect::Read);
                draft.target(&name, Access::Read);
            }
            if is_function {
                return;
            }
            // `ONLY (t)`, `t *`
            while words.kind(words.at) == Some(Kind::Close)
                || words.kept.get(words.at).is_some_and(|k| k.token.of(words.text) == b"*")
            {
                words.at += 1;
            }
            words.eat("as");
            if words.kind(words.at) == Some(Kind::Word) && words.kind(words.at + 1) == Some(Kind::Comma) {
                words.at += 1;
            }
            if words.kind(words.at) != Some(Kind::Comma) {
                return;
            }
            words.at += 1;
        }
    }
}

/// True for the `FROM` of `extract(year FROM x)` and its like.
fn in_function(words: &Words<'_>, at: usize) -> bool {
    let mut depth = 0usize;
    for back in (0..at).rev().take(64) {
        match words.kind(back) {
            Some(Kind::Close) => depth += 1,
            Some(Kind::Open) if depth == 0 => {
                return back
                    .checked_sub(1)
                    .is_some_and(|b| words.any(b, &["extract", "substring", "trim", "overlay", "position"]));
            }
            Some(Kind::Open) => depth -= 1,
            _ => {}
        }
    }
    false
}

fn write(words: &mut Words<'_>, draft: &mut Draft) {
    if let Some(name) = words.name() {
        if function::is_catalog(&name) {
            draft.effect(Effect::Admin);
        }
        draft.target(&name, Access::Write);
    }
}

/// True where the change from here on has no condition, or one that is always true.
fn unbounded(words: &Words<'_>) -> bool {
    const ENDS: &[&str] = &["returning", "order", "limit", "loop", "option"];
    let mut depth = 0usize;
    let mut start = None;
    let mut end = words.kept.len();
    for at in words.at..words.kept.len() {
        match words.kind(at) {
            Some(Kind::Open) => depth += 1,
            Some(Kind::Close | Kind::Semicolon) if depth == 0 => {
                end = at;
                break;
            }
            Some(Kind::Close) => depth -= 1,
            Some(Kind::Word) if depth == 0 && start.is_none() && words.is(at, "where") => {
                start = Some(at + 1);
            }
            Some(Kind::Word) if depth == 0 && words.any(at, ENDS) => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let Some(start) = start else { return true };
    let condition = words.kept.get(start..end).unwrap_or_default();
    feed::condition(words.dialect, words.text, condition, condition::is_true).unwrap_or(false)
}

/// Notes the effect of a verb that names its object's kind, or needs none.
fn object(verb: &str, words: &mut Words<'_>, draft: &mut Draft) {
    const KINDS: &[&str] = &[
        "table",
        "view",
        "materialized",
        "index",
        "sequence",
        "schema",
        "database",
        "function",
        "procedure",
        "routine",
        "trigger",
        "role",
        "user",
        "group",
        "owned",
        "extension",
        "type",
        "domain",
        "policy",
        "rule",
        "language",
        "server",
        "foreign",
        "tablespace",
        "aggregate",
        "operator",
        "cast",
        "publication",
        "subscription",
        "event",
        "text",
        "collation",
        "access",
        "temporary",
        "temp",
        "or",
        "unique",
        "unlogged",
        "global",
        "local",
        "system",
        "default",
        "statistics",
        "large",
        "if",
        "column",
        "partition",
        "dictionary",
        "quota",
        "login",
        "proc",
    ];
    let named = words.any(words.at, KINDS);
    let effect = match verb {
        "drop" if named => Effect::Drop,
        "create" if named => Effect::Create,
        "alter" if named => Effect::Alter,
        "truncate" => Effect::Truncate,
        "grant" => Effect::Grant,
        "revoke" => Effect::Revoke,
        "call" => Effect::Call,
        "do" => Effect::Execute,
        "lock" => Effect::Lock,
        "vacuum" | "reindex" | "cluster" | "refresh" | "reassign" | "security" | "import" | "load" => {
            Effect::Admin
        }
        "reset" | "notify" | "prepare" => Effect::Session,
        "start_replication" | "base_backup" => Effect::Replicate,
        "copy" => {
            if words.has(&["program"]) {
                draft.effect(Effect::Program);
            }
            if words.has(&["to"]) {
                draft.effect(Effect::Read);
                draft.effect(Effect::CopyOut);
            }
            if words.has(&["from"]) {
                draft.effect(Effect::Insert);
                draft.effect(Effect::CopyIn);
            }
            return;
        }
        _ => return,
    };
    // `truncate`, `lock` and their like are names too: a verb is followed by a name.
    let follows = words.kept.get(words.at).is_some_and(|k| {
        matches!(k.token.kind, Kind::Word | Kind::Name | Kind::Open) || k.token.of(words.text) == b"%"
    });
    if !follows && !matches!(verb, "vacuum" | "do" | "reset") {
        return;
    }
    draft.effect(effect);
    if words.any(words.at, &["role", "user", "group", "system", "login", "policy", "extension"]) {
        draft.effect(Effect::Admin);
    }
    if matches!(effect, Effect::Drop | Effect::Truncate | Effect::Alter | Effect::Create | Effect::Lock) {
        while words.any(
            words.at,
            &[
                "table",
                "view",
                "materialized",
                "foreign",
                "index",
                "sequence",
                "temporary",
                "temp",
                "if",
                "exists",
                "not",
                "concurrently",
                "only",
                "unlogged",
                "or",
                "replace",
                "unique",
            ],
        ) {
            words.at += 1;
        }
        if !words.any(words.at, KINDS) {
            write(words, draft);
        }
    }
}
