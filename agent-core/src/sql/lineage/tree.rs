//! Syntax tree -> lineage.

mod expression; // expression -> the names in it

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    AssignmentTarget, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Insert, ObjectName,
    OutputClause, Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableFactor, TableObject, Visit,
    Visitor,
};

use self::expression::{Expression, address, argument_of, tells_nothing};
use super::functions::{is_pure, keeps};
use super::{Lineage, Origin, Output};
use crate::sql::query::object_name;

/// `None` where it is no query.
pub(super) fn read(statement: &Statement) -> Option<Lineage> {
    let mut names = Names::default();
    let _ = statement.visit(&mut names);
    let outermost = match statement {
        Statement::Query(query) => address(&**query),
        _ => 0,
    };
    let mut reader = Reader { names, lineage: Lineage::default(), outermost };
    let columns = reader.statement(statement)?;
    let _ = statement.visit(&mut reader);
    let mut lineage = reader.lineage;
    lineage.relations = reader.names.relations.into_iter().map(Into::into).collect();
    (lineage.whole, lineage.outputs, lineage.every) = (!columns.star, columns.outputs, columns.every);
    Some(lineage)
}

/// Columns of a query.
#[derive(Clone, Default)]
struct Columns {
    outputs: Vec<Output>,
    star: bool,
    every: Origin,
}

impl Columns {
    fn all(&self) -> Origin {
        let mut all = self.every.clone();
        self.outputs.iter().for_each(|output| all.add(&output.origin));
        all.opaque |= self.star;
        all
    }
}

/// Names of relations and their aliases: such a name alone is a whole row.
#[derive(Default)]
struct Names {
    relations: Vec<String>,
    rows: HashSet<String>,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let name = object_name(name);
        self.rows.insert(name.rsplit('.').next().unwrap_or(&name).to_lowercase());
        if !self.relations.contains(&name) && self.relations.len() < 256 {
            self.relations.push(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        // A function's alias is the name of its column.
        let called = matches!(
            factor,
            TableFactor::Table { args: Some(_), .. }
                | TableFactor::Function { .. }
                | TableFactor::UNNEST { .. }
                | TableFactor::TableFunction { .. }
        );
        if let Some(alias) = alias_of(factor).filter(|_| !called) {
            self.rows.insert(lower(&alias.name));
        }
        ControlFlow::Continue(())
    }
}

fn alias_of(factor: &TableFactor) -> Option<&TableAlias> {
    match factor {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::JsonTable { alias, .. }
        | TableFactor::XmlTable { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
        _ => None,
    }
}

fn lower(ident: &Ident) -> String {
    ident.value.to_lowercase()
}

struct Reader {
    names: Names,
    lineage: Lineage,
    /// Address of the query whose columns are the result: nothing in the statement has its names.
    outermost: usize,
}

impl Reader {
    /// The columns that a statement returns; notes what it keeps. `None` where it is no query.
    fn statement(&self, statement: &Statement) -> Option<Columns> {
        let returning = match statement {
            Statement::Query(query) => return Some(self.query(query)),
            Statement::Insert(insert) => insert.returning.as_deref(),
            Statement::Update(update) => update.returning.as_deref(),
            Statement::Delete(delete) => delete.returning.as_deref(),
            Statement::Merge(merge) => match &merge.output {
                Some(
                    OutputClause::Returning { select_items, .. } | OutputClause::Output { select_items, .. },
                ) => Some(select_items.as_slice()),
                None => None,
            },
            _ => return None,
        };
        Some(self.items(returning.unwrap_or_default()))
    }

    fn query(&self, query: &Query) -> Columns {
        self.body(&query.body)
    }

    fn body(&self, body: &SetExpr) -> Columns {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, right, .. } => {
                let (left, right) = (self.body(left), self.body(right));
                merge(left, &right)
            }
            SetExpr::Values(values) => {
                // Columns of any number, each of any of the values.
                let mut every = Origin::default();
                for row in &values.rows {
                    row.iter().for_each(|value| every.add(&self.expression(value)));
                }
                Columns { star: true, every, ..Columns::default() }
            }
            SetExpr::Table(_) => Columns { star: true, ..Columns::default() },
            SetExpr::Insert(s) | SetExpr::Update(s) | SetExpr::Delete(s) | SetExpr::Merge(s) => {
                self.statement(s).unwrap_or_default()
            }
        }
    }

    fn select(&self, select: &Select) -> Columns {
        self.items(&select.projection)
    }

    fn items(&self, items: &[SelectItem]) -> Columns {
        let mut columns = Columns::default();
        for item in items {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = name_of(expr);
                    let bare = name.is_some();
                    columns.outputs.push(Output { name, origin: self.expression(expr), bare });
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    let name = Some(lower(alias).into());
                    let bare = name_of(expr).is_some();
                    columns.outputs.push(Output { name, origin: self.expression(expr), bare });
                }
                SelectItem::ExprWithAliases { .. } => columns.every.opaque = true,
                SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => columns.star = true,
            }
        }
        columns
    }

    /// What flows into an expression.
    fn expression(&self, expr: &Expr) -> Origin {
        if tells_nothing(expr) {
            return Origin::default();
        }
        let mut found = Expression::new(&self.names.rows);
        let _ = expr.visit(&mut found);
        if found.keys {
            found.origin.names.extend(found.strings.into_iter().map(|s| s.to_lowercase().into()));
        }
        found.origin
    }

    /// Notes what the columns of a query inside the statement are made of, by their names.
    fn inner(&mut self, columns: &Columns) {
        for output in &columns.outputs {
            let mut origin = output.origin.clone();
            origin.add(&columns.every);
            match &output.name {
                Some(name) => self.rename(name.clone(), origin, output.bare),
                None => self.lineage.unnamed.add(&origin),
            }
        }
        if columns.star {
            self.lineage.unnamed.add(&columns.every);
        }
    }

    fn rename(&mut self, name: Box<str>, mut origin: Origin, bare: bool) {
        origin.names.remove(&name);
        if !origin.is_nothing() {
            let names = if bare { &mut self.lineage.aliased } else { &mut self.lineage.renamed };
            names.entry(name).or_default().add(&origin);
        }
    }

    /// `(query) AS x(a, b)`: each of the names may be any of the columns.
    fn renames_all(&mut self, alias: Option<&TableAlias>, origin: &Origin) {
        for column in alias.iter().flat_map(|alias| &alias.columns) {
            self.rename(lower(&column.name).into(), origin.clone(), true);
        }
    }

    fn keeps(&mut self, insert: &Insert) {
        if let Some(source) = &insert.source {
            let columns = self.query(source);
            let places = insert.columns.iter().map(|name| {
                let name = object_name(name);
                Some(name.rsplit('.').next().unwrap_or(&name).to_lowercase().into())
            });
            let mut places = places.collect::<Vec<Option<Box<str>>>>().into_iter();
            if columns.star {
                // In which column a value ends up is not known; what is declared for `*` keeps its name.
                self.lineage.kept.push(Output { origin: columns.every.clone(), ..Output::default() });
            }
            for output in columns.outputs {
                let name = if columns.star { None } else { places.next().flatten() };
                self.lineage.kept.push(Output { name, ..output });
            }
        }
        self.assigned(&insert.assignments);
    }

    fn assigned(&mut self, assignments: &[sqlparser::ast::Assignment]) {
        for assignment in assignments {
            let origin = self.expression(&assignment.value);
            let name = match &assignment.target {
                AssignmentTarget::ColumnName(name) => {
                    let name = object_name(name);
                    Some(name.rsplit('.').next().unwrap_or(&name).to_lowercase().into())
                }
                AssignmentTarget::Tuple(_) => None,
            };
            self.lineage.kept.push(Output { name, origin, bare: false });
        }
    }
}

impl Visitor for Reader {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if address(query) != self.outermost {
            let columns = self.query(query);
            self.inner(&columns);
        }
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            if !cte.alias.columns.is_empty() {
                let all = self.query(&cte.query).all();
                self.renames_all(Some(&cte.alias), &all);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && keeps(&object_name(&function.name))
            && let FunctionArguments::List(list) = &function.args
        {
            let mut origin = Origin::default();
            for argument in &list.args {
                match argument_of(argument) {
                    FunctionArgExpr::Expr(expr) => origin.add(&self.expression(expr)),
                    _ => origin.opaque = true,
                }
            }
            self.lineage.kept.push(Output { origin, ..Output::default() });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if select.into.is_some() {
            let columns = self.select(select);
            self.lineage.kept.extend(columns.outputs);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        match statement {
            Statement::Insert(insert) => {
                if !matches!(insert.table, TableObject::TableName(_)) {
                    self.lineage.kept.push(Output { origin: Origin::opaque(), ..Output::default() });
                }
                self.keeps(insert);
                if let Some(sqlparser::ast::OnInsert::OnConflict(on)) = &insert.on
                    && let sqlparser::ast::OnConflictAction::DoUpdate(update) = &on.action
                {
                    self.assigned(&update.assignments);
                }
            }
            Statement::Update(update) => self.assigned(&update.assignments),
            Statement::Merge(_) => {
                let mut all = Expression::new(&self.names.rows);
                if let Statement::Merge(merge) = statement {
                    merge.clauses.iter().for_each(|clause| {
                        let _ = clause.visit(&mut all);
                    });
                }
                let origin = all.origin;
                self.lineage.kept.push(Output { origin, ..Output::default() });
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, alias, args: Some(args), .. } => {
                let origin = self.called(&object_name(name), &args.args);
                self.of_function(alias.as_ref(), &origin);
            }
            TableFactor::Table { alias, args: None, .. } | TableFactor::NestedJoin { alias, .. } => {
                // Columns of a relation by place: which they are is not known.
                self.renames_all(alias.as_ref(), &Origin::opaque());
            }
            TableFactor::Derived { subquery, alias, .. } => {
                let all = self.query(subquery).all();
                self.renames_all(alias.as_ref(), &all);
            }
            TableFactor::Function { name, args, alias, .. } => {
                let origin = self.called(&object_name(name), args);
                self.of_function(alias.as_ref(), &origin);
            }
            TableFactor::UNNEST { array_exprs, alias, .. } => {
                let mut origin = Origin::default();
                for expr in array_exprs {
                    origin.add(&self.expression(expr));
                }
                self.of_function(alias.as_ref(), &origin);
            }
            TableFactor::TableFunction { expr, alias } => {
                let origin = self.expression(expr);
                self.of_function(alias.as_ref(), &origin);
            }
            _ => {
                self.lineage.unnamed.opaque = true;
            }
        }
        ControlFlow::Continue(())
    }
}

impl Reader {
    fn called(&self, name: &str, arguments: &[FunctionArg]) -> Origin {
        let mut origin = Origin { opaque: !is_pure(name), ..Origin::default() };
        for argument in arguments {
            match argument_of(argument) {
                FunctionArgExpr::Expr(expr) => origin.add(&self.expression(expr)),
                _ => origin.opaque = true,
            }
        }
        origin
    }

    fn of_function(&mut self, alias: Option<&TableAlias>, origin: &Origin) {
        self.lineage.unnamed.add(origin);
        self.renames_all(alias, origin);
        if let Some(alias) = alias {
            self.rename(lower(&alias.name).into(), origin.clone(), false);
        }
    }
}

/// Both arms of a set operation, by place.
fn merge(mut left: Columns, right: &Columns) -> Columns {
    if left.star || right.star || left.outputs.len() != right.outputs.len() {
        let mut every = left.all();
        every.add(&right.all());
        left.every = every;
        left.star = true;
        return left;
    }
    left.every.add(&right.every);
    for (one, other) in left.outputs.iter_mut().zip(&right.outputs) {
        one.origin.add(&other.origin);
    }
    left
}

/// The name of a column without an alias, where it is sure.
fn name_of(expr: &Expr) -> Option<Box<str>> {
    match expr {
        Expr::Identifier(name) => Some(lower(name).into()),
        Expr::CompoundIdentifier(names) => names.last().map(|name| lower(name).into()),
        Expr::Nested(inner) => name_of(inner),
        _ => None,
    }
}
