//! One row of a small table -> a block of ClickHouse's Native format, as the spool keeps it.

use agent_core::receipt::{Checkpoint, Key, Stub};

use super::block::{text, varint};

/// A row on its way to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Where it goes: `table (column, column)`.
    pub(super) target: String,
    /// The block.
    pub(super) block: Vec<u8>,
}

/// A row under construction.
struct Columns {
    table: &'static str,
    names: Vec<&'static str>,
    data: Vec<u8>,
}

impl Columns {
    fn of(table: &'static str) -> Self {
        Self { table, names: Vec::new(), data: Vec::new() }
    }

    fn column(mut self, name: &'static str, kind: &str) -> Self {
        self.names.push(name);
        text(&mut self.data, name);
        text(&mut self.data, kind);
        self
    }

    fn text(self, name: &'static str, value: &str) -> Self {
        let mut row = self.column(name, "String");
        text(&mut row.data, value);
        row
    }

    fn number(self, name: &'static str, value: u64) -> Self {
        let mut row = self.column(name, "UInt64");
        row.data.extend_from_slice(&value.to_le_bytes());
        row
    }

    fn time(self, name: &'static str, nanos: u64) -> Self {
        let mut row = self.column(name, "DateTime64(9, 'UTC')");
        row.data.extend_from_slice(&nanos.to_le_bytes());
        row
    }

    fn done(self) -> Row {
        let mut block = Vec::with_capacity(self.data.len() + 2);
        varint(&mut block, self.names.len() as u64);
        varint(&mut block, 1);
        block.extend_from_slice(&self.data);
        Row { target: format!("{} ({})", self.table, self.names.join(", ")), block }
    }
}

impl From<&Key> for Row {
    fn from(key: &Key) -> Self {
        Columns::of("signing_keys")
            .text("agent_id", &key.agent_id)
            .text("key_id", &key.key_id.to_string())
            .text("public_key", &key.public_key.to_string())
            .number("from_sequence", key.from_sequence)
            .time("time", key.time)
            .text("previous_key_id", &key.previous_key_id.map_or_else(String::new, |id| id.to_string()))
            .text("signature", &key.signature.to_string())
            .done()
    }
}

impl From<&Checkpoint> for Row {
    fn from(checkpoint: &Checkpoint) -> Self {
        Columns::of("checkpoints")
            .text("agent_id", &checkpoint.agent_id)
            .number("sequence", checkpoint.sequence)
            .text("head", &checkpoint.head.to_string())
            .time("time", checkpoint.time)
            .number("count", checkpoint.count)
            .text("key_id", &checkpoint.key_id.to_string())
            .text("signature", &checkpoint.signature.to_string())
            .done()
    }
}

impl From<&Stub> for Row {
    fn from(stub: &Stub) -> Self {
        Columns::of("stubs")
            .text("agent_id", &stub.agent_id)
            .number("first_sequence", stub.first_sequence)
            .number("last_sequence", stub.last_sequence)
            .number("count", stub.count)
            .text("previous_hash", &stub.previous_hash.to_string())
            .text("first_hash", &stub.first_hash.to_string())
            .text("last_hash", &stub.last_hash.to_string())
            .time("time", stub.time)
            .text("policy", &stub.policy)
            .text("removed_by", &stub.removed_by)
            .text("key_id", &stub.key_id.to_string())
            .text("signature", &stub.signature.to_string())
            .done()
    }
}

/// A policy as it was put in force: receipts name it by its rule and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// `policy_rule` of the receipts.
    pub rule: String,
    /// `policy_version` of the receipts: the hash of the text begins with it.
    pub version: String,
    /// The document, as it was read.
    pub text: String,
    /// The file that it stood in.
    pub file: String,
    /// When it was put in force, nanoseconds since the epoch.
    pub time: u64,
}

impl PolicyText {
    pub(super) fn row(&self, agent_id: &str) -> Row {
        Columns::of("policies")
            .text("agent_id", agent_id)
            .text("policy_rule", &self.rule)
            .text("policy_version", &self.version)
            .text("text", &self.text)
            .text("file", &self.file)
            .time("time", self.time)
            .done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::receipt::{Chain, Hex, SigningKey};

    #[test]
    fn the_schema_has_every_column() {
        let key = SigningKey::from_seed(&[1; 32]);
        let chain = Chain { sequence: 5, head: [2; 32] };
        let stub = Stub {
            agent_id: "a".into(),
            first_sequence: 1,
            last_sequence: 2,
            count: 2,
            previous_hash: Hex([0; 32]),
            first_hash: Hex([0; 32]),
            last_hash: Hex([0; 32]),
            time: 1,
            policy: "p".into(),
            removed_by: "a".into(),
            key_id: key.id(),
            signature: Hex([0; 64]),
        };
        let policy =
            PolicyText { rule: "r".into(), version: "v".into(), text: "t".into(), file: "f".into(), time: 1 };
        let schema = include_str!("schema/0003_proofs.sql");
        for row in [
            Row::from(&Key::new("a", &key, None, 1, 1)),
            Row::from(&Checkpoint::new("a", &key, &chain, 0, 1)),
            Row::from(&stub),
            policy.row("a"),
        ] {
            let (table, columns) = row.target.split_once(" (").unwrap();
            let at = schema.find(&format!("CREATE TABLE IF NOT EXISTS {table}\n")).unwrap();
            let table = schema[at..].split("ENGINE").next().unwrap();
            for column in columns.trim_end_matches(')').split(", ") {
                assert!(table.contains(&format!("\n    {column} ")), "{column} of {table}");
            }
        }
    }
}
