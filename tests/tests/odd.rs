//! Every way into a socket that is no plain send: each yields its statement, or a loss that says so.

use agent_core::event::EventKind;
use anyhow::Result;
use tests::client::{self, Route};
use tests::netns::NetNs;
use tests::tap::{self, Tap};
use xtask::postgres::Postgres;

/// The ways that `odd.py` went, and what was told of each: `None` where its text is missing.
fn ways(said: &str, texts: &[&str]) -> Vec<(String, Option<bool>)> {
    let found = |text: &str| texts.iter().any(|t| t.starts_with(text));
    let way = |name: &str| {
        let after = name.starts_with("fast open") || found(&format!("select 'after {name}'"));
        (name.to_owned(), found(&format!("select '{name}'")).then_some(after))
    };
    said.lines().map(way).collect()
}

/// `net.ipv4.tcp_fastopen`: both sides, no cookies, every listener.
const FAST_OPEN: &str = "1543";

/// The first bytes of a connection may come with its SYN, before the server's socket is made.
#[test]
fn what_the_syn_carries_is_seen() -> Result<()> {
    let ns = NetNs::new()?;
    let tap = Tap::start(&[])?;
    let (port, said) = ns.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN)?;
        let server = Postgres::start(&[])?;
        let said = client::python(&server, &Route::loopback4(), "odd.py", &[])?;
        Ok((server.port, said))
    })?;
    let events = tap.finish(port)?;
    assert!(said.trim_end().ends_with("fast open in the syn"), "{said}");
    let texts: Vec<&str> = tap::statements(&events).iter().map(|e| &*e.db_query_text).collect();
    assert_eq!(texts.last(), Some(&"select 'fast open'"));
    let session = events.iter().rfind(|e| e.event_kind == EventKind::Session);
    assert_eq!(session.map(|e| (&*e.db_user, &*e.db_application_name)), Some(("postgres", "odd")));
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    Ok(())
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
