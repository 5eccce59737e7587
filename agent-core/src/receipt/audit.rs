//! Receipts as they are read back -> a whole chain, or what is wrong with it. Against what is signed, where it is.

use super::keyring::{Mark, Seals};
use super::{Hash, hash};
use crate::receipt::proof::NOTHING;

/// What is wrong with a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its bytes do not give its hash: a field or the hash was changed.
    #[error("changed: its contents do not give its hash")]
    Changed,
    /// It says what it said, but is not written as weir writes it.
    #[error("changed: it is not written as weir writes it")]
    Rewritten,
    /// Receipts between the one before and this one are not there.
    #[error("missing before it: {}", range(*.from, *.to))]
    Missing {
        /// Sequence of the first missing one.
        from: u64,
        /// Sequence of the last missing one.
        to: u64,
    },
    /// It stands after a receipt that should come later, or twice.
    #[error("reordered: it stands after receipt {after}")]
    Reordered {
        /// Sequence of the receipt before it.
        after: u64,
    },
    /// Its own hash is right, but it does not continue the receipt before it: that one was replaced.
    #[error("broken link: it does not continue the receipt before it")]
    Unlinked,
    /// It claims to be the first of its agent, but names a hash before it.
    #[error("broken link: the first receipt names a hash before it")]
    FalseStart,
    /// The chain holds, but a checkpoint has signed another one.
    #[error("made anew: the checkpoint over {} signed another hash", range(*.from, *.to))]
    Remade {
        /// First receipt that the checkpoint covers.
        from: u64,
        /// The receipt whose hash it signed.
        to: u64,
    },
    /// The chain ends before what a checkpoint has signed.
    #[error("cut off: {}, which a checkpoint signed, are not there", range(*.from, *.to))]
    CutOff {
        /// Sequence of the first missing one.
        from: u64,
        /// Sequence of the last that is known to be missing.
        to: u64,
    },
}

fn range(from: u64, to: u64) -> String {
    if from == to { format!("receipt {from}") } else { format!("receipts {from} to {to}") }
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

/// A receipt reduced to its place in the chain: its bytes have been hashed, wherever and in whatever order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Place in the chain.
    pub sequence: u64,
    /// Its event.
    pub event_id: u128,
    /// What it says came before.
    pub previous_hash: Hash,
    /// What it says its hash is.
    pub hash: Hash,
    /// What is wrong with it alone.
    pub fault: Option<Fault>,
}

impl Link {
    /// Hashes a receipt.
    pub fn of(receipt: &Receipt<'_>, event_id: u128) -> Self {
        let Receipt { sequence, previous_hash, hash: claimed, canonical } = *receipt;
        let fault = (hash(&previous_hash, canonical) != claimed).then_some(Fault::Changed);
        Self { sequence, event_id, previous_hash, hash: claimed, fault }
    }
}

/// Checks the receipts of one agent, brought in the order in which they are kept. After a fault it goes on behind it.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The receipt before; none where the first may be any.
    last: Option<(u64, Hash)>,
    /// Receipts found whole so far.
    pub count: u64,
    /// Sequence of the first receipt seen; 0 before that.
    pub first: u64,
    /// Its hash.
    first_hash: Hash,
}

impl Default for Verifier {
    /// For a chain from its beginning.
    fn default() -> Self {
        Self::after(0, NOTHING)
    }
}

impl Verifier {
    /// For what follows a receipt whose hash is known.
    pub fn after(sequence: u64, head: Hash) -> Self {
        Self { last: Some((sequence, head)), count: 0, first: 0, first_hash: NOTHING }
    }

    /// For a part of a chain: what comes before its first receipt is not looked at.
    pub fn part() -> Self {
        Self { last: None, count: 0, first: 0, first_hash: NOTHING }
    }

    /// Sequence of the last receipt seen.
    pub fn last(&self) -> u64 {
        self.last.map_or(0, |(sequence, _)| sequence)
    }

    /// Checks the next receipt.
    pub fn check(&mut self, receipt: &Receipt<'_>) -> Result<(), Fault> {
        self.link(&Link::of(receipt, 0))
    }

    /// Checks the next receipt, whose bytes have been hashed before.
    pub fn link(&mut self, link: &Link) -> Result<(), Fault> {
        let last = self.last;
        if let Some((after, _)) = last
            && link.sequence <= after
        {
            return Err(Fault::Reordered { after });
        }
        self.last = Some((link.sequence, link.hash));
        if self.first == 0 {
            (self.first, self.first_hash) = (link.sequence, link.hash);
        }
        if let Some((last, head)) = last {
            if link.sequence > last + 1 {
                return Err(Fault::Missing { from: last + 1, to: link.sequence - 1 });
            }
            if let Some(fault) = link.fault {
                return Err(fault);
            }
            if link.previous_hash != head {
                return Err(if last == 0 { Fault::FalseStart } else { Fault::Unlinked });
            }
        } else {
            if let Some(fault) = link.fault {
                return Err(fault);
            }
            if link.sequence == 1 && link.previous_hash != NOTHING {
                return Err(Fault::FalseStart);
            }
        }
        self.count += 1;
        Ok(())
    }
}

/// A receipt that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its place.
    pub sequence: u64,
    /// Its event; 0 where it is not there.
    pub event_id: u128,
    /// What is wrong.
    pub fault: Fault,
}

/// Checks the receipts of one agent against what is signed about them.
#[derive(Debug)]
pub struct Auditor {
    verifier: Verifier,
    seals: Seals,
    /// The next mark to be reached.
    mark: usize,
    /// The first receipt that is wrong.
    pub first: Option<Finding>,
    /// How many are wrong.
    pub faults: u64,
    /// Receipts that were removed by a policy, and are still there: not looked at.
    pub left_over: u64,
}

impl Auditor {
    /// `seals`: what the receipts must be.
    pub fn new(seals: Seals) -> Self {
        let verifier = match seals.start {
            Some((sequence, head)) => Verifier::after(sequence, head),
            None if seals.from > 1 => Verifier::part(),
            None => Verifier::default(),
        };
        Self { verifier, seals, mark: 0, first: None, faults: 0, left_over: 0 }
    }

    /// What they must be.
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// Receipts found whole so far.
    pub fn count(&self) -> u64 {
        self.verifier.count
    }

    /// First and last receipt seen; zeros where there was none.
    pub fn range(&self) -> (u64, u64) {
        (self.verifier.first, if self.verifier.first == 0 { 0 } else { self.verifier.last() })
    }

    /// Hashes of the first and the last receipt seen; none where there was none.
    pub fn ends(&self) -> Option<(Hash, Hash)> {
        let (_, last) = self.verifier.last.filter(|_| self.verifier.first > 0)?;
        Some((self.verifier.first_hash, last))
    }

    /// The last receipt that a checkpoint signed; 0 where there is none.
    pub fn signed(&self) -> u64 {
        let marks = self.seals.marks.last().map_or(0, |mark| mark.sequence);
        marks.max(self.seals.start.map_or(0, |(last, _)| last))
    }

    /// Checks the next receipt.
    pub fn link(&mut self, link: &Link) {
        if self.verifier.first == 0 && self.seals.start.is_some_and(|(last, _)| link.sequence <= last) {
            self.left_over += 1;
            return;
        }
        if let Err(fault) = self.verifier.link(link) {
            self.find(Finding { sequence: link.sequence, event_id: link.event_id, fault });
            if matches!(fault, Fault::Reordered { .. }) {
                return;
            }
        }
        while let Some(mark) = self.seals.marks.get(self.mark).filter(|mark| mark.sequence <= link.sequence) {
            let Mark { first, sequence, hash, .. } = *mark;
            self.mark += 1;
            if sequence == link.sequence && hash != link.hash {
                let fault = Fault::Remade { from: first, to: sequence };
                self.find(Finding { sequence, event_id: link.event_id, fault });
            }
        }
    }

    /// There are no more receipts.
    pub fn finish(&mut self) {
        let last = self.verifier.last().max(self.seals.from.saturating_sub(1));
        if let Some(mark) = self.seals.marks.last()
            && mark.sequence > last
        {
            let fault = Fault::CutOff { from: last + 1, to: mark.sequence };
            self.find(Finding { sequence: last + 1, event_id: 0, fault });
        }
    }

    fn find(&mut self, finding: Finding) {
        self.faults += 1;
        self.first.get_or_insert(finding);
    }
}

#[cfg(test)]
mod tests;
