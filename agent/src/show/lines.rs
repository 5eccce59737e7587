//! An event -> one JSON object on one line, every field of the contract.
//!
//! Most of an event says again what the one before it said: its session, what its text does, what the policies think
//! of it. Such a part is written once and remembered for as long as events hold the very same strings. The rest is
//! written by hand: a general serializer spends most of its time on field names that are known to need no escape.

use std::hash::Hash;
use std::sync::Arc;

use agent_core::event::{self, Disposition, Event};
use agent_core::identity::Claim;
use agent_core::sql::{Effect, Relation};
use hashbrown::HashMap;

use super::json::Value;

/// Parts of one kind that are remembered at a time.
const KNOWN_MAX: usize = 16 << 10;

/// Writes events as lines.
#[derive(Default)]
pub struct Lines {
    sessions: Known<u64, OfSession>,
    texts: Known<usize, OfText>,
    verdicts: Known<usize, OfVerdict>,
}

/// Appends `"name":value` for each field, each behind a comma.
macro_rules! fields {
    ($out:expr, $event:expr, $($field:ident),+ $(,)?) => {
        $(
            $out.extend_from_slice(concat!(",\"", stringify!($field), "\":").as_bytes());
            $event.$field.json($out);
        )+
    };
}

impl Lines {
    /// Appends the event and a newline.
    pub fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        let session = self.sessions.pieces(event.session_id, event);
        let text = self.texts.pieces(event.db_query_fingerprint.as_ptr().addr(), event);
        let verdict = self.verdicts.pieces(event.policy_rule.as_ptr().addr(), event);
        out.extend_from_slice(b"{\"event_id\":\"");
        out.extend_from_slice(&event::uuid(event.event_id));
        out.extend_from_slice(b"\",\"time\":\"");
        out.extend_from_slice(&event::clock(event.time));
        out.push(b'"');
        fields!(out, event, event_kind);
        out.extend_from_slice(&session[0]);
        out.extend_from_slice(b",\"session_id\":\"");
        event.session_id.json(out);
        out.push(b'"');
        out.extend_from_slice(&session[1]);
        fields!(out, event, db_query_text, batch_id, batch_index);
        out.extend_from_slice(&text[0]);
        fields!(out, event, db_query_parameters);
        out.extend_from_slice(&text[1]);
        fields!(
            out,
            event,
            statement_complete,
            data_classes,
            db_response_status_code,
            error_type,
            db_response_returned_rows,
            db_response_affected_rows,
            duration_ns,
            first_byte_ns,
        );
        out.extend_from_slice(&session[2]);
        fields!(out, event, trace_id, span_id);
        out.extend_from_slice(&verdict[0]);
        fields!(
            out,
            event,
            capture_source,
            capture_vantage,
            capture_truncated,
            capture_lost_before,
            capture_bytes,
            sequence,
        );
        out.extend_from_slice(b",\"previous_hash\":\"");
        out.extend_from_slice(&event::hex(&event.previous_hash));
        out.extend_from_slice(b"\",\"hash\":\"");
        out.extend_from_slice(&event::hex(&event.hash));
        out.extend_from_slice(b"\"}\n");
    }
}

/// A part of the event that many events have in common.
trait Part {
    /// The part as this event has it, and its JSON: one piece for each run of neighbouring fields.
    fn of(event: &Event) -> (Self, Vec<Vec<u8>>)
    where
        Self: Sized;
    /// True where this event has the same part.
    fn is_of(&self, event: &Event) -> bool;
}

/// The parts seen lately.
struct Known<K, P>(HashMap<K, (P, Vec<Vec<u8>>)>);

impl<K, P> Default for Known<K, P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, P: Part> Known<K, P> {
    /// The JSON of this event's part. `key` tells most parts apart; whether it is the same part is seen by its values.
    fn pieces(&mut self, key: K, event: &Event) -> &[Vec<u8>] {
        if self.0.len() > KNOWN_MAX {
            self.0.clear();
        }
        let (part, pieces) = self.0.entry(key).or_insert_with(|| P::of(event));
        if !part.is_of(event) {
            (*part, *pieces) = P::of(event);
        }
        pieces
    }
}

/// Defines a part: its runs of neighbouring fields, in the contract's order. It holds on to its strings, so that no
/// other string can come to lie where they are.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident: $({ $($field:ident: $type:ty),+ $(,)? }),+) => {
        $(#[$doc])*
        struct $name {
            $($($field: $type,)+)+
        }

        impl Part for $name {
            fn of(event: &Event) -> (Self, Vec<Vec<u8>>) {
                let part = Self { $($($field: event.$field.clone(),)+)+ };
                let pieces = [$({
                    let mut out = Vec::new();
                    fields!(&mut out, event, $($field),+);
                    out
                }),+];
                (part, pieces.into())
            }

            fn is_of(&self, event: &Event) -> bool {
                $($(self.$field.is_same(&event.$field) &&)+)+ true
            }
        }
    };
}

part! {
    /// What a session decides.
    OfSession: {
        agent_id: Arc<str>,
        host_name: Arc<str>,
    }, {
        db_system_name: Arc<str>,
        db_namespace: Arc<str>,
        db_user: Arc<str>,
        db_application_name: Arc<str>,
    }, {
        client_address: Arc<str>,
        client_port: u16,
        server_address: Arc<str>,
        server_port: u16,
        network_transport: Arc<str>,
        network_tls: bool,
        process_pid: Option<u32>,
        process_start_ns: Option<u64>,
        process_executable_path: Arc<str>,
        process_command_line: Arc<str>,
        process_owner: Arc<str>,
        process_auid: Option<u32>,
        process_ancestry: Arc<[Arc<str>]>,
        container_id: Arc<str>,
        container_runtime: Arc<str>,
        k8s_namespace_name: Arc<str>,
        k8s_pod_name: Arc<str>,
        k8s_pod_uid: Arc<str>,
        k8s_workload_kind: Arc<str>,
        k8s_workload_name: Arc<str>,
        k8s_service_account_name: Arc<str>,
        ai_agent_name: Arc<str>,
        identity_principal: Arc<str>,
        identity_claims: Arc<[Claim]>,
        identity_conflict: bool,
    }
}

part! {
    /// What a text does.
    OfText: {
        db_query_summary: Arc<str>,
        db_operation_name: Arc<str>,
        db_collection_name: Arc<str>,
        db_query_fingerprint: Arc<str>,
    }, {
        statement_effects: Arc<[Effect]>,
        statement_relations: Arc<[Relation]>,
        statement_unbounded: bool,
    }
}

part! {
    /// What was decided.
    OfVerdict: {
        policy_rule: Arc<str>,
        policy_version: Arc<str>,
        policy_mode: Arc<str>,
        disposition: Disposition,
        approval_id: Arc<str>,
        approval_state: Arc<str>,
        approval_actor: Arc<str>,
    }
}

#[cfg(test)]
mod tests {
    use agent_core::event::{CaptureSource, CaptureVantage, DataClass, EventKind};
    use agent_core::sql::Access;

    use super::*;

    /// The oracle is serde_json: the bytes must be those that it writes.
    fn check(lines: &mut Lines, event: &Event) {
        let mut out = Vec::new();
        lines.write(event, &mut out);
        let mut expected = serde_json::to_vec(event).unwrap();
        expected.push(b'\n');
        assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(expected).unwrap());
    }

    const NASTY: &str =
        "a\"b\\c\u{0}\u{1f}\n\r\t\u{7f}ü\u{2028}😀 and more than one block, \"quoted\" at its end\"";

    fn full() -> Event {
        Event {
            event_id: u128::MAX >> 1,
            time: 1_795_262_400_000_000_001,
            session_id: u64::MAX,
            db_query_text: NASTY.into(),
            db_query_parameters: vec!["1".into(), NASTY.into()],
            statement_effects: [Effect::CopyIn, Effect::Read].into(),
            statement_relations: [Access::Read, Access::Write]
                .map(|access| Relation { name: NASTY.into(), access })
                .into(),
            data_classes: [DataClass { class: "card".into(), column: "n".into() }].into(),
            db_response_returned_rows: Some(u64::MAX),
            process_pid: Some(7),
            process_ancestry: ["sh(1)".into(), "init(0)".into()].into(),
            identity_claims: [Claim {
                key: "k".into(),
                value: NASTY.into(),
                source: "proc".into(),
                confidence: 95,
            }]
            .into(),
            hash: [0x5a; 32],
            ..Event::default()
        }
    }

    #[test]
    fn lines_are_what_serde_json_writes() {
        use Disposition::{Alerted, Allowed, Approved, Blocked, Denied, Held, Killed, Masked};
        use EventKind::{Approval, Blind, Config, Decision, Loss, Session, Statement};
        let mut lines = Lines::default();
        check(&mut lines, &Event::default());
        check(&mut lines, &full());
        for disposition in [Allowed, Alerted, Held, Approved, Denied, Blocked, Killed, Masked] {
            check(&mut lines, &Event { disposition, ..full() });
        }
        for event_kind in [Session, Statement, Decision, Approval, Loss, Blind, Config] {
            check(&mut lines, &Event { event_kind, ..full() });
        }
        for capture_source in
            [CaptureSource::Packet, CaptureSource::Tls, CaptureSource::Unix, CaptureSource::Pcap]
        {
            let capture_vantage = CaptureVantage::Server;
            check(&mut lines, &Event { capture_source, capture_vantage, ..full() });
        }
    }

    /// Each change of a field must show, whatever was remembered of the events before.
    #[test]
    fn what_is_remembered_is_never_out_of_date() {
        let mut lines = Lines::default();
        let first = full();
        let mut event = first.clone();
        check(&mut lines, &first);
        let changes: [fn(&mut Event); 12] = [
            |e| e.host_name = "other".into(),
            |e| e.db_user = "eve".into(),
            |e| e.network_tls = true,
            |e| e.process_pid = None,
            |e| e.identity_claims = Arc::default(),
            |e| e.identity_conflict = true,
            |e| e.db_query_summary = "SELECT t".into(),
            |e| e.db_query_fingerprint = "0123456789abcdef".into(),
            |e| e.statement_unbounded = true,
            |e| e.policy_rule = "rule".into(),
            |e| e.disposition = Disposition::Killed,
            |e| e.session_id = 1,
        ];
        for change in changes {
            change(&mut event);
            check(&mut lines, &event);
            check(&mut lines, &first);
        }
    }

    /// A string that is gone may leave its place to another one.
    #[test]
    fn strings_are_not_taken_for_others_at_the_same_place() {
        let mut lines = Lines::default();
        for number in 0..KNOWN_MAX + 100 {
            let event = Event {
                db_user: format!("user{number}").into(),
                db_query_fingerprint: format!("{number:016x}").into(),
                ..Event::default()
            };
            check(&mut lines, &event);
        }
    }
}
