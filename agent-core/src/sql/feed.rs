//! Our tokens -> `sqlparser`'s tokens -> syntax tree. There is one lexer only, the database's own; the parser never
//! sees the text. What PostgreSQL writes and the parser does not know is put in words that it knows.

use std::borrow::Cow;

use sqlparser::ast::{DollarQuotedString, Expr, Statement};
use sqlparser::dialect::{
    ClickHouseDialect, Dialect as Grammar, MsSqlDialect, MySqlDialect, PostgreSqlDialect,
};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Span, Token as Fed, TokenWithSpan};

use super::Dialect;
use super::shape::Kept;
use super::token::{Kind, Token};

/// Longest statement, in tokens that stay, that is read as a tree. Beyond it the tokens are scanned.
const MOST_TOKENS: usize = 20_000;
/// Deepest nesting that the parser follows.
const DEEPEST: usize = 250;
/// Stack for one token: a chain of operators is a tree as deep as half its tokens, which is walked and dropped
/// by recursion. Estimated with room to spare: a level takes about 1 KiB in a release build, 5 KiB in a debug build.
const STACK_PER_TOKEN: usize = if cfg!(debug_assertions) { 4096 } else { 1024 };
/// Stack for the parser's own nesting.
const STACK: usize = 512 * 1024;

/// Reads the tokens as one statement and shows the tree to `read`. `None` where the parser does not understand it.
pub(super) fn statement<R>(
    dialect: Dialect,
    text: &[u8],
    kept: &[Kept],
    read: impl FnOnce(&Statement) -> R,
) -> Option<R> {
    with_parser(dialect, text, kept, |parser| {
        let statement = parser.parse_statement()?;
        parser.expect_token(&Fed::EOF)?;
        Ok(read(&statement))
    })
}

/// Reads the tokens as one condition.
pub(super) fn condition<R>(
    dialect: Dialect,
    text: &[u8],
    kept: &[Kept],
    read: impl FnOnce(&Expr) -> R,
) -> Option<R> {
    with_parser(dialect, text, kept, |parser| {
        let condition = parser.parse_expr()?;
        parser.expect_token(&Fed::EOF)?;
        Ok(read(&condition))
    })
}

fn with_parser<R>(
    dialect: Dialect,
    text: &[u8],
    kept: &[Kept],
    read: impl FnOnce(&mut Parser<'_>) -> Result<R, ParserError>,
) -> Option<R> {
    if kept.len() > MOST_TOKENS {
        return None;
    }
    let grammar: &dyn Grammar = match dialect {
        Dialect::Postgresql => &PostgreSqlDialect {},
        Dialect::Mysql => &MySqlDialect {},
        Dialect::Tsql => &MsSqlDialect {},
        Dialect::Clickhouse => &ClickHouseDialect {},
        Dialect::Redis | Dialect::Mongodb => return None,
    };
    let stack = STACK + kept.len() * STACK_PER_TOKEN;
    stacker::maybe_grow(stack, stack, || {
        let mut parser = Parser::new(grammar)
            .with_recursion_limit(DEEPEST)
            .with_tokens_with_locations(feed(dialect, text, kept)?);
        read(&mut parser).ok()
    })
}

/// `None` where a token has no counterpart.
fn feed(dialect: Dialect, text: &[u8], kept: &[Kept]) -> Option<Vec<TokenWithSpan>> {
    let mut out = Vec::with_capacity(kept.len() + 8);
    let mut put = |token| out.push(TokenWithSpan::new(token, Span::empty()));
    let at = |i: usize| kept.get(i).map(|k| k.token);
    let word = |i: usize, keyword: &str| at(i).is_some_and(|t| t.is(text, keyword));
    let mut i = 0;
    while let Some(token) = at(i) {
        let before = i.checked_sub(1);
        if let Some(length) = modifiers(dialect, text, kept, i) {
            // `DELETE t` of SQL Server is `DELETE FROM t`.
            let verb = before.is_some_and(|b| word(b, "delete"));
            i += length;
            let named = at(i).is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Name)) && !word(i, "from");
            if dialect == Dialect::Tsql && verb && named && !from_follows(text, kept, i) {
                put(Fed::make_word("from", None));
            }
            if length > 0 {
                continue;
            }
        }
        let postgresql = dialect == Dialect::Postgresql;
        let step = if postgresql && token.kind == Kind::Word {
            rewrite(text, &word, &at, i, before)
        } else {
            Rewrite::Keep
        };
        match step {
            Rewrite::Keep => put(translate(dialect, text, token, escape(text, &word, &at, i))?),
            Rewrite::Skip => {}
            Rewrite::Nothing => {
                put(Fed::make_word("select", None));
                put(Fed::Mul);
            }
            Rewrite::Table => {
                put(Fed::make_word("select", None));
                put(Fed::Mul);
                put(Fed::make_word("from", None));
            }
        }
        let escaped = matches!(token.kind, Kind::Unicode | Kind::Name) && word(i + 1, "uescape");
        i += if escaped { 3 } else { 1 };
    }
    Some(out)
}

/// How many words behind a verb say only how it is to be done: MySQL's `LOW_PRIORITY`, SQL Server's `TOP (n) PERCENT`,
/// which takes some rows, no matter which. `None` where no verb of a change stands before.
fn modifiers(dialect: Dialect, text: &[u8], kept: &[Kept], i: usize) -> Option<usize> {
    let word = |i: usize, keyword: &str| kept.get(i).is_some_and(|k| k.token.is(text, keyword));
    let kind = |i: usize| kept.get(i).map(|k| k.token.kind);
    let verb = i.checked_sub(1)?;
    if !["delete", "update", "insert", "replace"].iter().any(|v| word(verb, v))
        || kind(verb) != Some(Kind::Word)
    {
        return None;
    }
    let mut end = i;
    match dialect {
        Dialect::Mysql if kind(i) == Some(Kind::Word) => {
            while ["low_priority", "quick", "ignore", "delayed", "high_priority"].iter().any(|m| word(end, m))
            {
                end += 1;
            }
        }
        Dialect::Tsql if word(i, "top") => {
            end += 1;
            if kind(end) == Some(Kind::Open) {
                let closes = |k: &Kept| k.token.kind == Kind::Close;
                end += kept.get(end..)?.iter().position(closes)? + 1;
            } else {
                end += 1;
            }
            end += usize::from(word(end, "percent"));
        }
        Dialect::Tsql => {}
        _ => return None,
    }
    Some(end - i)
}

/// True where `FROM` stands behind the name: `DELETE a FROM t AS a`.
fn from_follows(text: &[u8], kept: &[Kept], mut i: usize) -> bool {
    while kept.get(i + 1).is_some_and(|k| k.token.kind == Kind::Dot) {
        i += 2;
    }
    kept.get(i + 1).is_some_and(|k| k.token.is(text, "from"))
}

enum Rewrite {
    Keep,
    Skip,
    Table,
    Nothing,
}

/// `SELECT` may name no column; `TABLE t` is `SELECT * FROM t`; `ONLY` and `CURRENT OF` say nothing about what is touched; row locks differ in
/// strength only.
fn rewrite(
    text: &[u8],
    word: &impl Fn(usize, &str) -> bool,
    at: &impl Fn(usize) -> Option<Token>,
    i: usize,
    before: Option<usize>,
) -> Rewrite {
    let after = |keywords: &[&str]| before.is_some_and(|b| keywords.iter().any(|k| word(b, k)));
    let next_is_name = at(i + 1).is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Name));
    let after_kind = |kind: Kind| before.and_then(at).is_some_and(|t| t.kind == kind);
    let Some(token) = at(i) else { return Rewrite::Keep };
    if token.is(text, "table") {
        let starts = before.is_none()
            || after(&["union", "except", "intersect", "all", "distinct"])
            || after_kind(Kind::Open) && !word(i + 1, "in");
        return if starts && next_is_name { Rewrite::Table } else { Rewrite::Keep };
    }
    if token.is(text, "select") {
        let ends = at(i + 1).is_none_or(|t| {
            matches!(t.kind, Kind::Close)
                || ["from", "where", "union", "except", "intersect", "into", "limit"]
                    .iter()
                    .any(|k| t.is(text, k))
        });
        return if ends { Rewrite::Nothing } else { Rewrite::Keep };
    }
    let only = token.is(text, "only")
        && (after(&["from", "join", "update", "into", "using"])
            || after_kind(Kind::Comma)
            || after_kind(Kind::Open))
        && next_is_name;
    let cursor = token.is(text, "current") && word(i + 1, "of") && after(&["where"])
        || token.is(text, "of")
            && after(&["current"])
            && before.and_then(|b| b.checked_sub(1)).is_some_and(|b| word(b, "where"));
    let lock = (token.is(text, "no") && word(i + 1, "key") && after(&["for"]))
        || (token.is(text, "key")
            && (word(i + 1, "update") || word(i + 1, "share"))
            && after(&["for", "no"]));
    let two_back = |keyword: &str| before.and_then(|b| b.checked_sub(1)).is_some_and(|b| word(b, keyword));
    let overriding = token.is(text, "overriding") && (word(i + 1, "system") || word(i + 1, "user"))
        || after(&["overriding"]) && word(i + 1, "value")
        || token.is(text, "value") && two_back("overriding");
    let variadic = token.is(text, "variadic") && (after_kind(Kind::Open) || after_kind(Kind::Comma));
    if only || cursor || lock || overriding || variadic { Rewrite::Skip } else { Rewrite::Keep }
}

/// The escape character of `U&"..." UESCAPE '!'`.
fn escape(
    text: &[u8],
    word: &impl Fn(usize, &str) -> bool,
    at: &impl Fn(usize) -> Option<Token>,
    i: usize,
) -> char {
    let custom = word(i + 1, "uescape").then(|| at(i + 2)).flatten();
    custom.and_then(|t| t.of(text).get(1).copied()).map_or('\\', char::from)
}

fn translate(dialect: Dialect, text: &[u8], token: Token, escape: char) -> Option<Fed> {
    let bytes = token.of(text);
    Some(match token.kind {
        Kind::Word => {
            let word = String::from_utf8_lossy(bytes);
            // Names fold as the server folds them; keywords are found in any case.
            if dialect == Dialect::Postgresql && word.bytes().any(|b| b.is_ascii_uppercase()) {
                Fed::make_word(&word.to_ascii_lowercase(), None)
            } else {
                Fed::make_word(&word, None)
            }
        }
        Kind::Name => {
            Fed::make_word(&name(bytes, escape), Some(if bytes.first() == Some(&b'`') { '`' } else { '"' }))
        }
        Kind::Escaped if dialect == Dialect::Postgresql => {
            Fed::EscapedStringLiteral(value(text, token).into_owned())
        }
        Kind::String | Kind::Escaped => Fed::SingleQuotedString(value(text, token).into_owned()),
        Kind::Unicode => Fed::UnicodeStringLiteral(unicode(&value(text, token), escape)),
        Kind::Dollar => {
            Fed::DollarQuotedString(DollarQuotedString { value: value(text, token).into_owned(), tag: None })
        }
        Kind::Bits if matches!(bytes.first(), Some(b'x' | b'X')) => {
            Fed::HexStringLiteral(value(text, token).into_owned())
        }
        Kind::Bits => Fed::SingleQuotedByteStringLiteral(value(text, token).into_owned()),
        Kind::Number => Fed::Number(String::from_utf8_lossy(bytes).into_owned(), false),
        Kind::Parameter => Fed::Placeholder(String::from_utf8_lossy(bytes).into_owned()),
        // Unless PIPES_AS_CONCAT is set, and then a text is true where it is a number.
        Kind::Operator if dialect == Dialect::Mysql && bytes == b"||" => Fed::make_word("or", None),
        Kind::Operator if dialect == Dialect::Mysql && bytes == b"&&" => Fed::make_word("and", None),
        Kind::Operator => operator(bytes)?,
        Kind::Open => Fed::LParen,
        Kind::Close => Fed::RParen,
        Kind::OpenBracket => Fed::LBracket,
        Kind::CloseBracket => Fed::RBracket,
        Kind::Comma => Fed::Comma,
        Kind::Semicolon => Fed::SemiColon,
        Kind::Dot => Fed::Period,
        Kind::Colon => match bytes {
            b"::" => Fed::DoubleColon,
            b":=" => Fed::Assignment,
            _ => Fed::Colon,
        },
        Kind::Other => return None,
    })
}

fn operator(bytes: &[u8]) -> Option<Fed> {
    Some(match bytes {
        b"=" => Fed::Eq,
        b"==" => Fed::DoubleEq,
        b"<>" | b"!=" => Fed::Neq,
        b"<" => Fed::Lt,
        b">" => Fed::Gt,
        b"<=" => Fed::LtEq,
        b">=" => Fed::GtEq,
        b"<=>" => Fed::Spaceship,
        b"+" => Fed::Plus,
        b"-" => Fed::Minus,
        b"*" => Fed::Mul,
        b"/" => Fed::Div,
        b"%" => Fed::Mod,
        b"||" => Fed::StringConcat,
        b"=>" => Fed::RArrow,
        b"&" => Fed::Ampersand,
        b"|" => Fed::Pipe,
        b"^" => Fed::Caret,
        b"#" => Fed::Sharp,
        b"~" => Fed::Tilde,
        b"~*" => Fed::TildeAsterisk,
        b"!~" => Fed::ExclamationMarkTilde,
        b"!~*" => Fed::ExclamationMarkTildeAsterisk,
        b"~~" => Fed::DoubleTilde,
        b"~~*" => Fed::DoubleTildeAsterisk,
        b"!~~" => Fed::ExclamationMarkDoubleTilde,
        b"!~~*" => Fed::ExclamationMarkDoubleTildeAsterisk,
        b"<<" => Fed::ShiftLeft,
        b">>" => Fed::ShiftRight,
        b"&&" => Fed::Overlap,
        b"!" => Fed::ExclamationMark,
        b"!!" => Fed::DoubleExclamationMark,
        b"@" => Fed::AtSign,
        b"^@" => Fed::CaretAt,
        b"|/" => Fed::PGSquareRoot,
        b"||/" => Fed::PGCubeRoot,
        b"->" => Fed::Arrow,
        b"->>" => Fed::LongArrow,
        b"#>" => Fed::HashArrow,
        b"#>>" => Fed::HashLongArrow,
        b"@>" => Fed::AtArrow,
        b"<@" => Fed::ArrowAt,
        b"#-" => Fed::HashMinus,
        b"@?" => Fed::AtQuestion,
        b"@@" => Fed::AtAt,
        b"?" => Fed::Question,
        b"?&" => Fed::QuestionAnd,
        b"?|" => Fed::QuestionPipe,
        other => Fed::CustomBinaryOperator(String::from_utf8(other.to_vec()).ok()?),
    })
}

/// What a quoted name says.
pub(super) fn name(bytes: &[u8], escape: char) -> String {
    let unicode_prefix =
        bytes.len() > 2 && matches!(bytes.first(), Some(b'u' | b'U')) && bytes.get(1) == Some(&b'&');
    let quoted = if unicode_prefix { bytes.get(2..).unwrap_or_default() } else { bytes };
    let quote = quoted.first().copied().unwrap_or(b'"');
    let close = if quote == b'[' { b']' } else { quote };
    let inner = inside(quoted, 1, 1, close);
    let plain = String::from_utf8_lossy(&undouble(inner, close)).into_owned();
    if unicode_prefix { unicode(&plain, escape) } else { plain }
}

/// What a string literal says.
pub(super) fn value(text: &[u8], token: Token) -> Cow<'_, str> {
    let bytes = token.of(text);
    match token.kind {
        Kind::Dollar => {
            let mark = bytes.iter().skip(1).position(|&b| b == b'$').map_or(bytes.len(), |p| p + 2);
            let end = bytes.len().saturating_sub(mark).max(mark);
            String::from_utf8_lossy(bytes.get(mark..end).unwrap_or_default())
        }
        Kind::String | Kind::Escaped | Kind::Unicode | Kind::Bits => {
            let open = bytes.iter().position(|&b| matches!(b, b'\'' | b'"')).unwrap_or(0);
            let quote = bytes.get(open).copied().unwrap_or(b'\'');
            let inner = inside(bytes, open + 1, 1, quote);
            let escapes = token.kind == Kind::Escaped && inner.contains(&b'\\');
            if !escapes && !inner.contains(&quote) {
                return String::from_utf8_lossy(inner);
            }
            let plain =
                if token.kind == Kind::Escaped { unescape(inner, quote) } else { undouble(inner, quote) };
            String::from_utf8_lossy(&plain).into_owned().into()
        }
        _ => String::from_utf8_lossy(bytes),
    }
}

/// The bytes between the quotes; an open end is tolerated.
fn inside(bytes: &[u8], open: usize, close: usize, quote: u8) -> &[u8] {
    let end =
        if bytes.len() > open && bytes.last() == Some(&quote) { bytes.len() - close } else { bytes.len() };
    bytes.get(open..end).unwrap_or_default()
}

/// Takes out doubled quotes, and what stands between the parts of a continued string.
fn undouble(inner: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        if b == quote && bytes.next_if_eq(&quote).is_none() {
            continued(&mut bytes, quote);
            continue;
        }
        out.push(b);
    }
    out
}

/// Moves behind the quote that goes on with a string.
fn continued(bytes: &mut impl Iterator<Item = u8>, quote: u8) {
    bytes.find(|&b| b == quote);
}

fn unescape(inner: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        if b == quote {
            if bytes.next_if_eq(&quote).is_none() {
                continued(&mut bytes, quote);
                continue;
            }
            out.push(b);
        } else if b == b'\\' {
            match bytes.next() {
                Some(b'n') => out.push(b'\n'),
                Some(b't') => out.push(b'\t'),
                Some(b'r') => out.push(b'\r'),
                Some(b'b') => out.push(8),
                Some(b'f') => out.push(12),
                Some(b'x') => number(&mut bytes, 16, 2, &mut out),
                Some(b'u') => number(&mut bytes, 16, 4, &mut out),
                Some(b'U') => number(&mut bytes, 16, 8, &mut out),
                Some(d @ b'0'..=b'7') => {
                    let mut value = u32::from(d - b'0');
                    for _ in 0..2 {
                        let Some(d) = bytes.next_if(|d| (b'0'..=b'7').contains(d)) else { break };
                        value = value * 8 + u32::from(d - b'0');
                    }
                    out.push(value as u8);
                }
                Some(other) => out.push(other),
                None => {}
            }
        } else {
            out.push(b);
        }
    }
    out
}

/// Reads up to `most` digits as a character.
fn number(
    bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    radix: u32,
    most: u32,
    out: &mut Vec<u8>,
) {
    let mut value = 0u32;
    for _ in 0..most {
        let Some(digit) = bytes.peek().and_then(|&b| char::from(b).to_digit(radix)) else { break };
        bytes.next();
        value = value.wrapping_mul(radix).wrapping_add(digit);
    }
    let mut buffer = [0; 4];
    out.extend_from_slice(char::from_u32(value).unwrap_or('\u{fffd}').encode_utf8(&mut buffer).as_bytes());
}

/// Decodes `\0061` and `\+000061`.
fn unicode(text: &str, escape: char) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(escape) {
        out.push_str(before);
        if let Some(doubled) = after.strip_prefix(escape) {
            out.push(escape);
            rest = doubled;
            continue;
        }
        let (digits, length) = if let Some(long) = after.strip_prefix('+') { (long, 6) } else { (after, 4) };
        match digits.get(..length).and_then(|d| u32::from_str_radix(d, 16).ok()) {
            Some(code) => {
                out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                rest = digits.get(length..).unwrap_or_default();
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}
