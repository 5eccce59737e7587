//! The server's log and weir's events -> what differs. Nothing may: each message that the server logged is one message
//! of weir's with the same text, user, database, application, parameters, status and rows, in the same order on the same
//! connection; and weir tells nothing that the server did not log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;

use agent_core::event::Event;

use crate::captured::{self, Message};
use crate::serverlog::{self, Logged, Via};

/// Differences kept in words; more are only counted.
const TOLD: usize = 12;

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    /// Messages with statements that the server logged.
    pub logged: usize,
    /// Messages with statements that weir told.
    pub captured: usize,
    /// Logged and told alike.
    pub matched: usize,
    /// Messages whose rows were compared with pgaudit's or with a known count.
    pub rows_compared: usize,
    /// Messages whose parameters were compared.
    pub parameters_compared: usize,
    /// Statements that weir says the server skipped.
    pub skipped: usize,
    /// How many differences there are.
    pub differences: usize,
    told: Vec<String>,
}

impl Report {
    /// Panics with the first differences unless there are none.
    pub fn assert_equal(&self) {
        assert!(self.differences == 0, "{self}");
        assert_eq!((self.logged, self.captured), (self.matched, self.matched), "{self}");
    }

    fn tell(&mut self, what: String) {
        self.differences += 1;
        if self.told.len() < TOLD {
            self.told.push(what);
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} logged, {} captured, {} alike ({} with rows, {} with parameters compared), {} skipped by the server, \
             {} differences",
            self.logged,
            self.captured,
            self.matched,
            self.rows_compared,
            self.parameters_compared,
            self.skipped,
            self.differences
        )?;
        self.told.iter().try_for_each(|t| writeln!(f, "- {t}"))
    }
}

/// Compares. `known`: rows of texts that pgaudit does not count (COPY).
pub fn compare(log: &[serverlog::Session], events: &[Event], known: &[(&str, u64)]) -> Report {
    let known: HashMap<&str, u64> = known.iter().copied().collect();
    let (sessions, skipped) = captured::sessions(events);
    let mut report = Report { skipped, ..Report::default() };
    // A port may be used again: the sessions of one port are matched in order of time.
    let mut ports = BTreeMap::<(&str, u16), Turns<'_>>::new();
    for session in log.iter().filter(|s| !s.statements.is_empty() && s.port != 0) {
        ports.entry((session.address.as_str(), session.port)).or_default().logged.push(session);
    }
    for session in sessions.iter().filter(|s| s.port != 0) {
        ports.entry((session.address, session.port)).or_default().told.push(session);
    }
    for (number, turns) in unix(log, &sessions).into_iter().enumerate() {
        ports.insert(("unix", u16::try_from(number).unwrap_or(u16::MAX)), turns);
    }
    for ((address, port), Turns { logged, told }) in ports {
        for turn in 0..logged.len().max(told.len()) {
            let (log, told) = (logged.get(turn), told.get(turn));
            let statements = log.map_or(&[][..], |s| s.statements.as_slice());
            let messages = told.map_or(&[][..], |s| s.messages.as_slice());
            let place = format!("{address}:{port}, backend {}", log.map_or(0, |s| s.pid));
            let database = log.map_or("", |s| s.database.as_str());
            session(&mut report, &place, database, statements, messages, &known);
        }
    }
    report
}

/// The sessions that one client port had, one after the other.
#[derive(Default)]
struct Turns<'a> {
    logged: Vec<&'a serverlog::Session>,
    told: Vec<&'a captured::Session<'a>>,
}

/// Unix sockets have no port that both sides know: sessions with the same texts belong together, in order of time.
fn unix<'a>(log: &'a [serverlog::Session], sessions: &'a [captured::Session<'a>]) -> Vec<Turns<'a>> {
    let bare = |text: &str| text.replace(|c: char| c.is_whitespace() || c == ';', "");
    let mut told: HashMap<String, VecDeque<&captured::Session<'_>>> = HashMap::new();
    for session in sessions.iter().filter(|s| s.port == 0) {
        let texts = session.messages.iter().flatten().map(|e| bare(&e.db_query_text));
        told.entry(texts.collect()).or_default().push_back(session);
    }
    let mut turns = Vec::new();
    for session in log.iter().filter(|s| !s.statements.is_empty() && s.port == 0) {
        let texts: String = session.statements.iter().map(|l| bare(&l.text)).collect();
        // Comments between statements are in the log only: then the beginning decides.
        let same =
            told.get_mut(&texts).and_then(|all| all.remove(all.iter().position(|s| agree(session, s))?));
        let found = same.or_else(|| {
            let first = bare(&session.statements[0].text);
            let like = |texts: &&String| {
                !texts.is_empty() && (texts.starts_with(&first) || first.starts_with(*texts))
            };
            let key = told.iter().filter(|(_, s)| !s.is_empty()).map(|(k, _)| k).find(like)?.clone();
            told.get_mut(&key)?.pop_front()
        });
        turns.push(Turns { logged: vec![session], told: found.into_iter().collect() });
    }
    turns.extend(told.into_values().flatten().map(|s| Turns { logged: Vec::new(), told: vec![s] }));
    turns
}

/// True where every parameter that was logged was told.
fn agree(log: &serverlog::Session, told: &captured::Session<'_>) -> bool {
    log.statements.iter().zip(&told.messages).all(|(logged, message)| {
        let Some(parameters) = &logged.parameters else { return true };
        let told = message.iter().flat_map(|e| e.db_query_parameters.iter().map(|p| &**p));
        told.eq(parameters.iter().map(|p| p.as_deref().unwrap_or("NULL")))
    })
}

fn session(
    report: &mut Report,
    place: &str,
    database: &str,
    logged: &[Logged],
    messages: &[Message<'_>],
    known: &HashMap<&str, u64>,
) {
    report.logged += logged.len();
    report.captured += messages.len();
    // In one line, or nothing of what else differs would be told.
    match (logged, messages) {
        ([first, ..], []) => {
            let (all, first) = (logged.len(), show(first));
            return report.tell(format!("{place}: weir missed all {all} statements, from {first} on"));
        }
        ([], [first, ..]) => {
            let (all, first) = (messages.len(), shows(first));
            return report.tell(format!("{place}: weir invented all {all} messages, from {first} on"));
        }
        _ => {}
    }
    let (mut l, mut m) = (0, 0);
    let mut portals = HashMap::new();
    while l < logged.len() || m < messages.len() {
        let alike = |l: usize, m: usize| {
            logged.get(l).zip(messages.get(m)).is_some_and(|(l, m)| captured::makes_up(m, &l.text))
        };
        if alike(l, m) {
            let place = format!("{place}, statement {l}");
            if same(report, &place, database, &logged[l], &messages[m]) {
                report.matched += 1;
            }
            rows(report, &place, &logged[l], &messages[m], known, &mut portals);
            (l, m) = (l + 1, m + 1);
            continue;
        }
        // Which side has something that the other lacks? The nearer next match tells.
        let missing = (1..40).find(|ahead| alike(l + ahead, m));
        let extra = (1..40).find(|ahead| alike(l, m + ahead));
        match (l < logged.len(), m < messages.len()) {
            (true, true) if missing.is_none() && extra.is_none() => {
                let (log, told) = (&logged[l], &messages[m]);
                report.tell(format!("{place}, statement {l}: {} but weir told {}", show(log), shows(told)));
                (l, m) = (l + 1, m + 1);
            }
            (true, _) if m >= messages.len() || missing.is_some_and(|n| extra.is_none_or(|e| n <= e)) => {
                report.tell(format!("{place}, statement {l}: weir missed {}", show(&logged[l])));
                l += 1;
            }
            _ => {
                report.tell(format!("{place}, before statement {l}: weir invented {}", shows(&messages[m])));
                m += 1;
            }
        }
    }
    for (text, portal) in portals {
        portal.check(report, text);
    }
}

/// A portal whose rows were fetched in parts.
struct Portal {
    place: String,
    whole: u64,
    parts: u64,
}

impl Portal {
    fn check(&self, report: &mut Report, text: &str) {
        if self.whole != self.parts {
            let (place, parts, whole) = (&self.place, self.parts, self.whole);
            report.tell(format!(
                "{place}: {:?} was fetched in parts of {parts} rows, should be {whole}",
                clip(text)
            ));
        }
    }
}

fn same(report: &mut Report, place: &str, database: &str, logged: &Logged, message: &[&Event]) -> bool {
    let mut wrong = String::new();
    for event in message {
        for (what, is, should) in [
            ("user", &*event.db_user, logged.user.as_str()),
            ("database", &*event.db_namespace, database),
            ("application", &*event.db_application_name, logged.application.as_str()),
        ] {
            if is != should {
                let _ = write!(wrong, "; {what} is {is:?}, should be {should:?}");
            }
        }
    }
    let status =
        message.iter().map(|e| &*e.db_response_status_code).find(|s| !s.is_empty()).unwrap_or_default();
    if status != logged.status {
        let _ = write!(wrong, "; status is {status:?}, should be {:?}", logged.status);
    }
    if let (Some(parameters), [event]) = (&logged.parameters, message) {
        report.parameters_compared += 1;
        let told: Vec<&str> = event.db_query_parameters.iter().map(|p| &**p).collect();
        let should: Vec<&str> = parameters.iter().map(|p| p.as_deref().unwrap_or("NULL")).collect();
        if told != should {
            let _ = write!(wrong, "; parameters are {:?}, should be {:?}", clips(&told), clips(&should));
        }
    }
    if wrong.is_empty() {
        return true;
    }
    report.tell(format!("{place}: {}{wrong}", show(logged)));
    false
}

/// Rows: one executor run for each statement of a simple message; for a portal, its fetches taken together.
fn rows<'l>(
    report: &mut Report,
    place: &str,
    logged: &'l Logged,
    message: &[&Event],
    known: &HashMap<&str, u64>,
    portals: &mut HashMap<&'l str, Portal>,
) {
    if !logged.status.is_empty() {
        return;
    }
    let told: Vec<u64> = message.iter().filter_map(|e| captured::rows(e)).collect();
    if let Some(count) = known.get(logged.text.as_str()) {
        report.rows_compared += 1;
        if told != [*count] {
            report.tell(format!("{place}: {} has {told:?} rows, should have {count}", show(logged)));
        }
        return;
    }
    let first: u64 = told.iter().sum();
    if logged.via == Via::Fetch {
        if let Some(portal) = portals.get_mut(logged.text.as_str()) {
            portal.parts += first;
        }
        return;
    }
    if logged.rows.is_empty() {
        return;
    }
    report.rows_compared += 1;
    if told != logged.rows {
        // A part of the whole: the rest comes with later fetches.
        let whole: u64 = logged.rows.iter().sum();
        if logged.via == Via::Execute && first < whole {
            let portal = Portal { place: place.to_owned(), whole, parts: first };
            if let Some(before) = portals.insert(&logged.text, portal) {
                before.check(report, &logged.text);
            }
            return;
        }
        report.tell(format!("{place}: {} has {told:?} rows, should have {:?}", show(logged), logged.rows));
    }
}

fn show(logged: &Logged) -> String {
    format!("{:?} {:?} [{}]", logged.via, clip(&logged.text), logged.status)
}

fn shows(message: &[&Event]) -> String {
    let parts: Vec<String> = message
        .iter()
        .map(|e| format!("{:?} [{}{}]", clip(&e.db_query_text), e.db_response_status_code, e.error_type))
        .collect();
    parts.join(" + ")
}

fn clips(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| clip(text)).collect()
}

fn clip(text: &str) -> String {
    if text.chars().count() <= 100 {
        text.to_owned()
    } else {
        text.chars().take(100).collect::<String>() + "..."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server would log, one entry for each line: `LOG MESSAGE` or `ERROR STATUS STATEMENT`.
    fn log(lines: &[&str]) -> Vec<serverlog::Session> {
        let entries = lines.iter().map(|line| {
            let (severity, rest) = line.split_once(' ').unwrap();
            let mut entry = serde_json::json!({
                "remote_host": "::1", "remote_port": 5, "session_id": "a.b", "pid": 7, "user": "u", "dbname": "d",
                "application_name": "psql", "error_severity": severity, "ps": "SELECT", "message": rest,
            });
            if severity == "ERROR" {
                let (status, statement) = rest.split_once(' ').unwrap();
                entry["state_code"] = status.into();
                entry["statement"] = statement.into();
            }
            entry.to_string()
        });
        serverlog::parse(&entries.collect::<Vec<_>>().join("\n")).unwrap()
    }

    fn event(text: &str, rows: Option<u64>) -> Event {
        Event {
            session_id: 9,
            client_address: "::1".into(),
            client_port: 5,
            db_user: "u".into(),
            db_namespace: "d".into(),
            db_application_name: "psql".into(),
            db_query_text: text.into(),
            db_response_returned_rows: rows,
            ..Event::default()
        }
    }

    fn good() -> (Vec<serverlog::Session>, Vec<Event>) {
        let log = log(&[
            "LOG statement: select 1; select 2",
            "LOG AUDIT: SESSION,1,1,READ,SELECT,,,select 1; select 2,<none>,1",
            "LOG AUDIT: SESSION,2,1,READ,SELECT,,,select 1; select 2,<none>,1",
            "LOG execute s1: select * from t",
            "LOG AUDIT: SESSION,3,1,READ,SELECT,,,select * from t,<none>,40",
            "LOG statement: select 1/0",
            "ERROR 22012 select 1/0",
        ]);
        let mut events =
            vec![event("select 1", Some(1)), event("select 2", Some(1)), event("select * from t", Some(40))];
        for part in &mut events[..2] {
            part.batch_id = "1".into();
        }
        events.push(Event { db_response_status_code: "22012".into(), ..event("select 1/0", None) });
        (log, events)
    }

    #[test]
    fn finds_no_difference_where_there_is_none() {
        let (log, events) = good();
        let report = compare(&log, &events, &[]);
        report.assert_equal();
        assert_eq!((report.logged, report.rows_compared), (3, 2));
    }

    #[test]
    fn finds_each_kind_of_difference() {
        type Spoil = fn(&mut Vec<Event>);
        let spoil: [(&str, Spoil); 10] = [
            ("missed", |e| drop(e.remove(2))),
            ("invented", |e| e.insert(2, event("select 3", None))),
            ("doubled", |e| e.insert(2, e[2].clone())),
            ("out of order", |e| e.swap(2, 3)),
            ("text", |e| e[2].db_query_text = "select * from u".into()),
            ("part of a message", |e| drop(e.remove(1))),
            ("user", |e| e[2].db_user = "v".into()),
            ("database", |e| e[2].db_namespace = "".into()),
            ("rows", |e| e[2].db_response_returned_rows = Some(41)),
            ("status", |e| e[3].db_response_status_code = "".into()),
        ];
        for (what, spoil) in spoil {
            let (log, mut events) = good();
            spoil(&mut events);
            let report = compare(&log, &events, &[]);
            assert!(report.differences > 0, "{what}: {report}");
        }
    }

    #[test]
    fn adds_up_the_parts_of_a_portal() {
        let log = log(&[
            "LOG execute s/p: select * from t",
            "LOG execute fetch from s/p: select * from t",
            "LOG AUDIT: SESSION,1,1,READ,SELECT,,,select * from t,<none>,100",
        ]);
        let parts = |a, b| [event("select * from t", Some(a)), event("select * from t", Some(b))];
        compare(&log, &parts(40, 60), &[]).assert_equal();
        assert_eq!(compare(&log, &parts(40, 59), &[]).differences, 1);
    }
}
