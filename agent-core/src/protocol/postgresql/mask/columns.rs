//! Statement, plan and row description -> which columns are masked; a row -> the row with them masked.
//!
//! A column is masked where its name, or any name that flows into it, is of a class of the plan; and where it cannot
//! be told what flows into it. Expressions are masked as a whole, so that no piece of a value gets through.

use std::sync::Arc;

use super::tally::Tally;
use super::value::{self, Became, Format};
use crate::mask::{Plan, UNPROVEN, Unmaskable};
use crate::reader::Reader;
use crate::sql::Dialect;
use crate::sql::lineage::{self, Lineage, Returned};

/// One column of a RowDescription.
pub(super) struct Described {
    name: Box<[u8]>,
    /// A column of a relation as it is, not an expression.
    base: bool,
    oid: u32,
    format: Format,
}

/// Reads a RowDescription. `None` where it is malformed.
pub(super) fn describe(body: &[u8]) -> Option<Vec<Described>> {
    let mut reader = Reader::new(body);
    let count = reader.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = reader.cstring()?.into();
        let (table, attribute) = (reader.u32()?, reader.i16()?);
        let oid = reader.u32()?;
        reader.bytes(6)?;
        let format = format(reader.u16()?);
        columns.push(Described { name, base: table != 0 && attribute > 0, oid, format });
    }
    reader.is_empty().then_some(columns)
}

pub(super) fn format(code: u16) -> Format {
    match code {
        0 => Format::Text,
        1 => Format::Binary,
        _ => Format::Unknown,
    }
}

/// Formats that a Bind asks for: none is text for all, one is for all, else one for each.
pub(super) fn format_of(formats: Option<&[u16]>, at: usize) -> Format {
    match formats {
        None => Format::Unknown,
        Some([]) => Format::Text,
        Some([all]) => format(*all),
        Some(each) => each.get(at).map_or(Format::Unknown, |code| format(*code)),
    }
}

/// What a statement returns, read where it is to be masked.
pub(super) enum Meaning {
    /// The text is known.
    Known(Returned),
    /// It was prepared before the session was gated.
    Unknown,
}

impl Meaning {
    pub(super) fn of(text: Option<&[u8]>) -> Self {
        text.map_or(Meaning::Unknown, |text| Meaning::Known(lineage::of(Dialect::Postgresql, text)))
    }
}

/// The classes of a result's columns; none where a column is to be seen.
pub(super) fn classes(
    meaning: &Meaning,
    plan: &Plan,
    columns: &[(&[u8], bool)],
    tally: &mut Tally,
) -> Vec<Option<u8>> {
    let lineage = match meaning {
        Meaning::Known(Returned::Rows(lineage)) => Some(&**lineage),
        Meaning::Known(Returned::Nothing) => return vec![None; columns.len()],
        Meaning::Known(Returned::Unknown) => return vec![Some(tally.class(UNPROVEN)); columns.len()],
        Meaning::Unknown => None,
    };
    let names: Vec<&[u8]> = columns.iter().map(|(name, _)| *name).collect();
    let agrees = lineage.is_none_or(|lineage| lineage.agrees(&names));
    let class = |(at, (name, base)): (usize, &(&[u8], bool))| {
        if !agrees {
            return Some(UNPROVEN.into());
        }
        let name = String::from_utf8_lossy(name).to_lowercase();
        class_of_column(lineage, plan, at, &name, *base)
    };
    let found: Vec<Option<Arc<str>>> = columns.iter().enumerate().map(class).collect();
    found.into_iter().map(|class| class.map(|class| tally.class(&class))).collect()
}

/// The class of one column. Without a lineage its name tells, and that it is a relation's own.
fn class_of_column(
    lineage: Option<&Lineage>,
    plan: &Plan,
    at: usize,
    name: &str,
    base: bool,
) -> Option<Arc<str>> {
    let Some(lineage) = lineage else {
        return plan.class_of_name(&[], name).or_else(|| (!base).then(|| UNPROVEN.into()));
    };
    let origin = lineage.column(at, name, base);
    if origin.is_nothing() {
        return None;
    }
    let of = |name: &str| plan.class_of_name(&lineage.relations, name);
    let class = of(name).or_else(|| origin.names.iter().find_map(|name| of(name)));
    let of_relation = |name: &str| plan.class_of_relation(&lineage.relations, name);
    let class = class.or_else(|| origin.names.iter().find_map(|name| of_relation(name)));
    class.or_else(|| origin.opaque.then(|| UNPROVEN.into()))
}

/// Does the statement keep values of the plan's classes where their names do not tell?
pub(super) fn keeps_hidden(lineage: &Lineage, plan: &Plan) -> Result<(), Unmaskable> {
    let of = |name: &str| plan.class_of_name(&lineage.relations, name);
    // A relation that is sensitive as a whole has no columns whose names would tell.
    let read = |name: &str| of(name).or_else(|| plan.class_of_relation(&lineage.relations, name));
    for kept in &lineage.kept {
        let origin = lineage.resolve(kept.origin.clone(), kept.bare);
        let told = kept.name.as_deref().and_then(of);
        let hidden =
            origin.names.iter().filter_map(|name| read(name)).any(|class| told.as_ref() != Some(&class));
        if hidden || origin.opaque {
            return Err(Unmaskable::Renamed);
        }
    }
    Ok(())
}

struct Column {
    oid: u32,
    format: Format,
    class: Option<u8>,
}

/// In which formats the rows come.
#[derive(Clone, Copy)]
pub(super) enum Formats<'a> {
    /// As the description says.
    Described,
    /// As a Bind asked for them; `None` where that is not known.
    Bound(Option<&'a [u16]>),
}

/// The rows of one result.
pub(super) struct Rows {
    columns: Vec<Column>,
    /// Values are looked at.
    plan: Option<Arc<Plan>>,
}

impl Rows {
    /// How to mask the rows; `None` where nothing of them is.
    pub(super) fn new(
        meaning: &Meaning,
        plan: &Arc<Plan>,
        described: &[Described],
        formats: Formats<'_>,
        tally: &mut Tally,
    ) -> Option<Self> {
        if matches!(meaning, Meaning::Known(Returned::Nothing)) {
            return None;
        }
        let names: Vec<(&[u8], bool)> = described.iter().map(|c| (&*c.name, c.base)).collect();
        let classes = classes(meaning, plan, &names, tally);
        let columns = described.iter().zip(classes).enumerate().map(|(at, (column, class))| Column {
            oid: column.oid,
            format: match formats {
                Formats::Described => column.format,
                Formats::Bound(codes) => format_of(codes, at),
            },
            class,
        });
        Self::of(columns.collect(), plan)
    }

    /// The same where nothing describes the rows: what is masked becomes NULL, for its type is not known.
    pub(super) fn undescribed(
        meaning: &Meaning,
        plan: &Arc<Plan>,
        count: usize,
        tally: &mut Tally,
    ) -> Option<Self> {
        let classes = match meaning {
            Meaning::Known(Returned::Nothing) => return None,
            Meaning::Known(Returned::Rows(lineage)) if lineage.whole && lineage.outputs.len() == count => {
                let class = |(at, output): (usize, &lineage::Output)| {
                    class_of_column(
                        Some(lineage),
                        plan,
                        at,
                        output.name.as_deref().unwrap_or_default(),
                        false,
                    )
                };
                let found: Vec<Option<Arc<str>>> = lineage.outputs.iter().enumerate().map(class).collect();
                found.into_iter().map(|class| class.map(|class| tally.class(&class))).collect()
            }
            _ => vec![Some(tally.class(UNPROVEN)); count],
        };
        let column = |class| Column { oid: 0, format: Format::Unknown, class };
        Self::of(classes.into_iter().map(column).collect(), plan)
    }

    fn of(columns: Vec<Column>, plan: &Arc<Plan>) -> Option<Self> {
        let plan = plan.by_value.then(|| Arc::clone(plan));
        (plan.is_some() || columns.iter().any(|column| column.class.is_some()))
            .then_some(Self { columns, plan })
    }

    /// Appends a whole DataRow for the body of one; false where nothing was changed.
    pub(super) fn row(&self, body: &[u8], tally: &mut Tally, out: &mut Vec<u8>) -> Result<bool, Unmaskable> {
        let start = out.len();
        let mut reader = Reader::new(body);
        if reader.u16().map(usize::from) != Some(self.columns.len()) {
            return Err(Unmaskable::Malformed);
        }
        out.extend_from_slice(&[b'D', 0, 0, 0, 0]);
        out.extend_from_slice(body.get(..2).unwrap_or_default());
        let mut changed = false;
        for column in &self.columns {
            let length = reader.i32().ok_or(Unmaskable::Malformed)?;
            let Ok(length) = usize::try_from(length) else {
                out.extend_from_slice(&length.to_be_bytes());
                continue;
            };
            let own = reader.bytes(length).ok_or(Unmaskable::Malformed)?;
            let class = column.class.or_else(|| {
                let class = self.plan.as_ref()?.class_of_value(readable(column, own)?)?;
                Some(tally.class(class))
            });
            let at = out.len();
            out.extend_from_slice(&[0xff; 4]);
            let became = match class {
                None => {
                    out.extend_from_slice(own);
                    Became::Value
                }
                Some(class) => {
                    changed = true;
                    tally.hit(class);
                    value::mask(column.oid, column.format, own, out)
                }
            };
            if became == Became::Value {
                put_length(out, at, 0)?;
            }
        }
        tally.end_row();
        if !reader.is_empty() {
            return Err(Unmaskable::Malformed);
        }
        if changed {
            put_length(out, start + 1, 4)?;
        }
        Ok(changed)
    }
}

/// The value as text, where it is one.
fn readable<'v>(column: &Column, value: &'v [u8]) -> Option<&'v str> {
    let texts = match column.format {
        Format::Text => true,
        Format::Binary => matches!(column.oid, 18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 | 3802),
        Format::Unknown => false,
    };
    if texts { std::str::from_utf8(value).ok() } else { None }
}

/// Writes the length of what stands behind the four bytes at `at`, which count or not.
pub(super) fn put_length(out: &mut [u8], at: usize, own: usize) -> Result<(), Unmaskable> {
    let length = out.len().checked_sub(at + 4).map(|length| length + own);
    let length = length.and_then(|length| i32::try_from(length).ok()).ok_or(Unmaskable::TooLong)?;
    let place = out.get_mut(at..at + 4).ok_or(Unmaskable::Malformed)?;
    place.copy_from_slice(&length.to_be_bytes());
    Ok(())
}
