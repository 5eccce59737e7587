//! A client's session over TLS, whose server is elsewhere: its ciphertext waits while its plaintext is judged.
//!
//! Nothing can be put in the place of ciphertext: what a rule forbids ends the connection, and nothing of it has left.

use agent_common::TlsKey;
use agent_core::tie::{APPLICATION_DATA, Framer};

use super::super::plain::{Found, Traits};
use super::{Desk, INTRODUCTION, Instant, LaneRef, News, OwnedFd, PIECE, Session, Start, Turn, forward};
use crate::gate::message::now_ns;

/// Lengths of the record with which a client ends the handshake of TLS 1.3: a hash of 32 or 48 bytes, and 21 more.
const FINISHED: [u16; 2] = [32 + 21, 48 + 21];
/// Records that may stand before it: a certificate, and its proof.
const BEFORE: usize = 3;

/// Ciphertext that waits, and what it tells.
#[derive(Default)]
pub(super) struct Sealed {
    cipher: Vec<u8>,
    framer: Framer,
    taken: u32,
    /// Lengths of records that were not compared with anything yet.
    records: Vec<u16>,
    /// When the handshake began, and since when it is unclear whose plaintext it is.
    since: u64,
    unclear: Option<Instant>,
    bound: bool,
    /// Nothing goes on any more.
    doomed: bool,
}

impl Sealed {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.doomed {
            return;
        }
        self.cipher.extend_from_slice(bytes);
        let length = bytes.len() as u32;
        let records = &mut self.records;
        self.framer.segment(self.taken, bytes, length, &mut |header| {
            if header.kind == APPLICATION_DATA {
                records.push(header.length);
            }
        });
        self.taken = self.taken.wrapping_add(length);
    }

    pub(super) fn waiting(&self) -> usize {
        self.cipher.len()
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed
    }
}

/// Whether records of application data, by length, are no more than the handshake's.
fn is_handshake(records: &[u16]) -> bool {
    let Some((last, before)) = records.split_last() else { return true };
    FINISHED.contains(last)
        && before.len() <= BEFORE
        && !before.iter().any(|length| FINISHED.contains(length))
}

impl Session {
    /// What comes from here on is ciphertext, and its plaintext can be had.
    pub(super) fn seal(&mut self) {
        let mut sealed = Sealed { since: now_ns(), ..Sealed::default() };
        sealed.take(&self.buffer[self.start..]);
        self.buffer.clear();
        (self.start, self.pass) = (0, 0);
        if let Some(inline) = self.entry.inline {
            self.reader = (inline.open)(Start::Beginning);
        }
        self.sealed = Some(Box::new(sealed));
    }

    /// Gets the plaintext of what waits. Some: it is not to be looked at, now or ever.
    pub(super) fn unseal(&mut self, lane: LaneRef<'_>, socket: &OwnedFd, desk: &mut Desk) -> Option<Turn> {
        let sealed = self.sealed.as_deref_mut()?;
        if sealed.doomed {
            return Some(Turn::Done);
        }
        let drains = desk.draining && self.held.is_none();
        let Some(plain) = desk.plain.as_mut().filter(|_| !self.blind && !drains) else {
            return Some(self.flush(socket, desk));
        };
        // The ciphertext was read before: what it is made of is there.
        plain.drain();
        if !sealed.framer.is_in_step() {
            // It is no TLS, or the kernel makes the records (kTLS).
            return Some(self.cannot_read("tls", socket, desk));
        }
        if !sealed.bound {
            let traits = Traits {
                cookie: self.cookie,
                sender: lane.sender(),
                sent: lane.sent(),
                since: sealed.since,
                records: &sealed.records,
            };
            match plain.find(&traits) {
                Found::Bound(TlsKey { object, pid, .. }) => {
                    // They were compared.
                    sealed.records.clear();
                    (sealed.bound, sealed.unclear) = (true, None);
                    desk.news.push_back(News::Unsealed { cookie: self.cookie, object, pid });
                }
                Found::Nothing if is_handshake(&sealed.records) => return Some(self.flush(socket, desk)),
                // Its library is not probed, or not yet.
                Found::Nothing => return Some(self.cannot_read("tls", socket, desk)),
                Found::Unclear => {
                    let until = *sealed.unclear.get_or_insert_with(Instant::now) + INTRODUCTION;
                    if Instant::now() < until {
                        return Some(Turn::At(until));
                    }
                    return Some(self.cannot_read("tls_untied", socket, desk));
                }
            }
        }
        let records = std::mem::take(&mut sealed.records);
        if !plain.read(self.cookie, &records, &mut self.buffer) {
            return Some(self.cannot_read("tls_lost", socket, desk));
        }
        None
    }

    /// What it says cannot be judged: as failing open or closed wants.
    fn cannot_read(&mut self, cause: &str, socket: &OwnedFd, desk: &mut Desk) -> Turn {
        self.give_up(cause, desk);
        if let Some(plain) = &mut desk.plain {
            plain.give_up(self.cookie);
        }
        if desk.closed || self.held.is_some() {
            self.doom("", desk);
            return Turn::Done;
        }
        self.flush(socket, desk)
    }

    /// Sends the ciphertext on.
    pub(super) fn flush(&mut self, socket: &OwnedFd, desk: &mut Desk) -> Turn {
        let Some(sealed) = self.sealed.as_deref_mut() else { return Turn::Done };
        let mut at = 0;
        let mut turn = Turn::Done;
        while at < sealed.cipher.len() {
            match forward(socket, &sealed.cipher[at..sealed.cipher.len().min(at + PIECE)]) {
                Some(0) => {
                    turn = Turn::Again;
                    break;
                }
                Some(sent) => at += sent,
                None => {
                    desk.dropped += (sealed.cipher.len() - at) as u64;
                    at = sealed.cipher.len();
                }
            }
        }
        sealed.cipher.drain(..at);
        turn
    }

    /// Nothing of this connection goes on any more: the agent ends it.
    pub(super) fn doom(&mut self, rule: &str, desk: &mut Desk) {
        let Some(sealed) = self.sealed.as_deref_mut() else { return };
        if !std::mem::replace(&mut sealed.doomed, true) {
            sealed.cipher = Vec::new();
            desk.tell(News::Ended { cookie: self.cookie, rule: rule.to_owned() });
        }
    }
}
