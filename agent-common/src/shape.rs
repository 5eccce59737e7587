//! A statement's bytes -> a keyed hash that is equal for texts which differ in the values of plain literals only.
//!
//! The kernel side recognises by it what was judged before. Two texts with one hash must therefore mean the same but for
//! values: only digits of a number and what stands inside of a plain `'...'` is left out, everything else counts byte
//! by byte. What might be read in two ways (comments, backslashes, dollar quotes, strings with a prefix) makes a text
//! odd: it has no hash, and is held each time. The hash is SipHash-1-3: who does not know the key finds no two texts
//! that share one.

/// Longest text that is hashed, in bytes.
pub const TEXT_MAX: u32 = 512;

const PLAIN: u32 = 0;
const NUMBER: u32 = 1;
const STRING: u32 = 2;
const NAME: u32 = 3;
/// Most digits of a number, each side of its point: longer ones may be of another type.
const DIGITS: u32 = 18;

/// The hash so far.
#[derive(Clone, Copy)]
pub struct Shape {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
    word: u64,
    count: u64,
    mode: u32,
    digits: u32,
    odd: u32,
    before: u8,
}

impl Shape {
    /// Nothing hashed yet.
    #[inline(always)]
    pub fn new(key: [u64; 2]) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
            word: 0,
            count: 0,
            mode: PLAIN,
            digits: 0,
            odd: 0,
            before: b' ',
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    /// Takes a byte as it is.
    #[inline(always)]
    pub fn raw(&mut self, byte: u8) {
        self.word = self.word << 8 | u64::from(byte);
        self.count += 1;
        if self.count.is_multiple_of(8) {
            self.v3 ^= self.word;
            self.round();
            self.v0 ^= self.word;
            self.word = 0;
        }
    }

    /// Takes the next byte of a statement.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) {
        let before = self.before;
        self.before = byte;
        let digit = byte.wrapping_sub(b'0') < 10;
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26 || byte == b'_' || byte == b'$' || byte >= 0x80;
        if self.mode == STRING {
            if byte == b'\'' {
                self.mode = PLAIN;
            } else if byte == b'\\' || byte == 0 {
                self.odd = 1;
            }
            return;
        }
        if self.mode == NAME {
            if byte == b'"' {
                self.mode = PLAIN;
                // So that no string seems to go on here.
                self.before = b' ';
            }
            self.raw(byte);
            return;
        }
        if self.mode == NUMBER {
            if digit {
                self.digits += 1;
                self.odd |= (self.digits > DIGITS) as u32;
                return;
            }
            if byte == b'.' {
                self.digits = 0;
                self.raw(byte);
                return;
            }
            self.mode = PLAIN;
            // `1e5`, `0x1f`, `1_000`: another token in another version.
            self.odd |= (letter || byte == b'\'' || byte == b'"') as u32;
        }
        let word = (before | 0x20).wrapping_sub(b'a') < 26
            || before.wrapping_sub(b'0') < 10
            || before == b'_'
            || before == b'$'
            || before >= 0x80;
        if digit && !word && before != b'.' {
            self.mode = NUMBER;
            self.digits = 1;
            self.raw(1);
            return;
        }
        if byte == b'\'' {
            self.mode = STRING;
            if before != b'\'' {
                // E'...', U&'...', N'...' have rules of their own.
                self.odd |= (word || before == b'&') as u32;
                self.raw(2);
            }
            return;
        }
        if byte == b'"' {
            self.mode = NAME;
        }
        let comment = byte == b'-' && before == b'-' || byte == b'*' && before == b'/';
        // `$1` is a parameter; `$$` and `$tag$` quote.
        let dollar = before == b'$' && !digit;
        let strange = byte == b'\\' || byte == b'`' || byte == b'#' || byte < 9;
        self.odd |= (comment || dollar || strange) as u32;
        self.raw(byte);
    }

    /// The hash; 0 for a text that has none.
    #[inline(always)]
    pub fn finish(mut self) -> u64 {
        let open = self.mode == STRING || self.mode == NAME || self.before == b'$';
        if self.odd != 0 || open {
            return 0;
        }
        let last = self.word ^ (self.count << 56);
        self.v3 ^= last;
        self.round();
        self.v0 ^= last;
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        (self.v0 ^ self.v1 ^ self.v2 ^ self.v3) | 1
    }
}

/// The hash of a statement's text; 0 where it has none.
pub fn text(key: [u64; 2], text: &[u8]) -> u64 {
    if text.len() > TEXT_MAX as usize {
        return 0;
    }
    let mut shape = Shape::new(key);
    for &byte in text {
        shape.step(byte);
    }
    shape.finish()
}
