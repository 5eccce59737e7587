//! Everything known about one occurrence, as one flat record. The field names are the contract: JSON keys,
//! ClickHouse columns and policy predicates are spelled the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::Claim;
use crate::sql::{Effect, Relation};

/// What an event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum EventKind {
    Session,
    #[default]
    Statement,
    Decision,
    Approval,
    Loss,
    Blind,
    Config,
}

/// What was done about a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum Disposition {
    #[default]
    Allowed,
    Alerted,
    Held,
    Approved,
    Denied,
    Blocked,
    Killed,
    Masked,
}

/// Where the bytes were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum CaptureSource {
    #[default]
    Packet,
    Tls,
    Unix,
    Pcap,
}

/// At which end of the connection the bytes were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum CaptureVantage {
    #[default]
    Client,
    Server,
}

/// Sensitive data that a statement touches: the class and the column, never the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the contract's")]
pub struct DataClass {
    pub class: Arc<str>,
    pub column: Arc<str>,
}

/// The event of the contract, one field for one column. Unknown is null or empty, never invented.
/// Strings that repeat are shared; text and parameters are already redacted when they get here.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "each field is described where the contract is: README and the ClickHouse schema"
)]
pub struct Event {
    /// UUIDv7, hyphenated in JSON.
    #[serde(with = "uuid_text")]
    pub event_id: u128,
    /// Nanoseconds since the epoch, UTC; RFC 3339 with nine digits in JSON.
    #[serde(with = "time_text")]
    pub time: u64,
    pub event_kind: EventKind,
    pub agent_id: Arc<str>,
    pub host_name: Arc<str>,
    /// A decimal string in JSON: it does not fit a double.
    #[serde(with = "u64_text")]
    pub session_id: u64,
    pub db_system_name: Arc<str>,
    pub db_namespace: Arc<str>,
    pub db_user: Arc<str>,
    pub db_application_name: Arc<str>,
    pub db_query_text: Arc<str>,
    pub batch_id: Arc<str>,
    pub batch_index: u32,
    pub db_query_summary: Arc<str>,
    pub db_operation_name: Arc<str>,
    pub db_collection_name: Arc<str>,
    pub db_query_fingerprint: Arc<str>,
    pub db_query_parameters: Vec<Arc<str>>,
    pub statement_effects: Arc<[Effect]>,
    pub statement_relations: Arc<[Relation]>,
    pub statement_unbounded: bool,
    pub statement_complete: bool,
    pub data_classes: Arc<[DataClass]>,
    pub db_response_status_code: Arc<str>,
    pub error_type: Arc<str>,
    pub db_response_returned_rows: Option<u64>,
    pub db_response_affected_rows: Option<u64>,
    pub duration_ns: Option<u64>,
    pub first_byte_ns: Option<u64>,
    pub client_address: Arc<str>,
    pub client_port: u16,
    pub server_address: Arc<str>,
    pub server_port: u16,
    pub network_transport: Arc<str>,
    pub network_tls: bool,
    pub process_pid: Option<u32>,
    pub process_start_ns: Option<u64>,
    pub process_executable_path: Arc<str>,
    pub process_command_line: Arc<str>,
    pub process_owner: Arc<str>,
    pub process_auid: Option<u32>,
    pub process_ancestry: Arc<[Arc<str>]>,
    pub container_id: Arc<str>,
    pub container_runtime: Arc<str>,
    pub k8s_namespace_name: Arc<str>,
    pub k8s_pod_name: Arc<str>,
    pub k8s_pod_uid: Arc<str>,
    pub k8s_workload_kind: Arc<str>,
    pub k8s_workload_name: Arc<str>,
    pub k8s_service_account_name: Arc<str>,
    pub ai_agent_name: Arc<str>,
    pub identity_principal: Arc<str>,
    pub identity_claims: Arc<[Claim]>,
    pub identity_conflict: bool,
    pub trace_id: Arc<str>,
    pub span_id: Arc<str>,
    pub policy_rule: Arc<str>,
    pub policy_version: Arc<str>,
    pub policy_mode: Arc<str>,
    pub disposition: Disposition,
    pub approval_id: Arc<str>,
    pub approval_state: Arc<str>,
    pub approval_actor: Arc<str>,
    pub capture_source: CaptureSource,
    pub capture_vantage: CaptureVantage,
    pub capture_truncated: bool,
    pub capture_lost_before: u64,
    pub capture_bytes: u64,
    pub sequence: u64,
    /// Lowercase hex of 32 bytes in JSON; all zero where the event is not part of a chain.
    #[serde(with = "hash_text")]
    pub previous_hash: [u8; 32],
    #[serde(with = "hash_text")]
    pub hash: [u8; 32],
}

mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(&super::uuid(*value)).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        let text = String::deserialize(d)?.replace('-', "");
        u128::from_str_radix(&text, 16).map_err(|_| D::Error::custom("event_id is not a UUID"))
    }
}

mod u64_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it serializes by reference")]
    pub(super) fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(itoa::Buffer::new().format(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        String::deserialize(d)?.parse().map_err(|_| D::Error::custom("session_id is not a number"))
    }
}

mod hash_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(&super::hex(value)).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        let mut out = [0u8; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(D::Error::custom("a hash is 64 hexadecimal digits"));
        }
        for (i, b) in out.iter_mut().enumerate() {
            *b = u8::from_str_radix(&text[2 * i..2 * i + 2], 16)
                .map_err(|_| D::Error::custom("a hash is 64 hexadecimal digits"))?;
        }
        Ok(out)
    }
}

pub(crate) mod time_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it serializes by reference")]
    pub(crate) fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(&super::clock(*value)).unwrap_or_default())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        super::parse_rfc3339(&String::deserialize(d)?)
            .ok_or_else(|| D::Error::custom("time is not RFC 3339 in UTC"))
    }
}

/// The text of an id: `01930000-0000-7000-8000-000000000001`.
pub fn uuid(id: u128) -> [u8; 36] {
    let mut out = [b'-'; 36];
    let (mut bytes, mut at) = (id.to_be_bytes().into_iter(), 0);
    for group in [4, 2, 2, 2, 6] {
        for byte in bytes.by_ref().take(group) {
            digits(byte, &mut out[at..at + 2]);
            at += 2;
        }
        at += 1;
    }
    out
}

/// The text of a hash. Most events that are printed are part of no chain: that is known to be zeros.
pub fn hex(hash: &[u8; 32]) -> [u8; 64] {
    let mut out = [b'0'; 64];
    if *hash != [0; 32] {
        for (byte, to) in hash.iter().zip(out.chunks_exact_mut(2)) {
            digits(*byte, to);
        }
    }
    out
}

/// Two lowercase digits.
fn digits(byte: u8, to: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if let [high, low] = to {
        (*high, *low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
    }
}

/// `2026-11-21T12:00:00.000000001Z`.
pub fn rfc3339(nanos: u64) -> String {
    String::from_utf8_lossy(&clock(nanos)).into_owned()
}

/// The text of a time, as [`rfc3339`] has it, on the stack: every event has one. Days to civil date by Howard Hinnant's algorithm; 64 bits of
/// nanoseconds end in the year 2554, so the year has four digits.
pub fn clock(nanos: u64) -> [u8; 30] {
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    let parts = [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, rest / 3_600),
        (14..16, rest / 60 % 60),
        (17..19, rest % 60),
        (20..29, fraction),
    ];
    for (range, mut value) in parts {
        for digit in out[range].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    out
}

/// Reads what [`rfc3339`] writes; fewer or no fraction digits are fine.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (date, clock) = text.split_once(['T', ' '])?;
    let mut d = date.split('-').map(|p| p.parse::<u64>().ok());
    let (year, month, day) = (d.next()??, d.next()??, d.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut c = clock.split(':').map(|p| p.parse::<u64>().ok());
    let (hour, minute, second) = (c.next()??, c.next()??, c.next()??);
    // 64 bits of nanoseconds end in the year 2554.
    let date = (1970..=2554).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !date || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let days = (era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy).checked_sub(719_468)?;
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    (days * 86_400 + hour * 3_600 + minute * 60 + second).checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil_dates() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(rfc3339(nanos), text);
            assert_eq!(parse_rfc3339(text), Some(nanos));
        }
        for wrong in [
            "7026-11-21T12:00:00Z",
            "2554-12-31T23:59:59Z",
            "18446744073709551615-01-01T00:00:00Z",
            "2026-11-21T99999999999999999:00:00Z",
            "2026-11-21T12:00:00.0000000001Z",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn json_round_trip() {
        let event = Event {
            event_id: 0x0193_0000_0000_7000_8000_0000_0000_0001,
            time: 1_795_262_400_123_456_789,
            session_id: u64::MAX,
            sequence: 7,
            hash: [0xab; 32],
            ..Event::default()
        };
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.contains(r#""event_id":"01930000-0000-7000-8000-000000000001""#), "{json}");
        assert!(json.contains(r#""time":"2026-11-21T12:00:00.123456789Z""#), "{json}");
        assert!(json.contains(r#""session_id":"18446744073709551615""#), "{json}");
        assert!(serde_json::from_str::<Event>(&json).unwrap() == event);
    }
}
