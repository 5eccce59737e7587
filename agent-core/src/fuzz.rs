//! Arbitrary bytes -> the invariants that must hold whatever comes. The fuzz targets call these functions and
//! nothing else; `cargo test` calls them over the kept corpus.

use crate::connection::Connection;
use crate::exchange::{Blindness, Loss, Session, Statement};
use crate::mask::Flow;
use crate::protocol::Sink;
use crate::segment::{Flags, Nanos, Segment, Side};
use crate::sql::{Dialect, Texts};
use crate::stream::{Ordered, Stream};

/// Counts what comes and checks what must always be true of it.
#[derive(Default)]
struct Checked {
    statements: u64,
    bytes: u64,
}

impl Sink for Checked {
    fn session(&mut self, _: &std::sync::Arc<Session>) {}

    fn statement(&mut self, statement: Statement) {
        self.statements += 1;
        if let (Some(first), Some(ended)) = (statement.first_byte, statement.ended) {
            assert!(first <= ended, "an answer ends before it begins");
        }
        self.bytes += statement.text.map_or(0, |text| text.bytes().len() as u64);
    }

    fn lost(&mut self, _: Loss) {}
    fn blind(&mut self, _: Blindness) {}
}

/// Splits the input into records: a control byte, a length byte, then that many bytes.
fn records(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[control, length], rest) = data.split_first_chunk::<2>()?;
        let (bytes, rest) = rest.split_at(rest.len().min(length.into()));
        data = rest;
        Some((control, bytes))
    })
}

/// A PostgreSQL connection: both directions' bytes in order, with holes.
pub fn postgresql(data: &[u8]) {
    let Some((&mode, data)) = data.split_first() else { return };
    let mut connection = Connection::new(mode & 1 == 0, Some("postgresql"));
    let mut texts = Texts::default();
    let mut sink = Checked::default();
    let mut next = [0u32; 2];
    let mut time = 0;
    for (control, bytes) in records(data) {
        let from = if control & 1 == 0 { Side::A } else { Side::B };
        let hole = if control & 0x0e == 0x0e { u32::from(control >> 4) + 1 } else { 0 };
        time += u64::from(control) << 16;
        let tail = if control & 0x30 == 0x30 { bytes.len() / 3 } else { 0 };
        let (head, tail) = bytes.split_at(bytes.len() - tail);
        let elided = if tail.is_empty() { 0 } else { u32::from(control) };
        let sequence = next[from.index()].wrapping_add(hole);
        let length = bytes.len() as u32 + elided;
        let segment = Segment {
            from,
            time: Nanos(time),
            sequence,
            acknowledgment: next[from.other().index()],
            flags: Flags { ack: true, ..Flags::default() },
            length,
            head,
            tail,
        };
        connection.segment(&segment, &mut texts, &mut sink);
        next[from.index()] = sequence.wrapping_add(length);
    }
    connection.close(Nanos(time), &mut texts, &mut sink);
    assert!(sink.bytes <= (64 << 20) + 64 * data.len() as u64, "more text than was sent");
}

/// A connection of any segments whatever: sequence numbers, flags and lengths come from the input.
pub fn connection(data: &[u8]) {
    let Some((&mode, mut data)) = data.split_first() else { return };
    let hint = (mode & 2 == 0).then_some("postgresql");
    let patience = if mode & 4 == 0 { 0 } else { 10_000_000 };
    let mut connection = Connection::with_patience(mode & 1 == 0, hint, patience);
    let mut texts = Texts::default();
    let mut sink = Checked::default();
    let mut time = 0;
    while let Some((&[control, length, s1, s0, a1, a0], rest)) = data.split_first_chunk::<6>() {
        let (bytes, rest) = rest.split_at(rest.len().min(length.into()));
        data = rest;
        time += u64::from(control) << 18;
        let wide = if control & 0x40 == 0 { 0 } else { 0xffff_0000 };
        let segment = Segment {
            from: if control & 1 == 0 { Side::A } else { Side::B },
            time: Nanos(time),
            sequence: wide | u32::from(s1) << 8 | u32::from(s0),
            acknowledgment: wide | u32::from(a1) << 8 | u32::from(a0),
            flags: Flags {
                syn: control & 0x06 == 0x06,
                fin: control & 0x0a == 0x0a,
                rst: control & 0x1e == 0x1e,
                ack: control & 0x20 == 0,
            },
            length: bytes.len() as u32 + if control & 0x80 == 0 { 0 } else { u32::from(s0) },
            head: bytes,
            tail: &[],
        };
        if !connection.is_reopened_by(&segment) {
            connection.segment(&segment, &mut texts, &mut sink);
        }
    }
    connection.close(Nanos(time), &mut texts, &mut sink);
}

/// One direction, cut up at will: what comes out in order is what went in, holes aside.
pub fn stream(data: &[u8]) {
    let Some((&[mode, base], data)) = data.split_first_chunk::<2>() else { return };
    // The content is a function of its offset, so every byte that comes out can be checked.
    let content: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let origin = u32::from_be_bytes([0xff, 0xff, base, 0]);
    let mut stream = Stream::new(if mode & 1 == 0 { 0 } else { 1_000_000 });
    let mut at = 0usize;
    let mut out = |ordered: Ordered<'_>, _: Nanos| match ordered {
        Ordered::Bytes(bytes) => {
            assert_eq!(content.get(at..at + bytes.len()), Some(bytes), "other bytes than were sent at {at}");
            at += bytes.len();
        }
        Ordered::Elided(length) | Ordered::Lost(length, _) => at += length as usize,
    };
    let syn = Segment {
        from: Side::A,
        time: Nanos(0),
        sequence: origin.wrapping_sub(1),
        acknowledgment: 0,
        flags: Flags { syn: true, ..Flags::default() },
        length: 0,
        head: &[],
        tail: &[],
    };
    stream.segment(&syn, 0, 0, &mut out);
    let mut time = 0;
    for chunk in data.chunks_exact(4) {
        let [a, b, c, d] = *chunk else { return };
        let begin = (usize::from(a & 0x0f) << 8 | usize::from(b)).min(content.len());
        let end = (begin + usize::from(c)).min(content.len());
        time += u64::from(d) << 12;
        let bytes = &content[begin..end];
        let tail = if a & 0x80 == 0 { 0 } else { bytes.len() / 4 };
        let head = if tail == 0 { bytes.len() } else { bytes.len() / 3 };
        let segment = Segment {
            sequence: origin.wrapping_add(begin as u32),
            flags: Flags::default(),
            time: Nanos(time),
            length: bytes.len() as u32,
            head: &bytes[..head],
            tail: &bytes[bytes.len() - tail..],
            ..syn
        };
        stream.segment(&segment, 0, 0, &mut out);
        if a & 0x40 != 0 {
            stream.acknowledged(origin.wrapping_add(end as u32));
        }
        stream.expire(Nanos(time), 0, &mut out);
    }
    stream.flush(Nanos(time), &mut out);
}

/// A statement's text, the first byte its dialect: whatever it is, there is an answer, and the parts are parts.
pub fn sql(data: &[u8]) {
    let Some((&dialect, text)) = data.split_first() else { return };
    let dialect = match dialect % 6 {
        0 => Dialect::Postgresql,
        1 => Dialect::Mysql,
        2 => Dialect::Tsql,
        3 => Dialect::Redis,
        4 => Dialect::Mongodb,
        _ => Dialect::Clickhouse,
    };
    let mut texts = Texts::default();
    let whole = texts.intern(dialect, text);
    assert_eq!(whole.bytes(), text, "a text is kept as it was sent");
    let again = texts.intern(dialect, text);
    assert!(std::sync::Arc::ptr_eq(&whole, &again), "each text is kept once");
    for part in whole.parts() {
        assert!(part.bytes().len() <= text.len(), "a part is no longer than the whole");
        assert!(part.analysis().redacted.len() <= 64 + 8 * text.len(), "redaction does not multiply a text");
    }
    let _ = whole.analysis();
}

/// A gated PostgreSQL session, both directions cut at will: without a plan every byte passes, and with one the cuts
/// make no difference.
pub fn mask(data: &[u8]) {
    let Some((&mode, data)) = data.split_first() else { return };
    let plan = std::sync::Arc::new(crate::mask::Plan::new([], std::sync::Arc::default()));
    let plan = (mode & 1 == 1).then_some(&plan);
    let [mut whole, mut torn] = [0; 2].map(|_| crate::mask::open("postgresql").expect("it has one"));
    for (control, bytes) in records(data) {
        if bytes.is_empty() {
            continue;
        }
        let pieces = bytes.chunks(usize::from(control >> 1).max(1));
        if control & 1 == 0 {
            if let Some(plan) = plan {
                let _ = whole.check(bytes, plan);
            }
            let in_pieces = pieces.map(|piece| torn.request(piece, plan)).find(Result::is_err);
            if whole.request(bytes, plan).is_err() || in_pieces.is_some() {
                return;
            }
            continue;
        }
        let answer = |masker: &mut dyn crate::mask::Mask, bytes: &[u8]| {
            let mut out = Vec::new();
            let flow = masker.answer(bytes, &mut out)?;
            assert!(flow == Flow::Rewritten || out.is_empty(), "as it is, and something else too");
            assert!(plan.is_some() || flow == Flow::AsIs, "changed without a plan");
            Ok::<_, crate::mask::Unmaskable>(if flow == Flow::AsIs { bytes.to_vec() } else { out })
        };
        let in_pieces: Result<Vec<_>, _> = pieces.map(|piece| answer(&mut *torn, piece)).collect();
        match (answer(&mut *whole, bytes), in_pieces.map(|pieces| pieces.concat())) {
            (Ok(whole), Ok(in_pieces)) => assert_eq!(whole, in_pieces, "the cuts show"),
            (Err(one), Err(other)) => return assert_eq!(one, other, "the cuts show"),
            _ => panic!("the cuts show"),
        }
    }
    assert_eq!(whole.masked(), torn.masked(), "the cuts show");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        /// Dialogues of the kept corpus with some of their bytes changed: nothing panics, and no cut shows.
        #[test]
        fn masked_dialogues_with_other_bytes(
            which in 0usize..64,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/mask");
            let mut files: Vec<_> = std::fs::read_dir(corpus)?.collect::<Result<_, _>>()?;
            files.sort_by_key(std::fs::DirEntry::path);
            let mut data = std::fs::read(files[which % files.len()].path())?;
            for (at, byte) in changes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            super::mask(&data);
        }
    }

    /// Runs every body over its kept corpus, so that a finding stays found.
    #[test]
    fn the_kept_corpus() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let bodies = ["postgresql", "connection", "stream", "sql", "mask"];
        for name in bodies {
            let body = match name {
                "postgresql" => super::postgresql,
                "connection" => super::connection,
                "stream" => super::stream,
                "mask" => super::mask,
                _ => super::sql,
            };
            let mut inputs = 0;
            for entry in std::fs::read_dir(corpus.join(name)).expect("a corpus for each target") {
                let bytes = std::fs::read(entry.expect("a file").path()).expect("readable");
                body(&bytes);
                inputs += 1;
            }
            assert!(inputs > 0, "{name}: no corpus");
        }
    }
}
