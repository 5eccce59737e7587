//! One statement -> what it does. Decides who reads it: the utility grammar, the query parser, or the token scan.

use super::draft::Draft;
use super::shape::{self, Kept};
use super::token::{self, Kind};
use super::{Analysis, Dialect, Effect, feed, query, scan, split, utility};

/// What one statement does, and whether that holds for these literals only.
pub(super) struct Found {
    pub analysis: Analysis,
    pub literal_bound: bool,
}

/// Deepest nesting of statements in statements (`EXPLAIN`, `COPY (...)`, dynamic SQL) that is followed.
pub(super) const DEEPEST: u8 = 6;

/// Reads the first statement of the text.
pub(super) fn statement(dialect: Dialect, text: &[u8]) -> Found {
    let mut tokens = Vec::new();
    let closed = token::tokenize(dialect, text, &mut tokens);
    let first = split::split(dialect, text, &tokens).into_iter().next().unwrap_or(0..0);
    let mut kept = Vec::new();
    shape::reduce(text, tokens.get(first).unwrap_or_default(), &mut kept);
    drop(tokens);
    let mut draft = read(dialect, text, &kept, 0);
    draft.incomplete |= !closed;
    let literal_bound = draft.literal_bound;
    let redacted = shape::redacted(text, &kept);
    Found { analysis: draft.finish(&redacted, shape::fingerprint(text, &kept)), literal_bound }
}

/// Reads one statement, which may stand inside another.
pub(super) fn read(dialect: Dialect, text: &[u8], kept: &[Kept], depth: u8) -> Draft {
    strict(dialect, text, kept, depth).unwrap_or_else(|| scan::statement(dialect, text, kept, depth))
}

/// Reads one statement that the grammars understand; `None` for any other.
pub(super) fn strict(dialect: Dialect, text: &[u8], kept: &[Kept], depth: u8) -> Option<Draft> {
    if kept.is_empty() {
        return Some(Draft::default());
    }
    if depth > DEEPEST {
        return None;
    }
    if let Some(draft) = utility::read(dialect, text, kept, depth) {
        return Some(draft);
    }
    if !starts_query(text, kept) {
        return None;
    }
    let mut draft = Draft { depth, ..Draft::default() };
    let own = tail(dialect, text, kept, &mut draft);
    let kept = own.as_deref().unwrap_or(kept);
    feed::statement(dialect, text, kept, |statement| {
        query::read(dialect, statement, &mut draft).then_some(draft)
    })?
}

/// The statement without the clauses that the parser does not know; what they do is noted.
/// MySQL: `INTO OUTFILE 'file'` with its format. ClickHouse: that, and `SETTINGS name = value`.
fn tail(dialect: Dialect, text: &[u8], kept: &[Kept], draft: &mut Draft) -> Option<Vec<Kept>> {
    const FORMAT: &[&str] = &[
        "character",
        "set",
        "charset",
        "fields",
        "columns",
        "terminated",
        "enclosed",
        "escaped",
        "optionally",
        "by",
        "lines",
        "starting",
        "and",
        "stdout",
        "append",
        "truncate",
        "compression",
        "level",
    ];
    if !matches!(dialect, Dialect::Mysql | Dialect::Clickhouse) {
        return None;
    }
    let is = |at: usize, words: &[&str]| {
        kept.get(at).is_some_and(|k| words.iter().any(|word| k.token.is(text, word)))
    };
    let mut cut = None;
    if dialect == Dialect::Clickhouse
        && let Some(at) = settings(text, kept)
    {
        let words = utility::Words { dialect, text, kept, at, depth: 0 };
        utility::clickhouse::settings(&words, draft);
        let end = (at..kept.len()).find(|&end| is(end, &["format", "into"])).unwrap_or(kept.len());
        cut = Some(at..end);
    }
    if let Some(from) = (1..kept.len()).find(|&at| is(at, &["into"]) && is(at + 1, &["outfile", "dumpfile"]))
    {
        draft.effect(Effect::CopyOut);
        if dialect == Dialect::Mysql {
            draft.effect(Effect::File); // of the server; ClickHouse's client writes it
        }
        let mut end = from + 2;
        while kept.get(end).is_some_and(|k| k.token.kind.is_literal())
            || is(end, FORMAT)
            || is(end - 1, &["set", "charset"])
        {
            end += 1;
        }
        cut = Some(from..end);
    }
    let cut = cut?;
    let behind = kept.get(cut.end..).unwrap_or_default();
    Some(kept.get(..cut.start)?.iter().chain(behind).copied().collect())
}

/// Where ClickHouse's `SETTINGS name = value` begins.
pub(super) fn settings(text: &[u8], kept: &[Kept]) -> Option<usize> {
    (1..kept.len()).find(|&at| {
        let equals = kept.get(at + 2).is_some_and(|k| k.token.of(text) == b"=");
        equals && kept.get(at).is_some_and(|k| k.token.is(text, "settings"))
    })
}

/// True where the first word, behind any parentheses, opens a query.
pub(super) fn starts_query(text: &[u8], kept: &[Kept]) -> bool {
    let first = kept.iter().map(|k| k.token).find(|t| t.kind != Kind::Open);
    first.is_some_and(|t| {
        ["select", "insert", "update", "delete", "with", "values", "table", "merge", "replace"]
            .iter()
            .any(|verb| t.is(text, verb))
    })
}

/// True for statements in which a literal, or anything else, may be a password.
pub(super) fn may_hold_password(dialect: Dialect, text: &[u8]) -> bool {
    let mut tokens = Vec::new();
    token::tokenize(dialect, text, &mut tokens);
    let parts = split::split(dialect, text, &tokens);
    parts.into_iter().any(|part| {
        let part = tokens.get(part).unwrap_or_default();
        let is = |at: usize, word: &str| part.get(at).is_some_and(|t: &token::Token| t.is(text, word));
        let changes = is(0, "create") || is(0, "alter") || is(0, "set") || is(0, "grant");
        let keeper = ["role", "user", "group", "server", "subscription", "login", "system", "named"];
        let keeps = part.iter().take(6).any(|t| keeper.iter().any(|k| t.is(text, k)));
        let says = ["password", "passwd", "identified", "secret", "connection"];
        let spoken = part.iter().any(|t| says.iter().any(|k| t.is(text, k)));
        changes && (keeps || spoken)
            || part.iter().any(|t| {
                ["dblink_connect", "dblink_connect_u", "dblink", "dblink_exec"].iter().any(|k| t.is(text, k))
            })
    })
}
