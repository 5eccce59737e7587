//! `CREATE`, `ALTER`, `DROP`, `COMMENT`, `GRANT`, `REVOKE`: which object, whose relation, which rights.

use super::Words;
use crate::sql::draft::Draft;
use crate::sql::shape::Kept;
use crate::sql::token::Kind;
use crate::sql::{Access, Effect, function, scan, understand};

/// What kind of object a statement is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A table, view, sequence or index: its name is a relation.
    Relation,
    /// An object that belongs to a relation, named behind `ON`.
    Attached,
    /// A role: rights.
    Role,
    /// Code and doors to the outside: only an administrator makes them.
    Door,
    /// Replication.
    Replication,
    /// A function or procedure.
    Routine,
    /// Anything else.
    Other,
}

/// Longest first where one begins like another.
static CLASSES: &[(&[&str], Class)] = &[
    (&["materialized", "view"], Class::Relation),
    (&["foreign", "table"], Class::Relation),
    (&["foreign", "data", "wrapper"], Class::Door),
    (&["event", "trigger"], Class::Door),
    (&["user", "mapping"], Class::Door),
    (&["text", "search", "configuration"], Class::Other),
    (&["text", "search", "dictionary"], Class::Other),
    (&["text", "search", "parser"], Class::Other),
    (&["text", "search", "template"], Class::Other),
    (&["access", "method"], Class::Door),
    (&["operator", "class"], Class::Other),
    (&["operator", "family"], Class::Other),
    (&["large", "object"], Class::Other),
    (&["default", "privileges"], Class::Other),
    (&["table"], Class::Relation),
    (&["tables"], Class::Relation),
    (&["view"], Class::Relation),
    (&["sequence"], Class::Relation),
    (&["index"], Class::Relation),
    (&["trigger"], Class::Attached),
    (&["rule"], Class::Attached),
    (&["policy"], Class::Attached),
    (&["constraint"], Class::Attached),
    (&["statistics"], Class::Other),
    (&["role"], Class::Role),
    (&["user"], Class::Role),
    (&["group"], Class::Role),
    (&["login"], Class::Role),
    (&["extension"], Class::Door),
    (&["language"], Class::Door),
    (&["server"], Class::Door),
    (&["tablespace"], Class::Door),
    (&["cast"], Class::Other),
    (&["transform"], Class::Other),
    (&["subscription"], Class::Replication),
    (&["publication"], Class::Replication),
    (&["function"], Class::Routine),
    (&["procedure"], Class::Routine),
    (&["routine"], Class::Routine),
    (&["aggregate"], Class::Other),
    (&["database"], Class::Other),
    (&["schema"], Class::Other),
    (&["type"], Class::Other),
    (&["domain"], Class::Other),
    (&["collation"], Class::Other),
    (&["conversion"], Class::Other),
    (&["operator"], Class::Other),
    (&["column"], Class::Other),
    (&["event"], Class::Other),
    (&["dictionary"], Class::Other),
];

/// Reads the kind of object and adds it to the operation.
fn class(words: &mut Words<'_>, draft: &mut Draft) -> Option<Class> {
    let (names, class) = CLASSES.iter().find(|(names, _)| words.eat_all(names))?;
    for name in *names {
        draft.operation.push(' ');
        draft.operation.push_str(&name.to_ascii_uppercase());
    }
    Some(*class)
}

fn rights(class: Class, draft: &mut Draft) {
    match class {
        Class::Role | Class::Door => draft.effect(Effect::Admin),
        Class::Replication => draft.effect(Effect::Replicate),
        _ => {}
    }
}

/// Relations separated by commas, each with `ONLY`, `*` or columns, up to anything else.
pub(super) fn relations(words: &mut Words<'_>, draft: &mut Draft, access: Access) -> Option<()> {
    loop {
        words.eat("only");
        let name = words.name()?;
        draft.target(&name, access);
        if access == Access::Write && function::is_catalog(&name) {
            draft.effect(Effect::Admin);
        }
        if words.kept.get(words.at).is_some_and(|k| k.token.of(words.text) == b"*") {
            words.at += 1;
        }
        if words.kind(words.at) == Some(Kind::Open) {
            words.at = words.close_of(words.at)? + 1;
        }
        if words.kind(words.at) != Some(Kind::Comma) {
            return Some(());
        }
        words.at += 1;
    }
}

/// Any one object; its name is a relation where its kind is.
pub(super) fn one(words: &mut Words<'_>, draft: &mut Draft, access: Access) -> Option<()> {
    match class(words, draft)? {
        Class::Relation => {
            let name = words.name()?;
            draft.target(&name, access);
        }
        Class::Attached => attached(words, draft),
        _ => {
            if let Some(name) = words.name() {
                draft.mention(&name);
            }
        }
    }
    Some(())
}

/// The relation behind `ON`.
fn attached(words: &mut Words<'_>, draft: &mut Draft) {
    if let Some(on) = words.find("on") {
        words.at = on + 1;
        words.eat("only");
        if let Some(name) = words.name() {
            draft.target(&name, Access::Write);
        }
    }
}

pub(super) fn create(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    const MODIFIERS: &[&str] = &[
        "or",
        "replace",
        "temp",
        "temporary",
        "local",
        "global",
        "unlogged",
        "unique",
        "recursive",
        "trusted",
        "procedural",
        "constraint",
        "fulltext",
        "spatial",
        "external",
        "transient",
        "clustered",
        "nonclustered",
    ];
    draft.effect(Effect::Create);
    while words.any(words.at, MODIFIERS) {
        words.at += 1;
    }
    if words.any(words.at, &["algorithm", "definer", "sql", "aggregate"])
        && words.dialect == crate::sql::Dialect::Mysql
    {
        // `DEFINER = 'a'@'b'` and the like stand before the kind.
        while words.at < words.kept.len()
            && !words.any(words.at, &["view", "function", "procedure", "trigger", "event"])
        {
            words.at += 1;
        }
    }
    let operation = words.at;
    let class = class(words, draft)?;
    rights(class, draft);
    let is_view = words.is(words.at.saturating_sub(1), "view");
    let is_plain_view = is_view && !words.is(operation, "materialized");
    let is_index = words.is(operation, "index");
    let is_rule = words.is(operation, "rule");
    words.eat("concurrently");
    words.eat_all(&["if", "not", "exists"]);
    match class {
        Class::Relation if is_index => {
            if !words.is(words.at, "on") {
                words.name()?;
            }
            attached(words, draft);
            scan::functions(words, draft);
        }
        Class::Relation => {
            let name = words.name()?;
            draft.target(&name, Access::Write);
            if words.kind(words.at) == Some(Kind::Open) && words.is(words.at + 1, "like") {
                let open = words.at;
                words.at += 2;
                if let Some(model) = words.name() {
                    draft.relation(&model, Access::Read);
                }
                words.at = open;
            }
            query_behind_as(words, draft, is_plain_view);
        }
        Class::Attached if is_rule => {
            if let Some(to) = words.find("to") {
                words.at = to + 1;
                let name = words.name()?;
                draft.target(&name, Access::Write);
            }
        }
        Class::Attached => {
            if words.is(operation, "policy") {
                draft.effect(Effect::Admin);
            }
            words.name()?;
            attached(words, draft);
        }
        _ => {
            if let Some(name) = words.name() {
                draft.mention(&name);
            }
            let loads = ["c", "internal", "plpythonu", "plpython3u", "plperlu", "pltclu"];
            let code =
                words.has(&["soname"]) || loads.iter().any(|language| words.has(&["language", language]));
            if class == Class::Routine && (code || words.has(&["security", "definer"])) {
                draft.effect(Effect::Admin);
            }
        }
    }
    Some(())
}

/// `CREATE ... AS query`: a view only names what it will read, a table or materialized view reads it now.
fn query_behind_as(words: &mut Words<'_>, draft: &mut Draft, is_view: bool) {
    let mut from = words.at;
    let start = loop {
        words.at = from;
        let Some(at) = words.find("as") else { break None };
        if understand::starts_query(words.text, words.kept.get(at + 1..).unwrap_or_default())
            || words.is(at + 1, "execute")
        {
            break Some(at + 1);
        }
        from = at + 1;
    };
    let Some(start) = start else { return };
    let mut inner = words.kept.get(start..).unwrap_or_default();
    let mut no_data = false;
    let tail = |inner: &[Kept], back: usize, word: &str| {
        inner
            .len()
            .checked_sub(back)
            .and_then(|at| inner.get(at))
            .is_some_and(|k| k.token.is(words.text, word))
    };
    if tail(inner, 1, "data") {
        no_data = tail(inner, 2, "no");
        let length = if no_data { 3 } else { 2 };
        inner = inner.get(..inner.len().saturating_sub(length)).unwrap_or_default();
    } else if tail(inner, 1, "option") && tail(inner, 2, "check") {
        let mut length = 3;
        if tail(inner, 3, "cascaded") || tail(inner, 3, "local") {
            length = 4;
        }
        inner = inner.get(..inner.len().saturating_sub(length)).unwrap_or_default();
    }
    let found = understand::read(words.dialect, words.text, inner, words.depth + 1);
    if is_view || no_data {
        let named = Draft {
            operation: found.operation.clone(),
            incomplete: found.incomplete,
            relations: found.relations.clone(),
            literal_bound: found.literal_bound,
            ..Draft::default()
        };
        let mut found = found;
        let summary = found.take_summary();
        draft.absorb(named);
        for word in &summary {
            draft.mention(word);
        }
    } else {
        draft.absorb(found);
    }
}

pub(super) fn alter(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    draft.effect(Effect::Alter);
    if words.eat("system") {
        draft.operation.push_str(" SYSTEM");
        draft.effect(Effect::Admin);
        words.eat("set");
        words.eat("reset");
        if let Some(name) = words.name() {
            draft.mention(&name);
        }
        return Some(());
    }
    words.eat("procedural");
    let start = words.at;
    let class = class(words, draft)?;
    rights(class, draft);
    if words.is(start, "default") {
        if words.has(&["grant"]) {
            draft.effect(Effect::Grant);
        }
        if words.has(&["revoke"]) {
            draft.effect(Effect::Revoke);
        }
        return Some(());
    }
    if words.eat_all(&["all", "in", "tablespace"]) {
        return Some(());
    }
    words.eat_all(&["if", "exists"]);
    words.eat("only");
    match class {
        Class::Relation => {
            let name = words.name()?;
            draft.target(&name, Access::Write);
            if function::is_catalog(&name) {
                draft.effect(Effect::Admin);
            }
            let guards: [&[&str]; 6] = [
                &["disable", "trigger"],
                &["disable", "rule"],
                &["disable", "row"],
                &["no", "force", "row"],
                &["enable", "replica"],
                &["owner", "to"],
            ];
            if guards.iter().any(|guard| words.has(guard)) {
                draft.effect(Effect::Admin);
            }
            if drops_data(words) {
                draft.effect(Effect::Drop);
            }
            if words.has(&["truncate", "partition"]) {
                draft.effect(Effect::Truncate);
            }
            scan::functions(words, draft);
        }
        Class::Attached => {
            if words.is(start, "policy") {
                draft.effect(Effect::Admin);
            }
            attached(words, draft);
        }
        _ => {
            if let Some(name) = words.name() {
                draft.mention(&name);
            }
            if words.has(&["owner", "to"]) || class == Class::Routine && words.has(&["security", "definer"]) {
                draft.effect(Effect::Admin);
            }
            if let Some(set) = words.find("set") {
                words.at = set + 1;
                if let Some(name) = words.name() {
                    let mut setting = Draft::default();
                    function::set(&name, &mut setting);
                    if setting.effects.has(Effect::Admin) {
                        draft.effect(Effect::Admin);
                    }
                }
            }
        }
    }
    Some(())
}

/// `DROP [COLUMN] c` and `DROP PARTITION p` destroy rows or values; dropping a constraint or a default does not.
fn drops_data(words: &Words<'_>) -> bool {
    const HARMLESS: &[&str] = &[
        "constraint",
        "not",
        "default",
        "expression",
        "identity",
        "index",
        "key",
        "primary",
        "foreign",
        "check",
    ];
    let mut depth = 0usize;
    (words.at..words.kept.len()).any(|at| {
        match words.kind(at) {
            Some(Kind::Open) => depth += 1,
            Some(Kind::Close) => depth = depth.saturating_sub(1),
            _ => {}
        }
        let begins = at == words.at || words.kind(at - 1) == Some(Kind::Comma);
        // `OPTIONS (ADD a, DROP b)` is about options.
        depth == 0 && begins && words.is(at, "drop") && !words.any(at + 1, HARMLESS)
    })
}

pub(super) fn drop(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    draft.effect(Effect::Drop);
    if words.eat("owned") {
        draft.operation.push_str(" OWNED");
        return Some(());
    }
    while words.any(words.at, &["temporary", "procedural"]) {
        words.at += 1;
    }
    let start = words.at;
    let class = class(words, draft)?;
    rights(class, draft);
    words.eat("concurrently");
    words.eat_all(&["if", "exists"]);
    match class {
        Class::Relation => relations(words, draft, Access::Write)?,
        Class::Attached => {
            if words.is(start, "policy") {
                draft.effect(Effect::Admin);
            }
            attached(words, draft);
        }
        _ => {
            if let Some(name) = words.name() {
                draft.mention(&name);
            }
        }
    }
    Some(())
}

/// `GRANT privileges ON [TABLE | SEQUENCE] names TO ...`, `GRANT role TO ...`.
pub(super) fn grant(verb: &str, words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    draft.effect(if verb == "grant" { Effect::Grant } else { Effect::Revoke });
    let Some(on) = words.find("on") else { return Some(()) };
    words.at = on + 1;
    if words.is(words.at, "all") {
        return Some(()); // ALL TABLES IN SCHEMA s: no names
    }
    let mut named = Draft::default();
    let start = words.at;
    match class(words, &mut named) {
        Some(Class::Relation) => {}
        Some(_) if words.kind(words.at).is_some_and(|k| matches!(k, Kind::Word | Kind::Name)) => {
            return Some(());
        }
        _ => words.at = start,
    }
    if words.any(words.at, &["parameter"]) {
        return Some(());
    }
    // `*.*`, `shop.*`: all there is, no names.
    let star = |at: usize| words.kept.get(at).is_some_and(|k| k.token.of(words.text) == b"*");
    if star(words.at) || words.kind(words.at + 1) == Some(Kind::Dot) && star(words.at + 2) {
        return Some(());
    }
    relations(words, draft, Access::Write)
}
