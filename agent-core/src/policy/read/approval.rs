//! `approval` and `onTimeout` -> the terms of a rule that asks for approval, each mistake in its place.

use std::time::Duration;

use super::super::{Action, Approval, OnTimeout};
use super::{Fields, Reader, field};

impl Reader<'_> {
    /// The terms; none for a rule that never asks. `actions` are what the rule does, surely and in doubt.
    pub(super) fn approval(&mut self, fields: &Fields<'_>, actions: [Option<Action>; 2]) -> Option<Approval> {
        let mut terms = Approval::default();
        if let Some(node) = field(fields, "onTimeout") {
            let words = [("deny", OnTimeout::Deny), ("allow", OnTimeout::Allow)];
            terms.on_timeout = self.word(node, "spec.onTimeout", &words).unwrap_or_default();
        }
        if let Some(node) = field(fields, "approval") {
            let inner = self.fields(node, "spec.approval", &["groups", "ttl", "singleUse"]);
            if let Some(groups) = field(&inner, "groups") {
                let what = "spec.approval.groups";
                let groups = self.list(groups, what);
                terms.groups =
                    groups.into_iter().filter_map(|group| self.text(group, what)).map(Into::into).collect();
            }
            if let Some(node) = field(&inner, "ttl")
                && let Some(ttl) = self.duration(node, "spec.approval.ttl")
            {
                if ttl == 0 {
                    self.problem(node, "spec.approval.ttl must be longer than nothing".into());
                }
                terms.ttl = Duration::from_nanos(ttl);
            }
            if let Some(single) = field(&inner, "singleUse") {
                terms.single_use = self.boolean(single, "spec.approval.singleUse").unwrap_or(true);
            }
        }
        let asks = actions.contains(&Some(Action::RequireApproval));
        // An action that was not understood is a problem of its own: it may have been meant to ask.
        if !asks && actions[0].is_some() {
            for name in ["onTimeout", "approval"] {
                if let Some(node) = field(fields, name) {
                    self.problem(
                        node,
                        format!("spec.{name} belongs to a rule that does 'require_approval' only"),
                    );
                }
            }
        }
        asks.then_some(terms)
    }
}
