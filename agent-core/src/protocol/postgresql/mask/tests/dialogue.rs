//! Messages of both sides, hand-made, and a masker between them.

use std::sync::Arc;

use super::super::Masker;
use crate::mask::{Flow, Mask, Plan, Unmaskable};

pub(super) struct Dialogue(Masker);

impl Dialogue {
    pub(super) fn new() -> Self {
        Self(Masker::default())
    }

    pub(super) fn ask(&mut self, bytes: &[u8], plan: Option<&Arc<Plan>>) {
        self.0.request(bytes, plan).expect("followed");
    }

    pub(super) fn check(&self, message: &[u8]) -> Result<(), Unmaskable> {
        self.0.check(message, &Plan { by_value: false, ..Plan::default() })
    }

    /// What the client gets.
    pub(super) fn answer(&mut self, messages: &[Vec<u8>]) -> Result<Vec<u8>, Unmaskable> {
        let bytes = messages.concat();
        let mut out = Vec::new();
        match self.0.answer(&bytes, &mut out)? {
            Flow::AsIs => {
                assert!(out.is_empty(), "as it is, and something else too");
                Ok(bytes)
            }
            Flow::Rewritten => Ok(out),
        }
    }

    /// The same, and nothing is to be changed.
    pub(super) fn passes(&mut self, messages: &[Vec<u8>]) -> Result<(), Unmaskable> {
        assert_eq!(self.answer(messages)?, messages.concat());
        Ok(())
    }

    pub(super) fn masked(&mut self) -> Vec<(String, u64)> {
        let mut masked: Vec<_> = self.0.masked().into_iter().map(|m| (m.class.to_string(), m.rows)).collect();
        masked.sort();
        masked
    }
}

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub(super) fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

pub(super) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

/// Two parameters, one of them NULL.
pub(super) fn bind(portal: &str, statement: &str, formats: &[u16]) -> Vec<u8> {
    let mut body = [
        portal.as_bytes(),
        b"\0",
        statement.as_bytes(),
        b"\0\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff",
    ]
    .concat();
    body.extend_from_slice(&(formats.len() as u16).to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    message(b'B', &body)
}

pub(super) fn describe(what: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[what][..], name.as_bytes(), b"\0"].concat())
}

pub(super) fn execute(portal: &str) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0\0\0\0\0"].concat())
}

pub(super) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

#[derive(Clone, Copy)]
pub(super) struct Col {
    name: &'static str,
    table: u32,
    oid: u32,
    format: u16,
}

/// A relation's own column.
pub(super) fn col(name: &'static str, oid: u32) -> Col {
    Col { name, table: 16_384, oid, format: 0 }
}

/// An expression.
pub(super) fn expr(name: &'static str, oid: u32) -> Col {
    Col { name, table: 0, oid, format: 0 }
}

pub(super) fn in_binary(col: Col) -> Col {
    Col { format: 1, ..col }
}

pub(super) fn rows(columns: &[Col]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        body.extend([column.name.as_bytes(), b"\0", &column.table.to_be_bytes()].concat());
        body.extend(u16::from(column.table != 0).to_be_bytes());
        body.extend([&column.oid.to_be_bytes()[..], &[0; 6], &column.format.to_be_bytes()].concat());
    }
    message(b'T', &body)
}

pub(super) fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        body.extend(value.map_or(-1i32, |value| value.len() as i32).to_be_bytes());
        body.extend_from_slice(value.unwrap_or_default());
    }
    message(b'D', &body)
}

pub(super) fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &[tag.as_bytes(), b"\0"].concat())
}

pub(super) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}
