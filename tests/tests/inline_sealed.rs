//! Statements over TLS held at the client's end, for servers that are elsewhere: what a rule forbids ends the connection
//! and has not left this host; all else is as ever. The server's own log is the oracle.

use std::fs;

use anyhow::{Context, Result};
use tests::client::{self, Route, Session};
use tests::drivers;
use tests::guarded::{ASK, POLICIES, executed};
use tests::operator::{operator, pending};
use tests::sealed::{self, Certificate};
use tests::server::talkative;
use tests::stored::wait_for;
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};

/// A server behind a relay that takes the TLS off with a library that nobody can read: its end tells nothing, as if it were
/// on another host. Port 1: nothing that listens here is in the gate.
struct Elsewhere {
    server: Postgres,
    port: u16,
    _scratch: Scratch,
}

impl Elsewhere {
    fn new() -> Result<Self> {
        let server = talkative()?;
        server.quietly("create table kept (id int)")?;
        let scratch = Scratch::new("elsewhere")?;
        let port = sealed::unwrap(&Certificate::new(scratch.path())?, server.port)?;
        Ok(Self { server, port, _scratch: scratch })
    }

    fn route(&self) -> Route<'static> {
        Route::loopback4().over_tls().at(self.port)
    }

    fn guarding(&self, more: &str) -> Result<(Weir, ClickHouse)> {
        let scratch = Scratch::new("agent")?;
        fs::create_dir_all(scratch.path().join("policies"))?;
        fs::write(scratch.path().join("policies/gate.yaml"), format!("{POLICIES}{ASK}"))?;
        let Self { port, .. } = self;
        let config = format!(
            "capture:\n  ports:\n    {port}: postgresql\n\
             gate: {{ports: [1], tls: true, remote: {{\"127.0.0.1:{port}\": postgresql}}{more}}}\n"
        );
        Weir::run(&weir::binary()?, scratch, &config)
    }

    /// What was not seen.
    fn which(&self, what: &str) -> String {
        self.told(what).replace(
            "count()",
            "event_kind, error_type, db_query_text, capture_source, process_executable_path",
        )
    }

    /// How many events there are of this kind.
    fn told(&self, what: &str) -> String {
        format!("SELECT count() FROM weir.events WHERE server_port = {} AND {what}", self.port)
    }
}

/// What is not seen of a client; of the relay that is plain.
const BLIND: &str = "event_kind IN ('blind', 'loss') AND error_type != 'tls_rustls'";

/// Libpq writes from inside of its library, asyncpg through memory: each asks what it may, of every size, and then what
/// it may not.
#[test]
fn what_is_forbidden_does_not_leave_and_all_else_does() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let (server, route) = (&elsewhere.server, elsewhere.route());
    let (mut agent, clickhouse) = elsewhere.guarding("")?;
    let mut bystander = Session::psql(server, &route)?;
    assert_eq!(bystander.ask("select 'bystander'")?, "bystander");
    for turn in 0..3 {
        let mut sessions = vec![Session::psql(server, &route)?];
        for script in ["lines_asyncpg.py", "lines_gnutls.py"] {
            sessions.push(Session::python(server, &route, script)?);
        }
        for mut session in sessions {
            for length in [1, 900, 16_000, 17_000, 300_000] {
                let text = "x".repeat(length);
                let said = session.ask(&format!("select length('{text}')")).with_context(|| agent.said())?;
                assert_eq!(said, length.to_string());
            }
            let refused = session.ask(&format!("/* forbidden {turn} */ drop table kept"));
            assert!(refused.is_err(), "it was answered: {refused:?}");
        }
    }
    assert_eq!(bystander.ask("select 'still here'")?, "still here");
    assert_eq!(executed(server)?, Vec::<String>::new());
    // What asyncpg only prepares is no statement yet.
    let blocked = "event_kind IN ('statement', 'decision') AND disposition = 'blocked' \
                   AND policy_rule = 'no-destroy' AND db_query_text LIKE 'drop table%' AND process_pid IS NOT NULL";
    assert_eq!(wait_for(&clickhouse, &elsewhere.told(blocked), |n| n >= 9)?, 9);
    assert_eq!(clickhouse.query(&elsewhere.which(BLIND))?, "", "{}", agent.said());
    assert!(agent.stop()?.success(), "{}", agent.said());
    assert_eq!(bystander.ask("select 'after'")?, "after");
    Ok(())
}

/// Connections of one process that begin alike and at once: none is taken for another.
#[test]
fn many_connections_at_once_are_told_apart() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let (server, route) = (&elsewhere.server, elsewhere.route());
    let (mut agent, clickhouse) = elsewhere.guarding("")?;
    client::python(server, &route, "crowd_asyncpg.py", &["40", "20"]).with_context(|| agent.said())?;
    // A library is known once somebody runs it: Node.js brings its own.
    drivers::node(server, &Route::loopback4(), "mixed_pg.js", &["1"])?;
    for _ in 0..3 {
        drivers::node(server, &route, "mixed_pg.js", &["4"]).with_context(|| agent.said())?;
    }
    server.pgbench_tables(1)?;
    let done = client::pgbench(server, &route, &["-S", "-c", "8", "-j", "2", "-t", "200", "-M", "prepared"])?;
    assert_eq!(done, 1600);
    let refused = client::psql(server, &route, &["-c", "/* forbidden */ drop table kept"]);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(executed(server)?, Vec::<String>::new());
    let blocked = "event_kind = 'statement' AND disposition = 'blocked'";
    assert_eq!(wait_for(&clickhouse, &elsewhere.told(blocked), |n| n >= 1)?, 1);
    assert_eq!(clickhouse.query(&elsewhere.which(BLIND))?, "", "{}", agent.said());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Its bytes wait until somebody decides: then they go, or their connection ends.
#[test]
fn a_statement_waits_for_approval() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let (server, route) = (&elsewhere.server, elsewhere.route());
    let (mut agent, _clickhouse) = elsewhere.guarding("")?;
    let granted = "select relacl is not null from pg_class where relname = 'kept'";
    for (verb, wanted) in [("deny", "f"), ("approve", "t")] {
        let mut session = Session::psql(server, &route)?;
        session.ask("select 1")?;
        let asking = std::thread::spawn(move || session.ask("grant select on kept to public; select 'done'"));
        let id = pending(&agent)?;
        assert_eq!(server.quietly(granted)?, "f", "it did not wait");
        assert!(operator(&agent, &[verb, &id])?.0);
        let said = asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
        assert_eq!(said.is_ok(), verb == "approve", "{said:?}");
        assert_eq!(server.quietly(granted)?, wanted);
    }
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// Rustls at the client's end cannot be read: that is told, or, failing closed, nothing of it goes on.
#[test]
fn what_cannot_be_read_is_told_or_refused() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let route = elsewhere.route();
    for (fail, passes) in [("open", true), ("closed", false)] {
        let (mut agent, clickhouse) = elsewhere.guarding(&format!(", fail: {fail}"))?;
        let said = client::program(&elsewhere.server, &route, env!("CARGO_BIN_EXE_mixed-tokio"), &["1"]);
        // The server has no such database: whoever is told so has reached it.
        let reached = said.as_ref().is_err_and(|error| format!("{error:?}").contains("does not exist"));
        assert_eq!(reached, passes, "{fail}: {said:#?}");
        wait_for(&clickhouse, &elsewhere.told(BLIND), |n| n > 0)?;
        assert!(agent.stop()?.success(), "{}", agent.said());
    }
    Ok(())
}
