//! Statement -> where each column of its result comes from: the names that flow into it, through aliases, derived
//! tables, `WITH` and expressions. Where that cannot be told the column is opaque: it may hold anything.
//!
//! Names are not scoped: a name stands for every column of that name in the statement, and for all that any alias of
//! that name is made of. So a column is told to come from too much rather than from too little. What a condition lets
//! a client conclude is not followed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sqlparser::ast::Statement;

use super::shape;
use super::token::{self, Kind, Token};
use super::{Dialect, feed, split, understand};

mod functions; // names of functions that read nothing but their arguments
mod tree; // syntax tree -> lineage
#[cfg(test)]
mod tests;

/// What flows into a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Names of columns, in lower case.
    pub(crate) names: BTreeSet<Box<str>>,
    /// Something else too, of which nothing is known.
    pub(crate) opaque: bool,
}

impl Origin {
    fn opaque() -> Self {
        Self { opaque: true, ..Self::default() }
    }

    fn add(&mut self, other: &Origin) {
        self.names.extend(other.names.iter().cloned());
        self.opaque |= other.opaque;
    }

    /// True where nothing flows in: constants, counts, times.
    pub(crate) fn is_nothing(&self) -> bool {
        self.names.is_empty() && !self.opaque
    }
}

/// One column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// The name that it must have, where that is sure.
    pub(crate) name: Option<Box<str>>,
    /// What flows into it.
    pub(crate) origin: Origin,
    /// It is a column as it is, by this or another name.
    pub(crate) bare: bool,
}

/// Where the columns of a statement's result come from, and what it keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lineage {
    /// Every relation that it touches.
    pub(crate) relations: Vec<Arc<str>>,
    /// The result's columns, in order; stars left out.
    pub(crate) outputs: Vec<Output>,
    /// There is no star: the outputs are all there is.
    pub(crate) whole: bool,
    /// Flows into every column.
    every: Origin,
    /// Other names of columns as they are.
    aliased: HashMap<Box<str>, Origin>,
    /// What the names of expressions are made of.
    renamed: HashMap<Box<str>, Origin>,
    /// What columns are made of whose names are not sure: of functions in FROM, of expressions without an alias.
    unnamed: Origin,
    /// What it writes, by the column that it writes to; no name where that is not sure.
    pub(crate) kept: Vec<Output>,
}

/// What a statement returns.
#[derive(Debug)]
pub(crate) enum Returned {
    /// Rows, if any, of these columns.
    Rows(Box<Lineage>),
    /// Nothing that is a value of a table.
    Nothing,
    /// It is not known.
    Unknown,
}

/// Commands that return no values: no rows, or a plan.
const SILENT: &[&str] = &[
    "abort",
    "alter",
    "analyze",
    "begin",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "commit",
    "create",
    "deallocate",
    "declare",
    "discard",
    "drop",
    "end",
    "explain",
    "grant",
    "import",
    "listen",
    "load",
    "lock",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "set",
    "start",
    "truncate",
    "unlisten",
    "vacuum",
];

/// Reads a text with one statement.
pub(crate) fn of(dialect: Dialect, text: &[u8]) -> Returned {
    let mut tokens = Vec::new();
    let closed = token::tokenize(dialect, text, &mut tokens);
    let parts = split::split(dialect, text, &tokens);
    let [only] = parts.as_slice() else {
        return if parts.is_empty() { Returned::Nothing } else { Returned::Unknown };
    };
    let tokens = tokens.get(only.clone()).unwrap_or_default();
    if !closed {
        return Returned::Unknown;
    }
    query(dialect, text, tokens).map_or_else(
        || {
            let silent = tokens.first().is_some_and(|t| SILENT.iter().any(|verb| t.is(text, verb)));
            if silent { Returned::Nothing } else { Returned::Unknown }
        },
        |lineage| Returned::Rows(Box::new(lineage)),
    )
}

fn query(dialect: Dialect, text: &[u8], tokens: &[Token]) -> Option<Lineage> {
    let mut kept = Vec::new();
    shape::reduce(text, tokens, &mut kept);
    if let Some(query) = created(text, tokens) {
        let mut lineage = self::query(dialect, text, tokens.get(query..)?)?;
        lineage.kept = std::mem::take(&mut lineage.outputs);
        if !lineage.whole {
            // The names stay, unless something else flows in.
            lineage.kept.push(Output { name: None, origin: lineage.every.clone(), bare: false });
        }
        lineage.whole = true;
        return Some(lineage);
    }
    if !understand::starts_query(text, &kept) {
        return None;
    }
    feed::statement(dialect, text, &kept, |statement: &Statement| tree::read(statement))?
}

/// Where the query of `CREATE TABLE | [MATERIALIZED] VIEW name AS query` begins.
fn created(text: &[u8], tokens: &[Token]) -> Option<usize> {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|t: &Token| t.is(text, word));
    if !is(0, "create") || !(1..6).any(|at| is(at, "table") || is(at, "view")) {
        return None;
    }
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ if depth == 0 && token.is(text, "as") => {
                let opens = tokens.get(at + 1..)?.iter().find(|t| t.kind != Kind::Open)?;
                let query = ["select", "with", "values", "table"].iter().any(|verb| opens.is(text, verb));
                return query.then_some(at + 1);
            }
            _ => {}
        }
    }
    None
}

impl Lineage {
    /// False where a result with these names is not the one of this statement.
    pub(crate) fn agrees(&self, names: &[&[u8]]) -> bool {
        let same = |output: &Output, name: &[u8]| {
            let told = output.name.as_deref().map(str::as_bytes);
            // Names are cut at 63 bytes.
            told.is_none_or(|told| {
                let told = told.get(..told.len().min(63)).unwrap_or_default();
                name.eq_ignore_ascii_case(told) || !told.is_ascii()
            })
        };
        !self.whole
            || self.outputs.len() == names.len() && self.outputs.iter().zip(names).all(|(o, n)| same(o, n))
    }

    /// What flows into the column at this place. `name`: in lower case; `base`: it is a relation's own column.
    pub(crate) fn column(&self, at: usize, name: &str, base: bool) -> Origin {
        let mut origin = self.every.clone();
        if self.whole {
            match self.outputs.get(at) {
                Some(output) => origin.add(&output.origin),
                None => origin.opaque = true,
            }
        } else {
            origin.names.insert(name.into());
            for output in &self.outputs {
                match &output.name {
                    Some(own) if **own == *name => origin.add(&output.origin),
                    None if !base => origin.add(&output.origin),
                    _ => {}
                }
            }
        }
        self.resolve(origin, base)
    }

    /// All that flows into a column: through every alias.
    pub(crate) fn resolve(&self, mut origin: Origin, base: bool) -> Origin {
        if !base && !origin.names.is_empty() {
            origin.add(&self.unnamed);
        }
        let mut left: Vec<Box<str>> = origin.names.iter().cloned().collect();
        let mut seen: HashSet<Box<str>> = left.iter().cloned().collect();
        while let Some(name) = left.pop() {
            // A relation's own column was no expression on its way.
            let expressions = if base { None } else { self.renamed.get(&name) };
            for behind in self.aliased.get(&name).into_iter().chain(expressions) {
                origin.opaque |= behind.opaque;
                for name in &behind.names {
                    if seen.insert(name.clone()) {
                        origin.names.insert(name.clone());
                        left.push(name.clone());
                    }
                }
            }
        }
        origin
    }
}
