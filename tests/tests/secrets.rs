//! Secrets planted wherever statements can hold them are found nowhere that weir writes, sends or shows.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::client::{self, Route};
use tests::receiver::Receiver;
use tests::stored::wait_for;
use tests::wire::{self, Wire};
use xtask::postgres::Postgres;
use xtask::scratch::{self, Scratch};
use xtask::weir::{self, Weir};

/// Known by their form, wherever they stand.
const FORMED: &[&str] = &[
    "4111111111111111",
    "5500005555555559",
    "4012-8888-8888-1881",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "AKIAIOSFODNN7EXAMPLE",
    "DE89370400440532013000",
    "joe@planted.example",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlLXBsYW50ZWQ",
];
/// Known by where they stand.
const PASSWORD: &str = "hunter2planted";
/// Known by nothing: only the redaction of all literals takes it out.
const PLAIN: &str = "plainplanted";

/// Alerts on everything, so that everything is told to everybody.
const RULES: &str = "kind: DatabasePolicy\nmetadata: {name: everything}\nspec:\n  match: {}\n  action: alert\n---\n\
    kind: DatabasePolicy\nmetadata: {name: habits}\nspec:\n  match: {unusual: {first: relation, learning: 0s}}\n  action: alert\n";

/// Statements with passwords, whatever they do here.
fn with_passwords() -> Vec<String> {
    vec![
        format!("create user joe_{{db}} password '{PASSWORD}'"),
        format!("alter role joe_{{db}} with encrypted password $${PASSWORD}$$"),
        format!("ALTER USER joe_{{db}} PASSWORD E'{PASSWORD}' VALID UNTIL 'infinity'"),
        format!("create role other_{{db}} login password '{PASSWORD}', password '{PASSWORD}'"),
        format!("select 'postgres://joe:{PASSWORD}@db.example/shop'"),
        format!("select dblink_connect('host=db user=joe password={PASSWORD}')"),
        format!("create subscription s connection 'host=db password={PASSWORD}' publication p"),
        format!("create user mapping for public server s options (user 'joe', password '{PASSWORD}')"),
        format!("update accounts set password = '{PASSWORD}' where name = 'joe'"),
        format!("insert into accounts (name, password) values ('joe', '{PASSWORD}')"),
        format!("select 1 from accounts where password = '{PASSWORD}' -- password={PASSWORD}"),
    ]
}

/// Statements around one secret that is known by its form.
fn around(secret: &str) -> Vec<String> {
    vec![
        format!("select '{secret}'"),
        format!("select 1 /* {secret} */ -- {secret}"),
        format!("insert into vault (pan) values ('{secret}')"),
        // The errors quote the value: invalid input, a duplicate key.
        format!("select '{secret}'::integer"),
        format!("insert into vault (pan) values ('{secret}')"),
        format!("select * from vault where pan = $${secret}$$"),
        format!("prepare p(text) as select * from vault where pan = $1; execute p('{secret}'); deallocate p"),
        format!("do $do$ begin perform '{secret}'; raise exception 'no: {secret}'; end $do$"),
        format!("selekt '{secret}"),
        format!("declare c cursor for select '{secret}'"),
        format!("notify planted, '{secret}'"),
        format!("copy (select pan, '{secret}' from vault) to stdout"),
    ]
}

/// Everything of one database.
fn work(server: &Postgres, database: &str, all: bool) -> Result<()> {
    let route = Route::loopback4();
    let run =
        |sql: &str| client::psql(server, &route, &["-d", database, "-c", &sql.replace("{db}", database)]);
    run("create table vault (pan text unique)")?;
    run("create table accounts (name text, password text)")?;
    let statements: Vec<String> = with_passwords().iter().map(|sql| sql.replace("{db}", database)).collect();
    let arguments = statements.iter().flat_map(|sql| ["-c", sql]);
    client::psql(server, &route, &["-d", database].into_iter().chain(arguments).collect::<Vec<_>>())?;
    for secret in FORMED {
        // One client for all: its command line is planted too.
        let statements = around(secret);
        let arguments = statements.iter().flat_map(|sql| ["-c", sql]);
        client::psql(server, &route, &["-d", database].into_iter().chain(arguments).collect::<Vec<_>>())?;
        if all {
            run(&format!("set application.token = '{PLAIN}'; select '{PLAIN}' as \"c\", 'a' || '{PLAIN}'"))?;
        }
        let mut wire = Wire::connect(("127.0.0.1", server.port))?;
        wire.send(&wire::startup(&[("user", "postgres"), ("database", database)]))?;
        wire.until_ready()?;
        let bound = |sql: &str, value: &str| {
            let parse = wire::message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
            let length = (value.len() as u32).to_be_bytes();
            let bind = [b"\0\0\0\0\0\x01", &length[..], value.as_bytes(), b"\0\0"].concat();
            [parse, wire::message(b'B', &bind), wire::message(b'E', b"\0\0\0\0\0"), wire::sync()].concat()
        };
        wire.send(&bound("select pan from vault where pan = $1", secret))?;
        wire.until_ready()?;
        wire.send(&bound("update accounts set password = $1", PASSWORD))?;
        wire.until_ready()?;
        // Where no message of the kind belongs.
        wire.send(&wire::message(b'p', format!("{PASSWORD}\0").as_bytes()))?;
        let _ = wire.until_ready();
    }
    // Data that is copied in, and out again.
    let data = FORMED.iter().fold(String::new(), |all, secret| all + secret + " copied\n");
    let file = server.home().join(format!("{database}.sql"));
    fs::write(&file, format!("copy vault from stdin;\n{data}\\.\ncopy vault to stdout;\ntable vault;\n"))?;
    client::psql(server, &route, &["-d", database, "-f", &file.to_string_lossy()])?;
    // Command lines: what a program is called with, and what a shell that calls it is.
    let psql = server.client("psql");
    let program = psql.get_program().to_string_lossy().into_owned();
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", server.port);
    for arguments in [
        vec![program.clone(), "-X".into(), url.clone(), "-c".into(), format!("select '{}'", FORMED[0])],
        vec![
            "sh".into(),
            "-c".into(),
            format!("PGPASSWORD={PASSWORD} {program} -X '{url}' -c \"select '{}'\"; true", FORMED[1]),
        ],
        vec![
            "env".into(),
            format!("PGPASSWORD={PASSWORD}"),
            program.clone(),
            "-X".into(),
            url.clone(),
            "-c".into(),
            "select 1".into(),
        ],
        vec![
            program,
            "-X".into(),
            format!("{url}?password={PASSWORD}"),
            "-c".into(),
            format!("select '{}'", FORMED[3]),
        ],
    ] {
        Command::new(&arguments[0]).args(&arguments[1..]).output().context("a client runs")?;
    }
    Ok(())
}

/// The secrets that are in a text.
fn found(text: &[u8]) -> Vec<&'static str> {
    let planted = FORMED.iter().copied().chain([PASSWORD, PLAIN, "hookplanted", "tokenplanted"]);
    let within = |secret: &&str| text.windows(secret.len()).any(|window| window == secret.as_bytes());
    planted.filter(within).collect()
}

/// Where the first secret stands.
fn around_it(bytes: &[u8]) -> String {
    let Some(secret) = found(bytes).first().copied() else { return String::new() };
    let at = bytes.windows(secret.len()).position(|window| window == secret.as_bytes()).unwrap_or(0);
    String::from_utf8_lossy(&bytes[at.saturating_sub(300)..(at + 100).min(bytes.len())]).into_owned()
}

/// Every file below, with its bytes; the engine's binary logs of itself are its own.
fn files(directory: &Path, each: &mut dyn FnMut(&Path, &[u8])) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, each)?;
        } else if path.is_file() {
            each(&path, &fs::read(&path)?);
        }
    }
    Ok(())
}

#[test]
fn no_planted_secret_is_found_anywhere() -> Result<()> {
    let server = Postgres::start(&[])?;
    for database in ["redacted", "selective"] {
        server.quietly(&format!("create database {database}"))?;
    }
    let (receiver, port, engine) = (Receiver::start()?, scratch::free_port()?, scratch::free_port()?);
    let syslog = std::net::UdpSocket::bind("127.0.0.1:0")?;
    syslog.set_read_timeout(Some(Duration::from_millis(200)))?;
    let scratch = Scratch::new("agent")?;
    let home = scratch.path().to_owned();
    let (state, ocsf) = (home.join("state"), home.join("ocsf.jsonl"));
    fs::create_dir_all(home.join("policies"))?;
    fs::create_dir_all(home.join("secrets"))?;
    fs::write(home.join("policies/rules.yaml"), RULES)?;
    fs::write(home.join("secrets/hook"), format!("{}/hookplanted", receiver.url))?;
    fs::write(home.join("secrets/token"), "tokenplanted")?;
    let secrets = home.join("secrets");
    let config = |store: &str| {
        format!(
            "state: {}\npolicies: {}\n{store}redaction: {{default: literals, databases: {{selective: sensitive}}}}\n\
             listen: {{metrics: \"127.0.0.1:{port}\"}}\nsignals:\n\
             \x20 - {{kind: webhook, url_file: {hook}, token_file: {token}, within: 0s}}\n\
             \x20 - {{kind: otlp, url: \"{}\", token_file: {token}, within: 0s}}\n\
             \x20 - {{kind: syslog, address: \"udp://{}\", within: 0s}}\n\
             \x20 - {{kind: ocsf, file: {}, within: 0s}}\n",
            state.display(),
            home.join("policies").display(),
            receiver.url,
            syslog.local_addr().map(|a| a.to_string()).unwrap_or_default(),
            ocsf.display(),
            hook = secrets.join("hook").display(),
            token = secrets.join("token").display(),
        )
    };
    let file = home.join("weir.yaml");
    // Nothing takes the receipts yet: they stay in the spool.
    fs::write(&file, config("store: {url: \"http://127.0.0.1:1\"}\n"))?;
    let binary = weir::binary()?.to_string_lossy().into_owned();
    let arguments = ["WEIR_LOG=trace", &binary, "run", "--config", &file.to_string_lossy()];
    let mut agent = Weir::start_program(Path::new("env"), scratch, &arguments)?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
    assert_eq!(core.split_whitespace().rev().nth(1), Some("0"), "{core}");

    work(&server, "redacted", true)?;
    work(&server, "selective", false)?;
    let began = Instant::now();
    // Again and again: a receiver that is slower than the work is not told everything.
    while !receiver.got().contains("SELECT marker_done") {
        if began.elapsed() > Duration::from_mins(2) {
            bail!("not told within two minutes: {}", agent.said().lines().last().unwrap_or_default());
        }
        for database in ["redacted", "selective"] {
            let marker = ["-d", database, "-c", "select 1 as marker from marker_done"];
            client::psql(&server, &Route::loopback4(), &marker)?;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    let mut shown = Vec::new();
    let mut run = |what: &'static str, command: &mut Command| -> Result<()> {
        let out = command.output()?;
        assert!(!out.stdout.is_empty(), "{what} says nothing: {}", String::from_utf8_lossy(&out.stderr));
        shown.push((what, [out.stdout, out.stderr].concat()));
        Ok(())
    };
    run("metrics", Command::new("curl").args(["-s", &format!("http://127.0.0.1:{port}/metrics")]))?;
    run("doctor", Command::new(&binary).args(["doctor", "--format", "json"]))?;
    run("print-config", Command::new(&binary).args(["run", "--print-config", "--config"]).arg(&file))?;
    let mut datagram = vec![0; 65536];
    let mut datagrams = Vec::new();
    while let Ok(length) = syslog.recv(&mut datagram) {
        datagrams.extend_from_slice(&datagram[..length]);
    }
    assert!(agent.stop()?.success(), "{}", agent.said().lines().last().unwrap_or_default());
    shown.push(("syslog", datagrams));
    shown.push(("ocsf", fs::read(&ocsf)?));
    shown.push(("log", agent.said().into_bytes()));
    // The receiver knows the address and the token that it is sent to with.
    let sent = receiver.got().replace("hookplanted", "").replace("tokenplanted", "");
    shown.push(("webhook and OTLP", sent.into_bytes()));
    files(&state, &mut |path, bytes| {
        assert_eq!(found(bytes), [""; 0], "{}: {}", path.display(), around_it(bytes));
    })?;
    assert!(fs::read_to_string(state.join("seen.jsonl"))?.contains("vault"), "habits are kept");
    for (what, bytes) in &shown {
        if !found(bytes).is_empty() {
            let text = String::from_utf8_lossy(bytes);
            let line = text.lines().find(|line| !found(line.as_bytes()).is_empty()).unwrap_or_default();
            bail!("{what} holds {:?}: {}", found(bytes), &line[..line.floor_char_boundary(2000)]);
        }
    }

    // The spool goes to a ClickHouse: every column of every table.
    fs::write(&file, config(&format!("store: {{listen: \"127.0.0.1:{engine}\"}}\n")))?;
    let scratch = agent.into_scratch()?;
    let arguments = ["run", "--config", &file.to_string_lossy()];
    let mut agent = Weir::start_program(Path::new(&binary), scratch, &arguments)?;
    let clickhouse = xtask::clickhouse::ClickHouse { url: format!("http://127.0.0.1:{engine}") };
    let done = format!(
        "SELECT count() FROM weir.events WHERE server_port = {} AND db_collection_name = 'marker_done'",
        server.port
    );
    wait_for(&clickhouse, &done, |n| n >= 2)?;
    let held = "SELECT count() FROM weir.events WHERE db_namespace IN ('redacted', 'selective') AND event_kind = 'statement'";
    let statements = clickhouse.number(held)?;
    assert!(statements > 200, "only {statements} statements");
    let tables = clickhouse.query(
        "SELECT database, name FROM system.tables WHERE database NOT IN ('system', \
        'information_schema', 'INFORMATION_SCHEMA') FORMAT TSV",
    )?;
    assert!(tables.contains("weir\tevents"), "{tables}");
    for table in tables.lines().filter_map(|line| line.split_once('\t')).map(|(a, b)| format!("{a}.`{b}`")) {
        let rows = clickhouse.query(&format!("SELECT * FROM {table} FORMAT JSONEachRow"))?;
        if let Some(row) = rows.lines().find(|row| !found(row.as_bytes()).is_empty()) {
            bail!("{table} holds {:?}: {row}", found(row.as_bytes()));
        }
    }
    assert!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
