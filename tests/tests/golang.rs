//! Go's own TLS at one end, and at the other one that nobody can look into -> every statement all the same.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agent_core::event::{CaptureSource, Event, EventKind};
use anyhow::{Context, Result, ensure};
use tests::sealed::{self, Certificate};
use tests::tap::{self, Tap};
use tests::{client, rustls};
use tokio_postgres::config::SslMode;
use xtask::scratch::Scratch;
use xtask::setup::clients::go_build;
use xtask::shell;

/// Statements of each connection.
const EACH: usize = 20;

/// Each statement once, in order, of its own connection and of this program; nothing lost, nothing blind.
fn check(events: &[Event], program: Option<&Path>, connections: usize, texts: impl Fn(u16, usize) -> String) {
    assert!(tap::losses(events).is_empty(), "{:?}", tap::losses(events));
    let blind: Vec<_> =
        events.iter().filter(|e| e.event_kind == EventKind::Blind).map(|e| &e.error_type).collect();
    assert!(blind.is_empty(), "{blind:?}");
    let mut sessions: BTreeMap<u16, Vec<&Event>> = BTreeMap::new();
    for event in tap::statements(events) {
        sessions.entry(event.client_port).or_default().push(event);
    }
    assert_eq!(sessions.len(), connections);
    for (port, statements) in sessions {
        for (n, event) in statements.iter().enumerate() {
            assert_eq!(&*event.db_query_text, texts(port, n));
            assert_eq!(
                (event.capture_source, event.db_response_returned_rows),
                (CaptureSource::Tls, Some(1))
            );
            if let Some(program) = program {
                assert_eq!(Path::new(&*event.process_executable_path), program);
            }
        }
        assert_eq!(statements.len(), EACH);
    }
}

/// What the program's client sends.
fn of_client(port: u16, n: usize) -> String {
    let more = if n % 10 == 7 { format!(", '{}'", "x".repeat(1_000 * (n + 1))) } else { String::new() };
    format!("select {port}, {n}{more}")
}

/// The program as a server. A program that runs before weir comes is probed when it is ready; one that begins later
/// may be quicker than its probes.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(program: &Path, certificate: &Certificate) -> Result<Self> {
        let mut go = Command::new(program);
        go.arg("server").args([&certificate.certificate, &certificate.key]).stdout(Stdio::piped());
        let mut server = Self { child: go.spawn()?, port: 0 };
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().context("no output")?).read_line(&mut line)?;
        server.port = line.trim().parse()?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clients of rustls, which nobody can look into, at a server of Go.
async fn clients_of_rustls(port: u16, connections: usize) -> Result<()> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("crab").ssl_mode(SslMode::Require);
    let mut sessions = Vec::new();
    for _ in 0..connections {
        let (client, connection) = config.connect(rustls::AnyServer::new()?).await?;
        let driver = tokio::spawn(connection);
        sessions.push(tokio::spawn(async move {
            for n in 0..EACH {
                client.simple_query(&of_rustls(0, n)).await?;
            }
            drop(client);
            anyhow::Ok(driver.await??)
        }));
    }
    for session in sessions {
        session.await??;
    }
    Ok(())
}

/// What they send.
fn of_rustls(_: u16, n: usize) -> String {
    format!("select {n}{}", " + 1".repeat(n * n))
}

#[test]
fn one_end_is_enough() -> Result<()> {
    let scratch = Scratch::new("golang")?;
    let certificate = Certificate::new(scratch.path())?;
    let mut programs = Vec::new();
    for (name, flags) in [("whole", &[][..]), ("stripped", &["-ldflags=-s -w"])] {
        let program = scratch.path().join(name);
        go_build(&client::clients().join("go_tls/main.go"), &program, flags)?;
        let server = Server::start(&program, &certificate)?;
        programs.push((program, server, sealed::serve(&certificate)?));
    }
    let mut tap = Tap::start(&[])?;
    let runtime = tokio::runtime::Runtime::new()?;
    for (program, server, sealed) in &programs {
        let mut go = Command::new(program);
        // 150 connections at once.
        shell::output(go.args(["client", &format!("127.0.0.1:{sealed}"), "150", &EACH.to_string()]))?;
        runtime.block_on(clients_of_rustls(server.port, 20))?;
    }
    ensure!(tap.weir.stop()?.success(), "{}", tap.weir.said());
    for (program, server, sealed) in &programs {
        check(&tap::read(&tap.weir.out(), *sealed)?, Some(program), 150, of_client);
        check(&tap::read(&tap.weir.out(), server.port)?, None, 20, of_rustls);
    }
    Ok(())
}
