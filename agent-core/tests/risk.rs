//! The risk table -> what each of its rows does, in every dialect that it fits: the plain form, the form that slips past
//! lesser tools, and what must not fire.

use agent_core::sql::{Access, Dialect, Texts};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Row of the table; `bounded` and `harmless` must not fire.
    class: String,
    text: String,
    effects: Vec<String>,
    /// `name access`, sorted.
    relations: Vec<String>,
    #[serde(default)]
    unbounded: bool,
    #[serde(default = "yes")]
    complete: bool,
}

fn yes() -> bool {
    true
}

#[test]
fn every_row_in_every_dialect() {
    let mut wrong = Vec::new();
    for (dialect, name) in [
        (Dialect::Postgresql, "postgresql"),
        (Dialect::Mysql, "mysql"),
        (Dialect::Tsql, "tsql"),
        (Dialect::Clickhouse, "clickhouse"),
        (Dialect::Redis, "redis"),
        (Dialect::Mongodb, "mongodb"),
    ] {
        let path = format!("{}/testdata/risk/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
        let mut texts = Texts::default();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let case: Case = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let text = texts.intern(dialect, case.text.as_bytes());
            let found = text.analysis();
            let mut effects: Vec<&str> = found.statement_effects.iter().map(|e| e.name()).collect();
            effects.sort_unstable();
            let access = |a| if a == Access::Read { "read" } else { "write" };
            let mut relations: Vec<String> = found
                .statement_relations
                .iter()
                .map(|r| format!("{} {}", r.name, access(r.access)))
                .collect();
            relations.sort();
            let same = effects == case.effects
                && relations == case.relations
                && found.statement_unbounded == case.unbounded
                && found.statement_complete == case.complete;
            if !same {
                wrong.push(format!(
                    "{name} {}: {}\n    is  {effects:?} {relations:?} unbounded={} complete={}\n    not {:?} {:?} unbounded={} complete={}",
                    case.class,
                    case.text,
                    found.statement_unbounded,
                    found.statement_complete,
                    case.effects,
                    case.relations,
                    case.unbounded,
                    case.complete
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
