//! What is hard on the wire, through the gate: sizes, odd cuts and sends, pipelines, names that come and go, bulk. What is
//! forbidden is not executed, all else is answered as ever, and the next statement is in step.

use std::io::IoSlice;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sendmsg};
use tests::client::{self, Route};
use tests::guarded::{POLICIES, executed, guarding};
use tests::server::talkative;
use tests::wire::{self, Wire};
use xtask::postgres::Postgres;
use xtask::weir::Weir;

const REFUSED: &str = "blocked by policy";
const FORBIDDEN: &str = "/* forbidden */ drop table kept";

/// A guarded server, with a table that must stay.
fn guarded() -> Result<(Postgres, Weir, xtask::clickhouse::ClickHouse)> {
    let server = talkative()?;
    server.quietly("create table kept (id int)")?;
    let (agent, clickhouse) = guarding(&server, POLICIES, "")?;
    Ok((server, agent, clickhouse))
}

/// The session goes on, and is in step.
fn goes_on(wire: &mut Wire, word: &str) -> Result<()> {
    let said = wire.ask(&format!("select 'goes ' || 'on {word}'"))?;
    ensure!(said.contains(&format!("goes on {word}")), "{word}: {said}");
    Ok(())
}

/// Nothing that is forbidden was executed, and the agent ends well.
fn finish(server: &Postgres, agent: &mut Weir) -> Result<()> {
    ensure!(executed(server)?.is_empty(), "{:?}: {}", executed(server)?.first(), agent.said());
    ensure!(server.quietly("select count(*) from pg_class where relname = 'kept'")? == "1");
    ensure!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}

#[test]
fn every_size_with_the_verb_at_the_very_end() -> Result<()> {
    let (server, mut agent, _clickhouse) = guarded()?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    for size in [1 << 10, 8 << 10, 31 << 10, 1 << 20, 17 << 20] {
        let fill = "x".repeat(size);
        for extended in [false, true] {
            let sent = |text: &str| {
                if extended { [wire::extended("", text), wire::sync()].concat() } else { wire::query(text) }
            };
            wire.send(&sent(&format!("select length('{fill}') + 1000")))?;
            let said = wire.said().with_context(|| format!("{size}: {}", agent.said()))?;
            ensure!(said.contains(&(size + 1000).to_string()), "{size}: {said}");
            wire.send(&sent(&format!("/* forbidden {fill} */ truncate kept")))?;
            let said = wire.said().with_context(|| format!("{size}: {}", agent.said()))?;
            ensure!(said.contains(REFUSED), "{size}: {said}");
        }
        // Several statements in one text; the last is forbidden, so none is done.
        let said = wire
            .ask(&format!("insert into kept values (1); select '{fill}'; {FORBIDDEN}"))
            .with_context(|| format!("{size}: {}", agent.said()))?;
        ensure!(said.contains(REFUSED), "{size}: {said}");
        goes_on(&mut wire, &size.to_string())?;
    }
    ensure!(server.quietly("select count(*) from kept")? == "0");
    finish(&server, &mut agent)
}

#[test]
fn every_way_to_cut_and_to_send() -> Result<()> {
    let (server, mut agent, _clickhouse) = guarded()?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    wire.stream.set_nodelay(true)?;
    // A byte at a time; then the header by itself.
    for text in ["select 'one ' || 'by one'", "/* forbidden, a byte each */ drop table kept"] {
        wire.send_one_by_one(&wire::query(text))?;
        let said = wire.said()?;
        ensure!(said.contains("one by one") || said.contains(REFUSED), "{said}");
    }
    for text in ["select 'header ' || 'first'", "/* forbidden, the header first */ drop table kept"] {
        let bytes = wire::query(text);
        for part in [&bytes[..1], &bytes[1..5], &bytes[5..9], &bytes[9..]] {
            wire.send(part)?;
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        let said = wire.said()?;
        ensure!(said.contains("header first") || said.contains(REFUSED), "{said}");
    }
    // Many in one packet.
    let one = |n: usize| if n % 10 == 7 { FORBIDDEN.to_owned() } else { format!("select 'packed ' || {n}") };
    wire.send(&(0..50).flat_map(|n| wire::query(&one(n))).collect::<Vec<_>>())?;
    for n in 0..50 {
        let said = wire.said()?;
        let wanted = if n % 10 == 7 { REFUSED.to_owned() } else { format!("packed {n}") };
        ensure!(said.contains(&wanted), "{n}: {said}");
    }
    // 1024 pieces in one sendmsg, many messages in one sendmmsg, and sends that take less than is given.
    let gathered = [
        wire::query(&format!("select length('{}')", "y".repeat(3000))),
        wire::query("/* forbidden, gathered */ drop table kept"),
    ]
    .concat();
    let pieces: Vec<IoSlice<'_>> = gathered.chunks(gathered.len().div_ceil(1024)).map(IoSlice::new).collect();
    let sent = sendmsg(&wire.stream, &pieces, &mut SendAncillaryBuffer::default(), SendFlags::empty())?;
    ensure!(sent == gathered.len());
    ensure!(wire.said()?.contains("3000"));
    ensure!(wire.said()?.contains(REFUSED));
    let texts: Vec<Vec<u8>> = (0..40).map(|n| wire::query(&one(n))).collect();
    let slices: Vec<[IoSlice<'_>; 1]> = texts.iter().map(|text| [IoSlice::new(text)]).collect();
    let mut nothing: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> =
        slices.iter().zip(&mut nothing).map(|(slice, nothing)| MMsgHdr::new(slice, nothing)).collect();
    let count = sendmmsg(&wire.stream, &mut messages, SendFlags::empty())?;
    ensure!(count == slices.len(), "{count} messages");
    for n in 0..40 {
        let said = wire.said()?;
        let wanted = if n % 10 == 7 { REFUSED.to_owned() } else { format!("packed {n}") };
        ensure!(said.contains(&wanted), "{n}: {said}");
    }
    let long = [
        wire::query(&format!("select length('{}')", "z".repeat(3 << 20))),
        wire::query(&format!("/* forbidden {} */ drop table kept", "z".repeat(3 << 20))),
    ]
    .concat();
    let mut stream = wire.stream.try_clone()?;
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, 16 << 10)?;
    stream.set_nonblocking(true)?;
    let mut rest = &long[..];
    let mut short = 0;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(count) => {
                short += usize::from(count < rest.len());
                rest = &rest[count..];
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    stream.set_nonblocking(false)?;
    ensure!(short > 0, "no send was short");
    ensure!(wire.said()?.contains(&(3 << 20).to_string()));
    ensure!(wire.said()?.contains(REFUSED));
    goes_on(&mut wire, "whatever was sent")?;
    finish(&server, &mut agent)
}

#[test]
fn pipelines_with_a_failing_and_a_forbidden_one_in_the_middle() -> Result<()> {
    let (server, mut agent, _clickhouse) = guarded()?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    // Each with its own Sync.
    let one = |n: usize| match n {
        13 => "select 1/0".to_owned(),
        30 => FORBIDDEN.to_owned(),
        _ => format!("select 'piped ' || {n}"),
    };
    let all = (0..50).flat_map(|n| [wire::extended("", &one(n)), wire::sync()].concat());
    wire.send(&all.collect::<Vec<_>>())?;
    for n in 0..50 {
        let said = wire.said()?;
        let wanted = match n {
            13 => "division by zero".to_owned(),
            30 => REFUSED.to_owned(),
            _ => format!("piped {n}"),
        };
        ensure!(said.contains(&wanted), "{n}: {said}");
    }
    // Fifty under one Sync: behind the forbidden one all is skipped, as behind any error.
    for bad in [FORBIDDEN, "select 1/0"] {
        let text = |n| if n == 30 { bad.to_owned() } else { format!("select 'under one ' || {n}") };
        wire.send(&[(0..50).flat_map(|n| wire::extended("", &text(n))).collect(), wire::sync()].concat())?;
        let said = wire.said()?;
        ensure!(said.contains("under one 29") && !said.contains("under one 31"), "{bad}: {said}");
        ensure!(said.contains(if bad == FORBIDDEN { REFUSED } else { "division by zero" }), "{bad}: {said}");
    }
    // Several in one text: none of it is done.
    ensure!(
        wire.ask("insert into kept values (2); /* forbidden */ delete from kept; select 3")?
            .contains(REFUSED)
    );
    ensure!(wire.ask("select 1/0; /* forbidden */ delete from kept")?.contains(REFUSED));
    let said = wire.ask("select 'first'; select 1/0; select 'third'")?;
    ensure!(said.contains("first") && said.contains("division by zero") && !said.contains("third"), "{said}");
    ensure!(server.quietly("select count(*) from kept")? == "0");
    goes_on(&mut wire, "behind pipelines")?;
    finish(&server, &mut agent)
}

#[test]
fn names_that_come_and_go() -> Result<()> {
    let (server, mut agent, _clickhouse) = guarded()?;
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    let mut ask = |bytes: Vec<u8>, wanted: &str, not: &str| -> Result<()> {
        wire.send(&[bytes, wire::sync()].concat())?;
        let said = wire.said()?;
        ensure!(
            said.contains(wanted) && (not.is_empty() || !said.contains(not)),
            "wanted {wanted}, got {said}"
        );
        Ok(())
    };
    // The unnamed one, parsed anew before the first is executed twice.
    let first = wire::extended("", "select 'first ' || 1");
    ask(
        [first.clone(), wire::extended("", "select 'second ' || 2"), wire::execute("")].concat(),
        "second 2",
        "ERROR",
    )?;
    ask([first.clone(), wire::extended("", FORBIDDEN)].concat(), REFUSED, "second")?;
    // What the unnamed one was before stays, as behind any error of a Parse; a harmless name is not taken by a forbidden text.
    ask(wire::extended("s1", "select 'named ' || 1"), "named 1", "ERROR")?;
    ask(wire::message(b'C', b"Ss1\0"), "", "ERROR")?;
    ask(wire::extended("s1", FORBIDDEN), REFUSED, "named")?;
    ask(wire::execute("s1"), "does not exist", REFUSED)?;
    ask(wire::extended("s1", "select 'named ' || 2"), "named 2", "ERROR")?;
    ask(wire::execute("s1"), "named 2", "ERROR")?;
    // Names of SQL, by each way to forget them.
    for forget in ["deallocate p", "deallocate all", "discard all"] {
        ask(wire::extended("", "prepare p as select 'prepared ' || 1"), "", "ERROR")?;
        ask(wire::extended("", "execute p"), "prepared 1", "ERROR")?;
        ask(wire::extended("", forget), "", "ERROR")?;
        ask(wire::extended("", "/* forbidden */ prepare p as delete from kept"), REFUSED, "")?;
        ask(wire::extended("", "execute p"), "does not exist", "")?;
        ask(wire::extended("", "prepare p as select 'prepared ' || 2"), "", "ERROR")?;
        ask(wire::extended("", "execute p"), "prepared 2", "ERROR")?;
        ask(wire::extended("", "deallocate p"), "", "ERROR")?;
    }
    // Cursors, fetched in parts, with something forbidden between two fetches of a holdable one.
    ask(
        wire::extended("", "declare c cursor with hold for select 'row ' || g from generate_series(1, 20) g"),
        "",
        "ERROR",
    )?;
    ask(wire::extended("", "fetch 7 from c"), "row 7", "row 8")?;
    ask(wire::extended("", FORBIDDEN), REFUSED, "")?;
    ask(wire::extended("", "fetch 7 from c"), "row 14", "row 15")?;
    ask(wire::extended("", "close c"), "", "ERROR")?;
    // A portal that is suspended and goes on: Execute with a limit of rows, twice.
    let limited = |rows: u32| wire::message(b'E', &[b"\0", &rows.to_be_bytes()[..]].concat());
    let begun = [
        wire::message(b'P', b"\0select 'part ' || g from generate_series(1, 9) g\0\0\0"),
        wire::message(b'B', b"\0\0\0\0\0\0\0\0"),
        limited(4),
        limited(4),
    ];
    ask(begun.concat(), "part 8", "part 9")?;
    goes_on(&mut wire, "behind names")?;
    finish(&server, &mut agent)
}

#[test]
fn bulk_both_ways_and_the_next_is_in_step() -> Result<()> {
    let (server, mut agent, _clickhouse) = guarded()?;
    server.quietly("create table bulk (id int, note text)")?;
    let copy_in = "\\copy bulk from program 'seq -f \"%.0f\tsome words that take their place\" 1 400000'";
    let said = client::psql(
        &server,
        &Route::loopback4(),
        &[
            "-c",
            copy_in,
            "-c",
            FORBIDDEN,
            "-c",
            "select count(*) from bulk",
            "-c",
            "\\copy bulk to '/dev/null'",
            "-c",
            "/* forbidden */ truncate bulk",
            "-c",
            "select sum(id) from bulk",
        ],
    )?;
    ensure!(said == "400000\n80000200000", "{said}");
    // A gigabyte of results, and what is forbidden asked for before any of it is read.
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    wire.send(
        &[wire::query("select repeat('x', 1024) from generate_series(1, 1048576)"), wire::query(FORBIDDEN)]
            .concat(),
    )?;
    let bytes = wire.until_ready_bytes()?;
    ensure!(bytes > 1 << 30, "{bytes} bytes of a gigabyte");
    ensure!(wire.said()?.contains(REFUSED));
    // A COPY in whose data looks like statements, and one that is given up.
    wire.send(
        &[
            wire::query("copy bulk from stdin"),
            wire::message(b'd', b"1\tdrop table kept\n"),
            wire::message(b'c', b""),
        ]
        .concat(),
    )?;
    let said = wire.said()?;
    ensure!(said.contains("COPY 1"), "{said}");
    wire.send(
        &[wire::query("copy bulk from stdin"), wire::message(b'f', b"no\0"), wire::query(FORBIDDEN)].concat(),
    )?;
    ensure!(wire.said()?.contains("57014"));
    ensure!(wire.said()?.contains(REFUSED));
    goes_on(&mut wire, "behind bulk")?;
    finish(&server, &mut agent)
}

/// A name without a schema means what the session's search path makes of it, however that was set.
#[test]
fn a_search_path_is_followed_however_it_is_set() -> Result<()> {
    const SECRETS: &str = "kind: DatabasePolicy
metadata: {name: no-secrets}
spec: {mode: enforce, match: {relations: [{name: \"secret.*\"}]}, action: block}
";
    let server = talkative()?;
    server.quietly("create schema secret")?;
    for table in ["secret.kept", "public.kept"] {
        server.quietly(&format!("create table {table} (id int)"))?;
    }
    let (mut agent, _clickhouse) = guarding(&server, SECRETS, "")?;
    for set in [
        "set search_path = secret, public",
        "select set_config('search_path', 'secret, public', false)",
        "select 1, pg_catalog.set_config ( 'Search_Path', 'secret', false ) where true",
    ] {
        let mut wire = Wire::login(("127.0.0.1", server.port))?;
        let said = wire.ask("select 'before', count(*) from kept")?;
        ensure!(said.contains("before"), "{set}: {said}");
        wire.send(&[wire::extended("", set), wire::sync()].concat())?;
        let said = wire.said()?;
        ensure!(!said.contains("ERROR"), "{set}: {said}");
        let said = wire.ask("/* forbidden */ select * from kept")?;
        ensure!(said.contains(REFUSED), "{set}: {said}");
        let said = wire.ask("select 'behind', count(*) from public.kept")?;
        ensure!(said.contains("behind"), "{set}: {said}");
    }
    ensure!(executed(&server)?.is_empty(), "{:?}", executed(&server)?.first());
    ensure!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
