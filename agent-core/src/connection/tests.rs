//! Connections that are joined midway -> known for TLS by their records, or for a database by its messages.

use serde_json::json;

use super::*;
use crate::segment::Flags;
use crate::testing::Log;

const DATA: &[u8] = b"\x17\x03\x03\0\x04abcd";

/// What comes out of these pieces, each a segment of its own.
fn told(begins: bool, pieces: &[(Side, &[u8])]) -> Vec<serde_json::Value> {
    let mut connection = Connection::new(begins, None);
    let (mut texts, mut log) = (Texts::default(), Log::default());
    let mut next = [1_000_u32, 2_000];
    for (time, (from, bytes)) in (1..).zip(pieces) {
        let segment = Segment {
            from: *from,
            time: Nanos(time),
            sequence: next[from.index()],
            acknowledgment: next[from.other().index()],
            flags: Flags { ack: true, ..Flags::default() },
            length: bytes.len() as u32,
            head: bytes,
            tail: &[],
        };
        next[from.index()] += bytes.len() as u32;
        connection.segment(&segment, &mut texts, &mut log);
    }
    log.0
}

#[test]
fn records_both_ways_are_tls() {
    assert_eq!(told(false, &[(Side::A, DATA), (Side::B, DATA)]), [json!({"encrypted": true})]);
    // It was met in the middle of something large: the next record begins a segment.
    let large = [9; 900];
    let pieces: [(Side, &[u8]); 4] = [(Side::B, &large), (Side::A, DATA), (Side::B, &large), (Side::B, DATA)];
    assert_eq!(told(false, &pieces), [json!({"encrypted": true})]);
}

#[test]
fn records_one_way_may_become_anything() {
    assert!(told(false, &[(Side::A, DATA), (Side::A, DATA)]).is_empty());
    let large = vec![9; 300 << 10];
    let pieces: [(Side, &[u8]); 2] = [(Side::A, DATA), (Side::B, &large)];
    assert_eq!(told(false, &pieces), [json!({"encrypted": true})], "there is nothing more to wait for");
    let pieces: [(Side, &[u8]); 2] = [(Side::A, b"Q\0\0\0\x0dSELECT 1\0"), (Side::B, DATA)];
    assert_eq!(told(false, &pieces)[0], json!({"detected": "postgresql"}));
}

#[test]
fn what_begins_with_a_hello_is_asked_for_its_name() {
    let hello = b"\x16\x03\x01\0\x0c?\x0apostgresql";
    assert_eq!(told(true, &[(Side::A, hello)])[0], json!({"detected": "postgresql"}));
    assert_eq!(told(false, &[(Side::A, hello)])[0], json!({"detected": "postgresql"}));
    assert_eq!(told(true, &[(Side::A, b"\x16\x03\x01\0\x01x")]), [json!({"refused": true})]);
}
