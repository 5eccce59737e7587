//! Tokens -> the statements of a text, cut where the database cuts them.

use std::ops::Range;

use super::Dialect;
use super::token::{Kind, Token};

mod batch; // words of a batch -> where the next statement begins

/// Ranges of tokens, one for each statement, without the semicolons. Empty statements yield nothing.
///
/// PostgreSQL: semicolons inside parentheses (`CREATE RULE ... DO (a; b)`) and inside the body of
/// `CREATE FUNCTION ... BEGIN ATOMIC ... END` do not separate; the rule is that of `psql`'s lexer.
pub fn split(dialect: Dialect, text: &[u8], tokens: &[Token]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut parentheses = 0u32;
    let mut blocks = 0u32;
    let mut batch = batch::Batch::default();
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => parentheses = parentheses.saturating_add(1),
            Kind::Close => parentheses = parentheses.saturating_sub(1),
            Kind::Semicolon if parentheses == 0 && blocks == 0 && !batch.is_whole() => {
                if start < i {
                    parts.push(start..i);
                }
                start = i + 1;
                batch.end();
            }
            Kind::Word if parentheses == 0 => {
                let next = tokens.get(i + 1).copied();
                match dialect {
                    Dialect::Postgresql => atomic(text, tokens, start, i, &mut blocks),
                    Dialect::Mysql => stored(text, tokens, start, i, next, &mut blocks),
                    Dialect::Tsql => {
                        if batch.begins(text, tokens, start, i) {
                            parts.push(start..i);
                            start = i;
                        }
                    }
                    Dialect::Clickhouse | Dialect::Redis | Dialect::Mongodb => {}
                }
            }
            _ => {}
        }
    }
    if start < tokens.len() {
        parts.push(start..tokens.len());
    }
    parts
}

/// Follows `BEGIN ATOMIC ... END` in `CREATE [OR REPLACE] FUNCTION | PROCEDURE`.
fn atomic(text: &[u8], tokens: &[Token], start: usize, i: usize, blocks: &mut u32) {
    let word = |at: usize, keyword: &str| tokens.get(at).is_some_and(|t| t.is(text, keyword));
    let opens = word(i, "begin") && (*blocks > 0 || word(i + 1, "atomic"));
    let cases = *blocks > 0 && word(i, "case");
    let ends = *blocks > 0 && word(i, "end");
    if !(opens || cases || ends) {
        return;
    }
    let kind = if word(start + 1, "or") { start + 3 } else { start + 1 };
    if word(start, "create") && (word(kind, "function") || word(kind, "procedure")) {
        *blocks = if ends { blocks.saturating_sub(1) } else { blocks.saturating_add(1) };
    }
}

/// Follows `BEGIN ... END` and `CASE ... END` in the body of a MySQL routine, trigger or event.
fn stored(text: &[u8], tokens: &[Token], start: usize, i: usize, next: Option<Token>, blocks: &mut u32) {
    let Some(token) = tokens.get(i) else { return };
    let follows = |words: &[&str]| next.is_some_and(|n| words.iter().any(|w| n.is(text, w)));
    let opens = token.is(text, "begin") || (*blocks > 0 && token.is(text, "case") && !ended(text, tokens, i));
    let ends = *blocks > 0 && token.is(text, "end") && !follows(&["if", "loop", "while", "repeat"]);
    if !(opens || ends) {
        return;
    }
    let head = tokens.get(start..i).unwrap_or_default();
    let routine = head.first().is_some_and(|t| t.is(text, "create") || t.is(text, "alter"))
        && head
            .iter()
            .take(64)
            .any(|t| ["procedure", "function", "trigger", "event"].iter().any(|kind| t.is(text, kind)));
    if routine {
        *blocks = if ends { blocks.saturating_sub(1) } else { blocks.saturating_add(1) };
    }
}

/// True where the word at `i` stands behind `END`, as in `END CASE`.
fn ended(text: &[u8], tokens: &[Token], i: usize) -> bool {
    i.checked_sub(1).and_then(|p| tokens.get(p)).is_some_and(|t| t.is(text, "end"))
}
