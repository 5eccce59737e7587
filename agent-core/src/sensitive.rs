//! Names and values -> the classes of sensitive data that a statement touches. Only class and column are kept.
//!
//! A class is found by what somebody declared ([`Catalog`]), by what a column or relation is called, and by what a value
//! looks like: a literal, a parameter, a value of the answer's first rows.

mod answer; // columns and first rows of an answer -> classes
mod catalog; // YAML -> declared columns
mod national; // value -> a state's personal number
mod names; // name -> class
mod secrets; // value -> a key or token
mod statement; // tokens -> columns, literals and what they are compared with
#[cfg(test)]
mod tests;
pub mod values; // value -> classes

pub use answer::{Columns, Sample};
pub use catalog::Catalog;
/// True where a value has a class, and has to go where only what is sensitive does.
pub fn is_sensitive(value: &str) -> bool {
    let mut found = false;
    values::classes(value, &mut |_| found = true);
    found || has_password(value)
}

/// True where a password of a URL or connection string stands in a value: it goes whatever the setting.
pub fn has_password(value: &str) -> bool {
    secrets::in_text(value)
}

pub(crate) use names::relation as class_of_relation;
pub(crate) use statement::{literals, names as names_of, parameter, shown};

use std::sync::Arc;

use crate::event::DataClass;

/// Most classes that are told of one statement.
const MOST: usize = 64;

/// Classes in the order in which they were found, each with its column once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found(Vec<DataClass>);

impl Found {
    /// Notes a class and its column, which may be empty where no name is known.
    pub fn add(&mut self, class: &str, column: &str) {
        let known = self.0.iter().any(|d| &*d.class == class && &*d.column == column);
        if !known && self.0.len() < MOST {
            self.0.push(DataClass { class: class.into(), column: column.into() });
        }
    }

    /// Notes what others found.
    pub fn extend(&mut self, others: &[DataClass]) {
        for other in others {
            self.add(&other.class, &other.column);
        }
    }

    /// True where nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was found.
    pub fn as_slice(&self) -> &[DataClass] {
        &self.0
    }
}

impl From<&[DataClass]> for Found {
    fn from(found: &[DataClass]) -> Self {
        Self(found.to_vec())
    }
}

impl From<Found> for Arc<[DataClass]> {
    fn from(found: Found) -> Self {
        found.0.into()
    }
}
