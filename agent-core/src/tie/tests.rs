//! Writes and records in all orders -> the right ties, or none.

use super::*;

struct World {
    ties: Ties,
    sequences: HashMap<(u64, usize), u32>,
    steps: Vec<Step>,
}

const A: Session = Session { object: 0xa, pid: 7 };
const B: Session = Session { object: 0xb, pid: 7 };

impl World {
    fn new(sockets: &[u64]) -> Self {
        let mut ties = Ties::default();
        for cookie in sockets {
            ties.socket(*cookie);
        }
        Self { ties, sequences: HashMap::new(), steps: Vec::new() }
    }

    fn write(&mut self, session: Session, length: u32) {
        let end = self.ties.sessions.get(&session).map_or(0, |writes| writes.end);
        self.ties.wrote(session, end, length);
    }

    /// A record of `plain` bytes under TLS 1.3. `inside`: 0 or the session in whose write it was sent.
    fn send(&mut self, cookie: u64, from: End, pid: u32, inside: u64, plain: u16) {
        let body = usize::from(plain) + 17;
        let mut bytes = vec![23, 3, 3, (body >> 8) as u8, body as u8];
        bytes.resize(5 + body, 0);
        let sequence = self.sequences.entry((cookie, from.index())).or_default();
        let at = *sequence;
        *sequence += bytes.len() as u32;
        let steps = &mut self.steps;
        let segment = (at, bytes.as_slice(), bytes.len() as u32);
        self.ties.segment(cookie, from, Context { pid, object: inside }, segment, &mut |s| steps.push(s));
    }

    fn tied(&self) -> Vec<(Session, u64)> {
        self.steps
            .iter()
            .filter_map(|s| if let Step::Tied(s, c, _) = s { Some((*s, *c)) } else { None })
            .collect()
    }
}

#[test]
fn a_send_inside_of_the_write() {
    let mut world = World::new(&[1]);
    world.send(1, End::Near, 7, 0, 52); // the handshake's end
    world.write(A, 84);
    world.send(1, End::Near, 7, 0xa, 84);
    assert_eq!(world.tied(), [(A, 1)]);
    for length in [20, 33] {
        world.write(A, length);
        world.send(1, End::Near, 7, 0xa, length as u16);
    }
    assert_eq!(world.steps.last(), Some(&Step::Settled(A, 1, End::Near)));
}

#[test]
fn a_length_that_does_not_fit_ties_nothing() {
    let mut world = World::new(&[1]);
    world.write(A, 84);
    world.send(1, End::Near, 7, 0xa, 85);
    world.send(1, End::Near, 7, 0xa, 85);
    assert!(world.steps.is_empty());
}

#[test]
fn a_length_that_does_not_fit_unties() {
    let mut world = World::new(&[1]);
    world.write(A, 84);
    world.send(1, End::Near, 7, 0xa, 84);
    world.write(A, 100);
    world.send(1, End::Near, 7, 0xa, 110);
    assert_eq!(world.steps[1..], [Step::Untied(A, 1, End::Near)]);
}

/// Two sessions write the same before either is sent: nobody can tell them apart, until one of them writes more.
#[test]
fn what_cannot_be_told_apart_waits() {
    let mut world = World::new(&[1, 2]);
    world.write(A, 84);
    world.write(B, 84);
    world.send(2, End::Near, 7, 0, 84);
    world.send(1, End::Near, 7, 0, 84);
    assert!(world.steps.is_empty());
    world.write(B, 30);
    world.send(2, End::Near, 7, 0, 30);
    assert_eq!(world.tied(), [(B, 2)]);
    world.write(A, 40);
    world.send(1, End::Near, 7, 0, 40);
    assert_eq!(world.tied(), [(B, 2), (A, 1)]);
}

#[test]
fn another_process_has_no_part_in_it() {
    let mut world = World::new(&[1]);
    world.write(A, 84);
    world.write(A, 20);
    world.send(1, End::Near, 8, 0, 84);
    world.send(1, End::Near, 8, 0, 20);
    assert!(world.steps.is_empty());
    world.write(A, 9);
    world.send(1, End::Near, 7, 0, 9);
    assert_eq!(world.tied(), [(A, 1)], "those before passed in another's context, their lengths count");
}

#[test]
fn long_writes_are_many_records() {
    let mut world = World::new(&[1]);
    world.write(A, 40_000);
    for plain in [16_384, 16_384, 7_232] {
        world.send(1, End::Near, 7, 0xa, plain);
    }
    assert_eq!(world.steps, [Step::Tied(A, 1, End::Near), Step::Settled(A, 1, End::Near)]);
}

/// Go's records grow, within a write and from one to the next.
#[test]
fn records_that_grow() {
    let mut world = World::new(&[1]);
    world.write(A, 40_000);
    for plain in [1_186, 2_372, 3_558] {
        world.send(1, End::Near, 7, 0xa, plain);
    }
    assert_eq!(world.steps, [Step::Tied(A, 1, End::Near), Step::Settled(A, 1, End::Near)]);
    // The same without nesting: two in a row.
    let mut world = World::new(&[1]);
    world.write(A, 30);
    world.write(A, 1_200);
    world.write(A, 5);
    for plain in [30, 1_186] {
        assert!(world.steps.is_empty());
        world.send(1, End::Near, 7, 0, plain);
    }
    assert_eq!(world.steps, [Step::Tied(A, 1, End::Near)]);
    world.send(1, End::Near, 7, 0, 14);
    assert_eq!(world.steps[1..], [Step::Settled(A, 1, End::Near)]);
    // A length between two steps is nobody's.
    let mut world = World::new(&[1]);
    world.write(A, 40_000);
    world.send(1, End::Near, 7, 0xa, 1_187);
    assert!(world.steps.is_empty());
}

/// What is left of a write must come too.
#[test]
fn the_rest_of_a_write_is_checked() {
    let mut world = World::new(&[1]);
    world.write(A, 1_200);
    world.send(1, End::Near, 7, 0xa, 1_186);
    assert_eq!(world.tied(), [(A, 1)]);
    world.write(A, 100);
    world.send(1, End::Near, 7, 0xa, 100);
    assert_eq!(world.steps[1..], [Step::Untied(A, 1, End::Near)]);
}

#[test]
fn what_is_written_again_counts_once() {
    let mut world = World::new(&[1]);
    world.ties.wrote(A, 0, 50);
    world.ties.wrote(A, 0, 50); // the socket was full
    world.ties.wrote(A, 50, 20);
    world.send(1, End::Near, 7, 0xa, 50);
    world.send(1, End::Near, 7, 0xa, 20);
    assert_eq!(world.steps, [Step::Tied(A, 1, End::Near)]);
}

/// Node's first write ends the handshake too.
#[test]
fn a_write_that_ends_the_handshake() {
    let mut world = World::new(&[1]);
    world.write(A, 85);
    world.send(1, End::Near, 7, 0, 52);
    world.send(1, End::Near, 7, 0, 85);
    assert!(world.steps.is_empty(), "one record alone says too little");
    world.write(A, 78);
    world.send(1, End::Near, 7, 0, 78);
    assert_eq!(world.tied(), [(A, 1)]);
}

/// The same, where it is tried again.
#[test]
fn a_write_that_came_too_early() {
    let mut world = World::new(&[1]);
    world.ties.wrote(A, 0, 84);
    world.send(1, End::Near, 7, 0, 52); // the handshake's end
    world.ties.wrote(A, 0, 84);
    world.send(1, End::Near, 7, 0, 84);
    world.write(A, 30);
    world.send(1, End::Near, 7, 0, 30);
    assert_eq!(world.tied(), [(A, 1)]);
}

#[test]
fn both_ends_of_a_connection() {
    let server = Session { object: 0xc, pid: 9 };
    let mut world = World::new(&[1]);
    world.write(A, 84);
    world.send(1, End::Near, 7, 0xa, 84);
    world.write(server, 300);
    world.send(1, End::Far, 9, 0xc, 300);
    assert_eq!(world.steps, [Step::Tied(A, 1, End::Near), Step::Tied(server, 1, End::Far)]);
}

/// 150 connections of one process with the same start, their writes and records mixed in every way that keeps the order
/// of each: every tie that is made is right.
#[test]
fn no_tie_is_wrong() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let sockets: Vec<u64> = (0..150).collect();
    let mut world = World::new(&sockets);
    let session = |n: u64| Session { object: 1000 + n, pid: 7 };
    let mut pending: Vec<VecDeque<u16>> = vec![VecDeque::new(); 150];
    let mut written = [0; 150];
    for _ in 0..6_000 {
        let n = random(150);
        let queue = &mut pending[n as usize];
        if random(2) == 0 {
            let length = if written[n as usize] == 0 { 84 } else { 20 + random(40) };
            written[n as usize] += 1;
            queue.push_back(length as u16);
            world.write(session(n), length as u32);
        } else if let Some(length) = queue.pop_front() {
            world.send(n, End::Near, 7, 0, length);
        }
    }
    let tied = world.tied();
    assert!(tied.len() > 140, "only {} of 150", tied.len());
    for (who, cookie) in tied {
        assert_eq!(who, session(cookie));
    }
    assert!(!world.steps.iter().any(|step| matches!(step, Step::Untied(..))));
}
