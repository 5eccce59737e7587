//! Arguments of a process -> one line without secrets. What looks like a secret is one: a false alarm costs a
//! word, a miss publishes a password.

use std::fmt::Write;
use std::sync::LazyLock;

use agent_core::sensitive::values;
use regex::{Captures, Regex};

const MASK: &str = "***";
/// Longest command line kept, bytes.
const LENGTH_MAX: usize = 4096;

/// Words in an option's or variable's name that make its value a secret.
const SECRET: &str = "passw(?:or)?d|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|auth(?:orization)?|credentials?";

/// The command line, secrets masked, arguments joined by spaces, control characters as spaces, at most 4 KiB.
pub fn command_line<S: AsRef<str>>(arguments: &[S]) -> String {
    let tool = Tool::of(arguments.first().map_or("", AsRef::as_ref));
    let mut line = String::new();
    let mut next = Next::Plain;
    for (i, argument) in arguments.iter().enumerate() {
        let argument = argument.as_ref();
        if i > 0 {
            line.push(' ');
        }
        let (text, after) =
            if i == 0 { (in_text(argument), Next::Plain) } else { tool.argument(argument, next) };
        next = after;
        let _ = write!(line, "{text}");
        if line.len() > LENGTH_MAX {
            break;
        }
    }
    let mut line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > LENGTH_MAX {
        line.truncate(line.floor_char_boundary(LENGTH_MAX));
        line.push('…');
    }
    line
}

/// What the argument before said about this one.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Plain,
    Secret,
    Statement,
}

/// How a program takes its secrets and statements, by its name.
struct Tool {
    /// `-pSECRET`: MySQL's family.
    glued: bool,
    /// Short options whose value is a secret.
    secret: &'static [&'static str],
    /// Options whose value is a statement.
    statement: &'static [&'static str],
    /// `--password` takes no separate value: the next argument is something else.
    prompts: bool,
}

impl Tool {
    fn of(program: &str) -> Self {
        let name = program.rsplit('/').next().unwrap_or(program).trim_start_matches('-');
        let name = name.strip_suffix(".exe").unwrap_or(name);
        let plain = Self { glued: false, secret: &[], statement: &[], prompts: false };
        match name {
            "psql" | "pgcli" => Self { statement: &["-c", "--command"], prompts: true, ..plain },
            _ if name.starts_with("pg_") || name.starts_with("pgbench") => Self { prompts: true, ..plain },
            "createdb" | "dropdb" | "createuser" | "dropuser" | "vacuumdb" | "reindexdb" | "clusterdb" => {
                Self { prompts: true, ..plain }
            }
            _ if name.starts_with("mysql") || name.starts_with("mariadb") || name == "mycli" => {
                Self { glued: true, statement: &["-e", "--execute"], prompts: true, ..plain }
            }
            "redis-cli" | "valkey-cli" => Self { secret: &["-a", "--pass"], ..plain },
            "mongo" | "mongosh" | "mongodump" | "mongorestore" | "mongoexport" | "mongoimport" => {
                Self { secret: &["-p"], statement: &["--eval"], ..plain }
            }
            "sqlcmd" | "bcp" | "tsql" | "osql" => Self { secret: &["-P"], statement: &["-Q", "-q"], ..plain },
            "sshpass" => Self { secret: &["-p"], glued: true, ..plain },
            "curl" => Self { secret: &["-u", "--user", "--proxy-user"], ..plain },
            "clickhouse-client" | "clickhouse" | "sqlite3" | "duckdb" => {
                Self { statement: &["-q", "--query", "-c"], ..plain }
            }
            _ => plain,
        }
    }

    fn argument(&self, argument: &str, expected: Next) -> (String, Next) {
        match expected {
            Next::Secret if !argument.starts_with("--") => return (MASK.into(), Next::Plain),
            Next::Statement => return (without_literals(argument), Next::Plain),
            Next::Secret | Next::Plain => {}
        }
        if self.secret.contains(&argument) {
            return (argument.into(), Next::Secret);
        }
        if self.statement.contains(&argument) {
            return (argument.into(), Next::Statement);
        }
        if let Some((option, value)) = argument.split_once('=').filter(|(o, _)| self.statement.contains(o)) {
            return (format!("{option}={}", without_literals(value)), Next::Plain);
        }
        for option in self.statement.iter().chain(self.secret) {
            // `-c"select 1"`, `-Psecret`: glued to a short option.
            if let Some(value) = argument.strip_prefix(option).filter(|_| !option.starts_with("--")) {
                let value = if self.secret.contains(option) { MASK.into() } else { without_literals(value) };
                return (format!("{option}{value}"), Next::Plain);
            }
        }
        if self.glued && argument.starts_with("-p") && argument.len() > 2 {
            return (format!("-p{MASK}"), Next::Plain);
        }
        if let Some(name) = argument.strip_prefix("--")
            && !self.prompts
            && is_secret_name(name)
        {
            return (argument.into(), Next::Secret);
        }
        (in_text(argument), Next::Plain)
    }
}

/// Compiles the rules now, which takes tens of milliseconds: the first connection that is seen should not wait for it
/// with its bytes piling up in the kernel.
pub(crate) fn prepare() {
    is_secret_name("");
    without_literals("");
}

fn is_secret_name(name: &str) -> bool {
    static NAME: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"(?i)^[\w.-]*(?:{SECRET})$")));
    NAME.is_match(name)
}

/// Masks secrets anywhere in a text: a shell's `-c` argument holds whole command lines.
fn in_text(text: &str) -> String {
    static RULES: LazyLock<[(Regex, &str); 7]> = LazyLock::new(|| {
        [
            // scheme://user:secret@host; the secret may hold anything but a slash or a space
            (regex(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/]+@"), "${1}:***@"),
            // NAME=value, --name=value, name = 'value', ?name=value&
            (
                regex(&format!(
                    r#"(?i)([\w.-]*(?:{SECRET})(?:[_.-]?(?:key|value|\d+))?\s*=\s*)(?:'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|[^\s&;'"]+)"#
                )),
                "${1}***",
            ),
            (regex(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), "${1} ***"),
            // "password": "value" in JSON, password: value in YAML
            (
                regex(&format!(
                    r#"(?i)("?[\w.-]*(?:{SECRET})"?\s*:\s*)(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,}}"'/]+)"#
                )),
                "${1}***",
            ),
            // PASSWORD 'value', IDENTIFIED BY 'value' in SQL
            (
                regex(r"(?i)(\b(?:password|identified\s+(?:with\s+\S+\s+)?by)\s+)'(?:[^'\\]|\\.|'')*'"),
                "${1}***",
            ),
            // mysql ... -pSECRET within a shell's command line
            (regex(r"(\b(?:mysql\w*|mariadb[\w-]*|mycli)\s(?:[^|;&]*\s)?-p)[^\s'|;&]+"), "${1}***"),
            // tokens that show by their shape
            (
                regex(concat!(
                    r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}|xox[abeprs]-[\w-]{8,}",
                    r"|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|hv[sb]\.[\w-]{16,}|npm_[A-Za-z0-9]{16,}|pypi-[\w-]{16,}|AIza[\w-]{20,}",
                    r"|dop_v1_[a-f0-9]{16,}|shp(?:at|ss)_[a-f0-9]{16,}|glsa_\w{16,}|dapi[a-f0-9]{32}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
                )),
                "***",
            ),
        ]
    });
    let mut text = std::borrow::Cow::Borrowed(text);
    for (rule, replacement) in &*RULES {
        if let std::borrow::Cow::Owned(replaced) = rule.replace_all(&text, *replacement) {
            text = replaced.into();
        }
    }
    without_values(&text)
}

/// A text with the values masked that are nobody's name for anything: cards, accounts, national ids, secrets, by their
/// form and check digits. Addresses of people stay: they say who is at work.
fn without_values(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "\"'`,;:{}[]()<>=&|\\".contains(c);
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(ends) {
        let word = piece.trim_end_matches(ends);
        let mut goes = false;
        values::classes(word, &mut |class| goes |= !["email", "phone"].contains(&class));
        if goes {
            out.push_str(MASK);
            out.push_str(&piece[word.len()..]);
        } else {
            out.push_str(piece);
        }
    }
    out
}

/// A statement with its strings and numbers masked, and without its comments: the values in it are the user's data.
fn without_literals(statement: &str) -> String {
    static LITERAL: LazyLock<Regex> = LazyLock::new(|| {
        regex(concat!(
            r#"(?s)(?P<note>--[^\n]*|/\*.*?(?:\*/|$))|(?P<keep>"[^"]*"|[A-Za-z_][\w$]*|\$\d+)"#,
            r"|'(?:[^'\\]|\\.|'')*(?:'|$)|\$\$.*?(?:\$\$|$)|\$(?P<tag>[A-Za-z_]\w*)\$.*|\d[\w.]*"
        ))
    });
    let masked = LITERAL.replace_all(statement, |found: &Captures<'_>| {
        let kept = found.name("keep").map(|keep| keep.as_str().to_owned());
        // People leave values in comments too.
        let note = found.name("note").map(|_| String::new());
        kept.or(note).unwrap_or_else(|| "?".to_owned())
    });
    in_text(&masked)
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are constants, tested below")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lines each: arguments separated by `|`, then what becomes of them.
    #[test]
    fn recorded_command_lines() {
        let text = include_str!("../../testdata/command_lines.txt");
        let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        assert!(lines.len() > 80 && lines.len().is_multiple_of(2), "{}", lines.len());
        for pair in lines.chunks(2) {
            let arguments: Vec<&str> = pair[0].split('|').collect();
            assert_eq!(command_line(&arguments), pair[1].trim_start(), "{}", pair[0]);
            assert!(!pair[1].contains("hunter2"), "{}", pair[1]);
        }
    }

    #[test]
    fn bounded_and_clean() {
        let line = command_line(&["x", &"é".repeat(5000)]);
        assert!(line.len() <= LENGTH_MAX + 3 && line.ends_with('…'));
        assert_eq!(command_line(&["a", "b\nc\x1b[31m"]), "a b c [31m");
        assert_eq!(command_line::<&str>(&[]), "");
    }
}
