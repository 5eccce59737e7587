//! Event -> canonical bytes: the fields in the contract's order, encoded as ClickHouse's RowBinary.

use std::sync::Arc;

use crate::event::{CaptureSource, CaptureVantage, DataClass, Disposition, Event, EventKind};
use crate::identity::Claim;
use crate::sql::{Access, Effect, Relation};

/// `DateTime64(9)` counts nanoseconds in an `Int64`.
const LATEST: u64 = i64::MAX as u64;

/// Brings an event into the form in which every store keeps it unaltered.
pub fn normalize(event: &mut Event) {
    event.time = event.time.min(LATEST);
}

/// A number for each member, stable for good: stored and hashed. From 1, in the contract's order.
pub trait Code: Copy {
    /// Names in the contract's order, as they are written.
    const NAMES: &'static [&'static str];
    /// Its place in [`Self::NAMES`], from 1.
    fn code(self) -> u8;
    /// The member at a place.
    fn of_code(code: u8) -> Option<Self>;
}

macro_rules! codes {
    ($type:ty: $($member:ident $name:literal)*) => {
        impl Code for $type {
            const NAMES: &'static [&'static str] = &[$($name),*];
            fn code(self) -> u8 {
                #[derive(Clone, Copy)]
                #[repr(u8)]
                enum Place { Zero, $($member),* }
                let _ = Place::Zero;
                match self { $(Self::$member => Place::$member as u8),* }
            }
            fn of_code(code: u8) -> Option<Self> {
                const MEMBERS: &[$type] = &[$(<$type>::$member),*];
                MEMBERS.get(usize::from(code).checked_sub(1)?).copied()
            }
        }
    };
}

codes!(EventKind: Session "session" Statement "statement" Decision "decision" Approval "approval" Loss "loss"
    Blind "blind" Config "config");
codes!(Disposition: Allowed "allowed" Alerted "alerted" Held "held" Approved "approved" Denied "denied"
    Blocked "blocked" Killed "killed" Masked "masked");
codes!(CaptureSource: Packet "packet" Tls "tls" Unix "unix" Pcap "pcap");
codes!(CaptureVantage: Client "client" Server "server");
codes!(Access: Read "read" Write "write");
codes!(Effect: Read "read" Insert "insert" Update "update" Delete "delete" Truncate "truncate" Create "create"
    Alter "alter" Drop "drop" Grant "grant" Revoke "revoke" CopyIn "copy_in" CopyOut "copy_out" Call "call"
    Execute "execute" Lock "lock" Session "session" Admin "admin" File "file" Program "program"
    Replicate "replicate");

/// Appends LEB128.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How a field lies in the canonical bytes.
#[derive(Clone, Copy)]
enum Shape {
    /// So many bytes.
    Fixed(usize),
    /// A length and so many bytes.
    Text,
    /// One byte, and so many more where it is 0.
    Nullable(usize),
    /// A count and so many items: texts, then bytes.
    List { texts: usize, bytes: usize },
}

use Shape::{Fixed, List, Nullable, Text};

/// A type of the event's fields.
trait Field {
    const SHAPE: Shape;
    fn write(&self, out: &mut Vec<u8>);
    /// Takes one off the front; none where the bytes are not one.
    fn read(rest: &mut &[u8]) -> Option<Self>
    where
        Self: Sized;
}

/// A type of items of lists.
trait Item {
    const TEXTS: usize;
    const BYTES: usize;
    fn append(&self, out: &mut Vec<u8>);
    fn take(rest: &mut &[u8]) -> Option<Self>
    where
        Self: Sized;
}

macro_rules! numbers {
    ($($type:ty)*) => { $(
        impl Field for $type {
            const SHAPE: Shape = Fixed(size_of::<Self>());
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(rest: &mut &[u8]) -> Option<Self> {
                let (bytes, after) = rest.split_first_chunk()?;
                *rest = after;
                Some(Self::from_le_bytes(*bytes))
            }
        }
        impl Field for Option<$type> {
            const SHAPE: Shape = Nullable(size_of::<$type>());
            fn write(&self, out: &mut Vec<u8>) {
                out.push(u8::from(self.is_none()));
                if let Some(value) = self {
                    value.write(out);
                }
            }
            fn read(rest: &mut &[u8]) -> Option<Self> {
                if bool::read(rest)? { Some(None) } else { <$type>::read(rest).map(Some) }
            }
        }
    )* };
}

numbers!(u16 u32 u64);

/// A UUID: ClickHouse keeps its halves, the high one first.
impl Field for u128 {
    const SHAPE: Shape = Fixed(16);
    fn write(&self, out: &mut Vec<u8>) {
        ((self >> 64) as u64).write(out);
        (*self as u64).write(out);
    }
    fn read(rest: &mut &[u8]) -> Option<Self> {
        Some(Self::from(u64::read(rest)?) << 64 | Self::from(u64::read(rest)?))
    }
}

impl Field for bool {
    const SHAPE: Shape = Fixed(1);
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn read(rest: &mut &[u8]) -> Option<Self> {
        match byte(rest)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Code> Field for T {
    const SHAPE: Shape = Fixed(1);
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.code());
    }
    fn read(rest: &mut &[u8]) -> Option<Self> {
        Self::of_code(byte(rest)?)
    }
}

impl Field for Arc<str> {
    const SHAPE: Shape = Text;
    fn write(&self, out: &mut Vec<u8>) {
        varint(out, self.len() as u64);
        out.extend_from_slice(self.as_bytes());
    }
    fn read(rest: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(count(rest)?).ok()?;
        let (text, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(std::str::from_utf8(text).ok()?.into())
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (&byte, after) = rest.split_first()?;
    *rest = after;
    Some(byte)
}

/// Grows as items are found, whatever number of them is claimed.
fn items<T: Item>(rest: &mut &[u8]) -> Option<Vec<T>> {
    let mut found = Vec::new();
    for _ in 0..count(rest)? {
        found.push(T::take(rest)?);
    }
    Some(found)
}

fn list<T: Item>(items: &[T], out: &mut Vec<u8>) {
    varint(out, items.len() as u64);
    for item in items {
        item.append(out);
    }
}

impl<T: Item> Field for Arc<[T]> {
    const SHAPE: Shape = List { texts: T::TEXTS, bytes: T::BYTES };
    fn write(&self, out: &mut Vec<u8>) {
        list(self, out);
    }
    fn read(rest: &mut &[u8]) -> Option<Self> {
        items(rest).map(Self::from)
    }
}

impl<T: Item> Field for Vec<T> {
    const SHAPE: Shape = List { texts: T::TEXTS, bytes: T::BYTES };
    fn write(&self, out: &mut Vec<u8>) {
        list(self, out);
    }
    fn read(rest: &mut &[u8]) -> Option<Self> {
        items(rest)
    }
}

impl Item for Arc<str> {
    const TEXTS: usize = 1;
    const BYTES: usize = 0;
    fn append(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
    fn take(rest: &mut &[u8]) -> Option<Self> {
        Self::read(rest)
    }
}

impl Item for Effect {
    const TEXTS: usize = 0;
    const BYTES: usize = 1;
    fn append(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
    fn take(rest: &mut &[u8]) -> Option<Self> {
        Self::read(rest)
    }
}

impl Item for Relation {
    const TEXTS: usize = 1;
    const BYTES: usize = 1;
    fn append(&self, out: &mut Vec<u8>) {
        self.name.write(out);
        self.access.write(out);
    }
    fn take(rest: &mut &[u8]) -> Option<Self> {
        Some(Self { name: Field::read(rest)?, access: Field::read(rest)? })
    }
}

impl Item for DataClass {
    const TEXTS: usize = 2;
    const BYTES: usize = 0;
    fn append(&self, out: &mut Vec<u8>) {
        self.class.write(out);
        self.column.write(out);
    }
    fn take(rest: &mut &[u8]) -> Option<Self> {
        Some(Self { class: Field::read(rest)?, column: Field::read(rest)? })
    }
}

impl Item for Claim {
    const TEXTS: usize = 3;
    const BYTES: usize = 1;
    fn append(&self, out: &mut Vec<u8>) {
        for text in [&self.key, &self.value, &self.source] {
            text.write(out);
        }
        out.push(self.confidence);
    }
    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (key, value, source) = (Field::read(rest)?, Field::read(rest)?, Field::read(rest)?);
        Some(Self { key, value, source, confidence: byte(rest)? })
    }
}

macro_rules! fields {
    ($($field:ident $(= $form:expr)?),* $(,)?) => {
        /// Appends the canonical bytes of an event.
        pub fn canonical(event: &Event, out: &mut Vec<u8>) {
            // Taken apart by name: a field that is added to the event does not compile until it is added here.
            let Event { $($field,)* previous_hash: _, hash: _ } = event;
            $($(let $field = &$form;)? $field.write(out);)*
        }

        /// The event that gave these canonical bytes, its hashes left out; none where they are not those of one.
        pub fn decode(bytes: &[u8]) -> Option<Event> {
            let rest = &mut &*bytes;
            let event = Event {
                $($field: Field::read(rest)?,)*
                previous_hash: [0; 32],
                hash: [0; 32],
            };
            rest.is_empty().then_some(event)
        }

        /// Names of the fields in the canonical bytes, in order: those of the event and of the ClickHouse columns.
        pub static FIELDS: [&str; SHAPES.len()] = [$(stringify!($field)),*];

        /// How many there are.
        pub(super) const COUNT: usize = SHAPES.len();

        const SHAPES: &[Shape] = &[$(shape(|event| &event.$field)),*];
    };
}

const fn shape<T: Field>(_: fn(&Event) -> &T) -> Shape {
    T::SHAPE
}

// The contract's order: every receipt ever written is hashed in it.
fields! {
    event_id,
    time = (*time).min(LATEST),
    event_kind,
    agent_id,
    host_name,
    session_id,
    db_system_name,
    db_namespace,
    db_user,
    db_application_name,
    db_query_text,
    batch_id,
    batch_index,
    db_query_summary,
    db_operation_name,
    db_collection_name,
    db_query_fingerprint,
    db_query_parameters,
    statement_effects,
    statement_relations,
    statement_unbounded,
    statement_complete,
    data_classes,
    db_response_status_code,
    error_type,
    db_response_returned_rows,
    db_response_affected_rows,
    duration_ns,
    first_byte_ns,
    client_address,
    client_port,
    server_address,
    server_port,
    network_transport,
    network_tls,
    process_pid,
    process_start_ns,
    process_executable_path,
    process_command_line,
    process_owner,
    process_auid,
    process_ancestry,
    container_id,
    container_runtime,
    k8s_namespace_name,
    k8s_pod_name,
    k8s_pod_uid,
    k8s_workload_kind,
    k8s_workload_name,
    k8s_service_account_name,
    ai_agent_name,
    identity_principal,
    identity_claims,
    identity_conflict,
    trace_id,
    span_id,
    policy_rule,
    policy_version,
    policy_mode,
    disposition,
    approval_id,
    approval_state,
    approval_actor,
    capture_source,
    capture_vantage,
    capture_truncated,
    capture_lost_before,
    capture_bytes,
    sequence,
}

/// Length of the canonical bytes at the start of `bytes`; none where they are not whole.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    for shape in SHAPES {
        match *shape {
            Fixed(n) => skip(&mut rest, n)?,
            Text => skip_text(&mut rest)?,
            Nullable(n) => {
                let null = *rest.first()?;
                skip(&mut rest, if null == 0 { 1 + n } else { 1 })?;
            }
            List { texts, bytes } => {
                for _ in 0..count(&mut rest)? {
                    for _ in 0..texts {
                        skip_text(&mut rest)?;
                    }
                    skip(&mut rest, bytes)?;
                }
            }
        }
    }
    Some(bytes.len() - rest.len())
}

fn skip(rest: &mut &[u8], n: usize) -> Option<()> {
    *rest = rest.get(n..)?;
    Some(())
}

fn skip_text(rest: &mut &[u8]) -> Option<()> {
    let n = count(rest)?;
    skip(rest, usize::try_from(n).ok()?)
}

fn count(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (&b, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Event {
        Event {
            event_id: u128::MAX / 3,
            db_query_text: "x".repeat(300).into(),
            db_query_parameters: vec!["1".into(), String::new().into()],
            statement_effects: [Effect::Read, Effect::Lock].into(),
            statement_relations: [Relation { name: "public.orders".into(), access: Access::Write }].into(),
            duration_ns: Some(7),
            process_pid: Some(1),
            process_ancestry: ["sh(1)".into()].into(),
            identity_claims: [Claim {
                key: "db_user".into(),
                value: "app".into(),
                source: "wire".into(),
                confidence: 60,
            }]
            .into(),
            sequence: 9,
            ..Event::default()
        }
    }

    #[test]
    fn the_shapes_are_those_of_the_bytes() {
        for event in [Event::default(), full()] {
            let mut bytes = Vec::new();
            canonical(&event, &mut bytes);
            assert_eq!(length(&bytes), Some(bytes.len()));
            for cut in 0..bytes.len() {
                assert_eq!(length(&bytes[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn bytes_give_their_event_back() {
        for event in [Event::default(), full()] {
            let mut bytes = Vec::new();
            canonical(&event, &mut bytes);
            assert!(decode(&bytes).unwrap() == event);
            bytes.push(0);
            assert!(decode(&bytes).is_none(), "something follows");
            bytes.pop();
            for at in 0..bytes.len() {
                // Whatever is changed: never a panic, and never the same event.
                bytes[at] ^= 0xff;
                assert!(decode(&bytes).is_none_or(|other| other != event), "byte {at}");
                bytes[at] ^= 0xff;
            }
        }
    }

    /// Receipts that were written long ago must verify for good.
    #[test]
    fn the_bytes_never_change() {
        let mut bytes = Vec::new();
        canonical(&full(), &mut bytes);
        let found = DataClass { class: "card".into(), column: "orders.pan".into() };
        let later = Event { time: u64::MAX, data_classes: [found].into(), ..full() };
        canonical(&later, &mut bytes);
        let hash: String =
            crate::receipt::sha256(&[&bytes]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "55454716d2021130b1c6f31e2c927a676bb3dbfa842b9f76da851c2aaee37b6e");
    }

    #[test]
    fn every_field_of_the_event_is_covered() {
        let json = serde_json::to_value(Event::default()).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.retain(|name| !["previous_hash", "hash"].contains(name));
        let mut fields = FIELDS.to_vec();
        names.sort_unstable();
        fields.sort_unstable();
        assert_eq!(names, fields);
    }

    #[test]
    fn claimed_counts_are_not_believed() {
        let mut bytes = Vec::new();
        canonical(&Event::default(), &mut bytes);
        // The length of agent_id becomes a huge one.
        bytes[25] = 0xff;
        assert_eq!(length(&bytes), None);
    }
}
