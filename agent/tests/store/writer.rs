//! Pushed events are stored once each: with ClickHouse away, restarted, and the agent killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use agent::store::Store;
use agent::store::bench::Samples;

use crate::support::{Directory, census, client, config, nowhere, push, start, start_at, view_count};

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn everything_pushed_is_stored_and_counted() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let store = Store::open(config(&engine.url(), &directory.0)).await.unwrap();
    let mut samples = Samples::new();
    push(&store, &mut samples, 20_000);
    let counters = store.close(LONG).await;
    assert_eq!(
        (counters.pushed, counters.stored, counters.spooled, counters.spooled_bytes),
        (20_000, 20_000, 0, 0)
    );
    let client = client(&engine.url());
    assert_eq!(census(&client).await, (20_000, 20_000, 1, 20_000));
    assert_eq!(view_count(&client).await, 20_000);
    // The next life goes on where this one ended, and has nothing to report.
    let store = Store::open(config(&engine.url(), &directory.0)).await.unwrap();
    push(&store, &mut samples, 100);
    store.close(LONG).await;
    assert_eq!(census(&client).await, (20_100, 20_100, 1, 20_100));
}

#[tokio::test]
async fn a_batch_that_is_sent_again_is_stored_once() {
    let directory = Directory::new();
    let address = nowhere();
    let url = format!("http://{address}");
    let (state, copy) = (directory.0.join("state"), directory.0.join("copy"));
    let store = Store::open(config(&url, &directory.0)).await.unwrap();
    push(&store, &mut Samples::new(), 3_000);
    let counters = store.close(Duration::ZERO).await;
    assert_eq!((counters.stored, counters.spooled > 3_000), (0, true), "nobody listens: all of it waits");
    drop(store);
    let all = counters.spooled;
    for (from, to) in [(state.join("spool"), copy.clone())] {
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    for round in 0..3 {
        // Each time a new engine over the same data: the tokens survive it.
        let engine = start_at(&directory.0, Some(address));
        let store = Store::open(config(&url, &directory.0)).await.unwrap();
        assert_eq!(store.close(LONG).await.spooled, 0);
        drop(store);
        let client = client(&url);
        assert_eq!(census(&client).await, (all, all, 1, all), "round {round}");
        assert_eq!(view_count(&client).await, 3_000, "round {round}");
        drop(engine);
        // As if the answer had been lost: the batches are there again.
        for file in std::fs::read_dir(&copy).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), state.join("spool").join(file.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn clickhouse_killed_under_load_loses_and_doubles_nothing() {
    let directory = Directory::new();
    let address = nowhere();
    let url = format!("http://{address}");
    let engine = start_at(&directory.0, Some(address));
    let store = Store::open(config(&url, &directory.0)).await.unwrap();
    let mut samples = Samples::new();
    push(&store, &mut samples, 30_000);
    // In the middle of it, without a goodbye.
    let killed = Command::new("kill").args(["-9", &engine.pid().to_string()]).status().unwrap();
    assert!(killed.success());
    push(&store, &mut samples, 30_000);
    drop(engine);
    let engine = start_at(&directory.0, Some(address));
    push(&store, &mut samples, 30_000);
    let counters = store.close(LONG).await;
    assert_eq!((counters.pushed, counters.stored), (90_000, 90_000), "{counters:?}");
    let client = client(&engine.url());
    assert_eq!(census(&client).await, (90_000, 90_000, 1, 90_000));
    assert_eq!(view_count(&client).await, 90_000);
}

/// Not a test of its own: the process that the next one kills. Does nothing unless it is asked to.
#[tokio::test]
async fn writer_process() {
    let (Ok(url), Ok(path)) = (std::env::var("WEIR_TEST_URL"), std::env::var("WEIR_TEST_PATH")) else {
        return;
    };
    let store = Store::open(config(&url, path.as_ref())).await.unwrap();
    let mut samples = Samples::new();
    for round in 1.. {
        push(&store, &mut samples, 1_000);
        let c = store.counters();
        println!("\npushed {} stored {}", round * 1_000, c.stored);
    }
}

#[tokio::test]
async fn a_killed_agent_leaves_a_whole_chain_and_says_so() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    for life in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer::writer_process", "--nocapture"])
            .env("WEIR_TEST_URL", &url)
            .env("WEIR_TEST_PATH", &directory.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let stored = |line: &str| line.rsplit_once("stored ").and_then(|(_, n)| n.parse::<u64>().ok());
        lines.filter_map(|l| stored(&l)).find(|&n| n > 10_000).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(std::fs::read_dir(directory.0.join("state/spool")).unwrap().next().is_some(), "life {life}");
    }
    let store = Store::open(config(&url, &directory.0)).await.unwrap();
    store.close(LONG).await;
    let client = client(&url);
    let (rows, distinct, first, last) = census(&client).await;
    assert_eq!((rows, first, last), (distinct, 1, distinct), "no hole, nothing twice");
    assert!(rows > 20_000);
    let said: u64 = client
        .query("SELECT count() FROM events WHERE event_kind = 'loss' AND error_type = 'agent_ended'")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(said, 2);
    crate::verify::expect(&url, "weir", Ok(rows));
}

#[tokio::test]
async fn a_full_spool_drops_counts_and_tells() {
    let directory = Directory::new();
    let address = nowhere();
    let url = format!("http://{address}");
    let small = agent::store::Config { spool_bytes: 300_000, ..config(&url, &directory.0) };
    let store = Store::open(small).await.unwrap();
    let mut samples = Samples::new();
    push(&store, &mut samples, 60_000);
    while store.counters().dropped_spool == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let engine = start_at(&directory.0, Some(address));
    let client = client(&engine.url());
    // Once there is room again, the store says by itself what it could not record.
    let told = "SELECT count() FROM events WHERE error_type = 'not_recorded'";
    let mut tries = 0;
    while client.query(told).fetch_one::<u64>().await.unwrap_or(0) == 0 {
        tries += 1;
        assert!(tries < 600, "the loss was not told");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let counters = store.close(LONG).await;
    assert_eq!(counters.dropped_queue, 0);
    let (rows, distinct, _, last) = census(&client).await;
    assert_eq!((rows, distinct, last), (counters.stored, rows, rows));
    // Of each connection as many were stored and told missing as it had; the same samples tell how many.
    let sum = "SELECT session_id, countIf(event_kind = 'statement') AS stored, \
               sumIf(toUInt64OrZero(splitByChar(' ', toString(db_query_summary))[1]), error_type = 'not_recorded') AS missing \
               FROM events WHERE session_id != 0 GROUP BY session_id";
    let told: Vec<(u64, u64, u64)> = client.query(sum).fetch_all().await.unwrap();
    let mut pushed = std::collections::HashMap::<u64, u64>::new();
    let mut samples = Samples::new();
    for _ in 0..60_000 {
        *pushed.entry(samples.next_event().session_id).or_default() += 1;
    }
    assert!(pushed.len() > 3, "several connections");
    for (session, stored, missing) in &told {
        assert_eq!(
            pushed.remove(session),
            Some(stored + missing),
            "session {session}: {stored}, {missing} missing"
        );
    }
    assert!(pushed.is_empty(), "nothing is told of {pushed:?}");
    assert_eq!(told.iter().map(|(_, _, missing)| missing).sum::<u64>(), counters.dropped_spool);
}
