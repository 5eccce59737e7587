//! Segments of one direction of a TLS connection -> its records, by their headers.

/// A record's header: what it is and how many bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Content type (RFC 8446, 5.1): 23 is application data, and everything that TLS 1.3 encrypts.
    pub kind: u8,
    /// Bytes behind the header.
    pub length: u16,
}

/// Content type of encrypted payload.
pub const APPLICATION_DATA: u8 = 23;
/// What RFC 5246, 6.2.3 allows; RFC 8446 allows less.
const LENGTH_MAX: u16 = (1 << 14) + 2048;

/// Whether a segment's first bytes are those of records: a header that is one, and another behind each record that is
/// whole.
pub fn begins_with_records(mut bytes: &[u8]) -> bool {
    let mut any = false;
    while let [kind, major, minor, high, low, rest @ ..] = bytes {
        let length = u16::from_be_bytes([*high, *low]);
        if !(20..=23).contains(kind) || *major != 3 || *minor > 4 || length == 0 || length > LENGTH_MAX {
            return false;
        }
        any = true;
        bytes = rest.get(usize::from(length)..).unwrap_or_default();
    }
    any
}

/// Follows record boundaries. After a hole, or bytes that are no TLS, it says nothing any more.
#[derive(Debug, Default)]
pub struct Framer {
    next: Option<u32>,
    header: [u8; 5],
    have: usize,
    left: usize,
    lost: bool,
    /// Whether it may come in step again.
    hunts: bool,
}

impl Framer {
    /// Of a direction that was joined midway: it is in step from the first segment on that begins with records, and
    /// again after a hole.
    pub fn joined() -> Self {
        Self { lost: true, hunts: true, ..Self::default() }
    }

    /// Once out of step it is so for good.
    pub fn hunt_no_more(&mut self) {
        self.hunts = false;
    }

    /// Takes the next segment: `head` holds its first bytes, `length` is its true length. The first one begins with a
    /// record, unless it was [`Framer::joined`].
    pub fn segment(&mut self, sequence: u32, head: &[u8], length: u32, out: &mut impl FnMut(Header)) {
        if self.lost && self.hunts && begins_with_records(head) {
            *self = Self { hunts: true, ..Self::default() };
        }
        if self.lost || length == 0 {
            return;
        }
        let known = self.next.map_or(0, |next| next.wrapping_sub(sequence) as i32);
        if known < 0 {
            self.lost = true;
            return;
        }
        let known = known as usize;
        if known >= length as usize {
            return; // sent again
        }
        self.next = Some(sequence.wrapping_add(length));
        let bytes = head.get(known..).unwrap_or_default();
        let absent = length as usize - known - bytes.len();
        self.bytes(bytes, out);
        if absent > 0 && !self.lost {
            self.lost = self.left < absent;
            self.left = self.left.saturating_sub(absent);
        }
    }

    /// False once boundaries are not known any more.
    pub fn is_in_step(&self) -> bool {
        !self.lost
    }

    fn bytes(&mut self, mut bytes: &[u8], out: &mut impl FnMut(Header)) {
        while !bytes.is_empty() && !self.lost {
            let body = self.left.min(bytes.len());
            self.left -= body;
            bytes = &bytes[body..];
            while self.left == 0
                && let Some((&byte, rest)) = bytes.split_first()
            {
                self.header[self.have] = byte;
                self.have += 1;
                bytes = rest;
                if self.have < self.header.len() {
                    continue;
                }
                self.have = 0;
                let [kind, major, _, high, low] = self.header;
                let length = u16::from_be_bytes([high, low]);
                if !(20..=24).contains(&kind) || major != 3 || length > LENGTH_MAX {
                    self.lost = true;
                    return;
                }
                self.left = usize::from(length);
                out(Header { kind, length });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(framer: &mut Framer, sequence: u32, bytes: &[u8]) -> Vec<(u8, u16)> {
        let mut seen = Vec::new();
        framer.segment(sequence, bytes, bytes.len() as u32, &mut |h| seen.push((h.kind, h.length)));
        seen
    }

    #[test]
    fn records_in_any_pieces() {
        let bytes = b"\x16\x03\x01\0\x02ab\x17\x03\x03\0\x01x\x17\x03\x03\0\0\x15\x03\x03\0\x01y";
        let whole = [(22, 2), (23, 1), (23, 0), (21, 1)];
        for cut in 0..bytes.len() {
            let mut framer = Framer::default();
            let start = u32::MAX - 3;
            let mut seen = feed(&mut framer, start, &bytes[..cut]);
            seen.extend(feed(&mut framer, start, &bytes[..cut])); // sent again
            seen.extend(feed(&mut framer, start.wrapping_add(cut as u32 / 2), &bytes[cut / 2..]));
            assert_eq!(seen, whole, "cut at {cut}");
            assert!(framer.is_in_step());
        }
    }

    #[test]
    fn holes_and_garbage_end_it() {
        let mut framer = Framer::default();
        feed(&mut framer, 0, b"\x17\x03\x03\0\x01x");
        assert!(feed(&mut framer, 7, b"\x17\x03\x03\0\x01x").is_empty() && !framer.is_in_step());
        let mut framer = Framer::default();
        assert!(feed(&mut framer, 0, b"GET / HTTP/1.1").is_empty() && !framer.is_in_step());
        let mut framer = Framer::default();
        assert!(feed(&mut framer, 0, b"\x17\x03\x03\xff\xff").is_empty() && !framer.is_in_step());
    }

    #[test]
    fn a_direction_that_is_joined_midway() {
        let mut framer = Framer::joined();
        assert!(feed(&mut framer, 0, b"rest of a record").is_empty() && !framer.is_in_step());
        assert_eq!(feed(&mut framer, 16, b"\x17\x03\x03\0\x01x"), [(23, 1)]);
        assert!(feed(&mut framer, 99, b"behind a hole").is_empty() && !framer.is_in_step());
        assert_eq!(feed(&mut framer, 112, b"\x17\x03\x03\0\x02xy"), [(23, 2)]);
        framer.hunt_no_more();
        feed(&mut framer, 200, b"");
        assert!(
            feed(&mut framer, 200, b"\x17\x03\x03\0\x01x").is_empty(),
            "the records in the hole are not known"
        );
    }

    #[test]
    fn first_bytes_of_records() {
        for bytes in [&b"\x17\x03\x03\x40\x11x"[..], b"\x16\x03\x01\0\x01x", b"\x15\x03\x03\0\x01x\x17\x03"] {
            assert!(begins_with_records(bytes), "{bytes:?}");
        }
        let more = [b"\x17\x03\x03\0\x01x".repeat(3), b"Q\0\0\0\x0d".to_vec()].concat();
        for bytes in
            [&b""[..], b"\x17\x03", b"\x17\x03\x03\0\0", b"\x17\x03\x03\xff\xff", b"GET / HTTP", &more]
        {
            assert!(!begins_with_records(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn bodies_need_not_be_there() {
        let mut framer = Framer::default();
        framer.segment(0, b"\x17\x03\x03\0\x0a", 15, &mut |_| ());
        assert_eq!(feed(&mut framer, 15, b"\x17\x03\x03\0\x01x"), [(23, 1)]);
        framer.segment(21, b"\x17\x03\x03\0\x0a", 16, &mut |_| ());
        assert!(!framer.is_in_step(), "a header was left out");
    }
}
