//! Words of a SQL Server batch -> where the next statement begins: it needs no semicolon there.
//!
//! Transact-SQL reference, "Reserved keywords": what begins a statement can be no unquoted name.

use super::super::token::{Kind, Token};

/// What is known of the statement that a walk over the batch is in.
#[derive(Default)]
pub(super) struct Batch {
    /// Its first word, where that begins statements.
    verb: &'static str,
    /// The verb behind `WITH`, the source of `INSERT` or the `SET` of `UPDATE` was met.
    taken: bool,
    /// Open `CASE`s.
    cases: u32,
    /// A module: its body goes on to the end of the batch.
    whole: bool,
}

/// Words that begin a statement, wherever they stand outside parentheses, but for what [`Batch::goes_on`] knows.
const STARTERS: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "drop",
    "create",
    "alter",
    "truncate",
    "exec",
    "execute",
    "grant",
    "revoke",
    "deny",
    "backup",
    "restore",
    "declare",
    "if",
    "else",
    "while",
    "print",
    "raiserror",
    "return",
    "use",
    "kill",
    "shutdown",
    "dbcc",
    "bulk",
    "begin",
    "end",
    "set",
    "waitfor",
    "goto",
    "open",
    "close",
    "fetch",
    "deallocate",
    "commit",
    "rollback",
    "save",
    "reconfigure",
    "revert",
    "with",
];

/// What `DROP` names where it begins a statement, and not an action of `ALTER`.
const KINDS: &[&str] = &[
    "table",
    "database",
    "view",
    "proc",
    "procedure",
    "function",
    "user",
    "login",
    "role",
    "schema",
    "trigger",
    "index",
    "sequence",
    "type",
    "synonym",
    "server",
    "assembly",
    "certificate",
    "statistics",
    "default",
    "rule",
];

impl Batch {
    /// True where semicolons separate nothing any more.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// A semicolon was met.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// True where the word at `i` begins another statement than the one that began at `start`.
    pub(super) fn begins(&mut self, text: &[u8], tokens: &[Token], start: usize, i: usize) -> bool {
        let is = |at: usize, words: &[&str]| {
            tokens.get(at).is_some_and(|t| words.iter().any(|word| t.is(text, word)))
        };
        if self.whole {
            return false;
        }
        if is(i, &["case"]) {
            self.cases += 1;
            return false;
        }
        let word = STARTERS.iter().copied().find(|word| is(i, &[word]));
        let first = i == start;
        let Some(word) = word else { return false };
        if !first {
            if self.cases > 0 && matches!(word, "end" | "else") {
                self.cases -= u32::from(word == "end");
                return false;
            }
            let before = |words: &[&str]| is(i - 1, words);
            let dotted = tokens.get(i - 1).is_some_and(|t| matches!(t.kind, Kind::Dot | Kind::Comma));
            if dotted || self.goes_on(word, &before, &|words| is(i + 1, words)) {
                return false;
            }
        }
        *self = Self { verb: word, ..Self::default() };
        let kind = if is(i + 1, &["or"]) { i + 3 } else { i + 1 };
        self.whole =
            matches!(word, "create" | "alter") && is(kind, &["proc", "procedure", "function", "trigger"]);
        !first
    }

    /// True where the word belongs to the statement that it stands in.
    fn goes_on(
        &mut self,
        word: &str,
        before: &dyn Fn(&[&str]) -> bool,
        next: &dyn Fn(&[&str]) -> bool,
    ) -> bool {
        let rights = matches!(self.verb, "grant" | "revoke" | "deny");
        if rights
            && !matches!(word, "exec" | "if" | "begin" | "declare" | "drop" | "truncate" | "print" | "use")
        {
            return true;
        }
        match word {
            "select" => {
                before(&["union", "all", "except", "intersect", "as", "for"])
                    || matches!(self.verb, "insert" | "with") && !std::mem::replace(&mut self.taken, true)
            }
            "insert" | "update" | "delete" => {
                before(&["then", "for", "after", "of", "bulk"])
                    || before(&["on"]) && self.verb != "set"
                    || self.verb == "with" && !std::mem::replace(&mut self.taken, true)
            }
            "merge" => {
                next(&["join", "union"]) || self.verb == "with" && !std::mem::replace(&mut self.taken, true)
            }
            "drop" => self.verb == "alter" && !next(KINDS),
            "alter" => self.verb == "alter" && next(&["column"]),
            "exec" | "execute" => {
                before(&["with"]) || self.verb == "insert" && !std::mem::replace(&mut self.taken, true)
            }
            "set" => match self.verb {
                "update" => !std::mem::replace(&mut self.taken, true),
                "with" => self.taken,
                "merge" | "alter" | "create" | "declare" => true,
                _ => false,
            },
            "if" => next(&["exists"]) && self.verb == "drop" || self.verb == "create",
            "grant" => next(&["option"]),
            "fetch" => before(&["row", "rows"]),
            // `WITH (NOLOCK)`, `WITH TIES`, `WITH CHECK OPTION`: a common table expression wants a semicolon before it.
            "with" => true,
            _ => false,
        }
    }
}
