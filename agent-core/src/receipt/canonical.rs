//! Event -> canonical bytes: the fields in the contract's order, encoded as ClickHouse's RowBinary.

use crate::event::{CaptureSource, CaptureVantage, Disposition, Event, EventKind};
use crate::sql::{Access, Effect};

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
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, value: &str) {
    varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

fn nullable<const N: usize>(out: &mut Vec<u8>, value: Option<[u8; N]>) {
    match value {
        None => out.push(1),
        Some(bytes) => {
            out.push(0);
            out.extend_from_slice(&bytes);
        }
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    varint(out, items.len() as u64);
    for item in items {
        each(out, item);
    }
}

/// Appends the canonical bytes of an event.
pub fn canonical(e: &Event, out: &mut Vec<u8>) {
    // Taken apart by name: a field that is added to the event does not compile until it is added here.
    let Event {
        event_id,
        time,
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
        previous_hash: _,
        hash: _,
    } = e;
    out.extend_from_slice(&((event_id >> 64) as u64).to_le_bytes());
    out.extend_from_slice(&(*event_id as u64).to_le_bytes());
    out.extend_from_slice(&(*time).min(LATEST).to_le_bytes());
    out.push(event_kind.code());
    text(out, agent_id);
    text(out, host_name);
    out.extend_from_slice(&session_id.to_le_bytes());
    for value in [db_system_name, db_namespace, db_user, db_application_name, db_query_text, batch_id] {
        text(out, value);
    }
    out.extend_from_slice(&batch_index.to_le_bytes());
    for value in [db_query_summary, db_operation_name, db_collection_name, db_query_fingerprint] {
        text(out, value);
    }
    list(out, db_query_parameters, |out, value| text(out, value));
    list(out, statement_effects, |out, effect| out.push(effect.code()));
    list(out, statement_relations, |out, relation| {
        text(out, &relation.name);
        out.push(relation.access.code());
    });
    out.push(u8::from(*statement_unbounded));
    out.push(u8::from(*statement_complete));
    list(out, data_classes, |out, found| {
        text(out, &found.class);
        text(out, &found.column);
    });
    text(out, db_response_status_code);
    text(out, error_type);
    for value in [db_response_returned_rows, db_response_affected_rows, duration_ns, first_byte_ns] {
        nullable(out, value.map(u64::to_le_bytes));
    }
    text(out, client_address);
    out.extend_from_slice(&client_port.to_le_bytes());
    text(out, server_address);
    out.extend_from_slice(&server_port.to_le_bytes());
    text(out, network_transport);
    out.push(u8::from(*network_tls));
    nullable(out, process_pid.map(u32::to_le_bytes));
    nullable(out, process_start_ns.map(u64::to_le_bytes));
    for value in [process_executable_path, process_command_line, process_owner] {
        text(out, value);
    }
    nullable(out, process_auid.map(u32::to_le_bytes));
    list(out, process_ancestry, |out, value| text(out, value));
    for value in [
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
    ] {
        text(out, value);
    }
    list(out, identity_claims, |out, claim| {
        text(out, &claim.key);
        text(out, &claim.value);
        text(out, &claim.source);
        out.push(claim.confidence);
    });
    out.push(u8::from(*identity_conflict));
    for value in [trace_id, span_id, policy_rule, policy_version, policy_mode] {
        text(out, value);
    }
    out.push(disposition.code());
    for value in [approval_id, approval_state, approval_actor] {
        text(out, value);
    }
    out.push(capture_source.code());
    out.push(capture_vantage.code());
    out.push(u8::from(*capture_truncated));
    for value in [capture_lost_before, capture_bytes, sequence] {
        out.extend_from_slice(&value.to_le_bytes());
    }
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
    /// A count and so many texts.
    Texts,
    /// A count and so many items: texts, then bytes.
    Tuples { texts: usize, bytes: usize },
}

use Shape::{Fixed, Nullable, Text, Texts, Tuples};

/// The fields of the canonical bytes, in order. Names are those of the event and of the ClickHouse columns.
const SHAPES: [(&str, Shape); 69] = [
    ("event_id", Fixed(16)),
    ("time", Fixed(8)),
    ("event_kind", Fixed(1)),
    ("agent_id", Text),
    ("host_name", Text),
    ("session_id", Fixed(8)),
    ("db_system_name", Text),
    ("db_namespace", Text),
    ("db_user", Text),
    ("db_application_name", Text),
    ("db_query_text", Text),
    ("batch_id", Text),
    ("batch_index", Fixed(4)),
    ("db_query_summary", Text),
    ("db_operation_name", Text),
    ("db_collection_name", Text),
    ("db_query_fingerprint", Text),
    ("db_query_parameters", Texts),
    ("statement_effects", Tuples { texts: 0, bytes: 1 }),
    ("statement_relations", Tuples { texts: 1, bytes: 1 }),
    ("statement_unbounded", Fixed(1)),
    ("statement_complete", Fixed(1)),
    ("data_classes", Tuples { texts: 2, bytes: 0 }),
    ("db_response_status_code", Text),
    ("error_type", Text),
    ("db_response_returned_rows", Nullable(8)),
    ("db_response_affected_rows", Nullable(8)),
    ("duration_ns", Nullable(8)),
    ("first_byte_ns", Nullable(8)),
    ("client_address", Text),
    ("client_port", Fixed(2)),
    ("server_address", Text),
    ("server_port", Fixed(2)),
    ("network_transport", Text),
    ("network_tls", Fixed(1)),
    ("process_pid", Nullable(4)),
    ("process_start_ns", Nullable(8)),
    ("process_executable_path", Text),
    ("process_command_line", Text),
    ("process_owner", Text),
    ("process_auid", Nullable(4)),
    ("process_ancestry", Texts),
    ("container_id", Text),
    ("container_runtime", Text),
    ("k8s_namespace_name", Text),
    ("k8s_pod_name", Text),
    ("k8s_pod_uid", Text),
    ("k8s_workload_kind", Text),
    ("k8s_workload_name", Text),
    ("k8s_service_account_name", Text),
    ("ai_agent_name", Text),
    ("identity_principal", Text),
    ("identity_claims", Tuples { texts: 3, bytes: 1 }),
    ("identity_conflict", Fixed(1)),
    ("trace_id", Text),
    ("span_id", Text),
    ("policy_rule", Text),
    ("policy_version", Text),
    ("policy_mode", Text),
    ("disposition", Fixed(1)),
    ("approval_id", Text),
    ("approval_state", Text),
    ("approval_actor", Text),
    ("capture_source", Fixed(1)),
    ("capture_vantage", Fixed(1)),
    ("capture_truncated", Fixed(1)),
    ("capture_lost_before", Fixed(8)),
    ("capture_bytes", Fixed(8)),
    ("sequence", Fixed(8)),
];

/// Names of the fields in the canonical bytes, in order.
pub static FIELDS: [&str; SHAPES.len()] = {
    let mut names = [""; SHAPES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = SHAPES[i].0;
        i += 1;
    }
    names
};

/// Length of the canonical bytes at the start of `bytes`; none where they are not whole.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    for (_, shape) in SHAPES {
        match shape {
            Fixed(n) => skip(&mut rest, n)?,
            Text => skip_text(&mut rest)?,
            Nullable(n) => {
                let null = *rest.first()?;
                skip(&mut rest, if null == 0 { 1 + n } else { 1 })?;
            }
            Texts => {
                for _ in 0..count(&mut rest)? {
                    skip_text(&mut rest)?;
                }
            }
            Tuples { texts, bytes } => {
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
    use crate::identity::Claim;
    use crate::sql::Relation;

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
