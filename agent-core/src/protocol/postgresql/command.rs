//! Statement text -> what it changes about the session: names of prepared statements, role, settings.
//!
//! Only the commands that change how later traffic is read; what a statement does to data is `sql`'s business.

/// A command that changes the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// Anything else.
    Other,
    /// `PREPARE name [(types)] AS body`.
    Prepare { name: Name<'a>, body: &'a [u8] },
    /// `EXECUTE name`, also behind EXPLAIN and CREATE TABLE AS.
    Execute { name: Name<'a> },
    /// `DEALLOCATE name`, or `ALL`.
    Deallocate { name: Option<Name<'a>> },
    /// `DISCARD ALL`.
    DiscardAll,
    /// `SET`, of something that is followed.
    Set { setting: Setting, value: Option<Value<'a>>, local: bool },
    /// `RESET ALL`.
    ResetAll,
    /// `SAVEPOINT name`.
    Savepoint { name: Name<'a> },
    /// `ROLLBACK TO name`.
    RollbackTo { name: Name<'a> },
}

/// A setting that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// `SET ROLE`.
    Role,
    /// `SET SESSION AUTHORIZATION`.
    Authorization,
    /// `SET search_path`.
    SearchPath,
    /// `SET application_name`.
    ApplicationName,
}

/// An identifier as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a>(&'a [u8]);

/// A setting's value as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'a>(&'a [u8]);

impl Name<'_> {
    /// As the server stores it: folded to lower case unless quoted.
    pub(super) fn fold(&self) -> Box<[u8]> {
        match self.0 {
            [b'"', inner @ .., b'"'] => undouble(inner, b'"').into(),
            plain => plain.to_ascii_lowercase().into(),
        }
    }
}

impl Value<'_> {
    /// One value, without its quotes.
    pub(super) fn text(&self) -> String {
        let bytes = match self.0.trim_ascii() {
            [b'\'', inner @ .., b'\''] => undouble(inner, b'\''),
            name => Name(name).fold().into(),
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A list, as written.
    pub(super) fn list(&self) -> String {
        String::from_utf8_lossy(self.0.trim_ascii()).into_owned()
    }
}

fn undouble(inner: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&b) = bytes.next() {
        out.push(b);
        if b == quote {
            bytes.next();
        }
    }
    out
}

/// Reads one statement. Costs a few comparisons where it is none of these commands.
pub(super) fn read(text: &[u8]) -> Command<'_> {
    let mut words = Words { rest: text };
    let Some(first) = words.next() else { return Command::Other };
    match first.len() {
        3 | 5 | 6 | 7 | 8 | 9 | 10 => {}
        _ => return Command::Other,
    }
    let is = |word: &str| first.eq_ignore_ascii_case(word.as_bytes());
    let command = match first[0] | 0x20 {
        b's' if is("set") => set(&mut words),
        b's' if is("savepoint") => words.name().map(|name| Command::Savepoint { name }),
        b'p' if is("prepare") => prepare(&mut words),
        b'e' if is("execute") => words.name().map(|name| Command::Execute { name }),
        b'e' if is("explain") => behind(&mut words),
        b'c' if is("create") => behind(&mut words),
        b'd' if is("deallocate") => {
            words.skip("prepare");
            words.next().map(|word| Command::Deallocate {
                name: (!word.eq_ignore_ascii_case(b"all")).then_some(Name(word)),
            })
        }
        b'd' if is("discard") => words.skip("all").then_some(Command::DiscardAll),
        b'r' if is("reset") => reset(&mut words),
        b'r' if is("rollback") => {
            let _ = words.skip("work") || words.skip("transaction");
            if words.skip("to") {
                words.skip("savepoint");
                words.name().map(|name| Command::RollbackTo { name })
            } else {
                None
            }
        }
        _ => None,
    };
    command.unwrap_or(Command::Other)
}

/// Whether a statement may call `set_config`: cheap, and true where only a literal or a comment says so.
pub(super) fn may_configure(text: &[u8]) -> bool {
    const NAME: &[u8] = b"set_config";
    text.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME))
}

/// What a statement sets by calls of `set_config` whose arguments are literals.
pub(super) fn configured(text: &[u8]) -> Vec<(Setting, Value<'_>)> {
    let mut words = Words { rest: text };
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let name = word.strip_prefix(b"\"").and_then(|word| word.strip_suffix(b"\"")).unwrap_or(word);
        if !name.eq_ignore_ascii_case(b"set_config") || !words.skip("(") {
            continue;
        }
        let Some(name) = words.literal() else { continue };
        let is = |other: &str| name[1..name.len() - 1].eq_ignore_ascii_case(other.as_bytes());
        let setting = match () {
            () if is("search_path") => Setting::SearchPath,
            () if is("role") => Setting::Role,
            () if is("session_authorization") => Setting::Authorization,
            () => continue,
        };
        let Some(value) = words.skip(",").then(|| words.literal()).flatten() else { continue };
        // A list is written in the literal; of a role's name the literal is the quotes.
        let list = setting == Setting::SearchPath;
        settings.push((setting, Value(if list { &value[1..value.len() - 1] } else { value })));
    }
    settings
}

fn prepare<'a>(words: &mut Words<'a>) -> Option<Command<'a>> {
    let name = words.name()?;
    let mut depth = 0;
    loop {
        match words.next()? {
            b"(" => depth += 1,
            b")" => depth -= 1,
            word if depth == 0 && word.eq_ignore_ascii_case(b"as") => break,
            word if depth == 0 && name.0.eq_ignore_ascii_case(b"transaction") && word.starts_with(b"'") => {
                return None;
            }
            _ => {}
        }
    }
    let body = words.rest.trim_ascii();
    let body = body.strip_suffix(b";").map_or(body, <[u8]>::trim_ascii_end);
    Some(Command::Prepare { name, body })
}

/// `EXPLAIN [(options)] EXECUTE name`, `CREATE ... TABLE name AS EXECUTE name`.
fn behind<'a>(words: &mut Words<'a>) -> Option<Command<'a>> {
    for _ in 0..32 {
        let word = words.next()?;
        if word.eq_ignore_ascii_case(b"execute") {
            return words.name().map(|name| Command::Execute { name });
        }
        if [&b"select"[..], b"insert", b"function", b"procedure", b"trigger", b"index", b"with", b"values"]
            .iter()
            .any(|other| word.eq_ignore_ascii_case(other))
        {
            return None;
        }
    }
    None
}

fn set<'a>(words: &mut Words<'a>) -> Option<Command<'a>> {
    let local = words.skip("local");
    let session = !local && words.skip("session");
    let word = words.next()?;
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let setting = if is("role") {
        Setting::Role
    } else if is("authorization") && session
        || is("session_authorization")
        || is("session") && words.skip("authorization")
    {
        Setting::Authorization
    } else if is("search_path") || is("schema") {
        Setting::SearchPath
    } else if is("application_name") {
        Setting::ApplicationName
    } else {
        return None;
    };
    let _ = words.skip("to") || words.skip("=");
    let value = words.rest.trim_ascii();
    let value = value.strip_suffix(b";").map_or(value, <[u8]>::trim_ascii_end);
    if value.is_empty() {
        return None;
    }
    let is = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
    let none = is("default") || setting == Setting::Role && (is("none") || is("'none'"));
    Some(Command::Set { setting, value: (!none).then_some(Value(value)), local })
}

fn reset<'a>(words: &mut Words<'a>) -> Option<Command<'a>> {
    let word = words.next()?;
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let setting = if is("all") {
        return Some(Command::ResetAll);
    } else if is("role") {
        Setting::Role
    } else if is("session") && words.skip("authorization") || is("session_authorization") {
        Setting::Authorization
    } else if is("search_path") {
        Setting::SearchPath
    } else if is("application_name") {
        Setting::ApplicationName
    } else {
        return None;
    };
    Some(Command::Set { setting, value: None, local: false })
}

/// Splits text into words, quoted pieces and single marks; passes over blanks and comments.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        self.blank();
        let length = match *self.rest.first()? {
            quote @ (b'"' | b'\'') => {
                let mut at = 1;
                loop {
                    at += self.rest.get(at..)?.iter().position(|&b| b == quote)? + 1;
                    if self.rest.get(at) != Some(&quote) {
                        break at;
                    }
                    at += 1;
                }
            }
            b if word(b) => self.rest.iter().position(|&b| !word(b)).unwrap_or(self.rest.len()),
            _ => 1,
        };
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn name(&mut self) -> Option<Name<'a>> {
        self.next().filter(|name| name.first().is_some_and(|&b| word(b) || b == b'"')).map(Name)
    }

    /// A string as it is written, with its quotes.
    fn literal(&mut self) -> Option<&'a [u8]> {
        self.next().filter(|word| word.len() >= 2 && word.starts_with(b"'"))
    }

    /// Passes over this word if it comes next.
    fn skip(&mut self, expected: &str) -> bool {
        let before = self.rest;
        let found = self.next().is_some_and(|word| word.eq_ignore_ascii_case(expected.as_bytes()));
        if !found {
            self.rest = before;
        }
        found
    }

    fn blank(&mut self) {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.rest.starts_with(b"--") {
                let end = self.rest.iter().position(|&b| b == b'\n').unwrap_or(self.rest.len());
                self.rest = &self.rest[end..];
            } else if self.rest.starts_with(b"/*") {
                self.rest = &self.rest[comment(self.rest)..];
            } else {
                return;
            }
        }
    }
}

/// Length of the comment that the text begins with; comments nest.
fn comment(text: &[u8]) -> usize {
    let mut depth = 0u32;
    let mut at = 0;
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(setting: Setting, value: Option<&str>, local: bool) -> Command<'_> {
        Command::Set { setting, value: value.map(|v| Value(v.as_bytes())), local }
    }

    #[test]
    fn finds_what_set_config_sets() {
        let value = |v: &'static str| Value(v.as_bytes());
        for (text, expected) in [
            ("select set_config('search_path', 'a, b', false)", vec![(Setting::SearchPath, value("a, b"))]),
            (
                "SELECT 1, pg_catalog.SET_CONFIG ( 'Role' , 'Bob''s' , true ), set_config('search_path', '', false)",
                vec![(Setting::Role, value("'Bob''s'")), (Setting::SearchPath, value(""))],
            ),
            (
                "select \"set_config\"('session_authorization', 'ann', false)",
                vec![(Setting::Authorization, value("'ann'"))],
            ),
            ("select set_config('work_mem', '1MB', false), set_config($1, 'a', false)", vec![]),
            ("select set_config('search_path', $1, false), 'set_config(''role'', ''x'', true)'", vec![]),
            ("select set_config('search_path'", vec![]),
            ("select set_config", vec![]),
        ] {
            assert!(may_configure(text.as_bytes()), "{text}");
            assert_eq!(configured(text.as_bytes()), expected, "{text}");
        }
        assert!(!may_configure(b"select set_confi"));
    }

    #[test]
    fn reads_what_changes_the_session() {
        let name = |n: &'static str| Name(n.as_bytes());
        for (text, expected) in [
            ("SELECT 1", Command::Other),
            ("", Command::Other),
            ("  /* a /* b */ */ -- c\n SET ROLE bob;", set(Setting::Role, Some("bob"), false)),
            ("set local role to 'bob'", set(Setting::Role, Some("'bob'"), true)),
            ("SET SESSION ROLE none", set(Setting::Role, None, false)),
            ("RESET ROLE", set(Setting::Role, None, false)),
            ("SET SESSION AUTHORIZATION DEFAULT", set(Setting::Authorization, None, false)),
            ("SET LOCAL SESSION AUTHORIZATION eve", set(Setting::Authorization, Some("eve"), true)),
            ("SET search_path = a, \"B\" ;", set(Setting::SearchPath, Some("a, \"B\""), false)),
            ("SET datestyle = iso", Command::Other),
            ("PREPARE p (int, text) AS SELECT $1;", Command::Prepare { name: name("p"), body: b"SELECT $1" }),
            ("PREPARE TRANSACTION 'x'", Command::Other),
            ("execute \"My p\" (1)", Command::Execute { name: name("\"My p\"") }),
            ("EXPLAIN (ANALYZE, COSTS off) EXECUTE p(1)", Command::Execute { name: name("p") }),
            ("CREATE TEMP TABLE t AS EXECUTE p", Command::Execute { name: name("p") }),
            ("DEALLOCATE PREPARE p", Command::Deallocate { name: Some(name("p")) }),
            ("DEALLOCATE ALL", Command::Deallocate { name: None }),
            ("DISCARD ALL", Command::DiscardAll),
            ("DISCARD PLANS", Command::Other),
            ("ROLLBACK WORK TO SAVEPOINT s", Command::RollbackTo { name: name("s") }),
            ("ROLLBACK", Command::Other),
        ] {
            assert_eq!(read(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(&*name("\"My \"\" p\"").fold(), b"My \" p");
        assert_eq!(Value(b"'it''s'").text(), "it's");
        assert_eq!(Value(b"Bob").text(), "bob");
    }
}
