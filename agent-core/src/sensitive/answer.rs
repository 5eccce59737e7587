//! Columns of an answer and its first rows -> the classes of what was sent to the client.

use std::sync::Arc;

use super::{Catalog, Found, values};
use crate::sql::Relation;

/// Rows of one answer whose values are looked at.
const ROWS: u32 = 3;
/// Most columns of one answer that are looked at.
const COLUMNS: usize = 256;

/// Names of an answer's columns.
pub type Columns = Arc<[Box<str>]>;

/// What the first rows of an answer show. Names of columns are kept until the answer is in, values never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    columns: Columns,
    /// By column: what its values were.
    seen: Vec<(u16, &'static str)>,
    rows: u32,
}

impl Sample {
    /// The names of an answer's columns, to be shared by the answers that have them.
    pub fn columns<'a>(names: impl Iterator<Item = &'a [u8]>) -> Columns {
        let names = names.take(COLUMNS).map(|name| {
            let name = name.get(..name.len().min(64)).unwrap_or_default();
            String::from_utf8_lossy(name).into()
        });
        names.collect()
    }

    /// Begins with the names of the answer's columns; none where they are not known.
    pub fn new(columns: Columns) -> Self {
        Self { columns, ..Self::default() }
    }

    /// True where it can tell anything.
    pub fn tells(&self) -> bool {
        !self.columns.is_empty() || !self.seen.is_empty()
    }

    /// True while the values of a row are still wanted.
    pub fn wants_row(&self) -> bool {
        self.rows < ROWS
    }

    /// Takes one row's values; what is no text tells nothing.
    pub fn row<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) {
        self.rows += 1;
        for (at, value) in values.take(COLUMNS).enumerate() {
            let Some(value) = value else { continue };
            let value = value.get(..value.len().min(1024)).unwrap_or_default();
            let text = match std::str::from_utf8(value) {
                Ok(text) => text,
                // Cut in the middle of a character.
                Err(error) if error.error_len().is_none() => {
                    std::str::from_utf8(value.get(..error.valid_up_to()).unwrap_or_default())
                        .unwrap_or_default()
                }
                Err(_) => continue,
            };
            let at = at as u16;
            let seen = &mut self.seen;
            values::classes(text, &mut |class| {
                if !seen.contains(&(at, class)) && seen.len() < COLUMNS {
                    seen.push((at, class));
                }
            });
        }
    }

    /// The classes: by the columns' names, then by what their values were. A column that was found before is not told
    /// again.
    pub fn classes(&self, catalog: &Catalog, relations: &[Relation], found: &mut Found) {
        let known = |class: &str, name: &str, found: &Found| {
            let own = |column: &str| column.rsplit('.').next() == Some(name);
            found.as_slice().iter().any(|d| &*d.class == class && own(&d.column))
        };
        let label = |name: &str| match relations {
            [only] => format!("{}.{name}", only.name),
            _ => name.to_owned(),
        };
        for name in &*self.columns {
            let lower = name.to_lowercase();
            if let Some(class) = catalog.column(&relations.iter().map(|r| &*r.name), &lower)
                && !known(&class, &lower, found)
            {
                found.add(&class, &label(&lower));
            }
        }
        for (at, class) in &self.seen {
            let name = self.columns.get(usize::from(*at)).map(|n| n.to_lowercase()).unwrap_or_default();
            if !known(class, &name, found) {
                found.add(class, &label(&name));
            }
        }
    }
}
