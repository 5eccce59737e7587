//! A chain's head -> signed statements about it: whose key signs, how far the chain went, what was removed. And back.
//!
//! # Signed bytes
//!
//! A name for what is signed (`weir checkpoint 1`), then the fields in the order in which the type has them, but for
//! the signature: texts as length (LEB128) and UTF-8, numbers as 64 bits little endian, hashes, keys and their ids as
//! their bytes, an id that is not there as none. Signatures are Ed25519 (RFC 8032), checked strictly.

use std::sync::Arc;

use ed25519_dalek::{Signature, Signer as _, SigningKey as Secret, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::{Chain, Hash, sha256};

/// Bytes that are written as lowercase hexadecimal digits, and read as nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// Names a key: the first half of the SHA-256 of the public key.
pub type KeyId = Hex<16>;

impl<const N: usize> std::fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> std::fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> std::str::FromStr for Hex<N> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not {} lowercase hexadecimal digits", 2 * N);
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 2 * N || !text.bytes().all(lower) {
            return Err(wrong());
        }
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A private key. It is shown by its id.
pub struct SigningKey {
    secret: Secret,
    id: KeyId,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "signing key {}", self.id)
    }
}

impl SigningKey {
    /// The key that 32 random bytes are.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = Secret::from_bytes(seed);
        let id = key_id(&Hex(secret.verifying_key().to_bytes()));
        Self { secret, id }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What everybody may know.
    pub fn public(&self) -> Hex<32> {
        Hex(self.secret.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Hex<64> {
        Hex(self.secret.sign(message).to_bytes())
    }
}

/// The id of a public key.
pub fn key_id(public: &Hex<32>) -> KeyId {
    let hash = sha256(&[b"weir key 1", &public.0]);
    let mut id = [0; 16];
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    Hex(id)
}

/// True where the holder of the public key has signed the message.
pub(super) fn is_signed(public: &VerifyingKey, message: &[u8], signature: &Hex<64>) -> bool {
    public.verify_strict(message, &Signature::from_bytes(&signature.0)).is_ok()
}

/// A message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(name: &str) -> Self {
        Self(name.as_bytes().to_vec())
    }

    fn text(mut self, text: &str) -> Self {
        super::canonical::varint(&mut self.0, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// An agent's public key, and from where on it signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Whose it is.
    pub agent_id: Arc<str>,
    /// Its name.
    pub key_id: KeyId,
    /// The key.
    pub public_key: Hex<32>,
    /// The first receipt that it vouches for.
    pub from_sequence: u64,
    /// When it was made, nanoseconds since the epoch.
    #[serde(with = "crate::event::time_text")]
    pub time: u64,
    /// The key that it takes over from; none for an agent's first.
    pub previous_key_id: Option<KeyId>,
    /// By the key before it; by itself where there is none.
    pub signature: Hex<64>,
}

impl Key {
    /// Makes the statement that a key signs from here on.
    pub fn new(
        agent_id: &str,
        key: &SigningKey,
        previous: Option<&SigningKey>,
        from_sequence: u64,
        time: u64,
    ) -> Self {
        let mut made = Self {
            agent_id: agent_id.into(),
            key_id: key.id(),
            public_key: key.public(),
            from_sequence,
            time,
            previous_key_id: previous.map(SigningKey::id),
            signature: Hex([0; 64]),
        };
        made.signature = previous.unwrap_or(key).sign(&made.message());
        made
    }

    pub(super) fn message(&self) -> Vec<u8> {
        Message::new("weir signing key 1")
            .text(&self.agent_id)
            .bytes(&self.key_id.0)
            .bytes(&self.public_key.0)
            .number(self.from_sequence)
            .number(self.time)
            .bytes(self.previous_key_id.as_ref().map_or(&[], |id| &id.0))
            .0
    }
}

/// How far a chain went: whoever knows it can tell that later receipts were taken away, or earlier ones made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Whose chain it is.
    pub agent_id: Arc<str>,
    /// The last receipt.
    pub sequence: u64,
    /// Its hash.
    pub head: Hex<32>,
    /// When this was signed, nanoseconds since the epoch.
    #[serde(with = "crate::event::time_text")]
    pub time: u64,
    /// Receipts since the checkpoint before it.
    pub count: u64,
    /// Who signed it.
    pub key_id: KeyId,
    /// By that key.
    pub signature: Hex<64>,
}

impl Checkpoint {
    /// Signs the head of a chain of which everything up to `signed` is under another checkpoint.
    pub fn new(agent_id: &str, key: &SigningKey, chain: &Chain, signed: u64, time: u64) -> Self {
        let mut made = Self {
            agent_id: agent_id.into(),
            sequence: chain.sequence,
            head: Hex(chain.head),
            time,
            count: chain.sequence.saturating_sub(signed),
            key_id: key.id(),
            signature: Hex([0; 64]),
        };
        made.signature = key.sign(&made.message());
        made
    }

    /// The first of the receipts since the checkpoint before it.
    pub fn first(&self) -> u64 {
        self.sequence.saturating_sub(self.count).saturating_add(1)
    }

    pub(super) fn message(&self) -> Vec<u8> {
        Message::new("weir checkpoint 1")
            .text(&self.agent_id)
            .number(self.sequence)
            .bytes(&self.head.0)
            .number(self.time)
            .number(self.count)
            .bytes(&self.key_id.0)
            .0
    }
}

/// What is left of receipts that were removed by a policy: the rest of their chain still verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stub {
    /// Whose receipts they were.
    pub agent_id: Arc<str>,
    /// The first of them.
    pub first_sequence: u64,
    /// The last of them.
    pub last_sequence: u64,
    /// How many they were.
    pub count: u64,
    /// What the first named as the hash before it.
    pub previous_hash: Hex<32>,
    /// The hash of the first.
    pub first_hash: Hex<32>,
    /// The hash of the last.
    pub last_hash: Hex<32>,
    /// When they were removed, nanoseconds since the epoch.
    #[serde(with = "crate::event::time_text")]
    pub time: u64,
    /// By which policy.
    pub policy: Arc<str>,
    /// The agent that removed them.
    pub removed_by: Arc<str>,
    /// The key of that agent.
    pub key_id: KeyId,
    /// By that key.
    pub signature: Hex<64>,
}

impl Stub {
    /// Signs what the other fields say.
    pub fn sign(mut self, key: &SigningKey) -> Self {
        self.key_id = key.id();
        self.signature = key.sign(&self.message());
        self
    }

    pub(super) fn message(&self) -> Vec<u8> {
        Message::new("weir stub 1")
            .text(&self.agent_id)
            .number(self.first_sequence)
            .number(self.last_sequence)
            .number(self.count)
            .bytes(&self.previous_hash.0)
            .bytes(&self.first_hash.0)
            .bytes(&self.last_hash.0)
            .number(self.time)
            .text(&self.policy)
            .text(&self.removed_by)
            .bytes(&self.key_id.0)
            .0
    }
}

/// One line of a file of proofs: an anchor, a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the types say what they are")]
pub enum Proof {
    Key(Key),
    Checkpoint(Checkpoint),
    Stub(Stub),
}

/// All that is signed about some chains.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the types say what they are")]
pub struct Proofs {
    pub keys: Vec<Key>,
    pub checkpoints: Vec<Checkpoint>,
    pub stubs: Vec<Stub>,
}

impl Proofs {
    /// Adds one.
    pub fn push(&mut self, proof: Proof) {
        match proof {
            Proof::Key(key) => self.keys.push(key),
            Proof::Checkpoint(checkpoint) => self.checkpoints.push(checkpoint),
            Proof::Stub(stub) => self.stubs.push(stub),
        }
    }

    /// Reads a line; it must be written as weir writes it, to the byte.
    pub fn read_line(&mut self, line: &str) -> Result<(), String> {
        let proof: Proof = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if serde_json::to_string(&proof).ok().as_deref() != Some(line) {
            return Err("it is not written as weir writes it: it was altered".to_owned());
        }
        self.push(proof);
        Ok(())
    }
}

/// The zero hash before an agent's first receipt.
pub(super) const NOTHING: Hash = [0; 32];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_never_changes() {
        let key = SigningKey::from_seed(&[7; 32]);
        let chain = Chain { sequence: 300, head: [9; 32] };
        let checkpoint = Checkpoint::new("agent-1", &key, &chain, 200, 1_795_262_400_123_456_789);
        let first = Key::new("agent-1", &key, None, 1, 5);
        let second = Key::new("agent-1", &SigningKey::from_seed(&[8; 32]), Some(&key), 301, 6);
        let stub = Stub {
            agent_id: "agent-1".into(),
            first_sequence: 1,
            last_sequence: 200,
            count: 200,
            previous_hash: Hex([0; 32]),
            first_hash: Hex([1; 32]),
            last_hash: Hex([2; 32]),
            time: 9,
            policy: "retention: {days: 90}".into(),
            removed_by: "agent-1".into(),
            key_id: key.id(),
            signature: Hex([0; 64]),
        };
        let stub = stub.sign(&key);
        let all = [first.message(), second.message(), checkpoint.message(), stub.message()].concat();
        assert_eq!(
            Hex(sha256(&[&all])).to_string(),
            "7ce2ab9efff566be6598eb5efefe67806cb68c24f30ff734449467d71d68d160"
        );
    }

    #[test]
    fn lines_are_read_to_the_byte() {
        let key = SigningKey::from_seed(&[7; 32]);
        let chain = Chain { sequence: 3, head: [0xab; 32] };
        let made = Proof::Checkpoint(Checkpoint::new("a", &key, &chain, 0, 5));
        let line = serde_json::to_string(&made).unwrap();
        let mut proofs = Proofs::default();
        proofs.read_line(&line).unwrap();
        assert_eq!(Proof::Checkpoint(proofs.checkpoints[0].clone()), made);
        for other in [line.replace("ab", "AB"), line.replace(',', ", "), line.replace('}', ",\"x\":1}")] {
            assert!(proofs.read_line(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_private_key_is_never_shown() {
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("signing key {}", key.id()));
    }
}
