//! A value, its type and its format -> a value of the same type that says nothing.
//!
//! Characters become `*`, as many as there were; numbers, bits and bytes become zero; times become the first day of
//! 2000; arrays keep their shape. Values of types that are not built in become NULL, as does what is malformed.

use super::types::{Kind, kind};
use crate::reader::Reader;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
    /// Not known: the value becomes NULL.
    Unknown,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Became {
    /// What was appended.
    Value,
    /// Nothing was appended.
    Null,
}

/// Deepest array of arrays that is taken apart; PostgreSQL's have six dimensions.
const DIMENSIONS: i32 = 6;

/// Appends the masked value.
pub(super) fn mask(oid: u32, format: Format, value: &[u8], out: &mut Vec<u8>) -> Became {
    let start = out.len();
    let done = match (kind(oid), format) {
        (Some(kind), Format::Text) => text(kind, value, out),
        (Some(kind), Format::Binary) => binary(kind, value, out),
        (None, _) | (_, Format::Unknown) => None,
    };
    if done.is_none() {
        out.truncate(start);
        return Became::Null;
    }
    Became::Value
}

/// `*` for each character; for each byte of what is not UTF-8.
pub(super) fn stars(value: &[u8], out: &mut Vec<u8>) {
    let count = std::str::from_utf8(value).map_or(value.len(), |text| text.chars().count());
    out.resize(out.len() + count, b'*');
}

fn zeros(count: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + count, 0);
}

fn text(kind: Kind, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match kind {
        Kind::Text => stars(value, out),
        Kind::Json { .. } => json(value, out),
        Kind::Fixed { text, .. } | Kind::Zero { text, .. } => out.extend_from_slice(text.as_bytes()),
        Kind::Bytes => hexadecimal(value, out),
        Kind::Bits => out.resize(out.len() + value.len(), b'0'),
        Kind::Date => out.extend_from_slice(Style::of(value).date().as_bytes()),
        Kind::Timestamp => out.extend_from_slice(Style::of(value).timestamp().as_bytes()),
        Kind::TimestampTz => {
            let style = Style::of(value);
            out.extend_from_slice(style.timestamp().as_bytes());
            out.extend_from_slice(if style == Style::Iso { b"+00" } else { b" UTC" });
        }
        Kind::Interval => out.extend_from_slice(interval(value).as_bytes()),
        Kind::Array { element } => array_text(element, value, out)?,
    }
    Some(())
}

fn binary(kind: Kind, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match kind {
        Kind::Text => stars(value, out),
        Kind::Json { versioned: false } => json(value, out),
        Kind::Json { versioned: true } => {
            let (&version, value) = value.split_first()?;
            out.push(version);
            json(value, out);
        }
        Kind::Fixed { binary, .. } => out.extend_from_slice(binary),
        Kind::Zero { length, .. } => zeros(length, out),
        Kind::Bytes => zeros(value.len(), out),
        Kind::Bits => {
            let (length, bits) = value.split_at_checked(4)?;
            out.extend_from_slice(length);
            zeros(bits.len(), out);
        }
        Kind::Date => zeros(4, out),
        Kind::Timestamp | Kind::TimestampTz => zeros(8, out),
        Kind::Interval => zeros(16, out),
        Kind::Array { .. } => array_binary(value, out)?,
    }
    Some(())
}

/// A value of the same kind: an object stays an object.
pub(super) fn json(value: &[u8], out: &mut Vec<u8>) {
    let masked: &[u8] = match value.trim_ascii_start().first() {
        Some(b'{') => b"{}",
        Some(b'[') => b"[]",
        Some(b'"') => b"\"****\"",
        Some(b'-' | b'0'..=b'9') => b"0",
        Some(b't' | b'f') => b"false",
        _ => b"null",
    };
    out.extend_from_slice(masked);
}

/// `\x` and zeros. The older escape format gets it too: its readers know the newer one.
fn hexadecimal(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    let digits = value.strip_prefix(b"\\x").map_or(2 * value.len(), <[u8]>::len);
    out.resize(out.len() + digits, b'0');
}

/// How the session writes dates; a value itself tells, for a session that was joined midway did not say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Iso,
    German,
    Sql,
    Postgres,
}

impl Style {
    fn of(value: &[u8]) -> Self {
        let year = value.iter().take_while(|b| b.is_ascii_digit()).count() > 2;
        if year || value.ends_with(b"infinity") {
            return Style::Iso;
        }
        match value.iter().find(|b| !b.is_ascii_digit()) {
            Some(b'.') => Style::German,
            Some(b'/') => Style::Sql,
            _ => Style::Postgres,
        }
    }

    fn date(self) -> &'static str {
        match self {
            Style::Iso => "2000-01-01",
            Style::German => "01.01.2000",
            Style::Sql => "01/01/2000",
            Style::Postgres => "01-01-2000",
        }
    }

    fn timestamp(self) -> &'static str {
        match self {
            Style::Iso => "2000-01-01 00:00:00",
            Style::German => "01.01.2000 00:00:00",
            Style::Sql => "01/01/2000 00:00:00",
            Style::Postgres => "Sat Jan 01 00:00:00 2000",
        }
    }
}

/// Zero, in the style of `IntervalStyle` that the value shows.
fn interval(value: &[u8]) -> &'static str {
    match value.first() {
        Some(b'P') => "PT0S",
        Some(b'@') => "@ 0",
        _ => "00:00:00",
    }
}

fn array_binary(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut reader = Reader::new(value);
    let dimensions = reader.i32().filter(|n| (0..=DIMENSIONS).contains(n))?;
    let _ = reader.i32()?;
    let element = reader.u32()?;
    let flags = out.len() + 4;
    out.extend_from_slice(value.get(..12)?);
    let mut count = i64::from(dimensions > 0);
    for _ in 0..dimensions {
        let (size, lower) = (reader.i32()?, reader.i32()?);
        count = count.checked_mul(i64::from(size)).filter(|n| *n >= 0)?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&lower.to_be_bytes());
    }
    if matches!(kind(element), None | Some(Kind::Array { .. })) {
        return None;
    }
    let mut nulls = false;
    for _ in 0..count {
        let length = reader.i32()?;
        let at = out.len();
        out.extend_from_slice(&(-1i32).to_be_bytes());
        let became = match usize::try_from(length) {
            Ok(length) => mask(element, Format::Binary, reader.bytes(length)?, out),
            Err(_) => Became::Null,
        };
        if became == Became::Value {
            let length = i32::try_from(out.len() - at - 4).ok()?;
            out.get_mut(at..at + 4)?.copy_from_slice(&length.to_be_bytes());
        }
        nulls |= became == Became::Null;
    }
    out.get_mut(flags..flags + 4)?.copy_from_slice(&i32::from(nulls).to_be_bytes());
    reader.is_empty().then_some(())
}

/// `[2:3]={a,"b c",NULL}`: bounds, braces and NULLs stay.
pub(super) fn array_text(element: u32, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let separator = if element == 603 { b';' } else { b',' };
    let begin = value.iter().position(|&b| b == b'{')?;
    out.extend_from_slice(value.get(..begin)?);
    let mut rest = value.get(begin..)?;
    let mut depth = 0i32;
    let (mut own, mut masked) = (Vec::new(), Vec::new());
    // An element stands behind a brace that opens or behind a separator.
    let mut wants = false;
    while let Some((&b, behind)) = rest.split_first() {
        match b {
            b'{' if depth < DIMENSIONS => {
                depth += 1;
                wants = true;
            }
            b'}' if depth > 0 => {
                depth -= 1;
                wants = false;
            }
            b if b == separator && depth > 0 => wants = true,
            _ if wants => {
                own.clear();
                let (length, quoted) = unquote(rest, separator, &mut own)?;
                rest = rest.get(length..)?;
                wants = false;
                masked.clear();
                let null = !quoted && own.eq_ignore_ascii_case(b"null");
                if null || mask(element, Format::Text, &own, &mut masked) == Became::Null {
                    out.extend_from_slice(b"NULL");
                } else {
                    quote(&masked, separator, out);
                }
                continue;
            }
            _ => return None,
        }
        out.push(b);
        rest = behind;
        if depth == 0 {
            break;
        }
    }
    (depth == 0 && rest.is_empty()).then_some(())
}

/// Reads one element: how long it is as written, and whether it is quoted.
fn unquote(rest: &[u8], separator: u8, own: &mut Vec<u8>) -> Option<(usize, bool)> {
    let quoted = rest.first() == Some(&b'"');
    let mut at = usize::from(quoted);
    loop {
        match *rest.get(at)? {
            b'\\' => {
                own.push(*rest.get(at + 1)?);
                at += 2;
            }
            b'"' if quoted => return Some((at + 1, true)),
            b if !quoted && (b == separator || b == b'}') => return Some((at, false)),
            b => {
                own.push(b);
                at += 1;
            }
        }
    }
}

fn quote(value: &[u8], separator: u8, out: &mut Vec<u8>) {
    let plain = !value.is_empty()
        && !value.iter().any(|&b| b == separator || b"{}\"\\ ,;\t\n".contains(&b))
        && !value.eq_ignore_ascii_case(b"null");
    if plain {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for &b in value {
        if matches!(b, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(b);
    }
    out.push(b'"');
}

/// Masks a value whose type is not known by what it looks like, as COPY writes it: digits stay digits.
pub(super) fn by_shape(value: &[u8], out: &mut Vec<u8>) {
    let number = value.strip_prefix(b"-").unwrap_or(value);
    let digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let numeric = number.splitn(3, |&b| b == b'.').count() <= 2
        && number.first().is_some_and(u8::is_ascii_digit)
        && number.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    if digits(number) {
        out.resize(out.len() + number.len(), b'0');
    } else if numeric {
        out.push(b'0');
    } else if matches!(value, b"t" | b"f") {
        out.push(b'f');
    } else if value.starts_with(b"\\x") && value.iter().skip(2).all(u8::is_ascii_hexdigit) {
        hexadecimal(value, out);
    } else if is_like(value, b"########-####-####-####-############") {
        out.extend_from_slice(b"00000000-0000-0000-0000-000000000000");
    } else if is_like(value, b"dddd-dd-dd") {
        out.extend_from_slice(b"2000-01-01");
    } else if value.get(..19).is_some_and(|head| is_like(head, b"dddd-dd-dd dd:dd:dd")) {
        out.extend_from_slice(b"2000-01-01 00:00:00");
        if value.iter().skip(19).any(|b| matches!(b, b'+' | b'-')) {
            out.extend_from_slice(b"+00");
        }
    } else if value.first() == Some(&b'{')
        && value.get(1).is_some_and(|&b| b == b'"' || b == b'}')
        && value.contains(&b':')
    {
        out.extend_from_slice(b"{}");
    } else if matches!((value.first(), value.last()), (Some(b'{'), Some(b'}'))) {
        let start = out.len();
        if array_text(25, value, out).is_none() {
            out.truncate(start);
            stars(value, out);
        }
    } else if matches!((value.first(), value.last()), (Some(b'['), Some(b']'))) {
        out.extend_from_slice(b"[]");
    } else {
        stars(value, out);
    }
}

/// `d` is a digit, `#` a hexadecimal one.
fn is_like(value: &[u8], pattern: &[u8]) -> bool {
    value.len() == pattern.len()
        && value.iter().zip(pattern).all(|(b, p)| match p {
            b'd' => b.is_ascii_digit(),
            b'#' => b.is_ascii_hexdigit(),
            p => b == p,
        })
}
