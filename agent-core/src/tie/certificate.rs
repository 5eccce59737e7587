//! What a client sends in a TLS handshake -> the subject of its certificate, where it sends one in clear.
//!
//! It does up to TLS 1.2 (RFC 5246, 7.4.6). TLS 1.3 encrypts it: then nothing is found.

use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::reader::Reader;

/// More than any handshake of a client with a chain of certificates takes.
const FLIGHT_MAX: usize = 64 << 10;
/// Content types of records (RFC 5246, 6.2.1).
const HANDSHAKE: u8 = 22;
/// Handshake message types (RFC 5246, 7.4).
const CERTIFICATE: u8 = 11;

/// A client's handshake, from the first byte that it sends in TLS, or from a later record on.
#[derive(Debug, Default)]
pub struct Flight {
    next: Option<u32>,
    bytes: Vec<u8>,
    over: bool,
}

impl Flight {
    /// Takes the next segment of the client's: `head` holds its first bytes, `length` is its true length. Says the
    /// certificate's subject (RFC 4514) once it is there. What is out of order ends it: a claim less, and no guess.
    pub fn segment(&mut self, sequence: u32, head: &[u8], length: u32) -> Option<String> {
        if self.over || length == 0 {
            return None;
        }
        let known = self.next.map_or(0, |next| next.wrapping_sub(sequence) as i32);
        if known >= length as i32 {
            return None; // sent again
        }
        let fresh = usize::try_from(known).ok().and_then(|known| head.get(known..));
        let Some(fresh) = fresh.filter(|_| head.len() == length as usize && self.bytes.len() < FLIGHT_MAX)
        else {
            self.end();
            return None;
        };
        self.next = Some(sequence.wrapping_add(length));
        self.bytes.extend_from_slice(fresh);
        let found = self.read();
        if found.is_some() {
            self.end();
        }
        found
    }

    fn end(&mut self) {
        self.over = true;
        self.bytes = Vec::new();
    }

    /// Reads what is there from the start: a handshake is a few segments.
    fn read(&mut self) -> Option<String> {
        let mut records = Reader::new(&self.bytes);
        let mut messages = Vec::new();
        while let Some(kind) = records.u8() {
            if kind != HANDSHAKE {
                // From here on it is encrypted, or no handshake.
                self.over = true;
                break;
            }
            let Some(fragment) = records.u16().and_then(|_version| {
                let length = records.u16()?;
                records.bytes(usize::from(length))
            }) else {
                break;
            };
            messages.extend_from_slice(fragment);
        }
        let mut reader = Reader::new(&messages);
        loop {
            let kind = reader.u8()?;
            let length = u24(&mut reader)?;
            let mut body = reader.child(length)?;
            if kind == CERTIFICATE {
                let length = u24(&mut body)?;
                let mut list = body.child(length)?;
                let first = u24(&mut list)?;
                return subject(list.bytes(first)?);
            }
        }
    }
}

fn u24(reader: &mut Reader<'_>) -> Option<usize> {
    let high = reader.u8()?;
    Some(usize::from(high) << 16 | usize::from(reader.u16()?))
}

fn subject(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate().subject().to_string()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /O=weir/CN=alice`
    const ALICE: &[u8] = include_bytes!("../../testdata/certificate/alice.der");

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3], &(body.len() as u16).to_be_bytes()[..], body].concat()
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
    }

    fn length(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[1..], body].concat()
    }

    #[test]
    fn a_subject_in_clear_however_it_is_cut() {
        let list = length(&length(ALICE));
        let sent = [message(1, b"hello"), message(CERTIFICATE, &list), message(16, b"key")].concat();
        let (first, second) = sent.split_at(40);
        let bytes = [record(HANDSHAKE, first), record(HANDSHAKE, second), record(20, b"x")].concat();
        for cut in 0..bytes.len() {
            let mut flight = Flight::default();
            let begin = u32::MAX - 100;
            let found = flight.segment(begin, &bytes[..cut], cut as u32);
            let again = flight.segment(begin, &bytes[..cut], cut as u32);
            let rest = &bytes[cut..];
            let found = found
                .or(again)
                .or_else(|| flight.segment(begin.wrapping_add(cut as u32), rest, rest.len() as u32));
            assert_eq!(found.as_deref(), Some("CN=alice,O=weir"), "cut at {cut}");
        }
    }

    #[test]
    fn nothing_is_made_up() {
        let list = length(&length(ALICE));
        let whole = record(HANDSHAKE, &message(CERTIFICATE, &list));
        let mut flight = Flight::default();
        assert!(flight.segment(0, &[record(20, b"x"), record(23, &whole)].concat(), 500).is_none());
        assert!(flight.segment(500, &whole, whole.len() as u32).is_none(), "it was encrypted before");
        let mut flight = Flight::default();
        flight.segment(0, &whole[..20], 20);
        assert!(flight.segment(21, &whole[21..], whole.len() as u32 - 21).is_none(), "a byte is missing");
        for broken in 0..ALICE.len() {
            let mut der = ALICE.to_vec();
            der[broken] ^= 0xff;
            let bytes = record(HANDSHAKE, &message(CERTIFICATE, &length(&length(&der))));
            let _ = Flight::default().segment(0, &bytes, bytes.len() as u32);
            let _ = Flight::default().segment(0, &bytes[..broken], broken as u32);
        }
        let none = record(HANDSHAKE, &message(CERTIFICATE, &length(&[])));
        assert!(
            Flight::default().segment(0, &none, none.len() as u32).is_none(),
            "a client without a certificate"
        );
    }
}
