//! What the client sends -> requests that wait for their answers. Keeps texts and names, never parameters.

use std::sync::Arc;

use super::statement;
use super::{Ask, LONGEST, LONGEST_TEXT, MOST_TEXT, MOST_WAITING, Masker, Prepared, Query};
use crate::mask::{Plan, Unmaskable};
use crate::reader::Reader;

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
    /// The body is read, and is not longer than what is kept.
    keeps: bool,
    plan: Option<Arc<Plan>>,
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
                out.keeps = matches!(kind, b'Q' | b'P' | b'B' | b'E' | b'D' | b'C') && out.left <= LONGEST;
            }
            let (body, rest) = bytes.split_at(bytes.len().min(out.left));
            if out.keeps {
                out.body.extend_from_slice(body);
            }
            out.left -= body.len();
            bytes = rest;
            if out.left == 0 {
                let body = std::mem::take(&mut out.body);
                let (kind, keeps, plan) = (out.header[0], out.keeps, out.plan.take());
                out.have = 0;
                self.asked(kind, keeps.then_some(&body[..]), plan)?;
                // Scratch space that is not much is used again.
                if body.capacity() <= 64 << 10 {
                    self.outgoing.body = body;
                    self.outgoing.body.clear();
                }
            }
        }
        Ok(())
    }

    /// A message is whole. No body: it is not read, or too long.
    fn asked(&mut self, kind: u8, body: Option<&[u8]>, plan: Option<Arc<Plan>>) -> Result<(), Unmaskable> {
        if self.skipping && !matches!(kind, b'S' | b'X') {
            return Ok(());
        }
        let mut reader = Reader::new(body.unwrap_or_default());
        let name =
            |reader: &mut Reader<'_>| reader.cstring().map(Box::<[u8]>::from).ok_or(Unmaskable::Malformed);
        let ask = match kind {
            b'Q' => Ask::Query(query(reader.cstring().filter(|_| body.is_some()), plan)),
            b'P' if body.is_none() => return Err(Unmaskable::TooLong).or_else(|why| self.unless_armed(why)),
            b'P' => {
                let name = name(&mut reader)?;
                let text = reader.cstring().and_then(|text| self.keep(text));
                let prepared = Arc::new(Prepared { text, plan, ..Prepared::default() });
                Ask::Parse { name, prepared }
            }
            // Names and formats of a Bind with very long parameters are not known.
            b'B' if body.is_none() => return Err(Unmaskable::TooLong).or_else(|why| self.unless_armed(why)),
            b'B' => {
                let (portal, statement) = (name(&mut reader)?, name(&mut reader)?);
                Ask::Bind { name: portal, statement, formats: formats(&mut reader), plan }
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

    /// A session that nothing is masked in need not end: from here on its answers are not followed.
    fn unless_armed(&mut self, why: Unmaskable) -> Result<(), Unmaskable> {
        if self.armed {
            return Err(why);
        }
        self.lost = true;
        Ok(())
    }

    /// Keeps a text, if there is room for it.
    fn keep(&mut self, text: &[u8]) -> Option<Box<[u8]>> {
        if self.texts + text.len() > MOST_TEXT {
            let named: usize = self.statements.values().filter_map(|p| Some(p.text.as_ref()?.len())).sum();
            let waits = |ask: &Ask| match ask {
                Ask::Parse { prepared, .. } => prepared.text.as_ref().map_or(0, |text| text.len()),
                _ => 0,
            };
            self.texts = named + self.waiting.iter().map(waits).sum::<usize>();
        }
        if text.len() > LONGEST_TEXT || self.texts + text.len() > MOST_TEXT {
            return None;
        }
        self.texts += text.len();
        Some(text.into())
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

fn query(text: Option<&[u8]>, plan: Option<Arc<Plan>>) -> Query {
    let Some(text) = text.filter(|text| text.len() <= LONGEST_TEXT) else {
        return Query { plan, ..Query::default() };
    };
    let matters = plan.is_some() || statement::may_name(text);
    let parts = if matters { statement::parts(text) } else { Vec::new() };
    Query { parts: parts.into_iter().map(Into::into).collect(), at: 0, plan }
}
