//! Bytes <-> ClickHouse's compressed frames, as `compress=1` and `decompress=1` ask for over HTTP.
//!
//! A frame: CityHash128 (v1.0.2, low half first) of the rest, method, `u32` size of method to end,
//! `u32` size of the data, the data. Method 0x82 is LZ4, 0x02 is none.

use cityhash_rs::cityhash_102_128;

const LZ4: u8 = 0x82;
const NONE: u8 = 0x02;
const HASH: usize = 16;
const HEADER: usize = 9;
/// ClickHouse's own limit is a gigabyte; nobody needs that here.
const LARGEST: usize = 256 << 20;

/// Why frames cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the compressed frame's checksum does not match: the data was damaged on its way")]
    Checksum,
    #[error("compression method {0:#04x} is not supported: use LZ4 or none")]
    Method(u8),
    #[error("a compressed frame of {0} bytes is larger than allowed")]
    Size(usize),
    #[error("the compressed frame does not unpack")]
    Garbled,
    #[error("the compressed data ends within a frame")]
    Torn,
}

/// Packs data into one frame.
pub(super) fn pack(data: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::block::compress(data);
    let mut frame = vec![0; HASH];
    frame.push(LZ4);
    frame.extend_from_slice(&((packed.len() + HEADER) as u32).to_le_bytes());
    frame.extend_from_slice(&(data.len() as u32).to_le_bytes());
    frame.extend_from_slice(&packed);
    let hash = checksum(&frame[HASH..]);
    frame[..HASH].copy_from_slice(&hash);
    frame
}

/// `cityhash_102_128` answers with the low half in the upper 64 bits; on the wire the low half comes first.
fn checksum(data: &[u8]) -> [u8; HASH] {
    cityhash_102_128(data).rotate_left(64).to_le_bytes()
}

/// Takes frames cut anywhere, hands out what they hold.
#[derive(Default)]
pub(super) struct Unpacker {
    pending: Vec<u8>,
}

impl Unpacker {
    /// Adds bytes; `out` receives each frame's data as it becomes whole.
    pub(super) fn push<E: From<FrameError>>(
        &mut self,
        bytes: &[u8],
        mut out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(header) = self.pending.get(at..at + HASH + HEADER) {
            let number =
                |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
            let (packed, plain) = (number(HASH + 1) as usize, number(HASH + 5) as usize);
            if !(HEADER..=LARGEST).contains(&packed) || plain > LARGEST {
                return Err(FrameError::Size(packed.max(plain)).into());
            }
            let Some(frame) = self.pending.get(at..at + HASH + packed) else { break };
            if frame[..HASH] != checksum(&frame[HASH..]) {
                return Err(FrameError::Checksum.into());
            }
            let body = &frame[HASH + HEADER..];
            match frame[HASH] {
                NONE => out(body)?,
                LZ4 => {
                    let data = lz4_flex::block::decompress(body, plain).map_err(|_| FrameError::Garbled)?;
                    out(&data)?;
                }
                method => return Err(FrameError::Method(method).into()),
            }
            at += HASH + packed;
        }
        self.pending.drain(..at);
        Ok(())
    }

    /// Says whether the data ended with a whole frame.
    pub(super) fn finish(&self) -> Result<(), FrameError> {
        if self.pending.is_empty() { Ok(()) } else { Err(FrameError::Torn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8], step: usize) -> Result<Vec<u8>, FrameError> {
        let (mut unpacker, mut all) = (Unpacker::default(), Vec::new());
        for piece in bytes.chunks(step) {
            unpacker.push(piece, |data| {
                all.extend_from_slice(data);
                Ok::<(), FrameError>(())
            })?;
        }
        unpacker.finish().map(|()| all)
    }

    #[test]
    fn any_split_yields_the_same_data() {
        let mut frames = pack(b"one one one one");
        frames.extend(pack(&[7; 4096]));
        let whole = unpack(&frames, frames.len()).unwrap();
        assert_eq!(whole.len(), 15 + 4096);
        for step in 1..frames.len() {
            assert_eq!(unpack(&frames, step).unwrap(), whole);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let frame = pack(b"some data that is sent");
        assert_eq!(unpack(&frame[..frame.len() - 1], 5), Err(FrameError::Torn));
        for at in [3, frame.len() - 1] {
            let mut bad = frame.clone();
            bad[at] ^= 1;
            assert_eq!(unpack(&bad, 7), Err(FrameError::Checksum));
        }
    }
}
