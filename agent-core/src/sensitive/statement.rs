//! Tokens of a statement -> the columns that it names, its literals, and which column each of them is for.

use std::borrow::Cow;

use super::{Catalog, Found, secrets, values};
use crate::sql::token::{self, Kind, Token};
use crate::sql::{Analysis, Dialect, Redaction, string_value};

/// Most literals of one statement that are looked at.
const LITERALS: usize = 512;
/// Shortest literal that may be of a class, with its quotes.
const SHORTEST: usize = 9;

/// Finds the classes that a statement's names tell: of its columns, of what `*` stands for, of its relations.
pub(crate) fn names(
    dialect: Dialect,
    text: &[u8],
    analysis: &Analysis,
    catalog: &Catalog,
    found: &mut Found,
) {
    let walk = Walk::new(dialect, text, analysis);
    for relation in walk.relations() {
        if let Some(class) = super::names::relation(relation) {
            found.add(class, &format!("{relation}.*"));
        }
    }
    let mut all = Vec::new();
    for at in 0..walk.tokens.len() {
        if let Some(Star(star)) = walk.star(at) {
            match star {
                Some(qualifier) => all.push(walk.resolve(&qualifier)),
                None => all.extend(walk.relations().map(str::to_owned)),
            }
            continue;
        }
        let Some((name, column)) = walk.column(at) else { continue };
        let owner = column.rsplit_once('.').map(|(relation, _)| relation);
        let class = match owner {
            Some(relation) => catalog.column(&std::iter::once(relation), &name),
            None => catalog.column(&walk.relations(), &name),
        };
        if let Some(class) = class {
            found.add(&class, &column);
        }
    }
    if walk.whole_rows() {
        all.extend(walk.relations().map(str::to_owned));
    }
    for relation in &all {
        for (column, class) in catalog.declared(relation) {
            found.add(class, &format!("{relation}.{column}"));
        }
    }
}

/// Finds the classes that a statement's literals tell by their values.
pub(crate) fn literals(dialect: Dialect, text: &[u8], analysis: &Analysis, found: &mut Found) {
    let mut walk = None;
    let mut tokens = Vec::new();
    token::tokenize(dialect, text, &mut tokens);
    let long = tokens.iter().enumerate().filter(|(_, t)| may_matter(**t));
    for (at, token) in long.take(LITERALS) {
        values::classes(&said(text, *token), &mut |class| {
            let walk = walk.get_or_insert_with(|| Walk::new(dialect, text, analysis));
            found.add(class, &walk.bound(at).unwrap_or_default());
        });
    }
}

/// The column that parameter `number` (from 1) is for, where the text tells.
pub(crate) fn parameter(dialect: Dialect, text: &[u8], analysis: &Analysis, number: usize) -> Option<String> {
    let walk = Walk::new(dialect, text, analysis);
    let mut counted = 0;
    let at = walk.tokens.iter().position(|t| {
        if t.kind != Kind::Parameter {
            return false;
        }
        let bytes = t.of(text);
        counted += usize::from(bytes == b"?");
        match bytes.strip_prefix(b"$") {
            Some(digits) => std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()) == Some(number),
            None => counted == number,
        }
    })?;
    walk.bound(at)
}

/// The text with a placeholder for every literal that is sensitive: by its value, or by the column that it is for.
/// [`Redaction::None`] takes only what is a password of a connection string. `None` where nothing has to go.
pub(crate) fn shown(
    dialect: Dialect,
    text: &[u8],
    analysis: &Analysis,
    catalog: &Catalog,
    redaction: Redaction,
) -> Option<Vec<u8>> {
    let mut tokens = Vec::new();
    token::tokenize(dialect, text, &mut tokens);
    let every = redaction == Redaction::Sensitive;
    let mut walk = None;
    let mut out = Vec::new();
    let (mut copied, mut changed) = (0usize, false);
    for (at, token) in tokens.iter().enumerate() {
        let (start, end) = (token.start as usize, token.end as usize);
        // Comments go where they hold something, for they are no one's column.
        let between = text.get(copied..start).unwrap_or_default();
        let hides = between.len() > 8 && has_class(&String::from_utf8_lossy(between), every);
        changed |= hides;
        out.extend_from_slice(if hides { b" " } else { between });
        copied = end;
        let own = token.of(text);
        let goes = token.kind.is_literal() && {
            let value = said(text, *token);
            has_class(&value, every)
                || every && {
                    let walk = walk.get_or_insert_with(|| Walk::new(dialect, text, analysis));
                    walk.bound(at).is_some_and(|column| {
                        let (relation, name) = column.rsplit_once('.').unwrap_or(("", &column));
                        catalog.column(&std::iter::once(relation), name).is_some()
                    })
                }
        };
        changed |= goes;
        out.extend_from_slice(if goes { b"?" } else { own });
    }
    let rest = text.get(copied..).unwrap_or_default();
    let hides = rest.len() > 8 && has_class(&String::from_utf8_lossy(rest), every);
    out.extend_from_slice(if hides { b"" } else { rest });
    (changed || hides).then_some(out)
}

/// `every`: of any class; else only passwords of connection strings.
fn has_class(value: &str, every: bool) -> bool {
    let mut found = false;
    if every {
        values::classes(value, &mut |_| found = true);
    }
    found || secrets::in_text(value)
}

fn may_matter(token: Token) -> bool {
    let length = (token.end - token.start) as usize;
    match token.kind {
        Kind::Number => (13..=19).contains(&length),
        kind => kind.is_literal() && length >= SHORTEST,
    }
}

fn said(text: &[u8], token: Token) -> Cow<'_, str> {
    string_value(text, token)
}

/// A `*` of a select list, with the name before its dot.
struct Star(Option<String>);

struct Walk<'a> {
    text: &'a [u8],
    tokens: Vec<Token>,
    analysis: &'a Analysis,
}

impl<'a> Walk<'a> {
    fn new(dialect: Dialect, text: &'a [u8], analysis: &'a Analysis) -> Self {
        let mut tokens = Vec::new();
        token::tokenize(dialect, text, &mut tokens);
        Self { text, tokens, analysis }
    }

    fn relations(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        self.analysis.statement_relations.iter().map(|relation| &*relation.name)
    }

    fn kind(&self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|t| t.kind)
    }

    fn is(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is(self.text, word))
    }

    fn any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(at, word))
    }

    /// What the name at this token says, in lower case.
    fn name(&self, at: usize) -> Option<String> {
        let token = self.tokens.get(at)?;
        let bytes = match token.kind {
            Kind::Word => token.of(self.text),
            Kind::Name => {
                let quoted = token.of(self.text);
                quoted.get(1..quoted.len().saturating_sub(1))?
            }
            _ => return None,
        };
        (bytes.len() <= 64).then(|| String::from_utf8_lossy(bytes).to_lowercase())
    }

    /// The column named here, and how it is told: with its relation, where that is known.
    fn column(&self, at: usize) -> Option<(String, String)> {
        let token = self.tokens.get(at)?;
        if !matches!(token.kind, Kind::Word | Kind::Name) {
            return None;
        }
        // A function, a schema, a parameter's name.
        if matches!(self.kind(at + 1), Some(Kind::Open | Kind::Dot)) {
            return None;
        }
        let name = self.name(at)?;
        let qualified = at > 1 && self.kind(at - 1) == Some(Kind::Dot);
        let own =
            |relation: &str| relation.rsplit('.').next().unwrap_or(relation).eq_ignore_ascii_case(&name);
        if self.relations().any(own) && (!qualified || self.relations().any(|r| r.contains('.'))) {
            return None;
        }
        if qualified {
            let relation = self.resolve(&self.name(at - 2)?);
            return Some((name.clone(), format!("{relation}.{name}")));
        }
        let mut relations = self.relations();
        let column = match (relations.next(), relations.next()) {
            (Some(only), None) => format!("{only}.{name}"),
            _ => name.clone(),
        };
        Some((name, column))
    }

    /// The relation behind a qualifier: its own name, or an alias.
    fn resolve(&self, qualifier: &str) -> String {
        let own = |relation: &str| relation.rsplit('.').next().unwrap_or(relation).to_lowercase();
        if let Some(relation) = self.relations().find(|relation| own(relation) == qualifier) {
            return relation.to_owned();
        }
        for at in 1..self.tokens.len() {
            if self.name(at).as_deref() != Some(qualifier) || self.kind(at + 1) == Some(Kind::Dot) {
                continue;
            }
            let before = if self.is(at - 1, "as") { at.checked_sub(2) } else { at.checked_sub(1) };
            let Some(named) = before.and_then(|before| self.name(before)) else { continue };
            if let Some(relation) = self.relations().find(|relation| own(relation) == named) {
                return relation.to_owned();
            }
        }
        qualifier.to_owned()
    }

    /// A `*` of a select list, and its qualifier.
    fn star(&self, at: usize) -> Option<Star> {
        let token = self.tokens.get(at)?;
        if token.kind != Kind::Operator || token.of(self.text) != b"*" {
            return None;
        }
        let before = at.checked_sub(1)?;
        if self.kind(before) == Some(Kind::Dot) {
            return Some(Star(before.checked_sub(1).and_then(|at| self.name(at))));
        }
        let lists = self.kind(before) == Some(Kind::Comma)
            || self.any(before, &["select", "distinct", "all", "returning", "output"]);
        lists.then_some(Star(None))
    }

    /// True where a statement moves whole rows without naming a column: `COPY t`, `TABLE t`, `INSERT INTO t VALUES`.
    fn whole_rows(&self) -> bool {
        let first = self.tokens.iter().position(|t| t.kind != Kind::Open).unwrap_or(0);
        if self.any(first, &["table", "backup"]) {
            return true;
        }
        let from = match () {
            () if self.is(first, "copy") => first + 1,
            () if self.any(first, &["insert", "replace"]) && self.is(first + 1, "into") => first + 2,
            () => return false,
        };
        let mut at = from;
        while self.kind(at + 1) == Some(Kind::Dot) {
            at += 2;
        }
        matches!(self.kind(at), Some(Kind::Word | Kind::Name)) && self.kind(at + 1) != Some(Kind::Open)
    }

    /// The column that the literal or parameter at `at` is compared with, assigned to or inserted into.
    fn bound(&self, at: usize) -> Option<String> {
        const BETWEEN: &[&str] = &[
            "like", "ilike", "in", "not", "between", "similar", "to", "any", "all", "cast", "date", "and",
            "rlike", "regexp",
        ];
        if let Some(column) = self.inserted(at) {
            return Some(column);
        }
        let mut compared = false;
        for back in (0..at).rev().take(48) {
            let token = self.tokens.get(back)?;
            match token.kind {
                Kind::Open | Kind::Comma | Kind::OpenBracket | Kind::Parameter | Kind::Colon => {}
                Kind::Operator => compared = true,
                kind if kind.is_literal() => {}
                Kind::Word if BETWEEN.iter().any(|word| token.is(self.text, word)) => compared = true,
                Kind::Word | Kind::Name if compared && self.kind(back + 1) != Some(Kind::Open) => {
                    return self.column(back).map(|(_, column)| column);
                }
                // `lower(email) = ...`
                Kind::Close if compared => {
                    return self.column(back.checked_sub(1)?).map(|(_, column)| column);
                }
                _ => return None,
            }
        }
        None
    }

    /// `INSERT INTO t (a, b) VALUES (1, 2)`: by its place in the tuple.
    fn inserted(&self, at: usize) -> Option<String> {
        let into = (0..at)
            .find(|&i| self.is(i, "into") && self.any(i.wrapping_sub(1), &["insert", "replace", "ignore"]))?;
        let open = (into..at).find(|&i| self.kind(i) == Some(Kind::Open))?;
        let close = (open..at).find(|&i| self.kind(i) == Some(Kind::Close))?;
        if !self.any(close + 1, &["values", "value"])
            && !(close + 1..at.min(close + 8)).any(|i| self.is(i, "values"))
        {
            return None;
        }
        let (mut depth, mut place) = (0usize, 0usize);
        for i in close + 2..at {
            match self.kind(i) {
                Some(Kind::Open) => {
                    depth += 1;
                    if depth == 1 {
                        place = 0;
                    }
                }
                Some(Kind::Close) => depth = depth.saturating_sub(1),
                Some(Kind::Comma) if depth == 1 => place += 1,
                _ => {}
            }
        }
        if depth == 0 {
            return None;
        }
        let columns = (open + 1..close).filter(|&i| matches!(self.kind(i), Some(Kind::Word | Kind::Name)));
        let name = columns.clone().nth(place).and_then(|i| self.name(i))?;
        Some(match self.relations().next() {
            Some(relation) => format!("{relation}.{name}"),
            None => name,
        })
    }
}
