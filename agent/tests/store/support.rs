//! An engine of its own for each test, gone afterwards.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use agent::store::embedded::{Config, Embedded};
use agent::store::{self, Store, engine};
use agent_core::event::Event;
use clickhouse::Client;

/// A directory that is removed at the end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The embedded engine over a directory. Fails where the library is missing: nothing here passes untested.
pub(crate) fn start(directory: &Path) -> Embedded {
    start_at(directory, None)
}

pub(crate) fn start_at(directory: &Path, listen: Option<std::net::SocketAddr>) -> Embedded {
    if let Err(error) = engine::find_library(None) {
        panic!("these tests need the engine: run `cargo xtask test`, which fetches it ({error})");
    }
    let program = Some(env!("CARGO_BIN_EXE_weir").into());
    Embedded::start(&Config { program, listen, ..Config::new(directory.join("clickhouse")) }).unwrap()
}

/// An address where nothing listens.
pub(crate) fn nowhere() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn config(url: &str, directory: &Path) -> store::Config {
    store::Config {
        url: url.into(),
        state: directory.join("state"),
        agent_id: "agent-1".into(),
        host_name: "host-1".into(),
        batch_rows: 5_000,
        batch_interval: Duration::from_millis(50),
        ..store::Config::default()
    }
}

pub(crate) fn client(url: &str) -> Client {
    store::clickhouse::client(&store::Config { url: url.into(), ..store::Config::default() })
}

/// Pushes so many events of a busy database; lets the writer keep up, which the pipeline never does.
pub(crate) fn push(store: &Store, samples: &mut store::bench::Samples, count: u64) {
    for i in 0..count {
        if i % 500 == 0 {
            keep_up(store);
        }
        push_one(store, samples.next_event());
    }
}

/// Waits until less than half of the queue is left.
fn keep_up(store: &Store) {
    loop {
        let c = store.counters();
        if c.pushed.saturating_sub(c.stored + c.spooled + c.dropped_spool) < 10_000 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn push_one(store: &Store, event: Event) {
    assert!(store.push(event));
}

/// Rows, distinct sequences, lowest and highest sequence.
pub(crate) async fn census(client: &Client) -> (u64, u64, u64, u64) {
    client
        .query("SELECT count(), uniqExact(sequence), min(sequence), max(sequence) FROM events")
        .fetch_one()
        .await
        .unwrap()
}

/// What the materialized view counted.
pub(crate) async fn view_count(client: &Client) -> u64 {
    client.query("SELECT sum(statements) FROM statements_per_minute").fetch_one().await.unwrap()
}
