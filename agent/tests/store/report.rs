//! `weir report`: each question over known receipts, in each format; evidence that verifies, until it is touched.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::store::{Config, PolicyText, Store};
use agent_core::event::{DataClass, Event, EventKind};
use agent_core::receipt::sha256;
use agent_core::sql::{Access, Effect, Relation};

use crate::support::{Directory, config, push_one, start};
use crate::verify::verify;

const NOON: u64 = 1_795_262_400_000_000_000;
const HOUR: u64 = 3_600_000_000_000;
const POLICY: &str = "kind: DatabasePolicy\nmetadata: {name: no-drops}";

fn report(url: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["report", arguments[0], "--url", url])
        .args(&arguments[1..])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn answer(url: &str, arguments: &[&str]) -> String {
    let (code, text) = report(url, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

fn rows(url: &str, arguments: &[&str]) -> Vec<serde_json::Value> {
    let text = answer(url, &[arguments, &["--format", "jsonl"]].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn version() -> String {
    sha256(&[POLICY.as_bytes()]).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn statement(at: u64, who: &str, text: &str, effect: Effect, relation: &str, returned: u64) -> Event {
    let access = if effect == Effect::Read { Access::Read } else { Access::Write };
    let mut texts = agent_core::sql::Texts::default();
    let known = texts.intern(agent_core::sql::Dialect::Postgresql, text.as_bytes());
    Event {
        time: NOON + at * HOUR,
        agent_id: "agent-1".into(),
        host_name: "db-1".into(),
        db_system_name: "postgresql".into(),
        db_namespace: "shop".into(),
        db_user: "app".into(),
        identity_principal: who.into(),
        process_executable_path: "/usr/bin/psql".into(),
        client_address: "10.0.0.9".into(),
        db_query_text: text.into(),
        db_query_fingerprint: known.analysis().db_query_fingerprint.clone(),
        statement_effects: [effect].into(),
        statement_relations: [Relation { name: relation.into(), access }].into(),
        statement_complete: true,
        db_response_returned_rows: Some(returned),
        capture_bytes: 50,
        ..Event::default()
    }
}

async fn fill(config: &Config) {
    let store = Store::open(config.clone()).await.unwrap();
    store.policies(&[PolicyText {
        rule: "no-drops".into(),
        version: version(),
        text: POLICY.into(),
        file: "/etc/weir/policies/no-drops.yaml".into(),
        time: NOON,
    }]);
    let card = DataClass { class: "card".into(), column: "pan".into() };
    for hour in 0..3 {
        let event =
            statement(hour, "alice", "select pan from cards where id = ?", Effect::Read, "public.cards", 10);
        push_one(&store, Event { data_classes: [card.clone()].into(), ..event });
    }
    push_one(&store, statement(4, "bob", "update orders set n = ?", Effect::Update, "orders", 0));
    let dropped = statement(5, "bob", "drop table orders", Effect::Drop, "orders", 0);
    let rule = ("no-drops".into(), version().into(), "monitor".into());
    push_one(&store, Event { policy_rule: rule.0, policy_version: rule.1, policy_mode: rule.2, ..dropped });
    let odd = "it's \\ a \"test\"\n\u{1b}[31m; {x:String} -- ";
    push_one(&store, statement(6, odd, "select ?", Effect::Read, odd, 1));
    push_one(
        &store,
        Event { time: NOON, event_kind: EventKind::Blind, error_type: "tls".into(), ..Event::default() },
    );
    store.close(Duration::from_mins(1)).await;
}

#[tokio::test]
async fn questions_are_answered() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    fill(&config(&url, &directory.0)).await;

    let who = |more: &[&str]| rows(&url, &[&["who"], more].concat());
    for more in [
        &["--relation", "cards"][..],
        &["--relation", "PUBLIC.*"],
        &["--text", "pan from"],
        &["--text", "select pan*"],
        &["--like", "SELECT pan  FROM cards WHERE id = 4711 -- really"],
    ] {
        let found = who(more);
        assert_eq!(found.len(), 1, "{more:?}: {found:?}");
        assert_eq!(
            (&found[0]["principal"], &found[0]["statements"]),
            (&"alice".into(), &3.into()),
            "{more:?}"
        );
        assert_eq!(
            (&found[0]["returned"], &found[0]["first"]),
            (&30.into(), &"2026-11-21T12:00:00.000000000Z".into())
        );
    }
    assert_eq!(who(&["--relation", "orders", "--since", "2026-11-21T16:30:00Z"])[0]["statements"], 1);
    assert!(who(&["--relation", "orders", "--until", "2026-11-21"]).is_empty());
    assert!(who(&["--relation", "orders", "--namespace", "elsewhere"]).is_empty());
    // What is given is data, whatever it looks like; and it is found again.
    assert!(who(&["--text", "' OR 1=1 --"]).is_empty());
    let odd = "it's \\ a \"test\"\n\u{1b}[31m; {x:String} -- ";
    assert_eq!(who(&["--relation", odd])[0]["principal"], odd);
    assert_eq!(rows(&url, &["what", "--principal", odd])[0]["relation"], odd);
    let table = answer(&url, &["what", "--principal", odd]);
    assert!(
        !table.contains('\u{1b}') && table.contains("\\u{1b}[31m") && table.lines().count() == 2,
        "{table}"
    );

    let what = rows(&url, &["what", "--principal", "bob"]);
    assert_eq!(what.len(), 1);
    assert_eq!((&what[0]["relation"], &what[0]["effects"]), (&"orders".into(), &"drop update".into()));
    assert_eq!(rows(&url, &["what", "--process", "psql", "--db-user", "a*"]).len(), 3);
    assert!(rows(&url, &["what", "--ai-agent", "*"]).is_empty());

    let export = rows(&url, &["export"]);
    assert_eq!(export.len(), 1);
    for (name, value) in
        [("class", "card"), ("column", "pan"), ("principal", "alice"), ("client", "10.0.0.9")]
    {
        assert_eq!(export[0][name], value);
    }
    assert_eq!((&export[0]["rows"], &export[0]["request_bytes"]), (&30.into(), &150.into()));
    assert!(rows(&url, &["export", "--class", "email"]).is_empty());

    let review = answer(&url, &["access-review", "--format", "csv"]);
    let mut lines = review.lines();
    assert!(lines.next().unwrap().starts_with("\"principal\",\"user\",\"system\""), "{review}");
    assert!(
        review.contains(
            "\"alice\",\"app\",\"postgresql\",\"shop\",\"public.cards\",\"read\",\"read\",\"card\",3,30"
        ),
        "{review}"
    );
    assert!(
        review.contains("\"bob\"") && review.contains("\"drop\"") && review.contains("\"update\""),
        "{review}"
    );

    let table = answer(&url, &["who", "--relation", "cards"]);
    assert!(table.starts_with("PRINCIPAL") && table.contains("alice"), "{table}");
    assert_eq!(answer(&url, &["what", "--principal", "nobody"]), "nothing of that kind is recorded\n");
    let (code, text) = report(&url, &["who"]);
    assert!(code == 2 && text.contains("--relation"), "{text}");
    let (code, text) = report(&url, &["what", "--since", "yesterday"]);
    assert!(code == 2 && text.contains("24h"), "{text}");
    let (code, text) = report("http://127.0.0.1:9", &["what"]);
    assert!(code == 1 && text.starts_with("weir: cannot ask http://127.0.0.1:9"), "{text}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn evidence_verifies_until_it_is_touched() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    let anchor = directory.0.join("anchor.jsonl");
    let config = Config { anchor_file: Some(anchor.clone()), ..config(&url, &directory.0) };
    for _ in 0..4 {
        fill(&config).await;
    }
    let (whole, tar) = (directory.0.join("whole"), directory.0.join("evidence.tar"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let said = answer(&url, &["evidence", "--out", &path(&whole)]);
    assert!(said.contains("agent agent-1: receipts 1 to 28"), "{said}");
    answer(&url, &["evidence", "--out", &path(&tar)]);
    let (code, text) = report(&url, &["evidence", "--out", &path(&tar)]);
    assert!(code == 1 && text.contains("is there already"), "{text}");
    for bundle in [&whole, &tar] {
        let (code, text) = verify(&[&path(bundle), "--anchor", &path(&anchor)]);
        assert!(code == 0 && text.contains("28 receipts, 1 to 28, all signed"), "{text}");
    }
    let read = |name: &str| std::fs::read_to_string(whole.join(name)).unwrap();
    assert_eq!(read(&format!("policies/no-drops@{}.yaml", version())), POLICY);
    assert!(read("policy-decisions.csv").contains("no-drops") && read("not-seen.csv").contains("tls"));
    assert!(read("sensitive-data.csv").contains("card") && read("access-review.csv").contains("bob"));
    for control in
        ["CC6", "CC7", "PCI DSS 10.2", "HIPAA 164.312(b)", "AU-2", "AU-3", "AU-6", "AU-9", "AU-10", "AU-12"]
    {
        assert!(read("README.md").contains(control), "{control}");
    }
    let count = std::cell::Cell::new(0);
    let touched = |words: &str, touch: &dyn Fn(&Path)| {
        count.set(count.get() + 1);
        let bundle = directory.0.join(format!("touched{}", count.get()));
        copy(&whole, &bundle);
        touch(&bundle);
        let (code, text) = verify(&[&path(&bundle)]);
        assert!(code == 1 && text.contains(words), "{words}: {text}");
    };
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |bundle: &Path| {
            let text = std::fs::read_to_string(bundle.join(file)).unwrap();
            assert!(text.contains(from), "{file}");
            std::fs::write(bundle.join(file), text.replacen(from, to, 1)).unwrap();
        }
    };
    touched("events.jsonl: it is not what the manifest says", &edit("events.jsonl", "alice", "carol"));
    touched("README.md: it is not what", &edit("README.md", "SOC 2", "SOC 3"));
    touched("the manifest does not know it", &|bundle| std::fs::write(bundle.join("more.txt"), "x").unwrap());
    touched("proofs.jsonl: it is missing", &|bundle| {
        std::fs::remove_file(bundle.join("proofs.jsonl")).unwrap();
    });
    // With a manifest that was made to fit, what is signed still tells.
    let refit = |bundle: &Path| {
        let manifest = std::fs::read_to_string(bundle.join("manifest.json")).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        for file in manifest["files"].as_array_mut().unwrap() {
            let bytes = std::fs::read(bundle.join(file["path"].as_str().unwrap())).unwrap();
            file["bytes"] = bytes.len().into();
            file["sha256"] = sha256(&[&bytes]).iter().map(|b| format!("{b:02x}")).collect::<String>().into();
        }
        std::fs::write(bundle.join("manifest.json"), manifest.to_string()).unwrap();
    };
    touched("receipt 1 (event", &|bundle| {
        edit("events.jsonl", "alice", "carol")(bundle);
        refit(bundle);
    });
    touched("cut off: receipt 28", &|bundle| {
        let events = std::fs::read_to_string(bundle.join("events.jsonl")).unwrap();
        let kept: Vec<&str> = events.lines().take(27).collect();
        std::fs::write(bundle.join("events.jsonl"), kept.join("\n") + "\n").unwrap();
        refit(bundle);
    });
    touched("its text does not have this version", &|bundle| {
        let policies = bundle.join(format!("policies/no-drops@{}.yaml", version()));
        std::fs::write(policies, "kind: Other").unwrap();
        refit(bundle);
    });
}
