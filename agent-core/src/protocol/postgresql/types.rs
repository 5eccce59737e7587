//! Bound values -> text, as PostgreSQL itself prints them (ISO dates, UTC, hexadecimal bytea).
//!
//! Binary formats: the `typsend` functions in `src/backend/utils/adt`. Type ids: `pg_type.dat`.

use std::fmt::Write;

use crate::exchange::Parameter;
use crate::reader::Reader;

/// Bytes kept of one value; the rest is counted.
const VALUE_MAX: usize = 64 << 10;
/// Array elements that are printed.
const ELEMENTS_MAX: u32 = 4096;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A value sent as text.
pub(super) fn text(bytes: &[u8]) -> Box<str> {
    if bytes.len() <= VALUE_MAX {
        return match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => String::from_utf8_lossy(bytes).into(),
        };
    }
    let mut text = String::from_utf8_lossy(&bytes[..VALUE_MAX]).into_owned();
    let _ = write!(text, "... ({} bytes)", bytes.len());
    text.into()
}

/// A value sent in its type's binary format; kept as bytes where the type is not known or the bytes do not fit it.
pub(super) fn binary(oid: u32, bytes: &[u8]) -> Parameter {
    let mut out = String::new();
    match print(oid, bytes, &mut out) {
        Some(()) => Parameter::Text(out.into()),
        None => Parameter::Binary(bytes.get(..VALUE_MAX).unwrap_or(bytes).into()),
    }
}

fn print(oid: u32, bytes: &[u8], out: &mut String) -> Option<()> {
    let mut reader = Reader::new(bytes);
    match oid {
        // Types whose binary format is their text.
        18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 => {
            out.push_str(&text(bytes));
            return Some(());
        }
        17 => {
            bytea(bytes, out);
            return Some(());
        }
        3802 => {
            reader.u8().filter(|&version| version == 1)?;
            out.push_str(&text(reader.rest()));
            return Some(());
        }
        16 => out.push(if reader.u8()? == 0 { 'f' } else { 't' }),
        21 => integer(out, reader.i16()?.into()),
        23 => integer(out, reader.i32()?.into()),
        20 => integer(out, reader.i64()?),
        24 | 26 | 28 | 29 | 2202..=2206 | 4089 | 4096 => integer(out, reader.u32()?.into()),
        5069 => {
            let _ = write!(out, "{}", reader.i64()? as u64);
        }
        700 => {
            let value = f32::from_bits(reader.u32()?);
            float(out, value.into(), &value.to_string(), 6);
        }
        701 => {
            let value = f64::from_bits(reader.i64()? as u64);
            float(out, value, &value.to_string(), 15);
        }
        1700 => numeric(&mut reader, out)?,
        2950 => uuid(reader.bytes(16)?, out),
        1082 => match reader.i32()? {
            i32::MAX => out.push_str("infinity"),
            i32::MIN => out.push_str("-infinity"),
            days => {
                let bc = date(out, days.into());
                out.push_str(bc);
            }
        },
        1083 => time(out, reader.i64()?),
        1266 => {
            time(out, reader.i64()?);
            zone(out, -i64::from(reader.i32()?));
        }
        1114 => timestamp(out, reader.i64()?, ""),
        1184 => timestamp(out, reader.i64()?, "+00"),
        1186 => interval(out, reader.i64()?, reader.i32()?, reader.i32()?),
        650 | 869 => inet(&mut reader, oid == 650, out)?,
        829 | 774 => {
            for (index, byte) in reader.bytes(if oid == 829 { 6 } else { 8 })?.iter().enumerate() {
                let _ = write!(out, "{}{byte:02x}", if index > 0 { ":" } else { "" });
            }
        }
        199
        | 651
        | 1000..=1003
        | 1005
        | 1007
        | 1009
        | 1014..=1016
        | 1021
        | 1022
        | 1028
        | 1040
        | 1041
        | 1115
        | 1182
        | 1183
        | 1185
        | 1187
        | 1231
        | 1270
        | 2951
        | 3807 => array(&mut reader, out)?,
        _ => return None,
    }
    reader.is_empty().then_some(())
}

fn integer(out: &mut String, value: i64) {
    let _ = write!(out, "{value}");
}

fn bytea(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("\\x");
    let kept = &bytes[..bytes.len().min(VALUE_MAX / 2)];
    out.reserve(2 * kept.len());
    for byte in kept {
        out.push(DIGITS[usize::from(byte >> 4)].into());
        out.push(DIGITS[usize::from(byte & 15)].into());
    }
    if kept.len() < bytes.len() {
        let _ = write!(out, "... ({} bytes)", bytes.len());
    }
}

/// The shortest digits that read back the same, with an exponent where PostgreSQL writes one.
fn float(out: &mut String, value: f64, shortest: &str, digits10: i32) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        let digits = shortest.trim_start_matches('-');
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (mut significant, mut exponent) = (format!("{whole}{fraction}"), whole.len() as i32 - 1);
        let zeros = significant.len() - significant.trim_start_matches('0').len();
        exponent -= zeros as i32;
        significant.drain(..zeros);
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() || (-4..digits10).contains(&exponent) {
            out.push_str(shortest);
            return;
        }
        let (first, more) = significant.split_at(1);
        let sign = if exponent < 0 { '-' } else { '+' };
        let point = if more.is_empty() { "" } else { "." };
        let minus = if value < 0.0 { "-" } else { "" };
        let _ = write!(out, "{minus}{first}{point}{more}e{sign}{:02}", exponent.abs());
    }
}

/// Digits in base 10,000: count, weight of the first, sign, decimal places, digits.
fn numeric(reader: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let count = usize::from(reader.u16()?);
    let weight = i32::from(reader.i16()?);
    let sign = reader.u16()?;
    let scale = i32::from(reader.u16()?);
    match sign {
        0 => {}
        0x4000 => out.push('-'),
        0xc000 => out.push_str("NaN"),
        0xd000 => out.push_str("Infinity"),
        0xf000 => out.push_str("-Infinity"),
        _ => return None,
    }
    if sign >= 0xc000 {
        return Some(());
    }
    let digits = reader.bytes(2 * count)?;
    let digit = |index: i32| -> Option<u16> {
        let at = usize::try_from(index).ok().map(|index| 2 * index);
        let pair = at.and_then(|at| digits.get(at..at + 2)?.first_chunk::<2>().copied());
        let value = pair.map_or(0, u16::from_be_bytes);
        (value < 10_000).then_some(value)
    };
    if weight < 0 {
        out.push('0');
    }
    // A weight that claims more digits than there are stands for zeros: as many as a numeric may have.
    for index in 0..=weight {
        if index == 0 {
            let _ = write!(out, "{}", digit(index)?);
        } else {
            let _ = write!(out, "{:04}", digit(index)?);
        }
    }
    if scale > 0 {
        out.push('.');
        let end = out.len() + scale as usize;
        let mut index = weight + 1;
        while out.len() < end {
            let _ = write!(out, "{:04}", digit(index)?);
            index += 1;
        }
        out.truncate(end);
    }
    Some(())
}

fn uuid(bytes: &[u8], out: &mut String) {
    for (index, byte) in bytes.iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(out, "{dash}{byte:02x}");
    }
}

/// Days since 2000-01-01 to a civil date (Howard Hinnant's algorithm). What follows a year before Christ.
fn date(out: &mut String, days: i64) -> &'static str {
    let z = days + 730_425; // days since 0000-03-01
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (year, bc) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    bc
}

fn time(out: &mut String, micros: i64) {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    decimals(out, fraction);
}

fn decimals(out: &mut String, micros: i64) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        let _ = write!(out, ".{}", digits.trim_end_matches('0'));
    }
}

fn zone(out: &mut String, seconds: i64) {
    let sign = if seconds < 0 { '-' } else { '+' };
    let seconds = seconds.abs();
    let _ = write!(out, "{sign}{:02}", seconds / 3_600);
    if seconds % 3_600 != 0 {
        let _ = write!(out, ":{:02}", seconds / 60 % 60);
    }
}

fn timestamp(out: &mut String, micros: i64, zone: &str) {
    match micros {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        _ => {
            let bc = date(out, micros.div_euclid(MICROS_PER_DAY));
            out.push(' ');
            time(out, micros.rem_euclid(MICROS_PER_DAY));
            out.push_str(zone);
            out.push_str(bc);
        }
    }
}

/// As `intervalstyle = postgres`.
fn interval(out: &mut String, micros: i64, days: i32, months: i32) {
    let mut before = ""; // sign of the part before: a positive one after a negative one says so
    let mut part = |out: &mut String, value: i32, name: &str| {
        if value != 0 {
            let blank = if out.is_empty() || out.ends_with(['{', ',', '"']) { "" } else { " " };
            let plus = if before == "-" && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            let _ = write!(out, "{blank}{plus}{value} {name}{plural}");
            before = if value < 0 { "-" } else { "" };
        }
    };
    part(out, months / 12, "year");
    part(out, months % 12, "mon");
    part(out, days, "day");
    if micros != 0 || (months == 0 && days == 0) {
        if months != 0 || days != 0 {
            out.push(' ');
        }
        if micros < 0 {
            out.push('-');
        } else if before == "-" {
            out.push('+');
        }
        let micros = micros.unsigned_abs();
        let (seconds, fraction) = (micros / 1_000_000, (micros % 1_000_000) as i64);
        let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
        decimals(out, fraction);
    }
}

/// Family (2: IPv4, 3: IPv6), bits, is a cidr, length, address.
fn inet(reader: &mut Reader<'_>, cidr: bool, out: &mut String) -> Option<()> {
    let (_, bits, _, length) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
    let bytes = reader.bytes(length.into())?;
    let (address, all) = match length {
        4 => (std::net::IpAddr::from(*bytes.first_chunk::<4>()?), 32),
        16 => (std::net::IpAddr::from(*bytes.first_chunk::<16>()?), 128),
        _ => return None,
    };
    let _ = write!(out, "{address}");
    if cidr || bits != all {
        let _ = write!(out, "/{bits}");
    }
    Some(())
}

/// Dimensions, has nulls, element type, (length, lower bound) of each dimension, elements.
fn array(reader: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let dimensions = usize::try_from(reader.i32()?).ok().filter(|&n| n <= 6)?;
    let (_, element) = (reader.u32()?, reader.u32()?);
    let mut lengths = [0u32; 6];
    let mut bounds = String::new();
    let mut plain = true;
    for length in lengths.get_mut(..dimensions)? {
        *length = u32::try_from(reader.i32()?).ok()?;
        let lower = i64::from(reader.i32()?);
        plain &= lower == 1;
        let _ = write!(bounds, "[{lower}:{}]", lower + i64::from(*length) - 1);
    }
    if !plain {
        out.push_str(&bounds);
        out.push('=');
    }
    if dimensions == 0 {
        out.push_str("{}");
        return Some(());
    }
    let mut left = ELEMENTS_MAX;
    elements(reader, element, &lengths[..dimensions], &mut left, out)
}

fn elements(
    reader: &mut Reader<'_>,
    element: u32,
    lengths: &[u32],
    left: &mut u32,
    out: &mut String,
) -> Option<()> {
    let (&length, inner) = lengths.split_first()?;
    out.push('{');
    for index in 0..length {
        if index > 0 {
            out.push(',');
        }
        if *left == 0 || out.len() > VALUE_MAX {
            out.push_str("...");
            reader.bytes(reader.rest().len())?;
            break;
        }
        if !inner.is_empty() {
            elements(reader, element, inner, left, out)?;
            continue;
        }
        *left -= 1;
        match usize::try_from(reader.i32()?) {
            Err(_) => out.push_str("NULL"),
            Ok(length) => {
                let mut value = String::new();
                print(element, reader.bytes(length)?, &mut value)?;
                quote(&value, out);
            }
        }
    }
    out.push('}');
    Some(())
}

/// An array element as `array_out` writes it.
fn quote(value: &str, out: &mut String) {
    let special = |c: char| matches!(c, '"' | '\\' | '{' | '}' | ',') || c.is_ascii_whitespace();
    if !value.is_empty() && !value.eq_ignore_ascii_case("null") && !value.contains(special) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
