//! COPY's text -> what is copied and how its rows are written; one field of a row.

use std::sync::Arc;

use super::super::statement::Tokens;
use crate::mask::Unmaskable;
use crate::sql::token::Kind;

/// What a COPY copies.
pub(super) enum Source<'t> {
    Relation { name: Arc<str>, columns: Vec<String> },
    Query(&'t [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Text,
    Csv,
    Binary,
}

/// How rows are written.
#[derive(Clone, Debug)]
pub(super) struct Syntax {
    pub(super) style: Style,
    pub(super) header: bool,
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) escape: u8,
    pub(super) null: Vec<u8>,
}

/// A COPY that sends rows to the client.
pub(super) struct Statement<'t> {
    pub(super) source: Source<'t>,
    pub(super) syntax: Syntax,
}

/// Reads a COPY statement. `Ok(None)` where it takes rows in.
pub(super) fn read(text: &[u8]) -> Result<Option<Statement<'_>>, Unmaskable> {
    let tokens = Tokens::new(text);
    let unclear = Unmaskable::NotUnderstood;
    let mut at = 1 + usize::from(tokens.is(1, "binary"));
    let mut style = if at == 2 { Style::Binary } else { Style::Text };
    let source = if tokens.kind(at) == Some(Kind::Open) {
        let close = tokens.close_of(at).ok_or(unclear)?;
        let inner = tokens.text_of(at + 1, close).ok_or(unclear)?;
        at = close + 1;
        Source::Query(inner)
    } else {
        let mut name = tokens.name(at).ok_or(unclear)?;
        at += 1;
        while tokens.kind(at) == Some(Kind::Dot) {
            name = format!("{name}.{}", tokens.name(at + 1).ok_or(unclear)?);
            at += 2;
        }
        let mut columns = Vec::new();
        if tokens.kind(at) == Some(Kind::Open) {
            let close = tokens.close_of(at).ok_or(unclear)?;
            columns.extend((at + 1..close).filter_map(|at| tokens.name(at)));
            at = close + 1;
        }
        Source::Relation { name: name.into(), columns }
    };
    if tokens.is(at, "from") {
        return Ok(None);
    }
    if !tokens.is(at, "to") {
        return Err(unclear);
    }
    if !tokens.is(at + 1, "stdout") && !tokens.is(at + 1, "stdin") {
        return Err(Unmaskable::Elsewhere);
    }
    at += 2;
    let (mut delimiter, mut null, mut quote, mut escape, mut header) = (None, None, None, None, false);
    while at < tokens.len() {
        // `DELIMITER AS ';'` of old.
        let value = at + 1 + usize::from(tokens.is(at + 1, "as"));
        if tokens.is(at, "format") {
            style = match tokens.word(at + 1).as_deref() {
                Some("text") => Style::Text,
                Some("csv") => Style::Csv,
                Some("binary") => Style::Binary,
                _ => return Err(unclear),
            };
            at += 1;
        } else if tokens.is(at, "csv") {
            style = Style::Csv;
        } else if tokens.is(at, "binary") {
            style = Style::Binary;
        } else if tokens.is(at, "header") {
            let off = tokens.word(at + 1);
            header = !matches!(off.as_deref(), Some("false" | "off" | "0"));
            at += usize::from(
                off.is_some_and(|word| ["true", "on", "1", "match", "false", "off", "0"].contains(&&*word)),
            );
        } else if tokens.is(at, "delimiter") || tokens.is(at, "delimiters") {
            delimiter = Some(tokens.byte(value).ok_or(unclear)?);
            at = value;
        } else if tokens.is(at, "null") {
            null = Some(tokens.string(value).ok_or(unclear)?);
            at = value;
        } else if tokens.is(at, "force_quote") || tokens.is(at, "force") {
            at += usize::from(tokens.is(at + 1, "quote"));
            at = match tokens.kind(at + 1) {
                Some(Kind::Open) => tokens.close_of(at + 1).ok_or(unclear)?,
                // Names and commas of old, up to the end.
                Some(Kind::Word | Kind::Name) => tokens.len(),
                _ => at + 1,
            };
        } else if tokens.is(at, "quote") {
            quote = Some(tokens.byte(value).ok_or(unclear)?);
            at = value;
        } else if tokens.is(at, "escape") {
            escape = Some(tokens.byte(value).ok_or(unclear)?);
            at = value;
        }
        at += 1;
    }
    let csv = style == Style::Csv;
    let quote = quote.unwrap_or(b'"');
    let syntax = Syntax {
        style,
        header: header && style != Style::Binary,
        delimiter: delimiter.unwrap_or(if csv { b',' } else { b'\t' }),
        quote,
        escape: escape.unwrap_or(quote),
        null: null.unwrap_or_else(|| if csv { Vec::new() } else { b"\\N".to_vec() }),
    };
    Ok(Some(Statement { source, syntax }))
}

impl Syntax {
    /// Reads the field at `at`: where it ends, and whether it is quoted.
    pub(super) fn field(&self, line: &[u8], mut at: usize, value: &mut Vec<u8>) -> (usize, bool) {
        let (mut inside, mut quoted) = (false, false);
        while let Some(&b) = line.get(at) {
            let next = line.get(at + 1).copied();
            if self.style == Style::Text {
                match b {
                    b'\\' => {
                        value.push(match next {
                            Some(b'n') => b'\n',
                            Some(b'r') => b'\r',
                            Some(b't') => b'\t',
                            Some(b'b') => 8,
                            Some(b'f') => 12,
                            Some(b'v') => 11,
                            Some(other) => other,
                            None => b'\\',
                        });
                        at += 1;
                    }
                    b if b == self.delimiter => break,
                    b => value.push(b),
                }
            } else if inside && b == self.escape && next.is_some_and(|n| n == self.quote || n == self.escape)
            {
                value.extend(next);
                at += 1;
            } else if b == self.quote {
                (inside, quoted) = (!inside, true);
            } else if b == self.delimiter && !inside {
                break;
            } else {
                value.push(b);
            }
            at += 1;
        }
        (at.min(line.len()), quoted)
    }

    pub(super) fn write(&self, value: &[u8], quoted: bool, out: &mut Vec<u8>) {
        if self.style == Style::Text {
            for &b in value {
                if b == b'\\' || b == self.delimiter {
                    out.push(b'\\');
                }
                out.push(b);
            }
            return;
        }
        let special = |b: &u8| [self.delimiter, self.quote, self.escape, b'\n', b'\r'].contains(b);
        if !quoted && !value.iter().any(special) && value != self.null {
            return out.extend_from_slice(value);
        }
        out.push(self.quote);
        for &b in value {
            if b == self.quote || b == self.escape {
                out.push(self.escape);
            }
            out.push(b);
        }
        out.push(self.quote);
    }
}
