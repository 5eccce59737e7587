//! Statements -> what they do, against expectations that were reasoned by hand from the databases' manuals, and
//! against what PostgreSQL's own parser says.

use std::fmt::Write as _;

use super::*;

/// One line of `testdata/sql/<dialect>.jsonl`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    text: String,
    effects: Vec<String>,
    /// `name access`.
    relations: Vec<String>,
    #[serde(default)]
    unbounded: bool,
    #[serde(default = "yes")]
    complete: bool,
    summary: Option<String>,
}

fn yes() -> bool {
    true
}

fn cases<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/testdata/sql/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn relations(analysis: &Analysis) -> Vec<String> {
    let mut names: Vec<String> = analysis
        .statement_relations
        .iter()
        .map(|r| format!("{} {}", r.name, if r.access == Access::Read { "read" } else { "write" }))
        .collect();
    names.sort();
    names
}

fn check(dialect: Dialect, name: &str) {
    let mut wrong = Vec::new();
    let mut texts = Texts::default();
    for mut case in cases::<Case>(name) {
        let text = texts.intern(dialect, case.text.as_bytes());
        let analysis = text.analysis();
        let mut effects: Vec<&str> = analysis.statement_effects.iter().map(|e| e.name()).collect();
        effects.sort_unstable();
        case.relations.sort();
        let summary = case.summary.as_deref().unwrap_or(&analysis.db_query_summary);
        let same = effects == case.effects
            && relations(analysis) == case.relations
            && analysis.statement_unbounded == case.unbounded
            && analysis.statement_complete == case.complete
            && *analysis.db_query_summary == *summary;
        if !same {
            wrong.push(format!(
                "{}\n    {effects:?} {:?} unbounded={} complete={} {:?}",
                case.text,
                relations(analysis),
                analysis.statement_unbounded,
                analysis.statement_complete,
                analysis.db_query_summary
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn postgresql() {
    check(Dialect::Postgresql, "postgresql");
}

#[test]
fn mysql() {
    check(Dialect::Mysql, "mysql");
}

fn parts(dialect: Dialect, text: &str) -> Vec<String> {
    let text = Texts::default().intern(dialect, text.as_bytes());
    text.parts().iter().map(|part| String::from_utf8_lossy(part.bytes()).into_owned()).collect()
}

#[test]
fn one_statement_is_its_own_part() {
    let mut texts = Texts::default();
    for one in ["SELECT 1", " SELECT 1 ; ", "/* a */ SELECT 1;;", "SELECT ';'"] {
        let text = texts.intern(Dialect::Postgresql, one.as_bytes());
        assert!(Arc::ptr_eq(&text, &text.parts()[0]) && text.parts().len() == 1, "{one}");
    }
    for none in ["", " \n", ";", "-- nothing", "/* ; */ ; -- x"] {
        assert!(texts.intern(Dialect::Postgresql, none.as_bytes()).parts().is_empty(), "{none}");
    }
    assert_eq!(
        parts(Dialect::Postgresql, "/* a */ SELECT 1; SELECT 2 /* b; */ ;; "),
        ["/* a */ SELECT 1", "SELECT 2 /* b; */"]
    );
}

#[test]
fn several_statements_do_what_each_does() {
    let text = Texts::default()
        .intern(Dialect::Postgresql, b"BEGIN; DELETE FROM a WHERE id = 1; DROP TABLE b; COMMIT");
    let analysis = text.analysis();
    assert_eq!(*analysis.statement_effects, [Effect::Delete, Effect::Drop]);
    assert_eq!(relations(analysis), ["a write", "b write"]);
    assert_eq!(&*analysis.db_query_summary, "BEGIN; DELETE a; DROP TABLE b; COMMIT");
    assert_eq!(&*analysis.redacted, "BEGIN; DELETE FROM a WHERE id = ?; DROP TABLE b; COMMIT");
    assert_eq!(text.parts().len(), 4);
}

#[test]
fn mysql_splits_routines_whole() {
    assert_eq!(
        parts(
            Dialect::Mysql,
            "CREATE PROCEDURE p() BEGIN IF a THEN DELETE FROM t; END IF; CASE b WHEN 1 THEN SELECT 1; END CASE; END; SELECT ';'"
        )
        .len(),
        2
    );
}

fn fingerprint(text: &str) -> Arc<str> {
    analyze(Dialect::Postgresql, text.as_bytes()).db_query_fingerprint
}

#[test]
fn fingerprints_ignore_literals_spacing_comments_case_and_list_lengths() {
    for same in [
        &[
            "SELECT a FROM t WHERE b = 5",
            "select a from t where b='x' -- c",
            "SELECT a /* c */\n FROM T WHERE b = -1.5e3",
            "SELECT a FROM t WHERE b = $1",
        ][..],
        &[
            "SELECT 1 FROM t WHERE a IN (1)",
            "SELECT 2 FROM t WHERE a IN (1, 2, 3)",
            "SELECT 2 FROM t WHERE a IN ($1, $2)",
        ],
        &["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1, 'a'), (2, NULL), (-3, DEFAULT)"],
        &["SELECT ARRAY[1]", "SELECT ARRAY[1, 2, 3]"],
        &["SELECT $$a$$", "SELECT E'\\'a'", "SELECT U&'a'", "SELECT 'a'\n'b'"],
        &["SELECT 1", "SELECT 1;"],
    ] {
        for other in same {
            assert_eq!(fingerprint(same[0]), fingerprint(other), "{} | {other}", same[0]);
        }
    }
    for (a, b) in [
        ("SELECT a FROM t", "SELECT b FROM t"),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b > 1"),
        ("SELECT a FROM t WHERE b IS NULL", "SELECT a FROM t WHERE b IS TRUE"),
        ("SELECT a - 1", "SELECT a + 1"),
        ("SELECT \"select\"", "SELECT select"),
        ("SELECT f(1)", "SELECT f(1, 2)"),
        ("SELECT ab", "SELECT a b"),
    ] {
        assert_ne!(fingerprint(a), fingerprint(b), "{a} | {b}");
    }
    // Stored for years: it must not change.
    assert_eq!(&*fingerprint("SELECT 1"), "af2f2aa867dbb586");
}

#[test]
fn redaction_leaves_no_literal() {
    for (text, shown) in [
        ("SELECT * FROM t WHERE a = 'secret' AND b = 42", "SELECT * FROM t WHERE a = ? AND b = ?"),
        ("SELECT E'a\\'secret', $$secret$$, U&'secret', x'5ec2e7', 1.5e-3", "SELECT ?, ?, ?, ?, ?"),
        ("SELECT * FROM t WHERE a IN ('secret', 'b')", "SELECT * FROM t WHERE a IN (?, ...)"),
        ("INSERT INTO t VALUES (1, 'secret'), (2, 'b')", "INSERT INTO t VALUES (?, ?), ..."),
        ("SELECT 1 -- secret", "SELECT ?"),
        ("SELECT /* secret */ a  ,\n b FROM t", "SELECT a , b FROM t"),
        ("UPDATE t SET ill = true WHERE a IS NULL", "UPDATE t SET ill = ? WHERE a IS NULL"),
        ("ALTER ROLE joe PASSWORD 'secret'", "ALTER ROLE joe PASSWORD ?"),
        ("SELECT 'secret", "SELECT ?"),
    ] {
        let text = Texts::default().intern(Dialect::Postgresql, text.as_bytes());
        assert_eq!(&*text.shown(Redaction::Literals), shown);
    }
}

#[test]
fn passwords_are_gone_whatever_the_setting() {
    for (dialect, text) in [
        (Dialect::Postgresql, "CREATE ROLE joe LOGIN PASSWORD 'hunter2'"),
        (Dialect::Postgresql, "alter user joe with encrypted password 'hunter2'"),
        (Dialect::Postgresql, "SELECT 1; ALTER ROLE joe PASSWORD $$hunter2$$"),
        (Dialect::Postgresql, "CREATE USER MAPPING FOR joe SERVER s OPTIONS (password 'hunter2')"),
        (Dialect::Postgresql, "CREATE SUBSCRIPTION s CONNECTION 'password=hunter2' PUBLICATION p"),
        (Dialect::Postgresql, "SELECT dblink_connect('password=hunter2')"),
        (Dialect::Mysql, "CREATE USER 'joe'@'%' IDENTIFIED BY 'hunter2'"),
        (Dialect::Mysql, "SET PASSWORD FOR joe = 'hunter2'"),
        (Dialect::Mysql, "GRANT ALL ON *.* TO joe IDENTIFIED BY \"hunter2\""),
    ] {
        let text = Texts::default().intern(dialect, text.as_bytes());
        for redaction in [Redaction::None, Redaction::Sensitive, Redaction::Literals] {
            let shown = text.shown(redaction);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(!format!("{text:?}").contains("hunter2"));
    }
    let plain = Texts::default().intern(Dialect::Postgresql, b"SELECT 'x' /* y */");
    assert_eq!(&*plain.shown(Redaction::None), "SELECT 'x' /* y */");
}

/// Texts that share a shape share an analysis; those whose literals matter do not.
#[test]
fn literals_that_matter_are_not_shared() {
    let mut texts = Texts::default();
    let mut is =
        |text: &str| texts.intern(Dialect::Postgresql, text.as_bytes()).analysis().statement_unbounded;
    assert!(!is("DELETE FROM t WHERE 1 = 2"));
    assert!(is("DELETE FROM t WHERE 1 = 1"));
    assert!(!is("DELETE FROM t WHERE 1 = 3"));
    assert!(!is("DELETE FROM t WHERE a LIKE 'x'"));
    assert!(is("DELETE FROM t WHERE a LIKE '%'"));
    let mut admin = |text: &str| {
        let text = texts.intern(Dialect::Postgresql, text.as_bytes());
        text.analysis().statement_effects.contains(&Effect::Admin)
    };
    assert!(!admin("SELECT set_config('search_path', 'a', true)"));
    assert!(admin("SELECT set_config('pgaudit.log', 'a', true)"));
    let a = texts.intern(Dialect::Postgresql, b"SELECT a FROM t WHERE id = 1");
    let b = texts.intern(Dialect::Postgresql, b"SELECT a FROM t WHERE id = 234");
    assert!(std::ptr::eq(a.analysis(), b.analysis()));
}

#[test]
fn the_cache_is_bounded_and_exact() {
    let mut texts = Texts::with_limits(100, 64 * 1024);
    let first = texts.intern(Dialect::Postgresql, b"SELECT 0");
    assert!(Arc::ptr_eq(&first, &texts.intern(Dialect::Postgresql, b"SELECT 0")));
    assert!(!Arc::ptr_eq(&first, &texts.intern(Dialect::Mysql, b"SELECT 0")));
    assert!(!Arc::ptr_eq(&first, &texts.intern(Dialect::Postgresql, b"SELECT 0 ")));
    for n in 0..10_000 {
        let text = texts.intern(Dialect::Postgresql, format!("SELECT {n} FROM t{n}").as_bytes());
        assert_eq!(&*text.analysis().db_collection_name, format!("t{n}"));
        // What is asked for again and again stays.
        assert!(Arc::ptr_eq(&first, &texts.intern(Dialect::Postgresql, b"SELECT 0")));
        let (count, bytes) = texts.size();
        assert!(count <= 100 && bytes <= 128 * 1024, "{count} {bytes}");
    }
    let large = vec![b' '; 1 << 20];
    assert_eq!(texts.intern(Dialect::Postgresql, &large).bytes().len(), 1 << 20);
    assert!(texts.size().1 <= 128 * 1024);
}

#[test]
fn hostile_texts_end() {
    let deep = |open: &str, close: &str, n: usize| format!("SELECT {}1{}", open.repeat(n), close.repeat(n));
    let texts = [
        deep("(", ")", 100_000),
        deep("(SELECT ", ")", 50_000),
        deep("CASE WHEN a THEN ", " END", 50_000),
        deep("NOT ", "", 100_000),
        deep("-", "", 100_000),
        deep("f(", ")", 100_000),
        deep("ARRAY[", "]", 100_000),
        format!("SELECT {}", vec!["a = 1"; 100_000].join(" OR ")),
        format!("DELETE FROM t WHERE {}", vec!["a = 1"; 2_000].join(" OR ")),
        format!("SELECT {}", vec!["1"; 3_000].join("+")),
        format!("{}SELECT 1", "SELECT 1 UNION ".repeat(500)),
        format!("SELECT 1 {}", "/*".repeat(200_000)),
        format!("SELECT {}", "$a$b".repeat(100_000)),
        "(delete from ".repeat(50_000),
        "; merge into x".repeat(50_000),
        format!("x {}", "copy t to program 'a' ".repeat(50_000)),
        format!("DO $$ {} $$", "EXECUTE 'DROP TABLE x'; ".repeat(200)),
        format!("DO $$ {} $$", "DELETE FROM t WHERE id = 1; ".repeat(300)),
        format!("CREATE TABLE t {}", "as ( ) ".repeat(50_000)),
        "EXPLAIN ".repeat(10_000),
        "COPY (".repeat(10_000),
        "PREPARE a AS ".repeat(10_000),
        "'".repeat(100_001),
        "\u{0}\u{1}\u{2}".repeat(1_000),
    ];
    for text in &texts {
        let analysis = analyze(Dialect::Postgresql, text.as_bytes());
        assert!(!analysis.db_query_fingerprint.is_empty());
    }
    // A long chain is still read whole.
    let chain = analyze(Dialect::Postgresql, texts[8].as_bytes());
    assert!(chain.statement_complete && !chain.statement_unbounded);
    // Deeper than anyone looks is not understood, and says so.
    assert!(!analyze(Dialect::Postgresql, texts[1].as_bytes()).statement_complete);
}

#[test]
fn a_long_insert_is_understood() {
    let mut text = String::from("INSERT INTO t (a, b) VALUES (0, 'x')");
    for n in 1..200_000 {
        let _ = write!(text, ", ({n}, 'it''s')");
    }
    let analysis = analyze(Dialect::Postgresql, text.as_bytes());
    assert!(analysis.statement_complete);
    assert_eq!(*analysis.statement_effects, [Effect::Insert]);
    assert_eq!(&*analysis.redacted, "INSERT INTO t (a, b) VALUES (?, ?), ...");
}

/// One line of `testdata/sql/oracle.jsonl`: what PostgreSQL 17's own parser (libpg_query) says about a text.
#[derive(serde::Deserialize)]
struct Truth {
    text: String,
    /// The statements, comments and white space around them left out.
    parts: Vec<String>,
    /// Relations named anywhere, `WITH` names left out, sorted.
    relations: Vec<String>,
    /// What the statement is: `SelectStmt`, ...; empty where there are several.
    kind: String,
}

#[test]
fn as_postgresql_parses() {
    let mut wrong = Vec::new();
    let mut total = 0;
    let mut whole = 0;
    let mut unread = Vec::new();
    for truth in cases::<Truth>("oracle") {
        let text = Texts::default().intern(Dialect::Postgresql, truth.text.as_bytes());
        let count = text.parts().len();
        if count != truth.parts.len() {
            wrong.push(format!("{} parts, not {}: {}", count, truth.parts.len(), truth.text));
            continue;
        }
        for (part, expected) in text.parts().iter().zip(&truth.parts) {
            if !String::from_utf8_lossy(part.bytes()).contains(expected.as_str()) {
                wrong.push(format!("part without {expected:?}: {}", truth.text));
            }
        }
        if truth.kind.is_empty() {
            continue;
        }
        let analysis = text.analysis();
        let opaque = analysis.statement_effects.iter().any(|e| matches!(e, Effect::Execute | Effect::Call));
        if !opaque {
            total += 1;
            whole += usize::from(analysis.statement_complete);
            if !analysis.statement_complete {
                unread.push(truth.text.clone());
            }
        }
        let names: Vec<&str> = analysis.statement_relations.iter().map(|r| &*r.name).collect();
        let missing = truth.relations.iter().filter(|name| !names.contains(&name.as_str())).count();
        let more = names.iter().filter(|name| !truth.relations.iter().any(|t| t == *name)).count();
        // Programs that are stored or prepared are not run: their relations are not touched. Those of texts that are
        // run, of sequences, and of objects whose names libpg_query keeps as lists are known to us alone.
        let stored = matches!(&*truth.kind, "PrepareStmt" | "CreateFunctionStmt" | "RuleStmt");
        let runs = analysis.statement_effects.iter().any(|e| matches!(e, Effect::Execute | Effect::Update));
        let listed = matches!(&*truth.kind, "DropStmt" | "CommentStmt") || runs && truth.kind != "UpdateStmt";
        if missing > 0 && !stored || more > 0 && !listed {
            wrong.push(format!("{names:?}, not {:?}: {}", truth.relations, truth.text));
        }
        if !is_kind(&truth.kind, &analysis.db_operation_name) {
            wrong.push(format!("{} is no {}: {}", analysis.db_operation_name, truth.kind, truth.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {total} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // The parser does not know all of PostgreSQL: what it does not know is scanned, and says so.
    assert!(whole * 100 >= total * 96, "{whole} of {total} read whole, not:\n{}", unread.join("\n"));
}

fn is_kind(kind: &str, operation: &str) -> bool {
    let verb = operation.split(' ').next().unwrap_or_default();
    match kind {
        "SelectStmt" => matches!(verb, "SELECT" | "VALUES"),
        "InsertStmt" => verb == "INSERT",
        "UpdateStmt" => verb == "UPDATE",
        "DeleteStmt" => verb == "DELETE",
        "MergeStmt" => verb == "MERGE",
        _ => !matches!(verb, "SELECT" | "VALUES" | "INSERT" | "UPDATE" | "DELETE" | "MERGE"),
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// No bytes make it panic, and every byte of the text lies in one part or between two.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), dialect in 0usize..4) {
        let dialects = [Dialect::Postgresql, Dialect::Mysql, Dialect::Tsql, Dialect::Clickhouse];
        let text = Texts::default().intern(dialects[dialect], &bytes);
        let _ = text.analysis();
        let _ = text.shown(Redaction::None);
        for part in text.parts() {
            let _ = part.analysis();
        }
    }

    /// Words of SQL in any order: nothing panics, and an analysis from the cache is the analysis of the text.
    #[test]
    fn any_words(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..24)) {
        let text = words.join(" ");
        let mut texts = Texts::default();
        // Warm the shapes with other literals first.
        let _ = texts.intern(Dialect::Postgresql, text.replace('1', "7").as_bytes()).analysis();
        let cached = texts.intern(Dialect::Postgresql, text.as_bytes());
        let fresh = analyze(Dialect::Postgresql, text.as_bytes());
        let cached = cached.analysis();
        assert_eq!(cached.statement_effects, fresh.statement_effects);
        assert_eq!(cached.statement_relations, fresh.statement_relations);
        assert_eq!(cached.statement_unbounded, fresh.statement_unbounded);
        assert_eq!(cached.statement_complete, fresh.statement_complete);
        assert_eq!(&cached.redacted, &fresh.redacted);
        assert_eq!(&cached.db_query_fingerprint, &fresh.db_query_fingerprint);
    }
}

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "t",
    "WHERE",
    "a",
    "=",
    "1",
    "'x'",
    "(",
    ")",
    ",",
    ";",
    "DELETE",
    "UPDATE",
    "SET",
    "INSERT",
    "INTO",
    "VALUES",
    "WITH",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "true",
    "NULL",
    "COPY",
    "TO",
    "STDOUT",
    "DROP",
    "TABLE",
    "EXPLAIN",
    "ANALYZE",
    "DO",
    "$$DELETE FROM t$$",
    "EXECUTE",
    "MERGE",
    "USING",
    "ON",
    "LIKE",
    "'%'",
    "set_config(",
    "'log_x'",
    "dblink(",
    "--\n",
    "/*",
    "*/",
    "ARRAY[",
    "]",
    "::int",
    "UNION",
    "RETURNING",
    "*",
    "\"q\"",
    "E'\\''",
    "BEGIN",
    "END",
    "CREATE",
    "FUNCTION",
    "VIEW",
    "GRANT",
    "PREPARE",
    "nextval('s')",
    "1.5",
    "-",
    "U&\"x\"",
    "UESCAPE",
    "ONLY",
    "$1",
];
