//! Expression -> the names that flow into it, with all that its subqueries name.

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, Select,
    SelectItem, SetExpr, TableFactor, Value, Visitor,
};

use super::super::Origin;
use super::super::functions::is_pure;
use super::lower;
use crate::sql::query::object_name;

/// Longest string in an expression on JSON that may be the name of a member.
const LONGEST_KEY: usize = 64;

/// Counts, and what says only whether there is something.
pub(super) fn tells_nothing(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => tells_nothing(inner),
        Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::Exists { .. } => true,
        Expr::Function(function) => {
            matches!(
                object_name(&function.name).as_str(),
                "count" | "pg_catalog.count" | "row_number" | "rank"
            )
        }
        _ => false,
    }
}

pub(super) fn argument_of(argument: &FunctionArg) -> &FunctionArgExpr {
    match argument {
        FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg) => {
            arg
        }
    }
}

/// Collects the names inside an expression, subqueries with all that is in them.
pub(super) struct Expression<'a> {
    rows: &'a HashSet<String>,
    pub(super) origin: Origin,
    /// Members of JSON are asked for: strings are names.
    pub(super) keys: bool,
    pub(super) strings: Vec<String>,
    /// Queries whose columns do not matter.
    stars: HashSet<usize>,
}

pub(super) fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

impl<'a> Expression<'a> {
    pub(super) fn new(rows: &'a HashSet<String>) -> Self {
        Self { rows, origin: Origin::default(), keys: false, strings: Vec::new(), stars: HashSet::new() }
    }

    fn name(&mut self, name: &Ident) {
        let name = lower(name);
        // A relation's name alone is its whole row.
        self.origin.opaque |= self.rows.contains(&name);
        self.origin.names.insert(name.into());
    }

    fn function(&mut self, function: &Function) {
        let name = object_name(&function.name);
        self.origin.opaque |= !is_pure(&name);
        self.keys |= name.contains("json");
        if let FunctionArguments::List(list) = &function.args {
            for argument in &list.args {
                let whole_row = match argument_of(argument) {
                    FunctionArgExpr::Expr(_) => false,
                    FunctionArgExpr::Wildcard => name != "count",
                    _ => true,
                };
                self.origin.opaque |= whole_row;
            }
        }
    }
}

impl Visitor for Expression<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.name(name),
            Expr::CompoundIdentifier(names) => {
                if let Some(name) = names.last() {
                    self.name(name);
                }
            }
            Expr::CompoundFieldAccess { access_chain, .. } => {
                self.keys = true; // `data['email']`
                for access in access_chain {
                    if let sqlparser::ast::AccessExpr::Dot(Expr::Identifier(name)) = access {
                        self.name(name);
                    }
                }
            }
            Expr::Function(function) => self.function(function),
            Expr::BinaryOp { op, .. } => {
                self.keys |= matches!(
                    op,
                    BinaryOperator::Arrow
                        | BinaryOperator::LongArrow
                        | BinaryOperator::HashArrow
                        | BinaryOperator::HashLongArrow
                );
            }
            Expr::JsonAccess { .. } => self.keys = true,
            Expr::Exists { subquery, .. } => {
                if let SetExpr::Select(select) = &*subquery.body {
                    self.stars.insert(address(&**select));
                }
            }
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => self.origin.opaque = true,
            Expr::Value(value) => {
                if let Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) = &value.value
                    && text.len() <= LONGEST_KEY
                {
                    let keys = text
                        .split(['{', '}', ',', '.', '$', '"', '[', ']', ' '])
                        .filter(|key| !key.is_empty());
                    self.strings.extend(keys.map(str::to_owned));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.origin.opaque |= matches!(*query.body, SetExpr::Table(_));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let star =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        if select.projection.iter().any(star) && !self.stars.contains(&address(select)) {
            self.origin.opaque = true;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Function { name, .. } | TableFactor::Table { name, args: Some(_), .. } = factor {
            self.origin.opaque |= !is_pure(&object_name(name));
        }
        ControlFlow::Continue(())
    }
}
