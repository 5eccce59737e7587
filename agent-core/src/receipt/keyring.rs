//! Keys, checkpoints and stubs -> what an agent's receipts must be; or the first of them that cannot be believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;

use super::Hash;
use super::proof::{Checkpoint, Key, KeyId, NOTHING, Proofs, Stub, is_signed, key_id};

/// Why a signed statement is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The key is not what its id says, or no key at all.
    #[error("its id is not that of its public key")]
    Garbled,
    /// The signature is not that of the one who should have signed.
    #[error("its signature is wrong: it was changed, or made by somebody else")]
    Forged,
    /// A key that nobody vouches for.
    #[error(
        "no earlier key vouches for it: the agent lost its state, or this is not the agent; if you know the key, say so with --key {0}"
    )]
    Rootless(KeyId),
    /// An agent's first key is none of those that are known.
    #[error("it is none of the keys that are known to be genuine")]
    Untrusted,
    /// The key that it names is not there.
    #[error("its key {0} is not there")]
    NoKey(KeyId),
    /// It is signed by a key that was not in force there, or that is another agent's.
    #[error("its key {0} was not in force there")]
    WrongKey(KeyId),
    /// Receipts that no checkpoint covers, between two that do.
    #[error("missing before it: the checkpoint over receipts {from} to {to}")]
    Gap {
        /// The first of them.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A stub that does not continue the one before.
    #[error("it does not continue what was removed before it: receipts {from} to {to} are unaccounted for")]
    StubGap {
        /// The first of them.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Its numbers contradict each other.
    #[error("its numbers contradict each other")]
    Absurd,
    /// Two statements about the same receipt that cannot both be true.
    #[error("another one says something else about the same receipt")]
    Contradicted,
}

/// A statement that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of agent {agent_id}: {doubt}")]
pub struct Suspect {
    /// Whose.
    pub agent_id: Arc<str>,
    /// Which: `key ...`, `checkpoint at receipt 5`.
    pub what: String,
    /// Why.
    pub doubt: Doubt,
}

struct Held {
    agent_id: Arc<str>,
    key: VerifyingKey,
    /// Receipts that it may sign.
    from: u64,
    until: u64,
}

/// Keys that are known to be genuine, from elsewhere than where the receipts are.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Whoever's they are: where there are some, no agent's first key may be another.
    pub keys: Vec<KeyId>,
    /// Of single agents, as an anchor has them.
    pub agents: BTreeMap<Arc<str>, Vec<KeyId>>,
}

impl Trust {
    /// Whether a key is genuine; none where nothing is known about its agent.
    fn says(&self, key: &Key) -> Option<bool> {
        let own = self.agents.get(&key.agent_id);
        if self.keys.contains(&key.key_id) || own.is_some_and(|own| own.contains(&key.key_id)) {
            return Some(true);
        }
        (!self.keys.is_empty() || own.is_some()).then_some(false)
    }
}

/// Keys that are believed.
#[derive(Default)]
pub struct Keyring {
    keys: BTreeMap<KeyId, Held>,
    /// Where an agent's keys begin without one before: what came before cannot be signed.
    roots: BTreeMap<Arc<str>, Vec<u64>>,
}

impl Keyring {
    /// Each agent's first key is believed, and every other that the one before has signed; where something is known
    /// of an agent's keys, one that no other vouches for must be among them.
    pub fn new(keys: &[Key], trust: &Trust) -> Result<Self, Suspect> {
        let mut ring = Self::default();
        let mut by_agent: BTreeMap<&Arc<str>, Vec<&Key>> = BTreeMap::new();
        for key in keys {
            let known = by_agent.entry(&key.agent_id).or_default();
            // Published at every start.
            if !known.contains(&key) {
                known.push(key);
            }
        }
        for (agent_id, mut keys) in by_agent {
            keys.sort_by_key(|key| (key.from_sequence, key.time));
            for (at, key) in keys.iter().enumerate() {
                let suspect = |doubt| Suspect {
                    agent_id: Arc::clone(agent_id),
                    what: format!("key {}", key.key_id),
                    doubt,
                };
                let public =
                    VerifyingKey::from_bytes(&key.public_key.0).map_err(|_| suspect(Doubt::Garbled))?;
                if key_id(&key.public_key) != key.key_id || public.is_weak() {
                    return Err(suspect(Doubt::Garbled));
                }
                let before = at.checked_sub(1).and_then(|at| keys.get(at));
                let signer = match key.previous_key_id {
                    Some(id) => {
                        let before = before.filter(|before| before.key_id == id);
                        let before = before.ok_or_else(|| suspect(Doubt::Rootless(key.key_id)))?;
                        VerifyingKey::from_bytes(&before.public_key.0).map_err(|_| suspect(Doubt::Garbled))?
                    }
                    None => public,
                };
                if !is_signed(&signer, &key.message(), &key.signature) {
                    return Err(suspect(Doubt::Forged));
                }
                if key.previous_key_id.is_none() {
                    match trust.says(key) {
                        Some(false) => return Err(suspect(Doubt::Untrusted)),
                        None if before.is_some() => return Err(suspect(Doubt::Rootless(key.key_id))),
                        Some(true) | None => {}
                    }
                    ring.roots.entry(Arc::clone(agent_id)).or_default().push(key.from_sequence);
                }
                let until = keys.get(at + 1).map_or(u64::MAX, |next| next.from_sequence.saturating_sub(1));
                let agent_id = Arc::clone(agent_id);
                let held = Held { agent_id, key: public, from: key.from_sequence, until };
                if ring.keys.insert(key.key_id, held).is_some() {
                    return Err(suspect(Doubt::Contradicted));
                }
            }
        }
        Ok(ring)
    }

    /// What an agent's receipts must be from `from` on, by what is signed about them.
    pub fn seals(&self, agent_id: &str, proofs: &Proofs, from: u64) -> Result<Seals, Suspect> {
        let mut seals = Seals { from, ..Seals::default() };
        self.stubs(agent_id, proofs, &mut seals)?;
        self.checkpoints(agent_id, proofs, &mut seals)?;
        Ok(seals)
    }

    fn checkpoints(&self, agent_id: &str, proofs: &Proofs, seals: &mut Seals) -> Result<(), Suspect> {
        let part = seals.from.saturating_sub(1);
        let mut own: Vec<&Checkpoint> =
            proofs.checkpoints.iter().filter(|checkpoint| &*checkpoint.agent_id == agent_id).collect();
        own.sort_by_key(|checkpoint| checkpoint.sequence);
        let mut before: Option<&Checkpoint> = None;
        for checkpoint in own {
            let suspect = |doubt| Suspect {
                agent_id: agent_id.into(),
                what: format!("checkpoint at receipt {}", checkpoint.sequence),
                doubt,
            };
            if before == Some(checkpoint) {
                continue; // sent twice, or both in the store and in the anchor
            }
            if let Some(before) = before
                && before.sequence == checkpoint.sequence
                && before.head != checkpoint.head
            {
                return Err(suspect(Doubt::Contradicted));
            }
            if checkpoint.count == 0 || checkpoint.count > checkpoint.sequence {
                return Err(suspect(Doubt::Absurd));
            }
            let key = self.held(&checkpoint.key_id, &suspect)?;
            if &*key.agent_id != agent_id || checkpoint.first() < key.from || checkpoint.sequence > key.until
            {
                return Err(suspect(Doubt::WrongKey(checkpoint.key_id)));
            }
            if !is_signed(&key.key, &checkpoint.message(), &checkpoint.signature) {
                return Err(suspect(Doubt::Forged));
            }
            // Whatever was removed needs no checkpoints any more.
            let reach =
                before.map_or(0, |before| before.sequence).max(seals.start.map_or(part, |(last, _)| last));
            let begins = self.roots.get(agent_id).is_some_and(|roots| roots.contains(&checkpoint.first()));
            if seals.start.is_none() && checkpoint.sequence == part {
                seals.start = Some((checkpoint.sequence, checkpoint.head.0));
            }
            if checkpoint.first() > reach.saturating_add(1) {
                let (from, to) = (reach.saturating_add(1), checkpoint.first() - 1);
                if !begins {
                    return Err(suspect(Doubt::Gap { from, to }));
                }
                seals.unsigned.push((from, to));
            }
            before = Some(checkpoint);
            seals.checkpoints += 1;
            if checkpoint.sequence > seals.start.map_or(part, |(last, _)| last) {
                seals.marks.push(Mark {
                    first: checkpoint.first().max(reach.saturating_add(1)),
                    sequence: checkpoint.sequence,
                    hash: checkpoint.head.0,
                    key_id: checkpoint.key_id,
                });
            } else if let Some((last, hash)) = seals.start
                && checkpoint.sequence == last
                && checkpoint.head.0 != hash
            {
                return Err(suspect(Doubt::Contradicted));
            }
        }
        Ok(())
    }

    fn stubs(&self, agent_id: &str, proofs: &Proofs, seals: &mut Seals) -> Result<(), Suspect> {
        let mut own: Vec<&Stub> = proofs.stubs.iter().filter(|stub| &*stub.agent_id == agent_id).collect();
        own.sort_by_key(|stub| stub.first_sequence);
        own.dedup();
        let (mut last, mut head): (u64, Hash) = (0, NOTHING);
        for stub in own {
            let suspect = |doubt| Suspect {
                agent_id: agent_id.into(),
                what: format!("stub of receipts {} to {}", stub.first_sequence, stub.last_sequence),
                doubt,
            };
            let length =
                stub.last_sequence.checked_sub(stub.first_sequence).map(|length| length.saturating_add(1));
            if stub.first_sequence == 0 || length != Some(stub.count) {
                return Err(suspect(Doubt::Absurd));
            }
            let key = self.held(&stub.key_id, &suspect)?;
            if key.agent_id != stub.removed_by {
                return Err(suspect(Doubt::WrongKey(stub.key_id)));
            }
            if !is_signed(&key.key, &stub.message(), &stub.signature) {
                return Err(suspect(Doubt::Forged));
            }
            let next = last.saturating_add(1);
            if stub.first_sequence != next {
                let (from, to) = (next, stub.first_sequence.saturating_sub(1));
                return Err(suspect(Doubt::StubGap { from, to }));
            }
            if stub.previous_hash.0 != head {
                return Err(suspect(Doubt::Contradicted));
            }
            (last, head) = (stub.last_sequence, stub.last_hash.0);
            seals.start = Some((last, head));
            seals.stubs.push(stub.clone());
        }
        Ok(())
    }

    fn held(&self, id: &KeyId, suspect: &impl Fn(Doubt) -> Suspect) -> Result<&Held, Suspect> {
        self.keys.get(id).ok_or_else(|| suspect(Doubt::NoKey(*id)))
    }
}

/// A checkpoint that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// First receipt that it covers and none before it does.
    pub first: u64,
    /// The receipt whose hash it knows.
    pub sequence: u64,
    /// That hash.
    pub hash: Hash,
    /// Who signed it.
    pub key_id: KeyId,
}

/// What an agent's receipts must be.
#[derive(Clone, Debug, Default)]
pub struct Seals {
    /// The first receipt that is looked at; above 1 where the chain is a part of a longer one.
    pub from: u64,
    /// The last receipt before that: removed, or left out of a part. And its hash.
    pub start: Option<(u64, Hash)>,
    /// What was removed, oldest first.
    pub stubs: Vec<Stub>,
    /// What receipts must hash to, in their order.
    pub marks: Vec<Mark>,
    /// Receipts that were made before the key that follows them, and that nobody signed.
    pub unsigned: Vec<(u64, u64)>,
    /// Checkpoints that are believed.
    pub checkpoints: u64,
}
