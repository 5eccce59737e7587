//! Answers of a real server, masked by the gate, as real clients decode them; the server itself says which values are of a
//! type. What clients get is kept by a relay between them and the gated connection, which changes nothing.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::relay::Relay;
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use tests::{client, drivers};
use tokio_postgres::NoTls;
use tokio_postgres::types::{FromSql, Kind, Type};
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::weir::{self, Weir};
use xtask::{setup, shell};

/// A column for each type: its name, type and value, and what the value becomes; `None` is NULL.
const COLUMNS: &[(&str, &str, &str, Option<&str>)] = &[
    ("c_text", "text", "'zq-tëxt-8861'", Some("************")),
    ("c_varchar", "varchar(20)", "'zq-varchar7'", Some("***********")),
    ("c_bpchar", "char(8)", "'zq-bpch'", Some("********")),
    ("c_name", "name", "'zq-name'", Some("*******")),
    ("c_char", "\"char\"", "'Z'", Some("*")),
    ("c_domain", "secret_word", "'zq-domain'", Some("*********")),
    ("c_bool", "bool", "true", Some("f")),
    ("c_int2", "int2", "12345", Some("0")),
    ("c_int4", "int4", "123456789", Some("0")),
    ("c_int8", "int8", "-1234567890123", Some("0")),
    ("c_float4", "float4", "3.25", Some("0")),
    ("c_float8", "float8", "2.71828", Some("0")),
    ("c_numeric", "numeric(20,4)", "-98765.4321", Some("0")),
    ("c_money", "money", "'$4,321.99'", Some("$0.00")),
    ("c_oid", "oid", "4000000000", Some("0")),
    ("c_bytea", "bytea", "'\\xdeadbeef8861'", Some("\\x000000000000")),
    (
        "c_uuid",
        "uuid",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        Some("00000000-0000-0000-0000-000000000000"),
    ),
    ("c_json", "json", "'{\"zq\": 8861}'", Some("{}")),
    ("c_jsonb", "jsonb", "'[\"zq-8861\"]'", Some("[]")),
    ("c_xml", "xml", "'<a>zq-8861</a>'", Some("<masked/>")),
    ("c_date", "date", "'1987-06-05'", Some("2000-01-01")),
    ("c_time", "time", "'12:34:56.789'", Some("00:00:00")),
    ("c_timetz", "timetz", "'12:34:56+02'", Some("00:00:00+00")),
    ("c_timestamp", "timestamp", "'1987-06-05 12:34:56'", Some("2000-01-01 00:00:00")),
    ("c_timestamptz", "timestamptz", "'1987-06-05 12:34:56+02'", Some("2000-01-01 00:00:00+00")),
    ("c_interval", "interval", "'3 days 04:05:06'", Some("00:00:00")),
    ("c_inet", "inet", "'10.11.12.13/24'", Some("0.0.0.0")),
    ("c_cidr", "cidr", "'2001:db8::/32'", Some("0.0.0.0/0")),
    ("c_macaddr", "macaddr", "'08:00:2b:01:02:03'", Some("00:00:00:00:00:00")),
    ("c_macaddr8", "macaddr8", "'08:00:2b:01:02:03:04:05'", Some("00:00:00:00:00:00:00:00")),
    ("c_bit", "bit(9)", "B'101010101'", Some("000000000")),
    ("c_varbit", "varbit", "B'1101'", Some("0000")),
    ("c_point", "point", "'(11,12)'", Some("(0,0)")),
    ("c_lseg", "lseg", "'[(1,2),(3,4)]'", Some("[(0,0),(0,0)]")),
    ("c_path", "path", "'[(1,2),(3,4)]'", Some("((0,0))")),
    ("c_box", "box", "'(3,4),(1,2)'", Some("(0,0),(0,0)")),
    ("c_polygon", "polygon", "'((1,2),(3,4))'", Some("((0,0))")),
    ("c_line", "line", "'{2,3,4}'", Some("{1,0,0}")),
    ("c_circle", "circle", "'<(1,2),3>'", Some("<(0,0),0>")),
    ("c_tsvector", "tsvector", "'zq word:3'", Some("")),
    ("c_tsquery", "tsquery", "'zq & word'", Some("'masked'")),
    ("c_jsonpath", "jsonpath", "'$.zq'", Some("$")),
    ("c_pg_lsn", "pg_lsn", "'16/B374D848'", Some("0/0")),
    ("c_tid", "tid", "'(7,8)'", Some("(0,0)")),
    ("c_xid", "xid", "'886100'", Some("0")),
    ("c_snapshot", "pg_snapshot", "'10:20:10,14'", Some("1:1:")),
    ("c_regclass", "regclass", "'pg_class'", Some("-")),
    ("c_int4range", "int4range", "'[10,20)'", Some("empty")),
    ("c_int8range", "int8range", "'[10,20)'", Some("empty")),
    ("c_numrange", "numrange", "'[1.5,2.5]'", Some("empty")),
    ("c_tsrange", "tsrange", "'[1987-06-05,1988-06-05)'", Some("empty")),
    ("c_tstzrange", "tstzrange", "'[1987-06-05,1988-06-05)'", Some("empty")),
    ("c_daterange", "daterange", "'[1987-06-05,1988-06-05)'", Some("empty")),
    ("c_int4multirange", "int4multirange", "'{[1,2),[5,6)}'", Some("{}")),
    ("c_texts", "text[]", "array['zq-one', null, 'zq{\"']", Some("{******,NULL,****}")),
    ("c_matrix", "int4[]", "'[2:3][1:2]={{8861,2},{3,NULL}}'", Some("[2:3][1:2]={{0,0},{0,NULL}}")),
    ("c_numerics", "numeric[]", "array[8861.5]", Some("{0}")),
    ("c_dates", "date[]", "array['1987-06-05', '1987-06-06']::date[]", Some("{2000-01-01,2000-01-01}")),
    (
        "c_uuids",
        "uuid[]",
        "array['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']::uuid[]",
        Some("{00000000-0000-0000-0000-000000000000}"),
    ),
    ("c_jsonbs", "jsonb[]", "array['{\"zq\": 1}', '\"zq\"']::jsonb[]", Some("{\"{}\",\"\\\"****\\\"\"}")),
    ("c_ranges", "int4range[]", "array['[10,20)']::int4range[]", Some("{empty}")),
    ("c_mood", "mood", "'zq_happy'", None),
    ("c_pair", "pair", "row(8861, 'zq')", None),
];

/// Two rows: one with a value in each column, one with none.
fn typed() -> Result<Postgres> {
    let server = Postgres::start(&[("timezone", "UTC")])?;
    let columns: String = COLUMNS.iter().map(|(name, kind, ..)| format!(", {name} {kind}")).collect();
    let values: String = COLUMNS.iter().map(|(_, _, value, _)| format!(", {value}")).collect();
    server.quietly(&format!(
        "create role {ORACLE} superuser login; create type mood as enum ('zq_happy'); create type pair as (a int, b text); \
         create domain secret_word as text; create table typed (id int primary key, plain text{columns}); \
         insert into typed values (1, 'seen by all'{values}); insert into typed values (2, 'nothing')"
    ))?;
    Ok(server)
}

/// A user whose answers nobody masks: what the server really says.
const ORACLE: &str = "oracle";

/// A server whose answers the gate masks, and a relay that keeps what clients get.
struct Gated {
    agent: Weir,
    clickhouse: ClickHouse,
    relay: Relay,
}

/// `matching`: which statements' answers are masked.
fn gated(server: &Postgres, matching: &str, catalog: &str) -> Result<Gated> {
    let scratch = Scratch::new("agent")?;
    let (policies, columns) = (scratch.path().join("policies"), scratch.path().join("catalog.yaml"));
    fs::create_dir_all(&policies)?;
    fs::write(&columns, catalog)?;
    let policy = format!(
        "kind: DatabasePolicy\nmetadata: {{name: mask-cards}}\nspec:\n  mode: enforce\n  match: {matching}\n  \
         except: [{{database: {{user: [{ORACLE}]}}}}]\n  action: mask\n"
    );
    fs::write(policies.join("mask.yaml"), policy)?;
    let config =
        format!("capture: {{ports: {{{}: postgresql}}}}\ncatalog: {}\n", server.port, columns.display());
    let (agent, clickhouse) = Weir::run(&weir::binary()?, scratch, &config)?;
    Ok(Gated { agent, clickhouse, relay: Relay::start(server.port)? })
}

/// The table's columns are cards, whoever asks for them.
fn typed_cards(server: &Postgres) -> Result<Gated> {
    gated(server, "{relations: [{name: typed}]}", "relations: {typed: {\"c_*\": card}}")
}

impl Gated {
    fn count(&self, what: &str, enough: impl Fn(u64) -> bool) -> Result<u64> {
        wait_for(&self.clickhouse, &format!("SELECT count() FROM weir.events WHERE {what}"), enough)
    }

    /// Sessions that were ended because an answer was not what it should have been.
    fn out_of_step(&self) -> Result<u64> {
        self.count("error_type = 'unmaskable'", |_| true)
    }

    /// Rows in which values of cards were masked, told so far.
    fn masked(&self, enough: impl Fn(u64) -> bool) -> Result<u64> {
        let rows = "SELECT sum(db_response_returned_rows) FROM weir.events WHERE event_kind = 'decision' \
             AND disposition = 'masked' AND policy_rule = 'mask-cards' AND has(data_classes.class, 'card')";
        wait_for(&self.clickhouse, rows, enough)
    }

    fn end(mut self) -> Result<()> {
        assert_eq!(self.out_of_step()?, 0, "{}", self.agent.said());
        assert!(self.agent.stop()?.success(), "{}", self.agent.said());
        Ok(())
    }
}

/// Every value of the table as the server sends it, in text and in binary, but for those that say nothing themselves.
fn raw(server: &Postgres) -> Result<Vec<Vec<u8>>> {
    let mut raw = Vec::new();
    for binary in [false, true] {
        let (_, rows) =
            execute(server.port, ORACLE, "select * from typed order by id", u8::from(binary), None)?;
        raw.extend(rows.into_iter().next().context("a row")?.into_iter().skip(2).flatten());
    }
    // The label of an enum is no value of the table: drivers ask the catalogue for it.
    raw.retain(|value| {
        value != b"zq_happy" && value.len() >= 6 && value.iter().filter(|b| **b != 0).count() >= 4
    });
    ensure!(raw.len() > 60, "only {} values", raw.len());
    Ok(raw)
}

/// None of the values got through.
fn assert_nothing_got_through(server: &Postgres, relay: &Relay) -> Result<()> {
    // Each byte as a character: texts are searched fast also where a test is not optimised.
    let characters = |bytes: &[u8]| bytes.iter().map(|&b| char::from(b)).collect::<String>();
    let told = characters(&relay.told());
    let words = ["8861", "zq-", "1987"].map(str::to_owned);
    for value in raw(server)?.iter().map(|value| characters(value)).chain(words) {
        ensure!(!told.contains(&value), "got through: {value}");
    }
    Ok(())
}

type Values = Vec<Option<Vec<u8>>>;

/// Runs a statement in the extended protocol: columns' names, rows.
fn fetch(port: u16, text: &str, binary: bool) -> Result<(Vec<String>, Vec<Values>)> {
    execute(port, "postgres", text, u8::from(binary), None)
}

fn execute(
    port: u16,
    user: &str,
    text: &str,
    format: u8,
    value: Option<&[u8]>,
) -> Result<(Vec<String>, Vec<Values>)> {
    let mut wire = Wire::login_as(("127.0.0.1", port), user, "postgres")?;
    let parse = wire::message(b'P', &[b"\0", text.as_bytes(), b"\0\0\0"].concat());
    let mut body = vec![0, 0, 0, 1, 0, format];
    match value {
        Some(value) => body.extend([&[0, 1][..], &(value.len() as u32).to_be_bytes(), value].concat()),
        None => body.extend([0, 0]),
    }
    // A parameter is sent in the format that is tried; what comes back of it is text.
    body.extend([0, 1, 0, if value.is_some() { 0 } else { format }]);
    let describe = wire::message(b'D', b"P\0");
    let execute = wire::message(b'E', b"\0\0\0\0\0");
    wire.send(&[parse, wire::message(b'B', &body), describe, execute, wire::sync()].concat())?;
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    for (kind, body) in wire.messages()? {
        match kind {
            b'T' => {
                let mut rest = &body[2..];
                while let Some(end) = rest.iter().position(|&b| b == 0) {
                    names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
                    rest = &rest[end + 19..];
                }
            }
            b'D' => {
                rows.push(values(&body));
            }
            b'E' => anyhow::bail!("{text}: {}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
    Ok((names, rows))
}

/// The values of a DataRow.
fn values(body: &[u8]) -> Values {
    let mut rest = &body[2..];
    let mut values = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, behind) = behind.split_at(length.unwrap_or(0));
        values.push(length.map(|_| value.to_vec()));
        rest = behind;
    }
    values
}

/// Runs a client at the relay.
fn run(server: &Postgres, relay: &Relay, mut command: Command) -> Result<String> {
    command.envs(server.client("psql").get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.env("PGPORT", relay.port.to_string());
    shell::output(&mut command)
}

fn python(server: &Postgres, relay: &Relay, script: &str) -> Result<usize> {
    let mut command = Command::new(setup::python()?);
    command.arg(client::clients().join(script));
    compared(server, relay, command)
}

/// Runs a client that says how many values it compared.
fn compared(server: &Postgres, relay: &Relay, command: Command) -> Result<usize> {
    let said = run(server, relay, command)?;
    said.trim().strip_prefix("checked ").and_then(|n| n.parse().ok()).context(said)
}

fn psql(server: &Postgres, relay: &Relay, sql: &[&str]) -> Result<String> {
    let mut psql = server.client("psql");
    psql.args(["-X", "-q", "-A", "-t", "-P", "null=(null)"]);
    psql.args(sql.iter().flat_map(|sql| ["-c", sql]));
    run(server, relay, psql)
}

#[test]
fn every_type_is_masked_and_stays_of_its_type() -> Result<()> {
    let server = typed()?;
    let gated = typed_cards(&server)?;
    let relay = &gated.relay;
    for binary in [false, true] {
        let (names, rows) = fetch(relay.port, "select * from typed order by id", binary)?;
        assert_eq!(names.len(), COLUMNS.len() + 2);
        let (first, second) = (&rows[0], &rows[1]);
        assert_eq!(first[1].as_deref(), Some(&b"seen by all"[..]));
        assert!(second.iter().skip(2).all(Option::is_none));
        for ((name, kind, _, expected), value) in COLUMNS.iter().zip(first.iter().skip(2)) {
            let Some(value) = value else {
                assert_eq!(*expected, None, "{name}");
                continue;
            };
            // The server takes the masked value for one of the type, and this is what it is.
            let kind = if *name == "c_numeric" { "numeric" } else { kind };
            let text = format!("select $1::{kind}");
            let (_, told) = execute(server.port, ORACLE, &text, u8::from(binary), Some(value))
                .with_context(|| format!("{name}, binary: {binary}"))?;
            let told = told[0][0].clone().map(|told| String::from_utf8_lossy(&told).into_owned());
            assert_eq!(told.as_deref(), *expected, "{name}, binary: {binary}");
        }
    }
    assert_eq!(gated.masked(|rows| rows >= 2)?, 2);
    assert_nothing_got_through(&server, relay)?;
    gated.end()
}

#[test]
fn psql_sees_masked_values() -> Result<()> {
    let server = typed()?;
    let gated = typed_cards(&server)?;
    let relay = &gated.relay;
    let values: Vec<&str> = COLUMNS.iter().map(|(.., masked)| masked.unwrap_or("(null)")).collect();
    let expected = format!("1|seen by all|{}", values.join("|"));
    let nulls = format!("2|nothing{}", "|(null)".repeat(COLUMNS.len()));
    let all = psql(&server, relay, &["select * from typed order by id"])?;
    assert_eq!(all, format!("{expected}\n{nulls}"));
    let cursor =
        ["begin", "declare c cursor for select * from typed order by id", "fetch 1 from c", "commit"];
    assert_eq!(psql(&server, relay, &cursor)?, expected);
    let several = [
        "select 1; select c_text as x, id from typed where id = 1; prepare p as select c_int8 from typed where id = 1; execute p; select 2",
    ];
    assert_eq!(psql(&server, relay, &several)?, "1\n************|1\n0\n2");
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    for options in ["", "(format csv)", "(format csv, force_quote *)", "(delimiter '|', null 'nil')"] {
        let copied = psql(
            &server,
            relay,
            &[&format!("copy typed (id, plain, {}) to stdout {options}", names.join(", "))],
        )?;
        assert_eq!(copied.lines().count(), 2, "{copied}");
        let seen =
            if options.contains("force") { "\"1\",\"seen by all\",\"************\"" } else { "seen by all" };
        assert!(copied.contains(seen), "{copied}");
    }
    assert_nothing_got_through(&server, relay)?;
    // What cannot be masked is not executed, and the session goes on.
    for (text, why) in [
        ("copy typed to stdout", "the columns of the answer are not known"),
        ("create table kept as select c_text as y from typed", "kept under another name"),
    ] {
        let mut wire = Wire::login(("127.0.0.1", relay.port))?;
        for (text, said) in [(text, why), ("select 'goes on'", "goes on")] {
            let told = wire.ask(text)?;
            assert!(told.contains(said), "{text}: {told}");
        }
    }
    assert_eq!(server.quietly("select count(*) from pg_class where relname = 'kept'")?, "0");
    let blocked = "event_kind = 'statement' AND disposition = 'blocked' AND policy_rule = 'mask-cards'";
    assert_eq!(gated.count(blocked, |n| n >= 2)?, 2);
    let masked = "event_kind = 'statement' AND disposition = 'masked' AND policy_rule = 'mask-cards'";
    assert!(gated.count(masked, |n| n >= 6)? >= 6);
    gated.end()
}

#[test]
fn python_and_java_drivers_decode_masked_values() -> Result<()> {
    let server = typed()?;
    let gated = typed_cards(&server)?;
    let relay = &gated.relay;
    let checked = python(&server, relay, "mask_psycopg.py")?;
    assert!(checked > 1000, "{checked}");
    let checked = python(&server, relay, "mask_asyncpg.py")?;
    assert!(checked > 300, "{checked}");
    let checked = compared(&server, relay, drivers::jvm("Masked.java", &[]))?;
    assert!(checked > 100, "{checked}");
    assert!(gated.masked(|rows| rows > 40)? > 40);
    assert_nothing_got_through(&server, relay)?;
    gated.end()
}

/// Ways to a sensitive value of the first row, as people try them.
const EVASIONS: &[&str] = &[
    "select c_text as id from typed",
    "select c_text as \"Plain\" from typed",
    "select c_text || '' from typed",
    "select reverse(c_text), upper(c_text), md5(c_text) from typed",
    "select encode(c_bytea, 'hex'), encode(c_text::bytea, 'base64') from typed",
    "select concat('', c_text), format('%s', c_text), coalesce(null, c_text) from typed",
    "select case when id = 1 then c_text else plain end as plain from typed",
    "select regexp_split_to_table(c_text, '-') from typed",
    "select string_to_array(c_text, '-') from typed",
    "select c_int8 + 0, -c_int4, c_numeric * 1, c_float8::text, (c_date + 1)::text from typed",
    "select t from typed t",
    "select typed from typed",
    "select typed::text from typed",
    "select (typed).c_text from typed",
    "select (t).* from typed t",
    "select row(t.*) from typed t",
    "select row(c_text, id) from typed",
    "select row_to_json(t) from typed t",
    "select to_jsonb(t) - 'id' from typed t",
    "select to_jsonb(t) ->> 'c_text' from typed t",
    "select to_jsonb(t) #>> '{c_text}' from typed t",
    "select jsonb_path_query(to_jsonb(t), '$.c_text') from typed t",
    "select json_agg(t) from typed t",
    "select json_object_agg(id, c_text) from typed",
    "select xmlforest(c_text) from typed",
    "select query_to_xml('select c_text from typed', true, false, '')",
    "select table_to_xml('typed', true, false, '')",
    "select string_agg(c_text, '') from typed",
    "select array_agg(c_text) as id from typed",
    "select array(select c_text from typed)",
    "select (select c_text from typed where id = 1)",
    "select (select t from typed t where id = 1)",
    "select y from (select c_text as y from typed) z",
    "select d from (select c as d from (select b as c from (select c_text as b from typed) x) y) z",
    "select * from (select c_text as y, id from typed) z",
    "select substr from (select substr(c_text, 1) from typed) z",
    "select b from (select 1, c_text from typed) z(a, b)",
    "select a from (select c_text, 1 from typed) z(a)",
    "with w(a) as (select c_text from typed) select a from w",
    "with w as materialized (select c_text as a from typed) select w from w",
    "with recursive w as (select 1 as n, c_text as a from typed union all select n + 1, a from w where n < 2) select a from w",
    "select plain from typed where id = 2 union all select c_text from typed",
    "select c_text from typed except select 'x'",
    "select plain from typed t2(plain, id)",
    "select x.plain from typed as x(a, b, plain)",
    "values ((select c_text from typed where id = 1))",
    "select column1 from (values ((select c_text from typed where id = 1))) v",
    "select x from typed t, lateral (select t.c_text as x) l",
    "select x from typed t, unnest(array[t.c_text]) as x",
    "select * from unnest((select array_agg(c_text) from typed))",
    "select value from typed t, jsonb_each_text(to_jsonb(t)) where key = 'c_text'",
    "select e.* from typed t, jsonb_each_text(to_jsonb(t)) e",
    "select plain from json_populate_record(null::typed, (select json_build_object('plain', c_text) from typed where id = 1))",
    "select plain from jsonb_to_record((select jsonb_build_object('plain', c_text) from typed where id = 1)) as x(plain text)",
    "select min(c_text), max(c_int4) from typed",
    "select first_value(c_text) over (order by id) as id from typed",
    "select lag(c_text, -1) over (order by id desc) from typed",
    "select mode() within group (order by c_text) from typed",
    "select greatest(c_text, '') as plain, nullif(c_text, '') from typed",
    "select c_text collate \"C\" as plain from typed",
    "select distinct on (id) c_text as plain from typed",
    "select c_text as plain from typed group by c_text",
    "select U&\"c\\005ftext\" as plain from typed",
    "select c_texts[1], c_matrix[2][1], c_pair, (c_pair).b, c_mood::text from typed",
    "select lower(c_int4range), c_point[0], host(c_inet), c_interval * 2 from typed",
    "select leak()",
    "select leak() as id, 1",
    "select * from leak() as id",
    "select id from typed, leak() as x(id2), lateral (select x.id2 as y) l",
    "select c_text::int from typed",
    "select ('x' || c_text)::date from typed",
    "select 1 from typed where (c_text || 'x')::numeric > 0",
    "begin; delete from typed returning c_text as x; rollback",
    "begin; update typed set id = id + 10 returning c_text as plain; rollback",
    "begin; insert into sink select c_text from typed returning note; rollback",
    "begin; update typed set plain = c_text returning plain; rollback",
    "begin; with d as (delete from typed returning c_text as x) select x from d; rollback",
    "begin; create temp table q as select c_text as note from typed; select note from q; rollback",
    "begin; select c_text as note into temp q from typed; select note from q; rollback",
    "begin; declare c cursor for select c_text as plain from typed; fetch all from c; rollback",
    "begin; declare c binary cursor for select c_int8 as id, c_text from typed; fetch all from c; rollback",
    "prepare p as select c_text as plain from typed; execute p",
    "select 1; select c_text as x from typed; select 2",
    "do $$begin raise notice '%', (select c_text from typed where id = 1); end$$",
    "select set_config('application_name', c_text, false) from typed where id = 1",
    "listen x; select pg_notify('x', c_text) from typed where id = 1; select 1",
    "copy (select c_text as plain from typed) to stdout",
    "copy (select c_text as plain from typed) to stdout (format csv, force_quote *, header)",
    "copy (select t from typed t) to stdout",
    "copy (select * from typed) to stdout",
    "copy typed (plain, c_text) to stdout (format binary)",
    "copy typed to stdout (format csv, header)",
    "explain (analyze, verbose) select c_text from typed where c_text > (select min(c_text) from typed)",
    "table typed",
    "select * from typed",
];

#[test]
fn nobody_gets_around_it() -> Result<()> {
    let server = typed()?;
    server.quietly(
        "create table sink (note text); \
         create function leak() returns setof text language sql as 'select c_text from typed where id = 1'",
    )?;
    let gated = gated(&server, "{}", "columns: {\"c_*\": card}")?;
    let relay = &gated.relay;
    let mut compared = 0;
    for text in EVASIONS {
        // What the server really says, and what a client gets to see.
        let mut wire = Wire::login_as(("127.0.0.1", server.port), ORACLE, "postgres")?;
        wire.send(&wire::query(text))?;
        let told = wire.messages()?;
        let before = relay.told().len();
        let mut wire = Wire::login(("127.0.0.1", relay.port))?;
        wire.send(&wire::query(text))?;
        let _ = wire.messages();
        if !text.contains(';') {
            // An error, or what is not masked, ends nothing but this session.
            let _ = fetch(relay.port, text, true);
        }
        let seen = relay.told();
        let seen = &seen[before..];
        for (kind, body) in told {
            let pieces: Vec<Vec<u8>> = match kind {
                b'D' => values(&body).into_iter().flatten().collect(),
                b'd' => body.split(|b| *b <= b' ' || *b == b',').map(<[u8]>::to_vec).collect(),
                _ => continue,
            };
            for piece in pieces.into_iter().filter(|piece| piece.len() >= 5 && !says_nothing(piece, text)) {
                let found = seen.windows(piece.len()).any(|window| window == piece);
                ensure!(!found, "{text}: {} got through", String::from_utf8_lossy(&piece));
                compared += 1;
            }
        }
        let words = ["8861", "zq-", "zq\"", "1987"];
        let word = words.iter().find(|word| seen.windows(word.len()).any(|window| window == word.as_bytes()));
        ensure!(word.is_none(), "{text}: {word:?} got through");
    }
    ensure!(compared > 100, "only {compared} values");
    let blocked = gated.count("event_kind = 'statement' AND disposition = 'blocked'", |_| true)?;
    ensure!(blocked < EVASIONS.len() as u64, "most were refused, not masked: {blocked}");
    gated.end()
}

/// Pieces of an answer that are no sensitive value: what anybody may see, and the server's own words.
fn says_nothing(piece: &[u8], text: &str) -> bool {
    let piece = String::from_utf8_lossy(piece);
    ["seen by all", "nothing", "PGCOPY", "0"].contains(&&*piece)
        || text.starts_with("explain")
        || text.contains("copy") && ["plain", "nothing", "c_"].iter().any(|own| piece.contains(own))
}

/// Any value, as it came.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[tokio::test]
async fn tokio_postgres_decodes_masked_values() -> Result<()> {
    let server = typed()?;
    let gated = typed_cards(&server)?;
    let relay = &gated.relay;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(relay.port).user("postgres").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let statement = client.prepare("select * from typed where id = $1").await?;
    let (_, rows) = fetch(relay.port, "select * from typed order by id", true)?;
    let by_wire: HashMap<&str, &Option<Vec<u8>>> =
        COLUMNS.iter().map(|(name, ..)| *name).zip(rows[0].iter().skip(2)).collect();
    for _ in 0..3 {
        let row = client.query_one(&statement, &[&1i32]).await?;
        assert_eq!(row.get::<_, &str>("plain"), "seen by all");
        assert_eq!(row.get::<_, &str>("c_text"), "*".repeat(12));
        assert_eq!(row.get::<_, &str>("c_domain"), "*".repeat(9));
        assert!(!row.get::<_, bool>("c_bool"));
        assert_eq!(
            (row.get::<_, i16>("c_int2"), row.get::<_, i32>("c_int4"), row.get::<_, i64>("c_int8")),
            (0, 0, 0)
        );
        assert_eq!((row.get::<_, f32>("c_float4"), row.get::<_, f64>("c_float8")), (0.0, 0.0));
        assert_eq!((row.get::<_, u32>("c_oid"), row.get::<_, i8>("c_char")), (0, b'*' as i8));
        assert_eq!(row.get::<_, Vec<u8>>("c_bytea"), [0; 6]);
        assert_eq!(row.get::<_, std::net::IpAddr>("c_inet"), std::net::Ipv4Addr::UNSPECIFIED);
        assert_eq!(row.get::<_, Vec<Option<&str>>>("c_texts"), [Some("******"), None, Some("****")]);
        for column in row.columns().iter().filter(|column| column.name().starts_with("c_")) {
            let raw = row.get::<_, Option<Raw>>(column.name()).map(|raw| raw.0);
            assert_eq!(raw, *by_wire[column.name()], "{}", column.name());
            let user_defined = matches!(column.type_().kind(), Kind::Enum(_) | Kind::Composite(_));
            assert_eq!(raw.is_none(), user_defined, "{}", column.name());
        }
    }
    let transaction_rows =
        client.query("select c_int4 as id, id as other from typed order by 2", &[]).await?;
    assert_eq!(transaction_rows[0].get::<_, Option<i32>>("id"), Some(0));
    assert_eq!(transaction_rows[0].get::<_, i32>("other"), 1);
    drop(client);
    connection.await??;
    assert_nothing_got_through(&server, relay)?;
    gated.end()
}
