//! Names -> prepared statements and portals of one session. Bounded: the least recently used one goes.

use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;

use crate::exchange::Parameter;
use crate::segment::Nanos;
use crate::sql::Text;

/// Prepared statements that are remembered for one session.
const STATEMENTS_MAX: usize = 4096;
/// Bytes of their texts.
const TEXT_MAX: usize = 64 << 20;
/// Portals that are remembered for one session.
const PORTALS_MAX: usize = 1024;

/// A prepared statement.
pub(super) struct Prepared {
    pub(super) text: Arc<Text>,
    /// Parameter types as Parse declared them; 0 where the server was to find out.
    pub(super) declared: Box<[u32]>,
    /// Parameter types as the server described them.
    pub(super) described: OnceLock<Box<[u32]>>,
    /// False where part of the text is missing.
    pub(super) complete: bool,
    /// Set where the server's answer was not seen: it may have refused the statement, and the name mean another.
    /// Within its Sync group that does not matter, as nothing is executed behind a refusal.
    pub(super) doubtful: OnceLock<()>,
    /// Request bytes and time of the Parse message, and the Sync group that it came in.
    pub(super) size: u64,
    pub(super) started: Nanos,
    pub(super) group: u64,
}

impl Prepared {
    /// Type of a parameter, 0 where it is not known.
    pub(super) fn parameter(&self, index: usize) -> u32 {
        let described = self.described.get().and_then(|types| types.get(index));
        described.or_else(|| self.declared.get(index)).copied().unwrap_or(0)
    }
}

/// What a name stood for before a message changed it: the message may turn out to have failed.
pub(super) struct Undo {
    name: Box<[u8]>,
    now: Option<Arc<Prepared>>,
    before: Option<Arc<Prepared>>,
}

impl Undo {
    /// It is not known whether the message that changed the name has failed.
    pub(super) fn doubt(&self) {
        if let Some(now) = &self.now {
            let _ = now.doubtful.set(());
        }
    }
}

struct Entry {
    prepared: Arc<Prepared>,
    used: u64,
}

/// The session's prepared statements, those of SQL's PREPARE among them: they share the server's table.
#[derive(Default)]
pub(super) struct Statements {
    unnamed: Option<Arc<Prepared>>,
    named: HashMap<Box<[u8]>, Entry>,
    clock: u64,
    text_bytes: usize,
}

impl Statements {
    pub(super) fn get(&mut self, name: &[u8]) -> Option<&Arc<Prepared>> {
        if name.is_empty() {
            return self.unnamed.as_ref();
        }
        self.clock += 1;
        let entry = self.named.get_mut(name)?;
        entry.used = self.clock;
        Some(&entry.prepared)
    }

    /// Gives the name a new meaning, or none.
    pub(super) fn set(&mut self, name: &[u8], now: Option<Arc<Prepared>>) -> Undo {
        let before = self.put(name, now.clone());
        Undo { name: name.into(), now, before }
    }

    /// Forgets every name.
    pub(super) fn set_all(&mut self) -> Vec<Undo> {
        self.text_bytes = 0;
        let named = std::mem::take(&mut self.named).into_iter();
        named.map(|(name, entry)| Undo { name, now: None, before: Some(entry.prepared) }).collect()
    }

    /// The message that changed the name has failed.
    pub(super) fn undo(&mut self, undo: Undo) {
        let current = if undo.name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(&undo.name).map(|entry| &entry.prepared)
        };
        let same = match (current, &undo.now) {
            (Some(current), Some(now)) => Arc::ptr_eq(current, now),
            (None, None) => true,
            _ => false,
        };
        if same {
            self.put(&undo.name, undo.before);
        }
    }

    fn put(&mut self, name: &[u8], prepared: Option<Arc<Prepared>>) -> Option<Arc<Prepared>> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, prepared);
        }
        let before = match prepared {
            Some(prepared) => {
                self.clock += 1;
                self.text_bytes += prepared.text.bytes().len();
                self.named.insert(name.into(), Entry { prepared, used: self.clock })
            }
            None => self.named.remove(name),
        };
        if let Some(before) = &before {
            self.text_bytes -= before.prepared.text.bytes().len();
        }
        self.bound();
        before.map(|entry| entry.prepared)
    }

    /// Forgets the older half where there are too many: that costs little for each new one.
    fn bound(&mut self) {
        if self.named.len() <= STATEMENTS_MAX && self.text_bytes <= TEXT_MAX {
            return;
        }
        let mut used: Vec<u64> = self.named.values().map(|entry| entry.used).collect();
        let middle = used.len() / 2;
        let (_, &mut limit, _) = used.select_nth_unstable(middle);
        let newest = self.clock;
        self.named.retain(|_, entry| entry.used > limit || entry.used == newest);
        self.count();
    }

    fn count(&mut self) {
        self.text_bytes = self.named.values().map(|entry| entry.prepared.text.bytes().len()).sum();
    }

    /// Forgets all but those that came with this Sync group or later.
    pub(super) fn forget_before(&mut self, group: u64) {
        self.unnamed.take_if(|prepared| prepared.group < group);
        self.named.retain(|_, entry| entry.prepared.group >= group);
        self.count();
    }

    /// The unnamed statement does not live long enough to be sure of it.
    pub(super) fn forget_unnamed(&mut self) {
        self.unnamed = None;
    }
}

/// A prepared statement with its parameters bound.
#[derive(Default)]
pub(super) struct Portal {
    /// `None` where the name that was bound is not known.
    pub(super) prepared: Option<Arc<Prepared>>,
    pub(super) parameters: Vec<Parameter>,
    /// Was executed before: a further execution fetches.
    pub(super) executed: bool,
    /// False where part of the Bind message is missing.
    pub(super) complete: bool,
    pub(super) size: u64,
    pub(super) started: Nanos,
}

/// The session's portals.
#[derive(Default)]
pub(super) struct Portals {
    unnamed: Option<Portal>,
    named: HashMap<Box<[u8]>, Portal>,
}

impl Portals {
    pub(super) fn get(&mut self, name: &[u8]) -> Option<&mut Portal> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }

    pub(super) fn set(&mut self, name: &[u8], portal: Portal) {
        if name.is_empty() {
            self.unnamed = Some(portal);
            return;
        }
        if self.named.len() >= PORTALS_MAX {
            self.named.clear();
        }
        self.named.insert(name.into(), portal);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.named.remove(name);
        }
    }

    /// Portals end with their transaction.
    pub(super) fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
        }
    }
}
