//! `weir doctor` on a host with a real PostgreSQL: which way the gate has to each of its connections.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::client::{Route, Session};
use tests::guarded::{POLICIES, guarding};
use tests::server::talkative;

/// The finding about a server's end.
fn lane(port: u16, endpoint: &str) -> Result<Value> {
    let out = Command::new(xtask::weir::binary()?)
        .args(["doctor", "--format", "json", "--port", &format!("{port}=postgresql")])
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["lane"]["endpoint"] == endpoint).with_context(|| format!("no {endpoint}: {text}"))
}

#[test]
fn each_connection_has_its_lane() -> Result<()> {
    let server = talkative()?;
    let endpoint = format!("127.0.0.1:{}", server.port);
    let mut before = Session::psql(&server, &Route::loopback4())?;
    before.ask("select 1")?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    let mut after = Session::psql(&server, &Route::loopback4())?;
    after.ask("select 1")?;
    let found = lane(server.port, &endpoint)?;
    let told = &found["lane"];
    assert_eq!((&told["lane"], &told["tls"]), (&"server".into(), &"parser".into()), "{found}");
    // The first was open before the gate, and was taken in.
    assert_eq!((&told["connections"], &told["gated"]), (&2.into(), &2.into()), "{found}");
    assert!(found["status"] == "ok" && found["detail"].as_str().is_some_and(|d| d.contains("gate.tls")));

    let route = Route::unix(&server);
    let mut local = Session::psql(&server, &route)?;
    local.ask("select 1")?;
    let path = format!("{}/.s.PGSQL.{}", route.host, server.port);
    let found = lane(server.port, &path)?;
    assert_eq!(
        (&found["lane"]["lane"], &found["lane"]["connections"]),
        (&"unix".into(), &1.into()),
        "{found}"
    );
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

#[test]
fn a_server_that_waits_in_the_kernel_has_none() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let end = listener.local_addr()?;
    let _client = TcpStream::connect(end)?;
    let (accepted, _) = listener.accept()?;
    let found = lane(end.port(), &end.to_string())?;
    assert_eq!((&found["lane"]["lane"], &found["status"]), (&"kill".into(), &"blind".into()), "{found}");
    assert!(found["detail"].as_str().is_some_and(|detail| detail.contains("gate_waits")), "{found}");
    accepted.set_nonblocking(true)?;
    assert_eq!(lane(end.port(), &end.to_string())?["lane"]["lane"], "server");
    Ok(())
}

#[test]
fn what_a_socket_in_the_gate_tells_is_measured() -> Result<()> {
    let out = Command::new(xtask::weir::binary()?).args(["doctor", "--format", "json"]).output()?;
    let text = String::from_utf8(out.stdout)?;
    let line = text.lines().find(|line| line.contains(r#""name":"FIONREAD""#)).context(text.clone())?;
    assert!(line.contains(r#""status":"ok""#) && line.contains("of 5 bytes"), "{line}");
    Ok(())
}
