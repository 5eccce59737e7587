//! The texts and shapes seen so far: each distinct one is kept once. Bounded by count and by bytes.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Dialect;

/// What the cache keeps: found by its dialect and bytes.
pub(super) trait Keyed {
    fn dialect(&self) -> Dialect;
    fn key(&self) -> &[u8];
    /// Roughly what it holds on to, in bytes.
    fn weight(&self) -> usize;
}

/// A cache that gives up what was not asked for since the hand last came by (the CLOCK algorithm): a hit sets one
/// bit, an insertion evicts a few entries at most, there is never a sweep.
pub(super) struct Clock<T> {
    index: HashTable<u32>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
    most: usize,
    most_bytes: usize,
    hasher: DefaultHashBuilder,
}

struct Slot<T> {
    hash: u64,
    weight: usize,
    used: bool,
    value: Arc<T>,
}

impl<T: Keyed> Clock<T> {
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            most: most.clamp(1, u32::MAX as usize),
            most_bytes,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Keyed per process: who writes the statements cannot choose collisions.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(super) fn get(&mut self, hash: u64, dialect: Dialect, key: &[u8]) -> Option<Arc<T>> {
        let slots = &self.slots;
        let found = self.index.find(hash, |&at| {
            slots.get(at as usize).and_then(Option::as_ref).is_some_and(|slot| {
                slot.hash == hash && slot.value.dialect() == dialect && slot.value.key() == key
            })
        });
        let at = *found? as usize;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        slot.used = true;
        Some(Arc::clone(&slot.value))
    }

    /// Keeps a value that `get` did not find. One that would fill a large part of the cache is not kept.
    pub(super) fn insert(&mut self, hash: u64, value: &Arc<T>) {
        let weight = value.weight();
        if weight > self.most_bytes / 16 {
            return;
        }
        while !self.index.is_empty()
            && (self.bytes.saturating_add(weight) > self.most_bytes || self.index.len() >= self.most)
        {
            self.evict_one();
        }
        let slot = Slot { hash, weight, used: false, value: Arc::clone(value) };
        let at = if let Some(at) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(at as usize) {
                *place = Some(slot);
            }
            at
        } else {
            self.slots.push(Some(slot));
            (self.slots.len() - 1) as u32
        };
        self.bytes += weight;
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |&at| {
            slots.get(at as usize).and_then(Option::as_ref).map_or(0, |slot| slot.hash)
        });
    }

    fn evict_one(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let at = self.hand;
            self.hand += 1;
            let Some(place) = self.slots.get_mut(at) else { return };
            match place {
                Some(slot) if slot.used => slot.used = false,
                Some(_) => {
                    let Some(slot) = place.take() else { return };
                    if let Ok(entry) = self.index.find_entry(slot.hash, |&other| other as usize == at) {
                        entry.remove();
                    }
                    self.bytes = self.bytes.saturating_sub(slot.weight);
                    self.free.push(at as u32);
                    return;
                }
                None => {}
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
