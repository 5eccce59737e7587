//! Event -> canonical bytes -> hash chain; verifies one. No I/O: the agent brings the events.
//!
//! # Canonical bytes
//!
//! The fields of the event in the order of the contract, `event_id` to `sequence`; `previous_hash` and `hash`
//! are not among them. They are ClickHouse's RowBinary encoding of the row, so whoever has only ClickHouse can
//! recompute a chain: `SELECT event_id, time, ..., sequence ... FORMAT RowBinary` yields exactly these bytes.
//!
//! | field | bytes |
//! |---|---|
//! | string | length (LEB128), then UTF-8 |
//! | array | count (LEB128), then its elements, a tuple's members one after the other |
//! | number | little endian in its width: `UInt8` to `UInt64`; `time` as `Int64` nanoseconds since the epoch |
//! | nullable | one byte, 1 for null and nothing after it, 0 before a value |
//! | bool | one byte |
//! | enum | one byte: its place in the contract's list, from 1 |
//! | `event_id` | its upper 64 bits, then its lower, each little endian |
//!
//! What ClickHouse would alter is brought into its form first ([`normalize`]): `time` is at most what
//! `DateTime64(9)` holds.
//!
//! # Chain
//!
//! `hash = SHA-256("weir receipt 1" || previous_hash || canonical bytes)`. The first receipt of an agent has
//! `sequence` 1 and 32 zero bytes before it.

use sha2::{Digest, Sha256};

use crate::event::Event;

mod canonical;

pub use canonical::{Code, FIELDS, canonical, length, normalize};

/// Separates these hashes from every other use of SHA-256.
const DOMAIN: &[u8] = b"weir receipt 1";

/// 32 bytes of SHA-256.
pub type Hash = [u8; 32];

/// The hash of a receipt.
pub fn hash(previous: &Hash, canonical: &[u8]) -> Hash {
    Sha256::new().chain_update(DOMAIN).chain_update(previous).chain_update(canonical).finalize().into()
}

/// An agent's chain where it is written: gives each event its place and its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Sequence of the last receipt; 0 before the first.
    pub sequence: u64,
    /// Its hash; zero before the first.
    pub head: Hash,
}

impl Chain {
    /// Fills in `sequence`, `previous_hash` and `hash`. `scratch` is only there to be used again.
    pub fn append(&mut self, event: &mut Event, scratch: &mut Vec<u8>) {
        normalize(event);
        event.sequence = self.sequence.wrapping_add(1);
        event.previous_hash = self.head;
        scratch.clear();
        canonical(event, scratch);
        event.hash = hash(&self.head, scratch);
        self.sequence = event.sequence;
        self.head = event.hash;
    }
}

/// What is wrong with a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its bytes do not give its hash: a field or the hash was changed.
    Changed,
    /// Receipts between the one before and this one are not there.
    Missing {
        /// Sequence of the first missing one.
        from: u64,
        /// Sequence of the last missing one.
        to: u64,
    },
    /// It stands after a receipt that should come later, or twice.
    Reordered {
        /// Sequence of the receipt before it.
        after: u64,
    },
    /// Its own hash is right, but it does not continue the receipt before it: that one was replaced.
    Unlinked,
    /// It claims to be the first of its agent, but names a hash before it.
    FalseStart,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Changed => f.write_str("changed: its contents do not give its hash"),
            Self::Missing { from, to } if from == to => write!(f, "missing before it: receipt {from}"),
            Self::Missing { from, to } => write!(f, "missing before it: receipts {from} to {to}"),
            Self::Reordered { after } => write!(f, "reordered: it stands after receipt {after}"),
            Self::Unlinked => f.write_str("broken link: it does not continue the receipt before it"),
            Self::FalseStart => f.write_str("broken link: the first receipt names a hash before it"),
        }
    }
}

/// One receipt as it is read back.
#[derive(Clone, Copy, Debug)]
pub struct Receipt<'a> {
    /// Place in the chain.
    pub sequence: u64,
    /// What it says came before.
    pub previous_hash: Hash,
    /// What it says its hash is.
    pub hash: Hash,
    /// Its canonical bytes, made from what was read.
    pub canonical: &'a [u8],
}

/// Checks the receipts of one agent, brought in the order in which they are kept.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    last: Option<(u64, Hash)>,
    /// Receipts found whole so far.
    pub count: u64,
    /// Sequence of the first receipt seen; above 1 where older ones have been deleted by age.
    pub first: u64,
}

impl Verifier {
    /// Checks the next receipt.
    pub fn check(&mut self, receipt: &Receipt<'_>) -> Result<(), Fault> {
        if let Some((last, head)) = self.last {
            let expected = last.wrapping_add(1);
            if receipt.sequence < expected {
                return Err(Fault::Reordered { after: last });
            }
            if receipt.sequence > expected {
                return Err(Fault::Missing { from: expected, to: receipt.sequence - 1 });
            }
            if hash(&receipt.previous_hash, receipt.canonical) != receipt.hash {
                return Err(Fault::Changed);
            }
            if receipt.previous_hash != head {
                return Err(Fault::Unlinked);
            }
        } else {
            if receipt.sequence == 1 && receipt.previous_hash != [0; 32] {
                return Err(Fault::FalseStart);
            }
            if hash(&receipt.previous_hash, receipt.canonical) != receipt.hash {
                return Err(Fault::Changed);
            }
            self.first = receipt.sequence;
        }
        self.last = Some((receipt.sequence, receipt.hash));
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::sql::Effect;

    fn chain(length: u64) -> Vec<Event> {
        let (mut chain, mut scratch) = (Chain::default(), Vec::new());
        (0..length)
            .map(|i| {
                let mut event = Event {
                    time: 1_795_262_400_000_000_000 + i,
                    agent_id: "a".into(),
                    db_query_text: "SELECT ?".into(),
                    duration_ns: Some(i),
                    statement_effects: [Effect::Read].into(),
                    ..Event::default()
                };
                chain.append(&mut event, &mut scratch);
                event
            })
            .collect()
    }

    fn verify(events: &[Event]) -> Result<u64, (u64, Fault)> {
        let (mut verifier, mut scratch) = (Verifier::default(), Vec::new());
        for event in events {
            scratch.clear();
            canonical(event, &mut scratch);
            let receipt = Receipt {
                sequence: event.sequence,
                previous_hash: event.previous_hash,
                hash: event.hash,
                canonical: &scratch,
            };
            verifier.check(&receipt).map_err(|fault| (event.sequence, fault))?;
        }
        Ok(verifier.count)
    }

    #[test]
    fn a_whole_chain_is_whole() {
        assert_eq!(verify(&chain(100)), Ok(100));
        assert_eq!(verify(&chain(100)[40..]), Ok(60), "the oldest receipts may have been deleted by age");
        assert_eq!(verify(&[]), Ok(0));
    }

    #[test]
    fn tampering_is_found_and_named() {
        let whole = chain(10);
        let mut changed = whole.clone();
        changed[4].db_query_text = "SELECT 1".into();
        assert_eq!(verify(&changed), Err((5, Fault::Changed)));
        let mut removed = whole.clone();
        removed.remove(4);
        assert_eq!(verify(&removed), Err((6, Fault::Missing { from: 5, to: 5 })));
        let mut swapped = whole.clone();
        swapped.swap(4, 5);
        assert_eq!(verify(&swapped), Err((6, Fault::Missing { from: 5, to: 5 })));
        let mut doubled = whole.clone();
        doubled.insert(5, whole[4].clone());
        assert_eq!(verify(&doubled), Err((5, Fault::Reordered { after: 5 })));
        // Contents swapped, sequences kept: the hashes no longer fit.
        let mut contents = whole.clone();
        contents.swap(4, 5);
        (contents[4].sequence, contents[5].sequence) = (5, 6);
        assert_eq!(verify(&contents), Err((5, Fault::Changed)));
        // A receipt replaced by one with a right hash of its own.
        let mut forged = whole.clone();
        forged[4].db_user = "nobody".into();
        let mut scratch = Vec::new();
        canonical(&forged[4], &mut scratch);
        forged[4].hash = hash(&forged[4].previous_hash, &scratch);
        assert_eq!(verify(&forged), Err((6, Fault::Unlinked)));
    }

    #[test]
    fn canonical_bytes_survive_json() {
        for event in chain(3) {
            let back: Event = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            canonical(&event, &mut a);
            canonical(&back, &mut b);
            assert_eq!(a, b);
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        canonical(&Event { db_user: "ab".into(), ..Event::default() }, &mut a);
        canonical(
            &Event { db_user: "a".into(), db_application_name: "b".into(), ..Event::default() },
            &mut b,
        );
        assert_ne!(a, b);
    }

    #[test]
    fn codes_are_the_contracts_places() {
        assert_eq!(EventKind::Session.code(), 1);
        assert_eq!(Effect::Replicate.code() as usize, Effect::NAMES.len());
        let name = serde_json::to_value(Effect::CopyOut).unwrap();
        assert_eq!(name, Effect::NAMES[usize::from(Effect::CopyOut.code()) - 1]);
    }
}
