//! What `SET` and its relatives leave behind: role and search path, with the transaction that may take them back.

/// Savepoints that are remembered in one transaction.
const SAVEPOINTS_MAX: usize = 64;

/// The settings that are followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    /// `SET ROLE`, or the session authorization where it is not the login user; empty where neither.
    pub(super) role: String,
    /// `SET SESSION AUTHORIZATION`; empty where it is the login user.
    pub(super) authorization: String,
    pub(super) search_path: String,
}

/// Values now, after a commit, and after a rollback.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// As the session started: what RESET goes back to.
    initial: Values,
    now: Values,
    transaction: Option<Box<Transaction>>,
}

#[derive(Debug)]
struct Transaction {
    commit: Values,
    rollback: Values,
    savepoints: Vec<(Box<[u8]>, Values, Values)>,
}

impl Settings {
    pub(super) fn new(initial: Values) -> Self {
        Self { now: initial.clone(), initial, transaction: None }
    }

    /// The values in force.
    pub(super) fn now(&self) -> &Values {
        &self.now
    }

    /// The user in force where it is not the login user.
    pub(super) fn role(&self) -> &str {
        if self.now.role.is_empty() { &self.now.authorization } else { &self.now.role }
    }

    /// What RESET goes back to.
    pub(super) fn initial(&self) -> &Values {
        &self.initial
    }

    fn open(&mut self) -> &mut Transaction {
        self.transaction.get_or_insert_with(|| {
            Box::new(Transaction {
                commit: self.now.clone(),
                rollback: self.now.clone(),
                savepoints: Vec::new(),
            })
        })
    }

    /// A successful SET, in force until the transaction ends (`local`) or is rolled back.
    pub(super) fn set(&mut self, local: bool, change: impl Fn(&mut Values)) {
        let transaction = self.open();
        if !local {
            change(&mut transaction.commit);
        }
        change(&mut self.now);
    }

    /// The server said so: true whatever the transaction does, until it says something else.
    pub(super) fn reported(&mut self, change: impl Fn(&mut Values)) {
        change(&mut self.now);
        if let Some(transaction) = &mut self.transaction {
            change(&mut transaction.commit);
        }
    }

    pub(super) fn savepoint(&mut self, name: Box<[u8]>) {
        let now = self.now.clone();
        let transaction = self.open();
        if transaction.savepoints.len() < SAVEPOINTS_MAX {
            let commit = transaction.commit.clone();
            transaction.savepoints.push((name, now, commit));
        }
    }

    pub(super) fn rollback_to(&mut self, name: &[u8]) {
        if let Some(transaction) = &mut self.transaction
            && let Some(at) = transaction.savepoints.iter().rposition(|(known, ..)| **known == *name)
        {
            transaction.savepoints.truncate(at + 1);
            let (_, now, commit) = &transaction.savepoints[at];
            self.now = now.clone();
            transaction.commit = commit.clone();
        }
    }

    /// The transaction is over. True where values changed with it.
    pub(super) fn end(&mut self, committed: bool) -> bool {
        let Some(transaction) = self.transaction.take() else { return false };
        let values = if committed { transaction.commit } else { transaction.rollback };
        let changed = values != self.now;
        self.now = values;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_takes_back_what_was_set() {
        let mut settings = Settings::new(Values::default());
        let role = |role: &'static str| move |values: &mut Values| values.role = role.into();
        settings.set(false, role("a"));
        settings.end(true);
        settings.set(false, role("b"));
        settings.savepoint((*b"s").into());
        settings.set(true, role("c"));
        assert_eq!(settings.role(), "c");
        settings.rollback_to(b"s");
        assert_eq!(settings.role(), "b");
        settings.set(true, role("d"));
        settings.end(true);
        assert_eq!(settings.role(), "b", "a local value ends with its transaction");
        settings.set(false, role("e"));
        settings.end(false);
        assert_eq!(settings.role(), "b");
    }
}
