//! Rules and statements -> who would have been stopped, by which rule.

use super::*;
use crate::policy::Source;
use crate::sql::{Dialect, analyze};

/// Judges a PostgreSQL statement of user `app` in database `shop`.
fn check(policies: &str, sql: &str, agent: &str) -> Verdict {
    let policies = Policies::load(&[Source { file: "test.yaml", text: policies }]).unwrap();
    let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
    judge(&policies, &subject(&analysis, agent))
}

fn subject<'a>(analysis: &'a Analysis, agent: &'a str) -> Subject<'a> {
    Subject {
        db_system_name: "postgresql",
        db_namespace: "shop",
        db_user: "app",
        ai_agent_name: agent,
        identity_principal: "joe@example.com",
        ..Subject::new(analysis)
    }
}

fn rule(name: &str, mode: &str, matching: &str, action: &str, more: &str) -> String {
    format!(
        "---\nkind: DatabasePolicy\nmetadata: {{name: {name}}}\nspec:\n  mode: {mode}\n  match: {matching}\n  action: {action}\n{more}"
    )
}

#[test]
fn strictest_wins_then_first_by_name() {
    let deletes = "{statement: {effects: [delete]}}";
    let files = [
        rule("z-alert", "enforce", deletes, "alert", ""),
        rule("c-kill", "enforce", deletes, "kill", ""),
        rule("b-kill", "enforce", deletes, "kill", ""),
        rule("a-allow", "enforce", "{}", "allow", ""),
        rule("a-watch", "monitor", deletes, "kill", ""),
    ]
    .concat();
    let verdict = check(&files, "DELETE FROM t WHERE id = 1", "");
    assert_eq!(&*verdict.policy_rule, "b-kill");
    assert!(verdict.kills());
    assert_eq!(verdict.disposition, Disposition::Killed);
    // What nothing else is about is allowed by name.
    let verdict = check(&files, "SELECT 1", "");
    assert_eq!((&*verdict.policy_rule, verdict.disposition), ("a-allow", Disposition::Allowed));
}

#[test]
fn what_acts_goes_before_what_watches() {
    let files = [
        rule("watch", "monitor", "{}", "kill", ""),
        rule("act", "enforce", "{statement: {effects: [drop]}}", "alert", ""),
    ]
    .concat();
    let verdict = check(&files, "DROP TABLE t", "");
    assert_eq!((&*verdict.policy_rule, verdict.mode_name()), ("act", "enforce"));
    // Monitor tells what enforce would have done, and does not do it.
    let verdict = check(&files, "SELECT 1", "");
    assert_eq!((&*verdict.policy_rule, verdict.mode_name()), ("watch", "monitor"));
    assert_eq!(verdict.disposition, Disposition::Killed);
    assert!(!verdict.kills());
}

#[test]
fn unbounded_deletes_and_nothing_else() {
    let files = rule(
        "u",
        "enforce",
        "{database: {system: [postgresql], namespace: [shop]}, statement: {effects: [delete, update], unbounded: true}}",
        "kill",
        "",
    );
    for sql in ["DELETE FROM t", "UPDATE t SET a = 1 WHERE 1=1", "WITH x AS (DELETE FROM t) SELECT 1"] {
        assert!(check(&files, sql, "").kills(), "{sql}");
    }
    for sql in ["DELETE FROM t WHERE id = 1", "SELECT * FROM t", "TRUNCATE t", "EXPLAIN DELETE FROM t"] {
        assert_eq!(check(&files, sql, ""), Verdict::default(), "{sql}");
    }
    let elsewhere = rule("u", "enforce", "{database: {namespace: [other]}}", "kill", "");
    assert_eq!(check(&elsewhere, "DELETE FROM t", ""), Verdict::default());
}

#[test]
fn relations_by_schema_and_access() {
    let files = rule("r", "enforce", "{relations: [{name: 'public.card*', access: write}]}", "kill", "");
    for sql in ["DELETE FROM public.cards", "INSERT INTO cards VALUES (1)", "DELETE FROM shop.public.cards"] {
        assert!(check(&files, sql, "").kills(), "{sql}");
    }
    for sql in ["SELECT * FROM public.cards", "DELETE FROM private.cards", "DELETE FROM orders"] {
        assert_eq!(check(&files, sql, ""), Verdict::default(), "{sql}");
    }
    let bare = rule("r", "enforce", "{relations: [cards]}", "kill", "");
    assert!(check(&bare, "SELECT * FROM any.cards", "").kills());
    // The catalog is the catalog, not everything without a schema.
    let catalog = rule("r", "enforce", "{relations: [{name: 'pg_catalog.*', access: write}]}", "kill", "");
    assert!(check(&catalog, "UPDATE pg_authid SET rolsuper = true WHERE oid = 1", "").kills());
    assert_eq!(check(&catalog, "DELETE FROM orders", ""), Verdict::default());
}

#[test]
fn a_name_is_looked_up_where_the_session_looks() {
    let text = rule("r", "enforce", "{relations: ['hr.*']}", "kill", "");
    let policies = Policies::load(&[Source { file: "t", text: &text }]).unwrap();
    let analysis = analyze(Dialect::Postgresql, b"SELECT * FROM salaries");
    let mut subject = subject(&analysis, "");
    assert!(!judge(&policies, &subject).kills());
    subject.search_path = "\"$user\", \"hr\", public";
    assert!(judge(&policies, &subject).kills());
    subject.search_path = "\"$user\"";
    subject.db_user = "hr";
    assert!(judge(&policies, &subject).kills());
}

#[test]
fn agents_by_name_or_any() {
    let any = rule("a", "enforce", "{actor: {ai_agent: any}}", "kill", "");
    assert!(check(&any, "SELECT 1", "claude-code").kills());
    assert!(!check(&any, "SELECT 1", "").kills());
    let named = rule("a", "enforce", "{actor: {ai_agent: [cursor*]}}", "kill", "");
    assert!(check(&named, "SELECT 1", "cursor-agent").kills());
    assert!(!check(&named, "SELECT 1", "claude-code").kills());
    assert!(!check(&named, "SELECT 1", "").kills());
    let people = rule("a", "enforce", "{actor: {ai_agent: none, principal: ['*@example.com']}}", "kill", "");
    assert!(check(&people, "SELECT 1", "").kills());
    assert!(!check(&people, "SELECT 1", "cursor").kills());
}

#[test]
fn exceptions_need_all_of_the_statement() {
    let files = rule(
        "d",
        "enforce",
        "{statement: {effects: [drop]}}",
        "kill",
        "  except: [{relations: ['tmp_*']}, {actor: {principal: ['dba@*']}}]\n",
    );
    assert!(!check(&files, "DROP TABLE tmp_1", "").kills());
    assert!(!check(&files, "DROP TABLE tmp_1, tmp_2", "").kills());
    assert!(check(&files, "DROP TABLE tmp_1, orders", "").kills());
    assert!(check(&files, "DROP SCHEMA public", "").kills());
    // Not understood in full: no exception that depends on what was understood.
    assert!(check(&files, "DO $$ BEGIN DROP TABLE tmp_1; END $$", "").kills());
}

#[test]
fn what_is_not_understood() {
    let matching = "{statement: {effects: [drop]}}";
    let text = rule("d", "enforce", matching, "kill", "  onUnknown: alert\n");
    let verdict = check(&text, "CALL cleanup()", "");
    assert_eq!((verdict.action, verdict.unknown), (Action::Alert, true));
    // What is certain is certain, however little else is understood.
    assert!(check(&text, "DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$", "").kills());
    let allow = rule("d", "enforce", matching, "kill", "  onUnknown: allow\n");
    assert_eq!(check(&allow, "CALL cleanup()", ""), Verdict::default());
    // Not said: alert.
    assert_eq!(
        check(&rule("d", "enforce", matching, "kill", ""), "CALL cleanup()", "").action,
        Action::Alert
    );
    // A rule that does not ask about the statement is never in doubt.
    let agents = rule("d", "enforce", "{actor: {ai_agent: any}}", "kill", "  onUnknown: kill\n");
    assert_eq!(check(&agents, "CALL cleanup()", ""), Verdict::default());
    // A stricter answer to doubt goes before a milder certain rule.
    let both = [
        rule("a", "enforce", "{}", "alert", ""),
        rule("b", "enforce", matching, "kill", "  onUnknown: kill\n"),
    ]
    .concat();
    assert!(check(&both, "CALL cleanup()", "").kills());
}

#[test]
fn urgent_only_where_a_rule_kills() {
    let load = |text: &str| Policies::load(&[Source { file: "t", text }]).unwrap();
    let shop =
        load(&rule("a", "enforce", "{database: {system: [postgresql], namespace: [shop]}}", "kill", ""));
    assert!(shop.may_stop("postgresql", "shop") && shop.may_stop("postgresql", ""));
    assert!(!shop.may_stop("postgresql", "cellar") && !shop.may_stop("mysql", "shop"));
    assert!(load(&rule("a", "enforce", "{}", "kill", "")).needs_kill());
    assert!(load(&rule("a", "enforce", "{}", "alert", "  onUnknown: kill\n")).needs_kill());
    assert!(!load(&rule("a", "monitor", "{}", "kill", "")).needs_kill());
    assert!(!load(&rule("a", "enforce", "{}", "alert", "")).needs_kill());
}

/// The index may leave out only what cannot match: judged with and without it, every pair agrees.
#[test]
fn the_index_agrees_with_asking_every_rule() {
    let matchings = [
        "{}",
        "{database: {namespace: [shop]}}",
        "{database: {namespace: ['sh*', other]}}",
        "{database: {system: [mysql]}}",
        "{actor: {user: [app]}}",
        "{actor: {principal: [joe@example.com]}}",
        "{actor: {ai_agent: any}}",
        "{actor: {ai_agent: none}}",
        "{statement: {effects: [delete, drop]}}",
        "{statement: {effects: [read], unbounded: false}}",
        "{statement: {unbounded: true}}",
        "{relations: [public.orders]}",
        "{relations: [orders, {name: 'hr.*', access: read}]}",
        "{relations: ['*']}",
    ];
    let statements =
        ["SELECT 1", "SELECT * FROM hr.pay", "DELETE FROM orders", "DROP TABLE public.orders", "CALL f()"];
    for sql in statements {
        let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
        for agent in ["", "cursor"] {
            let subject = subject(&analysis, agent);
            // Many rules, so that the one asked about is not in the first word of the index.
            for wanted in matchings {
                let text: String = (0..70)
                    .map(|n| {
                        rule(&format!("x{n}"), "enforce", "{database: {namespace: [elsewhere]}}", "kill", "")
                    })
                    .chain([rule("wanted", "enforce", wanted, "alert", "  onUnknown: allow\n")])
                    .collect();
                let policies = Policies::load(&[Source { file: "t", text: &text }]).unwrap();
                let policy = policies.iter().last().unwrap();
                let expected = matches(&policy.matching, &subject, Quantifier::Any, About::All);
                let verdict = judge(&policies, &subject);
                assert_eq!(&*verdict.policy_rule == "wanted", expected, "{sql} {agent} {wanted}");
            }
        }
    }
}

#[test]
fn a_rule_about_data_is_about_its_classes() {
    use crate::event::DataClass;
    let text = rule("cards", "enforce", "{data: {classes: [card, 'bank*']}}", "kill", "");
    let policies = Policies::load(&[Source { file: "p", text: &text }]).unwrap();
    assert!(policies.needs_data());
    let analysis = analyze(Dialect::Postgresql, b"SELECT pan FROM pay");
    let told = |class: &str| [DataClass { class: class.into(), column: "pay.pan".into() }];
    let kills = |data: &[DataClass]| {
        judge(&policies, &Subject { data_classes: data, ..subject(&analysis, "") }).kills()
    };
    assert!(kills(&told("card")) && kills(&told("bank_account")));
    assert!(!kills(&told("email")) && !kills(&[]));
}

#[test]
fn all_rules_that_mask_hold_together_whatever_the_text_tells_of_the_data() {
    let files = [
        rule("block", "enforce", "{statement: {effects: [delete]}}", "block", ""),
        rule("cards", "enforce", "{data: {classes: [card]}}", "mask", ""),
        rule("only-agents", "enforce", "{actor: {ai_agent: any}}", "mask", ""),
        rule(
            "orders",
            "enforce",
            "{relations: [{name: orders}]}",
            "mask",
            "  except: [{data: {classes: [email]}}]\n",
        ),
        rule("watch", "monitor", "{}", "mask", ""),
        rule("not-joe", "enforce", "{}", "mask", "  except: [{actor: {principal: [joe@example.com]}}]\n"),
    ]
    .concat();
    let policies = Policies::load(&[Source { file: "test.yaml", text: &files }]).unwrap();
    assert!(policies.may_mask("postgresql") && policies.needs_gate());
    let named = |sql: &str, agent: &str, complete: bool| {
        let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
        let subject = Subject { statement_complete: complete, ..subject(&analysis, agent) };
        masks(&policies, &subject).into_iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>()
    };
    // The names of columns may be anybody's: what the answer has is not known yet.
    assert_eq!(named("select * from users", "", true), ["cards"]);
    assert_eq!(named("select * from orders", "claude-code", true), ["cards", "only-agents", "orders"]);
    assert_eq!(named("delete from orders returning *", "", true), ["cards", "orders"]);
    // What it does is not known: whatever may be about it is.
    assert_eq!(named("select 1", "", false), ["cards", "orders"]);
    let plan = |name: &str| {
        let rules = policies.iter().filter(|policy| name.split(' ').any(|one| *policy.name == *one));
        crate::mask::Plan::of(rules, &std::sync::Arc::default())
    };
    assert!(plan("none").is_none());
    let cards = plan("cards").unwrap();
    assert!(cards.takes("card") && !cards.takes("email"));
    assert!(plan("cards orders").unwrap().takes("email"), "a rule that names no class takes every class");
}

#[test]
fn a_canary_is_hidden_by_no_rule_that_acts() {
    let drops = "{statement: {effects: [drop]}}";
    let files = [
        rule("acts", "enforce", "{}", "alert", ""),
        rule("watches", "monitor", drops, "block", "  onUnknown: require_approval\n"),
        rule("alerts", "monitor", "{}", "alert", ""),
        rule("often", "monitor", "{rate: {statements: 1, within: 1m, per: user}}", "block", ""),
    ]
    .concat();
    let policies = Policies::load(&[Source { file: "test.yaml", text: &files }]).unwrap();
    let of = |policies: &Policies, sql: &str| {
        let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
        let verdict = would(policies, &subject(&analysis, ""));
        (verdict.policy_rule.to_string(), verdict.action)
    };
    let nothing = (String::new(), Action::Allow);
    assert!(!policies.needs_gate() && of(&policies, "drop table t") == nothing);
    let canary = policies.with_canary(true);
    assert!(canary.needs_gate() && canary.may_hold("postgresql") && canary.is_canary());
    // It refuses nobody, and takes nothing out of an answer.
    assert!(!canary.may_refuse() && !canary.may_mask("postgresql"));
    assert_eq!(of(&canary, "drop table t"), ("watches".into(), Action::Block));
    assert_eq!(of(&canary, "frobnicate t"), ("watches".into(), Action::RequireApproval));
    assert_eq!(of(&canary, "select 1"), nothing);
    assert_eq!(canary.sources().len(), 1);
}
