//! Every panel of every dashboard, its macros expanded as Grafana's ClickHouse data source does, on the real engine
//! over the real schema: it answers, with rows, and with a time where it draws one.

use std::path::Path;
use std::time::Duration;

use agent::store::Store;
use agent::store::bench::Samples;
use agent_core::event::{Disposition, Event, EventKind};
use agent_core::sql::Effect;
use clickhouse::Client;
use serde_json::Value;

use crate::support::{Directory, client, config, push, push_one, start};

/// From and to, seconds; the interval that Grafana works out from them and the panel's width.
const FROM: u64 = 1_795_262_000;
const TO: u64 = 1_795_265_600;
const INTERVAL: u64 = 60;

/// Replaces `$__name(arguments)`, the arguments parted at the outermost commas.
fn replace_macro(sql: &str, name: &str, with: impl Fn(&[&str]) -> String) -> String {
    let (mut out, mut rest) = (String::new(), sql);
    let opening = format!("$__{name}(");
    while let Some(at) = rest.find(&opening) {
        out.push_str(&rest[..at]);
        let inner = &rest[at + opening.len()..];
        let (mut depth, mut cuts, mut end) = (1, vec![0], inner.len());
        for (i, c) in inner.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                ',' if depth == 1 => cuts.push(i + 1),
                _ => {}
            }
            if depth == 0 {
                end = i;
                break;
            }
        }
        let ends = cuts[1..].iter().map(|cut| cut - 1).chain([end]);
        let arguments: Vec<_> = cuts.iter().zip(ends).map(|(&a, b)| inner[a..b].trim()).collect();
        out.push_str(&with(&arguments));
        rest = &inner[end + 1..];
    }
    out + rest
}

/// `chosen`: value of every variable; none: "All".
fn expand(sql: &str, variables: &[&str], chosen: Option<&str>) -> String {
    let mut sql = replace_macro(sql, "timeFilter", |a| {
        format!("{0} >= toDateTime({FROM}) AND {0} <= toDateTime({TO})", a[0])
    });
    sql = replace_macro(&sql, "timeInterval", |a| {
        format!("toStartOfInterval(toDateTime({}), INTERVAL {INTERVAL} second)", a[0])
    });
    sql = replace_macro(&sql, "conditionalAll", |a| {
        assert!(variables.iter().any(|v| a[1] == format!("${v}")), "{} is no variable", a[1]);
        if chosen.is_some() { a[0].to_owned() } else { "1=1".to_owned() }
    });
    sql = sql.replace("$__interval_s", &INTERVAL.to_string());
    sql = sql
        .replace("$__fromTime", &format!("toDateTime({FROM})"))
        .replace("$__toTime", &format!("toDateTime({TO})"));
    for variable in variables {
        sql = sql
            .replace(&format!("${{{variable}:singlequote}}"), &format!("'{}'", chosen.unwrap_or_default()));
    }
    assert!(!sql.contains('$'), "not expanded: {sql}");
    sql
}

async fn run(client: &Client, sql: &str) -> Value {
    let mut cursor = client.query_raw(sql).fetch_bytes("JSONCompact").unwrap();
    let bytes = cursor.collect().await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    serde_json::from_slice(&bytes).unwrap()
}

/// A workload with something for every panel to show.
fn fill(store: &Store) {
    let mut samples = Samples::new();
    push(store, &mut samples, 20_000);
    for event in [
        Event { db_response_status_code: "42P01".into(), error_type: "42P01".into(), ..samples.next_event() },
        Event {
            statement_unbounded: true,
            statement_effects: [Effect::Delete].into(),
            disposition: Disposition::Killed,
            policy_rule: "no-unbounded".into(),
            ..samples.next_event()
        },
        Event {
            event_kind: EventKind::Loss,
            error_type: "gap".into(),
            capture_lost_before: 1448,
            ..samples.next_event()
        },
        Event { event_kind: EventKind::Blind, error_type: "tls".into(), ..samples.next_event() },
    ] {
        push_one(store, event);
    }
}

#[tokio::test]
async fn every_panel_shows_something() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let store = Store::open(config(&engine.url(), &directory.0)).await.unwrap();
    fill(&store);
    store.close(Duration::from_mins(1)).await;
    let client = client(&engine.url());

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards");
    let mut panels_seen = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let list = dashboard["templating"]["list"].as_array().unwrap();
        let variables: Vec<_> = list.iter().map(|v| v["name"].as_str().unwrap()).collect();
        for variable in list {
            let answer = run(&client, &expand(variable["query"].as_str().unwrap(), &variables, None)).await;
            assert!(answer["rows"].as_u64().unwrap() > 0, "variable {}", variable["name"]);
        }
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says what it shows");
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "weir", "{title}: the provisioned data source");
                let sql = target["rawSql"].as_str().unwrap();
                let answer = run(&client, &expand(sql, &variables, None)).await;
                let (columns, rows) =
                    (answer["meta"].as_array().unwrap(), answer["data"].as_array().unwrap());
                assert!(!rows.is_empty(), "{title} is empty");
                let sums = rows
                    .iter()
                    .flat_map(|r| r.as_array().unwrap())
                    .any(|v| !v.is_null() && v != 0 && v != "0");
                assert!(sums, "{title} shows nothing but zeros");
                if panel["type"] == "timeseries" {
                    let time = columns[0]["type"].as_str().unwrap();
                    assert!(time.starts_with("DateTime"), "{title}: the time comes first, not {time}");
                    let numbers = columns.iter().filter(|c| {
                        c["type"].as_str().unwrap().contains("Int")
                            || c["type"].as_str().unwrap().contains("Float")
                    });
                    assert!(numbers.count() > 0, "{title} has nothing to draw");
                }
                // A choice that fits nothing: the variables are in force everywhere.
                let none = run(&client, &expand(sql, &variables, Some("nothing of that name"))).await;
                let shown = none["data"].as_array().unwrap().iter().flat_map(|r| r.as_array().unwrap());
                assert!(
                    shown.clone().all(|v| v.is_null() || v == 0 || v == "0"),
                    "{title} ignores a variable"
                );
            }
            panels_seen += 1;
        }
    }
    assert!(panels_seen >= 15, "{panels_seen} panels");
}
