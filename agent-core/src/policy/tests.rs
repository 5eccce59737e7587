//! Files with mistakes -> every mistake, in its place; and the shipped files, which have none.

use super::*;

fn problems(text: &str) -> Vec<String> {
    match Policies::load(&[Source { file: "p.yaml", text }]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn all_mistakes_at_once() {
    let text = r#"
kind: DatabasePolicy
metadata: {name: a}
spec:
  mode: enforced
  match:
    databse: {system: [postgresql]}
    statement: {effects: [delet, update], unbounded: 1}
    relations: [{name: "public.*", access: writes}]
    data: {clases: [card]}
  action: kil
---
kind: DatabasePolicies
metadata: {nam: b}
spec: {match: {}, onUnknow: alert}
"#;
    assert_eq!(
        problems(text),
        [
            "p.yaml:5:9: spec.mode cannot be 'enforced'; did you mean 'enforce'?",
            "p.yaml:7:5: spec.match has no field 'databse'; did you mean 'database'?",
            "p.yaml:8:27: spec.match.statement.effects cannot be 'delet'; did you mean 'delete'?",
            "p.yaml:8:54: spec.match.statement.unbounded must be true or false",
            "p.yaml:9:44: spec.match.relations.access cannot be 'writes'; did you mean 'write'?",
            "p.yaml:10:12: spec.match.data has no field 'clases'; did you mean 'classes'?",
            "p.yaml:11:11: spec.action cannot be 'kil'; did you mean 'kill'?",
            "p.yaml:13:7: kind cannot be 'DatabasePolicies'; did you mean 'DatabasePolicy'?",
            "p.yaml:14:11: metadata.name is missing: events name the rule by it",
            "p.yaml:14:12: metadata has no field 'nam'; did you mean 'name'?",
            "p.yaml:15:7: spec.action is missing: one of allow, alert, mask, block, kill, require_approval",
            "p.yaml:15:19: spec has no field 'onUnknow'; did you mean 'onUnknown'?",
        ]
    );
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let policy = |mode: &str, action: &str| {
        format!(
            "kind: DatabasePolicy\nmetadata: {{name: a}}\nspec: {{mode: {mode}, match: {{}}, action: {action}}}\n"
        )
    };
    for action in ["allow", "alert", "mask", "kill", "block", "require_approval"] {
        assert_eq!(problems(&policy("enforce", action)), [""; 0]);
    }
    for action in ["block", "require_approval", "mask"] {
        let text = policy("enforce", action).replace("match: {}", "match: {rate: {rows: 10, within: 1m}}");
        let told = problems(&text);
        assert!(told.len() == 1 && told[0].contains("what happened before"), "{told:?}");
    }
}

#[test]
fn the_documented_form_is_read_whole() {
    let text = r#"
kind: DatabasePolicy
metadata: {name: no-unbounded-writes}
spec:
  mode: monitor
  match:
    database: {system: [postgresql], namespace: [shop]}
    actor: {ai_agent: any, principal: ["*@example.com"]}
    statement: {effects: [delete, update], unbounded: true}
    relations: [{name: "public.*", access: write}]
  except: [{actor: {principal: ["dba@example.com"]}}]
  action: require_approval
  onUnknown: alert
  onTimeout: deny
  approval: {groups: [dba], ttl: 30m, singleUse: true}
  message: "Ask in #dba first."
"#;
    let policies = Policies::load(&[Source { file: "p.yaml", text }]).unwrap();
    let policy = policies.iter().next().unwrap();
    assert_eq!(&*policy.name, "no-unbounded-writes");
    assert_eq!(policy.matching.effects, [Effect::Delete, Effect::Update]);
    assert_eq!(policy.matching.unbounded, Some(true));
    assert_eq!(policy.except.len(), 1);
    assert_eq!(policy.action, Action::RequireApproval);
    let terms = policies.named("no-unbounded-writes").and_then(|policy| policy.approval.as_ref()).unwrap();
    assert_eq!(*terms, Approval { groups: ["dba".into()].into(), ..Approval::default() });
    assert_eq!((terms.ttl, policies.named("another").is_none()), (std::time::Duration::from_mins(30), true));
    assert_eq!(policy.version.len(), 12);
    // The version is the rule's, not the file's; and it follows the text.
    let other = format!(
        "kind: DatabasePolicy\nmetadata: {{name: z}}\nspec: {{match: {{}}, action: alert}}\n---{text}"
    );
    let moved = Policies::load(&[Source { file: "q.yaml", text: &other }]).unwrap();
    assert_eq!(moved.iter().nth(1).unwrap().version, policy.version);
    let changed = text.replace("30m", "31m");
    let changed = Policies::load(&[Source { file: "p.yaml", text: &changed }]).unwrap();
    assert_ne!(changed.iter().next().unwrap().version, policy.version);
}

#[test]
fn the_terms_of_an_approval() {
    let spec =
        |spec: &str| format!("kind: DatabasePolicy\nmetadata: {{name: a}}\nspec: {{match: {{}}, {spec}}}\n");
    let read = |text: &str| {
        let policies = Policies::load(&[Source { file: "p.yaml", text: &spec(text) }]).unwrap();
        policies.named("a").unwrap().approval.clone()
    };
    assert_eq!(read("action: block"), None);
    assert_eq!(read("action: require_approval"), Some(Approval::default()));
    assert_eq!(
        read(
            "action: block, onUnknown: require_approval, onTimeout: allow, \
             approval: {groups: [dba, \"on call\"], ttl: 90s, singleUse: false}"
        ),
        Some(Approval {
            groups: ["dba".into(), "on call".into()].into(),
            ttl: std::time::Duration::from_secs(90),
            single_use: false,
            on_timeout: OnTimeout::Allow,
        })
    );
    assert_eq!(
        problems(&spec(
            "action: require_approval, onTimeout: alow, approval: {group: dba, ttl: 0s, singleUse: 1}"
        )),
        [
            "p.yaml:3:56: spec.onTimeout cannot be 'alow'; did you mean 'allow'?",
            "p.yaml:3:73: spec.approval has no field 'group'; did you mean 'groups'?",
            "p.yaml:3:90: spec.approval.ttl must be longer than nothing",
            "p.yaml:3:105: spec.approval.singleUse must be true or false",
        ]
    );
    assert_eq!(
        problems(&spec("action: block, approval: {groups: [dba]}")),
        ["p.yaml:3:44: spec.approval belongs to a rule that does 'require_approval' only"]
    );
}

#[test]
fn names_must_differ_and_files_must_be_yaml() {
    let one = "kind: DatabasePolicy\nmetadata: {name: a}\nspec: {match: {}, action: alert}\n";
    let two = [Source { file: "a.yaml", text: one }, Source { file: "b.yaml", text: one }];
    let told = Policies::load(&two).unwrap_err();
    assert_eq!(
        told[0].to_string(),
        "b.yaml:1:1: a policy named 'a' is already in a.yaml:1: names must differ"
    );
    let told = problems("kind: [DatabasePolicy\nmetadata: {name: a}\n");
    assert!(told[0].starts_with("p.yaml:") && told[0].contains("not YAML"), "{told:?}");
    assert!(Policies::load(&[Source { file: "empty.yaml", text: "# nothing\n---\n" }]).unwrap().is_empty());
}

#[test]
fn mistakes_in_conditions() {
    let text = r#"
kind: DatabasePolicy
metadata: {name: a}
spec:
  match:
    rate: {row: 10, within: 5 minutes, per: princpal}
    unusual: {first: relations, learning: 3w, per: session}
  schedule: {days: [mon, tus, fri-now], hours: "8-18", timezone: Europe/Berln, holds: outsid}
  except:
    - {until: tomorrow}
    - {rate: {rows: 5, within: 1m}, actor: {user: [a]}}
  action: alert
---
kind: DatabasePolicy
metadata: {name: b}
spec: {match: {rate: {rows: 0, statements: 1}}, schedule: {timezone: UTC}, action: alert}
---
kind: DatabasePolicy
metadata: {name: c}
spec: {match: {rate: {rows: 0, within: 0s}, unusual: {per: user}}, action: alert}
"#;
    assert_eq!(
        problems(text),
        [
            "p.yaml:6:11: spec.match.rate counts either statements or rows: name one of them",
            "p.yaml:6:12: spec.match.rate has no field 'row'; did you mean 'rows'?",
            "p.yaml:6:29: spec.match.rate.within cannot be '5 minutes'; write 30s, 30m, 12h or 1d, a year at most",
            "p.yaml:6:45: spec.match.rate.per cannot be 'princpal'; did you mean 'principal'?",
            "p.yaml:7:22: spec.match.unusual.first cannot be 'relations'; did you mean 'relation'?",
            "p.yaml:7:43: spec.match.unusual.learning cannot be '3w'; write 30s, 30m, 12h or 1d, a year at most",
            "p.yaml:7:52: spec.match.unusual.per cannot be 'session'; known: principal, user",
            "p.yaml:8:26: spec.schedule.days cannot be 'tus'; did you mean 'tue'?",
            "p.yaml:8:31: spec.schedule.days cannot be 'fri-now'; write e.g. mon-fri",
            "p.yaml:8:48: spec.schedule.hours cannot be '8-18'; write e.g. 08:00-18:00",
            "p.yaml:8:66: spec.schedule.timezone cannot be 'Europe/Berln'; did you mean 'Europe/Berlin'?",
            "p.yaml:8:87: spec.schedule.holds cannot be 'outsid'; did you mean 'outside'?",
            "p.yaml:10:7: an empty exception excepts everything: remove the policy instead",
            "p.yaml:10:15: spec.except.until cannot be 'tomorrow'; write 2026-12-31 or 2026-12-31T18:00:00Z",
            "p.yaml:11:8: spec.except has no field 'rate'; known: database, workload, actor, statement, relations, data, schedule, until",
            "p.yaml:16:22: spec.match.rate counts either statements or rows: name one of them",
            "p.yaml:16:22: spec.match.rate.within is missing: write e.g. 'within: 10m'",
            "p.yaml:16:59: spec.schedule says neither days nor hours: it would always hold",
            "p.yaml:20:29: spec.match.rate.rows must be a whole number, at least 1",
            "p.yaml:20:40: spec.match.rate.within must be longer than nothing",
            "p.yaml:20:54: spec.match.unusual.first is missing: write 'first: relation'",
        ]
    );
}

#[test]
fn conditions_are_read() {
    let text = r#"
kind: DatabasePolicy
metadata: {name: a}
spec:
  match:
    rate: {rows: 10_000, within: 10m, per: session}
    unusual: {first: relation, per: user}
  schedule: {days: [mon-fri, sun], hours: ["08:00-12:00", "22:00-06:00"], timezone: America/New_York}
  except: [{actor: {user: [dba]}, until: 2026-12-31T18:00:00+01:00}]
  action: kill
"#;
    let policies = Policies::load(&[Source { file: "p.yaml", text }]).unwrap();
    let policy = policies.iter().next().unwrap();
    let rate = Rate { of: Amount::Rows, limit: 10_000, within: 600_000_000_000, per: Per::Session };
    assert_eq!(policy.rate, Some(rate));
    assert_eq!(policy.unusual, Some(Unusual { per: Per::User, learning: 604_800_000_000_000 }));
    assert!(policy.schedule.is_some());
    assert_eq!(policy.except[0].until, crate::event::parse_rfc3339("2026-12-31T17:00:00Z"));
    assert!(policies.needs_rows() && policies.needs_memory() && !policies.needs_data());
}
