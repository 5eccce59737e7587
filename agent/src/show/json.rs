//! The values of an event's fields -> JSON.

use std::sync::Arc;

use agent_core::event::{CaptureSource, CaptureVantage, DataClass, Disposition, EventKind};
use agent_core::identity::Claim;
use agent_core::sql::{Access, Effect, Relation};

/// A field's value.
pub(super) trait Value {
    /// Appends it as JSON.
    fn json(&self, out: &mut Vec<u8>);
    /// True where it is the very same string, list or number.
    fn is_same(&self, other: &Self) -> bool;
}

impl Value for Arc<str> {
    fn json(&self, out: &mut Vec<u8>) {
        string(out, self);
    }
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

impl<T: Item> Value for Arc<[T]> {
    fn json(&self, out: &mut Vec<u8>) {
        list(out, self);
    }
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

impl Value for Vec<Arc<str>> {
    fn json(&self, out: &mut Vec<u8>) {
        list(out, self);
    }
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }
}

impl<T: Value> Value for Option<T> {
    fn json(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.json(out),
            None => out.extend_from_slice(b"null"),
        }
    }
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => true,
            _ => false,
        }
    }
}

/// Values that are compared, not recognised.
macro_rules! plain {
    ($($type:ty),+: |$value:ident, $out:ident| $json:expr) => {
        $(impl Value for $type {
            fn json(&self, $out: &mut Vec<u8>) {
                let $value = *self;
                $json;
            }
            fn is_same(&self, other: &Self) -> bool {
                self == other
            }
        })+
    };
}

plain!(bool: |value, out| out.extend_from_slice(if value { b"true" } else { b"false" }));
plain!(u16, u32, u64: |value, out| out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()));
plain!(EventKind: |value, out| string(out, match value {
    EventKind::Session => "session",
    EventKind::Statement => "statement",
    EventKind::Decision => "decision",
    EventKind::Approval => "approval",
    EventKind::Loss => "loss",
    EventKind::Blind => "blind",
    EventKind::Config => "config",
}));
plain!(Disposition: |value, out| string(out, match value {
    Disposition::Allowed => "allowed",
    Disposition::Alerted => "alerted",
    Disposition::Held => "held",
    Disposition::Approved => "approved",
    Disposition::Denied => "denied",
    Disposition::Blocked => "blocked",
    Disposition::Killed => "killed",
    Disposition::Masked => "masked",
}));
plain!(CaptureSource: |value, out| string(out, match value {
    CaptureSource::Packet => "packet",
    CaptureSource::Tls => "tls",
    CaptureSource::Unix => "unix",
    CaptureSource::Pcap => "pcap",
}));
plain!(CaptureVantage: |value, out| string(out, match value {
    CaptureVantage::Client => "client",
    CaptureVantage::Server => "server",
}));

/// An element of a list.
pub(super) trait Item {
    /// Appends it as JSON.
    fn json(&self, out: &mut Vec<u8>);
}

impl Item for Arc<str> {
    fn json(&self, out: &mut Vec<u8>) {
        string(out, self);
    }
}

impl Item for Effect {
    fn json(&self, out: &mut Vec<u8>) {
        string(out, self.name());
    }
}

impl Item for Relation {
    fn json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        string(out, &self.name);
        out.extend_from_slice(match self.access {
            Access::Read => b",\"access\":\"read\"}",
            Access::Write => b",\"access\":\"write\"}",
        });
    }
}

impl Item for DataClass {
    fn json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"class\":");
        string(out, &self.class);
        out.extend_from_slice(b",\"column\":");
        string(out, &self.column);
        out.push(b'}');
    }
}

impl Item for Claim {
    fn json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":");
        string(out, &self.key);
        out.extend_from_slice(b",\"value\":");
        string(out, &self.value);
        out.extend_from_slice(b",\"source\":");
        string(out, &self.source);
        out.extend_from_slice(b",\"confidence\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.confidence).as_bytes());
        out.push(b'}');
    }
}

fn list(out: &mut Vec<u8>, items: &[impl Item]) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        item.json(out);
    }
    out.push(b']');
}

/// A string with its quotes. What needs no escape is copied in one piece.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let (front, [special, behind @ ..]) = rest.split_at(plain(rest)) {
        out.extend_from_slice(front);
        escape(out, *special);
        rest = behind;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Length of the front that needs no escape. Looked at in blocks, for which the compiler has wide instructions.
fn plain(text: &[u8]) -> usize {
    let (blocks, _) = text.as_chunks::<16>();
    let clean = |block: &&[u8; 16]| !block.iter().fold(false, |found, &byte| found | needs_escape(byte));
    let at = 16 * blocks.iter().take_while(clean).count();
    at + text[at..].iter().position(|&byte| needs_escape(byte)).unwrap_or(text.len() - at)
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}
