//! TLS that cannot be read -> told in time, with the cause; what can be read, whatever the library does with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_core::event::{CaptureSource, Event, EventKind};
use anyhow::{Context, Result};
use tests::client::{self, Route, Session};
use tests::tap::{self, Tap};
use tests::{drivers, server};
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::setup::servers;
use xtask::shell;

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
        talk(&client, &server)?;
    }
    Ok((client, server))
}

/// Some records there and back.
fn talk(client: &TcpStream, server: &TcpStream) -> Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        let bytes = [&HELLO[..], &DATA].concat();
        let mut got = vec![0; bytes.len()];
        (&mut &*from).write_all(&bytes)?;
        (&mut &*to).read_exact(&mut got)?;
    }
    Ok(())
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

/// Sessions that were open before: their next statement is read, with the process, and with what the server's process
/// says about who it is.
#[test]
fn sessions_that_were_open_before_are_read_from_their_next_statement_on() -> Result<()> {
    let server = server::talkative_tls()?;
    let route = Route::loopback4().over_tls();
    // libpq writes from inside of its library, asyncpg through memory.
    let mut sessions = [
        Session::psql(&server, &route)?,
        Session::python(&server, &Route::loopback6().over_tls(), "lines_asyncpg.py")?,
    ];
    for session in &mut sessions {
        assert_eq!(session.ask("select 'before'")?, "before");
    }
    let tap = Tap::start(&[])?;
    for turn in ["first", "second", "third", "fourth"] {
        for session in &mut sessions {
            assert_eq!(session.ask(&format!("select '{turn}'"))?, turn);
        }
    }
    let events = tap.finish(server.port)?;
    let blind: Vec<_> =
        events.iter().filter(|e| e.event_kind == EventKind::Blind).map(|e| &e.error_type).collect();
    assert!(blind.is_empty(), "{blind:?}");
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    for session in &sessions {
        let own: Vec<&Event> = events.iter().filter(|e| e.process_pid == Some(session.pid())).collect();
        let adopted =
            own.iter().filter(|e| e.event_kind == EventKind::Session && &*e.error_type == "adopted");
        assert_eq!(adopted.count(), 1, "one session of {}", session.pid());
        let told = own.iter().filter(|e| e.event_kind == EventKind::Statement);
        let told: Vec<_> = told
            .map(|e| {
                (
                    e.db_query_text.trim_end_matches(';'),
                    e.db_response_returned_rows,
                    &*e.db_user,
                    &*e.db_namespace,
                    e.capture_source,
                )
            })
            .collect();
        let expected = ["select 'first'", "select 'second'", "select 'third'", "select 'fourth'"]
            .map(|text| (text, Some(1), "postgres", "postgres", CaptureSource::Tls));
        // Answers to what was asked before may come first: the first outcome is open.
        let open = told.first().filter(|first| first.1.is_none());
        assert!(open.is_none_or(|first| first.0 == expected[0].0), "{open:?}");
        let known = usize::from(open.is_some());
        assert_eq!((told.len(), &told[known..]), (4, &expected[known..]));
    }
    Ok(())
}

/// The same where nobody can read them: told, with the process, where something says that it is a database.
#[test]
fn blind_connections_that_were_open_before_are_told() -> Result<()> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [database, other] = [listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()];
    let connections = [encrypted(&listeners[0])?, encrypted(&listeners[1])?];
    let short = encrypted(&listeners[0])?;
    let tap = Tap::start(&["--port", &format!("{database}=postgresql")])?;
    for (client, server) in connections.iter().chain([&short]) {
        talk(client, server)?;
    }
    // One that is over at once is told as well.
    let ports = [&connections[0], &short].map(|(client, _)| client.local_addr().map(|end| end.port()));
    drop(short);
    let begun = Instant::now();
    let blind = |e: &Event| e.event_kind == EventKind::Blind;
    let event = tap.wait_for(database, "the connection is blind", blind)?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((&*event.error_type, event.network_tls), ("tls_no_library", true));
    assert_eq!((&*event.db_system_name, event.process_pid), ("postgresql", Some(std::process::id())));
    for port in ports {
        let port = port?;
        tap.wait_for(database, "each is told", |e| blind(e) && e.client_port == port)?;
    }
    // Once they are told, more of them is not.
    for (client, server) in &connections {
        talk(client, server)?;
    }
    drop(connections);
    let events = tap.finish_all()?;
    assert_eq!(events.iter().filter(|e| e.server_port == database).count(), 2);
    assert_eq!(
        events.iter().filter(|e| e.server_port == other).count(),
        0,
        "nothing says that it is a database"
    );
    Ok(())
}

/// Java at both ends, as where its server is elsewhere: told, and listed with its cause and what helps.
#[test]
fn java_that_nobody_can_read_is_told_and_listed() -> Result<()> {
    let server = server::talkative_tls()?;
    let keys = server.home().join("keys.p12").display().to_string();
    let file = |name: &str| server.data().join(name).display().to_string();
    let made = Command::new("openssl")
        .args(["pkcs12", "-export", "-in", &file("server.crt"), "-inkey", &file("server.key")])
        .args(["-out", &keys, "-passout", "pass:weir-test"])
        .status()?;
    assert!(made.success());
    let mut ending = drivers::java_server("Ending.java", &[&server.port.to_string(), &keys, "weir-test"])?;
    let port: u16 = ending.line()?.parse()?;
    let tap = Tap::start(&[])?;
    let route = Route::loopback4().over_tls();
    let sessions = [(); 2].map(|()| -> Result<Session> {
        let mut session = drivers::java_session_at(&server, &route, port, "Lines.java")?;
        assert_eq!(session.ask("select 'hidden'")?, "hidden");
        Ok(session)
    });
    for session in sessions {
        let session = session?;
        let own = |e: &Event| e.event_kind == EventKind::Blind && e.process_pid == Some(session.pid());
        let event = tap.wait_for(port, "each connection is told", own)?;
        assert_eq!((&*event.error_type, &*event.db_system_name), ("tls_jsse", "postgresql"));
        assert!(event.process_executable_path.ends_with("/java"), "{}", event.process_executable_path);
        let doctor = Command::new(xtask::weir::binary()?)
            .args(["doctor", "--format", "json", "--port", &format!("{port}=postgresql")])
            .output()?;
        let lines = String::from_utf8(doctor.stdout)?;
        let place = format!("java({}) 127.0.0.1:{} to 127.0.0.1:{port}", session.pid(), event.client_port);
        let line = lines
            .lines()
            .find(|line| line.contains(&place))
            .with_context(|| format!("no {place} in {lines}"))?;
        assert!(line.contains("Java") && line.contains(r#""status":"blind""#), "{line}");
        assert!(!line.contains(r#""cure":"""#) && !line.contains(r#""blind":"""#), "{line}");
    }
    let events = tap.finish_all()?;
    let blind = events.iter().filter(|e| e.event_kind == EventKind::Blind && e.server_port == port);
    assert_eq!(blind.count(), 2, "one for each connection");
    // The way on from there is plain, and seen.
    let seen = tap::statements(&events).into_iter().filter(|e| e.server_port == server.port);
    assert_eq!(seen.filter(|e| &*e.db_query_text == "select 'hidden'").count(), 2);
    Ok(())
}

/// A session that begins with TLS, without a request for it in clear: PostgreSQL 17 and later.
#[test]
fn direct_tls() -> Result<()> {
    let home = Scratch::new("direct")?;
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;
    let major = servers::versions().max().context("there are versions")?;
    let server = Postgres::start_from(&servers::unpack(major, home.path())?, &[])?;
    server.offer_tls()?;
    let tap = Tap::start(&[])?;
    client::python(&server, &Route::loopback4().over_tls(), "direct.py", &[])?;
    let events = tap.finish(server.port)?;
    assert!(tap::losses(&events).is_empty(), "{:?}", tap::losses(&events));
    let told: Vec<_> = tap::statements(&events)
        .into_iter()
        .map(|e| (&*e.db_query_text, e.db_response_returned_rows, &*e.db_user, e.capture_source))
        .collect();
    let expected = [("select 'direct'", Some(1), "postgres", CaptureSource::Tls); 3];
    assert_eq!(told, expected);
    assert!(events.iter().all(|e| e.event_kind != EventKind::Blind && e.process_pid.is_some()));
    Ok(())
}

/// A client that shows a certificate is claimed to be who that says, where it can be seen: up to TLS 1.2.
#[test]
fn certificates_of_clients_are_claims() -> Result<()> {
    let server = server::talkative_tls()?;
    let (certificate, key) = server.certificate("/O=weir/CN=postgres", "client")?;
    server.quietly(&format!("alter system set ssl_ca_file = '{}'", certificate.display()))?;
    server.admit("hostssl all all all cert")?;
    let tap = Tap::start(&[])?;
    for version in ["TLSv1.2", "TLSv1.3"] {
        let mut psql = server.client("psql");
        psql.env("PGSSLCERT", &certificate).env("PGSSLKEY", &key).env("PGSSLMAXPROTOCOLVERSION", version);
        psql.args(["-X", "-q", "-c", &format!("select '{version}'")]);
        shell::output(&mut Route::loopback4().over_tls().aim(psql))?;
    }
    let events = tap.finish(server.port)?;
    let claimed = |e: &&Event| {
        let claims = e.identity_claims.iter().filter(|claim| &*claim.key == "tls_client_subject");
        claims.map(|claim| (claim.value.to_string(), claim.source.to_string())).collect::<Vec<_>>()
    };
    let told: Vec<_> =
        tap::statements(&events).iter().map(|e| (e.db_query_text.to_string(), claimed(e))).collect();
    let subject = ("CN=postgres,O=weir".to_owned(), "tls_handshake".to_owned());
    assert_eq!(
        told,
        [("select 'TLSv1.2'".to_owned(), vec![subject]), ("select 'TLSv1.3'".to_owned(), vec![])],
        "TLS 1.3 sends it encrypted"
    );
    Ok(())
}

/// A login that is bound to the TLS channel succeeds: nothing stands in between.
#[test]
fn channel_binding_is_untouched() -> Result<()> {
    let server = server::talkative_tls()?;
    server.quietly("create role bound login superuser password 'weir-test'")?;
    server.admit("hostssl all all all scram-sha-256")?;
    let tap = Tap::start(&[])?;
    let mut psql = server.client("psql");
    psql.envs([("PGUSER", "bound"), ("PGPASSWORD", "weir-test"), ("PGCHANNELBINDING", "require")]);
    psql.args(["-X", "-q", "-c", "select 'bound'"]);
    shell::output(&mut Route::loopback4().over_tls().aim(psql))?;
    let events = tap.finish(server.port)?;
    let told: Vec<_> = tap::statements(&events)
        .into_iter()
        .map(|e| (&*e.db_query_text, &*e.db_user, e.network_tls))
        .collect();
    assert_eq!(told, [("select 'bound'", "bound", true)]);
    Ok(())
}

/// No Kerberos here: only the bytes with which such a connection begins.
#[test]
fn gss_encryption_is_told_by_its_first_bytes_without_kerberos() -> Result<()> {
    let tap = Tap::start(&[])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let mut asked = [0; 8];
    client.write_all(&[0, 0, 0, 8, 4, 210, 22, 48])?;
    server.read_exact(&mut asked)?;
    server.write_all(b"G")?;
    client.read_exact(&mut asked[..1])?;
    client.write_all(&[0, 0, 0, 4, 9, 9, 9, 9])?;
    server.read_exact(&mut asked)?;
    let event = tap.wait_for(port, "it is blind", |e| e.event_kind == EventKind::Blind)?;
    assert_eq!((&*event.error_type, event.network_tls), ("gss", false));
    assert_eq!((&*event.db_system_name, event.process_pid), ("postgresql", Some(std::process::id())));
    tap.finish(port)?;
    Ok(())
}
