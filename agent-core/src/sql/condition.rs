//! Condition -> does it keep any row out? Folds what is constant, and what is true for every row.

use sqlparser::ast::{BinaryOperator, DataType, Expr, SelectItem, SetExpr, Statement, UnaryOperator, Value};

/// What a condition is known to be without looking at a row.
#[derive(Clone, Debug, PartialEq)]
enum Constant {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

/// Folds conditions and remembers whether a literal's value mattered.
#[derive(Default)]
pub(super) struct Folder<'a> {
    /// A literal's value was looked at.
    pub looked: bool,
    /// The relation whose rows the condition chooses, as written: `id IN (SELECT id FROM t)` keeps all of t.
    pub target: Option<&'a str>,
}

impl Folder<'_> {
    /// True where the condition is missing or true for every row (rows with NULL in a compared column aside).
    pub(super) fn keeps_all(&mut self, condition: Option<&Expr>) -> bool {
        condition.is_none_or(|c| matches!(self.fold(c).as_ref().and_then(truth), Some(true)))
    }

    fn fold(&mut self, expr: &Expr) -> Option<Constant> {
        match expr {
            Expr::Nested(inner) => self.fold(inner),
            Expr::Value(value) => self.literal(&value.value),
            Expr::Tuple(values) if values.len() == 1 => self.fold(values.first()?),
            Expr::UnaryOp { op, expr } => {
                let value = self.fold(expr)?;
                match op {
                    UnaryOperator::Not | UnaryOperator::BangNot => {
                        Some(truth(&value).map_or(Constant::Null, |b| Constant::Bool(!b)))
                    }
                    UnaryOperator::Minus => Some(Constant::Number(-number(&value)?)),
                    UnaryOperator::Plus => Some(value),
                    _ => None,
                }
            }
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right),
            Expr::Cast { expr, data_type, .. } => {
                let value = self.fold(expr)?;
                match data_type {
                    DataType::Bool | DataType::Boolean => {
                        Some(truth(&value).map_or(Constant::Null, Constant::Bool))
                    }
                    _ => Some(value),
                }
            }
            Expr::IsTrue(e) => Some(Constant::Bool(truth(&self.fold(e)?) == Some(true))),
            Expr::IsNotTrue(e) => Some(Constant::Bool(truth(&self.fold(e)?) != Some(true))),
            Expr::IsFalse(e) => Some(Constant::Bool(truth(&self.fold(e)?) == Some(false))),
            Expr::IsNotFalse(e) => Some(Constant::Bool(truth(&self.fold(e)?) != Some(false))),
            Expr::IsNull(e) | Expr::IsUnknown(e) => Some(Constant::Bool(self.fold(e)? == Constant::Null)),
            Expr::IsNotNull(e) | Expr::IsNotUnknown(e) => {
                Some(Constant::Bool(self.fold(e)? != Constant::Null))
            }
            Expr::IsNotDistinctFrom(a, b) if same(a, b) && is_stable(a, 0) => Some(Constant::Bool(true)),
            Expr::IsDistinctFrom(a, b) | Expr::IsNotDistinctFrom(a, b) => {
                let same = self.fold(a)? == self.fold(b)?;
                Some(Constant::Bool(same == matches!(expr, Expr::IsNotDistinctFrom(..))))
            }
            Expr::Between { expr, negated, low, high } => {
                let value = self.fold(expr)?;
                let above = compare(&value, &self.fold(low)?)?.is_ge();
                let inside = above && compare(&value, &self.fold(high)?)?.is_le();
                Some(Constant::Bool(inside != *negated))
            }
            Expr::InList { expr, list, negated } => self.in_list(expr, list, *negated),
            Expr::InSubquery { expr, subquery, negated: false } => self.in_same(expr, subquery),
            Expr::Like { negated, pattern, .. } | Expr::ILike { negated, pattern, .. } => {
                let Expr::Value(value) = &**pattern else { return None };
                let Constant::Text(pattern) = self.literal(&value.value)? else { return None };
                let any = !pattern.is_empty() && pattern.bytes().all(|b| b == b'%');
                any.then_some(Constant::Bool(!*negated))
            }
            Expr::Exists { subquery, negated } => {
                let SetExpr::Select(select) = &*subquery.body else { return None };
                let one_row =
                    select.from.is_empty() && select.selection.is_none() && subquery.limit_clause.is_none();
                one_row.then_some(Constant::Bool(!*negated))
            }
            Expr::Subquery(query) => {
                let SetExpr::Select(select) = &*query.body else { return None };
                let ([SelectItem::UnnamedExpr(value)], true, None) =
                    (select.projection.as_slice(), select.from.is_empty(), &select.selection)
                else {
                    return None;
                };
                self.fold(value)
            }
            Expr::Case { operand: None, conditions, else_result, .. } => {
                for when in conditions {
                    if truth(&self.fold(&when.condition)?) == Some(true) {
                        return self.fold(&when.result);
                    }
                }
                else_result.as_ref().map_or(Some(Constant::Null), |e| self.fold(e))
            }
            _ => None,
        }
    }

    fn literal(&mut self, value: &Value) -> Option<Constant> {
        let constant = match value {
            Value::Null => Constant::Null,
            Value::Boolean(b) => Constant::Bool(*b),
            Value::Number(n, _) => Constant::Number(n.parse().ok()?),
            Value::Placeholder(_) => return None,
            other => Constant::Text(other.clone().into_string()?),
        };
        self.looked = true;
        Some(constant)
    }

    fn binary(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<Constant> {
        match op {
            BinaryOperator::And => {
                let (a, b) = (self.fold(left), self.fold(right));
                let (a, b) = (a.as_ref().map(truth), b.as_ref().map(truth));
                match (a, b) {
                    (Some(Some(false)), _) | (_, Some(Some(false))) => Some(Constant::Bool(false)),
                    (Some(Some(true)), Some(Some(true))) => Some(Constant::Bool(true)),
                    (Some(None), Some(_)) | (Some(_), Some(None)) => Some(Constant::Null),
                    _ => None,
                }
            }
            BinaryOperator::Or => {
                if complementary(left, right) {
                    return Some(Constant::Bool(true));
                }
                let (a, b) = (self.fold(left), self.fold(right));
                let (a, b) = (a.as_ref().map(truth), b.as_ref().map(truth));
                match (a, b) {
                    (Some(Some(true)), _) | (_, Some(Some(true))) => Some(Constant::Bool(true)),
                    (Some(Some(false)), Some(Some(false))) => Some(Constant::Bool(false)),
                    (Some(None), Some(_)) | (Some(_), Some(None)) => Some(Constant::Null),
                    _ => None,
                }
            }
            _ => {
                let reflexive =
                    matches!(op, BinaryOperator::Eq | BinaryOperator::GtEq | BinaryOperator::LtEq);
                if reflexive && same(left, right) && !is_literal(left) && is_stable(left, 0) {
                    return Some(Constant::Bool(true));
                }
                // Look at a literal only where the other side is constant too: `id = 5` must stay shareable.
                if !is_constant(left, 0) || !is_constant(right, 0) {
                    return None;
                }
                apply(&self.fold(left)?, op, &self.fold(right)?)
            }
        }
    }

    fn in_list(&mut self, expr: &Expr, list: &[Expr], negated: bool) -> Option<Constant> {
        if list.iter().any(|e| same(e, expr) && !is_literal(e) && is_stable(e, 0)) {
            return Some(Constant::Bool(!negated));
        }
        if !is_constant(expr, 0) {
            return None;
        }
        let value = self.fold(expr)?;
        let mut found = false;
        for item in list {
            found |= compare(&value, &self.fold(item)?)?.is_eq();
        }
        Some(Constant::Bool(found != negated))
    }

    /// `x IN (SELECT x FROM t)` over the rows of t itself, with nothing that leaves a row out.
    fn in_same(&mut self, expr: &Expr, query: &sqlparser::ast::Query) -> Option<Constant> {
        let SetExpr::Select(select) = &*query.body else { return None };
        let [SelectItem::UnnamedExpr(column)] = select.projection.as_slice() else { return None };
        let [from] = select.from.as_slice() else { return None };
        let sqlparser::ast::TableFactor::Table { name, args: None, sample: None, .. } = &from.relation else {
            return None;
        };
        let plain = query.limit_clause.is_none()
            && query.fetch.is_none()
            && query.with.is_none()
            && select.having.is_none()
            && from.joins.is_empty()
            && self.keeps_all(select.selection.as_ref());
        let same =
            self.target.is_some_and(|t| t == super::query::object_name(name)) && last(expr)? == last(column)?;
        (plain && same).then_some(Constant::Bool(true))
    }
}

/// The column's own name.
fn last(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Identifier(name) => Some(&name.value),
        Expr::CompoundIdentifier(parts) => parts.last().map(|p| p.value.as_str()),
        _ => None,
    }
}

/// True for two ways to write one thing: `"id"` is `id`, and parentheses say nothing.
fn same(a: &Expr, b: &Expr) -> bool {
    match (a, b) {
        (Expr::Nested(a), b) => same(a, b),
        (a, Expr::Nested(b)) => same(a, b),
        (Expr::Identifier(a), Expr::Identifier(b)) => a.value == b.value,
        (Expr::CompoundIdentifier(a), Expr::CompoundIdentifier(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.value == b.value)
        }
        _ => a == b,
    }
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if !matches!(value.value, Value::Placeholder(_)))
}

/// True for what is made of literals only. Deep expressions count as not constant.
fn is_constant(expr: &Expr, depth: u32) -> bool {
    let deeper = |e: &Expr| is_constant(e, depth + 1);
    depth < 24
        && match expr {
            Expr::Value(value) => !matches!(value.value, Value::Placeholder(_)),
            Expr::Nested(e)
            | Expr::UnaryOp { expr: e, .. }
            | Expr::Cast { expr: e, .. }
            | Expr::IsNull(e)
            | Expr::IsNotNull(e)
            | Expr::IsTrue(e)
            | Expr::IsFalse(e) => deeper(e),
            Expr::BinaryOp { left, right, .. } => deeper(left) && deeper(right),
            Expr::Tuple(values) => values.iter().all(deeper),
            Expr::Subquery(_) | Expr::Case { .. } | Expr::Exists { .. } => true, // `fold` looks for itself
            Expr::InList { expr, list, .. } => deeper(expr) && list.iter().all(deeper),
            _ => false,
        }
}

/// True for what has one value for one row, however often it is asked.
fn is_stable(expr: &Expr, depth: u32) -> bool {
    depth < 24
        && match expr {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) => true,
            Expr::Nested(e) | Expr::UnaryOp { expr: e, .. } | Expr::Cast { expr: e, .. } => {
                is_stable(e, depth + 1)
            }
            Expr::BinaryOp { left, right, .. } => is_stable(left, depth + 1) && is_stable(right, depth + 1),
            _ => false,
        }
}

/// `x IS NULL OR x IS NOT NULL`, `c OR NOT c`.
fn complementary(left: &Expr, right: &Expr) -> bool {
    let opposite = |a: &Expr, b: &Expr| match (a, b) {
        (Expr::IsNull(x), Expr::IsNotNull(y)) => same(x, y),
        (x, Expr::UnaryOp { op: UnaryOperator::Not, expr: y }) => same(x, y) && is_stable(x, 0),
        _ => false,
    };
    opposite(left, right) || opposite(right, left)
}

fn truth(value: &Constant) -> Option<bool> {
    match value {
        Constant::Null => None,
        Constant::Bool(b) => Some(*b),
        Constant::Number(n) => Some(*n != 0.0),
        Constant::Text(t) => match t.trim().to_ascii_lowercase().as_str() {
            "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" | "1" => Some(true),
            _ => Some(false),
        },
    }
}

fn number(value: &Constant) -> Option<f64> {
    match value {
        Constant::Number(n) => Some(*n),
        Constant::Text(t) => t.trim().parse().ok(),
        Constant::Null | Constant::Bool(_) => None,
    }
}

fn compare(a: &Constant, b: &Constant) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Constant::Text(a), Constant::Text(b)) => Some(a.cmp(b)),
        (Constant::Bool(_), _) | (_, Constant::Bool(_)) => Some(truth(a)?.cmp(&truth(b)?)),
        _ => number(a)?.partial_cmp(&number(b)?),
    }
}

fn apply(a: &Constant, op: &BinaryOperator, b: &Constant) -> Option<Constant> {
    if *a == Constant::Null || *b == Constant::Null {
        return Some(Constant::Null);
    }
    let order = || compare(a, b);
    Some(match op {
        BinaryOperator::Eq => Constant::Bool(order()?.is_eq()),
        BinaryOperator::NotEq => Constant::Bool(order()?.is_ne()),
        BinaryOperator::Lt => Constant::Bool(order()?.is_lt()),
        BinaryOperator::LtEq => Constant::Bool(order()?.is_le()),
        BinaryOperator::Gt => Constant::Bool(order()?.is_gt()),
        BinaryOperator::GtEq => Constant::Bool(order()?.is_ge()),
        BinaryOperator::Xor => Constant::Bool(truth(a)? != truth(b)?),
        BinaryOperator::Plus => Constant::Number(number(a)? + number(b)?),
        BinaryOperator::Minus => Constant::Number(number(a)? - number(b)?),
        BinaryOperator::Multiply => Constant::Number(number(a)? * number(b)?),
        BinaryOperator::Divide if number(b)? != 0.0 => Constant::Number(number(a)? / number(b)?),
        BinaryOperator::StringConcat => match (a, b) {
            (Constant::Text(a), Constant::Text(b)) => Constant::Text(format!("{a}{b}")),
            _ => return None,
        },
        _ => return None,
    })
}

/// Folds the condition of a statement that only its tokens tell about.
pub(super) fn is_true(expr: &Expr) -> bool {
    Folder::default().keeps_all(Some(expr))
}

/// The name of the relation that a statement changes, for [`Folder::target`].
pub(super) fn changed(statement: &Statement) -> Option<String> {
    super::query::changed_relation(statement)
}
