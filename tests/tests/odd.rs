//! Every way into a socket that is no plain send: each yields its statement, or a loss that says so.

use agent_core::event::EventKind;
use anyhow::Result;
use tests::client::{self, Route};
use tests::tap::{self, Tap};
use xtask::postgres::Postgres;

/// The ways that `odd.py` went, and what was told of each: `None` where its text is missing.
fn ways(said: &str, texts: &[&str]) -> Vec<(String, Option<bool>)> {
    let found = |text: &str| texts.iter().any(|t| t.starts_with(text));
    let way = |name: &str| {
        let after = name == "fast open" || found(&format!("select 'after {name}'"));
        (name.to_owned(), found(&format!("select '{name}'")).then_some(after))
    };
    said.lines().map(way).collect()
}

#[test]
fn every_way_into_a_tcp_socket_is_seen() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let said = client::python(&server, &Route::loopback4(), "odd.py", &[])?;
    let events = tap.finish(server.port)?;
    let texts: Vec<&str> = tap::statements(&events).iter().map(|e| &*e.db_query_text).collect();
    let ways = ways(&said, &texts);
    assert!(ways.len() >= 9, "{said}");
    assert!(ways.iter().all(|(_, told)| *told == Some(true)), "{ways:?}");
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    Ok(())
}

/// What a sender's memory does not hold, or not where its call says, is a loss of exactly so many bytes, and the next
/// statement is in sync.
#[test]
fn every_way_into_a_unix_socket_is_seen_or_told() -> Result<()> {
    let server = Postgres::start(&[])?;
    let tap = Tap::start(&[])?;
    let said = client::python(&server, &Route::unix(&server), "odd.py", &[])?;
    let events = tap.finish_unix(server.port)?;
    let texts: Vec<&str> = tap::statements(&events).iter().map(|e| &*e.db_query_text).collect();
    let ways = ways(&said, &texts);
    let seen: Vec<&str> = ways.iter().filter(|(_, t)| *t == Some(true)).map(|(n, _)| n.as_str()).collect();
    assert_eq!(seen[..4], ["send", "write", "writev", "sendmsg"], "{ways:?}");
    let missing: Vec<&str> = ways.iter().filter(|(_, t)| t.is_none()).map(|(n, _)| n.as_str()).collect();
    let size = |name: &str| format!("select '{name}', '{}'", "x".repeat(3000)).len() as u64 + 6;
    let expected: u64 = missing.iter().map(|name| size(name)).sum();
    let gaps = events.iter().filter(|e| e.event_kind == EventKind::Loss && &*e.error_type == "gap");
    assert_eq!(gaps.map(|e| e.capture_lost_before).sum::<u64>(), expected, "{missing:?} of {ways:?}");
    let after = texts.iter().filter(|t| t.starts_with("select 'after ")).count();
    assert_eq!(after, ways.len(), "{texts:?}");
    Ok(())
}
