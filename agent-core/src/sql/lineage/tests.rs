//! What flows into each column, for statements as people write them and as people write them to hide it.

use super::{Lineage, Returned, of};
use crate::sql::Dialect;

fn lineage(text: &str) -> Lineage {
    match of(Dialect::Postgresql, text.as_bytes()) {
        Returned::Rows(lineage) => *lineage,
        other => panic!("{text}: {other:?}"),
    }
}

/// What flows into the column, `?` among it where it is opaque. A name with a dot is a relation's own column.
fn flows(text: &str, at: usize, name: &str) -> String {
    let (base, name) = name.strip_prefix('.').map_or((false, name), |name| (true, name));
    let origin = lineage(text).column(at, name, base);
    let mut names: Vec<&str> = origin.names.iter().map(|name| &**name).collect();
    if origin.opaque {
        names.push("?");
    }
    names.join(" ")
}

#[test]
fn columns_come_from_names() {
    for (text, at, name, told) in [
        ("select id, email from users", 0, ".id", "id"),
        ("select id, email as x from users", 1, ".x", "email"),
        ("select u.email from users u", 0, ".email", "email"),
        ("select lower(email) || '' from users", 0, "?column?", "email"),
        ("select substr(card, 1, 20) x, id from t", 0, "x", "card"),
        ("select substr(card, 1, 20) x, id from t", 1, ".id", "id"),
        ("select count(*), max(id), now() from t where card = '1'", 0, "count", ""),
        ("select count(*), max(id), now() from t where card = '1'", 1, "max", "id"),
        ("select count(*), max(id), now() from t where card = '1'", 2, "now", ""),
        ("select card is null, exists (select * from t) from t", 0, "?column?", ""),
        ("select card is null, exists (select * from t) from t", 1, "exists", ""),
        ("select (select card from t limit 1)", 0, "card", "card"),
        ("select case when card like '4%' then 1 else 0 end as a from t", 0, "a", "card"),
        ("select data ->> 'email' as a from t", 0, "a", "data email"),
        ("select data #>> '{person,email}' as a from t", 0, "a", "data email person"),
        ("select array_agg(distinct email order by id) a from t", 0, "a", "email id"),
        ("select card as id, id as other from t order by 2", 1, ".other", "id"),
        ("select * from t", 2, ".card", "card"),
        ("select * from (select card as x from t) s", 0, ".x", "card x"),
        ("select y from (select x as y from (select card as x from t) a) b", 0, ".y", "card x y"),
        ("select substr from (select substr(card, 2) from t) a", 0, "substr", "card substr"),
        ("with s(a, b) as (select id, card from t) select a from s", 0, ".a", "a card id"),
        ("with s as (select lower(card) as id from t) select t.id from t, s", 0, ".id", "id"),
        ("with s as (select lower(card) as id from t) select t.id from t, s", 0, "id", "card id"),
        ("select id from t union all select card from t", 0, "id", "card id"),
        (
            "with recursive r as (select id, card as c from t union all select r.id, r.c from r) select c from r",
            0,
            "c",
            "c card",
        ),
        ("select x from t, unnest(t.cards) as x", 0, "x", "cards x"),
        ("select value from t, json_each_text(t.secrets)", 0, "value", "secrets value"),
        ("values (1, (select card from t))", 1, "column2", "card column2"),
        ("delete from t returning id, card as x", 1, ".x", "card"),
        ("insert into t values (1) returning *", 0, ".id", "id"),
        ("update t set a = 1 returning email as e", 0, ".e", "email"),
        ("with d as (delete from t returning card as x) select x from d", 0, "x", "card x"),
        ("select distinct on (id) email as e from users order by id", 0, ".e", "email"),
        ("select email::varchar(3) as e, cast(card as text) c from t", 1, "c", "card"),
        ("select coalesce(nullif(trim(email), ''), phone) as a from t", 0, "a", "email phone"),
        ("select (addr).street as a from t", 0, "a", "addr street"),
        ("select first_value(email) over (partition by id) as a from t", 0, "a", "email id"),
    ] {
        assert_eq!(flows(text, at, name), told, "{text} [{at}]");
    }
}

#[test]
fn what_cannot_be_told_is_opaque() {
    for (text, at, name) in [
        ("select row_to_json(t) from t", 0, "row_to_json"),
        ("select to_jsonb(u.*) from users u", 0, "to_jsonb"),
        ("select u from users u", 0, "u"),
        ("select u::text from users u", 0, "u"),
        ("select (select array_agg(s) from (select * from users) s) as a", 0, "a"),
        ("select (select json_agg(x) from (table users) x)", 0, "json_agg"),
        ("select query_to_xml('select card from t', true, true, '')", 0, "query_to_xml"),
        ("select my_function(id) from t", 0, "my_function"),
        ("select * from my_function(1)", 0, "name"),
        ("select a from t as s(a, b)", 0, ".a"),
        ("select * from t union select 1, 2", 0, "a"),
        ("select id, email from users", 2, "more"),
    ] {
        assert!(flows(text, at, name).contains('?'), "{text}: {}", flows(text, at, name));
    }
    // A relation's own column is none of the function's.
    assert_eq!(flows("select * from t, my_function(t.id)", 0, ".id"), "id");
    assert!(flows("select * from t, my_function(t.id)", 1, "x").contains('?'));
}

#[test]
fn what_is_kept_is_told() {
    let kept = |text: &str| {
        let lineage = lineage(text);
        let told = |output: &super::Output| {
            let origin = lineage.resolve(output.origin.clone(), output.bare);
            format!("{}={:?}{}", output.name.as_deref().unwrap_or("?"), origin.names, origin.opaque)
        };
        lineage.kept.iter().map(told).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kept("create table x as select card as y, id from t"), "y={\"card\"}false id={\"id\"}false");
    assert_eq!(kept("select card as y into x from t"), "y={\"card\"}false");
    assert_eq!(kept("insert into x (a, b) select id, card from t"), "a={\"id\"}false b={\"card\"}false");
    assert_eq!(kept("insert into x (a) values ($1)"), "?={}false");
    assert_eq!(kept("update x set a = upper(card)"), "a={\"card\"}false");
    assert_eq!(kept("select card from t"), "");
    assert_eq!(kept("select pg_notify('x', card) from t"), "?={\"card\"}false");
    assert_eq!(kept("select 1 from t where set_config('a.b', card, false) is null"), "?={\"card\"}false");
}

#[test]
fn what_returns_nothing_and_what_is_not_known() {
    for text in ["begin", "set a = 1", "create table t (id int)", "explain select card from t", "-- no", ""] {
        assert!(matches!(of(Dialect::Postgresql, text.as_bytes()), Returned::Nothing), "{text}");
    }
    for text in ["call p()", "show all", "selekt 1", "select 'open", "select 1; select 2", "fetch 1 from c"] {
        assert!(matches!(of(Dialect::Postgresql, text.as_bytes()), Returned::Unknown), "{text}");
    }
}

#[test]
fn a_result_of_other_columns_is_not_this_statements() {
    let lineage = lineage("select id, email as x, lower(a) from users");
    assert!(lineage.agrees(&[b"id", b"x", b"lower"]));
    assert!(!lineage.agrees(&[b"id", b"email", b"lower"]));
    assert!(!lineage.agrees(&[b"id", b"x"]));
}
