//! Findings -> analysis. Readers of statements note here what they find; the order of notes does not matter
//! but for relations and the summary.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Access, Analysis, Effect, Relation};

/// A set of effects.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effects(u32);

impl Effects {
    pub(super) fn add(&mut self, effect: Effect) {
        self.0 |= 1 << effect as u32;
    }

    pub(super) fn has(self, effect: Effect) -> bool {
        self.0 & (1 << effect as u32) != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Effect> {
        Effect::ALL.into_iter().filter(move |&e| self.has(e))
    }
}

impl FromIterator<Effect> for Effects {
    fn from_iter<I: IntoIterator<Item = Effect>>(effects: I) -> Self {
        let mut set = Effects::default();
        effects.into_iter().for_each(|e| set.add(e));
        set
    }
}

/// What was found so far about one statement.
#[derive(Default)]
pub(super) struct Draft {
    /// `SELECT`, `DROP TABLE`, `COPY`.
    pub operation: String,
    pub effects: Effects,
    pub relations: Vec<Relation>,
    pub unbounded: bool,
    /// Some part was not understood.
    pub incomplete: bool,
    /// A literal's value was looked at: the findings hold for these literals only.
    pub literal_bound: bool,
    /// How many statements this one stands in.
    pub depth: u8,
    /// Words of the summary, in order; added by `mention`.
    pub summary: Vec<String>,
}

/// OpenTelemetry's limit for `db.query.summary`, in bytes.
const LONGEST_SUMMARY: usize = 255;

impl Draft {
    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.add(effect);
    }

    pub(super) fn relation(&mut self, name: &str, access: Access) {
        if name.is_empty() {
            return;
        }
        if !self.relations.iter().any(|r| r.access == access && &*r.name == name) {
            self.relations.push(Relation { name: name.into(), access });
        }
    }

    /// Names a relation that the statement is about: it stands in the summary too.
    pub(super) fn target(&mut self, name: &str, access: Access) {
        self.relation(name, access);
        self.mention(name);
    }

    /// Adds a word to the summary.
    pub(super) fn mention(&mut self, word: &str) {
        if self.summary.len() < 32 && !word.is_empty() {
            self.summary.push(word.to_owned());
        }
    }

    /// Takes over what was found in a statement inside this one; its summary follows ours.
    pub(super) fn absorb(&mut self, inner: Draft) {
        inner.effects.iter().for_each(|e| self.effect(e));
        for relation in inner.relations {
            self.relation(&relation.name, relation.access);
        }
        self.unbounded |= inner.unbounded;
        self.incomplete |= inner.incomplete;
        self.literal_bound |= inner.literal_bound;
        self.mention(&inner.operation);
        inner.summary.iter().for_each(|word| self.mention(word));
    }

    /// The summary's words so far, to be put elsewhere.
    pub(super) fn take_summary(&mut self) -> Vec<String> {
        std::mem::take(&mut self.summary)
    }

    pub(super) fn finish(self, redacted: &str, fingerprint: u64) -> Analysis {
        let mut summary = self.operation.clone();
        for word in &self.summary {
            if summary.len() + word.len() + 1 > LONGEST_SUMMARY {
                break;
            }
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(word);
        }
        let named = self.summary.iter().find(|word| self.relations.iter().any(|r| *r.name == ***word));
        let collection =
            named.map(String::as_str).or(self.relations.first().map(|r| &*r.name)).unwrap_or_default();
        Analysis {
            db_query_summary: summary.into(),
            db_operation_name: self.operation.into(),
            db_collection_name: collection.into(),
            db_query_fingerprint: format!("{fingerprint:016x}").into(),
            statement_effects: self.effects.iter().collect(),
            statement_relations: self.relations.into(),
            statement_unbounded: self.unbounded,
            statement_complete: !self.incomplete,
            redacted: redacted.into(),
        }
    }
}

/// What several statements of one text do together. The first names operation and collection.
pub(super) fn merge<'a>(parts: impl Iterator<Item = &'a Analysis>) -> Analysis {
    let mut draft = Draft::default();
    let (mut summary, mut redacted, mut fingerprints) = (String::new(), String::new(), String::new());
    let mut collection = None::<Arc<str>>;
    for (i, part) in parts.enumerate() {
        if i == 0 {
            draft.operation = part.db_operation_name.to_string();
        }
        collection =
            collection.or_else(|| Some(Arc::clone(&part.db_collection_name)).filter(|c| !c.is_empty()));
        let between = if i == 0 { "" } else { "; " };
        if summary.len() + part.db_query_summary.len() + 2 <= LONGEST_SUMMARY {
            let _ = write!(summary, "{between}{}", part.db_query_summary);
        }
        let _ = write!(redacted, "{between}{}", part.redacted);
        fingerprints.push_str(&part.db_query_fingerprint);
        part.statement_effects.iter().for_each(|&e| draft.effect(e));
        for relation in part.statement_relations.iter() {
            draft.relation(&relation.name, relation.access);
        }
        draft.unbounded |= part.statement_unbounded;
        draft.incomplete |= !part.statement_complete;
    }
    let fingerprint = super::shape::hash(fingerprints.as_bytes());
    let mut merged = draft.finish(&redacted, fingerprint);
    merged.db_query_summary = summary.into();
    merged.db_collection_name = collection.unwrap_or_else(|| "".into());
    merged
}
