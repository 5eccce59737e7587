//! Approvals as people meet them: by command over the control socket, by signed link, by nobody in time. Needs root.

use std::time::Duration;

use agent::approve::{Approvals, Command, Settings, Switch};
use agent_core::approval::{Asked, State, digest_text, id_text};
use serde_json::{Map, Value};

mod support;

use support::{Chat, House, LONG, ask_as, browse, is_root, request, weir};

/// Ids that begin alike, as those of one second do.
const FIRST: u128 = 0x019a_a8f2_6c1e_7000_8000_0000_0000_0001;
const SECOND: u128 = 0x019a_a8f2_6c1f_7000_8000_0000_0000_0002;
const THIRD: u128 = 0x019a_a8f3_0000_7000_8000_0000_0000_0003;
const DAEMON: u32 = 1;
const NOBODY: u32 = 65_534;

#[test]
fn by_command() {
    if !is_root("by_command") {
        return;
    }
    let house = House::open(&Settings::default());
    assert_eq!(house.weir(&["pending"]).0, 0);
    for (id, digest) in [(FIRST, 1), (SECOND, 2), (THIRD, 3)] {
        assert_eq!(house.approvals.ask(request(id, digest, &["dba"], LONG)), Asked::Waits);
    }
    let (status, table, _) = house.weir(&["pending"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!((status, rows.len()), (0, 4), "{table}");
    assert!(rows[1].starts_with(&id_text(FIRST)) && rows[1].ends_with("DROP TABLE t1 <b>"), "{table}");
    let (_, lines, _) = house.weir(&["pending", "--format", "jsonl"]);
    let shown: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown[2]["approval_id"], id_text(THIRD));
    assert_eq!((&shown[2]["digest"], &shown[2]["session_id"]), (&digest_text(&[3; 32]).into(), &"42".into()));

    let refused = |arguments: &[&str], why: &str| {
        let (status, out, error) = house.weir(arguments);
        assert_eq!((status, &*out, error.lines().count()), (1, "", 1), "{arguments:?}: {error}");
        assert!(error.contains(why), "{arguments:?}: {error}");
        assert!(house.approvals.answers().is_empty(), "{arguments:?}");
    };
    refused(&["approve", "019aa8f2"], "2 requests begin like this");
    refused(&["approve", "019aa8f"], "at least 8 characters");
    refused(&["deny", "ffffffff"], "`weir pending` lists those that wait");
    refused(&["deny", "../gate/on"], "is no id");
    // Every digest that differs by one bit is another one.
    for bit in [0, 100, 255] {
        let mut digest = [3; 32];
        digest[bit / 8] ^= 1 << (bit % 8);
        refused(&["approve", "019aa8f3", "--digest", &digest_text(&digest)], "not that of the bytes");
    }
    refused(&["approve", "019aa8f3", "--digest", "03"], "64 hexadecimal digits");

    let digest = digest_text(&[3; 32]);
    let (status, out, error) =
        house.weir(&["approve", "019aa8f3", "--digest", &digest, "--reason", "ticket 4711"]);
    assert_eq!(status, 0, "{error}");
    assert!(out.starts_with(&format!("approved {}: shop", id_text(THIRD))), "{out}");
    let answer = house.answer();
    assert_eq!((answer.id, answer.state, answer.goes_on), (THIRD, State::Approved, true));
    assert!(answer.actor.starts_with("user:root (uid 0"), "{answer:?}");
    assert_eq!(&*answer.reason, "ticket 4711");
    refused(&["approve", "019aa8f3"], "already used by user:root");
    refused(&["deny", "019aa8f3"], "already used by user:root");

    assert_eq!(house.weir(&["deny", "019aa8f2-6c1e"]).0, 0);
    let answer = house.answer();
    assert_eq!((answer.id, answer.state, answer.goes_on), (FIRST, State::Denied, false));
    assert!(house.approvals.withdraw(SECOND));
    refused(&["approve", &id_text(SECOND)], "the client did not wait");
    let (waiting, counts, refusals) = house.approvals.counted().read();
    assert_eq!((waiting, counts.approved, counts.denied, counts.cancelled), (0, 1, 1, 1));
    assert!(refusals.contains(&("bytes_differ", 3)), "{refusals:?}");

    let socket = house.socket();
    drop(house.approvals);
    let (status, _, error) = weir(&socket, &["pending"]);
    assert_eq!((status, error.contains("no agent listens on")), (1, true), "{error}");
    assert_eq!(weir(&socket, &["approve"]).0, 2);
}

#[test]
fn by_nobody_in_time() {
    if !is_root("by_nobody_in_time") {
        return;
    }
    let house = House::open(&Settings::default());
    house.approvals.ask(request(THIRD, 3, &["dba"], LONG));
    house.approvals.ask(request(FIRST, 1, &["dba"], Duration::from_millis(20)));
    let answer = house.answer();
    assert_eq!((answer.id, answer.state, answer.goes_on), (FIRST, State::Expired, false));
    let (status, _, error) = house.weir(&["approve", &id_text(FIRST)]);
    assert_eq!((status, error.contains("expired at")), (1, true), "{error}");
    assert_eq!(house.approvals.counted().read().0, 1);
}

#[test]
fn who_is_asked() {
    if !is_root("who_is_asked") {
        return;
    }
    let house = House::open(&Settings::default());
    let other = agent_core::approval::Request {
        process_owner: "alice".into(),
        ..request(SECOND, 2, &["daemon"], LONG)
    };
    house.approvals.ask(request(FIRST, 1, &["daemon"], LONG));
    house.approvals.ask(other);
    house.approvals.ask(request(THIRD, 3, &["dba"], LONG));
    let ask = |uid, head: &str, body: &str| ask_as(uid, &house.socket(), head, body);
    let approve = |id| format!("POST /v1/approvals/{}/approve", id_text(id));

    // In none of the groups: nothing is seen, nothing is decided.
    assert_eq!(ask(NOBODY, "GET /v1/approvals", ""), (200, String::new()));
    let (status, body) = ask(NOBODY, &approve(FIRST), "");
    assert_eq!((status, body.contains("members of daemon may decide")), (403, true), "{body}");
    // In one of them: those of that group, and nobody approves his own.
    let (_, lines) = ask(DAEMON, "GET /v1/approvals", "");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert_eq!(ask(DAEMON, &approve(THIRD), "").0, 403);
    let (status, body) = ask(DAEMON, &approve(FIRST), "");
    assert_eq!((status, body.contains("somebody else has to approve it")), (403, true), "{body}");
    assert!(house.approvals.answers().is_empty());
    let (status, body) = ask(DAEMON, &approve(SECOND), r#"{"reason": "fine"}"#);
    assert_eq!(status, 200, "{body}");
    let answer = house.answer();
    assert_eq!((answer.id, answer.goes_on, &*answer.reason), (SECOND, true, "fine"));
    assert!(answer.actor.starts_with("user:daemon (uid 1"), "{answer:?}");

    // What is not about approvals is root's.
    for head in ["POST /v1/sessions/42/kill", "GET /v1/gate", "POST /v1/gate/off"] {
        let (status, body) = ask(DAEMON, head, "");
        assert_eq!((status, body.contains("only root")), (403, true), "{head}: {body}");
    }
    assert!(house.approvals.orders().is_empty());
    assert_eq!(ask(DAEMON, &approve(FIRST), "{\"digits\": 1}").0, 400);
    assert_eq!(ask(DAEMON, &approve(FIRST), &" ".repeat(70_000)).0, 400);
    assert_eq!(ask(DAEMON, "GET /v2", "").0, 404);
}

#[test]
fn by_signed_link() {
    let chat = Chat::open();
    let secret = tempfile::tempdir().unwrap();
    let file = secret.path().join("hook");
    std::fs::write(&file, &chat.url).unwrap();
    let settings = Settings { listen: "127.0.0.1:0".into(), slack_file: Some(file), ..Settings::default() };
    let house = House::open(&settings);

    house.approvals.ask(request(FIRST, 1, &["dba"], LONG));
    let told = chat.message(0).to_string();
    assert!(told.contains("DROP TABLE t1 &lt;b&gt;") && told.contains("no-drop"), "{told}");
    let (approve, deny) = chat.links(0);
    // To look is not to decide, however often.
    for method in ["GET", "HEAD", "GET"] {
        let (status, page) = browse(method, &approve);
        assert_eq!(status, 200, "{page}");
        if method == "GET" {
            assert!(
                page.contains("DROP TABLE t1 &lt;b&gt;") && page.contains("<form method=\"post\">"),
                "{page}"
            );
        }
    }
    assert_eq!(browse("PUT", &approve).0, 405);
    // Any other character is another link.
    let token = approve.rfind('/').unwrap() + 1;
    for at in (token..approve.len()).step_by(7) {
        let other = if approve.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{}{other}{}", &approve[..at], &approve[at + 1..]);
        assert_eq!(browse("POST", &changed).0, 403, "character {}", at - token);
    }
    // A link to deny does not approve.
    assert_eq!(browse("POST", &deny.replace("/deny/", "/approve/")).0, 403);
    assert!(house.approvals.answers().is_empty());

    let (status, page) = browse("POST", &approve);
    assert_eq!((status, page.contains("Approved")), (200, true), "{page}");
    let answer = house.answer();
    assert_eq!((answer.id, answer.goes_on, &*answer.actor), (FIRST, true, "link:slack"));
    for (method, link) in [("POST", &approve), ("GET", &approve), ("POST", &deny), ("GET", &deny)] {
        let (status, page) = browse(method, link);
        assert_eq!((status, page.contains("Already decided")), (409, true), "{method}: {page}");
    }
    assert!(house.approvals.answers().is_empty());
    assert!(chat.message(1).to_string().contains("Approved by link:slack"));

    // Denied by link; withdrawn; too late.
    house.approvals.ask(request(SECOND, 2, &["dba"], LONG));
    assert_eq!(browse("POST", &chat.links(2).1).0, 200);
    assert_eq!(house.answer().state, State::Denied);
    assert!(chat.message(3)["text"].as_str().unwrap().starts_with("Denied by link"));
    house.approvals.ask(request(THIRD, 3, &["dba"], LONG));
    let (withdrawn, _) = chat.links(4);
    house.approvals.withdraw(THIRD);
    assert_eq!(browse("POST", &withdrawn).0, 410);
    assert!(chat.message(5)["text"].as_str().unwrap().starts_with("Withdrawn"));
    house.approvals.ask(request(THIRD + 1, 4, &["dba"], Duration::from_millis(500)));
    let (late, _) = chat.links(6);
    assert_eq!(house.answer().state, State::Expired);
    assert_eq!(browse("POST", &late).0, 410);
    assert!(chat.message(7)["text"].as_str().unwrap().starts_with("Nobody decided in time: refused"));

    // The next life of the agent knows what it signed, and that nothing of it waits.
    let before = house.approvals.address().unwrap();
    let House { home, approvals, .. } = house;
    drop(approvals);
    let house = House::open_in(home, &settings);
    let moved =
        |link: &str| link.replace(&before.to_string(), &house.approvals.address().unwrap().to_string());
    assert_eq!(browse("POST", &moved(&approve)).0, 410);
    // The same id with other bytes: the link is about those that were shown.
    house.approvals.ask(request(FIRST, 9, &["dba"], LONG));
    assert_eq!(browse("POST", &moved(&approve)).0, 409);
    assert!(house.approvals.answers().is_empty());
}

#[test]
fn orders_reach_the_agent() {
    if !is_root("orders_reach_the_agent") {
        return;
    }
    let house = House::open(&Settings::default());
    let serve = |answer: &(dyn Fn(Command) -> Result<Map<String, Value>, String> + Sync)| {
        for order in house.fetched(Approvals::orders) {
            assert!(order.actor.starts_with("user:root (uid 0"), "{order:?}");
            let command = order.command;
            order.answer(answer(command));
        }
    };
    let told = |arguments: &[&str],
                answer: &(dyn Fn(Command) -> Result<Map<String, Value>, String> + Sync)| {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| house.weir(arguments));
            serve(answer);
            asked.join().unwrap()
        })
    };
    let killed = told(&["kill", "42"], &|command| {
        assert_eq!(command, Command::Kill { session_id: 42 });
        Ok(Map::from_iter([("outcome".into(), "killed".into())]))
    });
    assert_eq!((killed.0, &*killed.1), (0, "outcome: killed\n"), "{}", killed.2);
    let gone = told(&["kill", "43"], &|_| Err("session 43 is not known".into()));
    assert_eq!((gone.0, &*gone.2), (1, "weir: session 43 is not known\n"));
    for (word, switch) in [("on", Switch::On), ("off", Switch::Off), ("status", Switch::Status)] {
        let done = told(&["gate", word], &|command| {
            assert_eq!(command, Command::Gate(switch));
            Ok(Map::from_iter([("gate".into(), "on".into()), ("held".into(), 3.into())]))
        });
        assert_eq!((done.0, &*done.1), (0, "gate: on\nheld: 3\n"), "{}", done.2);
    }
    // An order that is dropped is not left without a word.
    let dropped = std::thread::scope(|scope| {
        let asked = scope.spawn(|| house.weir(&["gate", "status"]));
        drop(house.fetched(Approvals::orders));
        asked.join().unwrap()
    });
    assert_eq!((dropped.0, dropped.2.contains("does not do that")), (1, true), "{}", dropped.2);
    assert_eq!(house.weir(&["kill", "me"]).0, 2);
}
