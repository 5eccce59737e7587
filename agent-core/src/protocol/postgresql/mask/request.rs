//! What the client sends -> requests that wait for their answers. Keeps texts and names, never parameters.

use std::sync::Arc;

use super::statement;
use super::{Ask, LONGEST, LONGEST_TEXT, MOST_TEXT, MOST_WAITING, Masker, Prepared, Query};
use crate::mask::{Plan, Unmaskable};
use crate::reader::Reader;

/// What is kept of a longer message: the names stand first.
const HEAD: usize = 64 << 10;

/// The message that is being sent.
#[derive(Default)]
pub(super) struct Outgoing {
    header: [u8; 5],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of the body that are missing.
    left: usize,
    /// The body, where it is read.
    body: Vec<u8>,
    /// How much of the body is kept.
    keeps: usize,
    /// That is not all of it.
    cut: bool,
    plan: Option<Arc<Plan>>,
}

impl Outgoing {
    /// True where no message is here in part.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0
    }
}

impl Masker {
    /// Takes bytes that are forwarded to the server.
    pub(super) fn sent(&mut self, mut bytes: &[u8], plan: Option<&Arc<Plan>>) -> Result<(), Unmaskable> {
        self.armed |= plan.is_some();
        if self.lost && plan.is_some() {
            return Err(Unmaskable::OutOfStep);
        }
        while !bytes.is_empty() {
            let out = &mut self.outgoing;
            if out.have == 0 {
                out.plan = plan.cloned();
            }
            if out.have < 5 {
                let (head, rest) = bytes.split_at(bytes.len().min(5 - out.have));
                if let Some(place) = out.header.get_mut(out.have..out.have + head.len()) {
                    place.copy_from_slice(head);
                }
                out.have += head.len();
                bytes = rest;
                if out.have < 5 {
                    break;
                }
                let [kind, length @ ..] = out.header;
                let length = u32::from_be_bytes(length) as usize;
                out.left = length.checked_sub(4).ok_or(Unmaskable::Malformed)?;
                out.cut = out.left > LONGEST;
                out.keeps = match kind {
                    b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' if out.cut => HEAD,
                    b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' => LONGEST,
                    _ => 0,
                };
            }
            let (body, rest) = bytes.split_at(bytes.len().min(out.left));
            let room = out.keeps.saturating_sub(out.body.len());
            out.body.extend_from_slice(body.get(..body.len().min(room)).unwrap_or_default());
            out.left -= body.len();
            bytes = rest;
            if out.left == 0 {
                let body = std::mem::take(&mut out.body);
                let (kind, cut, plan) = (out.header[0], out.cut, out.plan.take());
                out.have = 0;
                self.asked(kind, &body, cut, plan)?;
                // Scratch space that is not much is used again.
                if body.capacity() <= 64 << 10 {
                    self.outgoing.body = body;
                    self.outgoing.body.clear();
                }
            }
        }
        Ok(())
    }

    /// A message is whole. `cut`: only its beginning is here.
    fn asked(&mut self, kind: u8, body: &[u8], cut: bool, plan: Option<Arc<Plan>>) -> Result<(), Unmaskable> {
        if self.skipping && !matches!(kind, b'S' | b'X') {
            return Ok(());
        }
        let mut reader = Reader::new(body);
        let name =
            |reader: &mut Reader<'_>| reader.cstring().map(Box::<[u8]>::from).ok_or(Unmaskable::Malformed);
        let ask = match kind {
            b'Q' => Ask::Query(self.query(reader.cstring().filter(|_| !cut), plan)),
            b'P' => {
                let name = name(&mut reader)?;
                let text = reader.cstring().filter(|_| !cut).and_then(|text| self.keep(text));
                let prepared =
                    Arc::new(Prepared { unseen: text.is_none(), text, plan, ..Prepared::default() });
                Ask::Parse { name, prepared }
            }
            b'B' => {
                let (portal, statement) = (name(&mut reader)?, name(&mut reader)?);
                // They stand last, behind the parameters.
                let formats = if cut { None } else { formats(&mut reader) };
                Ask::Bind { name: portal, statement, formats, plan }
            }
            b'E' => Ask::Execute { portal: name(&mut reader)?, plan },
            b'D' | b'C' => match (kind, reader.u8()) {
                (b'D', Some(b'S')) => Ask::DescribeStatement(name(&mut reader)?),
                (b'D', Some(b'P')) => Ask::DescribePortal(name(&mut reader)?),
                (_, Some(b'S')) => Ask::CloseStatement(name(&mut reader)?),
                (_, Some(b'P')) => Ask::ClosePortal(name(&mut reader)?),
                _ => return Err(Unmaskable::Malformed),
            },
            b'S' if self.copying_in => return Ok(()), // the server passes over it
            b'S' => {
                self.skipping = false;
                Ask::Sync
            }
            b'F' => Ask::Function { plan },
            b'c' | b'f' if self.copying_in => {
                self.copying_in = false;
                return Ok(());
            }
            // The answer that says whether it is a COPY at all may not be here yet.
            b'c' | b'f' => Ask::CopyEnd,
            _ => return Ok(()),
        };
        if self.waiting.len() >= MOST_WAITING {
            return Err(Unmaskable::TooLong);
        }
        self.waiting.push_back(ask);
        Ok(())
    }

    fn query(&mut self, text: Option<&[u8]>, plan: Option<Arc<Plan>>) -> Query {
        let unseen = Query { plan: plan.clone(), unseen: true, ..Query::default() };
        let Some(text) = text.filter(|text| text.len() <= LONGEST_TEXT) else { return unseen };
        if plan.is_none() && !statement::may_name(text) {
            return Query::default();
        }
        if !self.has_room(text.len()) {
            return unseen;
        }
        let parts = statement::parts(text).into_iter().map(Into::into).collect();
        Query { parts, plan, ..Query::default() }
    }

    /// Keeps a text, if there is room for it.
    fn keep(&mut self, text: &[u8]) -> Option<Box<[u8]>> {
        (text.len() <= LONGEST_TEXT && self.has_room(text.len())).then(|| text.into())
    }

    /// Takes room for this many bytes of text, counted anew where it seems to be out.
    fn has_room(&mut self, length: usize) -> bool {
        if self.texts + length > MOST_TEXT {
            let of = |prepared: &Prepared| prepared.text.as_ref().map_or(0, |text| text.len());
            let waits = |ask: &Ask| match ask {
                Ask::Parse { prepared, .. } => of(prepared),
                Ask::Query(query) => query.parts.iter().map(|part| part.len()).sum(),
                _ => 0,
            };
            let statements = self.statements.values().map(|prepared| of(prepared));
            let portals = self.portals.values().filter_map(|portal| portal.prepared.as_deref()).map(of);
            self.texts = statements.chain(portals).chain(self.waiting.iter().map(waits)).sum();
        }
        let room = self.texts + length <= MOST_TEXT;
        self.texts += if room { length } else { 0 };
        room
    }
}

/// Formats of the result, which stand last in a Bind.
fn formats(reader: &mut Reader<'_>) -> Option<Box<[u16]>> {
    let count = usize::from(reader.u16()?);
    reader.bytes(2 * count)?;
    for _ in 0..reader.u16()? {
        if let Ok(length) = usize::try_from(reader.i32()?) {
            reader.bytes(length)?;
        }
    }
    let count = usize::from(reader.u16()?);
    let formats = reader.bytes(2 * count)?;
    Some(formats.chunks_exact(2).filter_map(|pair| Some(u16::from_be_bytes(*pair.first_chunk()?))).collect())
}
