//! Events -> one block of ClickHouse's Native format, column by column.
//!
//! Native is what the engine keeps in memory: it takes a block in without parsing a row, and a column whose
//! values repeat is sent as a dictionary and one byte a row. Format: ClickHouse's `docs/interfaces/formats/Native`
//! and `SerializationLowCardinality`, protocol revision 0.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use agent_core::event::{CaptureSource, CaptureVantage, DataClass, Disposition, Event, EventKind};
use agent_core::identity::Claim;
use agent_core::receipt::{Code, FIELDS};
use agent_core::sql::{Access, Effect};

/// Columns of the insert, in the order in which [`Encoder::encode`] writes them: the receipt's fields, but for what
/// ClickHouse computes from what is stored more tightly.
pub(super) static COLUMNS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let stored = |field: &&'static str| match *field {
        "event_id" => vec!["event_id_high", "event_id_low"],
        "identity_claims" => vec!["identity_evidence"],
        field => vec![field],
    };
    FIELDS.iter().flat_map(stored).chain(["chain"]).collect()
});

/// Where blocks go.
pub(super) fn target() -> String {
    format!("events ({})", COLUMNS.join(", "))
}

/// Makes blocks; keeps its tables between them.
#[derive(Default)]
pub(super) struct Encoder {
    dictionary: Dictionary,
    enums: Option<Enums>,
}

/// Type names of the enumerations, made once.
struct Enums {
    kind: String,
    effects: String,
    relations: String,
    disposition: String,
    source: String,
    vantage: String,
}

impl Enums {
    fn new() -> Self {
        Self {
            kind: enum8::<EventKind>(),
            effects: format!("Array({})", enum8::<Effect>()),
            relations: format!("Array(Tuple(name LowCardinality(String), access {}))", enum8::<Access>()),
            disposition: enum8::<Disposition>(),
            source: enum8::<CaptureSource>(),
            vantage: enum8::<CaptureVantage>(),
        }
    }
}

fn enum8<T: Code>() -> String {
    let mut text = String::from("Enum8(");
    for (i, name) in T::NAMES.iter().enumerate() {
        let _ = write!(text, "{}'{name}' = {}", if i == 0 { "" } else { ", " }, i + 1);
    }
    text.push(')');
    text
}

impl Encoder {
    /// Appends one block with all the events.
    pub(super) fn encode(&mut self, events: &[Event], out: &mut Vec<u8>) {
        let Self { dictionary, enums } = self;
        let types = enums.get_or_insert_with(Enums::new);
        varint(out, COLUMNS.len() as u64);
        varint(out, events.len() as u64);
        let mut block = Block { events, out, dictionary, names: COLUMNS.iter() };
        block.fixed("UInt64", |e| ((e.event_id >> 64) as u64).to_le_bytes());
        block.fixed("UInt64", |e| (e.event_id as u64).to_le_bytes());
        block.fixed("DateTime64(9, 'UTC')", |e| e.time.to_le_bytes());
        block.fixed(&types.kind, |e| [e.event_kind.code()]);
        block.shared(|e| &e.agent_id);
        block.shared(|e| &e.host_name);
        block.fixed("UInt64", |e| e.session_id.to_le_bytes());
        block.shared(|e| &e.db_system_name);
        block.shared(|e| &e.db_namespace);
        block.shared(|e| &e.db_user);
        block.shared(|e| &e.db_application_name);
        block.shared(|e| &e.db_query_text);
        block.texts(|e| &e.batch_id);
        block.fixed("UInt32", |e| e.batch_index.to_le_bytes());
        block.shared(|e| &e.db_query_summary);
        block.shared(|e| &e.db_operation_name);
        block.shared(|e| &e.db_collection_name);
        block.shared(|e| &e.db_query_fingerprint);
        block.shared_lists(|e| &e.db_query_parameters);
        block.list(&types.effects, |e| &e.statement_effects, |effect, out| out.push(effect.code()));
        block.pairs(
            &types.relations,
            |e| &e.statement_relations,
            |r| &r.name,
            |r, out| out.push(r.access.code()),
        );
        block.fixed("Bool", |e| [u8::from(e.statement_unbounded)]);
        block.fixed("Bool", |e| [u8::from(e.statement_complete)]);
        block.classes();
        block.shared(|e| &e.db_response_status_code);
        block.shared(|e| &e.error_type);
        block.nullable("Nullable(UInt64)", |e| e.db_response_returned_rows.map(u64::to_le_bytes));
        block.nullable("Nullable(UInt64)", |e| e.db_response_affected_rows.map(u64::to_le_bytes));
        block.nullable("Nullable(UInt64)", |e| e.duration_ns.map(u64::to_le_bytes));
        block.nullable("Nullable(UInt64)", |e| e.first_byte_ns.map(u64::to_le_bytes));
        block.shared(|e| &e.client_address);
        block.fixed("UInt16", |e| e.client_port.to_le_bytes());
        block.shared(|e| &e.server_address);
        block.fixed("UInt16", |e| e.server_port.to_le_bytes());
        block.shared(|e| &e.network_transport);
        block.fixed("Bool", |e| [u8::from(e.network_tls)]);
        block.nullable("Nullable(UInt32)", |e| e.process_pid.map(u32::to_le_bytes));
        block.nullable("Nullable(UInt64)", |e| e.process_start_ns.map(u64::to_le_bytes));
        block.shared(|e| &e.process_executable_path);
        block.shared(|e| &e.process_command_line);
        block.shared(|e| &e.process_owner);
        block.nullable("Nullable(UInt32)", |e| e.process_auid.map(u32::to_le_bytes));
        block.shared_lists(|e| &e.process_ancestry);
        block.shared(|e| &e.container_id);
        block.shared(|e| &e.container_runtime);
        block.shared(|e| &e.k8s_namespace_name);
        block.shared(|e| &e.k8s_pod_name);
        block.shared(|e| &e.k8s_pod_uid);
        block.shared(|e| &e.k8s_workload_kind);
        block.shared(|e| &e.k8s_workload_name);
        block.shared(|e| &e.k8s_service_account_name);
        block.shared(|e| &e.ai_agent_name);
        block.shared(|e| &e.identity_principal);
        block.evidence();
        block.fixed("Bool", |e| [u8::from(e.identity_conflict)]);
        block.texts(|e| &e.trace_id);
        block.texts(|e| &e.span_id);
        block.shared(|e| &e.policy_rule);
        block.shared(|e| &e.policy_version);
        block.shared(|e| &e.policy_mode);
        block.fixed(&types.disposition, |e| [e.disposition.code()]);
        block.texts(|e| &e.approval_id);
        block.shared(|e| &e.approval_state);
        block.shared(|e| &e.approval_actor);
        block.fixed(&types.source, |e| [e.capture_source.code()]);
        block.fixed(&types.vantage, |e| [e.capture_vantage.code()]);
        block.fixed("Bool", |e| [u8::from(e.capture_truncated)]);
        block.fixed("UInt64", |e| e.capture_lost_before.to_le_bytes());
        block.fixed("UInt64", |e| e.capture_bytes.to_le_bytes());
        block.fixed("UInt64", |e| e.sequence.to_le_bytes());
        block.name("FixedString(64)");
        for event in events {
            block.out.extend_from_slice(&event.previous_hash);
            block.out.extend_from_slice(&event.hash);
        }
        debug_assert!(block.names.next().is_none());
    }
}

/// One block under construction.
struct Block<'a, 'n> {
    events: &'a [Event],
    out: &'a mut Vec<u8>,
    dictionary: &'a mut Dictionary,
    names: std::slice::Iter<'n, &'static str>,
}

impl<'a> Block<'a, '_> {
    fn name(&mut self, kind: &str) {
        text(self.out, self.names.next().copied().unwrap_or_default());
        text(self.out, kind);
    }

    fn fixed<const N: usize>(&mut self, kind: &str, value: impl Fn(&Event) -> [u8; N]) {
        self.name(kind);
        for event in self.events {
            self.out.extend_from_slice(&value(event));
        }
    }

    fn nullable<const N: usize>(&mut self, kind: &str, value: impl Fn(&Event) -> Option<[u8; N]>) {
        self.name(kind);
        for event in self.events {
            self.out.push(u8::from(value(event).is_none()));
        }
        for event in self.events {
            self.out.extend_from_slice(&value(event).unwrap_or([0; N]));
        }
    }

    fn texts(&mut self, value: impl Fn(&Event) -> &Arc<str>) {
        self.name("String");
        for event in self.events {
            text(self.out, value(event));
        }
    }

    /// A LowCardinality column.
    fn shared(&mut self, value: impl Fn(&'a Event) -> &'a Arc<str>) {
        self.name("LowCardinality(String)");
        version(self.out);
        self.dictionary.begin();
        for event in self.events {
            self.dictionary.add(value(event));
        }
        self.dictionary.write(self.out);
    }

    fn offsets(&mut self, length: impl Fn(&Event) -> usize) {
        let mut end = 0u64;
        for event in self.events {
            end += length(event) as u64;
            self.out.extend_from_slice(&end.to_le_bytes());
        }
    }

    fn list<T: 'a>(
        &mut self,
        kind: &str,
        items: impl Fn(&'a Event) -> &'a [T],
        each: impl Fn(&T, &mut Vec<u8>),
    ) {
        self.name(kind);
        let mut end = 0u64;
        for event in self.events {
            end += items(event).len() as u64;
            self.out.extend_from_slice(&end.to_le_bytes());
        }
        for item in self.events.iter().flat_map(items) {
            each(item, self.out);
        }
    }

    fn shared_lists(&mut self, items: impl Fn(&'a Event) -> &'a [Arc<str>]) {
        self.name("Array(LowCardinality(String))");
        version(self.out);
        let events = self.events;
        let mut end = 0u64;
        for event in events {
            end += items(event).len() as u64;
            self.out.extend_from_slice(&end.to_le_bytes());
        }
        self.dictionary.begin();
        for item in events.iter().flat_map(&items) {
            self.dictionary.add(item);
        }
        self.dictionary.write(self.out);
    }

    fn pairs<T: 'a>(
        &mut self,
        kind: &str,
        items: impl Fn(&'a Event) -> &'a [T],
        key: impl Fn(&'a T) -> &'a Arc<str>,
        rest: impl Fn(&'a T, &mut Vec<u8>),
    ) {
        self.name(kind);
        version(self.out);
        let events = self.events;
        let mut end = 0u64;
        for event in events {
            end += items(event).len() as u64;
            self.out.extend_from_slice(&end.to_le_bytes());
        }
        self.dictionary.begin();
        for item in events.iter().flat_map(&items) {
            self.dictionary.add(key(item));
        }
        self.dictionary.write(self.out);
        for item in events.iter().flat_map(items) {
            rest(item, self.out);
        }
    }

    fn classes(&mut self) {
        self.name("Array(Tuple(class LowCardinality(String), column LowCardinality(String)))");
        // A tuple's members each begin with their own prefix, ahead of the offsets.
        version(self.out);
        version(self.out);
        self.offsets(|e| e.data_classes.len());
        let events = self.events;
        let members: [fn(&DataClass) -> &Arc<str>; 2] = [|c| &c.class, |c| &c.column];
        for member in members {
            self.dictionary.begin();
            for item in events.iter().flat_map(|e| e.data_classes.iter()) {
                self.dictionary.add(member(item));
            }
            self.dictionary.write(self.out);
        }
    }

    /// Claims as one shared JSON text; sessions share them, so they are written out once each.
    fn evidence(&mut self) {
        self.name("LowCardinality(String)");
        version(self.out);
        self.dictionary.begin();
        let mut known: HashMap<*const Claim, Arc<str>> = HashMap::new();
        let mut last: Option<(*const Claim, Arc<str>)> = None;
        for event in self.events {
            let claims = &event.identity_claims;
            let key = claims.as_ptr();
            if claims.is_empty() {
                self.dictionary.add_owned("");
                continue;
            }
            let json = match &last {
                Some((pointer, json)) if *pointer == key => Arc::clone(json),
                _ => Arc::clone(
                    known
                        .entry(key)
                        .or_insert_with(|| serde_json::to_string(claims).unwrap_or_default().into()),
                ),
            };
            self.dictionary.add_owned(&json);
            last = Some((key, json));
        }
        self.dictionary.write(self.out);
    }
}

/// Prefix of a LowCardinality column: dictionaries travel with each block.
fn version(out: &mut Vec<u8>) {
    out.extend_from_slice(&1u64.to_le_bytes());
}

/// Values of one LowCardinality column -> keys and indexes.
#[derive(Default)]
struct Dictionary {
    keys: Vec<u8>,
    count: u32,
    indexes: Vec<u32>,
    known: HashMap<Box<str>, u32>,
    /// Where shared strings were found before, by address: they are the same ones over and over.
    seen: Vec<(usize, usize, u32)>,
}

/// Slots of `Dictionary::seen`.
const SEEN: usize = 256;
const NOT_SEEN: (usize, usize, u32) = (0, usize::MAX, 0);

impl Dictionary {
    fn begin(&mut self) {
        self.keys.clear();
        self.count = 0;
        self.indexes.clear();
        self.known.clear();
        self.seen.clear();
        self.seen.resize(SEEN, NOT_SEEN);
    }

    /// Adds a shared string that stays alive until `write`.
    fn add(&mut self, value: &Arc<str>) {
        let (address, length) = (value.as_ptr() as usize, value.len());
        // Allocations differ in the bits above the lowest four.
        let slot = (address >> 4 ^ address >> 12) % SEEN;
        let (at, size, index) = self.seen[slot];
        if at == address && size == length {
            self.indexes.push(index);
            return;
        }
        let index = self.lookup(value);
        self.seen[slot] = (address, length, index);
        self.indexes.push(index);
    }

    fn add_owned(&mut self, value: &str) {
        let index = self.lookup(value);
        self.indexes.push(index);
    }

    fn lookup(&mut self, value: &str) -> u32 {
        if let Some(&index) = self.known.get(value) {
            return index;
        }
        let index = self.count;
        self.count += 1;
        text(&mut self.keys, value);
        self.known.insert(value.into(), index);
        index
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        // The keys come with the data, and indexes are as wide as the keys need.
        const ADDITIONAL_KEYS: u64 = 1 << 9;
        if self.indexes.is_empty() {
            return;
        }
        let width: u64 = match self.count {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        out.extend_from_slice(&(width | ADDITIONAL_KEYS).to_le_bytes());
        out.extend_from_slice(&u64::from(self.count).to_le_bytes());
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&(self.indexes.len() as u64).to_le_bytes());
        match width {
            0 => out.extend(self.indexes.iter().map(|&i| i as u8)),
            1 => out.extend(self.indexes.iter().flat_map(|&i| (i as u16).to_le_bytes())),
            _ => out.extend(self.indexes.iter().flat_map(|&i| i.to_le_bytes())),
        }
    }
}

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_holds_each_value_once() {
        let mut dictionary = Dictionary::default();
        dictionary.begin();
        let values: Vec<Arc<str>> = vec!["a".into(), "b".into(), "a".into()];
        for value in [&values[0], &values[1], &values[2], &values[0]] {
            dictionary.add(value);
        }
        assert_eq!((dictionary.count, dictionary.indexes.as_slice()), (2, &[0, 1, 0, 0][..]));
        let mut out = Vec::new();
        dictionary.write(&mut out);
        assert_eq!(out[8..16], 2u64.to_le_bytes());
        assert_eq!(out[16..20], [1, b'a', 1, b'b']);
        assert_eq!(out[28..], [0, 1, 0, 0]);
    }

    #[test]
    fn indexes_are_as_wide_as_the_keys_need() {
        for (count, bytes) in [(256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let mut dictionary = Dictionary::default();
            dictionary.begin();
            let mut keys = 0;
            for i in 0..count {
                let value = i.to_string();
                keys += 1 + value.len();
                dictionary.add_owned(&value);
            }
            let mut out = Vec::new();
            dictionary.write(&mut out);
            assert_eq!(out.len(), 24 + keys + count * bytes);
        }
    }

    #[test]
    fn the_schema_has_every_column_and_every_enum() {
        let schema = include_str!("schema/0001_events.sql");
        for column in COLUMNS.iter() {
            assert!(schema.contains(&format!("\n    {column} ")), "{column}");
        }
        for field in FIELDS.iter().chain(&["previous_hash", "hash"]) {
            assert!(schema.contains(&format!("\n    {field} ")), "{field}");
        }
        let types = Enums::new();
        for kind in
            [&types.kind, &types.effects, &types.relations, &types.disposition, &types.source, &types.vantage]
        {
            assert!(schema.contains(kind.as_str()), "{kind}");
        }
    }
}
