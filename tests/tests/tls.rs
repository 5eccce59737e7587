//! TLS that cannot be read -> told in time, with the cause; what can be read, whatever the library does with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use agent_core::event::{CaptureSource, Event, EventKind};
use anyhow::Result;
use tests::client::{self, Route};
use tests::server;
use tests::tap::{self, Tap};

/// `SSLRequest`.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Records as TLS sends them: a hello, and application data that nobody can read.
const HELLO: [u8; 9] = [22, 3, 1, 0, 4, 1, 0, 0, 0];
const DATA: [u8; 27] = [23, 3, 3, 0, 22, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];

/// One connection that asks for TLS and then carries records that no library of this process has made.
fn encrypted(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let mut asked = [0; 8];
    client.write_all(&REQUEST)?;
    server.read_exact(&mut asked)?;
    server.write_all(b"S")?;
    client.read_exact(&mut asked[..1])?;
    for _ in 0..3 {
        for (from, to) in [(&client, &server), (&server, &client)] {
            let bytes = [&HELLO[..], &DATA].concat();
            let mut got = vec![0; bytes.len()];
            (&mut &*from).write_all(&bytes)?;
            (&mut &*to).read_exact(&mut got)?;
        }
    }
    Ok((client, server))
}

#[test]
fn what_is_blind_is_told_within_five_seconds() -> Result<()> {
    let tap = Tap::start(&[])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let connection = encrypted(&listener)?;
    let begun = Instant::now();
    let blind = |e: &Event| e.event_kind == EventKind::Blind;
    let event = tap.wait_for(port, "the connection is blind", blind)?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // This process has no TLS library that weir knows.
    assert_eq!((&*event.error_type, event.network_tls), ("tls_no_library", true));
    assert_eq!(event.process_pid, Some(std::process::id()));
    // One that is over before is told as well.
    drop(encrypted(&listener)?);
    drop(connection);
    let events = tap.finish(port)?;
    assert_eq!(events.iter().filter(|e| blind(e)).count(), 2);
    Ok(())
}

/// Large texts and results, many records each: nothing is lost, and rows are counted though results are shortened.
#[test]
fn large_statements_and_results() -> Result<()> {
    let server = server::talkative_tls()?;
    let tap = Tap::start(&[])?;
    let route = Route::loopback4().over_tls();
    let file = server.home().join("large.sql");
    let long = format!("select length('{}') as large;", "x".repeat(5 << 20));
    let texts = ["select 'before';", &long, "select * from generate_series(1, 400000);", "select 'after';"];
    std::fs::write(&file, texts.join("\n"))?;
    client::psql(&server, &route, &["-o", "/dev/null", "-f", &file.to_string_lossy()])?;
    let events = tap.finish(server.port)?;
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    let statements = tap::statements(&events);
    let told: Vec<_> = statements.iter().map(|e| (&*e.db_query_text, e.db_response_returned_rows)).collect();
    let expected: Vec<_> = texts.into_iter().zip([Some(1), Some(1), Some(400_000), Some(1)]).collect();
    assert!(told == expected, "not the same texts and rows");
    assert!(statements.iter().all(|e| e.capture_source == CaptureSource::Tls && e.process_pid.is_some()));
    Ok(())
}
