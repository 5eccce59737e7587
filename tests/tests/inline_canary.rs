//! Rules that only watch, tried in the gate: nothing is refused, nobody waits, and what would have been done is counted.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::client::{self, Route};
use tests::guarded::guarding;
use tests::operator::{operator, shim_of};
use tests::server::{log_file, talkative};
use tests::stored::wait_for;
use tests::wire::Wire;
use xtask::postgres::Postgres;
use xtask::weir::Weir;

const WATCHING: &str = "kind: DatabasePolicy
metadata: {name: watch-drop}
spec:
  mode: monitor
  match:
    statement: {effects: [drop]}
  action: block
---
kind: DatabasePolicy
metadata: {name: watch-grant}
spec:
  mode: monitor
  match:
    statement: {effects: [grant]}
  action: require_approval
---
kind: DatabasePolicy
metadata: {name: watch-mail}
spec:
  mode: monitor
  match: {data: {classes: [email]}}
  action: mask
";

const ACTING: &str = "---
kind: DatabasePolicy
metadata: {name: no-truncate}
spec:
  mode: enforce
  match:
    statement: {effects: [truncate]}
  action: block
";

fn status(agent: &Weir) -> Result<Value> {
    let (done, said) = operator(agent, &["gate", "status", "--format", "jsonl"])?;
    ensure!(done, "{said}");
    Ok(serde_json::from_str(&said)?)
}

/// Waits until the counts of a rule are these: held, would_..., agree; and none differs.
fn wait_for_counts(agent: &Weir, rule: &str, would: &str, times: u64) -> Result<()> {
    let mut told = Value::Null;
    for _ in 0..500 {
        told = status(agent)?;
        let of = |name: &str| told["canary"][rule][name].as_u64().unwrap_or(0);
        if of("agree") >= times {
            ensure!(of(would) == times && of("held") == times && of("agree") == times, "{told}");
            ensure!(of("differ") == 0 && of("not_held") == 0, "{told}");
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("{rule}: {told}; {}", agent.said())
}

/// What the server's log says of messages that begin like this.
fn executed(server: &Postgres, text: &str) -> Result<usize> {
    let log = std::fs::read_to_string(log_file(server)).context("the server's log")?;
    Ok(log.lines().filter(|line| line.contains(&format!("statement: {text}"))).count())
}

#[test]
fn a_canary_counts_and_refuses_nothing() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table people (id int, email text)")?;
    server.quietly("insert into people values (1, 'ann@example.com')")?;
    // Nobody is refused anything for a rule that only watches, whatever is to be done in doubt.
    let (mut agent, clickhouse) = guarding(&server, WATCHING, "gate: {canary: true, fail: closed}\n")?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    for number in 0..3 {
        wire.ask(&format!("create table t{number} (id int)"))?;
        let said = wire.ask(&format!("drop table t{number}"))?;
        assert!(said.contains("DROP TABLE"), "{said}");
    }
    assert!(wire.ask("grant select on people to public")?.contains("GRANT"));
    assert!(wire.ask("select email from people")?.contains("ann@example.com"));
    // One message of several statements, one that is prepared by SQL, one by the protocol, one that nobody understands.
    wire.ask("create table t4 (id int); drop table t4; select 1")?;
    wire.ask("create table t5 (id int)")?;
    wire.ask("prepare p as select email from people")?;
    assert!(wire.ask("execute p")?.contains("ann@example.com"));
    client::python(&server, &Route::loopback4(), "canary.py", &[])?;
    assert!(wire.ask("frobnicate the table")?.contains("syntax error"));
    assert_eq!(executed(&server, "drop table")?, 3);
    assert_eq!(server.quietly("select count(*) from pg_class where relname ~ '^t[0-4]$'")?, "0");
    wait_for_counts(&agent, "watch-drop", "would_block", 4)?;
    wait_for_counts(&agent, "watch-grant", "would_ask", 1)?;
    wait_for_counts(&agent, "watch-mail", "would_mask", 6)?;
    let told = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND policy_rule = 'watch-drop' \
         AND policy_mode = 'monitor' AND disposition = 'blocked' AND server_port = {}",
        server.port
    );
    assert_eq!(wait_for(&clickhouse, &told, |n| n >= 4)?, 4);
    let (_, said) = operator(&agent, &["gate", "status"])?;
    assert!(said.contains("canary watch-drop: ") && said.contains("differ 0"), "{said}");
    // The agent is gone, and its shim: failing closed is for rules that act.
    let shim = Pid::from_raw(shim_of(&agent)?).context("a pid")?;
    agent.kill()?;
    let _ = kill_process(shim, Signal::KILL);
    let mut new = Wire::login(("127.0.0.1", server.port))?;
    assert!(new.ask("drop table t5")?.contains("DROP TABLE"));
    assert!(wire.ask("select 'goes on'")?.contains("goes on"));
    Ok(())
}

#[test]
fn a_rule_that_acts_acts_beside_a_canary() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, clickhouse) =
        guarding(&server, &format!("{WATCHING}{ACTING}"), "gate: {canary: true}\n")?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    let said = wire.ask("truncate kept")?;
    assert!(said.contains("blocked by policy no-truncate"), "{said}");
    // Both are about it.
    let said = wire.ask("truncate kept; drop table kept")?;
    assert!(said.contains("blocked by policy no-truncate"), "{said}");
    assert!(wire.ask("drop table kept")?.contains("DROP TABLE"));
    assert_eq!((executed(&server, "truncate")?, executed(&server, "drop table")?), (0, 1));
    wait_for_counts(&agent, "watch-drop", "would_block", 2)?;
    let told = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND disposition = 'blocked' \
         AND policy_mode = 'enforce' AND server_port = {}",
        server.port
    );
    assert_eq!(wait_for(&clickhouse, &told, |n| n >= 3)?, 3);
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

#[test]
fn without_a_canary_nothing_is_held_for_rules_that_watch() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, clickhouse) = guarding(&server, WATCHING, "")?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    assert!(wire.ask("drop table kept")?.contains("DROP TABLE"));
    let told = format!(
        "SELECT count() FROM weir.events WHERE event_kind = 'statement' AND policy_rule = 'watch-drop' \
         AND server_port = {}",
        server.port
    );
    assert_eq!(wait_for(&clickhouse, &told, |n| n >= 1)?, 1);
    let told = status(&agent)?;
    assert_eq!((told["state"].as_str(), told["connections"].as_u64()), (Some("idle"), Some(0)), "{told}");
    assert!(told["canary"].is_null(), "{told}");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
