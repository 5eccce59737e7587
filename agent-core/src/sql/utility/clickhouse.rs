//! Statements that only ClickHouse has. Manual, "SQL Statements".

use super::Words;
use super::object;
use crate::sql::draft::Draft;
use crate::sql::token::Kind;
use crate::sql::{Access, Effect, condition, feed, scan};

/// Reads a statement that ClickHouse has and PostgreSQL lacks, or means differently. False where it is none.
pub(super) fn read(verb: &str, words: &mut Words<'_>, draft: &mut Draft) -> bool {
    draft.operation = verb.to_ascii_uppercase();
    let done = match verb {
        "system" | "kill" => {
            draft.effect(Effect::Admin);
            if words.is(words.at, "drop") && words.is(words.at + 1, "replica") {
                draft.effect(Effect::Drop);
            }
            true
        }
        "optimize" => {
            draft.effect(Effect::Admin);
            words.eat("table") && one(words, draft, Access::Write)
        }
        "detach" => {
            draft.effect(Effect::Drop);
            object(words, draft)
        }
        "attach" | "undrop" => {
            draft.effect(Effect::Create);
            object(words, draft)
        }
        "backup" => {
            draft.effect(Effect::Read);
            draft.effect(Effect::CopyOut);
            target(words, draft, Access::Read)
        }
        "restore" => {
            draft.effect(Effect::Create);
            draft.effect(Effect::CopyIn);
            target(words, draft, Access::Write)
        }
        "rename" | "exchange" => {
            draft.effect(Effect::Alter);
            words.eat("tables");
            words.eat("table");
            words.eat("dictionary");
            words.eat("dictionaries");
            if words.eat("database") {
                return true;
            }
            loop {
                let Some(name) = words.name() else { break false };
                draft.target(&name, Access::Write);
                let goes_on =
                    words.eat("to") || words.eat("and") || words.kind(words.at) == Some(Kind::Comma);
                if !goes_on {
                    break true;
                }
                words.at += usize::from(words.kind(words.at) == Some(Kind::Comma));
            }
        }
        "set" => {
            draft.effect(Effect::Session);
            if words.eat("default") || words.is(words.at, "role") {
                draft.effect(Effect::Admin);
                return true;
            }
            settings(words, draft);
            true
        }
        "exists" | "watch" | "check" => {
            draft.effect(Effect::Read);
            true
        }
        "alter" if words.is(words.at, "table") => return alter(words, draft).is_some(),
        _ => false,
    };
    if !done {
        draft.operation.clear();
    }
    done
}

/// Names in `name = value, ...` from here on; the settings that auditing depends on are `admin`.
pub(in crate::sql) fn settings(words: &Words<'_>, draft: &mut Draft) {
    for at in words.at..words.kept.len() {
        let Some(token) = words.kept.get(at).map(|k| k.token).filter(|t| t.kind == Kind::Word) else {
            continue;
        };
        let name = token.of(words.text).to_ascii_lowercase();
        let guards: [&[u8]; 5] =
            [b"log_", b"allow_introspection", b"allow_ddl", b"readonly", b"max_rows_to_read"];
        let follows = words.kept.get(at + 1).is_some_and(|k| k.token.of(words.text) == b"=");
        if follows && guards.iter().any(|guard| name.starts_with(guard)) {
            draft.effect(Effect::Admin);
        }
    }
}

fn one(words: &mut Words<'_>, draft: &mut Draft, access: Access) -> bool {
    words.eat("if");
    words.eat("not");
    words.eat("exists");
    words.name().map(|name| draft.target(&name, access)).is_some()
}

/// `TABLE t`, `VIEW v`, `DICTIONARY d`; a database's name is no relation.
fn object(words: &mut Words<'_>, draft: &mut Draft) -> bool {
    if words.eat("database") {
        return true;
    }
    words.eat("temporary");
    words.eat("materialized");
    (words.eat("table") || words.eat("view") || words.eat("dictionary")) && one(words, draft, Access::Write)
}

/// What a backup is of.
fn target(words: &mut Words<'_>, draft: &mut Draft, access: Access) -> bool {
    words.eat("temporary");
    if words.eat("table") || words.eat("dictionary") || words.eat("view") {
        return one(words, draft, access);
    }
    words.any(words.at, &["database", "all"])
}

/// `ALTER TABLE t DELETE WHERE ...`, `UPDATE a = 1 WHERE ...`, and what PostgreSQL has too.
fn alter(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    let start = words.at;
    object::alter(words, draft)?;
    draft.operation = "ALTER TABLE".into();
    words.at = start + 1;
    words.name()?;
    if words.eat_all(&["on", "cluster"]) {
        words.at += 1;
    }
    let mut from = words.at;
    let mut depth = 0usize;
    for at in words.at..=words.kept.len() {
        match words.kind(at) {
            Some(Kind::Open) => depth += 1,
            Some(Kind::Close) => depth = depth.saturating_sub(1),
            Some(Kind::Comma) | None if depth == 0 => {
                command(words, from, at, draft);
                from = at + 1;
            }
            _ => {}
        }
    }
    Some(())
}

/// One of an `ALTER TABLE`'s commands.
fn command(words: &Words<'_>, from: usize, end: usize, draft: &mut Draft) {
    let is = |word: &str| words.is(from, word);
    if is("delete") || is("update") {
        draft.effect(if is("delete") { Effect::Delete } else { Effect::Update });
        draft.literal_bound = true;
        let condition = (from..end).rev().find(|&at| words.is(at, "where")).map(|at| at + 1);
        let kept = condition.and_then(|at| words.kept.get(at..end)).unwrap_or_default();
        let all = feed::condition(words.dialect, words.text, kept, condition::is_true);
        draft.unbounded |= all.unwrap_or(condition.is_none());
        let rest = Words { at: from, kept: words.kept.get(..end).unwrap_or_default(), ..Words::of(words) };
        scan::functions(&rest, draft);
    }
    if is("clear") || is("replace") || is("detach") || is("move") && words.has(&["to", "table"]) {
        draft.effect(Effect::Drop);
    }
    if is("fetch") {
        draft.effect(Effect::CopyIn);
    }
}
