//! Segments in any order, doubled, lost -> the bytes and gaps they must yield.

use super::*;
use crate::segment::{Flags, Side};

const ISN: u32 = 0xffff_ff00;

/// What came out: `abc` for bytes, `-3` for elided and `!3` for lost ones.
fn shown(ordered: Ordered<'_>, out: &mut String) {
    match ordered {
        Ordered::Bytes(bytes) => out.push_str(std::str::from_utf8(bytes).unwrap()),
        Ordered::Elided(length) => *out += &format!("-{length} "),
        Ordered::Lost(length, LossReason::Buffer) => *out += &format!("!!{length} "),
        Ordered::Lost(length, _) => *out += &format!("!{length} "),
    }
}

fn segment(at: u32, bytes: &[u8]) -> Segment<'_> {
    Segment {
        from: Side::A,
        time: Nanos(0),
        sequence: ISN.wrapping_add(1).wrapping_add(at),
        acknowledgment: 0,
        flags: Flags::default(),
        length: bytes.len() as u32,
        head: bytes,
        tail: &[],
    }
}

struct Run {
    stream: Stream,
    out: String,
}

impl Run {
    fn new(patience: u64) -> Self {
        let mut run = Self { stream: Stream::new(patience), out: String::new() };
        run.send(Segment {
            sequence: ISN,
            flags: Flags { syn: true, ..Flags::default() },
            ..segment(0, b"")
        });
        run
    }

    fn send(&mut self, segment: Segment<'_>) {
        let out = &mut self.out;
        self.stream.segment(&segment, 0, 0, &mut |ordered, _| shown(ordered, out));
    }

    fn put(&mut self, at: u32, bytes: &str) {
        self.send(segment(at, bytes.as_bytes()));
    }

    fn acknowledge(&mut self, at: u32, time: u64) {
        self.stream.acknowledged(ISN.wrapping_add(1).wrapping_add(at));
        self.expire(time);
    }

    fn expire(&mut self, time: u64) {
        let out = &mut self.out;
        self.stream.expire(Nanos(time), 0, &mut |ordered, _| shown(ordered, out));
    }
}

#[test]
fn doubled_overlapping_and_late_segments() {
    let mut run = Run::new(0);
    run.put(0, "abc");
    run.put(0, "abc"); // sent again
    run.put(1, "bcde"); // overlaps
    run.put(8, "ij"); // ahead of a hole
    run.put(7, "hij"); // more of the same
    run.put(4, "e"); // a keep-alive probe with a byte of old data
    run.put(5, ""); // one without
    assert_eq!(run.out, "abcde");
    run.put(5, "fghijkl");
    assert_eq!(run.out, "abcdefghijkl");
    assert!(!run.stream.is_waiting());
}

#[test]
fn a_hole_is_lost_once_its_receiver_has_acknowledged_it() {
    let mut run = Run::new(0);
    run.put(0, "ab");
    run.put(5, "fg");
    run.acknowledge(2, 0);
    assert_eq!(run.out, "ab", "the hole may still be filled");
    run.acknowledge(7, 0);
    assert_eq!(run.out, "ab!3 fg");
    run.put(2, "cde");
    assert_eq!(run.out, "ab!3 fg", "too late");
    run.acknowledge(9, 0);
    assert_eq!(run.out, "ab!3 fg!2 ", "nothing need follow the hole");
}

#[test]
fn a_file_may_be_slightly_out_of_order() {
    let mut run = Run::new(10);
    run.put(0, "ab");
    run.acknowledge(4, 0);
    run.expire(5);
    assert_eq!(run.out, "ab");
    run.put(2, "cd");
    assert_eq!(run.out, "abcd");
    run.put(6, "gh");
    run.expire(20);
    run.expire(900);
    assert_eq!(run.out, "abcd", "nobody has acknowledged the hole: it may be sent again");
    run.expire(1_020);
    assert_eq!(run.out, "abcd!2 gh");
}

#[test]
fn what_was_left_out_is_counted_exactly() {
    let mut run = Run::new(0);
    run.send(Segment { length: 10, tail: b"xyz", ..segment(0, b"ab") });
    assert_eq!(run.out, "ab-5 xyz");
    run.send(Segment { length: 4, ..segment(10, b"c") }); // cut off by a snap length
    assert_eq!(run.out, "ab-5 xyzc-3 ");
    run.send(Segment { length: 20, tail: b"st", ..segment(3, b"??") }); // overlaps what came before
    assert_eq!(run.out, "ab-5 xyzc-3 -7 st");
}

#[test]
fn a_fin_takes_a_number_and_is_no_lost_byte() {
    let mut run = Run::new(0);
    run.send(Segment { flags: Flags { fin: true, ..Flags::default() }, ..segment(0, b"bye") });
    run.acknowledge(4, 0);
    assert_eq!(run.out, "bye");
    assert!(run.stream.is_finished());
}

#[test]
fn data_in_the_syn() {
    let mut run = Run { stream: Stream::new(0), out: String::new() };
    let flags = Flags { syn: true, ..Flags::default() };
    run.send(Segment { sequence: ISN, flags, ..segment(0, b"fast") });
    run.put(0, "fast"); // the server did not take it, so it comes again
    run.put(4, " open");
    assert_eq!(run.out, "fast open");
}

#[test]
fn more_than_four_gibibytes() {
    let mut run = Run::new(0);
    let mut at = 0u32;
    for _ in 0..5 {
        run.send(Segment { length: 1 << 30, ..segment(at, b"") });
        at = at.wrapping_add(1 << 30);
        run.put(at, "x");
        at = at.wrapping_add(1);
    }
    assert_eq!(run.out, "-1073741824 x".repeat(5));
    assert_eq!(run.stream.position() - (1 << 32 | u64::from(ISN.wrapping_add(1))), 5 * ((1 << 30) + 1));
}

#[test]
fn far_jumps_cost_little_and_change_nothing() {
    let mut run = Run::new(0);
    run.put(0, "a");
    for i in 0..1_000u32 {
        run.send(Segment {
            length: 9_000,
            ..segment(i.wrapping_mul(0x4000_0001) | 0x4000_0000, &[b'?'; 9_000])
        });
    }
    assert!(run.stream.held_bytes <= HELD_MAX);
    run.put(1, "b");
    assert_eq!(run.out, "ab");
}

#[test]
fn a_long_run_behind_a_hole_is_the_stream() {
    let mut run = Run::new(0);
    run.put(0, "a");
    let chunk = vec![b'x'; 60_000];
    for i in 0..80u32 {
        run.send(segment(11 + i * 60_000, &chunk));
    }
    assert!(run.out.starts_with("a!!10 xxx"), "{}", &run.out[..20]);
    assert_eq!(run.out.len(), "a!!10 ".len() + 80 * 60_000);
}

#[test]
fn without_a_syn_it_starts_where_it_is_joined() {
    let mut run = Run { stream: Stream::new(0), out: String::new() };
    run.put(77, "joined");
    run.put(70, "old");
    run.put(83, " late");
    assert_eq!(run.out, "joined late");
}

#[test]
fn bytes_that_waited_are_as_late_as_what_filled_the_hole() {
    let mut stream = Stream::new(0);
    let mut times = Vec::new();
    for (at, bytes, time) in [(0, "a", 1), (2, "c", 2), (1, "b", 3)] {
        let segment = Segment { time: Nanos(time), ..segment(at, bytes.as_bytes()) };
        stream.segment(&segment, 0, 0, &mut |_, time| times.push(time.0));
    }
    assert_eq!(times, [1, 3, 3]);
}
