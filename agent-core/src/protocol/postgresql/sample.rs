//! RowDescription and the first rows -> the names of an answer's columns and what their values are.

use std::sync::Arc;

use super::machine::{Copy, Expect, Machine};
use crate::reader::Reader;
use crate::sensitive::{Columns, Sample};
use crate::sql::Text;

/// Most texts whose columns are remembered from their description to their rows.
const DESCRIBED_MAX: usize = 64;

/// Names of columns, by the text that they are of.
#[derive(Default)]
pub(super) struct Described(Vec<(Arc<Text>, Columns)>);

impl Described {
    fn get(&self, text: &Arc<Text>) -> Option<&Columns> {
        self.0.iter().find(|(known, _)| Arc::ptr_eq(known, text)).map(|(_, columns)| columns)
    }

    fn put(&mut self, text: &Arc<Text>, columns: Columns) {
        self.0.retain(|(known, _)| !Arc::ptr_eq(known, text));
        if self.0.len() >= DESCRIBED_MAX {
            self.0.remove(0);
        }
        self.0.push((Arc::clone(text), columns));
    }
}

impl Machine {
    /// True where the values of the next row are looked at.
    pub(super) fn wants_row(&self) -> bool {
        self.copy == Copy::None && self.sample.as_ref().is_none_or(|sample| sample.wants_row())
    }

    /// The server describes rows: those of a prepared statement, of a portal, or those that follow.
    pub(super) fn columns(&mut self, body: &[u8]) {
        let columns = Sample::columns(names(body).into_iter());
        match self.expected.front() {
            Some(Expect::Describe(Some(prepared))) => self.described.put(&prepared.text, columns),
            Some(Expect::Describe(None)) => {
                // The portal that is described is mostly the one that is executed next.
                let text = self.items.front().and_then(|item| item.statement.text.clone());
                if let (Some(text), Some(Expect::Execute)) = (text, self.expected.get(1)) {
                    self.described.put(&text, columns);
                }
            }
            _ => self.sample = Some(Box::new(Sample::new(columns))),
        }
    }

    /// One of an answer's first rows.
    pub(super) fn row(&mut self, body: &[u8]) {
        let text = self.items.front().and_then(|item| item.statement.text.as_ref());
        let described = &self.described;
        let sample = self.sample.get_or_insert_with(|| {
            let columns = text.and_then(|text| described.get(text)).cloned();
            Box::new(Sample::new(columns.unwrap_or_default()))
        });
        let mut reader = Reader::new(body);
        let count = reader.u16().unwrap_or(0);
        sample.row((0..count).map_while(|_| {
            let length = reader.u32()?;
            if length == u32::MAX { Some(None) } else { reader.bytes(length as usize).map(Some) }
        }));
    }
}

/// The names in a RowDescription; each stands before 18 bytes of numbers.
fn names(body: &[u8]) -> Vec<&[u8]> {
    let mut reader = Reader::new(body);
    let count = reader.u16().unwrap_or(0);
    let mut names = Vec::new();
    for _ in 0..count {
        let rest = reader.rest();
        let Some(end) = rest.iter().position(|&b| b == 0) else { break };
        names.push(rest.get(..end).unwrap_or_default());
        reader = Reader::new(rest.get(end + 1..).unwrap_or_default());
        if reader.bytes(18).is_none() {
            break;
        }
    }
    names
}
