//! An event's JSON line -> its canonical bytes, where it is written exactly as weir writes it.
//!
//! Whatever does not fit to the byte is none: an unknown name, a space, a digit in capitals, another escape. So the
//! bytes of the line and those of the receipt say the same, and nothing has to be written again to be compared. No
//! event is made on the way: that would cost ten times as much as the hash.

use super::canonical::varint;
use super::{Code, Hash};
use crate::event::{CaptureSource, CaptureVantage, Disposition, EventKind, clock, parse_rfc3339};
use crate::sql::{Access, Effect};

/// What a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The agent, as long as its name needs no escape.
    pub agent_id: &'a str,
    /// The event's id.
    pub event_id: u128,
    /// Its place in the chain.
    pub sequence: u64,
    /// What it says came before.
    pub previous_hash: Hash,
    /// What it says its hash is.
    pub hash: Hash,
}

/// How a field is written, and what becomes of it.
#[derive(Clone, Copy)]
enum Form {
    Id,
    Time,
    Agent,
    Text,
    /// Digits between quotes.
    Quoted,
    Number(u8),
    Nullable(u8),
    Bool,
    Enum(&'static [&'static str]),
    Texts,
    Effects,
    Relations,
    Classes,
    Claims,
    Sequence,
}

use Form::{
    Agent, Bool, Claims, Classes, Effects, Enum, Id, Nullable, Number, Quoted, Relations, Sequence, Text,
    Texts, Time,
};

/// The fields of the line in their order, which is that of the canonical bytes.
const FORMS: [(&str, Form); super::canonical::COUNT] = [
    ("event_id", Id),
    ("time", Time),
    ("event_kind", Enum(EventKind::NAMES)),
    ("agent_id", Agent),
    ("host_name", Text),
    ("session_id", Quoted),
    ("db_system_name", Text),
    ("db_namespace", Text),
    ("db_user", Text),
    ("db_application_name", Text),
    ("db_query_text", Text),
    ("batch_id", Text),
    ("batch_index", Number(4)),
    ("db_query_summary", Text),
    ("db_operation_name", Text),
    ("db_collection_name", Text),
    ("db_query_fingerprint", Text),
    ("db_query_parameters", Texts),
    ("statement_effects", Effects),
    ("statement_relations", Relations),
    ("statement_unbounded", Bool),
    ("statement_complete", Bool),
    ("data_classes", Classes),
    ("db_response_status_code", Text),
    ("error_type", Text),
    ("db_response_returned_rows", Nullable(8)),
    ("db_response_affected_rows", Nullable(8)),
    ("duration_ns", Nullable(8)),
    ("first_byte_ns", Nullable(8)),
    ("client_address", Text),
    ("client_port", Number(2)),
    ("server_address", Text),
    ("server_port", Number(2)),
    ("network_transport", Text),
    ("network_tls", Bool),
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
    ("identity_claims", Claims),
    ("identity_conflict", Bool),
    ("trace_id", Text),
    ("span_id", Text),
    ("policy_rule", Text),
    ("policy_version", Text),
    ("policy_mode", Text),
    ("disposition", Enum(Disposition::NAMES)),
    ("approval_id", Text),
    ("approval_state", Text),
    ("approval_actor", Text),
    ("capture_source", Enum(CaptureSource::NAMES)),
    ("capture_vantage", Enum(CaptureVantage::NAMES)),
    ("capture_truncated", Bool),
    ("capture_lost_before", Number(8)),
    ("capture_bytes", Number(8)),
    ("sequence", Sequence),
];

/// Appends the canonical bytes of the event that a line (without its end) holds. None where it is not written as weir
/// writes it; then `out` holds anything.
pub fn line<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Option<Line<'a>> {
    let mut cursor = Cursor { rest: text, out };
    let mut found = Line { agent_id: "", event_id: 0, sequence: 0, previous_hash: [0; 32], hash: [0; 32] };
    cursor.expect(b"{")?;
    for (at, (name, form)) in FORMS.iter().enumerate() {
        if at > 0 {
            cursor.expect(b",")?;
        }
        cursor.name(name)?;
        match form {
            Id => found.event_id = cursor.id()?,
            Time => cursor.time()?,
            Agent => found.agent_id = cursor.plain_text()?,
            Text => cursor.text()?,
            Quoted => {
                cursor.expect(b"\"")?;
                let number = cursor.number()?;
                cursor.expect(b"\"")?;
                cursor.write(number, 8)?;
            }
            Number(width) => {
                let number = cursor.number()?;
                cursor.write(number, *width)?;
            }
            Sequence => {
                found.sequence = cursor.number()?;
                cursor.write(found.sequence, 8)?;
            }
            Nullable(width) => {
                if cursor.expect(b"null").is_some() {
                    cursor.out.push(1);
                } else {
                    cursor.out.push(0);
                    let number = cursor.number()?;
                    cursor.write(number, *width)?;
                }
            }
            Bool => {
                let value = cursor.expect(b"true").is_some();
                if !value {
                    cursor.expect(b"false")?;
                }
                cursor.out.push(u8::from(value));
            }
            Enum(names) => cursor.word(names)?,
            Texts => cursor.list(Cursor::text)?,
            Effects => cursor.list(|cursor| cursor.word(Effect::NAMES))?,
            Relations => cursor.list(|cursor| {
                cursor.expect(b"{\"name\":")?;
                cursor.text()?;
                cursor.expect(b",\"access\":")?;
                cursor.word(Access::NAMES)?;
                cursor.expect(b"}")
            })?,
            Classes => cursor.list(|cursor| {
                cursor.expect(b"{\"class\":")?;
                cursor.text()?;
                cursor.expect(b",\"column\":")?;
                cursor.text()?;
                cursor.expect(b"}")
            })?,
            Claims => cursor.list(|cursor| {
                cursor.expect(b"{\"key\":")?;
                cursor.text()?;
                cursor.expect(b",\"value\":")?;
                cursor.text()?;
                cursor.expect(b",\"source\":")?;
                cursor.text()?;
                cursor.expect(b",\"confidence\":")?;
                let confidence = cursor.number()?;
                cursor.write(confidence, 1)?;
                cursor.expect(b"}")
            })?,
        }
    }
    cursor.expect(b",\"previous_hash\":\"")?;
    found.previous_hash = cursor.digits()?;
    cursor.expect(b"\",\"hash\":\"")?;
    found.hash = cursor.digits()?;
    cursor.expect(b"\"}")?;
    cursor.rest.is_empty().then_some(found)
}

struct Cursor<'a, 'o> {
    rest: &'a [u8],
    out: &'o mut Vec<u8>,
}

impl<'a> Cursor<'a, '_> {
    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(bytes)?;
        Some(())
    }

    fn name(&mut self, name: &str) -> Option<()> {
        self.expect(b"\"")?;
        self.expect(name.as_bytes())?;
        self.expect(b"\":")
    }

    /// Digits without a zero before them.
    fn number(&mut self) -> Option<u64> {
        let length = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(length);
        if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
            return None;
        }
        let mut value = 0u64;
        for digit in digits {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        }
        self.rest = rest;
        Some(value)
    }

    /// So many bytes of a number; none where it does not fit.
    fn write(&mut self, value: u64, width: u8) -> Option<()> {
        let bytes = value.to_le_bytes();
        let (kept, left) = bytes.split_at(usize::from(width.min(8)));
        self.out.extend_from_slice(kept);
        left.iter().all(|byte| *byte == 0).then_some(())
    }

    fn word(&mut self, names: &[&str]) -> Option<()> {
        let text = self.plain()?;
        let place = names.iter().position(|name| name.as_bytes() == text)?;
        self.out.push(place as u8 + 1);
        Some(())
    }

    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        // How many there are stands before them, and is known behind them: most often it takes one byte.
        let start = self.out.len();
        let mut count = 0u64;
        self.expect(b"[")?;
        if self.expect(b"]").is_none() {
            loop {
                item(self)?;
                count += 1;
                if self.expect(b",").is_none() {
                    self.expect(b"]")?;
                    break;
                }
            }
        }
        self.put_before(start, count);
        Some(())
    }

    /// Puts a count in front of what was written since.
    fn put_before(&mut self, start: usize, count: u64) {
        let end = self.out.len();
        varint(self.out, count);
        let length = self.out.len() - end;
        if let Some(written) = self.out.get_mut(start..) {
            written.rotate_right(length);
        }
    }

    /// The inside of a string that has nothing to escape.
    fn plain(&mut self) -> Option<&'a [u8]> {
        self.expect(b"\"")?;
        let length = plain(self.rest);
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.expect(b"\"")?;
        Some(text)
    }

    fn plain_text(&mut self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.plain()?).ok()?;
        varint(self.out, text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
        Some(text)
    }

    fn text(&mut self) -> Option<()> {
        self.expect(b"\"")?;
        let length = plain(self.rest);
        if self.rest.get(length) == Some(&b'"') {
            let (text, rest) = self.rest.split_at(length);
            std::str::from_utf8(text).ok()?;
            varint(self.out, length as u64);
            self.out.extend_from_slice(text);
            self.rest = &rest[1..];
            return Some(());
        }
        let start = self.out.len();
        loop {
            let (text, rest) = self.rest.split_at(plain(self.rest));
            self.out.extend_from_slice(text);
            self.rest = rest;
            if self.expect(b"\"").is_some() {
                break;
            }
            let escaped = self.escape()?;
            self.out.push(escaped);
        }
        std::str::from_utf8(self.out.get(start..)?).ok()?;
        let written = self.out.len() - start;
        self.put_before(start, written as u64);
        Some(())
    }

    /// An escape as it is written: the short form where there is one, else four lowercase digits of a control.
    fn escape(&mut self) -> Option<u8> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>()?;
        if bytes[0] != b'\\' {
            return None;
        }
        self.rest = rest;
        Some(match bytes[1] {
            b'"' => b'"',
            b'\\' => b'\\',
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'f' => 12,
            b'r' => b'\r',
            b'u' => {
                self.expect(b"00")?;
                let (digits, rest) = self.rest.split_first_chunk::<2>()?;
                self.rest = rest;
                let byte = digit(digits[0])? << 4 | digit(digits[1])?;
                let short = [8, 9, 10, 12, 13].contains(&byte);
                (byte < 0x20 && !short).then_some(byte)?
            }
            _ => return None,
        })
    }

    /// Lowercase hexadecimal digits.
    fn digits<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (digits, rest) = self.rest.split_at_checked(2 * N)?;
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        self.rest = rest;
        Some(bytes)
    }

    fn id(&mut self) -> Option<u128> {
        self.expect(b"\"")?;
        let a = self.digits::<4>()?;
        self.expect(b"-")?;
        let b = self.digits::<2>()?;
        self.expect(b"-")?;
        let c = self.digits::<2>()?;
        self.expect(b"-")?;
        let d = self.digits::<2>()?;
        self.expect(b"-")?;
        let e = self.digits::<6>()?;
        self.expect(b"\"")?;
        let bytes = a.into_iter().chain(b).chain(c).chain(d).chain(e);
        let id = bytes.fold(0u128, |id, byte| id << 8 | u128::from(byte));
        self.write((id >> 64) as u64, 8)?;
        self.write(id as u64, 8)?;
        Some(id)
    }

    fn time(&mut self) -> Option<()> {
        let text = self.plain()?;
        let time = parse_rfc3339(std::str::from_utf8(text).ok()?)?;
        // One way of writing a time, and one that the store can hold.
        (clock(time) == *text && i64::try_from(time).is_ok()).then_some(())?;
        self.write(time, 8)
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Length of the front that needs no escape. Looked at in blocks, for which the compiler has wide instructions.
fn plain(text: &[u8]) -> usize {
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let (blocks, _) = text.as_chunks::<16>();
    let clean = |block: &&[u8; 16]| !block.iter().fold(false, |found, &byte| found | special(byte));
    let at = 16 * blocks.iter().take_while(clean).count();
    at + text[at..].iter().position(|&byte| special(byte)).unwrap_or(text.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::receipt::{FIELDS, canonical};

    /// Something in every field, `more` among it in all that is text.
    fn full(more: &str) -> Event {
        let json = serde_json::to_value(Event::default()).unwrap();
        let mut full = json.as_object().unwrap().clone();
        for (name, value) in &mut full {
            if value.as_str() == Some("") && name != "agent_id" {
                *value = format!("{name}{more}").into();
            } else if value.is_null() || value.as_u64() == Some(0) {
                *value = if name.ends_with("port") { u16::MAX.into() } else { u32::MAX.into() };
            } else if value.is_boolean() {
                *value = true.into();
            }
        }
        full["session_id"] = u64::MAX.to_string().into();
        full["time"] = "2026-11-21T23:59:59.999999999Z".into();
        full["statement_effects"] = serde_json::json!(["copy_out", "replicate"]);
        full["statement_relations"] =
            serde_json::json!([{"name": "a\"b", "access": "write"}, {"name": "", "access": "read"}]);
        full["data_classes"] = serde_json::json!([{"class": "card", "column": "c"}]);
        full["identity_claims"] = serde_json::json!([
            {"key": "k", "value": "v\"\\\u{0}\u{7f}\u{2028}'", "source": "s/t", "confidence": 100},
            {"key": "", "value": "", "source": "", "confidence": 0}
        ]);
        full["db_query_parameters"] = ["", "x\ty"].repeat(100).into();
        serde_json::from_value(full.into()).unwrap()
    }

    #[test]
    fn the_bytes_of_a_line_are_those_of_its_event() {
        let every: String = (0..0x80u8).map(char::from).chain("ünï \u{2028}\u{1F980}".chars()).collect();
        let named = Event { agent_id: "agent-1".into(), sequence: 7, hash: [0xab; 32], ..full("") };
        for event in [Event::default(), full(&every), named] {
            let text = serde_json::to_string(&event).unwrap();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let found = line(text.as_bytes(), &mut a).unwrap();
            canonical(&event, &mut b);
            assert!(a == b, "{text}");
            assert_eq!((found.agent_id, found.event_id), (&*event.agent_id, event.event_id));
            assert_eq!((found.sequence, found.hash), (event.sequence, event.hash));
            assert_eq!(found.previous_hash, event.previous_hash);
        }
    }

    #[test]
    fn whatever_is_changed_is_not_the_same_line() {
        let text = serde_json::to_string(&Event {
            agent_id: "a".into(),
            sequence: 7,
            db_query_parameters: Vec::new(),
            ..full("\n")
        })
        .unwrap();
        let mut bytes = Vec::new();
        let whole = line(text.as_bytes(), &mut bytes);
        assert!(whole.is_some());
        let mut out = Vec::new();
        let mut differs = |changed: &[u8], what: &str| {
            out.clear();
            let found = line(changed, &mut out);
            assert!(found.is_none() || found != whole || out != bytes, "{what}");
        };
        for at in (0..text.len()).step_by(3).chain(0..400) {
            for change in [1, 0x20, 0x80] {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= change;
                differs(&changed, &format!("byte {at} changed by {change}"));
            }
            let (head, tail) = text.as_bytes().split_at(at);
            differs(head, "cut off");
            differs(&[head, b" ", tail].concat(), "a space");
            differs(&[head, b"0", tail].concat(), "a zero");
            differs(&[head, &tail[1..]].concat(), "one less");
        }
    }

    #[test]
    fn the_forms_are_in_the_order_of_the_fields() {
        assert_eq!(FORMS.map(|(name, _)| name), FIELDS);
    }
}
