//! What is signed about the chain: checkpoints, keys, anchors, stubs, on the real engine.

use std::time::Duration;

use agent::store::bench::Samples;
use agent::store::{Config, PolicyText, Store, rotation_request};
use clickhouse::Client;

use crate::support::{Directory, census, client, config, nowhere, push, start, start_at};
use crate::verify::verify;

const LONG: Duration = Duration::from_mins(1);
const DAY: u64 = 86_400_000_000_000;

fn said(url: &str, more: &[&str]) -> (i32, String) {
    verify(&[&["--url", url], more].concat())
}

async fn number(client: &Client, sql: &str) -> u64 {
    client.query(sql).fetch_one().await.unwrap()
}

async fn execute(client: &Client, sql: &str) {
    client.query_raw(sql).execute().await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

#[tokio::test]
async fn what_is_cut_off_or_made_anew_is_found() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let (url, anchor) = (engine.url(), directory.0.join("anchor.jsonl"));
    let config = Config {
        checkpoint_receipts: 1_000,
        anchor_file: Some(anchor.clone()),
        ..config(&url, &directory.0)
    };
    let store = Store::open(config.clone()).await.unwrap();
    let mut samples = Samples::new();
    push(&store, &mut samples, 12_345);
    store.close(LONG).await;
    drop(store);
    let client = client(&url);
    assert!(number(&client, "SELECT count() FROM checkpoints").await >= 2);
    assert_eq!(
        number(&client, "SELECT max(sequence) FROM checkpoints").await,
        12_345,
        "a clean end is signed"
    );
    let (code, text) = said(&url, &[]);
    assert!(code == 0 && text.contains("12345 receipts, 1 to 12345, all signed"), "{text}");
    let with_anchor = ["--anchor", anchor.to_str().unwrap()];
    assert_eq!(said(&url, &with_anchor).0, 0);

    // Receipts after the last checkpoint are told.
    let store = Store::open(config).await.unwrap();
    push(&store, &mut samples, 10);
    while store.counters().stored < 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (code, text) = said(&url, &[]);
    assert!(
        code == 0 && text.contains("signed up to 12345") && text.contains("the newest 10 not yet"),
        "{text}"
    );
    store.close(LONG).await;

    execute(&client, "ALTER TABLE events DELETE WHERE sequence > 12300 SETTINGS mutations_sync = 2").await;
    let (code, text) = said(&url, &[]);
    assert!(code == 1 && text.contains("receipt 12301: cut off: receipts 12301 to 12355"), "{text}");
    // With their checkpoints: only what was said elsewhere knows.
    execute(&client, "ALTER TABLE checkpoints DELETE WHERE sequence > 12300 SETTINGS mutations_sync = 2")
        .await;
    let (code, text) = said(&url, &[]);
    assert!(code == 0 && text.contains("the newest"), "{text}");
    let (code, text) = said(&url, &with_anchor);
    assert!(code == 1 && text.contains("receipt 12301: cut off"), "{text}");
    let checkpoint = number(&client, "SELECT min(sequence) FROM checkpoints").await;
    for (sql, words) in [
        (
            format!("ALTER TABLE checkpoints UPDATE count = count + 1 WHERE sequence = {checkpoint}"),
            "broken: checkpoint",
        ),
        ("ALTER TABLE checkpoints UPDATE count = count - 1, head = upper(head) WHERE 1".into(), "garbled"),
        ("ALTER TABLE checkpoints DELETE WHERE 1".into(), "not signed"),
        (
            "ALTER TABLE signing_keys UPDATE time = addSeconds(time, 1) WHERE 1".into(),
            "its signature is wrong",
        ),
    ] {
        execute(&client, &format!("{sql} SETTINGS mutations_sync = 2")).await;
        let (_, text) = said(&url, &[]);
        assert!(text.contains(words), "{sql}: {text}");
    }
    // All of it gone: the anchor alone says that there was something.
    for table in ["events", "signing_keys", "checkpoints"] {
        execute(&client, &format!("TRUNCATE TABLE {table}")).await;
    }
    assert_eq!(said(&url, &[]).0, 0);
    let (code, text) = said(&url, &with_anchor);
    assert!(code == 1 && text.contains("receipt 1: cut off: receipts 1 to 12355"), "{text}");
}

#[tokio::test]
async fn keys_are_rotated_and_vouch_for_each_other() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    let config = config(&url, &directory.0);
    let store = Store::open(config.clone()).await.unwrap();
    let mut samples = Samples::new();
    push(&store, &mut samples, 500);
    std::fs::write(rotation_request(&config.state), "").unwrap();
    while rotation_request(&config.state).exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    push(&store, &mut samples, 500);
    store.policies(&[PolicyText {
        rule: "r".into(),
        version: "0123456789ab".into(),
        text: "kind: DatabasePolicy".into(),
        file: "r.yaml".into(),
        time: 1,
    }]);
    store.close(LONG).await;
    let client = client(&url);
    assert_eq!(number(&client, "SELECT count() FROM policies WHERE policy_rule = 'r'").await, 1);
    let keys: Vec<String> = client
        .query("SELECT DISTINCT key_id FROM signing_keys ORDER BY from_sequence")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(keys.len(), 2);
    let told =
        "SELECT db_query_summary FROM events WHERE event_kind = 'config' AND error_type = 'key_rotated'";
    let told: String = client.query(told).fetch_one().await.unwrap();
    assert_eq!(told, format!("signing key {} is followed by {}", keys[0], keys[1]));
    let (code, text) = said(&url, &["--key", &keys[0]]);
    assert!(
        code == 0
            && text.contains(&format!("1001 receipts, 1 to 1001, all signed, the last by key {}", keys[1])),
        "{text}"
    );
    let (code, text) = said(&url, &["--key", &keys[1]]);
    assert!(code == 1 && text.contains("none of the keys that are known"), "{text}");
    // A state that was lost: nobody vouches for the next key, until somebody says that he knows it.
    std::fs::remove_file(config.state.join("signing_key.json")).unwrap();
    let store = Store::open(config).await.unwrap();
    push(&store, &mut samples, 5);
    store.close(LONG).await;
    let (code, text) = said(&url, &[]);
    assert!(code == 1 && text.contains("no earlier key vouches for it"), "{text}");
    let third: String = client
        .query("SELECT key_id FROM signing_keys ORDER BY from_sequence DESC LIMIT 1")
        .fetch_one()
        .await
        .unwrap();
    let (code, text) = said(&url, &["--key", &keys[0], "--key", &third]);
    assert!(code == 0 && text.contains("1006 receipts"), "{text}");
}

#[tokio::test]
async fn checkpoints_wait_in_the_spool_and_a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let address = nowhere();
    let url = format!("http://{address}");
    let config = config(&url, &directory.0);
    let store = Store::open(config.clone()).await.unwrap();
    push(&store, &mut Samples::new(), 3_000);
    store.close(Duration::ZERO).await;
    drop(store);
    let key = config.state.join("signing_key.json");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Store::open(config.clone()).await.err().unwrap().to_string();
    assert!(refused.contains("may be read by others"), "{refused}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let engine = start_at(&directory.0, Some(address));
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.close(LONG).await.spooled, 0);
    let client = client(&engine.url());
    let rows = census(&client).await.0;
    assert_eq!(number(&client, "SELECT max(sequence) FROM checkpoints").await, rows);
    let (code, text) = said(&engine.url(), &[]);
    assert!(code == 0 && text.contains(&format!("{rows} receipts, 1 to {rows}, all signed")), "{text}");
}

#[tokio::test]
async fn what_retention_leaves_verifies() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    let config = Config { retention_days: 30, checkpoint_receipts: 1_000, ..config(&url, &directory.0) };
    let store = Store::open(config.clone()).await.unwrap();
    let mut samples = Samples::new();
    let now = samples.next_event().time;
    push(&store, &mut samples, 4_000);
    store.close(LONG).await;
    let client = client(&url);
    // The store's clock is the engine's: what was stored is made older.
    let age = async |days: u64| {
        let sql = format!(
            "ALTER TABLE events UPDATE stored_at = toDateTime({}, 'UTC') WHERE stored_at > toDateTime({}, 'UTC')",
            now / 1_000_000_000 + days * 86_400,
            now / 1_000_000_000 + days * 86_400
        );
        execute(&client, &format!("{sql} SETTINGS mutations_sync = 2")).await;
    };
    age(0).await;
    assert_eq!(
        store.remove_old(now + 29 * DAY).await.unwrap(),
        agent::store::Removed::default(),
        "not old enough"
    );
    drop(store);
    // Another agent, silent since; and the first one's later receipts.
    let other = Config { agent_id: "agent-2".into(), state: directory.0.join("other"), ..config.clone() };
    let second = Store::open(other).await.unwrap();
    push(&second, &mut Samples::new(), 300);
    second.close(LONG).await;
    age(0).await;
    let store = Store::open(config).await.unwrap();
    let mut late = Samples::new();
    for _ in 0..500 {
        let event = late.next_event();
        assert!(store.push(agent_core::event::Event { time: event.time + 60 * DAY, ..event }));
    }
    while store.counters().stored < 500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = said(&url, &[]).1;
    assert!(text.contains("whole: 4800 receipts of 2 agents"), "{text}");

    let removed = store.remove_old(now + 61 * DAY).await.unwrap();
    let ranges = [("agent-1".to_owned(), (1, 4_000)), ("agent-2".to_owned(), (1, 300))];
    assert_eq!((removed.ranges, removed.refused.len()), (ranges.into(), 0));
    assert!(removed.parts >= 1);
    let (rows, _, first, last) = census(&client).await;
    assert_eq!((rows, first, last), (500, 4_001, 4_500));
    let (code, text) = said(&url, &[]);
    assert!(
        code == 0
            && text.contains("500 receipts, 4001 to 4500")
            && text.contains("1 to 4000 were removed by retention: {days: 30}"),
        "{text}"
    );
    assert!(
        text.contains("agent agent-2: 0 receipts")
            && text.contains("1 to 300 were removed")
            && text.contains("1 to 300 by agent agent-1"),
        "{text}"
    );
    assert_eq!(store.remove_old(now + 61 * DAY).await.unwrap(), agent::store::Removed::default(), "once");
    store.close(LONG).await;

    execute(&client, "ALTER TABLE events DELETE WHERE sequence = 4001 SETTINGS mutations_sync = 2").await;
    let (code, text) = said(&url, &[]);
    assert!(
        code == 1 && text.contains("receipt 4002") && text.contains("missing before it: receipt 4001"),
        "{text}"
    );
    // Retention is no way to get rid of traces: what is not whole stays.
    let refused = store.remove_old(now + 200 * DAY).await.unwrap();
    assert!(
        refused.ranges.is_empty() && refused.refused[0].contains("missing before it: receipt 4001"),
        "{refused:?}"
    );
    execute(&client, "TRUNCATE TABLE stubs").await;
    let (code, text) = said(&url, &[]);
    assert!(code == 1 && text.contains("missing before it: receipts 1 to 4001"), "{text}");
}
