//! Ten thousand receipts: whatever is changed, removed, swapped, inserted or cut off is found, in JSON lines and in
//! ClickHouse. Every column of every receipt has its turn, and every byte of some lines.

use std::sync::Arc;
use std::time::Duration;

use agent::audit::{Known, clickhouse, links, window};
use agent::store::Store;
use agent::store::bench::Samples;
use agent_core::receipt::{Auditor, Chain, FIELDS, Fault, Link, Seals, Verifier};

use crate::support::{Directory, client, config, push, push_one, start};
use crate::verify::full;

const RECEIPTS: usize = 10_000;

fn chain() -> Vec<String> {
    let (mut chain, mut scratch, mut samples) = (Chain::default(), Vec::new(), Samples::new());
    let line = |i: usize| {
        let mut event = if i % 1_000 == 500 { full() } else { samples.next_event() };
        event.agent_id = "agent-1".into();
        chain.append(&mut event, &mut scratch);
        serde_json::to_string(&event).unwrap()
    };
    (0..RECEIPTS).map(line).collect()
}

fn one(line: &[u8]) -> Option<(Arc<str>, Link)> {
    links(line).ok().and_then(|(mut links, _)| links.pop())
}

/// True where links, behind a chain that was whole up to there, are found to be wrong; one that could not be read is.
fn found(before: &Verifier, links: &[Option<Link>]) -> bool {
    let mut verifier = before.clone();
    links.iter().any(|link| link.is_none_or(|link| verifier.link(&link).is_err()))
}

#[test]
fn in_json_lines() {
    let lines = chain();
    // A line that is no event, or another agent's, is found as well.
    let own = |line: &[u8]| one(line).filter(|(agent, _)| &**agent == "agent-1").map(|(_, link)| link);
    let links: Vec<Option<Link>> = lines.iter().map(|line| own(line.as_bytes())).collect();
    let mut verifier = Verifier::default();
    let (mut tried, mut random) = (0u64, 0x9e37_79b9_7f4a_7c15_u64);
    for (i, line) in lines.iter().enumerate() {
        let (line, link, next) = (line.as_bytes(), links[i], links.get(i + 1).copied());
        let before = verifier.clone();
        let mut check = |what: &str, links: &[Option<Link>]| {
            tried += 1;
            assert!(found(&before, links), "{what} of receipt {}", i + 1);
        };
        let follows = |link: Option<Link>| [Some(link), next].into_iter().flatten().collect::<Vec<_>>();
        // Every byte of an ordinary line and of one with something in each field; one byte of all others.
        let all = i == 2_000 || i == 2_500;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (random >> 33) as usize % line.len();
        for at in if all { 0..line.len() } else { at..at + 1 } {
            for change in if i == 2_500 { &[1, 0x20, 0x80][..] } else { &[1][..] } {
                let mut changed = line.to_vec();
                changed[at] ^= change;
                check("a changed byte", &follows(own(&changed)));
            }
            if all {
                let (head, tail) = line.split_at(at);
                check("a byte taken out", &follows(own(&[head, &tail[1..]].concat())));
                check("a byte put in", &follows(own(&[head, b" ", tail].concat())));
            }
        }
        if let Some(next) = next {
            check("the removal", &[next]);
            check("the swap", &[next, link]);
            check("the repetition", &[link, link]);
        }
        verifier.link(&link.unwrap()).unwrap();
    }
    assert_eq!(verifier.count, RECEIPTS as u64);
    assert!(tried > 50_000, "{tried}");
    the_end(&links.into_iter().flatten().collect::<Vec<_>>());
}

/// Whatever is cut off is found, down to the newest receipt, for a checkpoint knows how far the chain went.
fn the_end(links: &[Link]) {
    let mark = |sequence: u64| agent_core::receipt::Mark {
        first: sequence - 999,
        sequence,
        hash: links[sequence as usize - 1].hash,
        key_id: agent_core::receipt::Hex([0; 16]),
    };
    let seals = Seals { from: 1, marks: (1..=10).map(|n| mark(n * 1_000)).collect(), ..Seals::default() };
    for left in (0..RECEIPTS).step_by(97).chain([RECEIPTS - 1]) {
        let mut auditor = Auditor::new(seals.clone());
        links[..left].iter().for_each(|link| auditor.link(link));
        auditor.finish();
        let cut = Fault::CutOff { from: left as u64 + 1, to: RECEIPTS as u64 };
        assert_eq!(auditor.first.map(|finding| finding.fault), Some(cut));
    }
}

/// A value of a column -> another one of its type.
fn other(column: &str, kind: &str) -> String {
    match kind {
        _ if column == "chain" => {
            // A byte of either hash, another one in each receipt.
            "toFixedString(concat(substring(chain, 1, sequence % 64), \
             char(bitXor(ascii(substring(chain, sequence % 64 + 1, 1)), 1)), substring(chain, sequence % 64 + 2)), 64)"
                .into()
        }
        _ if column == "identity_evidence" => {
            "'[{\"key\":\"x\",\"value\":\"\",\"source\":\"\",\"confidence\":1}]'".into()
        }
        _ if column == "time" => "addNanoseconds(time, 1)".into(),
        "Bool" => format!("NOT {column}"),
        kind if kind.starts_with("Nullable") => format!("if(isNull({column}), 0, NULL)"),
        kind if kind.starts_with("UInt") => format!("bitXor({column}, to{kind}(1))"),
        kind if kind.starts_with("Array(LowCardinality") => format!("arrayPushBack({column}, '')"),
        kind if kind.starts_with("Array(Enum") => format!("arrayPushBack({column}, 'drop')"),
        kind if kind.starts_with("Array(Tuple(name") => format!("arrayPushBack({column}, ('x', 'write'))"),
        kind if kind.starts_with("Array(Tuple") => format!("arrayPushBack({column}, ('x', 'y'))"),
        kind if kind.starts_with("Enum") => {
            format!("CAST(if(toInt8({column}) = 1, 2, 1), '{}')", kind.replace('\'', "\\'"))
        }
        kind if kind.ends_with("String") || kind.ends_with("String)") => {
            // A byte of the text, or one more where it has none.
            format!(
                "if(empty({column}), 'x', concat(substring({column}, 1, sequence % length({column})), \
                 char(bitXor(ascii(substring({column}, sequence % length({column}) + 1, 1)), 1)), \
                 substring({column}, sequence % length({column}) + 2)))"
            )
        }
        kind => panic!("{column} is {kind}: say how it is changed"),
    }
}

#[tokio::test]
async fn in_clickhouse() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let store = Store::open(config(&engine.url(), &directory.0)).await.unwrap();
    let mut samples = Samples::new();
    for _ in 0..10 {
        push(&store, &mut samples, RECEIPTS as u64 / 10 - 1);
        push_one(&store, full());
    }
    assert_eq!(store.close(Duration::from_mins(1)).await.stored, RECEIPTS as u64);
    let client = client(&engine.url());
    let execute = async |sql: &str| {
        client.query_raw(sql).execute().await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    };
    // Each receipt is changed in one column, and each column in a hundred receipts.
    let columns: Vec<(String, String)> = client
        .query(
            "SELECT toString(name), toString(type) FROM system.columns WHERE database = 'weir' AND table = 'events' \
             AND default_kind != 'ALIAS' AND name NOT IN ('stored_at', 'sequence', 'agent_id') ORDER BY position",
        )
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(
        columns.len(),
        FIELDS.len(),
        "all but the two by which receipts are found, and one more for the id"
    );
    let changed = columns.iter().enumerate().map(|(i, (column, kind))| {
        format!("if(sequence % {} = {i}, {}, {column}) AS {column}", columns.len(), other(column, kind))
    });
    let select = changed.collect::<Vec<_>>().join(", ");
    execute("CREATE DATABASE each").await;
    execute("CREATE TABLE each.events AS weir.events").await;
    execute(&format!("INSERT INTO each.events SELECT * REPLACE ({select}) FROM weir.events")).await;
    let each = client.clone().with_database("each");
    let links = window(&each, "agent-1", 1, RECEIPTS as u64).await.unwrap();
    let unnoticed: Vec<_> = links
        .iter()
        .filter(|link| link.fault.is_none())
        .map(|link| &columns[(link.sequence % columns.len() as u64) as usize].0)
        .collect();
    assert!(links.len() == RECEIPTS && unnoticed.is_empty(), "{} {unnoticed:?}", links.len());
    assert_eq!(clickhouse(&each, &Known::default()).await.unwrap().chains[0].broken.unwrap().sequence, 1);

    let small = Known { window: 700, ..Known::default() };
    // One at a time, as somebody with a client would do it.
    for (number, (change, sequence, words)) in [
        ("UPDATE db_user = 'nobody' WHERE sequence = 7000", 7_000, "changed"),
        ("UPDATE stored_at = now() WHERE sequence = 1", 0, ""),
        ("DELETE WHERE sequence = 7000", 7_001, "missing before it: receipt 7000"),
        ("DELETE WHERE sequence = 1", 2, "missing before it: receipt 1"),
        ("DELETE WHERE sequence BETWEEN 500 AND 9000", 9_001, "missing before it: receipts 500 to 9000"),
        ("DELETE WHERE sequence >= 9999", 9_999, "cut off: receipts 9999 to 10000"),
        ("DELETE WHERE 1", 1, "cut off: receipts 1 to 10000"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("one{number}");
        execute(&format!("CREATE DATABASE {name}")).await;
        for table in ["events", "signing_keys", "checkpoints", "stubs"] {
            execute(&format!("CREATE TABLE {name}.{table} AS weir.{table}")).await;
            execute(&format!("INSERT INTO {name}.{table} SELECT * FROM weir.{table}")).await;
        }
        execute(&format!("ALTER TABLE {name}.events {change} SETTINGS mutations_sync = 2")).await;
        let report = clickhouse(&client.clone().with_database(&name), &small).await.unwrap();
        let broken = report.chains.iter().find(|chain| &*chain.agent_id == "agent-1").unwrap().broken;
        let found = broken.map_or_else(Default::default, |b| (b.sequence, b.fault.to_string()));
        assert!(found.0 == sequence && found.1.starts_with(words), "{change}: {found:?}");
    }
    // What is found by the two columns by which receipts are found: swapped, moved to another agent, put in twice.
    for (name, replace, more, sequence) in [
        ("swapped", "transform(sequence, [100, 101], [101, 100], sequence) AS sequence", "1", 100),
        ("moved", "if(sequence = 100, 'agent-9', toString(agent_id)) AS agent_id", "1", 101),
        ("twice", "if(0, '', toString(agent_id)) AS agent_id", "sequence = 100", 100),
    ] {
        execute(&format!("CREATE DATABASE {name}")).await;
        execute(&format!("CREATE TABLE {name}.events AS weir.events")).await;
        execute(&format!("INSERT INTO {name}.events SELECT * REPLACE ({replace}) FROM weir.events")).await;
        if name == "twice" {
            execute(&format!("INSERT INTO {name}.events SELECT * FROM weir.events WHERE {more}")).await;
        }
        let report = clickhouse(&client.clone().with_database(name), &Known::default()).await.unwrap();
        let broken = report.chains.iter().find(|chain| &*chain.agent_id == "agent-1").unwrap().broken;
        assert_eq!(broken.map(|broken| broken.sequence), Some(sequence), "{name}");
        assert!(!report.is_whole());
    }
}
