//! What the server sends -> what the client gets. Follows which request each message answers.

use std::sync::Arc;

use super::{Ask, LONGEST, Masker, Outcome, columns, errors};
use crate::mask::{Flow, Plan, Unmaskable};

/// The message that is coming.
#[derive(Default)]
pub(super) struct Incoming {
    header: [u8; 5],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of the header that went to the client already.
    told: usize,
    /// Bytes of the body that are missing.
    left: usize,
    body: Vec<u8>,
    way: Way,
}

impl Incoming {
    /// True where no message is here in part.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0
    }
}

/// What is done with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// It passes, its body unread.
    #[default]
    Pass,
    /// It passes, and its body is read.
    Read,
    /// It is held until it is whole.
    Hold,
}

/// Client encodings in which a byte of a character may look like a delimiter.
const AMBIGUOUS: &[&[u8]] = &[b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFT_JIS_2004"];

/// Writes what passes up to `rest`.
fn flush<'a>(passing: &mut &'a [u8], rest: &'a [u8], out: &mut Vec<u8>) {
    let length = passing.len() - rest.len();
    out.extend_from_slice(passing.get(..length).unwrap_or_default());
    *passing = rest;
}

impl Masker {
    /// Takes bytes of the server.
    pub(super) fn received(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Flow, Unmaskable> {
        if self.lost {
            return if self.armed { Err(Unmaskable::OutOfStep) } else { Ok(Flow::AsIs) };
        }
        let start = out.len();
        let mut rest = bytes;
        // Bytes that pass and were not written yet begin here; while nothing was held or changed they need no copy.
        let mut passing = bytes;
        let mut rewritten = false;
        while !rest.is_empty() {
            let incoming = &mut self.incoming;
            if incoming.have < 5 {
                let before = rest;
                let (head, behind) = rest.split_at(rest.len().min(5 - incoming.have));
                if let Some(place) = incoming.header.get_mut(incoming.have..incoming.have + head.len()) {
                    place.copy_from_slice(head);
                }
                incoming.have += head.len();
                rest = behind;
                if incoming.have < 5 {
                    if self.armed {
                        // Whether it passes is not known before its header is whole.
                        flush(&mut passing, before, out);
                        passing = rest;
                        rewritten = true;
                    } else {
                        incoming.told = incoming.have;
                    }
                    break;
                }
                let [kind, length @ ..] = incoming.header;
                let length = u32::from_be_bytes(length) as usize;
                incoming.left = length.checked_sub(4).ok_or(Unmaskable::Malformed)?;
                incoming.body.clear();
                let (left, told) = (incoming.left, incoming.told);
                let way = self.way(kind, left)?;
                let incoming = &mut self.incoming;
                incoming.way = way;
                match way {
                    Way::Hold if told > 0 => return Err(Unmaskable::OutOfStep),
                    Way::Hold => {
                        flush(&mut passing, before, out);
                        passing = rest;
                        rewritten = true;
                    }
                    // What was held of the header goes first.
                    Way::Pass | Way::Read => {
                        let held = 5 - head.len() - told;
                        if held > 0 {
                            flush(&mut passing, before, out);
                            out.extend_from_slice(incoming.header.get(told..told + held).unwrap_or_default());
                            rewritten = true;
                        }
                    }
                }
            }
            let incoming = &mut self.incoming;
            let (body, behind) = rest.split_at(rest.len().min(incoming.left));
            incoming.left -= body.len();
            if incoming.way != Way::Pass && incoming.left + incoming.body.len() + body.len() <= LONGEST {
                incoming.body.extend_from_slice(body);
            }
            rest = behind;
            if incoming.way == Way::Hold {
                passing = rest;
                rewritten = true;
            }
            if incoming.left == 0 {
                let (kind, way) = (incoming.header[0], incoming.way);
                let body = std::mem::take(&mut incoming.body);
                (incoming.have, incoming.told) = (0, 0);
                self.message(kind, &body, way == Way::Hold, out)?;
                if body.capacity() <= 256 << 10 {
                    self.incoming.body = body;
                    self.incoming.body.clear();
                }
                if self.lost && self.armed {
                    return Err(Unmaskable::OutOfStep);
                }
            }
        }
        if !rewritten && out.len() == start {
            return Ok(Flow::AsIs);
        }
        flush(&mut passing, rest, out);
        Ok(Flow::Rewritten)
    }

    /// What to do with a message, by its header.
    fn way(&mut self, kind: u8, length: usize) -> Result<Way, Unmaskable> {
        self.drop_copy_ends();
        let way = match kind {
            b'D' => {
                // Whether a portal's rows are masked is asked once.
                if matches!(self.outcome, Outcome::Unset) && self.executed_plan().is_none() {
                    self.outcome = Outcome::Clear;
                }
                if matches!(self.outcome, Outcome::Clear) { Way::Pass } else { Way::Hold }
            }
            b'd' if matches!(self.outcome, Outcome::Copy(_)) => Way::Hold,
            b'd' if matches!(self.outcome, Outcome::Unset) && self.executed_plan().is_some() => {
                return Err(Unmaskable::OutOfStep);
            }
            b'H' if self.executed_plan().is_some() => Way::Read,
            b'W' if self.armed && self.any_plan().is_some() => return Err(Unmaskable::Replication),
            b'T' => match self.waiting.front() {
                Some(Ask::DescribeStatement(_) | Ask::DescribePortal(_)) => Way::Read,
                _ if self.executed_plan().is_some() => Way::Read,
                _ => Way::Pass,
            },
            b'E' | b'N' | b'S' | b'V' if self.any_plan().is_some() => Way::Hold,
            b'S' => Way::Read,
            _ => Way::Pass,
        };
        if way != Way::Pass && length > LONGEST {
            if way == Way::Hold || self.executed_plan().is_some() {
                return Err(Unmaskable::TooLong);
            }
            // A description that nobody's plan is about: it is as if it had not been asked for.
            return Ok(Way::Pass);
        }
        Ok(way)
    }

    /// What ends a COPY that did not begin counts for nothing.
    fn drop_copy_ends(&mut self) {
        while let Some(Ask::CopyEnd) = self.waiting.front() {
            self.waiting.pop_front();
        }
    }

    /// The plan of the statement that is being executed.
    pub(super) fn executed_plan(&self) -> Option<&Arc<Plan>> {
        if !self.armed {
            return None;
        }
        match self.waiting.front()? {
            Ask::Query(query) => {
                let part = query.parts.get(query.at).map(|part| &**part);
                self.behind(part, query.plan.as_ref()).plan
            }
            Ask::Execute { portal, plan } => {
                let portal = self.portals.get(portal);
                let prepared = portal.and_then(|portal| portal.prepared.as_deref());
                let plan = plan.as_ref().or_else(|| portal.and_then(|portal| portal.plan.as_ref()));
                let plan = plan.or_else(|| prepared.and_then(|prepared| prepared.plan.as_ref()));
                self.behind(prepared.and_then(|prepared| prepared.text.as_deref()), plan).plan
            }
            _ => None,
        }
    }

    /// The plan of what is being answered, or of what was since the server was ready last.
    fn any_plan(&self) -> Option<&Arc<Plan>> {
        if !self.armed {
            return None;
        }
        let own = match self.waiting.front() {
            Some(Ask::Parse { prepared, .. }) => prepared.plan.as_ref(),
            Some(Ask::Bind { plan, statement, .. }) => {
                let prepared = self.statements.get(statement);
                plan.as_ref().or_else(|| prepared.and_then(|prepared| prepared.plan.as_ref()))
            }
            Some(Ask::Function { plan }) => plan.as_ref(),
            Some(_) => self.executed_plan(),
            None => None,
        };
        own.or_else(|| self.recent.as_ref().map(|recent| &recent.plan))
    }

    /// The text of what is being answered.
    pub(super) fn any_text(&self) -> Option<&[u8]> {
        let own = match self.waiting.front() {
            Some(Ask::Query(query)) => query.parts.get(query.at).map(|part| &**part),
            Some(Ask::Parse { prepared, .. }) => prepared.text.as_deref(),
            Some(Ask::Bind { statement, .. }) => {
                self.statements.get(statement).and_then(|p| p.text.as_deref())
            }
            Some(Ask::Execute { portal, .. }) => {
                self.portals.get(portal).and_then(|p| p.prepared.as_ref()).and_then(|p| p.text.as_deref())
            }
            _ => None,
        };
        own.or_else(|| self.recent.as_ref().and_then(|recent| recent.text.as_deref()))
    }

    /// A message is whole. A held one is appended, as it is to be.
    fn message(&mut self, kind: u8, body: &[u8], held: bool, out: &mut Vec<u8>) -> Result<(), Unmaskable> {
        match kind {
            b'D' if held => return self.row(body, out),
            b'd' if held => return self.copied(body, out),
            b'E' | b'N' if held => {
                errors::rewrite(kind, body, self.any_text(), out).ok_or(Unmaskable::Malformed)?;
            }
            // The result of a function call message has no type that would be known: NULL.
            b'V' if held => out.extend_from_slice(&[b'V', 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff]),
            b'S' if held => self.parameter(body, out),
            b'S' => self.reported(body),
            _ => {}
        }
        match kind {
            b'1' => self.parsed(),
            b'2' => self.bound(),
            b'3' => self.closed(),
            b'T' => self.described(Some(body))?,
            b'n' => self.described(None)?,
            b'H' => self.copies_out(body)?,
            b'G' => self.copies_in(),
            b'C' => self.complete(),
            b's' | b'I' => self.suspended(kind),
            b'E' => self.failed(),
            b'Z' => self.ready(),
            b'c' => {
                if let Outcome::Copy(data) = &self.outcome {
                    data.finish()?;
                }
                self.outcome = Outcome::Clear;
            }
            _ => {}
        }
        Ok(())
    }

    /// A setting that a statement with a plan changed: free text may be a value.
    fn parameter(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.reported(body);
        let mut parts = body.splitn(3, |&b| b == 0);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let start = out.len();
        out.extend_from_slice(b"S\0\0\0\0");
        let free = [&b"application_name"[..], b"search_path", b"session_authorization"].contains(&name);
        let said = self
            .any_text()
            .is_some_and(|text| !value.is_empty() && text.windows(value.len()).any(|w| w == value));
        if free && !said {
            out.extend_from_slice(name);
            out.push(0);
            super::value::stars(value, out);
            out.push(0);
        } else {
            out.extend_from_slice(body);
        }
        let _ = columns::put_length(out, start + 1, 4);
    }

    fn reported(&mut self, body: &[u8]) {
        let mut parts = body.split(|&b| b == 0);
        match (parts.next(), parts.next()) {
            (Some(b"standard_conforming_strings"), Some(value)) => self.strange = value == b"off",
            (Some(b"client_encoding"), Some(value)) => self.ambiguous = AMBIGUOUS.contains(&value),
            _ => {}
        }
    }
}
