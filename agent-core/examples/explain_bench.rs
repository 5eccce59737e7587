//! Measures statement analysis and judgement; prints one JSON line. `cargo run --release --example explain_bench`.

use std::time::Instant;

use agent_core::judge::{Subject, judge};
use agent_core::policy::{Policies, Source};
use agent_core::sql::{Dialect, Texts};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// Runs `work` until half a second is over: how often it ran in a second.
fn rate(mut work: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed().as_millis() < 500 {
        for _ in 0..100 {
            work(n);
            n += 1;
        }
    }
    n as f64 / start.elapsed().as_secs_f64()
}

/// Rules none of which can match the statement that is judged.
fn rules(count: u32) -> String {
    (0..count)
        .map(|n| {
            let matching = match n % 4 {
                0 => format!("{{database: {{namespace: [db{n}]}}, statement: {{effects: [read]}}}}"),
                1 => "{statement: {effects: [delete, update], unbounded: true}}".to_owned(),
                2 => format!("{{relations: [{{name: public.table{n}, access: write}}]}}"),
                _ => "{actor: {ai_agent: any}, statement: {effects: [read]}}".to_owned(),
            };
            format!("---\nkind: DatabasePolicy\nmetadata: {{name: r{n}}}\nspec: {{match: {matching}, action: kill, mode: enforce}}\n")
        })
        .collect()
}

fn main() {
    let mut texts = Texts::default();
    let cold = rate(|n| {
        let text = format!("SELECT a, b FROM t{n} WHERE id = {n} AND c = 'x' ORDER BY a LIMIT 10");
        assert!(texts.intern(Dialect::Postgresql, text.as_bytes()).analysis().statement_complete);
    });
    let mut texts = Texts::default();
    let shape = rate(|n| {
        let text = format!("UPDATE pgbench_accounts SET abalance = abalance + {n} WHERE aid = {n};");
        assert!(texts.intern(Dialect::Postgresql, text.as_bytes()).analysis().statement_complete);
    });
    let known: Vec<String> =
        (0..1000).map(|n| format!("SELECT a, b FROM t WHERE id = {n} AND c = 'x'")).collect();
    let mut texts = Texts::default();
    let cached = rate(|n| {
        let text = &known[n as usize % known.len()];
        assert!(texts.intern(Dialect::Postgresql, text.as_bytes()).analysis().statement_complete);
    });
    let text =
        texts.intern(Dialect::Postgresql, b"SELECT a, b FROM orders JOIN items USING (id) WHERE id = 1");
    let judged = [10, 100, 1000].map(|count| {
        let rules = rules(count);
        let policies =
            Policies::load(&[Source { file: "bench", text: &rules }]).expect("the rules are sound");
        let judged = rate(|_| {
            let verdict = judge(
                &policies,
                &Subject {
                    db_system_name: "postgresql",
                    db_namespace: "shop",
                    db_user: "app",
                    identity_principal: "app",
                    ..Subject::new(text.analysis())
                },
            );
            assert!(verdict.policy_rule.is_empty());
        });
        (1e9 / judged).round()
    });
    // The peer: the parser that the analysis stands on, alone.
    let parser = rate(|n| {
        let text = format!("SELECT a, b FROM t{n} WHERE id = {n} AND c = 'x' ORDER BY a LIMIT 10");
        assert!(Parser::parse_sql(&PostgreSqlDialect {}, &text).is_ok());
    });
    let long = format!("INSERT INTO t VALUES {}", vec!["(1, 'abcdefgh', 2.5)"; 500_000].join(", "));
    let start = Instant::now();
    assert!(Texts::default().intern(Dialect::Postgresql, long.as_bytes()).analysis().statement_complete);
    let megabytes = long.len() as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({
            "bench": "explain",
            "cold_statements_per_second": cold.round(),
            "new_literals_per_second": shape.round(),
            "cached_per_second": cached.round(),
            "long_insert_megabytes_per_second": megabytes.round(),
            "parser_alone_per_second": parser.round(),
            "judge_10_policies_ns": judged[0],
            "judge_100_policies_ns": judged[1],
            "judge_1000_policies_ns": judged[2],
        })
    );
}
