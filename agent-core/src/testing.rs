//! Recorded bytes -> what they must yield. A case is a script of messages and the JSON of what comes out.
//!
//! A script's line is one segment: direction, microseconds, messages. `> 120 Q "SELECT 1\0"` is a client's message
//! whose length is worked out, `U "..."` one of the startup phase, which has no type; a string without a type is raw bytes; `lost 12` and `elided 12` are holes. Lines that
//! begin with `#` say what the case is about. `UPDATE_EXPECT=1 cargo test` writes the JSON anew.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::connection::Connection;
use crate::exchange::{Blindness, Loss, Parameter, Session, Statement, Ticket};
use crate::protocol::Sink;
use crate::segment::{Flags, Nanos, Segment, Side};
use crate::sensitive::Catalog;
use crate::sql::Texts;

/// What one side sent at one time.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) client: bool,
    pub(crate) micros: u64,
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Bytes(Vec<u8>),
    Lost(u32),
    Elided(u32),
}

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The cases of a folder.
pub(crate) fn cases(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(testdata().join(folder))
        .expect("the folder is there")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(format!("{folder}/{}", name.strip_suffix(".wire")?)))
        .collect();
    names.sort();
    names
}

/// Reads a case's script.
pub(crate) fn script(case: &str) -> Vec<Sent> {
    let path = testdata().join(format!("{case}.wire"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(line).collect()
}

fn line(line: &str) -> Sent {
    let (direction, rest) = line.split_at(1);
    let mut words = Lexer { rest: rest.trim() };
    let micros = words.word().parse().unwrap_or_else(|_| panic!("no time in: {line}"));
    let mut parts = Vec::new();
    let mut bytes = Vec::new();
    while !words.rest.is_empty() {
        if words.rest.starts_with('"') {
            bytes.extend(words.string());
            continue;
        }
        let word = words.word();
        match word {
            "lost" | "elided" => {
                if !bytes.is_empty() {
                    parts.push(Part::Bytes(std::mem::take(&mut bytes)));
                }
                let length = words.word().parse().expect("a hole's length");
                parts.push(if word == "lost" { Part::Lost(length) } else { Part::Elided(length) });
            }
            kind => {
                assert_eq!(kind.len(), 1, "a message type in: {line}");
                let body = words.string();
                if kind != "U" {
                    bytes.extend(kind.bytes());
                }
                bytes.extend((body.len() as u32 + 4).to_be_bytes());
                bytes.extend(body);
            }
        }
    }
    if !bytes.is_empty() {
        parts.push(Part::Bytes(bytes));
    }
    Sent { client: direction == ">", micros, parts }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn string(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chars = self.rest.strip_prefix('"').expect("a string").chars();
        loop {
            match chars.next().expect("an end to the string") {
                '"' => break,
                '\\' => match chars.next().expect("an escape") {
                    '0' => bytes.push(0),
                    'n' => bytes.push(b'\n'),
                    'r' => bytes.push(b'\r'),
                    't' => bytes.push(b'\t'),
                    'x' => {
                        let digits: String = chars.by_ref().take(2).collect();
                        bytes.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
                    }
                    c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                },
                c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        self.rest = chars.as_str().trim_start();
        bytes
    }
}

/// A segment that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) from: Side,
    pub(crate) time: u64,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: Flags,
    pub(crate) length: u32,
    pub(crate) head: Vec<u8>,
}

impl Owned {
    pub(crate) fn segment(&self) -> Segment<'_> {
        Segment {
            from: self.from,
            time: Nanos(self.time),
            sequence: self.sequence,
            acknowledgment: self.acknowledgment,
            flags: self.flags,
            length: self.length,
            head: &self.head,
            tail: &[],
        }
    }
}

/// The client's and the server's first sequence numbers: one wraps around soon.
pub(crate) const ORIGIN: [u32; 2] = [0xffff_fff0, 1_000];

/// A script as the segments of a connection; `split` says how long each may be.
pub(crate) fn segments(script: &[Sent], mut split: impl FnMut() -> usize) -> Vec<Owned> {
    let mut next = ORIGIN;
    let mut out = Vec::new();
    for sent in script {
        let (own, peer, from) = if sent.client { (0, 1, Side::A) } else { (1, 0, Side::B) };
        let flags = Flags { ack: true, ..Flags::default() };
        for part in &sent.parts {
            let mut push = |head: &[u8], length: u32, next: &mut [u32; 2]| {
                out.push(Owned {
                    from,
                    time: sent.micros * 1_000,
                    sequence: next[own],
                    acknowledgment: next[peer],
                    flags,
                    length,
                    head: head.into(),
                });
                next[own] = next[own].wrapping_add(length);
            };
            match part {
                Part::Bytes(bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (head, after) = rest.split_at(split().clamp(1, rest.len()));
                        push(head, head.len() as u32, &mut next);
                        rest = after;
                    }
                }
                Part::Elided(length) => push(&[], *length, &mut next),
                Part::Lost(length) => next[own] = next[own].wrapping_add(*length),
            }
        }
    }
    out
}

/// Runs segments through a connection; what came out, in order.
pub(crate) fn run(segments: &[Owned], begins: bool, patience: u64) -> Vec<Value> {
    let mut connection = Connection::with_patience(begins, Some("postgresql"), patience);
    let mut texts = Texts::default();
    let mut log = Log::default();
    let mut last = 0;
    if begins {
        for from in [Side::A, Side::B] {
            let [own, peer] = if from == Side::A { ORIGIN } else { [ORIGIN[1], ORIGIN[0]] };
            let flags = Flags { syn: true, ack: from == Side::B, ..Flags::default() };
            let sequence = own.wrapping_sub(1);
            let time = segments.iter().map(|segment| segment.time).min().unwrap_or(0);
            let head = Vec::new();
            let syn = Owned { from, time, sequence, acknowledgment: peer, flags, length: 0, head };
            connection.segment(&syn.segment(), &mut texts, &mut log);
        }
    }
    for segment in segments {
        last = last.max(segment.time);
        connection.segment(&segment.segment(), &mut texts, &mut log);
    }
    connection.close(Nanos(last), &mut texts, &mut log);
    log.0
}

/// Everything that comes out, as JSON.
#[derive(Default)]
pub(crate) struct Log(pub(crate) Vec<Value>);

impl Log {
    fn push(&mut self, kind: &str, value: Value) {
        self.0.push(Value::Object([(kind.to_owned(), value)].into_iter().collect()));
    }
}

impl Sink for Log {
    fn detected(&mut self, protocol: &'static str, _client: Side) {
        self.push("detected", json!(protocol));
    }

    fn refused(&mut self) {
        self.push("refused", json!(true));
    }

    fn encrypted(&mut self) {
        self.push("encrypted", json!(true));
    }

    fn session(&mut self, session: &Arc<Session>) {
        self.push("session", session_json(session));
    }

    fn request(&mut self, statement: &Statement) -> Ticket {
        Ticket(statement.text.as_ref().map_or(1, |text| text.bytes().len() as u64))
    }

    fn statement(&mut self, statement: Statement) {
        let length = statement.text.as_ref().map_or(1, |text| text.bytes().len() as u64);
        let judged = statement.kind == crate::exchange::Kind::Prepare || statement.ticket == Ticket(length);
        assert!(judged, "a statement comes back with its own ticket");
        self.push("statement", statement_json(&statement));
    }

    fn lost(&mut self, loss: Loss) {
        self.push("lost", json!({"client": loss.from == Side::A, "bytes": loss.bytes, "reason": format!("{:?}", loss.reason)}));
    }

    fn blind(&mut self, blindness: Blindness) {
        self.push("blind", json!(format!("{blindness:?}")));
    }
}

fn session_json(session: &Session) -> Value {
    let mut out = Map::new();
    for (name, value) in [
        ("user", &session.user),
        ("role", &session.role),
        ("namespace", &session.namespace),
        ("application_name", &session.application_name),
        ("search_path", &session.search_path),
        ("server_version", &session.server_version),
        ("status", &session.status),
    ] {
        if !value.is_empty() {
            out.insert(name.into(), json!(value));
        }
    }
    if session.replication {
        out.insert("replication".into(), json!(true));
    }
    if session.adopted {
        out.insert("adopted".into(), json!(true));
    }
    if session.backend != 0 {
        out.insert("backend".into(), json!(session.backend));
    }
    Value::Object(out)
}

fn statement_json(statement: &Statement) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.into(), value);
    };
    let text = |text: &Arc<crate::sql::Text>| json!(String::from_utf8_lossy(text.bytes()));
    put("text", statement.text.as_ref().map_or(Value::Null, text));
    put("kind", json!(format!("{:?}", statement.kind)));
    if let Some(prepared) = &statement.prepared {
        put("prepared", text(prepared));
    }
    if let Some(function) = statement.function {
        put("function", json!(function));
    }
    if !statement.parameters.is_empty() {
        let parameters = statement.parameters.iter().map(|parameter| match parameter {
            Parameter::Null => Value::Null,
            Parameter::Text(text) => json!(text),
            Parameter::Binary(bytes) => json!({ "binary": bytes }),
        });
        put("parameters", parameters.collect());
    }
    if let Some(batch) = statement.batch {
        put("batch", json!([batch.id, batch.index]));
    }
    put("started", json!(statement.started.0 / 1_000));
    for (name, time) in [("first_byte", statement.first_byte), ("ended", statement.ended)] {
        if let Some(time) = time {
            put(name, json!(time.0 / 1_000));
        }
    }
    for (name, rows) in [("returned", statement.returned_rows), ("affected", statement.affected_rows)] {
        if let Some(rows) = rows {
            put(name, json!(rows));
        }
    }
    for (name, word) in [("status", &statement.status[..]), ("error", statement.error)] {
        if !word.is_empty() {
            put(name, json!(word));
        }
    }
    for (name, set) in [("incomplete", !statement.complete), ("truncated", statement.truncated)] {
        if set {
            put(name, json!(true));
        }
    }
    let data: Vec<String> = match &statement.sample {
        Some(_) => {
            let classes = statement.data_classes(&Catalog::default());
            classes.iter().map(|data| format!("{} {}", data.class, data.column)).collect()
        }
        None => Vec::new(),
    };
    if !data.is_empty() {
        put("data", json!(data));
    }
    if statement.lost_before > 0 {
        put("lost_before", json!(statement.lost_before));
    }
    put("bytes", json!(statement.bytes));
    for (name, value) in [("user", &statement.session.user), ("role", &statement.session.role)] {
        if !value.is_empty() {
            put(name, json!(value));
        }
    }
    Value::Object(out)
}

/// Runs a case and compares what comes out with what must.
pub(crate) fn check(case: &str) {
    let script = script(case);
    let begins = !case.contains("midstream");
    let got = run(&segments(&script, || usize::MAX), begins, 0);
    let path = testdata().join(format!("{case}.json"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let lines: Vec<String> = got.iter().map(Value::to_string).collect();
        std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).expect("written");
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let want: Vec<Value> = serde_json::from_str(&text).expect("a list");
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got, want, "{case}: output {index}");
    }
    assert_eq!(got.len(), want.len(), "{case}: number of outputs");
}
