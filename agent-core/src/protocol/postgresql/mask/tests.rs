//! Dialogues of client and server, and what the client gets to see.

mod dialogue; // messages of both sides
mod values; // every type in both formats

use std::sync::Arc;

use proptest::prelude::*;

use self::dialogue::{
    Dialogue, bind, col, complete, describe, execute, expr, message, parse, query, ready, row, rows, sync,
};
use crate::mask::{Mask, Plan, Unmaskable};
use crate::policy::Glob;
use crate::sensitive::Catalog;

fn plan() -> Arc<Plan> {
    Arc::new(Plan { by_value: false, ..Plan::default() })
}

fn checked(message: &[u8]) -> Result<(), Unmaskable> {
    super::Masker::default().check(message, &plan())
}

const TEXT: u32 = 25;
const INT: u32 = 23;

#[test]
fn a_simple_query_is_masked_by_the_names_of_its_columns() {
    let mut d = Dialogue::new();
    d.ask(&query("select id, email from users"), Some(&plan()));
    let answer = [
        rows(&[col("id", INT), col("email", TEXT)]),
        row(&[Some(b"7"), Some("ann@exämple.org".as_bytes())]),
        row(&[Some(b"8"), None]),
        complete("SELECT 2"),
        ready(),
    ];
    let expected = [
        rows(&[col("id", INT), col("email", TEXT)]),
        row(&[Some(b"7"), Some(b"***************")]),
        row(&[Some(b"8"), None]),
        complete("SELECT 2"),
        ready(),
    ];
    assert_eq!(d.answer(&answer), Ok(expected.concat()));
    assert_eq!(d.masked(), [("email".to_owned(), 1)]);
    // The next one has no plan.
    d.ask(&query("select email from users"), None);
    assert_eq!(
        d.passes(&[rows(&[col("email", TEXT)]), row(&[Some(b"ann@x.org")]), complete("SELECT 1"), ready()]),
        Ok(())
    );
}

#[test]
fn only_the_plans_classes_are_masked_and_the_catalogue_counts() {
    let catalog = Catalog::read("c.yaml", "relations: {users: {nick: person_name}}").expect("a catalogue");
    let plan = Arc::new(Plan {
        classes: [Glob::new("person_name")].into(),
        catalog: Arc::new(catalog),
        by_value: false,
    });
    let mut d = Dialogue::new();
    d.ask(&query("select email, nick from users"), Some(&plan));
    let head = rows(&[col("email", TEXT), col("nick", TEXT)]);
    let seen =
        d.answer(&[head.clone(), row(&[Some(b"ann@x.org"), Some(b"ann")]), complete("SELECT 1"), ready()]);
    let expected = [head, row(&[Some(b"ann@x.org"), Some(b"***")]), complete("SELECT 1"), ready()].concat();
    assert_eq!(seen, Ok(expected));
}

#[test]
fn values_tell_where_names_do_not() {
    let plan = Arc::new(Plan::new([Glob::new("email")], Arc::default()));
    let mut d = Dialogue::new();
    d.ask(&query("select note from t"), Some(&plan));
    let head = rows(&[col("note", TEXT)]);
    let seen = d.answer(&[
        head.clone(),
        row(&[Some(b"hello")]),
        row(&[Some(b"ann@example.org")]),
        complete("SELECT 2"),
    ]);
    let expected =
        [head, row(&[Some(b"hello")]), row(&[Some(b"***************")]), complete("SELECT 2")].concat();
    assert_eq!(seen, Ok(expected));
    assert_eq!(d.masked(), [("email".to_owned(), 1)]);
}

#[test]
fn hidden_values_are_masked_under_any_name() {
    for (text, column, oid, value, masked) in [
        ("select substr(card_number, 1, 4) as x from t", expr("x", TEXT), TEXT, "4111", "****"),
        ("select card_number as id from t", col("id", TEXT), TEXT, "4111", "****"),
        ("select x from (select card_number as x from t) s", col("x", TEXT), TEXT, "4111", "****"),
        ("select * from (select card_number || '' as x from t) s", expr("x", TEXT), TEXT, "4111", "****"),
        ("select row_to_json(t) from t", expr("row_to_json", 114), 114, "{\"card_number\":\"4111\"}", "{}"),
        ("select max(salary) from t", expr("max", INT), INT, "4111", "0"),
        ("select id from t union select card_number from t", expr("id", TEXT), TEXT, "4111", "****"),
        ("select a from t as s(a, b)", col("a", TEXT), TEXT, "4111", "****"),
        ("select * from mine()", expr("x", TEXT), TEXT, "4111", "****"),
        ("select email from users", col("card", TEXT), TEXT, "4111", "****"),
        ("show my.card", expr("my.card", TEXT), TEXT, "4111", "****"),
        ("select n from credit_cards", col("n", TEXT), TEXT, "4111", "****"),
        ("select (u).email from users u", expr("email", TEXT), TEXT, "4111", "****"),
        ("select array(select email from users)", expr("array", 1009), 1009, "{4111}", "{****}"),
        ("select c from (values ((select email from users))) v(c)", expr("c", TEXT), TEXT, "4111", "****"),
        (
            "select column1 from (values ((select email from users))) v",
            expr("column1", TEXT),
            TEXT,
            "4111",
            "****",
        ),
        ("select x.id from users as x(email, id)", col("id", TEXT), TEXT, "4111", "****"),
        ("select l.x from users u, lateral (select u.email as x) l", expr("x", TEXT), TEXT, "4111", "****"),
        ("select U&\"\\0065mail\" as x from users", col("x", TEXT), TEXT, "4111", "****"),
        ("select \"x\".\"email\" \"id\" from users \"x\"", col("id", TEXT), TEXT, "4111", "****"),
        ("table users", col("email", TEXT), TEXT, "4111", "****"),
        ("select string_agg(email, ',') from users", expr("string_agg", TEXT), TEXT, "4111", "****"),
        ("select current_setting('my.card')", expr("current_setting", TEXT), TEXT, "4111", "****"),
        (
            "select x from xmltable('/' passing (select doc from d) columns x text) t",
            expr("x", TEXT),
            TEXT,
            "4111",
            "****",
        ),
        ("select data -> 'a' ->> 'card_number' from t", expr("?column?", TEXT), TEXT, "4111", "****"),
        ("select * from rows from (f(1), g(2))", expr("f", TEXT), TEXT, "4111", "****"),
    ] {
        let mut d = Dialogue::new();
        d.ask(&query(text), Some(&plan()));
        let _ = oid;
        let seen = d.answer(&[rows(&[column]), row(&[Some(value.as_bytes())])]);
        assert_eq!(seen, Ok([rows(&[column]), row(&[Some(masked.as_bytes())])].concat()), "{text}");
    }
    for (text, column) in [
        ("select count(email) from users", expr("count", 20)),
        ("select id from users where email = 'a'", col("id", INT)),
        ("select 1 as one", expr("one", INT)),
        ("explain select email from users", expr("QUERY PLAN", TEXT)),
    ] {
        let mut d = Dialogue::new();
        d.ask(&query(text), Some(&plan()));
        assert_eq!(
            d.answer(&[rows(&[column]), row(&[Some(b"17")])]),
            Ok([rows(&[column]), row(&[Some(b"17")])].concat()),
            "{text}"
        );
    }
}

#[test]
fn prepared_statements_are_masked_in_the_formats_that_are_bound() {
    let mut d = Dialogue::new();
    // As asyncpg and tokio-postgres do it: described once, executed often, without a description.
    d.ask(&[parse("s", "select id, salary, email from t"), describe(b'S', "s"), sync()].concat(), None);
    let head = rows(&[col("id", INT), col("salary", INT), col("email", TEXT)]);
    let prepared = [message(b'1', b""), message(b't', b"\0\0"), head, ready()];
    assert_eq!(d.passes(&prepared), Ok(()));
    for _ in 0..2 {
        d.ask(&bind("", "s", &[1]), None);
        d.ask(&[execute(""), sync()].concat(), Some(&plan()));
        let seen = d.answer(&[
            message(b'2', b""),
            row(&[Some(&[0, 0, 0, 7]), Some(&[0, 0, 1, 7]), Some(b"ann@x.org")]),
            complete("SELECT 1"),
            ready(),
        ]);
        let expected = [
            message(b'2', b""),
            row(&[Some(&[0, 0, 0, 7]), Some(&[0, 0, 0, 0]), Some(b"*********")]),
            complete("SELECT 1"),
            ready(),
        ];
        assert_eq!(seen, Ok(expected.concat()));
    }
    assert_eq!(d.masked(), [("email".to_owned(), 2), ("salary".to_owned(), 2)]);
}

#[test]
fn a_portal_keeps_its_plan_over_its_row_limit() {
    let mut d = Dialogue::new();
    let start = [
        parse("", "select email from t"),
        bind("p", "", &[]),
        describe(b'P', "p"),
        execute("p"),
        execute("p"),
        sync(),
    ];
    d.ask(&start.concat(), Some(&plan()));
    let head = rows(&[col("email", TEXT)]);
    let answer = |value: &[u8]| {
        [
            message(b'1', b""),
            message(b'2', b""),
            head.clone(),
            row(&[Some(value)]),
            message(b's', b""),
            row(&[Some(value)]),
            complete("SELECT 1"),
            ready(),
        ]
    };
    assert_eq!(d.answer(&answer(b"a@b.c")), Ok(answer(b"*****").concat()));
}

#[test]
fn a_statement_that_was_described_by_its_portal_is_known() {
    let mut d = Dialogue::new();
    // As pgjdbc does it: the first execution describes its portal, later ones describe nothing.
    let start =
        [parse("S_1", "select * from t"), bind("", "S_1", &[]), describe(b'P', ""), execute(""), sync()];
    d.ask(&start.concat(), Some(&plan()));
    d.ask(&bind("", "S_1", &[1]), None);
    assert_eq!(d.check(&execute("")), Ok(()), "its answer is still to come");
    d.ask(&[execute(""), sync()].concat(), None);
    let head = rows(&[col("id", INT), col("email", TEXT)]);
    let answer = |value: &[u8]| {
        [
            message(b'1', b""),
            message(b'2', b""),
            head.clone(),
            row(&[Some(b"7"), Some(value)]),
            complete("SELECT 1"),
            ready(),
            message(b'2', b""),
            row(&[Some(&[0, 0, 0, 7]), Some(value)]),
            complete("SELECT 1"),
            ready(),
        ]
    };
    assert_eq!(d.answer(&answer(b"a@b.c")), Ok(answer(b"*****").concat()));
    d.ask(&bind("C_1", "S_1", &[]), None);
    assert_eq!(d.check(&execute("C_1")), Ok(()));
}

#[test]
fn names_mean_what_they_mean_in_the_server() {
    let mut d = Dialogue::new();
    let email = "select email as id from t";
    d.ask(&[parse("s", email), describe(b'S', "s"), sync()].concat(), Some(&plan()));
    let head = rows(&[col("id", TEXT)]);
    assert!(d.answer(&[message(b'1', b""), message(b't', b"\0\0"), head, ready()]).is_ok());
    // The second Parse fails, for the name is taken; the executions behind it are of the first, pipelined or not.
    d.ask(&[parse("s", "select id from t"), sync(), bind("", "s", &[]), execute(""), sync()].concat(), None);
    let error = message(b'E', b"SERROR\0C42P05\0Mprepared statement \"s\" already exists\0\0");
    let seen = d.answer(&[
        error.clone(),
        ready(),
        message(b'2', b""),
        row(&[Some(b"a@b.c")]),
        complete("SELECT 1"),
        ready(),
    ]);
    let expected =
        [error, ready(), message(b'2', b""), row(&[Some(b"*****")]), complete("SELECT 1"), ready()];
    assert_eq!(seen, Ok(expected.concat()));
    // Behind a failure everything is passed over up to the Sync, also what was not sent yet.
    d.ask(&parse("x", "selekt"), None);
    assert!(d.passes(&[message(b'E', b"C42601\0Msyntax\0\0")]).is_ok());
    d.ask(&[bind("", "x", &[]), execute(""), sync()].concat(), Some(&plan()));
    d.ask(&query("select email from t"), Some(&plan()));
    let seen = d.answer(&[
        ready(),
        rows(&[col("email", TEXT)]),
        row(&[Some(b"abc")]),
        complete("SELECT 1"),
        ready(),
    ]);
    let expected =
        [ready(), rows(&[col("email", TEXT)]), row(&[Some(b"***")]), complete("SELECT 1"), ready()];
    assert_eq!(seen, Ok(expected.concat()));
}

#[test]
fn cursors_and_prepared_names_of_sql_belong_to_their_query() {
    let mut d = Dialogue::new();
    d.ask(&query("begin; declare c cursor for select email as x from t"), Some(&plan()));
    assert!(d.passes(&[complete("BEGIN"), complete("DECLARE CURSOR"), ready()]).is_ok());
    d.ask(&query("fetch 2 from c"), None);
    let head = rows(&[col("x", TEXT)]);
    let answer = |value: &[u8]| [head.clone(), row(&[Some(value)]), complete("FETCH 1"), ready()];
    assert_eq!(d.answer(&answer(b"ann")), Ok(answer(b"***").concat()));
    d.ask(&query("prepare p as select email as x from t; execute p"), Some(&plan()));
    let both = |value: &[u8]| [vec![complete("PREPARE")], answer(value).into()].concat();
    assert_eq!(d.answer(&both(b"ann")), Ok(both(b"***").concat()));
    assert_eq!(d.check(&query("fetch 1 from nobody")), Err(Unmaskable::UnknownStatement));
    assert_eq!(d.check(&query("fetch 1 from c; execute p")), Ok(()));
}

#[test]
fn a_session_joined_midway_is_masked_by_descriptions_or_not_at_all() {
    let mut d = Dialogue::new();
    assert_eq!(d.check(&execute("")), Err(Unmaskable::UnknownStatement));
    // Whoever forwards it all the same gets no value through.
    d.ask(&[bind("", "old", &[1]), execute(""), sync()].concat(), Some(&plan()));
    let bound = message(b'2', b"");
    let seen = d.answer(&[bound.clone(), row(&[Some(b"ann"), Some(b"x")]), complete("SELECT 1"), ready()]);
    assert_eq!(seen, Ok([bound.clone(), row(&[None, None]), complete("SELECT 1"), ready()].concat()));
    // Described: a column's name tells; an expression may be anything.
    d.ask(&[describe(b'S', "old"), sync()].concat(), None);
    let head = rows(&[col("email", TEXT), col("id", INT), expr("lower", TEXT)]);
    assert!(d.passes(&[message(b't', b"\0\0"), head, ready()]).is_ok());
    d.ask(&[bind("", "old", &[]), execute("")].concat(), Some(&plan()));
    assert_eq!(d.check(&execute("")), Ok(()));
    let seen = d.answer(&[bound.clone(), row(&[Some(b"a"), Some(b"1"), Some(b"b")])]);
    assert_eq!(seen, Ok([bound.clone(), row(&[Some(b"*"), Some(b"1"), Some(b"*")])].concat()));
    // Described by a portal of it, executed by another.
    let mut d = Dialogue::new();
    let start = [bind("", "old", &[]), describe(b'P', ""), sync(), bind("", "old", &[])].concat();
    d.ask(&[start, execute("")].concat(), Some(&plan()));
    let seen =
        d.answer(&[bound.clone(), rows(&[col("email", TEXT)]), ready(), bound.clone(), row(&[Some(b"a")])]);
    assert_eq!(
        seen,
        Ok([bound.clone(), rows(&[col("email", TEXT)]), ready(), bound, row(&[Some(b"*")])].concat())
    );
}

#[test]
fn what_cannot_be_masked_is_told_before_it_is_forwarded() {
    for (text, why) in [
        ("copy users to stdout", Some(Unmaskable::UnknownColumns)),
        ("copy (select * from users) to stdout", Some(Unmaskable::UnknownColumns)),
        ("copy users to '/tmp/x'", Some(Unmaskable::Elsewhere)),
        ("copy users (email) to program 'cat'", Some(Unmaskable::Elsewhere)),
        ("copy users (id, email) to stdout", None),
        ("copy (select id, email as x from users) to stdout (format binary)", None),
        ("copy users to stdout with csv header", None),
        ("copy users from stdin", None),
        ("create table x as select email as y from users", Some(Unmaskable::Renamed)),
        ("create view x as select lower(email) as y from users", Some(Unmaskable::Renamed)),
        ("create table x as select email from users", None),
        ("insert into x (note) select email from users", Some(Unmaskable::Renamed)),
        ("insert into x (email) select email from users", None),
        ("update users set note = email", Some(Unmaskable::Renamed)),
        ("update users set email = $1", None),
        ("do $$begin end$$", Some(Unmaskable::NotUnderstood)),
        ("call p()", Some(Unmaskable::NotUnderstood)),
        ("selekt", Some(Unmaskable::NotUnderstood)),
        ("select email from users; copy users to stdout", Some(Unmaskable::UnknownColumns)),
        ("select lower(email) from users", None),
        ("begin", None),
        ("", None),
    ] {
        assert_eq!(checked(&query(text)).err(), why, "{text}");
        let is_one = !text.contains(';');
        if is_one {
            assert_eq!(checked(&parse("", text)).err(), why, "{text}");
        }
    }
    let mut d = Dialogue::new();
    d.ask(&[parse("", "select * from users"), bind("", "", &[])].concat(), None);
    assert_eq!(d.check(&execute("")), Err(Unmaskable::UnknownColumns), "nobody asked what its columns are");
    d.ask(&describe(b'P', ""), None);
    assert_eq!(d.check(&execute("")), Ok(()));
    assert_eq!(d.check(&message(b'F', &[0; 12])), Err(Unmaskable::FunctionCall));
}

#[test]
fn a_function_calls_result_is_null() {
    let mut d = Dialogue::new();
    d.ask(&message(b'F', &[0; 12]), Some(&plan()));
    let seen = d.answer(&[message(b'V', b"\0\0\0\x044111"), ready()]);
    assert_eq!(seen, Ok([message(b'V', &[0xff; 4]), ready()].concat()));
}

#[test]
fn errors_and_settings_lose_their_values() {
    let mut d = Dialogue::new();
    d.ask(&query("select set_config('application_name', email, false) from users"), Some(&plan()));
    let seen = d.answer(&[
        message(b'S', b"application_name\0ann@x.org\0"),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'E', b"SERROR\0C22P02\0Minvalid input: \"4111\"\0\0"),
        ready(),
    ]);
    let expected = [
        message(b'S', b"application_name\0*********\0"),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'E', b"SERROR\0C22P02\0Minvalid input: \"****\"\0\0"),
        ready(),
    ];
    assert_eq!(seen, Ok(expected.concat()));
}

fn copied(text: &str, format: u8, columns: u16, data: &[u8]) -> Result<Vec<u8>, Unmaskable> {
    let mut d = Dialogue::new();
    d.ask(&query(text), Some(&plan()));
    let mut head = vec![format];
    head.extend_from_slice(&columns.to_be_bytes());
    (0..columns).for_each(|_| head.extend_from_slice(&u16::from(format).to_be_bytes()));
    let around = [message(b'H', &head), message(b'c', b""), complete("COPY 1"), ready()];
    let seen = d.answer(&[
        around[0].clone(),
        message(b'd', data),
        around[1].clone(),
        around[2].clone(),
        around[3].clone(),
    ])?;
    let data = seen.strip_prefix(&around[0][..]).expect("the head").strip_suffix(&around[1..].concat()[..]);
    let data = data.expect("the end");
    assert_eq!(u32::from_be_bytes(data[1..5].try_into().unwrap()) as usize + 1, data.len());
    Ok(data[5..].to_vec())
}

#[test]
fn copies_in_three_formats() {
    let is = |text: &str, columns: u16, data: &str, expected: &str| {
        let seen = copied(text, 0, columns, data.as_bytes()).map(|seen| String::from_utf8(seen).unwrap());
        assert_eq!(seen.as_deref(), Ok(expected), "{text}");
    };
    is(
        "copy users (id, email, note) to stdout",
        3,
        "7\ta\\tb\\\\@x\tn\n8\t\\N\tn\n",
        "7\t******\tn\n8\t\\N\tn\n",
    );
    is(
        "copy users (card_number, email) to stdout",
        2,
        "4111111111111111\t\\\\x00ff\n",
        "0000000000000000\t\\\\x0000\n",
    );
    is(
        "copy (select id, email x from users) to stdout with (format csv, header, delimiter '|', null 'nil')",
        2,
        "id|x\n7|\"a|b\"\"c\nd\"\n8|nil\n9|ann\n",
        "id|x\n7|\"*******\"\n8|nil\n9|***\n",
    );
    is(
        "copy users to stdout csv header",
        2,
        "id,email\n1,\"\"\n2,\n3,bob\n",
        "id,email\n1,\"\"\n2,\n3,***\n",
    );
    is(
        "copy users (email, born, birth_date) to stdout (format csv, quote '''', escape '\\', force_quote (email))",
        3,
        "'a\\'b;\nc',2001-02-03,1999-12-31\n",
        "'******',2001-02-03,2000-01-01\n",
    );
    // A row with other columns than the statement names: all of them go.
    is("copy users (email) to stdout", 2, "a\tb\n", "*\t*\n");

    let head = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat();
    let tuple = |email: &[u8]| [&[0, 2, 0, 0, 0, 1, b'7'][..], email, &[0xff, 0xff]].concat();
    let seen = copied(
        "copy users (id, email) to stdout binary",
        1,
        2,
        &[head.clone(), tuple(b"\0\0\0\x03ann")].concat(),
    );
    assert_eq!(seen, Ok([head, tuple(&[0xff; 4])].concat()));
}

#[test]
fn a_star_in_csv_with_a_delimiter_of_its_own_is_quoted() {
    let seen = copied("copy users (id, email) to stdout (format csv, delimiter '*')", 0, 2, b"1*ab\n");
    assert_eq!(seen, Ok(b"1*\"**\"\n".to_vec()));
}

#[test]
fn early_syncs_of_a_copy_in_count_for_nothing() {
    let mut d = Dialogue::new();
    // As libpq does it: the Sync goes with the Execute, and again behind the data.
    d.ask(&[parse("", "copy t from stdin"), bind("", "", &[]), execute(""), sync()].concat(), None);
    assert!(d.passes(&[message(b'1', b""), message(b'2', b""), message(b'G', b"\0\0\x01\0\0")]).is_ok());
    d.ask(&[message(b'd', b"1\n"), message(b'c', b""), sync()].concat(), None);
    d.ask(&query("select email from t"), Some(&plan()));
    let head = rows(&[col("email", TEXT)]);
    let answer = |value: &[u8]| {
        [complete("COPY 1"), ready(), head.clone(), row(&[Some(value)]), complete("SELECT 1"), ready()]
    };
    assert_eq!(d.answer(&answer(b"ann")), Ok(answer(b"***").concat()));
}

#[test]
fn an_answer_that_nobody_asked_for_ends_a_masked_session_only() {
    let mut d = Dialogue::new();
    assert!(d.passes(&[message(b'1', b""), row(&[None])]).is_ok());
    let mut d = Dialogue::new();
    d.ask(&query("select email from t"), Some(&plan()));
    assert_eq!(d.answer(&[message(b'1', b"")]), Err(Unmaskable::OutOfStep));
    let mut d = Dialogue::new();
    d.ask(&query("select email from t"), Some(&plan()));
    assert_eq!(d.answer(&[rows(&[col("email", TEXT)]), row(&[None, None])]), Err(Unmaskable::Malformed));
    let mut d = Dialogue::new();
    d.ask(&query("select email from t"), Some(&plan()));
    let long = [&b"D"[..], &(17u32 << 20).to_be_bytes(), b"\0\x01"].concat();
    assert_eq!(d.answer(&[rows(&[col("email", TEXT)]), long]), Err(Unmaskable::TooLong));
}

#[test]
fn what_may_have_changed_any_name_is_followed_by_not_knowing() {
    let mut d = Dialogue::new();
    let prepare = [parse("s", "select id from t"), describe(b'S', "s"), sync()].concat();
    let prepared = [message(b'1', b""), message(b't', b"\0\0"), rows(&[col("id", TEXT)]), ready()];
    d.ask(&prepare, None);
    assert!(d.passes(&prepared).is_ok());
    d.ask(&bind("", "s", &[]), None);
    assert_eq!(d.check(&execute("")), Ok(()));
    for text in
        ["do $$begin execute 'deallocate s'; end$$".to_owned(), format!("select '{}'", "x".repeat(2 << 20))]
    {
        d.ask(&sync(), None);
        assert!(d.passes(&[message(b'2', b""), ready()]).is_ok());
        d.ask(&query(&text), None);
        assert!(d.passes(&[complete("X"), ready()]).is_ok());
        d.ask(&bind("", "s", &[]), None);
        assert_eq!(d.check(&execute("")), Err(Unmaskable::UnknownStatement));
    }
}

#[test]
fn a_bind_longer_than_what_is_kept_is_followed() {
    let mut d = Dialogue::new();
    d.ask(&[parse("s", "select email, id from t"), describe(b'S', "s"), sync()].concat(), Some(&plan()));
    let head = rows(&[col("email", TEXT), col("id", TEXT)]);
    assert!(d.passes(&[message(b'1', b""), message(b't', b"\0\0"), head, ready()]).is_ok());
    let long = vec![b'x'; 17 << 20];
    let body = [&b"\0s\0\0\0\0\x01"[..], &(long.len() as u32).to_be_bytes(), &long, b"\0\0"].concat();
    d.ask(&[message(b'B', &body), execute(""), sync()].concat(), None);
    let answer = |value: Option<&'static [u8]>| {
        [message(b'2', b""), row(&[value, Some(b"1")]), complete("SELECT 1"), ready()]
    };
    assert_eq!(
        d.answer(&answer(Some(b"ann"))),
        Ok(answer(None).concat()),
        "in which format it is, is not known"
    );
}

#[test]
fn strange_strings_and_encodings_are_not_guessed() {
    let mut d = Dialogue::new();
    assert!(d.passes(&[message(b'S', b"standard_conforming_strings\0off\0")]).is_ok());
    assert_eq!(d.check(&query("select 'a\\', email from t --'")), Err(Unmaskable::NotUnderstood));
    let mut d = Dialogue::new();
    assert!(d.passes(&[message(b'S', b"client_encoding\0SJIS\0")]).is_ok());
    assert_eq!(d.check(&query("copy t (email) to stdout")), Err(Unmaskable::NotUnderstood));
    assert_eq!(d.check(&query("select email from t")), Ok(()));
}

proptest! {
    /// However the bytes are cut, the client gets the same.
    #[test]
    fn any_cut_is_the_same(cuts in proptest::collection::vec(1usize..40, 1..200), values in proptest::collection::vec("[a-z@.é]{0,12}", 1..12)) {
        let head = rows(&[col("id", INT), col("email", TEXT), expr("x", TEXT)]);
        let asked = [
            query("select id, email, id::text as x from t; select 1"),
            parse("s", "select email from t"), describe(b'S', "s"), bind("", "s", &[1]), execute(""), sync(),
            query("copy t (id, email) to stdout csv"),
        ].concat();
        let data: Vec<Vec<u8>> = values.iter().map(|v| row(&[Some(b"7"), Some(v.as_bytes()), Some(v.as_bytes())])).collect();
        let single: Vec<Vec<u8>> = values.iter().map(|v| row(&[Some(v.as_bytes())])).collect();
        let lines: Vec<Vec<u8>> = values.iter().map(|v| message(b'd', format!("7,\"{v}\"\n").as_bytes())).collect();
        let answer = [
            vec![head], data, vec![complete("SELECT 1"), rows(&[expr("x", INT)]), row(&[Some(b"1")]), complete("SELECT 1"), ready()],
            vec![message(b'1', b""), message(b't', b"\0\0"), rows(&[col("email", TEXT)]), message(b'2', b"")], single,
            vec![complete("SELECT 1"), ready(), message(b'H', &[0, 0, 2, 0, 0, 0, 0])], lines,
            vec![message(b'c', b""), complete("COPY 1"), ready()],
        ].concat().concat();
        let mut whole = Dialogue::new();
        whole.ask(&asked, Some(&plan()));
        let expected = whole.answer(std::slice::from_ref(&answer)).unwrap();
        // An expression over what is not sensitive passes; the column itself never does.
        let mut torn = Dialogue::new();
        let mut rest = &asked[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            torn.ask(piece, Some(&plan()));
            rest = behind;
        }
        let mut seen = Vec::new();
        let mut rest = &answer[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            seen.extend(torn.answer(&[piece.to_vec()]).unwrap());
            rest = behind;
        }
        prop_assert_eq!(&seen, &expected);
        prop_assert_eq!(torn.masked(), whole.masked());
        let mut none = Dialogue::new();
        none.ask(&asked, None);
        prop_assert!(none.passes(&[answer]).is_ok());
    }
}
