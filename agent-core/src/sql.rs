//! Text -> what it does: operation, effects, relations, bounds, fingerprint. Parsed once per distinct shape.
//!
//! A text is cut into tokens as its database would cut them. Its shape, the tokens without the literals' values, finds
//! what is already known; a new shape is read by `sqlparser` where it is a query, by our own grammar where it is a
//! utility statement, and by a scan of its tokens where neither understands it.

use std::sync::{Arc, OnceLock};

use crate::event::DataClass;
use crate::sensitive::{self, Catalog, Found};

mod command; // commands of databases without SQL -> findings
mod cache; // bytes -> what is known
mod condition; // condition -> does it keep rows out
mod draft; // findings -> analysis
mod feed; // our tokens -> syntax tree
mod function; // function and setting names -> effects
pub(crate) mod lineage; // statement -> where the columns of its result come from
mod query; // syntax tree -> findings
mod scan; // tokens that nothing understands -> findings
pub mod shape; // tokens -> key, redacted text, fingerprint
pub mod split; // tokens -> statements
pub mod token; // bytes -> tokens
mod understand; // one statement -> findings
mod utility; // tokens of a utility statement -> findings
#[cfg(test)]
mod tests;

use cache::{Clock, Keyed};

/// How a database's statements are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL 9 to 18.
    #[default]
    Postgresql,
    /// MySQL and MariaDB.
    Mysql,
    /// SQL Server.
    Tsql,
    /// ClickHouse.
    Clickhouse,
    /// Redis and its kin: command lines.
    Redis,
    /// MongoDB: commands as documents, or as its shell has them.
    Mongodb,
}

impl Dialect {
    /// False for databases whose commands are no SQL.
    pub fn is_sql(self) -> bool {
        !matches!(self, Dialect::Redis | Dialect::Mongodb)
    }

    /// The dialect of a `db_system_name`.
    pub fn of_system(name: &str) -> Option<Dialect> {
        match name {
            "postgresql" => Some(Dialect::Postgresql),
            "mysql" | "mariadb" => Some(Dialect::Mysql),
            "microsoft.sql_server" | "mssql" | "tsql" => Some(Dialect::Tsql),
            "clickhouse" => Some(Dialect::Clickhouse),
            "redis" | "valkey" => Some(Dialect::Redis),
            "mongodb" => Some(Dialect::Mongodb),
            _ => None,
        }
    }
}

/// How much of a statement's text is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redaction {
    /// Every literal is a placeholder, comments are gone.
    #[default]
    Literals,
    /// Literals of a sensitive class are placeholders, by their value or by the column that they are for.
    Sensitive,
    /// The text as sent; only where a password can stand the literals are gone.
    None,
}

/// One distinct statement text and, once asked for, what it does. `Debug` prints a length only.
pub struct Text {
    dialect: Dialect,
    bytes: Box<[u8]>,
    content: Content,
}

/// What a text holds.
enum Content {
    /// One statement: what its shape tells, and what only these literals tell.
    One { shape: Arc<Shape>, own: OnceLock<Box<Analysis>>, data: OnceLock<Arc<[DataClass]>> },
    /// One command of a database without SQL.
    Command { command: Box<command::Command>, data: OnceLock<Arc<[DataClass]>> },
    /// None, or several.
    Parts { parts: Box<[Arc<Text>]>, merged: OnceLock<Box<Analysis>>, data: OnceLock<Arc<[DataClass]>> },
}

/// What texts share that differ in their literals' values only.
struct Shape {
    dialect: Dialect,
    key: Box<[u8]>,
    /// `None` where what a text does depends on its literals: then each text has its own.
    analysis: OnceLock<Option<Box<Analysis>>>,
    /// The classes that its names tell.
    data: OnceLock<Arc<[DataClass]>>,
}

impl Keyed for Text {
    fn dialect(&self) -> Dialect {
        self.dialect
    }
    fn key(&self) -> &[u8] {
        &self.bytes
    }
    fn weight(&self) -> usize {
        let parts = match &self.content {
            Content::One { .. } => 0,
            Content::Command { command, .. } => 2 * command.analysis.redacted.len() + 1024,
            Content::Parts { parts, .. } => parts.iter().map(|part| part.weight()).sum(),
        };
        self.bytes.len() + parts + 160
    }
}

impl Keyed for Shape {
    fn dialect(&self) -> Dialect {
        self.dialect
    }
    fn key(&self) -> &[u8] {
        &self.key
    }
    fn weight(&self) -> usize {
        // Its analysis comes later: a redacted text as long as the key, and a few names.
        self.key.len() * 2 + 1024
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "text[{}]", self.bytes.len())
    }
}

/// What a statement does. Field names are those of the event.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    /// `SELECT orders`.
    pub db_query_summary: Arc<str>,
    /// `SELECT`.
    pub db_operation_name: Arc<str>,
    /// `orders`: the first relation, empty where there is none.
    pub db_collection_name: Arc<str>,
    /// Equal for statements that differ in literals, spacing, comments and list lengths only.
    pub db_query_fingerprint: Arc<str>,
    /// What it does to the world, sorted, each once.
    pub statement_effects: Arc<[Effect]>,
    /// What it touches, as written, in order of appearance, each once per access.
    pub statement_relations: Arc<[Relation]>,
    /// An update or delete whose effective condition keeps no row out.
    pub statement_unbounded: bool,
    /// False: not every part was understood.
    pub statement_complete: bool,
    /// The text with every literal replaced by a placeholder, without comments, in single spaces; long lists are cut.
    pub redacted: Arc<str>,
}

impl Analysis {
    /// A function called by its object id, without a text: what it does cannot be known from the message.
    pub fn function_call(id: u32) -> Self {
        Self {
            db_query_summary: format!("CALL {id}").into(),
            db_operation_name: "CALL".into(),
            statement_effects: [Effect::Call].into(),
            ..Self::default()
        }
    }
}

/// What a statement does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each name is the vocabulary of the event contract")]
pub enum Effect {
    Read,
    Insert,
    Update,
    Delete,
    Truncate,
    Create,
    Alter,
    Drop,
    Grant,
    Revoke,
    CopyIn,
    CopyOut,
    Call,
    Execute,
    Lock,
    Session,
    Admin,
    File,
    Program,
    Replicate,
}

impl Effect {
    /// All of them, in the contract's order.
    pub const ALL: [Effect; 20] = [
        Effect::Read,
        Effect::Insert,
        Effect::Update,
        Effect::Delete,
        Effect::Truncate,
        Effect::Create,
        Effect::Alter,
        Effect::Drop,
        Effect::Grant,
        Effect::Revoke,
        Effect::CopyIn,
        Effect::CopyOut,
        Effect::Call,
        Effect::Execute,
        Effect::Lock,
        Effect::Session,
        Effect::Admin,
        Effect::File,
        Effect::Program,
        Effect::Replicate,
    ];

    /// Its name in events and policies.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Read => "read",
            Effect::Insert => "insert",
            Effect::Update => "update",
            Effect::Delete => "delete",
            Effect::Truncate => "truncate",
            Effect::Create => "create",
            Effect::Alter => "alter",
            Effect::Drop => "drop",
            Effect::Grant => "grant",
            Effect::Revoke => "revoke",
            Effect::CopyIn => "copy_in",
            Effect::CopyOut => "copy_out",
            Effect::Call => "call",
            Effect::Execute => "execute",
            Effect::Lock => "lock",
            Effect::Session => "session",
            Effect::Admin => "admin",
            Effect::File => "file",
            Effect::Program => "program",
            Effect::Replicate => "replicate",
        }
    }
}

/// Whether a relation is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    Write,
}

/// A relation that a statement touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Relation {
    /// As written, folded as the dialect folds it, schema-qualified where the text is.
    pub name: Arc<str>,
    /// How.
    pub access: Access,
}

impl Text {
    /// The exact bytes as sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The dialect that it is read in.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What it does; worked out at the first call. Several statements together do what each of them does.
    pub fn analysis(&self) -> &Analysis {
        match &self.content {
            Content::One { shape, own, .. } => {
                let shared = shape.analysis.get_or_init(|| {
                    let found = understand::statement(self.dialect, &self.bytes);
                    if found.literal_bound {
                        let _ = own.set(Box::new(found.analysis));
                        return None;
                    }
                    Some(Box::new(found.analysis))
                });
                match shared {
                    Some(analysis) => analysis,
                    None => own
                        .get_or_init(|| Box::new(understand::statement(self.dialect, &self.bytes).analysis)),
                }
            }
            Content::Command { command, .. } => &command.analysis,
            Content::Parts { parts, merged, .. } => {
                merged.get_or_init(|| Box::new(draft::merge(parts.iter().map(|part| part.analysis()))))
            }
        }
    }

    /// True where a literal decides what it does: another text of its shape may do something else.
    pub fn is_literal_bound(&self) -> bool {
        match &self.content {
            Content::One { shape, .. } => {
                let _ = self.analysis();
                matches!(shape.analysis.get(), Some(None) | None)
            }
            Content::Command { .. } => true,
            Content::Parts { parts, .. } => parts.iter().any(|part| part.is_literal_bound()),
        }
    }

    /// The statements of this text as the database splits them, in order. A text with one statement is its own
    /// only part; a text with none (blank, comments only) has no parts.
    pub fn parts(self: &Arc<Self>) -> &[Arc<Text>] {
        match &self.content {
            Content::One { .. } | Content::Command { .. } => std::slice::from_ref(self),
            Content::Parts { parts, .. } => parts,
        }
    }

    /// The classes of sensitive data that it touches, by the names in it and by its literals. Worked out at the first
    /// call, with that call's catalogue: one set of texts goes with one catalogue.
    pub fn data_classes(&self, catalog: &Catalog) -> &Arc<[DataClass]> {
        match &self.content {
            Content::One { shape, data, .. } => data.get_or_init(|| {
                let analysis = self.analysis();
                let names = shape.data.get_or_init(|| {
                    let mut found = Found::default();
                    sensitive::names_of(self.dialect, &self.bytes, analysis, catalog, &mut found);
                    found.into()
                });
                let mut found = Found::default();
                sensitive::literals(self.dialect, &self.bytes, analysis, &mut found);
                if found.is_empty() {
                    return Arc::clone(names);
                }
                let mut all = Found::default();
                all.extend(names);
                all.extend(found.as_slice());
                all.into()
            }),
            Content::Command { command, data } => data.get_or_init(|| command.data_classes(catalog)),
            Content::Parts { parts, data, .. } => data.get_or_init(|| {
                let mut found = Found::default();
                parts.iter().for_each(|part| found.extend(part.data_classes(catalog)));
                found.into()
            }),
        }
    }

    /// The column that parameter `number`, from 1, is for, where the text tells.
    pub fn column_of_parameter(&self, number: usize) -> Option<String> {
        if !self.dialect.is_sql() {
            return None;
        }
        sensitive::parameter(self.dialect, &self.bytes, self.analysis(), number)
    }

    /// The text as a redaction setting allows it to be shown, with what names alone tell about columns.
    pub fn shown(&self, redaction: Redaction) -> Arc<str> {
        self.shown_with(redaction, &Catalog::default())
    }

    /// The text as a redaction setting allows it to be shown. Bytes that are not UTF-8 show as U+FFFD.
    pub fn shown_with(&self, redaction: Redaction, catalog: &Catalog) -> Arc<str> {
        let analysis = self.analysis();
        if !self.dialect.is_sql() {
            let hides = redaction == Redaction::Literals
                || self.may_hold_password()
                || redaction == Redaction::Sensitive && !self.data_classes(catalog).is_empty();
            return if hides {
                Arc::clone(&analysis.redacted)
            } else {
                String::from_utf8_lossy(&self.bytes).into()
            };
        }
        if redaction == Redaction::Literals || understand::may_hold_password(self.dialect, &self.bytes) {
            return Arc::clone(&analysis.redacted);
        }
        let shown = sensitive::shown(self.dialect, &self.bytes, analysis, catalog, redaction);
        String::from_utf8_lossy(shown.as_deref().unwrap_or(&self.bytes)).into()
    }
}

impl Text {
    /// True where a command without SQL may hold a password.
    fn may_hold_password(&self) -> bool {
        match &self.content {
            Content::One { .. } => false,
            Content::Command { command, .. } => {
                command.secret || sensitive::has_password(&String::from_utf8_lossy(&self.bytes))
            }
            Content::Parts { parts, .. } => parts.iter().any(|part| part.may_hold_password()),
        }
    }
}

/// What a string literal says, and any other literal as it is written.
pub(crate) fn string_value(text: &[u8], token: token::Token) -> std::borrow::Cow<'_, str> {
    feed::value(text, token)
}

/// Works out what a text does, outside any cache. Never fails: what is not understood makes it incomplete.
pub fn analyze(dialect: Dialect, text: &[u8]) -> Analysis {
    Texts::with_limits(1, 0).intern(dialect, text).analysis().clone()
}

/// The texts seen so far, by exact bytes and by shape. A hit allocates nothing.
pub struct Texts {
    texts: Clock<Text>,
    shapes: Clock<Shape>,
    tokens: Vec<token::Token>,
    kept: Vec<shape::Kept>,
    key: Vec<u8>,
    lookups: [u64; 3],
}

impl Default for Texts {
    /// 65,536 texts in 32 MiB.
    fn default() -> Self {
        Self::with_limits(65_536, 32 << 20)
    }
}

impl Texts {
    /// Keeps at most this many texts and about this many bytes of them, and a quarter as many shapes.
    pub fn with_limits(texts: usize, bytes: usize) -> Self {
        Self {
            texts: Clock::new(texts, bytes),
            shapes: Clock::new(texts.div_ceil(4), bytes),
            tokens: Vec::new(),
            kept: Vec::new(),
            key: Vec::new(),
            lookups: [0; 3],
        }
    }

    /// The shared text for these bytes.
    pub fn intern(&mut self, dialect: Dialect, bytes: &[u8]) -> Arc<Text> {
        let hash = self.texts.hash(bytes);
        if let Some(text) = self.texts.get(hash, dialect, bytes) {
            self.lookups[0] += 1;
            return text;
        }
        let text = self.read(dialect, bytes);
        self.texts.insert(hash, &text);
        text
    }

    /// Texts kept now, and about how many bytes they hold.
    pub fn size(&self) -> (usize, usize) {
        (self.texts.len(), self.texts.bytes() + self.shapes.bytes())
    }

    /// Statements looked up so far: found as they were, found by their shape, not found.
    pub fn lookups(&self) -> [u64; 3] {
        self.lookups
    }

    fn read(&mut self, dialect: Dialect, bytes: &[u8]) -> Arc<Text> {
        if let Some(commands) = command::read(dialect, bytes) {
            return Self::commands(dialect, bytes, commands);
        }
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.clear();
        token::tokenize(dialect, bytes, &mut tokens);
        let parts = split::split(dialect, bytes, &tokens);
        let content = if let [only] = parts.as_slice() {
            self.one(dialect, bytes, tokens.get(only.clone()).unwrap_or_default())
        } else {
            let mut cut = Vec::with_capacity(parts.len());
            for part in &parts {
                // A part owns the comments around it, up to the semicolons.
                let from =
                    part.start.checked_sub(1).and_then(|at| tokens.get(at)).map_or(0, |t| t.end as usize);
                let to = tokens.get(part.end).map_or(bytes.len(), |t| t.start as usize);
                let inner = tokens.get(part.clone()).unwrap_or_default();
                let content = self.one(dialect, bytes, inner);
                let bytes = bytes.get(from..to).unwrap_or_default().trim_ascii().into();
                cut.push(Arc::new(Text { dialect, bytes, content }));
            }
            Content::Parts { parts: cut.into(), merged: OnceLock::new(), data: OnceLock::new() }
        };
        tokens.clear();
        tokens.shrink_to(SCRATCH);
        self.tokens = tokens;
        Arc::new(Text { dialect, bytes: bytes.into(), content })
    }

    fn commands(
        dialect: Dialect,
        bytes: &[u8],
        commands: Vec<(std::ops::Range<usize>, command::Command)>,
    ) -> Arc<Text> {
        let content = |command| Content::Command { command: Box::new(command), data: OnceLock::new() };
        if commands.len() == 1 {
            let only = commands.into_iter().map(|(_, command)| content(command)).next();
            let empty =
                || Content::Parts { parts: [].into(), merged: OnceLock::new(), data: OnceLock::new() };
            return Arc::new(Text { dialect, bytes: bytes.into(), content: only.unwrap_or_else(empty) });
        }
        let part = |(range, command): (std::ops::Range<usize>, _)| {
            let bytes = bytes.get(range).unwrap_or_default().trim_ascii().into();
            Arc::new(Text { dialect, bytes, content: content(command) })
        };
        let parts = commands.into_iter().map(part).collect();
        let content = Content::Parts { parts, merged: OnceLock::new(), data: OnceLock::new() };
        Arc::new(Text { dialect, bytes: bytes.into(), content })
    }

    fn one(&mut self, dialect: Dialect, text: &[u8], tokens: &[token::Token]) -> Content {
        self.kept.clear();
        self.key.clear();
        shape::reduce(text, tokens, &mut self.kept);
        shape::write_key(text, &self.kept, &mut self.key);
        let hash = self.shapes.hash(&self.key);
        let known = self.shapes.get(hash, dialect, &self.key);
        self.lookups[if known.is_some() { 1 } else { 2 }] += 1;
        let shape = known.unwrap_or_else(|| {
            let shape = Arc::new(Shape {
                dialect,
                key: self.key.as_slice().into(),
                analysis: OnceLock::new(),
                data: OnceLock::new(),
            });
            self.shapes.insert(hash, &shape);
            shape
        });
        self.kept.shrink_to(SCRATCH);
        self.key.shrink_to(SCRATCH * 8);
        Content::One { shape, own: OnceLock::new(), data: OnceLock::new() }
    }
}

/// Tokens of scratch space that are kept between texts.
const SCRATCH: usize = 16 * 1024;
