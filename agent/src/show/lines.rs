//! An event -> one JSON object on one line, every field of the contract.
//!
//! A serializer for exactly what events are made of. The general one spends four fifths of a replay's time on looking
//! for characters to escape in field names that are known to have none.

use std::io::{self, Write};

use agent_core::event::Event;
use serde::ser::{self, Impossible, Serialize};

/// Writes the event and a newline.
pub fn write(out: &mut impl Write, line: &mut Vec<u8>, event: &Event) -> io::Result<()> {
    line.clear();
    event.serialize(Json(line)).map_err(io::Error::other)?;
    line.push(b'\n');
    out.write_all(line)
}

/// Appends JSON to a buffer.
struct Json<'a>(&'a mut Vec<u8>);

/// An event holds what this serializer was not made for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(String);

impl ser::Error for Unfit {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn unfit<T>(what: &str) -> Result<T, Unfit> {
    Err(Unfit(format!("an event holds no {what}")))
}

/// A string with its quotes. What needs no escape is copied in one piece.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\') {
        out.extend_from_slice(&bytes[from..from + at]);
        let byte = bytes[from + at];
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 15)]);
            }
        }
        from += at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

impl Json<'_> {
    fn number(self, value: impl itoa::Integer) {
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

/// An object or array under way.
struct Inside<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Inside<'_> {
    fn comma(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }
}

impl<'a> ser::Serializer for Json<'a> {
    type Ok = ();
    type Error = Unfit;
    type SerializeSeq = Inside<'a>;
    type SerializeTuple = Impossible<(), Unfit>;
    type SerializeTupleStruct = Impossible<(), Unfit>;
    type SerializeTupleVariant = Impossible<(), Unfit>;
    type SerializeMap = Impossible<(), Unfit>;
    type SerializeStruct = Inside<'a>;
    type SerializeStructVariant = Impossible<(), Unfit>;

    fn serialize_bool(self, value: bool) -> Result<(), Unfit> {
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }
    fn serialize_i8(self, value: i8) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_i16(self, value: i16) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_i32(self, value: i32) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_i64(self, value: i64) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_u8(self, value: u8) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_u16(self, value: u16) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_u32(self, value: u32) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_u64(self, value: u64) -> Result<(), Unfit> {
        self.number(value);
        Ok(())
    }
    fn serialize_f32(self, _: f32) -> Result<(), Unfit> {
        unfit("fractions")
    }
    fn serialize_f64(self, _: f64) -> Result<(), Unfit> {
        unfit("fractions")
    }
    fn serialize_char(self, value: char) -> Result<(), Unfit> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Result<(), Unfit> {
        string(self.0, value);
        Ok(())
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unfit> {
        unfit("bytes")
    }
    fn serialize_none(self) -> Result<(), Unfit> {
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unfit> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Unfit> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unfit> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), Unfit> {
        self.serialize_str(name)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unfit> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unfit> {
        unfit("variants with values")
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Inside<'a>, Unfit> {
        self.0.push(b'[');
        Ok(Inside { out: self.0, first: true })
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unfit> {
        unfit("tuples")
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Unfit> {
        unfit("tuples")
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unfit> {
        unfit("tuples")
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unfit> {
        unfit("maps")
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Inside<'a>, Unfit> {
        self.0.push(b'{');
        Ok(Inside { out: self.0, first: true })
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unfit> {
        unfit("variants with values")
    }
}

impl ser::SerializeSeq for Inside<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unfit> {
        self.comma();
        value.serialize(Json(self.out))
    }
    fn end(self) -> Result<(), Unfit> {
        self.out.push(b']');
        Ok(())
    }
}

impl ser::SerializeStruct for Inside<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Unfit> {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        value.serialize(Json(self.out))
    }
    fn end(self) -> Result<(), Unfit> {
        self.out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::event::DataClass;
    use agent_core::identity::Claim;
    use agent_core::sql::{Access, Effect, Relation};

    /// The oracle is serde_json: the same event, read back, must be the same event, and the bytes the same bytes.
    #[test]
    fn lines_are_what_serde_json_writes() {
        let nasty = "a\"b\\c\u{0}\u{1f}\n\r\t\u{7f}ü\u{2028}😀";
        let event = Event {
            event_id: u128::MAX >> 1,
            time: 1_795_262_400_000_000_001,
            session_id: u64::MAX,
            db_query_text: nasty.into(),
            db_query_parameters: vec!["1".into(), nasty.into()],
            statement_effects: [Effect::CopyIn, Effect::Read].into(),
            statement_relations: [Relation { name: nasty.into(), access: Access::Write }].into(),
            data_classes: [DataClass { class: "card".into(), column: "n".into() }].into(),
            db_response_returned_rows: Some(u64::MAX),
            process_pid: Some(7),
            process_ancestry: ["sh(1)".into(), "init(0)".into()].into(),
            identity_claims: [Claim {
                key: "k".into(),
                value: "v".into(),
                source: "proc".into(),
                confidence: 95,
            }]
            .into(),
            hash: [0x5a; 32],
            ..Event::default()
        };
        for event in [event, Event::default()] {
            let (mut out, mut line) = (Vec::new(), Vec::new());
            write(&mut out, &mut line, &event).unwrap();
            let mut expected = serde_json::to_vec(&event).unwrap();
            expected.push(b'\n');
            assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(expected).unwrap());
        }
    }
}
