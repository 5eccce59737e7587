//! Statements -> what weir says against what PostgreSQL's own parser says (recorded by `testdata/oracle/record.py`).
//!
//! Weir names every effect and every relation that the oracle names, or says that it did not understand all. A dangerous
//! effect is never missed, and none is made up. What differs stands in `differences.jsonl`, each with its reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use agent_core::sql::{Access, Dialect, Effect, Texts};

/// `[text, effects, ["name r|w"]]`
type Truth = (String, Vec<String>, Vec<String>);

/// `[text, reason]`
type Difference = (String, String);

fn lines<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/testdata/oracle/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// Effects that a policy would stop: missing one is unforgivable even where weir says that it did not understand all.
const DANGEROUS: [Effect; 12] = [
    Effect::Update,
    Effect::Delete,
    Effect::Truncate,
    Effect::Alter,
    Effect::Drop,
    Effect::Grant,
    Effect::Revoke,
    Effect::CopyIn,
    Effect::CopyOut,
    Effect::Admin,
    Effect::File,
    Effect::Program,
];

/// Dangerous effects that the oracle tells by the kind of a statement, so that one it lacks is a false alarm.
const TOLD: [Effect; 8] = [
    Effect::Delete,
    Effect::Truncate,
    Effect::Drop,
    Effect::Grant,
    Effect::Revoke,
    Effect::CopyIn,
    Effect::CopyOut,
    Effect::Program,
];

#[test]
fn as_postgresql_s_parser() {
    let truths = lines::<Truth>("postgresql");
    let known: BTreeMap<String, String> = lines::<Difference>("differences").into_iter().collect();
    let mut met = Vec::new();
    let mut texts = Texts::default();
    let (mut wrong, mut whole) = (String::new(), 0);
    let mut count = 0;
    for (text, effects, relations) in &truths {
        let interned = texts.intern(Dialect::Postgresql, text.as_bytes());
        let analysis = interned.analysis();
        whole += usize::from(analysis.statement_complete);
        let has = |effect: &str| analysis.statement_effects.iter().any(|e| e.name() == effect);
        let names = |relation: &str| {
            let (name, access) = relation.rsplit_once(' ').unwrap();
            analysis
                .statement_relations
                .iter()
                .any(|r| &*r.name == name && (access == "r" || r.access == Access::Write))
        };
        let mut said = Vec::new();
        if interned.parts().len() != 1 {
            said.push(format!("{} parts", interned.parts().len()));
        }
        for effect in effects.iter().filter(|effect| !has(effect)) {
            let dangerous = DANGEROUS.iter().any(|d| d.name() == effect);
            if dangerous || analysis.statement_complete {
                said.push(format!("misses {effect}"));
            }
        }
        if analysis.statement_complete {
            said.extend(relations.iter().filter(|r| !names(r)).map(|r| format!("misses {r}")));
            let opaque = has("execute") || has("call");
            let more =
                TOLD.iter().filter(|e| !opaque && has(e.name()) && !effects.iter().any(|t| t == e.name()));
            said.extend(more.map(|e| format!("makes up {}", e.name())));
        }
        if said.is_empty() {
            continue;
        }
        if known.contains_key(text) {
            met.push(text);
        } else {
            count += 1;
            if count <= 400 {
                let _ = writeln!(wrong, "{}: {text}", said.join(", "));
            }
        }
    }
    assert!(truths.len() >= 5_000);
    assert!(count == 0, "{count} differ:\n{wrong}");
    assert!(known.values().all(|reason| reason.len() > 10), "each difference has its reason");
    let stale: Vec<_> = known.keys().filter(|text| !met.contains(text)).collect();
    assert!(stale.is_empty(), "they differ no more: {stale:#?}");
    // The parser does not know all of PostgreSQL; what it does not know is scanned, and says so.
    assert!(whole * 100 >= truths.len() * 90, "{whole} of {} read whole", truths.len());
}
