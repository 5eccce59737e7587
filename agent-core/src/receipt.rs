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
//!
//! # What the chain alone does not show
//!
//! That its newest receipts were taken away, or that all of it was made anew. Signed checkpoints do ([`Checkpoint`]):
//! the agent's key tells now and then how far the chain has come, the first key of an agent is known from its first
//! start, and each later one is signed by the one before. What a policy has removed leaves a signed [`Stub`].

use ring::digest::{Context, SHA256};

use crate::event::Event;

mod canonical; // event -> bytes that are hashed, and back
mod line; // a line of JSON -> bytes that are hashed
mod proof; // the head of a chain -> signed statements
mod keyring; // signed statements -> what receipts must be
mod audit; // receipts as they are read back -> whole, or what is wrong

pub use audit::{Auditor, Fault, Finding, Link, Receipt, Verifier};
pub use canonical::{Code, FIELDS, canonical, decode, length, normalize};
pub use keyring::{Doubt, Keyring, Mark, Seals, Suspect, Trust};
pub use line::{Line, line};
pub use proof::{Checkpoint, Hex, Key, KeyId, Proof, Proofs, SigningKey, Stub, key_id};

/// Separates these hashes from every other use of SHA-256.
const DOMAIN: &[u8] = b"weir receipt 1";

/// 32 bytes of SHA-256.
pub type Hash = [u8; 32];

/// SHA-256 of these pieces, one behind the other.
pub fn sha256(pieces: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for piece in pieces {
        context.update(piece);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The hash of a receipt.
pub fn hash(previous: &Hash, canonical: &[u8]) -> Hash {
    sha256(&[DOMAIN, previous, canonical])
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
        verify_by(Verifier::default(), events)
    }

    fn verify_by(mut verifier: Verifier, events: &[Event]) -> Result<u64, (u64, Fault)> {
        let mut scratch = Vec::new();
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
        assert_eq!(verify(&chain(100)[40..]), Err((41, Fault::Missing { from: 1, to: 40 })));
        assert_eq!(verify_by(Verifier::part(), &chain(100)[40..]), Ok(60));
        let head = chain(40)[39].hash;
        assert_eq!(verify_by(Verifier::after(40, head), &chain(100)[40..]), Ok(60));
        assert_eq!(verify_by(Verifier::after(40, [1; 32]), &chain(100)[40..]), Err((41, Fault::Unlinked)));
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
        let mut started = whole.clone();
        started[0].previous_hash = [1; 32];
        let mut bytes = Vec::new();
        canonical(&started[0], &mut bytes);
        started[0].hash = hash(&[1; 32], &bytes);
        assert_eq!(verify(&started), Err((1, Fault::FalseStart)));
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
