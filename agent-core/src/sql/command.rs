//! Commands of databases that have no SQL -> the same findings. Cut, read and redacted by a file for each database.

use std::ops::Range;
use std::sync::Arc;

use crate::event::DataClass;
use crate::sensitive::{Catalog, Found, values};

use super::draft::Draft;
use super::{Analysis, Dialect, shape};

mod mongodb; // documents and shell calls -> findings
mod redis; // command lines -> findings
mod value; // JSON and what the shell makes of it -> a tree

/// One command.
pub(super) struct Command {
    pub(super) analysis: Analysis,
    /// A password may stand in it: it is only ever shown redacted.
    pub(super) secret: bool,
    /// Fields that it names, with what has them.
    fields: Vec<(String, String)>,
    /// Classes that its values tell.
    found: Found,
}

/// The dialect's commands in a text, in order; none where the dialect is one of SQL.
pub(super) fn read(dialect: Dialect, text: &[u8]) -> Option<Vec<(Range<usize>, Command)>> {
    match dialect {
        Dialect::Redis => Some(redis::read(text)),
        Dialect::Mongodb => Some(mongodb::read(text)),
        Dialect::Postgresql | Dialect::Mysql | Dialect::Tsql | Dialect::Clickhouse => None,
    }
}

impl Command {
    /// What it touches by the names of fields, and by values.
    pub(super) fn data_classes(&self, catalog: &Catalog) -> Arc<[DataClass]> {
        let mut all = self.found.clone();
        for (owner, field) in &self.fields {
            if let Some(class) = catalog.column(&std::iter::once(owner.as_str()), field) {
                all.add(&class, &if owner.is_empty() { field.clone() } else { format!("{owner}.{field}") });
            }
        }
        all.into()
    }
}

/// A command being read.
#[derive(Default)]
struct Reading {
    draft: Draft,
    secret: bool,
    fields: Vec<(String, String)>,
    found: Found,
}

/// Most fields that are noted of one command.
const FIELDS: usize = 256;

impl Reading {
    fn field(&mut self, owner: &str, name: &str) {
        let known = self.fields.iter().any(|(o, n)| o == owner && n == name);
        if !known && self.fields.len() < FIELDS {
            self.fields.push((owner.to_owned(), name.to_owned()));
        }
    }

    /// Looks at a value, of the field where one is known.
    fn value(&mut self, column: &str, value: &str) {
        let found = &mut self.found;
        values::classes(value, &mut |class| found.add(class, column));
    }

    fn end(self, redacted: &str) -> Command {
        let fingerprint = shape::hash(redacted.as_bytes());
        let Self { draft, secret, fields, found } = self;
        Command { analysis: draft.finish(redacted, fingerprint), secret, fields, found }
    }
}

#[cfg(test)]
mod tests {
    use crate::sensitive::Catalog;
    use crate::sql::{Dialect, Redaction, Texts};

    /// Whatever the setting, a password is not shown; and by default no value is.
    #[test]
    fn passwords_go_always_and_values_by_default() {
        let mut texts = Texts::default();
        for (dialect, text, shown) in [
            (Dialect::Redis, "AUTH app hunter2", "AUTH ?"),
            (Dialect::Redis, "HELLO 3 AUTH app hunter2", "HELLO ?"),
            (Dialect::Redis, "ACL SETUSER joe on >hunter2 +@all", "ACL SETUSER ?"),
            (Dialect::Redis, "CONFIG SET requirepass hunter2", "CONFIG SET ?"),
            (Dialect::Redis, "SET dsn postgres://app:hunter2@db/shop", "SET dsn ?"),
            (Dialect::Redis, "LOGIN.BY hunter2 hunter2", "LOGIN.BY ?"),
            (
                Dialect::Mongodb,
                "db.createUser({user: 'joe', pwd: 'hunter2', roles: []})",
                "{createUser: joe}",
            ),
            (
                Dialect::Mongodb,
                r#"{"createUser": "joe", "pwd": "hunter2", "roles": ["root"]}"#,
                "{createUser: joe, pwd: ?, roles: [?]}",
            ),
            (Dialect::Mongodb, "{\"createUser\": \"joe\", \"pwd\": \"hunter2\"", "?"),
        ] {
            let text = texts.intern(dialect, text.as_bytes());
            for redaction in [Redaction::Literals, Redaction::Sensitive, Redaction::None] {
                assert_eq!(&*text.shown(redaction), shown, "{redaction:?}");
            }
        }
        let find = "db.orders.find({email: 'ann@example.com', n: 5})";
        let text = texts.intern(Dialect::Mongodb, find.as_bytes());
        assert_eq!(&*text.shown(Redaction::Literals), "{find: orders, filter: {email: ?, n: ?}}");
        assert_eq!(&*text.shown(Redaction::None), find);
    }

    #[test]
    fn classes_by_name_and_by_value() {
        let mut texts = Texts::default();
        let mut classes = |dialect, text: &str| {
            let text = texts.intern(dialect, text.as_bytes());
            let found = text.data_classes(&Catalog::default()).to_vec();
            found.into_iter().map(|d| format!("{} {}", d.class, d.column)).collect::<Vec<_>>()
        };
        let by_name = classes(Dialect::Mongodb, "db.customers.find({'contact.email': /x/})");
        assert_eq!(by_name, ["email customers.email"]);
        let by_value = classes(Dialect::Redis, "SET note 4111111111111111");
        assert_eq!(by_value, ["card "]);
    }

    /// Lists of equal things and values that differ have one fingerprint.
    #[test]
    fn fingerprints() {
        let mut texts = Texts::default();
        let mut print = |dialect, text: &str| {
            texts.intern(dialect, text.as_bytes()).analysis().db_query_fingerprint.clone()
        };
        let (redis, mongo) = (Dialect::Redis, Dialect::Mongodb);
        assert_eq!(print(redis, "SET user:1 a"), print(redis, "set  user:22 'b c'"));
        assert_ne!(print(redis, "SET user:1 a"), print(redis, "SET cart:1 a"));
        assert_eq!(
            print(mongo, "db.a.insertMany([{x: 1}, {x: 2}])"),
            print(mongo, r#"{"insert": "a", "documents": [{"x": 7}]}"#)
        );
    }
}
