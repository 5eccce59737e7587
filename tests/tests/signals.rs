//! Rules about the answer and the past act, late but told; who is told, and what Prometheus scrapes.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::client::{self, Route};
use tests::receiver::Receiver;
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::postgres::Postgres;
use xtask::scratch::{self, Scratch};
use xtask::weir::{self, Weir};

const RULES: &str = r#"
kind: DatabasePolicy
metadata: {name: cards}
spec:
  mode: enforce
  match: {data: {classes: [card]}, database: {namespace: [postgres]}}
  action: kill
  message: "No cards."
---
kind: DatabasePolicy
metadata: {name: many-rows}
spec:
  mode: enforce
  match: {relations: [journal], rate: {rows: 100, within: 1h, per: session}}
  action: kill
---
kind: DatabasePolicy
metadata: {name: first-touch}
spec:
  match: {relations: [habits], unusual: {first: relation, learning: 0s}}
  action: alert
  onUnknown: allow
"#;

fn get(url: &str) -> Result<(String, String)> {
    let out = Command::new("curl").args(["-s", "-w", "\n%{http_code}", url]).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').context("curl says the status last")?;
    Ok((status.to_owned(), body.to_owned()))
}

/// Asks until the session is over.
fn until_over(session: &mut Wire) -> Result<()> {
    let began = Instant::now();
    while session.send(&wire::query("select 1")).and_then(|()| session.until_ready()).is_ok() {
        if began.elapsed() > Duration::from_mins(1) {
            bail!("the session goes on");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The sum of the samples with this name and these labels.
fn sample(metrics: &Value, name: &str, labels: &[(&str, &str)]) -> u64 {
    let all = metrics["samples"].as_array().into_iter().flatten();
    let fits =
        |sample: &&Value| sample[0] == name && labels.iter().all(|(key, value)| sample[1][key] == *value);
    all.filter(fits).filter_map(|sample| sample[2].as_f64()).sum::<f64>() as u64
}

#[test]
fn rules_about_the_answer_and_the_past_act_and_are_told() -> Result<()> {
    let server = Postgres::start(&[])?;
    server.quietly("create table pay as select 1 as id, '4111111111111111'::text as reference")?;
    server.quietly("create table journal as select generate_series(1, 60) as id")?;
    server.quietly("create table habits as select 1 as id")?;
    let (receiver, port) = (Receiver::start()?, scratch::free_port()?);
    let scratch = Scratch::new("agent")?;
    let home = scratch.path().to_owned();
    fs::create_dir_all(home.join("policies"))?;
    fs::write(home.join("policies/rules.yaml"), RULES)?;
    fs::write(home.join("hook"), format!("{}/planted-path", receiver.url))?;
    let ocsf = home.join("ocsf.jsonl");
    let more = format!(
        "listen: {{metrics: \"127.0.0.1:{port}\"}}\nsignals:\n  - {{kind: webhook, url_file: {}}}\n  - {{kind: ocsf, \
         file: {}, within: 0s, when: [killed]}}\n",
        home.join("hook").display(),
        ocsf.display()
    );
    let (mut agent, clickhouse) = Weir::run(&weir::binary()?, scratch, &more)?;
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    for path in ["/readyz", "/healthz"] {
        assert_eq!(get(&url(path))?, ("200".into(), "ok\n".into()), "{path}");
    }

    // Nothing about the statement says what its answer holds.
    let mut session = Wire::login(("127.0.0.1", server.port))?;
    session.send(&wire::query("select id, reference from pay"))?;
    until_over(&mut session).context("a card was shown")?;
    // Sixty rows are few, a hundred and twenty are not.
    let mut session = Wire::login(("127.0.0.1", server.port))?;
    let mut other = Wire::login(("127.0.0.1", server.port))?;
    for session in [&mut session, &mut other] {
        session.send(&wire::query("select * from journal"))?;
        session.until_ready()?;
    }
    session.send(&wire::query("select * from journal"))?;
    until_over(&mut session).context("a hundred rows of the journal")?;
    for _ in 0..2 {
        other.send(&wire::query("select * from habits"))?;
        other.until_ready().context("another session was hit")?;
    }

    let count = |what: &str| {
        format!("SELECT count() FROM weir.events WHERE server_port = {} AND {what}", server.port)
    };
    let late = "event_kind = 'decision' AND error_type = 'late' AND disposition = 'killed'";
    for rule in ["cards", "many-rows"] {
        let killed = "event_kind = 'statement' AND disposition = 'killed'";
        for what in [killed, late] {
            let sql = count(&format!("policy_rule = '{rule}' AND {what}"));
            assert_eq!(wait_for(&clickhouse, &sql, |n| n > 0)?, 1, "{rule}: {what}");
        }
    }
    let touches =
        count("event_kind = 'statement' AND policy_rule = 'first-touch' AND disposition = 'alerted'");
    wait_for(&clickhouse, &count("db_collection_name = 'habits'"), |n| n >= 2)?;
    let all = "SELECT time, session_id, identity_principal, policy_rule, db_query_text FROM weir.events ORDER BY time";
    assert_eq!(clickhouse.number(&touches)?, 1, "told once: {}", clickhouse.query(all)?);
    let began = Instant::now();
    while !["[killed] cards", "[killed] many-rows", "[alert] first-touch"]
        .iter()
        .all(|s| receiver.got().contains(s))
    {
        assert!(began.elapsed() < Duration::from_mins(1), "the webhook got: {}", receiver.got());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(receiver.got().contains("No cards."), "{}", receiver.got());

    // What is scraped is what happened, in a form that the reference parser takes.
    let file = home.join("metrics.txt");
    let metrics = || -> Result<Value> {
        fs::write(&file, get(&url("/metrics"))?.1)?;
        let read = client::python(&server, &Route::loopback4(), "metrics.py", &[&file.to_string_lossy()])?;
        Ok(serde_json::from_str(&read)?)
    };
    let metrics = metrics()?;
    let of = |name: &str, labels: &[(&str, &str)]| sample(&metrics, name, labels);
    assert!(of("weir_statements_total", &[("system", "postgresql")]) >= 8, "{metrics}");
    let killed = [("rule", "cards"), ("mode", "enforce"), ("disposition", "killed")];
    assert!(of("weir_verdicts_total", &killed) >= 1, "{metrics}");
    assert!(of("weir_kills_total", &[("outcome", "killed")]) >= 2, "{metrics}");
    assert!(of("weir_kill_seconds_count", &[]) >= 2 && of("weir_store_stored_total", &[]) >= 8, "{metrics}");
    assert!(of("weir_signals_total", &[("receiver", "webhook1"), ("state", "sent")]) >= 3, "{metrics}");
    assert!(
        of("weir_process_resident_memory_bytes", &[]) > 1_000_000 && of("weir_policies", &[]) == 3,
        "{metrics}"
    );
    assert_eq!(of("weir_ring_bytes", &[]), 64 << 20);
    assert_eq!(of("weir_signals_dropped_total", &[]), 0);
    assert_eq!(of("weir_approvals_total", &[("outcome", "approved")]), 0);
    assert_eq!(metrics["samples"].to_string().matches("weir_approvals_pending").count(), 1, "{metrics}");
    // The operator reaches the agent, and nobody waits for him.
    let socket = agent.home().join("weir.sock");
    let pending = Command::new(weir::binary()?).arg("pending").arg("--socket").arg(&socket).output()?;
    assert!(pending.status.success() && pending.stdout.is_empty(), "{pending:?}: {}", agent.said());

    assert!(agent.stop()?.success(), "{}", agent.said());
    assert!(!socket.exists(), "the control socket goes with the agent");
    assert!(get(&url("/readyz")).is_ok_and(|(status, _)| status == "000"), "nobody answers any more");
    let lines = fs::read_to_string(&ocsf)?;
    let classes: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(
        !classes.is_empty()
            && classes.iter().all(|line| line["type_uid"].as_u64().is_some_and(|id| id / 100 == 6005))
    );
    Ok(())
}
