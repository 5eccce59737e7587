//! `weir verify` finds a changed, a removed and a swapped receipt, in ClickHouse and in JSON lines.

use std::process::Command;
use std::time::Duration;

use agent::store::Store;
use agent::store::bench::Samples;
use agent_core::event::{DataClass, Event, EventKind};
use agent_core::receipt::Chain;

use crate::support::{Directory, client, config, push, push_one, start};

pub(crate) fn verify(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).arg("verify").args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// So many receipts, or the sequence and the words of the first wrong one.
pub(crate) fn expect(url: &str, database: &str, outcome: Result<u64, (u64, &str)>) {
    check(&verify(&["--url", url, "--database", database]), outcome);
}

fn check((code, text): &(i32, String), outcome: Result<u64, (u64, &str)>) {
    match outcome {
        Ok(count) => {
            assert_eq!(*code, 0, "{text}");
            assert!(text.contains(&format!("whole: {count} receipts")), "{text}");
        }
        Err((sequence, words)) => {
            assert_eq!(*code, 1, "{text}");
            assert!(
                text.contains(&format!(": receipt {sequence} (event ")) && text.contains(words),
                "{text}"
            );
        }
    }
}

/// An event with something in every field, so that whatever ClickHouse alters is noticed.
pub(crate) fn full() -> Event {
    let json = serde_json::to_value(Event::default()).unwrap();
    let mut full = json.as_object().unwrap().clone();
    for (name, value) in &mut full {
        if value.as_str() == Some("") {
            *value = format!("{name} 'ünï\"\\\n\u{1}\0\u{1F980}").into();
        } else if value.is_null() || value.as_u64() == Some(0) {
            *value = if name.ends_with("port") { u16::MAX.into() } else { u32::MAX.into() };
        } else if value.is_boolean() {
            *value = true.into();
        }
    }
    full["session_id"] = u64::MAX.to_string().into();
    full["time"] = "2026-11-21T23:59:59.999999999Z".into();
    full["statement_effects"] = serde_json::json!(["copy_out", "replicate"]);
    full["statement_relations"] =
        serde_json::json!([{"name": "a\"b", "access": "write"}, {"name": "", "access": "read"}]);
    full["identity_claims"] = serde_json::json!([
        {"key": "k", "value": "v\"\\\u{0}\u{7f}\u{2028}'", "source": "s/t", "confidence": 100},
        {"key": "", "value": "", "source": "", "confidence": 0}
    ]);
    full["db_query_parameters"] = serde_json::json!(["", "x\ty"]);
    full["process_ancestry"] = serde_json::json!(["sh(1)"]);
    let event: Event = serde_json::from_value(full.into()).unwrap();
    Event {
        data_classes: [DataClass { class: "email".into(), column: "c".into() }].into(),
        session_id: u64::MAX,
        capture_lost_before: u64::MAX,
        duration_ns: Some(u64::MAX),
        event_kind: EventKind::Config,
        ..event
    }
}

#[tokio::test]
async fn tampering_in_clickhouse_is_found() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    expect_unreadable(&url);
    let store = Store::open(config(&url, &directory.0)).await.unwrap();
    let mut samples = Samples::new();
    push(&store, &mut samples, 1_000);
    push_one(&store, full());
    push(&store, &mut samples, 5_900);
    push_one(&store, Event { time: 0, ..Event::default() });
    assert_eq!(store.close(Duration::from_mins(1)).await.stored, 6_902);
    expect(&url, "weir", Ok(6_902));

    let client = client(&url);
    let run = async |sql: String| client.query_raw(&sql).execute().await.unwrap();
    for (name, columns, condition, outcome) in [
        ("whole", "*", "1", Ok(6_902)),
        (
            "changed",
            "* REPLACE (if(sequence = 700, 'nobody', db_user) AS db_user)",
            "1",
            Err((700, "changed")),
        ),
        (
            "claims",
            "* REPLACE (if(sequence = 5500, '', identity_evidence) AS identity_evidence)",
            "1",
            Err((5_500, "changed")),
        ),
        ("removed", "*", "sequence != 5_001", Err((5_002, "missing before it: receipt 5001"))),
        ("beheaded", "*", "sequence > 6_900", Err((6_901, "missing before it: receipts 1 to 6900"))),
        ("window", "*", "sequence < 10 OR sequence > 6900", Err((6_901, "receipts 10 to 6900"))),
        (
            "swapped",
            "* REPLACE (transform(sequence, [800, 801], [801, 800], sequence) AS sequence)",
            "1",
            Err((800, "changed")),
        ),
        (
            "hashed",
            "* REPLACE (if(sequence = 900, toFixedString(repeat('x', 64), 64), chain) AS chain)",
            "1",
            Err((900, "changed")),
        ),
    ] {
        run(format!("CREATE DATABASE {name}")).await;
        run(format!("CREATE TABLE {name}.events AS weir.events")).await;
        run(format!("INSERT INTO {name}.events SELECT {columns} FROM weir.events WHERE {condition}")).await;
        expect(&url, name, outcome);
    }
    run("CREATE TABLE default.events AS weir.events".into()).await;
    run("INSERT INTO default.events SELECT * FROM weir.events WHERE sequence < 9".into()).await;
    run("INSERT INTO default.events SELECT * FROM weir.events WHERE sequence = 5".into()).await;
    expect(&url, "default", Err((5, "reordered")));
}

fn expect_unreadable(url: &str) {
    let (code, text) = verify(&["--url", url, "--database", "nowhere"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("weir: cannot read the receipts from"), "{text}");
}

#[test]
fn tampering_in_json_lines_is_found() {
    let directory = Directory::new();
    let (mut chain, mut scratch, mut samples) = (Chain::default(), Vec::new(), Samples::new());
    let lines: Vec<String> = (0..1_000)
        .map(|i| {
            let mut event = if i == 500 { full() } else { samples.next_event() };
            event.agent_id = "agent-1".into();
            chain.append(&mut event, &mut scratch);
            serde_json::to_string(&event).unwrap()
        })
        .collect();
    let path = directory.0.join("events.jsonl");
    let run = |lines: &[String]| {
        std::fs::write(&path, lines.join("\n")).unwrap();
        verify(&[path.to_str().unwrap()])
    };
    check(&run(&lines), Ok(1_000));
    let mut changed = lines.clone();
    changed[41] = changed[41].replace("\"db_user\":\"app\"", "\"db_user\":\"eve\"");
    check(&run(&changed), Err((42, "changed")));
    let mut removed = lines.clone();
    removed.remove(600);
    check(&run(&removed), Err((602, "missing before it: receipt 601")));
    let mut swapped = lines.clone();
    swapped.swap(10, 20);
    check(&run(&swapped), Err((21, "missing before it: receipts 11 to 20")));
    let part = ["--from", "601"];
    std::fs::write(&path, lines[600..].join("\n")).unwrap();
    check(&verify(&[&[path.to_str().unwrap()], &part[..]].concat()), Ok(400));
    check(&verify(&[path.to_str().unwrap()]), Err((601, "missing before it: receipts 1 to 600")));
    let (code, text) = run(&["{}x".to_owned()]);
    assert!(code == 1 && text.contains("line 1"), "{text}");
}
