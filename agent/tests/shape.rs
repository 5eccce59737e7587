//! Texts that the kernel side cannot tell apart -> they do the same, whatever their literals are.

use agent_common::shape::{TEXT_MAX, text};
use agent_core::sql::{Dialect, Texts};
use proptest::prelude::*;

const KEY: [u64; 2] = [7, 9];

/// Pieces of statements, nasty ones among them. `#` is a number, `?` the inside of a string: each text has its own.
const PIECES: &[&str] = &[
    "#",
    " # ",
    "'?'",
    " '?' ",
    "'?''?'",
    "E'?'",
    "U&'?'",
    "$$?$$",
    "$t$ ? $t$",
    "\"?\"",
    "--?\n",
    "/*?*/",
    "/*",
    "*/",
    "--",
    "'",
    "''",
    "\"",
    "\\",
    "$",
    "$1",
    "$#",
    "t#",
    "#t",
    "#.#",
    "#e#",
    "0x#",
    "1_#",
    "#..#",
    ".#",
    ";",
    ",",
    "(",
    ")",
    "=",
    "=#",
    "-#",
    "||",
    "\n",
    " ",
    "delete from t",
    "drop table t#",
    "truncate t",
    "select",
    " from ",
    " where ",
    " id = #",
    " or true ",
    "update t set v = '?'",
    "insert into t values (#, '?')",
    " in (#, #, #)",
    "execute x",
    "do '?'",
    "copy t to '?'",
    "set x = '?'",
    "limit #",
    "::int",
    "x'?'",
    "é",
    "`?`",
    "@#",
    "{d '?'}",
];
/// What may stand in a string, as far as the text allows.
const INSIDE: &[&str] = &[
    "a",
    "",
    "1",
    "drop table t",
    "''",
    "\\",
    "--",
    "/*",
    "*/",
    "\"",
    "$$",
    "; delete from t; --",
    "é",
    "\n",
];

fn write(pieces: &[usize], seeds: &[u32]) -> Vec<u8> {
    let mut out = String::new();
    let mut seed = seeds.iter().cycle();
    let mut next = |most: usize| *seed.next().unwrap_or(&0) as usize % most;
    for &piece in pieces {
        for c in PIECES[piece].chars() {
            match c {
                '#' => {
                    out.push_str(
                        ["1", "0", "42", "123456789012345678", "1234567890123456789", "00"][next(6)],
                    );
                }
                '?' => out.push_str(INSIDE[next(INSIDE.len())]),
                c => out.push(c),
            }
        }
    }
    out.into_bytes()
}

/// What both texts do, where both can be known.
fn differ(one: &[u8], other: &[u8]) -> Option<String> {
    if text(KEY, one) == 0 || text(KEY, one) != text(KEY, other) {
        return None;
    }
    let mut texts = Texts::default();
    let (a, b) = (texts.intern(Dialect::Postgresql, one), texts.intern(Dialect::Postgresql, other));
    // Such texts are never made known to the kernel side.
    if a.is_literal_bound() || b.is_literal_bound() {
        return None;
    }
    let (x, y) = (a.analysis(), b.analysis());
    let same = x.statement_effects == y.statement_effects
        && x.statement_relations == y.statement_relations
        && x.statement_unbounded == y.statement_unbounded
        && x.statement_complete == y.statement_complete
        && x.db_query_fingerprint == y.db_query_fingerprint
        && a.parts().len() == b.parts().len();
    (!same).then(|| {
        format!("{}\n{}\n{x:?}\n{y:?}", String::from_utf8_lossy(one), String::from_utf8_lossy(other))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_looks_alike_does_the_same(
        pieces in prop::collection::vec(0..PIECES.len(), 1..9),
        one in prop::collection::vec(any::<u32>(), 8),
        other in prop::collection::vec(any::<u32>(), 8),
    ) {
        let (one, other) = (write(&pieces, &one), write(&pieces, &other));
        prop_assert_eq!(differ(&one, &other), None);
    }
}

#[test]
fn values_are_left_out_and_nothing_else() {
    let same =
        |a: &str, b: &str| text(KEY, a.as_bytes()) == text(KEY, b.as_bytes()) && text(KEY, a.as_bytes()) != 0;
    assert!(same("select * from t where id = 1", "select * from t where id = 4711"));
    assert!(same(
        "select * from t where v = 'a' and w = 1.5",
        "select * from t where v = 'it''s' and w = 22.75"
    ));
    assert!(same("insert into t values (1, 'x')", "insert into t values (22, '')"));
    for (a, b) in [
        ("select * from t1", "select * from t2"),
        ("select * from \"t 1\"", "select * from \"t 2\""),
        ("select $1", "select $2"),
        ("select 1", "select  1"),
        ("select 1", "SELECT 1"),
        ("select 1", "select 1;"),
        ("select 1.5", "select 15"),
        ("select 'a', 'b'", "select 'a''b'"),
    ] {
        assert!(!same(a, b), "{a} | {b}");
    }
    let long = "9".repeat(TEXT_MAX as usize);
    for odd in [
        "select 1 -- x",
        "select /* x */ 1",
        "select E'a'",
        "select 'a\\'",
        "select U&'a'",
        "select $$a$$",
        "select $t$a$t$",
        "select 1e5",
        "select 0x1f",
        "select 1_000",
        "select 'open",
        "select \"open",
        "select `a`",
        "select 1234567890123456789",
        "select 1\0",
        &long,
    ] {
        assert_eq!(text(KEY, odd.as_bytes()), 0, "{odd}");
    }
    assert_ne!(text(KEY, b"select 1"), text([7, 8], b"select 1"), "the key counts");
}
