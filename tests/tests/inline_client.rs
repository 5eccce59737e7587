//! Statements held at the client's end, for servers that are elsewhere. The server here is one that the agent is told to
//! know nothing of but its address; its own log is the oracle.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use tests::client::{self, Route};
use tests::guarded::{ASK, POLICIES, executed};
use tests::operator::{operator, pending};
use tests::server::talkative;
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};

fn guarding(server: &Postgres) -> Result<(Weir, ClickHouse)> {
    let scratch = Scratch::new("agent")?;
    fs::create_dir_all(scratch.path().join("policies"))?;
    fs::write(scratch.path().join("policies/gate.yaml"), format!("{POLICIES}{ASK}"))?;
    // Port 1: nothing that listens here goes through the gate.
    let config = format!("gate: {{ports: [1], remote: {{\"127.0.0.1:{}\": postgresql}}}}\n", server.port);
    Weir::run(&weir::binary()?, scratch, &config)
}

#[test]
fn what_a_client_asks_a_server_elsewhere_is_held_here() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, clickhouse) = guarding(&server)?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    assert!(wire.ask("select 'before'")?.contains("before"));
    let said = wire.ask("/* forbidden */ drop table kept")?;
    assert!(said.contains("blocked by policy no-destroy"), "{said}");
    // Pipelined, in pieces, and longer than any buffer.
    let long = format!("select /* {} */ length('{}')", "x".repeat(100_000), "y".repeat(2_000_000));
    let stream = [
        wire::query("select 'one'"),
        wire::extended("", "/* forbidden */ truncate kept"),
        wire::sync(),
        wire::query(&long),
        wire::extended("", "select 'four'::text"),
        wire::sync(),
    ]
    .concat();
    let mut writing = wire.stream.try_clone()?;
    let writer = std::thread::spawn(move || -> Result<()> {
        use std::io::Write as _;
        for piece in stream.chunks(7_919) {
            writing.write_all(piece)?;
        }
        Ok(())
    });
    for wanted in ["one", "blocked by policy", "2000000", "four"] {
        let said = wire.said()?;
        assert!(said.contains(wanted), "{wanted}: {}", &said[..said.len().min(500)]);
    }
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    // Real clients, with what they ask about how much there is to read.
    let route = Route::loopback4();
    let said =
        client::psql(&server, &route, &["-c", "/* forbidden */ drop table kept", "-c", "select 'psql'"])?;
    assert!(said.contains("psql"), "{said}");
    let blocked =
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND disposition = 'blocked'";
    assert!(wait_for(&clickhouse, blocked, |n| n >= 3)? >= 3);
    assert_eq!(executed(&server)?, Vec::<String>::new());
    // Held until somebody decides.
    wire.send(&wire::query("grant select on kept to public"))?;
    let id = pending(&agent)?;
    assert!(operator(&agent, &["approve", &id])?.0);
    wire.until_ready()?;
    let granted = server.quietly("select relacl is not null from pg_class where relname = 'kept'")?;
    assert_eq!(granted, "t");
    // Switched off, quiet connections go straight to their servers again, and a stopped agent leaves them.
    assert!(operator(&agent, &["gate", "off"])?.0);
    std::thread::sleep(Duration::from_millis(200));
    assert!(wire.ask("select 'off'")?.contains("off"));
    assert!(agent.stop()?.success(), "{}", agent.said());
    assert!(wire.ask("select 'after'")?.contains("after"));
    Ok(())
}
