//! Statements that only MySQL and MariaDB have.

use super::Words;
use crate::sql::draft::Draft;
use crate::sql::{Access, Effect};

/// Reads a statement that MySQL has and PostgreSQL lacks, or means differently. False where it is none.
pub(super) fn read(verb: &str, words: &mut Words<'_>, draft: &mut Draft) -> bool {
    draft.operation = verb.to_ascii_uppercase();
    match verb {
        "load" => load(words, draft).is_some(),
        "set" => set(words, draft),
        "do" => {
            draft.effect(Effect::Read);
            crate::sql::scan::functions(words, draft);
            true
        }
        "lock" => {
            draft.effect(Effect::Lock);
            true
        }
        "unlock" | "xa" | "handler" => {
            draft.effect(if verb == "handler" { Effect::Read } else { Effect::Session });
            true
        }
        "flush" | "kill" | "shutdown" | "restart" | "purge" | "reset" | "change" | "stop" | "install"
        | "uninstall" | "optimize" | "repair" | "check" | "checksum" | "cache" | "binlog" | "clone" => {
            draft.effect(Effect::Admin);
            true
        }
        "start" if !words.is(words.at, "transaction") => {
            draft.effect(Effect::Admin);
            draft.effect(Effect::Replicate);
            true
        }
        "rename" => {
            draft.effect(Effect::Alter);
            if words.eat("user") {
                draft.effect(Effect::Admin);
                return true;
            }
            words.eat("table");
            while let Some(name) = words.name() {
                draft.target(&name, Access::Write);
                words.eat("to");
                words.at += usize::from(words.kind(words.at) == Some(crate::sql::token::Kind::Comma));
            }
            true
        }
        _ => {
            draft.operation.clear();
            false
        }
    }
}

/// `LOAD DATA [LOCAL] INFILE 'f' INTO TABLE t`.
fn load(words: &mut Words<'_>, draft: &mut Draft) -> Option<()> {
    if !(words.is(words.at, "data") || words.is(words.at, "xml")) {
        draft.effect(Effect::Admin);
        return Some(());
    }
    draft.operation.push_str(if words.is(words.at, "data") { " DATA" } else { " XML" });
    for effect in [Effect::Insert, Effect::CopyIn, Effect::File] {
        draft.effect(effect);
    }
    words.at = words.find("into")? + 1;
    words.eat("table");
    let name = words.name()?;
    draft.target(&name, Access::Write);
    Some(())
}

fn set(words: &mut Words<'_>, draft: &mut Draft) -> bool {
    if words.eat("password") {
        draft.operation = "SET PASSWORD".into();
        draft.effect(Effect::Alter);
        draft.effect(Effect::Admin);
        return true;
    }
    if words.any(words.at, &["role", "transaction"]) {
        return false;
    }
    draft.effect(Effect::Session);
    for at in words.at..words.kept.len() {
        let token =
            words.kept.get(at).map(|k| k.token.of(words.text).to_ascii_lowercase()).unwrap_or_default();
        // `sql_log_bin` in backticks is the same.
        let token: Vec<u8> = token.into_iter().filter(|b| *b != b'`').collect();
        let global = words.any(at, &["global", "persist", "persist_only"])
            || [b"@@global".as_slice(), b"@@persist", b"@@persist_only"].contains(&token.as_slice());
        let guard = [b"sql_log_bin".as_slice(), b"sql_log_off", b"general_log", b"@@sql_log_bin"]
            .contains(&token.as_slice());
        if global || guard {
            draft.effect(Effect::Admin);
        }
    }
    true
}
