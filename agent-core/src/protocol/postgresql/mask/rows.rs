//! Descriptions, rows and COPY data -> which of them are masked, and masked ones.

use std::sync::{Arc, OnceLock};

use super::columns::{self, Described, Formats, Rows};
use super::statement::{self, Step};
use super::{Ask, Masker, Outcome, Prepared, copy};
use crate::mask::Unmaskable;

impl Masker {
    pub(super) fn row(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Unmaskable> {
        if matches!(self.outcome, Outcome::Unset) {
            self.outcome = self.first_row(body);
        }
        let start = out.len();
        let changed = match &self.outcome {
            Outcome::Masked(rows) => rows.row(body, &mut self.tally, out)?,
            Outcome::Clear => false,
            Outcome::Unset | Outcome::Copy(_) => return Err(Unmaskable::OutOfStep),
        };
        if !changed {
            out.truncate(start);
            out.push(b'D');
            let length = u32::try_from(body.len() + 4).map_err(|_| Unmaskable::TooLong)?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(body);
        }
        Ok(())
    }

    /// The first row of a portal: its columns were described before, or never.
    fn first_row(&mut self, body: &[u8]) -> Outcome {
        let mut tally = std::mem::take(&mut self.tally);
        let rows = self.rows_of_portal(body, &mut tally);
        self.tally = tally;
        rows.map_or(Outcome::Clear, |rows| Outcome::Masked(Box::new(rows)))
    }

    fn rows_of_portal(&self, body: &[u8], tally: &mut super::Tally) -> Option<Rows> {
        let plan = self.executed_plan()?;
        let count = body.first_chunk().map_or(0, |count| usize::from(u16::from_be_bytes(*count)));
        let portal = match self.waiting.front()? {
            Ask::Execute { portal, .. } => self.portals.get(portal),
            _ => None,
        };
        let prepared = portal.and_then(|portal| portal.prepared.as_deref());
        let fresh;
        let own = prepared.filter(|prepared| !self.strange && !is_behind_a_name(prepared));
        let meaning = if let Some(own) = own {
            own.meaning.get_or_init(|| columns::Meaning::of(own.text.as_deref()))
        } else {
            fresh =
                self.meaning(self.behind(prepared.and_then(|prepared| prepared.text.as_deref()), None).text);
            &fresh
        };
        if let Some(portal) = portal {
            if let Some(described) = portal.described.get() {
                return Rows::new(meaning, plan, described, Formats::Described, tally);
            }
            if let Some(described) = prepared.and_then(|prepared| prepared.described.get()) {
                return Rows::new(meaning, plan, described, Formats::Bound(portal.formats.as_deref()), tally);
            }
        }
        Rows::undescribed(meaning, plan, count, tally)
    }

    pub(super) fn copied(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Unmaskable> {
        let Outcome::Copy(data) = &mut self.outcome else { return Err(Unmaskable::OutOfStep) };
        let start = out.len();
        out.extend_from_slice(b"d\0\0\0\0");
        data.data(body, &mut self.tally, out)?;
        // Nothing is sent while a row is not whole.
        if out.len() == start + 5 {
            out.truncate(start);
            return Ok(());
        }
        columns::put_length(out, start + 1, 4)
    }

    /// A RowDescription, or NoData.
    pub(super) fn described(&mut self, body: Option<&[u8]>) -> Result<(), Unmaskable> {
        let columns = |body: &[u8]| columns::describe(body).ok_or(Unmaskable::Malformed);
        match self.waiting.front() {
            Some(Ask::DescribeStatement(name)) => {
                if let (Some(body), Some(prepared)) = (body, self.statements.get(name)) {
                    let _ = prepared.described.set(columns(body)?);
                } else if let Some(body) = body {
                    // Prepared before the session was gated: its columns are known from now on.
                    let prepared =
                        Prepared { described: OnceLock::from(columns(body)?), ..Prepared::default() };
                    let name = name.clone();
                    self.name_statement(name, Arc::new(prepared));
                }
                self.waiting.pop_front();
            }
            Some(Ask::DescribePortal(name)) => {
                if let (Some(body), Some(portal)) = (body, self.portals.get(name)) {
                    let _ = portal.described.set(columns(body)?);
                    // Its statement has the same columns, and may be executed without being described again.
                    if let Some(prepared) = &portal.prepared {
                        let _ = prepared.described.set(columns(body)?);
                    }
                }
                self.waiting.pop_front();
            }
            Some(Ask::Query(_)) => {
                if let Some(body) = body
                    && self.executed_plan().is_some()
                {
                    let described = columns(body)?;
                    self.outcome = self.rows_of_query(&described);
                }
            }
            _ => self.lost = true,
        }
        Ok(())
    }

    fn rows_of_query(&mut self, described: &[Described]) -> Outcome {
        let mut tally = std::mem::take(&mut self.tally);
        let rows = if let (Some(Ask::Query(query)), Some(plan)) = (self.waiting.front(), self.executed_plan())
        {
            let part = query.parts.get(query.at).map(|part| &**part);
            // A statement too many is one that we did not see in the text.
            let meaning = match part {
                None => columns::Meaning::Known(crate::sql::lineage::Returned::Unknown),
                Some(part) => self.meaning(self.behind(Some(part), None).text),
            };
            Rows::new(&meaning, plan, described, Formats::Described, &mut tally)
        } else {
            None
        };
        self.tally = tally;
        rows.map_or(Outcome::Clear, |rows| Outcome::Masked(Box::new(rows)))
    }

    pub(super) fn copies_out(&mut self, body: &[u8]) -> Result<(), Unmaskable> {
        let mut tally = std::mem::take(&mut self.tally);
        let data = match self.executed_plan() {
            Some(plan) if self.ambiguous || self.strange => {
                let _ = plan;
                Err(Unmaskable::NotUnderstood)
            }
            Some(plan) => copy::Data::new(self.any_text(), plan, body, &mut tally).map(Some),
            None => Ok(None),
        };
        self.tally = tally;
        self.outcome = data?.map_or(Outcome::Clear, |data| Outcome::Copy(Box::new(data)));
        Ok(())
    }
}

/// EXECUTE or FETCH: what it returns is that of another text.
fn is_behind_a_name(prepared: &Prepared) -> bool {
    let text = prepared.text.as_deref().unwrap_or_default();
    matches!(statement::step(text), Step::Execute { .. } | Step::Fetch { .. })
}
