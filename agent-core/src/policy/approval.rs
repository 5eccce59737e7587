//! The terms on which a held statement may go on: who may say so, until when, how often.

use std::sync::Arc;
use std::time::Duration;

/// How long an approval may take, and holds, where a rule does not say it.
pub const TTL: Duration = Duration::from_mins(30);

/// What becomes of a held statement that nobody decided about in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnTimeout {
    /// It is refused.
    #[default]
    Deny,
    /// It goes on.
    Allow,
}

impl OnTimeout {
    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            OnTimeout::Deny => "deny",
            OnTimeout::Allow => "allow",
        }
    }
}

/// `spec.approval` and `spec.onTimeout` of a rule that asks for approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Groups of this host whose members may decide; where there is none, only root may.
    pub groups: Arc<[Arc<str>]>,
    /// How long somebody may take to decide, and how long an approval that is not for single use holds.
    pub ttl: Duration,
    /// An approval is for the statement that was held, not for the next one with the same bytes.
    pub single_use: bool,
    /// What happens when nobody decided.
    pub on_timeout: OnTimeout,
}

impl Default for Approval {
    fn default() -> Self {
        Self { groups: Arc::default(), ttl: TTL, single_use: true, on_timeout: OnTimeout::Deny }
    }
}
