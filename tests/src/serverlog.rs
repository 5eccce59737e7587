//! The server's JSON log -> what it executed, session by session, in order: the oracle.
//!
//! How PostgreSQL logs: a simple query is one entry `statement: TEXT`, whatever number of statements it holds; an
//! Execute message is `execute NAME: TEXT`, a later one on the same portal `execute fetch from NAME: TEXT`; what fails
//! before it gets that far (syntax, Bind) is only an `ERROR` that quotes the statement. pgaudit adds one `AUDIT` entry
//! for each executor run, with the rows it processed.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How a statement reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A Query message.
    Simple,
    /// The first Execute of a portal.
    Execute,
    /// A later Execute of the same portal.
    Fetch,
    /// It failed in Parse, Bind or before the log was written.
    Refused,
    /// A replication command.
    Replication,
}

/// One message with a statement, as the server logged it.
#[derive(Clone, Debug)]
pub struct Logged {
    /// How it came.
    pub via: Via,
    /// Its text, byte for byte.
    pub text: String,
    /// The user that it ran as: the login user, or the role that the session took.
    pub user: String,
    /// `application_name` in force.
    pub application: String,
    /// Bound parameters as the server prints them; `None` where it printed none.
    pub parameters: Option<Vec<Option<String>>>,
    /// SQLSTATE; empty where it succeeded.
    pub status: String,
    /// Rows that each executor run of it processed.
    pub rows: Vec<u64>,
    /// Text under which pgaudit reports it: for `EXECUTE name` that of its `PREPARE`.
    audited_as: String,
}

/// One session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The client's address.
    pub address: String,
    /// The client's port; 0 over a Unix socket.
    pub port: u16,
    /// Process id of the backend.
    pub pid: u64,
    /// Database.
    pub database: String,
    /// What it executed.
    pub statements: Vec<Logged>,
    /// True once the server logged its end.
    pub ended: bool,
    role: Option<String>,
}

/// Reads a log file: the sessions over TCP, also those that never sent a statement.
pub fn read(file: &Path) -> Result<Vec<Session>> {
    Ok(read_all(file)?.into_iter().filter(|session| session.port != 0).collect())
}

/// Reads a log file: every session.
pub fn read_all(file: &Path) -> Result<Vec<Session>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text)
}

/// Reads the text of a log.
pub fn parse(text: &str) -> Result<Vec<Session>> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| format!("not a log entry: {line}"))?;
        // Without a client: the server's own processes.
        if entry["remote_host"].is_null() {
            continue;
        }
        let port = entry["remote_port"].as_u64().unwrap_or_default();
        let id = entry["session_id"].as_str().context("an entry names its session")?;
        let at = *known.entry(id.to_owned()).or_insert_with(|| {
            sessions.push(Session::default());
            sessions.len() - 1
        });
        let session = &mut sessions[at];
        session.port = u16::try_from(port)?;
        session.address = word(&entry, "remote_host");
        session.pid = entry["pid"].as_u64().unwrap_or_default();
        if let Some(database) = entry["dbname"].as_str() {
            database.clone_into(&mut session.database);
        }
        session.take(&entry)?;
    }
    Ok(sessions)
}

fn word(entry: &Value, key: &str) -> String {
    entry[key].as_str().unwrap_or_default().to_owned()
}

impl Session {
    fn take(&mut self, entry: &Value) -> Result<()> {
        let message = entry["message"].as_str().unwrap_or_default();
        let severity = entry["error_severity"].as_str().unwrap_or_default();
        if matches!(severity, "ERROR" | "FATAL" | "PANIC") {
            self.failed(entry);
        } else if severity == "LOG" {
            if let Some(text) = message.strip_prefix("statement: ") {
                self.push(entry, Via::Simple, text);
            } else if let Some(text) = message.strip_prefix("received replication command: ") {
                self.push(entry, Via::Replication, text);
            } else if let Some(rest) = message.strip_prefix("execute fetch from ") {
                self.push(entry, Via::Fetch, after_name(rest)?);
            } else if let Some(rest) = message.strip_prefix("execute ") {
                self.push(entry, Via::Execute, after_name(rest)?);
            } else if let Some(record) = message.strip_prefix("AUDIT: SESSION,") {
                self.audited(record)?;
            } else if message.starts_with("disconnection: ") {
                self.ended = true;
            }
        }
        Ok(())
    }

    fn push(&mut self, entry: &Value, via: Via, text: &str) {
        let detail = entry["detail"].as_str().unwrap_or_default();
        let user = self.role.clone().unwrap_or_else(|| word(entry, "user"));
        self.statements.push(Logged {
            via,
            text: text.to_owned(),
            user,
            application: word(entry, "application_name"),
            parameters: detail
                .strip_prefix("parameters: ")
                .or(detail.strip_prefix("Parameters: "))
                .map(parameters),
            status: String::new(),
            rows: Vec::new(),
            audited_as: detail.strip_prefix("prepare: ").unwrap_or(text).to_owned(),
        });
        self.follow_role(text);
    }

    /// An error belongs to the statement under way, or is all that is said about one that never got that far.
    fn failed(&mut self, entry: &Value) {
        let Some(text) = entry["statement"].as_str() else { return };
        let status = word(entry, "state_code");
        let phase = entry["ps"].as_str().unwrap_or_default();
        let refused = phase.starts_with("PARSE") || phase.starts_with("BIND");
        match self.statements.last_mut() {
            Some(last) if !refused && last.text == text && last.status.is_empty() => last.status = status,
            _ => {
                self.push(entry, Via::Refused, text);
                if let Some(last) = self.statements.last_mut() {
                    last.status = status;
                }
            }
        }
    }

    /// `1,1,READ,SELECT,,,"select 1, 2",<none>,1`: statement, substatement, class, command, object type, object name,
    /// text, parameters, rows.
    fn audited(&mut self, record: &str) -> Result<()> {
        let fields = csv(record);
        let [_, _, _, command, _, _, text, .., rows] = fields.as_slice() else {
            bail!("not an audit record: {record}")
        };
        if !["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"].contains(&command.as_str()) {
            return Ok(());
        }
        let rows = rows.parse().with_context(|| format!("no row count in {record}"))?;
        // Simple statements run while they are the last; a portal is often closed only when the next one is bound.
        let last_is_it =
            self.statements.last().is_some_and(|l| l.via == Via::Simple && l.audited_as == *text);
        let found = if last_is_it {
            self.statements.last_mut()
        } else {
            let open = |l: &&mut Logged| l.via == Via::Execute && l.status.is_empty() && l.rows.is_empty();
            self.statements.iter_mut().find(|l| open(l) && l.audited_as == *text)
        };
        if let Some(logged) = found {
            logged.rows.push(rows);
        }
        Ok(())
    }

    /// The log names the login user only; which role a session took is in its statements.
    fn follow_role(&mut self, text: &str) {
        let words: Vec<String> =
            text.trim_end_matches(';').split_whitespace().map(str::to_lowercase).collect();
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["set", "role", role] | ["set", "session", "authorization", role] => {
                self.role = Some((*role).to_owned());
            }
            ["reset", "role" | "all"] | ["reset", "session", "authorization"] | ["discard", "all"] => {
                self.role = None;
            }
            _ => {}
        }
    }
}

/// `NAME: TEXT` or `NAME/PORTAL: TEXT` -> the text.
fn after_name(rest: &str) -> Result<&str> {
    rest.split_once(": ").map(|(_, text)| text).with_context(|| format!("no text in {rest:?}"))
}

/// `$1 = 'it''s', $2 = NULL` -> values.
fn parameters(text: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(" = ") {
        if let Some(quoted) = after.strip_prefix('\'') {
            let mut value = String::new();
            let mut characters = quoted.char_indices().peekable();
            let mut end = quoted.len();
            while let Some((at, c)) = characters.next() {
                if c == '\'' && characters.peek().is_some_and(|(_, n)| *n == '\'') {
                    characters.next();
                } else if c == '\'' {
                    end = at + 1;
                    break;
                }
                value.push(c);
            }
            values.push(Some(value));
            rest = &quoted[end..];
        } else {
            values.push(None);
            rest = after.strip_prefix("NULL").unwrap_or(after);
        }
    }
    values
}

/// One CSV record, quotes doubled inside quotes; line breaks belong to their field.
fn csv(record: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = record.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_parameters() {
        let read = parameters("$1 = 'a''b, $9 = ''x''', $2 = NULL, $3 = ''");
        assert_eq!(read, [Some("a'b, $9 = 'x'".to_owned()), None, Some(String::new())]);
    }

    #[test]
    fn reads_audit_records() {
        let fields = csv("1,2,READ,SELECT,,,\"select \"\"a\"\",\n2\",<none>,7");
        assert_eq!(fields[6], "select \"a\",\n2");
        assert_eq!(fields[8], "7");
    }

    #[test]
    fn tells_a_refused_statement_from_a_failed_one() {
        let entry = |message: &str, more: &str| {
            format!(
                "{{\"remote_host\":\"::1\",\"remote_port\":5,\"session_id\":\"a.b\",\"pid\":7,\"user\":\"u\",\
                 \"dbname\":\"d\",\"error_severity\":\"LOG\",\"message\":{message:?}{more}}}\n"
            )
        };
        let error = |ps: &str| {
            entry("division by zero", "").replace("LOG", "ERROR").replace(
                '}',
                &format!(",\"ps\":\"{ps}\",\"state_code\":\"22012\",\"statement\":\"select 1/0\"}}"),
            )
        };
        let text = entry("execute <unnamed>: select 1/0", "") + &error("SELECT") + &error("BIND");
        let sessions = parse(&text).unwrap();
        let seen: Vec<_> = sessions[0].statements.iter().map(|s| (s.via, s.status.as_str())).collect();
        assert_eq!(seen, [(Via::Execute, "22012"), (Via::Refused, "22012")]);
    }
}
