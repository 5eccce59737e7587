//! Which messages each side may send, how long they may be, and where in a stream of unknown alignment one begins.
//!
//! A boundary is believed where a chain of messages, each checked by its inner structure, runs from it to the end
//! of what is there. Five fixed bytes alone prove nothing: `1\0\0\0\4` is also a text that ends in `1` before a
//! column of four bytes.

use super::frames::Found;
use crate::reader::Reader;

/// Longer than any message that PostgreSQL accepts (`PQ_LARGE_MESSAGE_LIMIT`).
const LONGEST: u32 = 0x3fff_ffff;
/// Weight that a chain must reach to be believed.
const PROOF: u32 = 2;

/// May the client send a message of this type and length? The length counts its own four bytes.
#[inline]
pub(super) fn client(kind: u8, length: u32) -> bool {
    let (least, most) = match kind {
        b'Q' | b'f' | b'p' => (5, LONGEST),
        b'P' => (8, LONGEST),
        b'B' => (12, LONGEST),
        b'D' | b'C' => (6, 1 << 16),
        b'E' => (9, 1 << 16),
        b'S' | b'H' | b'X' | b'c' => (4, 4),
        b'F' => (14, LONGEST),
        b'd' => (4, LONGEST),
        _ => return false,
    };
    (least..=most).contains(&length)
}

/// May the server send a message of this type and length?
#[inline]
pub(super) fn server(kind: u8, length: u32) -> bool {
    let (least, most) = match kind {
        b'D' | b'S' => (6, LONGEST),
        b'C' => (5, 1 << 10),
        b'Z' => (5, 5),
        b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => (4, 4),
        b'T' | b't' => (6, 1 << 24),
        b'E' | b'N' => (5, LONGEST),
        b'R' => (8, 1 << 20),
        b'K' => (12, 268),
        b'A' => (10, 1 << 16),
        b'G' | b'H' | b'W' => (7, 1 << 18),
        b'd' => (4, LONGEST),
        b'V' => (8, LONGEST),
        b'v' => (12, 1 << 16),
        _ => return false,
    };
    (least..=most).contains(&length)
}

/// Longest message that a reader who joins late believes in. Its length begins with NUL: no text does.
const BELIEVED: u32 = 1 << 24;

/// Does a client's message begin with the first of these bytes? Some(false): it may, more bytes are needed.
pub(super) fn begins(window: &[u8]) -> Option<bool> {
    chain(window, 1, |kind, length| length < BELIEVED && client(kind, length), weigh_client)
}

/// Where the client's next message begins.
pub(super) fn find_client(window: &[u8], fresh: bool) -> Found {
    find(window, fresh, client, weigh_client)
}

/// Where the server's next message begins.
pub(super) fn find_server(window: &[u8], fresh: bool) -> Found {
    find(window, fresh, server, weigh_server)
}

fn find(
    window: &[u8],
    fresh: bool,
    plausible: fn(u8, u32) -> bool,
    weigh: fn(u8, &[u8]) -> Option<u32>,
) -> Found {
    let mut undecided = None;
    for at in 0..window.len() {
        let weight = u32::from(fresh && at == 0);
        match chain(&window[at..], weight, plausible, weigh) {
            Some(true) => return Found::At(at),
            Some(false) => undecided = undecided.or(Some(at)),
            None => {}
        }
    }
    Found::Nothing(undecided.unwrap_or(window.len()))
}

/// True: proven. False: it may be, more bytes are needed. None: no chain of messages.
fn chain(
    mut rest: &[u8],
    mut weight: u32,
    plausible: fn(u8, u32) -> bool,
    weigh: fn(u8, &[u8]) -> Option<u32>,
) -> Option<bool> {
    loop {
        let mut reader = Reader::new(rest);
        let Some(kind) = reader.u8() else { return Some(weight >= PROOF) };
        let Some(length) = reader.u32() else {
            // A header that is not whole: its type must exist, and its length may not be absurd.
            let known = rest.get(1).is_none_or(|&b| b < 0x40) && (4..=9).any(|l| plausible(kind, l))
                || plausible(kind, 16);
            return known.then_some(false);
        };
        if !plausible(kind, length) {
            return None;
        }
        let Some(body) = reader.bytes(length as usize - 4) else { return Some(weight >= PROOF) };
        weight += weigh(kind, body)?;
        rest = reader.rest();
    }
}

/// How much a whole message proves; `None` where it is not well formed.
fn weigh_client(kind: u8, body: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(body);
    match kind {
        b'Q' => {
            let text = reader.cstring()?;
            (reader.is_empty() && !text.iter().any(|&b| b < b'\t')).then_some(2)
        }
        b'P' => {
            reader.cstring()?;
            reader.cstring()?;
            let types = usize::from(reader.u16()?);
            reader.bytes(4 * types)?;
            reader.is_empty().then_some(2)
        }
        b'B' => {
            reader.cstring()?;
            reader.cstring()?;
            formats(&mut reader)?;
            for _ in 0..reader.u16()? {
                value(&mut reader)?;
            }
            formats(&mut reader)?;
            reader.is_empty().then_some(2)
        }
        b'D' | b'C' => {
            let what = reader.u8()?;
            reader.cstring()?;
            (matches!(what, b'S' | b'P') && reader.is_empty()).then_some(2)
        }
        b'E' => {
            reader.cstring()?;
            let rows = reader.i32()?;
            (rows >= 0 && reader.is_empty()).then_some(2)
        }
        b'F' => {
            reader.u32()?;
            formats(&mut reader)?;
            for _ in 0..reader.u16()? {
                value(&mut reader)?;
            }
            reader.u16()?;
            reader.is_empty().then_some(1)
        }
        b'f' | b'p' => (body.last() == Some(&0)).then_some(0),
        b'd' => Some(0),
        _ => Some(1),
    }
}

fn formats(reader: &mut Reader<'_>) -> Option<()> {
    for _ in 0..reader.u16()? {
        reader.u16().filter(|&format| format <= 1)?;
    }
    Some(())
}

fn value(reader: &mut Reader<'_>) -> Option<()> {
    let length = reader.i32()?;
    match usize::try_from(length) {
        Ok(length) => reader.bytes(length).map(|_| ()),
        Err(_) => (length == -1).then_some(()),
    }
}

fn weigh_server(kind: u8, body: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(body);
    match kind {
        b'Z' => matches!(body, b"I" | b"T" | b"E").then_some(2),
        b'C' => {
            let tag = reader.cstring()?;
            let first = tag.first()?;
            (reader.is_empty() && first.is_ascii_uppercase() && tag.iter().all(|b| (b' '..=b'~').contains(b)))
                .then_some(2)
        }
        b'D' => {
            let fields = reader.u16()?;
            for _ in 0..fields {
                value(&mut reader)?;
            }
            reader.is_empty().then_some(if fields == 0 { 0 } else { 2 })
        }
        b'T' => {
            let fields = reader.u16()?;
            for _ in 0..fields {
                reader.cstring()?;
                reader.bytes(18)?;
            }
            reader.is_empty().then_some(2)
        }
        b't' => {
            let types = usize::from(reader.u16()?);
            reader.bytes(4 * types)?;
            reader.is_empty().then_some(2)
        }
        b'E' | b'N' => {
            loop {
                match reader.u8()? {
                    0 => break,
                    field => {
                        reader.cstring().filter(|_| field.is_ascii_alphabetic())?;
                    }
                }
            }
            reader.is_empty().then_some(2)
        }
        b'S' => {
            reader.cstring()?;
            reader.cstring()?;
            reader.is_empty().then_some(2)
        }
        b'A' => {
            reader.u32()?;
            reader.cstring()?;
            reader.cstring()?;
            reader.is_empty().then_some(2)
        }
        b'V' => {
            value(&mut reader)?;
            reader.is_empty().then_some(1)
        }
        b'G' | b'H' | b'W' => {
            reader.u8().filter(|&format| format <= 1)?;
            formats(&mut reader)?;
            reader.is_empty().then_some(2)
        }
        b'd' => Some(0),
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_not_mistaken_for_messages() {
        // A text that ends in "1" before a column of four bytes, and one that ends in "Z" before five.
        let row = b"D\0\0\0\x1c\0\x03\0\0\0\x011\0\0\0\x04Zabc\0\0\0\x05Zebra";
        let mut stream = b"xyz1\0\0\0\x04Zab.".to_vec();
        assert_eq!(find_server(&stream, false), Found::Nothing(stream.len()));
        stream.extend_from_slice(&row[..]);
        stream[12 + 4] = (row.len() - 1) as u8;
        stream.extend_from_slice(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        assert_eq!(find_server(&stream, false), Found::At(12));
    }

    #[test]
    fn a_lone_ready_for_query_is_a_boundary() {
        assert_eq!(find_server(b"\0\0\0rest of a rowZ\0\0\0\x05I", false), Found::At(16));
        assert_eq!(
            find_client(b"\x04S\0\0\0\x04", false),
            Found::Nothing(1),
            "a parameter may end like this"
        );
        assert_eq!(find_client(b"\x04S\0\0\0\x04Q\0\0\0\x0dSELECT 1\0", false), Found::At(1));
    }
}
