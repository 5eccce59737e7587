//! A kill that was asked for -> both ends of its connection closed: how long. Both ends are ours, so both are timed. Beside
//! it what PostgreSQL does itself, pg_terminate_backend.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Table, quantile, rounded};
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::terminal::Step;
use crate::weir::Weir;

/// StartupMessage of the user and the database `postgres`.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
/// AuthenticationOk, ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
/// `select 1`.
const QUERY: &[u8] = b"Q\0\0\0\x0dselect 1\0";
/// CommandComplete, ReadyForQuery.
const ANSWER: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

/// Measures so many kills.
pub(super) fn run(binary: &Path, kills: u32) -> Result<(Value, Table)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let scratch = Scratch::new("agent")?;
    let config = format!("capture: {{ports: {{{port}: postgresql}}}}\n");
    let (mut weir, clickhouse) = Weir::run(binary, scratch, &config)?;
    let step = Step::start(&format!("{kills} kills by weir"), "");
    let (mut both, mut decided) = (Vec::new(), Vec::new());
    let mut open = Vec::new();
    for _ in 0..kills {
        open.push(session(&listener, port)?);
    }
    let sql = format!(
        "SELECT client_port, session_id FROM weir.events WHERE event_kind = 'statement' AND server_port = {port} FORMAT TSV"
    );
    let began = Instant::now();
    let told = loop {
        let told = clickhouse.query(&sql)?;
        if told.lines().count() >= kills as usize {
            break told;
        }
        ensure!(
            began.elapsed() < Duration::from_mins(1),
            "weir did not see {kills} sessions: {}",
            weir.said()
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let ids: std::collections::HashMap<&str, &str> =
        told.lines().filter_map(|line| line.split_once('\t')).collect();
    for (client, server) in open {
        let own = client.local_addr()?.port().to_string();
        let id = *ids.get(own.as_str()).context("a session without an event")?;
        let ends = [client, server].map(|end| std::thread::spawn(move || closed(end)));
        // Both wait by then.
        std::thread::sleep(Duration::from_millis(2));
        let mut control = UnixStream::connect(weir.home().join("weir.sock"))?;
        let request = format!(
            "POST /v1/sessions/{id}/kill HTTP/1.1\r\nHost: weir\r\nContent-Type: application/json\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let asked = Instant::now();
        control.write_all(request.as_bytes())?;
        let mut said = String::new();
        control.read_to_string(&mut said)?;
        let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let Ok(answer) = serde_json::from_str::<Value>(body.trim()) else { bail!("the agent said {said}") };
        decided.push(answer["took_us"].as_f64().with_context(|| said.clone())?);
        let mut last = asked;
        for end in ends {
            last = last.max(end.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??);
        }
        both.push(last.duration_since(asked).as_secs_f64() * 1e6);
    }
    weir.stop()?;
    step.done("");
    let step = Step::start(&format!("{kills} times pg_terminate_backend"), "");
    let peer = terminated(kills)?;
    step.done("");
    let (mut value, mut lines) = (json!({ "kills": kills }), Vec::new());
    for (name, what, mut times) in [
        ("asked", "asked for, to both ends closed", both),
        ("decided", "decided, to done in the kernel", decided),
        ("peer", "pg_terminate_backend, to the client's end closed", peer),
    ] {
        times.sort_by(f64::total_cmp);
        let [half, most] = [0.5, 0.99].map(|at| quantile(&times, at));
        value[name] = json!({ "p50_us": rounded(half), "p99_us": rounded(most) });
        lines.push(vec![what.to_owned(), format!("{half:.0}"), format!("{most:.0}")]);
    }
    Ok((
        value,
        Table { title: format!("Kill: {kills} sessions"), heads: vec!["", "p50, us", "p99, us"], lines },
    ))
}

/// Both ends of a session that has asked one thing: the client's, the server's.
fn session(listener: &TcpListener, port: u16) -> Result<(TcpStream, TcpStream)> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    let (mut server, _) = listener.accept()?;
    let mut buffer = [0; 64];
    for (asked, answer) in [(STARTUP, WELCOME), (QUERY, ANSWER)] {
        client.write_all(asked)?;
        server.read_exact(&mut buffer[..asked.len()])?;
        server.write_all(answer)?;
        client.read_exact(&mut buffer[..answer.len()])?;
    }
    Ok((client, server))
}

/// When an end was closed.
fn closed(mut end: TcpStream) -> Result<Instant> {
    end.set_read_timeout(Some(Duration::from_secs(20)))?;
    match end.read(&mut [0; 64]) {
        Ok(0) => Ok(Instant::now()),
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Ok(Instant::now()),
        other => bail!("it is not closed: {other:?}"),
    }
}

/// How long PostgreSQL's own way takes, in microseconds.
fn terminated(kills: u32) -> Result<Vec<f64>> {
    let server = Postgres::start(&[])?;
    let login = || -> Result<(TcpStream, u32)> {
        let mut client = TcpStream::connect(("127.0.0.1", server.port))?;
        client.set_nodelay(true)?;
        client.write_all(STARTUP)?;
        let mut pid = 0;
        loop {
            let (kind, body) = message(&mut client)?;
            if kind == b'K' {
                pid = u32::from_be_bytes(body[..4].try_into()?);
            } else if kind == b'Z' {
                return Ok((client, pid));
            }
        }
    };
    let (mut own, _) = login()?;
    let mut times = Vec::new();
    for _ in 0..kills {
        let (victim, pid) = login()?;
        let reader = std::thread::spawn(move || -> Result<Instant> {
            let mut victim = victim;
            // An error comes before the end.
            while message(&mut victim).is_ok() {}
            Ok(Instant::now())
        });
        std::thread::sleep(Duration::from_millis(2));
        let text = format!("select pg_terminate_backend({pid})\0");
        let asked = Instant::now();
        own.write_all(&[&b"Q"[..], &(text.len() as u32 + 4).to_be_bytes(), text.as_bytes()].concat())?;
        while message(&mut own)?.0 != b'Z' {}
        let closed = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        times.push(closed.duration_since(asked).as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut body = vec![0; length.saturating_sub(4) as usize];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}
