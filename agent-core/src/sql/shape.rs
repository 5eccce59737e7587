//! Tokens -> the statement's shape: what stays when literals, comments and list lengths are gone.
//!
//! Three things come out of it: the key under which an analysis is shared, the redacted text, the fingerprint.

use super::token::{Kind, Token};

/// A token that stays, and whether elements of its list were left out behind it.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The token.
    pub token: Token,
    /// More of the same kind followed: list elements or tuples of constants.
    pub more: bool,
}

/// Leaves out what repeats: constants of an `IN` or `ARRAY` list behind the first, constant tuples of `VALUES`
/// behind the first tuple. What is left out has no effect, so everything later may look at what stays only.
pub fn reduce(text: &[u8], tokens: &[Token], kept: &mut Vec<Kept>) {
    let mut depth = 0usize;
    let mut values: Vec<usize> = Vec::new(); // depths at which a VALUES list is open
    let mut i = 0;
    while let Some(&token) = tokens.get(i) {
        kept.push(Kept { token, more: false });
        i += 1;
        match token.kind {
            Kind::Open | Kind::OpenBracket => {
                if is_list(text, tokens, i - 1)
                    && let Some((first, end)) = constants(text, tokens, i)
                    && first < end
                {
                    kept.extend(
                        tokens
                            .get(i..first)
                            .unwrap_or_default()
                            .iter()
                            .map(|&token| Kept { token, more: false }),
                    );
                    if let Some(last) = kept.last_mut() {
                        last.more = true;
                    }
                    i = end;
                }
                depth += 1;
            }
            Kind::Close | Kind::CloseBracket => {
                depth = depth.saturating_sub(1);
                if values.last() != Some(&depth) {
                    continue;
                }
                while is(tokens, i, Kind::Comma) && is(tokens, i + 1, Kind::Open) {
                    let Some((_, end)) = constants(text, tokens, i + 2) else { break };
                    if let Some(last) = kept.last_mut() {
                        last.more = true;
                    }
                    i = end + 1;
                }
                if !is(tokens, i, Kind::Comma) {
                    values.pop();
                }
            }
            Kind::Word if token.is(text, "values") && is(tokens, i, Kind::Open) => values.push(depth),
            _ => {}
        }
    }
}

fn is(tokens: &[Token], at: usize, kind: Kind) -> bool {
    tokens.get(at).is_some_and(|t| t.kind == kind)
}

fn word(text: &[u8], tokens: &[Token], at: Option<usize>, keyword: &str) -> bool {
    at.and_then(|at| tokens.get(at)).is_some_and(|t| t.is(text, keyword))
}

/// True for the bracket of an `IN (` whose left side is no constant, and of an `ARRAY[`.
fn is_list(text: &[u8], tokens: &[Token], open: usize) -> bool {
    let Some(before) = open.checked_sub(1) else { return false };
    if is(tokens, open, Kind::OpenBracket) {
        return word(text, tokens, Some(before), "array");
    }
    if !word(text, tokens, Some(before), "in") {
        return false;
    }
    let mut left = before.checked_sub(1);
    if word(text, tokens, left, "not") {
        left = left.and_then(|l| l.checked_sub(1));
    }
    left.and_then(|l| tokens.get(l))
        .is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Name | Kind::Close | Kind::CloseBracket))
}

/// Reads constants, or tuples of constants, up to the closing bracket: (end of the first, the bracket).
fn constants(text: &[u8], tokens: &[Token], start: usize) -> Option<(usize, usize)> {
    let mut at = start;
    let mut first = None;
    loop {
        at = if is(tokens, at, Kind::Open) {
            let mut inner = at + 1;
            loop {
                inner = constant(text, tokens, inner)?;
                if is(tokens, inner, Kind::Close) {
                    break inner + 1;
                }
                if !is(tokens, inner, Kind::Comma) {
                    return None;
                }
                inner += 1;
            }
        } else {
            constant(text, tokens, at)?
        };
        let first = *first.get_or_insert(at);
        match tokens.get(at)?.kind {
            Kind::Comma => at += 1,
            Kind::Close | Kind::CloseBracket => return Some((first, at)),
            _ => return None,
        }
    }
}

/// `[sign] literal | parameter | NULL | TRUE | FALSE | DEFAULT`, with or without a cast or a type before it.
fn constant(text: &[u8], tokens: &[Token], mut at: usize) -> Option<usize> {
    if is(tokens, at, Kind::Operator) && matches!(tokens.get(at)?.of(text), b"-" | b"+") {
        at += 1;
    }
    let token = tokens.get(at)?;
    if token.kind == Kind::Word {
        let typed =
            ["date", "time", "timestamp", "timestamptz", "interval"].iter().any(|k| token.is(text, k));
        if typed && matches!(tokens.get(at + 1)?.kind, Kind::String | Kind::Escaped) {
            at += 1;
        } else if !(is_constant_word(text, *token) || token.is(text, "default")) {
            return None;
        }
    } else if !(token.kind.is_literal() || token.kind == Kind::Parameter) {
        return None;
    }
    at += 1;
    while is(tokens, at, Kind::Colon) && is(tokens, at + 1, Kind::Word) {
        at += 2;
    }
    Some(at)
}

fn is_constant_word(text: &[u8], token: Token) -> bool {
    ["null", "true", "false"].iter().any(|k| token.is(text, k))
}

/// True where the token is a value: a literal, or `NULL`, `TRUE` or `FALSE` where a value stands (not `IS NULL`).
fn is_value(text: &[u8], kept: &[Kept], i: usize) -> bool {
    let Some(token) = kept.get(i).map(|k| k.token) else { return false };
    if token.kind.is_literal() {
        return true;
    }
    let before = i.checked_sub(1).and_then(|p| kept.get(p)).map(|k| k.token);
    is_constant_word(text, token)
        && before.is_some_and(|b| match b.kind {
            Kind::Open | Kind::OpenBracket | Kind::Comma => true,
            Kind::Operator => {
                matches!(b.of(text), b"=" | b"<>" | b"!=" | b"<" | b">" | b"<=" | b">=" | b"=>" | b"||")
            }
            _ => false,
        })
}

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One byte for each kind of literal, so that equal keys parse alike.
    Key,
    /// A question mark, for people.
    Redacted,
}

/// Appends the shape's key: equal keys have equal syntax trees but for the values of their literals.
pub fn write_key(text: &[u8], kept: &[Kept], out: &mut Vec<u8>) {
    write(text, kept, Style::Key, out);
}

/// The text with a placeholder for every literal, without comments, white space as single spaces.
pub fn redacted(text: &[u8], kept: &[Kept]) -> String {
    let mut out = Vec::with_capacity(64);
    write(text, kept, Style::Redacted, &mut out);
    match String::from_utf8(out) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

fn write(text: &[u8], kept: &[Kept], style: Style, out: &mut Vec<u8>) {
    for (i, Kept { token, more }) in kept.iter().enumerate() {
        if token.spaced && i > 0 {
            out.push(b' ');
        }
        if is_value(text, kept, i) {
            out.push(if style == Style::Redacted { b'?' } else { code(text, *token) });
        } else {
            out.extend_from_slice(token.of(text));
        }
        if *more {
            out.extend_from_slice(if style == Style::Redacted { b", ..." } else { b"\x0f" });
        }
    }
}

/// One byte for the kind of a value. No token outside quotes has these bytes but a stray one, which no parser
/// accepts. Numbers that do not fit 18 digits may parse differently from those that do.
fn code(text: &[u8], token: Token) -> u8 {
    match token.kind {
        Kind::String => 1,
        Kind::Escaped => 2,
        Kind::Unicode => 3,
        Kind::Dollar => 4,
        Kind::Bits => 5,
        Kind::Number => {
            let digits = token.of(text);
            if digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit) { 6 } else { 7 }
        }
        _ => match token.of(text).first() {
            Some(b'n' | b'N') => 8,
            Some(b't' | b'T') => 14,
            _ => 16,
        },
    }
}

/// A hash that is equal for statements that differ in literals, spacing, comments, keyword case and list lengths
/// only. It is stored and compared for years: FNV-1a with a final mix, the same on every host and in every version.
pub fn fingerprint(text: &[u8], kept: &[Kept]) -> u64 {
    let mut hash = Fnv::default();
    for (i, Kept { token, .. }) in kept.iter().enumerate() {
        if is_value(text, kept, i) || token.kind == Kind::Parameter {
            hash.byte(b'?');
        } else if token.kind == Kind::Operator && is_sign(text, kept, i) {
            continue;
        } else if token.kind == Kind::Word {
            token.of(text).iter().for_each(|b| hash.byte(b.to_ascii_lowercase()));
        } else {
            token.of(text).iter().for_each(|&b| hash.byte(b));
        }
        hash.byte(0);
    }
    hash.finish()
}

/// True for the sign of a number, which is part of the literal: `x = -5` and `x = 5` have one fingerprint.
fn is_sign(text: &[u8], kept: &[Kept], i: usize) -> bool {
    let at = |i: usize| kept.get(i).map(|k| k.token);
    let sign = at(i).is_some_and(|t| matches!(t.of(text), b"-" | b"+"));
    if !sign || at(i + 1).is_none_or(|t| t.kind != Kind::Number) {
        return false;
    }
    at(i.wrapping_sub(1)).is_none_or(|before| match before.kind {
        Kind::Operator | Kind::Open | Kind::OpenBracket | Kind::Comma => true,
        Kind::Word => [
            "select", "where", "and", "or", "not", "in", "limit", "offset", "values", "between", "then",
            "else", "when", "like", "by", "case", "having", "on", "return", "default", "to", "set",
        ]
        .iter()
        .any(|k| before.is(text, k)),
        _ => false,
    })
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Spreads the last bytes over the whole word (the finalizer of `SplitMix64`).
    fn finish(self) -> u64 {
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The fingerprint's hash of any bytes.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hash = Fnv::default();
    for &byte in bytes {
        hash.byte(byte);
    }
    hash.finish()
}
