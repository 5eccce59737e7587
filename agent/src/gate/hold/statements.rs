//! The statements of a held message -> what the agent knows them by, and what people are shown of them.

use std::sync::Arc;

use agent_core::sql::Text;

use super::super::talk::{SHOWN_MAX, digest};

/// The statements of a message.
pub(super) struct Asked(pub(super) Vec<Arc<Text>>);

impl Asked {
    /// What the agent knows each by.
    pub(super) fn digests(&self) -> Vec<u64> {
        self.0.iter().map(|text| digest(text.bytes())).collect()
    }

    /// What they are, without their literals; cut where it is long.
    pub(super) fn shown(&self) -> String {
        let mut shown = String::new();
        for text in &self.0 {
            if !shown.is_empty() {
                shown.push_str("; ");
            }
            shown.push_str(&text.analysis().redacted);
        }
        let end = (0..=shown.len().min(SHOWN_MAX)).rev().find(|&at| shown.is_char_boundary(at)).unwrap_or(0);
        shown.truncate(end);
        shown
    }
}
