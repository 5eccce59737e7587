//! Conditions on what happened before: how often, and whether for the first time. `judge::memory` remembers it.

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Statements that the rule is about.
    Statements,
    /// Rows that they returned or changed.
    Rows,
}

/// Whose doings belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Per {
    /// `identity_principal`.
    #[default]
    Principal,
    /// `db_user`.
    User,
    /// The client process; the session where that is on another host.
    Process,
    /// `session_id`.
    Session,
}

impl Per {
    /// All of them with their names in policies.
    pub const ALL: [(&'static str, Per); 4] = [
        ("principal", Per::Principal),
        ("user", Per::User),
        ("process", Per::Process),
        ("session", Per::Session),
    ];

    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Per::Principal => "principal",
            Per::User => "user",
            Per::Process => "process",
            Per::Session => "session",
        }
    }
}

/// So many within a sliding window: holds for the one that makes the number full, and for each after it for as long as
/// the window holds that many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What is counted.
    pub of: Amount,
    /// How many; at least 1.
    pub limit: u64,
    /// The window, in nanoseconds.
    pub within: u64,
    /// Whose.
    pub per: Per,
}

/// A relation that was not touched before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusual {
    /// By whom; a process or a session does not live long enough to have habits.
    pub per: Per,
    /// How long everything is usual, in nanoseconds, since the memory began.
    pub learning: u64,
}
