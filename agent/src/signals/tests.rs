//! Real receivers in this process -> what they are told, how often, and what becomes of it where they refuse.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Instant;

use agent_core::event::{Disposition, EventKind};
use agent_core::policy::Source;
use agent_core::sql::{Access, Effect, Relation};
use serde_json::Value;

use super::*;

fn event() -> Event {
    Event {
        event_id: 0x0193_0000_0000_7000_8000_0000_0000_0001,
        time: 1_795_262_400_123_456_789,
        agent_id: "db1-0123".into(),
        host_name: "db1".into(),
        session_id: 77,
        db_system_name: "postgresql".into(),
        db_namespace: "shop".into(),
        db_user: "app".into(),
        db_query_text: "DELETE FROM \"or<ders\" WHERE a = ?".into(),
        db_query_summary: "DELETE orders".into(),
        db_operation_name: "DELETE".into(),
        db_collection_name: "orders".into(),
        db_query_fingerprint: "0123456789abcdef".into(),
        statement_effects: [Effect::Delete].into(),
        statement_relations: [Relation { name: "orders".into(), access: Access::Write }].into(),
        db_response_affected_rows: Some(7),
        duration_ns: Some(2_000_000),
        client_address: "127.0.0.1".into(),
        client_port: 40_000,
        server_address: "127.0.0.1".into(),
        server_port: 5432,
        network_transport: "tcp".into(),
        process_pid: Some(4711),
        process_executable_path: "/usr/bin/psql".into(),
        process_owner: "joe".into(),
        identity_principal: "joe\"]\\".into(),
        policy_rule: "no-deletes".into(),
        policy_version: "abcdef012345".into(),
        policy_mode: "enforce".into(),
        disposition: Disposition::Killed,
        ..Event::default()
    }
}

fn signal() -> Signal {
    let event = event();
    Signal {
        count: 3,
        last: event.time + 5_000_000_000,
        message: "Ask in #dba.".into(),
        event: Arc::new(event),
    }
}

/// A request that a receiver got.
#[derive(Debug)]
struct Got {
    head: String,
    body: Vec<u8>,
}

/// Answers requests with these statuses in turn, the last one again and again.
fn receiver(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/services/T0/B0/planted", listener.local_addr().unwrap());
    let (got, gets) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                head += &std::mem::take(&mut line);
            }
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            let status = statuses.get(number).or(statuses.last()).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            if got.send(Got { head, body }).is_err() {
                return;
            }
        }
    });
    (url, gets)
}

const LIMIT: Duration = Duration::from_secs(60);

fn next(gets: &mpsc::Receiver<Got>) -> (String, Value) {
    let got = gets.recv_timeout(LIMIT).expect("the receiver is told");
    (got.head, serde_json::from_slice(&got.body).unwrap())
}

/// A sink of a kind, with a secret in a file.
fn sink(kind: &str, directory: &tempfile::TempDir, url: &str) -> Sink {
    let file = directory.path().join("url");
    std::fs::write(&file, format!("{url}\n")).unwrap();
    Sink { kind: kind.into(), url_file: Some(file), ..Sink::default() }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn equal_signals_are_one_with_a_count_and_tried_until_they_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (url, gets) = receiver(&["503 Busy", "429 Slow", "200 OK"]);
    let token = directory.path().join("token");
    std::fs::write(&token, "planted-token").unwrap();
    let sink = Sink { within: "1h".into(), token_file: Some(token), ..sink("webhook", &directory, &url) };
    let mut signals = Signals::start(&[sink]).unwrap();
    let text = "kind: DatabasePolicy\nmetadata: {name: no-deletes}\nspec: {match: {}, action: kill, message: \"Ask in #dba.\"}\n";
    signals.rules(&Policies::load(&[Source { file: "p", text }]).unwrap());
    for _ in 0..100 {
        signals.offer(&event());
    }
    let allowed = Event { disposition: Disposition::Allowed, ..event() };
    let session = Event { event_kind: EventKind::Session, ..event() };
    for unwanted in [allowed, session, Event { event_kind: EventKind::Loss, ..event() }] {
        signals.offer(&unwanted);
    }
    for _ in 0..3 {
        let (head, body) = next(&gets);
        assert!(head.starts_with("POST /services/T0/B0/planted HTTP/1.1"), "{head}");
        assert!(head.contains("authorization: Bearer planted-token"), "{head}");
        let text = body["text"].as_str().unwrap();
        assert!(
            text.starts_with("[killed] no-deletes: DELETE orders by joe") && text.ends_with("Ask in #dba."),
            "{text}"
        );
    }
    let tally = Arc::clone(&signals.told().next().unwrap().tally);
    wait("the others are counted", || tally.gathered.load(Relaxed) == 99 && tally.sent.load(Relaxed) == 1);
    // The end closes the window.
    signals.close(LIMIT);
    let (_, body) = next(&gets);
    assert!(body["text"].as_str().unwrap().contains(", 100 times"), "{body}");
    assert_eq!((tally.sent.load(Relaxed), tally.retries.load(Relaxed)), (2, 2));
    assert_eq!(tally.dropped().iter().map(|(_, n)| n).sum::<u64>(), 0);
    signals.offer(&event());
}

#[test]
fn what_is_not_told_is_counted_and_nobody_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = Sink {
        within: "0s".into(),
        name: "away".into(),
        ..sink("webhook", &directory, &format!("http://{gone}/x"))
    };
    let other = tempfile::tempdir().unwrap();
    let (url, gets) = receiver(&["404 Not Found"]);
    let refuses = Sink { within: "0s".into(), name: "refuses".into(), ..sink("webhook", &other, &url) };
    let mut signals = Signals::start(&[away, refuses]).unwrap();
    let total = 20_000;
    for n in 0..total {
        signals.offer(&Event { session_id: n, ..event() });
    }
    next(&gets);
    let told: Vec<Told> = signals.told().cloned().collect();
    let sum = |at: usize| told[at].tally.dropped().iter().map(|(_, n)| n).sum::<u64>();
    wait("refusals are counted", || told[1].tally.dropped_refused.load(Relaxed) > 0);
    signals.close(Duration::ZERO);
    assert_eq!(told[0].tally.sent.load(Relaxed), 0);
    assert_eq!((sum(0), sum(1)), (total, total), "{told:?}");
    assert!(told[0].tally.dropped_ended.load(Relaxed) > 0, "{told:?}");
}

#[test]
fn secrets_that_are_missing_are_told_without_them() {
    let sink = Sink { kind: "webhook".into(), url_file: Some("/nonexistent/url".into()), ..Sink::default() };
    let problems = Signals::start(&[sink]).err().unwrap();
    assert!(problems[0].to_string().contains("signals[0] (webhook1): cannot read url_file"), "{problems:?}");
    let directory = tempfile::tempdir().unwrap();
    let problems = Signals::start(&[sink_of_nonsense(&directory)]).err().unwrap();
    assert!(!problems[0].to_string().contains("planted"), "{problems:?}");
}

fn sink_of_nonsense(directory: &tempfile::TempDir) -> Sink {
    sink("webhook", directory, "hxxp://planted/planted planted")
}

/// `<PRI>1 TIME HOST APP PID MSGID [SD] MSG`.
fn check_syslog(message: &[u8]) {
    let text = std::str::from_utf8(message).unwrap();
    let form = concat!(
        r#"^<131>1 2026-11-21T12:00:00\.123456Z db1 weir \d+ killed \[weir@32473( [a-z_]{1,32}="(?:[^"\\\]]|\\["\\\]])*")+\] "#,
        r"\[killed\] no-deletes: DELETE orders by joe"
    );
    assert!(regex::Regex::new(form).unwrap().is_match(text), "{text}");
    assert!(text.contains(r#" identity_principal="joe\"\]\\""#), "{text}");
}

#[test]
fn syslog_by_datagram_stream_and_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (udp, unix) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UnixDatagram::bind(&path).unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(LIMIT)).unwrap();
    unix.set_read_timeout(Some(LIMIT)).unwrap();
    let addresses = [
        format!("udp://{}", udp.local_addr().unwrap()),
        format!("unix://{}", path.display()),
        format!("tcp://{}", tcp.local_addr().unwrap()),
    ];
    let sinks = addresses.map(|address| Sink {
        kind: "syslog".into(),
        address,
        within: "0s".into(),
        ..Sink::default()
    });
    let mut signals = Signals::start(&sinks).unwrap();
    signals.offer(&event());
    let mut bytes = [0; 8192];
    let length = udp.recv(&mut bytes).unwrap();
    check_syslog(&bytes[..length]);
    let length = unix.recv(&mut bytes).unwrap();
    check_syslog(&bytes[..length]);
    let framed = |stream: &std::net::TcpStream| {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut stream = BufReader::new(stream);
        let mut length = Vec::new();
        stream.read_until(b' ', &mut length).unwrap();
        let mut message = vec![0; String::from_utf8(length).unwrap().trim().parse().unwrap()];
        stream.read_exact(&mut message).unwrap();
        check_syslog(&message);
    };
    let (stream, _) = tcp.accept().unwrap();
    framed(&stream);
    // A receiver that starts anew is found again.
    drop(stream);
    signals.offer(&event());
    framed(&tcp.accept().unwrap().0);
    signals.close(LIMIT);
}

#[test]
fn otlp_logs_are_as_collectors_take_them() {
    let directory = tempfile::tempdir().unwrap();
    let (url, gets) = receiver(&["200 OK"]);
    let base = url.trim_end_matches("/services/T0/B0/planted");
    let sink = Sink { when: vec!["killed".into(), "blind".into()], ..sink("otlp", &directory, base) };
    let mut signals = Signals::start(&[sink]).unwrap();
    signals.offer(&event());
    let (head, body) = next(&gets);
    signals.close(LIMIT);
    assert!(head.starts_with("POST /v1/logs HTTP/1.1") && head.contains("application/json"), "{head}");
    let record = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["timeUnixNano"], "1795262400123456789");
    assert_eq!((record["severityNumber"].as_u64(), &record["severityText"]), (Some(17), &"ERROR".into()));
    let attribute = |name: &str| {
        let all = record["attributes"].as_array().unwrap();
        all.iter().find(|a| a["key"] == name).map(|a| a["value"].clone()).unwrap_or_default()
    };
    assert_eq!(attribute("db.query.summary")["stringValue"], "DELETE orders");
    assert_eq!(attribute("db.response.affected_rows")["intValue"], "7");
    assert_eq!(attribute("statement.effects")["arrayValue"]["values"][0]["stringValue"], "delete");
    assert_eq!(attribute("policy.rule")["stringValue"], "no-deletes");
    assert_eq!(body["resourceLogs"][0]["resource"]["attributes"][3]["value"]["stringValue"], "db1");
}

/// What class 6005 requires, of itself and of its objects, as the schema's files say.
fn check_ocsf(line: &Value) {
    for name in ["activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time"] {
        assert!(line[name].is_u64(), "{name}: {line}");
    }
    assert_eq!((line["class_uid"].as_u64(), line["category_uid"].as_u64()), (Some(6005), Some(6)));
    assert_eq!(line["type_uid"].as_u64(), line["activity_id"].as_u64().map(|id| 600_500 + id));
    assert!(
        line["metadata"]["version"].is_string() && line["metadata"]["product"]["vendor_name"].is_string()
    );
    let any = |object: &Value, names: &[&str]| names.iter().any(|name| !object[*name].is_null());
    assert!(any(line, &["database", "databucket", "table"]));
    assert!(any(&line["actor"], &["process", "user", "session", "app_name"]));
    assert!(any(&line["src_endpoint"], &["ip", "uid", "name", "hostname", "svc_name"]), "{line}");
    assert!(any(&line["database"], &["name", "uid"]) && line["database"]["type_id"].is_u64());
    if !line["query_info"].is_null() {
        assert!(line["query_info"]["query_string"].is_string());
    }
    if !line["actor"]["process"].is_null() {
        assert!(any(&line["actor"]["process"], &["pid", "uid"]));
    }
    // Ids are numbers with captions beside them, times are milliseconds.
    assert_eq!(line["time"].as_u64(), Some(1_795_262_400_123));
    for name in ["activity", "class", "category", "type"] {
        assert!(line[format!("{name}_name")].is_string(), "{name}");
    }
}

#[test]
fn ocsf_lines_have_what_the_class_requires() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ocsf.jsonl");
    let (url, gets) = receiver(&["202 Accepted"]);
    let to_file =
        Sink { kind: "ocsf".into(), file: Some(file.clone()), within: "0s".into(), ..Sink::default() };
    let to_url = sink("ocsf", &directory, &url);
    let mut signals = Signals::start(&[to_file, to_url]).unwrap();
    signals.offer(&event());
    // A session over a Unix socket of which next to nothing is known.
    let bare = Event {
        db_namespace: "".into(),
        db_query_text: "".into(),
        client_address: "".into(),
        server_address: "/run/.s.PGSQL.5432".into(),
        process_pid: None,
        identity_principal: "".into(),
        policy_mode: "monitor".into(),
        ..event()
    };
    signals.offer(&bare);
    let (head, first) = next(&gets);
    assert!(head.contains("application/x-ndjson"), "{head}");
    signals.close(LIMIT);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in lines.iter().chain([&first]) {
        check_ocsf(line);
    }
    assert_eq!((&lines[0]["activity_name"], &lines[0]["disposition"]), (&"Delete".into(), &"Reset".into()));
    assert_eq!(
        (lines[0]["action_id"].as_u64(), lines[0]["policy"]["is_applied"].as_bool()),
        (Some(2), Some(true))
    );
    // Who only watches has let it pass.
    assert_eq!((lines[1]["action_id"].as_u64(), &lines[1]["disposition"]), (Some(1), &"Detected".into()));
}

#[test]
fn people_are_told_what_happened() {
    let mut told = signal();
    assert_eq!(
        words::headline(&told),
        "[killed] no-deletes: DELETE orders by joe\"]\\ with psql on postgresql shop as app at db1, 3 times. Ask in #dba."
    );
    let watched = Event { policy_mode: "monitor".into(), ..event() };
    told = Signal { event: Arc::new(watched), count: 1, ..told };
    assert!(words::headline(&told).starts_with("[would be killed] "));
    let body: Value = serde_json::from_slice(&webhook::body(&signal())).unwrap();
    let fields = body["attachments"][0]["fields"].as_array().unwrap();
    let value =
        |title: &str| fields.iter().find(|field| field["title"] == title).map(|field| &field["value"]);
    assert_eq!(value("db_query_text"), Some(&"DELETE FROM \"or&lt;ders\" WHERE a = ?".into()));
    assert_eq!(value("count"), Some(&"3".into()));
}
