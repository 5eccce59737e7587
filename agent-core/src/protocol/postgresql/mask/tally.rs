//! Masked values -> rows by class.

use std::sync::Arc;

use crate::mask::Masked;

/// Most classes that are counted apart; what comes later is counted with the last.
const MOST: usize = 64;

/// Classes, and in how many rows values of them were masked.
#[derive(Default)]
pub(super) struct Tally {
    classes: Vec<(Arc<str>, u64)>,
    /// Classes that this row has, by bit.
    row: u64,
}

impl Tally {
    /// The number of a class.
    pub(super) fn class(&mut self, name: &str) -> u8 {
        let known = self.classes.iter().position(|(class, _)| **class == *name);
        let at = known.unwrap_or_else(|| {
            if self.classes.len() < MOST {
                self.classes.push((name.into(), 0));
            }
            self.classes.len() - 1
        });
        at as u8
    }

    /// A value of this class was masked.
    pub(super) fn hit(&mut self, class: u8) {
        self.row |= 1 << (class & 63);
    }

    /// The row is over.
    pub(super) fn end_row(&mut self) {
        let mut row = std::mem::take(&mut self.row);
        while row != 0 {
            if let Some((_, rows)) = self.classes.get_mut(row.trailing_zeros() as usize) {
                *rows += 1;
            }
            row &= row - 1;
        }
    }

    /// What was counted since the last call.
    pub(super) fn take(&mut self) -> Vec<Masked> {
        let counted = self.classes.iter_mut().filter(|(_, rows)| *rows > 0);
        counted.map(|(class, rows)| Masked { class: Arc::clone(class), rows: std::mem::take(rows) }).collect()
    }
}
