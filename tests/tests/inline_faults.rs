//! Too much held, and a gate that is switched under load: nobody hangs, nothing is answered wrongly, nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::guarded::{ASK, POLICIES, executed, guarding};
use tests::operator::{operator, pending, shim_of};
use tests::server::talkative;
use tests::stored::wait_for;
use tests::wire::{self, Wire};

/// Behind a statement that waits no more may wait than the settings say: its connection ends, and nobody else's.
#[test]
fn who_sends_more_than_may_wait_is_ended() -> Result<()> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, clickhouse) = guarding(&server, ASK, "gate: {held_bytes: 1MiB}\n")?;
    let mut other = Wire::login(("127.0.0.1", server.port))?;
    other.ask("select 'before'")?;
    let mut greedy = Wire::login(("127.0.0.1", server.port))?;
    greedy.send(&wire::query("grant select on kept to public"))?;
    pending(&agent)?;
    let behind = wire::query(&format!("select /* {} */ 'behind'", "x".repeat(60_000)));
    // It may be ended while it still sends.
    for _ in 0..200 {
        if greedy.send(&behind).is_err() {
            break;
        }
    }
    assert!(greedy.until_ready().is_err(), "it was answered");
    wait_for(&clickhouse, "SELECT count() FROM weir.events WHERE error_type = 'held_bytes'", |n| n > 0)?;
    for wire in [&mut other, &mut Wire::login(("127.0.0.1", server.port))?] {
        let said = wire.ask("select /* held */ 'after'")?;
        assert!(said.contains("after"), "{said}");
    }
    let granted = "select count(*) from information_schema.role_table_grants where table_name = 'kept' and grantee = 'PUBLIC'";
    assert_eq!(server.quietly(granted)?, "0", "nobody approved it");
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

/// What a process has open, by kind, and its resident memory in KiB.
fn possessions(pid: u32) -> (BTreeMap<String, usize>, u64) {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        let kind = target.split([':', '/']).next().filter(|kind| !kind.is_empty()).unwrap_or("file");
        *kinds.entry(if target.contains("bpf") { "bpf".to_owned() } else { kind.to_owned() }).or_default() +=
            1;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    (kinds, line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0))
}

/// Connects, asks some things that pass and some that are held, and goes.
fn visit(port: u16, number: u64) -> Result<()> {
    let mut wire = Wire::login(("127.0.0.1", port))?;
    for turn in 0..10 {
        let wanted = format!("n{number}t{turn}");
        let said = wire.ask(&format!("select /* {number} */ '{wanted}'"))?;
        ensure!(said.contains(&wanted), "asked for {wanted}, got {said:?}");
        let said = wire.ask("select 'the same'")?;
        ensure!(said.contains("the same"), "{said:?}");
    }
    // Half of them say that they go.
    if number.is_multiple_of(2) { wire.send(&wire::message(b'X', b"")) } else { Ok(()) }
}

/// The gate is switched off and on, many times while sessions come, work and go. `SWITCHES`: how often.
#[test]
fn a_gate_switched_under_load_loses_nothing_and_leaves_nothing() -> Result<()> {
    let switches: u32 = std::env::var("SWITCHES").map_or(Ok(25), |n| n.parse())?;
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    // What comes up with the first sessions is there before anything is counted.
    for number in 0..50 {
        visit(server.port, number)?;
    }
    let shim = shim_of(&agent)? as u32;
    let before = [agent.pid(), shim].map(possessions);
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let visitor = || -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                visit(server.port, visits.fetch_add(1, Ordering::Relaxed))?;
            }
            Ok(())
        };
        let visitors = [scope.spawn(visitor), scope.spawn(visitor), scope.spawn(visitor)];
        let switched = (0..switches).try_for_each(|number| {
            for switch in ["off", "on"] {
                let (done, said) = operator(&agent, &["gate", switch])?;
                ensure!(done, "switch {number}: {said}");
            }
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        for visitor in visitors {
            visitor.join().map_err(|_| anyhow::anyhow!("a visitor panicked"))??;
        }
        switched
    })
    .with_context(|| agent.said())?;
    // It holds again.
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    let said = wire.ask("/* forbidden */ drop table kept")?;
    assert!(said.contains("blocked by policy"), "{said}");
    drop(wire);
    // Lanes of those who have gone are free within a moment.
    std::thread::sleep(Duration::from_secs(1));
    let (_, said) = operator(&agent, &["gate", "status", "--format", "jsonl"])?;
    let told: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    assert_eq!(told["open"], 0, "entries of connections that are gone: {said}");
    assert_eq!(shim_of(&agent)? as u32, shim, "the shim was replaced");
    let after = [agent.pid(), shim].map(possessions);
    for (name, (before, after)) in ["agent", "shim"].iter().zip(before.iter().zip(&after)) {
        eprintln!("{name}: {:?} KiB, then {:?} KiB; {:?}", before.1, after.1, after.0);
        for (kind, count) in &after.0 {
            let had = before.0.get(kind).copied().unwrap_or_default();
            // The agent looks at files and asks its engine now and then.
            assert!(*count <= had + 8, "{name}: {had} of {kind} before, {count} after {switches} switches");
        }
    }
    eprintln!("{} sessions, {switches} switches", visits.load(Ordering::Relaxed));
    assert_eq!(executed(&server)?, Vec::<String>::new());
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
