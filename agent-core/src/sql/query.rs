//! Syntax tree -> findings: every relation, function and change in a query, wherever it stands.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, FromTable, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Insert,
    Merge, MergeAction, MergeClauseKind, ObjectName, OnConflictAction, OnInsert, Query, Select, SetExpr,
    Statement, TableFactor, TableObject, TableWithJoins, Value, Visit, Visitor,
};

use super::condition::Folder;
use super::draft::Draft;
use super::function::{self, Arguments};
use super::{Access, Dialect, Effect, scan};

/// Notes everything that the statement does. False where it is no query (then nothing is noted).
pub(super) fn read(dialect: Dialect, statement: &Statement, draft: &mut Draft) -> bool {
    let Some(operation) = operation(statement) else { return false };
    operation.clone_into(&mut draft.operation);
    let mut walk = Walk {
        dialect,
        draft,
        scopes: Vec::new(),
        written: Vec::new(),
        skipped: Vec::new(),
        top: true,
        aside: Vec::new(),
    };
    let _ = statement.visit(&mut walk);
    let aside = std::mem::take(&mut walk.aside);
    for word in &aside {
        draft.mention(word);
    }
    true
}

fn operation(statement: &Statement) -> Option<&'static str> {
    match statement {
        Statement::Query(query) => body_operation(&query.body),
        Statement::Insert(insert) => Some(if insert.replace_into { "REPLACE" } else { "INSERT" }),
        Statement::Update(_) => Some("UPDATE"),
        Statement::Delete(_) => Some("DELETE"),
        Statement::Merge(_) => Some("MERGE"),
        _ => None,
    }
}

fn body_operation(body: &SetExpr) -> Option<&'static str> {
    match body {
        SetExpr::Select(_) | SetExpr::SetOperation { .. } | SetExpr::Table(_) => Some("SELECT"),
        SetExpr::Values(_) => Some("VALUES"),
        SetExpr::Query(query) => body_operation(&query.body),
        SetExpr::Insert(s) | SetExpr::Update(s) | SetExpr::Delete(s) | SetExpr::Merge(s) => operation(s),
    }
}

/// The name as written, folded, with its schema.
pub(super) fn object_name(name: &ObjectName) -> String {
    let mut out = String::new();
    for part in &name.0 {
        if !out.is_empty() {
            out.push('.');
        }
        if let Some(ident) = part.as_ident() {
            out.push_str(&ident.value);
        }
    }
    out
}

/// The relation whose rows a statement changes.
pub(super) fn changed_relation(statement: &Statement) -> Option<String> {
    let factor = match statement {
        Statement::Update(update) => &update.table.relation,
        Statement::Merge(merge) => &merge.table,
        Statement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            &from.first()?.relation
        }
        _ => return None,
    };
    match factor {
        TableFactor::Table { name, .. } => Some(object_name(name)),
        _ => None,
    }
}

/// Names of one `WITH`, and how many of them may be used where we are.
struct Scope {
    query: usize,
    names: Vec<(String, usize)>,
    recursive: bool,
    visible: usize,
    /// The summary's words of the outer query, put aside while the `WITH` queries are read.
    open: usize,
}

struct Walk<'d> {
    dialect: Dialect,
    draft: &'d mut Draft,
    scopes: Vec<Scope>,
    /// Addresses of names that are written.
    written: Vec<usize>,
    /// Addresses of names that are no relations.
    skipped: Vec<usize>,
    /// The outermost verb was not met yet: it is the operation already.
    top: bool,
    /// The summary of `WITH` queries, which follows the main one.
    aside: Vec<String>,
}

fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

impl Walk<'_> {
    fn mention(&mut self, word: &str) {
        let inside_with = self.scopes.iter().any(|s| s.open > 0);
        if !inside_with {
            self.draft.mention(word);
        } else if self.aside.len() < 16 {
            self.aside.push(word.to_owned());
        }
    }

    fn verb(&mut self, word: &str) {
        let inside_with = self.scopes.iter().any(|s| s.open > 0);
        if self.top && !inside_with {
            self.top = false; // it is the operation, which opens the summary
        } else {
            self.mention(word);
        }
    }

    fn is_cte(&self, name: &ObjectName) -> bool {
        let [only] = name.0.as_slice() else { return false };
        let Some(ident) = only.as_ident() else { return false };
        self.scopes.iter().any(|scope| {
            let visible = if scope.recursive { scope.names.len() } else { scope.visible };
            scope.names.iter().take(visible).any(|(name, _)| *name == ident.value)
        })
    }

    fn relation(&mut self, name: &str, access: Access) {
        if access == Access::Write && function::is_catalog(name) {
            self.draft.effect(Effect::Admin);
        }
        self.draft.relation(name, access);
        self.mention(name);
    }

    fn write_factor(&mut self, factor: &TableFactor) {
        if let TableFactor::Table { name, .. } = factor {
            self.written.push(address(name));
        }
    }

    fn insert(&mut self, insert: &Insert) {
        self.verb(if insert.replace_into { "REPLACE" } else { "INSERT" });
        self.draft.effect(Effect::Insert);
        if insert.replace_into {
            self.draft.effect(Effect::Delete);
        }
        match &insert.table {
            TableObject::TableName(name) if self.dialect == Dialect::Tsql && function::is_rowset(name) => {
                // `INSERT INTO OPENROWSET(...)`, which the parser takes for a table with columns.
                self.skipped.push(address(name));
                self.function(name, &[]);
                self.draft.incomplete = true;
            }
            TableObject::TableName(name) => self.written.push(address(name)),
            TableObject::TableFunction(function) => {
                self.draft.effect(Effect::CopyOut); // to a file, a bucket or another server
                self.called(function);
            }
            TableObject::TableQuery(_) => {}
        }
        match &insert.on {
            Some(OnInsert::DuplicateKeyUpdate(_)) => self.draft.effect(Effect::Update),
            Some(OnInsert::OnConflict(on)) if matches!(on.action, OnConflictAction::DoUpdate(_)) => {
                self.draft.effect(Effect::Update);
            }
            _ => {}
        }
    }

    fn keeps_all(&mut self, condition: Option<&Expr>, target: Option<&str>) -> bool {
        let mut folder = Folder { looked: false, target };
        let all = folder.keeps_all(condition);
        self.draft.literal_bound |= folder.looked;
        all
    }

    fn merge(&mut self, merge: &Merge, target: Option<&str>) {
        self.verb("MERGE");
        self.write_factor(&merge.table);
        // The source is read whatever happens to the target.
        self.draft.effect(Effect::Read);
        let all_match = self.keeps_all(Some(&merge.on), target);
        for clause in &merge.clauses {
            match &clause.action {
                MergeAction::Insert(_) => self.draft.effect(Effect::Insert),
                MergeAction::Update(_) => self.draft.effect(Effect::Update),
                MergeAction::Delete { .. } => self.draft.effect(Effect::Delete),
                MergeAction::DoNothing { .. } => {}
            }
            let changes = matches!(clause.action, MergeAction::Update(_) | MergeAction::Delete { .. });
            let reaches_all = match clause.clause_kind {
                MergeClauseKind::Matched => all_match,
                MergeClauseKind::NotMatchedBySource => true,
                MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => false,
            };
            if changes && reaches_all && self.keeps_all(clause.predicate.as_ref(), target) {
                self.draft.unbounded = true;
            }
        }
    }

    fn called(&mut self, Function { name, args, .. }: &Function) {
        let list = match args {
            FunctionArguments::List(FunctionArgumentList { args, .. }) => args.as_slice(),
            FunctionArguments::None | FunctionArguments::Subquery(_) => &[],
        };
        self.function(name, list);
    }

    fn function(&mut self, name: &ObjectName, arguments: &[FunctionArg]) {
        let part = |at: usize| name.0.get(at).and_then(|p| p.as_ident()).map(|i| i.value.as_str());
        let Some(last) = name.0.len().checked_sub(1) else { return };
        let Some(own) = part(last) else { return };
        let schema = last.checked_sub(1).and_then(part);
        let lower;
        let own = if own.bytes().any(|b| b.is_ascii_uppercase()) && self.dialect != Dialect::Postgresql {
            lower = own.to_ascii_lowercase();
            lower.as_str()
        } else {
            own
        };
        let meaning = function::called(own, schema, self.dialect, self.draft);
        if meaning == Arguments::Plain {
            return;
        }
        let literal = |argument: &FunctionArg| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
            | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. } => text_of(expr),
            _ => None,
        };
        self.draft.literal_bound = true;
        match meaning {
            Arguments::Plain => {}
            Arguments::Setting => {
                if let Some(setting) = arguments.first().and_then(literal) {
                    function::set(&setting, self.draft);
                } else {
                    self.draft.effect(Effect::Admin);
                    self.draft.incomplete = true;
                }
            }
            Arguments::Sequence => {
                if let Some(name) = arguments.first().and_then(literal) {
                    self.draft.relation(&name, Access::Write);
                }
            }
            Arguments::Statement => {
                // What runs there is a text: name what stands in it, and say that it may not be all.
                self.draft.incomplete = true;
                for text in arguments.iter().filter_map(literal) {
                    scan::dynamic(self.dialect, text.as_bytes(), self.draft);
                }
            }
        }
    }
}

/// The text that a literal, or literals put together, say; what is not known in it becomes a space.
fn text_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) if !matches!(value.value, Value::Placeholder(_) | Value::Number(..)) => {
            value.value.clone().into_string()
        }
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => text_of(inner),
        Expr::BinaryOp { left, op: sqlparser::ast::BinaryOperator::StringConcat, right } => {
            let (left, right) = (text_of(left), text_of(right));
            (left.is_some() || right.is_some())
                .then(|| format!("{}{}", left.as_deref().unwrap_or(" "), right.as_deref().unwrap_or(" ")))
        }
        _ => None,
    }
}

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        // A query of the innermost WITH: it sees the names before it, or all of them where it may recurse.
        if let Some(scope) = self.scopes.last_mut()
            && let Some(at) = scope.names.iter().position(|(_, q)| *q == address(query))
        {
            scope.visible = at;
            scope.open += 1;
        }
        if let Some(with) = &query.with {
            let names =
                with.cte_tables.iter().map(|c| (c.alias.name.value.clone(), address(&*c.query))).collect();
            self.scopes.push(Scope {
                query: address(query),
                names,
                recursive: with.recursive,
                visible: 0,
                open: 0,
            });
        }
        if !query.locks.is_empty() {
            self.draft.effect(Effect::Lock);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.scopes.pop_if(|scope| scope.query == address(query) && query.with.is_some());
        if let Some(scope) = self.scopes.last_mut()
            && let Some(at) = scope.names.iter().position(|(_, q)| *q == address(query))
        {
            scope.visible = at + 1;
            scope.open = scope.open.saturating_sub(1);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.verb("SELECT");
        self.draft.effect(Effect::Read);
        if let Some(into) = &select.into {
            for target in &into.targets {
                let name = match target {
                    Expr::Identifier(name) => name.value.clone(),
                    Expr::CompoundIdentifier(parts) => {
                        parts.iter().map(|p| p.value.as_str()).collect::<Vec<_>>().join(".")
                    }
                    _ => continue,
                };
                if self.dialect != Dialect::Mysql && !name.starts_with('@') {
                    self.draft.effect(Effect::Create);
                    self.relation(&name, Access::Write);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        let target = super::condition::changed(statement);
        match statement {
            Statement::Insert(insert) => self.insert(insert),
            Statement::Update(update) => {
                self.verb("UPDATE");
                self.draft.effect(Effect::Update);
                self.write_factor(&update.table.relation);
                let all = self.keeps_all(update.selection.as_ref(), target.as_deref());
                self.draft.unbounded |= all && update.limit.is_none() && !bounded_by_join(&update.table);
            }
            Statement::Delete(delete) => {
                self.verb("DELETE");
                self.draft.effect(Effect::Delete);
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                if delete.tables.is_empty() {
                    for table in from {
                        self.write_factor(&table.relation);
                    }
                }
                for name in &delete.tables {
                    self.relation(&aliased(&object_name(name), from), Access::Write);
                }
                let all = self.keeps_all(delete.selection.as_ref(), target.as_deref());
                self.draft.unbounded |= all && delete.limit.is_none() && !from.iter().any(bounded_by_join);
            }
            Statement::Merge(merge) => self.merge(merge, target.as_deref()),
            Statement::Query(_) => {}
            // A statement of another kind inside a query: not something that PostgreSQL has.
            _ => self.draft.incomplete = true,
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(args), .. } => {
                self.skipped.push(address(name));
                self.function(name, &args.args);
            }
            TableFactor::Function { name, args, .. } => self.function(name, args),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let here = address(name);
        if let Some(at) = self.written.iter().position(|&w| w == here) {
            self.written.swap_remove(at);
            self.relation(&object_name(name), Access::Write);
        } else if let Some(at) = self.skipped.iter().position(|&s| s == here) {
            self.skipped.swap_remove(at);
        } else if !self.is_cte(name) {
            self.draft.effect(Effect::Read);
            self.relation(&object_name(name), Access::Read);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.called(function);
        }
        ControlFlow::Continue(())
    }
}

/// The relation behind a name in `DELETE name FROM relation AS name ...`.
fn aliased(name: &str, from: &[TableWithJoins]) -> String {
    let factors =
        from.iter().flat_map(|t| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)));
    for factor in factors {
        if let TableFactor::Table { name: own, alias: Some(alias), .. } = factor
            && alias.name.value == name
        {
            return object_name(own);
        }
    }
    name.to_owned()
}

/// MySQL's `UPDATE a JOIN b ON ...`: an inner join with a condition leaves rows out.
fn bounded_by_join(table: &TableWithJoins) -> bool {
    use sqlparser::ast::{JoinConstraint, JoinOperator};
    table.joins.iter().any(|join| match &join.join_operator {
        JoinOperator::Join(on) | JoinOperator::Inner(on) => match on {
            JoinConstraint::On(condition) => !super::condition::is_true(condition),
            JoinConstraint::Using(_) | JoinConstraint::Natural => true,
            JoinConstraint::None => false,
        },
        _ => false,
    })
}
