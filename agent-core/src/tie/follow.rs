//! Writes of a session that is known to be a socket's, compared with the socket's records as they come.

use std::collections::VecDeque;

use super::{HANDSHAKE_MAX, LIBRARY_MAX, Next, aligned, next};

/// Which writes' records have to come.
#[derive(Clone, Debug)]
pub struct Follow {
    expected: VecDeque<u32>,
    added: u32,
}

impl Follow {
    /// Whether a socket's records so far, by length, are a session's first writes: all of them, or those behind the last
    /// ones of its handshake. `writes`: lengths of all that it has written.
    pub fn begin(writes: &[u32], records: &[u16]) -> Option<Self> {
        (0..=HANDSHAKE_MAX).find_map(|before| {
            let own = records.get(before..).filter(|own| !own.is_empty())?;
            let fit = aligned(writes, own)?;
            let mut expected: VecDeque<u32> = writes[fit.writes..].iter().copied().collect();
            if let Some(next) = expected.front_mut().filter(|_| fit.left > 0) {
                *next = fit.left;
            }
            Some(Self { expected, added: fit.added })
        })
    }

    /// The session writes so many bytes more.
    pub fn wrote(&mut self, length: u32) {
        self.expected.push_back(length);
    }

    /// The socket sends a record of this length. False where it cannot be the session's.
    pub fn record(&mut self, length: u16) -> bool {
        match next(&mut self.expected, self.added, length) {
            Next::Write | Next::Library => true,
            Next::Unexpected => length <= LIBRARY_MAX,
            Next::Foreign => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Follow;

    #[test]
    fn a_session_is_found_behind_its_handshake_and_followed() {
        // TLS 1.3: 17 more than the plaintext; the handshake's end of 53 bytes came first.
        let mut follow = Follow::begin(&[84, 20_000], &[53, 84 + 17]).unwrap();
        assert!(follow.record(16_384 + 17) && follow.record(20_000 - 16_384 + 17));
        assert!(follow.record(19), "an alert");
        assert!(!follow.record(300), "nobody wrote that");
        follow.wrote(300);
        assert!(follow.record(317));
        follow.wrote(300);
        assert!(!follow.record(318));
    }

    #[test]
    fn another_sessions_records_are_not_taken_for_its_own() {
        assert!(Follow::begin(&[84], &[53, 85 + 17]).is_none());
        assert!(Follow::begin(&[84], &[]).is_none());
        assert!(Follow::begin(&[], &[101]).is_none());
    }
}
