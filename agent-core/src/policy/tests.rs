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
    for action in ["mask", "block", "require_approval"] {
        let told = problems(&policy("enforce", action));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("cannot be enforced by this build"), "{told:?}");
        assert_eq!(problems(&policy("monitor", action)), [""; 0]);
    }
    for action in ["allow", "alert", "kill"] {
        assert_eq!(problems(&policy("enforce", action)), [""; 0]);
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
