//! A bounded cursor over a frame: a child reader cannot see past it.

/// Reads a frame from front to back. Every method yields `None` where the frame is too short, and then leaves the
/// cursor where it was. Integers are big-endian unless the name says otherwise.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of this frame and nothing else.
    pub fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True at the end of the frame.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    /// A reader of the next `length` bytes.
    pub fn child(&mut self, length: usize) -> Option<Reader<'a>> {
        self.bytes(length).map(Reader::new)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes, unsigned.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Two bytes, signed.
    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// Four bytes, unsigned.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes, signed.
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// The bytes before the next NUL, which is read too.
    pub fn cstring(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&b| b == 0)?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_cannot_see_past_its_frame() {
        let mut reader = Reader::new(b"\x00\x02ab\0cd");
        let length = usize::from(reader.u16().unwrap());
        let mut child = reader.child(length).unwrap();
        assert_eq!(child.cstring(), None, "the NUL lies behind the child's frame");
        assert_eq!(child.bytes(2), Some(&b"ab"[..]));
        assert_eq!(child.u8(), None);
        assert_eq!(reader.u8(), Some(0));
        assert_eq!(reader.u32(), None, "short input leaves the cursor");
        assert_eq!(reader.rest(), b"cd");
    }
}
