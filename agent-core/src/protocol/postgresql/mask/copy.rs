//! COPY TO STDOUT: its statement -> how its rows are written; its data -> rows with columns masked.
//!
//! COPY tells no types. In text and csv a value's own look decides what it becomes (digits stay digits); in binary it
//! becomes NULL.

mod syntax; // statement -> how rows are written; fields

use std::sync::Arc;

use self::syntax::{Source, Statement, Style, Syntax, read};
use super::columns::{self, Meaning};
use super::tally::Tally;
use super::value;
use crate::mask::{Plan, UNPROVEN, Unmaskable};
use crate::reader::Reader;
use crate::sql::lineage::Returned;

/// Longest row that is kept, and longest piece of it.
const LONGEST: usize = super::LONGEST;
/// What a binary copy begins with.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Can what this COPY sends be masked? `Ok` where it sends nothing.
pub(super) fn check(text: &[u8], plan: &Plan) -> Result<(), Unmaskable> {
    let Some(statement) = read(text)? else { return Ok(()) };
    match &statement.source {
        Source::Relation { columns, .. } if columns.is_empty() && !statement.syntax.header => {
            Err(Unmaskable::UnknownColumns)
        }
        Source::Relation { .. } => Ok(()),
        Source::Query(query) => match Meaning::of(Some(query)) {
            Meaning::Known(Returned::Rows(lineage)) => {
                columns::keeps_hidden(&lineage, plan)?;
                if lineage.whole || statement.syntax.header {
                    Ok(())
                } else {
                    Err(Unmaskable::UnknownColumns)
                }
            }
            _ => Err(Unmaskable::NotUnderstood),
        },
    }
}

/// Which columns are masked.
enum Columns {
    /// The header will tell.
    Header(Meaning, Arc<str>),
    Known(Vec<Option<u8>>),
}

/// The data of one COPY, row by row.
pub(super) struct Data {
    syntax: Syntax,
    columns: Columns,
    plan: Arc<Plan>,
    /// The beginning of a row that is not whole.
    carry: Vec<u8>,
    value: Vec<u8>,
    masked: Vec<u8>,
    /// Binary: the head was read.
    begun: bool,
}

impl Data {
    /// `response`: the body of CopyOutResponse.
    pub(super) fn new(
        text: Option<&[u8]>,
        plan: &Arc<Plan>,
        response: &[u8],
        tally: &mut Tally,
    ) -> Result<Self, Unmaskable> {
        let mut reader = Reader::new(response);
        let binary = reader.u8().ok_or(Unmaskable::Malformed)? == 1;
        let count = usize::from(reader.u16().ok_or(Unmaskable::Malformed)?);
        let unproven = || Columns::Known(Vec::new());
        let (syntax, columns) = match text.map(read) {
            Some(Ok(Some(statement))) => {
                let columns = of_source(&statement, plan, count, tally);
                (statement.syntax, columns)
            }
            // Every field becomes NULL.
            _ if binary => {
                let none = Syntax {
                    style: Style::Binary,
                    header: false,
                    delimiter: 0,
                    quote: 0,
                    escape: 0,
                    null: Vec::new(),
                };
                (none, unproven())
            }
            Some(Err(why)) => return Err(why),
            _ => return Err(Unmaskable::UnknownStatement),
        };
        if binary != (syntax.style == Style::Binary) {
            return Err(Unmaskable::OutOfStep);
        }
        let columns = match columns {
            Columns::Known(known) if known.len() != count => {
                Columns::Known(vec![Some(tally.class(UNPROVEN)); count])
            }
            other => other,
        };
        Ok(Self {
            syntax,
            columns,
            plan: Arc::clone(plan),
            carry: Vec::new(),
            value: Vec::new(),
            masked: Vec::new(),
            begun: false,
        })
    }

    /// Takes the body of a CopyData and appends what is to be sent for it.
    pub(super) fn data(
        &mut self,
        body: &[u8],
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Unmaskable> {
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(body);
        let mut rest = &carry[..];
        loop {
            let taken = match self.syntax.style {
                Style::Binary => self.tuple(rest, tally, out)?,
                _ => self.line(rest, tally, out)?,
            };
            if taken == 0 {
                break;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        if rest.len() > LONGEST {
            return Err(Unmaskable::TooLong);
        }
        let left = rest.len();
        carry.drain(..carry.len() - left);
        self.carry = carry;
        Ok(())
    }

    /// The data is over: nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Unmaskable> {
        if self.carry.is_empty() { Ok(()) } else { Err(Unmaskable::Malformed) }
    }

    /// A row of text or csv with its newline; how long it was, 0 where it is not whole.
    fn line(&mut self, rest: &[u8], tally: &mut Tally, out: &mut Vec<u8>) -> Result<usize, Unmaskable> {
        let Some(end) = self.end_of_line(rest) else { return Ok(0) };
        let line = rest.get(..end).unwrap_or_default();
        if self.syntax.header {
            self.syntax.header = false;
            let names = self.fields(line).into_iter().map(|(_, _, value)| value).collect::<Vec<_>>();
            if let Columns::Header(meaning, relation) = &self.columns {
                let described: Vec<(&[u8], bool)> =
                    names.iter().map(|name| (&name[..], !relation.is_empty())).collect();
                let classes = if relation.is_empty() {
                    columns::classes(meaning, &self.plan, &described, tally)
                } else {
                    let of = |name: &Vec<u8>| {
                        let name = String::from_utf8_lossy(name).to_lowercase();
                        of_relation(&self.plan, relation, &name)
                    };
                    names.iter().map(|name| of(name).map(|class| tally.class(&class))).collect()
                };
                self.columns = Columns::Known(classes);
            }
            out.extend_from_slice(rest.get(..=end).unwrap_or_default());
            return Ok(end + 1);
        }
        let Columns::Known(classes) = &self.columns else { return Err(Unmaskable::UnknownColumns) };
        let mut at = 0;
        let mut fields = 0;
        // A relation without columns has empty rows.
        while !(classes.is_empty() && line.is_empty()) {
            let class = *classes.get(fields).ok_or(Unmaskable::Malformed)?;
            fields += 1;
            self.value.clear();
            let (next, quoted) = self.syntax.field(line, at, &mut self.value);
            let raw = line.get(at..next).unwrap_or_default();
            let null = !quoted && raw == self.syntax.null;
            let class = if null {
                None
            } else {
                let told = || {
                    std::str::from_utf8(&self.value).ok().and_then(|value| self.plan.class_of_value(value))
                };
                class.or_else(
                    || if self.plan.by_value { told().map(|class| tally.class(class)) } else { None },
                )
            };
            match class {
                None => out.extend_from_slice(raw),
                Some(class) => {
                    tally.hit(class);
                    self.masked.clear();
                    value::by_shape(&self.value, &mut self.masked);
                    self.syntax.write(&self.masked, quoted, out);
                }
            }
            if next >= line.len() {
                break;
            }
            out.push(self.syntax.delimiter);
            at = next + 1;
        }
        if fields != classes.len() {
            return Err(Unmaskable::Malformed);
        }
        out.push(b'\n');
        tally.end_row();
        Ok(end + 1)
    }

    fn end_of_line(&self, rest: &[u8]) -> Option<usize> {
        if self.syntax.style == Style::Text {
            return rest.iter().position(|&b| b == b'\n');
        }
        let (mut at, mut inside) = (0, false);
        loop {
            let b = *rest.get(at)?;
            if inside && b == self.syntax.escape && self.syntax.escape != self.syntax.quote {
                rest.get(at + 1)?;
                at += usize::from(
                    matches!(rest.get(at + 1), Some(next) if *next == self.syntax.quote || *next == self.syntax.escape),
                );
            } else if b == self.syntax.quote {
                inside = !inside;
            } else if b == b'\n' && !inside {
                return Some(at);
            }
            at += 1;
        }
    }

    fn fields(&self, line: &[u8]) -> Vec<(usize, bool, Vec<u8>)> {
        let mut fields = Vec::new();
        let mut at = 0;
        loop {
            let mut value = Vec::new();
            let (next, quoted) = self.syntax.field(line, at, &mut value);
            fields.push((next, quoted, value));
            if next >= line.len() {
                return fields;
            }
            at = next + 1;
        }
    }

    /// The head, a tuple or the trailer of a binary copy; how long it was, 0 where it is not whole.
    fn tuple(&mut self, rest: &[u8], tally: &mut Tally, out: &mut Vec<u8>) -> Result<usize, Unmaskable> {
        let mut reader = Reader::new(rest);
        let length = |reader: &Reader<'_>| rest.len() - reader.rest().len();
        if !self.begun {
            let Some(signature) = reader.bytes(SIGNATURE.len()) else { return Ok(0) };
            if signature != SIGNATURE {
                return Err(Unmaskable::Malformed);
            }
            let Some(extension) = reader.u32().and_then(|_| reader.u32()) else { return Ok(0) };
            if reader.bytes(extension as usize).is_none() {
                return Ok(0);
            }
            self.begun = true;
            out.extend_from_slice(rest.get(..length(&reader)).unwrap_or_default());
            return Ok(length(&reader));
        }
        let Columns::Known(classes) = &self.columns else { return Err(Unmaskable::UnknownColumns) };
        let Some(count) = reader.i16() else { return Ok(0) };
        let start = out.len();
        out.extend_from_slice(&count.to_be_bytes());
        let count = usize::try_from(count).unwrap_or(0); // -1: the end
        if count != 0 && count != classes.len() {
            return Err(Unmaskable::Malformed);
        }
        let mut hits = 0u64;
        for class in classes.iter().take(count) {
            let field = reader.i32().and_then(|length| match usize::try_from(length) {
                Ok(bytes) => reader.bytes(bytes).map(Some),
                Err(_) => Some(None),
            });
            match (field, class) {
                (None, _) => {
                    out.truncate(start);
                    return Ok(0);
                }
                (Some(None), _) => out.extend_from_slice(&(-1i32).to_be_bytes()),
                (Some(Some(_)), Some(class)) => {
                    hits |= 1 << (class & 63);
                    out.extend_from_slice(&(-1i32).to_be_bytes());
                }
                (Some(Some(value)), None) => {
                    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                    out.extend_from_slice(value);
                }
            }
        }
        (0..64).filter(|class| hits & (1 << class) != 0).for_each(|class| tally.hit(class));
        tally.end_row();
        Ok(length(&reader))
    }
}

/// The class of a relation's own column.
fn of_relation(plan: &Plan, relation: &Arc<str>, name: &str) -> Option<Arc<str>> {
    let only = std::slice::from_ref(relation);
    plan.class_of_name(only, name).or_else(|| plan.class_of_relation(only, name))
}

fn of_source(statement: &Statement<'_>, plan: &Arc<Plan>, count: usize, tally: &mut Tally) -> Columns {
    let header = statement.syntax.header;
    match &statement.source {
        Source::Relation { name, columns } if columns.is_empty() && header => {
            Columns::Header(Meaning::Unknown, Arc::clone(name))
        }
        Source::Relation { name, columns } => {
            let of = |column: &String| of_relation(plan, name, &column.to_lowercase());
            Columns::Known(columns.iter().map(|column| of(column).map(|class| tally.class(&class))).collect())
        }
        Source::Query(query) => match Meaning::of(Some(query)) {
            Meaning::Known(Returned::Rows(lineage)) if lineage.whole => {
                let names: Vec<(&[u8], bool)> = lineage
                    .outputs
                    .iter()
                    .map(|output| (output.name.as_deref().unwrap_or_default().as_bytes(), false))
                    .collect();
                let known = if names.len() == count {
                    let meaning = Meaning::of(Some(query));
                    columns::classes(&meaning, plan, &names, tally)
                } else {
                    Vec::new()
                };
                Columns::Known(known)
            }
            meaning if header => Columns::Header(meaning, "".into()),
            _ => Columns::Known(Vec::new()),
        },
    }
}
