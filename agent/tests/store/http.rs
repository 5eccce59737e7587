//! `weir clickhouse` as `curl`, Grafana and the `clickhouse` crate see it.

use std::io::{Read, Write};
use std::net::TcpStream;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::support::{Directory, client, start};

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// One request over one connection, as plain as `curl` sends it.
fn request(url: &str, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    read(stream)
}

fn read(mut stream: TcpStream) -> Answer {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
    let mut body = all[end + 4..].to_vec();
    if head.contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Answer { status: head[9..12].parse().unwrap(), head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        out.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[(end + 4 + size).min(rest.len())..];
    }
    out
}

fn get(url: &str, sql: &str) -> Answer {
    request(url, "GET", &format!("/?query={}", encode(sql)), "", b"")
}

fn post(url: &str, sql: &str) -> Answer {
    request(url, "POST", "/", "", sql.as_bytes())
}

fn ok(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[test]
fn queries_settings_and_errors() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    assert_eq!(ok(&request(&url, "GET", "/ping", "", b"")), "Ok.\n");
    assert_eq!(ok(&get(&url, "SELECT 1 + 1")), "2\n");
    assert_eq!(ok(&post(&url, "SELECT 'a', 2 FORMAT CSV")), "\"a\",2\n");
    // The query in the URL, its rest in the body, as the server joins them.
    assert_eq!(ok(&request(&url, "POST", "/?query=SELECT", "", b"7")), "7\n");
    let target = format!(
        "/?query={}&param_n=41&param_s={}",
        encode("SELECT {n:UInt8} + 1, {s:String}"),
        encode("it's")
    );
    assert_eq!(ok(&request(&url, "GET", &target, "", b"")), "42\tit's\n".replace('\'', "\\'"));
    let form = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {n:UInt8} + 1, {s:String}\r\n--b\r\n\
                Content-Disposition: form-data; name=\"param_n\"\r\n\r\n41\r\n--b\r\n\
                Content-Disposition: form-data; name=\"param_s\"\r\n\r\nx\r\n--b--\r\n";
    let head = "Content-Type: multipart/form-data; boundary=b\r\n";
    assert_eq!(ok(&request(&url, "POST", "/", head, form.as_bytes())), "42\tx\n");
    assert_eq!(request(&url, "POST", "/", head, &form.as_bytes()[..90]).status, 400);
    assert_eq!(
        ok(&request(&url, "GET", "/?query=SELECT+getSetting('max_threads')&max_threads=3", "", b"")),
        "3\n"
    );
    assert_eq!(
        ok(&get(&url, "SELECT getSetting('max_threads') != 3")),
        "1\n",
        "settings end with their request"
    );
    ok(&post(&url, "CREATE DATABASE shop"));
    ok(&request(
        &url,
        "POST",
        "/?database=shop",
        "",
        b"CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a",
    ));
    assert_eq!(
        ok(&request(
            &url,
            "GET",
            "/?query=SELECT+count()+FROM+t&database=shop",
            "X-ClickHouse-User: u\r\nX-ClickHouse-Key: k\r\n",
            b""
        )),
        "0\n"
    );

    let json = request(&url, "POST", "/?default_format=JSONCompact", "", b"SELECT 1 AS x");
    assert!(ok(&json).contains("\"data\":"), "{}", json.text());
    assert!(json.head.contains("x-clickhouse-format: jsoncompact"), "{}", json.head);
    assert!(json.head.contains("content-type: application/json"));
    assert!(json.head.contains("x-clickhouse-summary: {") && json.head.contains("x-clickhouse-timezone: "));
    let large = get(&url, "SELECT number FROM numbers(300000) FORMAT TabSeparated");
    assert_eq!(ok(&large).lines().count(), 300_000);
    let json = ok(&get(&url, "SELECT number FROM numbers(200000) FORMAT JSON"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"], 200_000, "one document, however many pieces it has");

    for (sql, status, code) in [
        ("SELECT nonsense FROM", 400, "62"),
        ("SELECT * FROM nowhere", 404, "60"),
        ("SELECT nofunction()", 404, "46"),
        ("", 400, "62"),
        ("SELECT throwIf(1)", 400, "395"),
    ] {
        let answer = post(&url, sql);
        assert_eq!(answer.status, status, "{sql}: {}", answer.text());
        assert!(
            answer.head.contains(&format!("x-clickhouse-exception-code: {code}")),
            "{sql}: {}",
            answer.head
        );
        assert!(answer.text().starts_with(&format!("Code: {code}.")), "{sql}: {}", answer.text());
    }
    assert_eq!(request(&url, "GET", "/?query=SELECT+1&no_such_setting=1", "", b"").status, 404);
    assert_eq!(get(&url, "DROP DATABASE shop").status, 403, "a GET changes nothing");
    assert_eq!(get(&url, "INSERT INTO shop.t VALUES (1, 'a')").status, 403);
    assert_eq!(request(&url, "PUT", "/", "", b"").status, 405);
    assert_eq!(request(&url, "GET", "/elsewhere", "", b"").status, 404);
    // An error in the middle of an answer breaks it off: it cannot be taken for whole.
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let sql = encode("SELECT throwIf(number = 2000000) FROM numbers(3000000) SETTINGS max_threads = 1");
    write!(stream, "GET /?query={sql} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let failed_at_once = all.starts_with(b"HTTP/1.1 400");
    assert!(failed_at_once || !all.ends_with(b"0\r\n\r\n"));
}

fn rows(count: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for i in 0..count {
        body.extend_from_slice(&i.to_le_bytes());
        let text = format!("row\0{i}");
        body.push(text.len() as u8);
        body.extend_from_slice(text.as_bytes());
    }
    body
}

#[test]
fn inserts_are_whole_or_an_error() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    ok(&post(&url, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a"));
    let count = || ok(&get(&url, "SELECT count(), sum(a) FROM t")).trim().to_owned();
    let insert = format!("/?query={}", encode("INSERT INTO t (a, s) FORMAT RowBinary"));

    // The engine's own trap: data behind the statement lost rows without a word.
    let body = rows(100_000);
    assert_eq!(request(&url, "POST", &insert, "", &body).status, 200);
    assert_eq!(count(), "100000\t4999950000");
    let mut in_one = b"INSERT INTO t FORMAT RowBinary\n".to_vec();
    in_one.extend_from_slice(&body);
    assert_eq!(request(&url, "POST", "/", "", &in_one).status, 200);
    assert_eq!(count(), "200000\t9999900000");
    ok(&post(&url, "TRUNCATE TABLE t"));

    // Cut within a row; broken off by the client; damaged.
    assert_eq!(request(&url, "POST", &insert, "", &body[..body.len() - 3]).status, 400);
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST {insert} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body[..9 * 1000]).unwrap();
    drop(stream);
    let packed = format!("{insert}&decompress=1");
    assert_eq!(request(&url, "POST", &packed, "", &body).status, 400);
    assert_eq!(request(&url, "POST", "/?query=INSERT+INTO+gone+FORMAT+RowBinary", "", &body).status, 404);
    assert_eq!(count(), "0\t0");

    for statement in [
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO t FORMAT CSV\n3,c\n4,d\n",
        "INSERT INTO t SELECT 5, 'e'",
    ] {
        ok(&post(&url, statement));
    }
    let target = format!("/?query={}", encode("INSERT INTO t FORMAT JSONEachRow"));
    ok(&request(&url, "POST", &target, "", b"{\"a\": 6, \"s\": \"f\"}\n"));
    // A body in chunks, cut anywhere.
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST {insert} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .unwrap();
    for piece in rows(1000).chunks(777) {
        write!(stream, "{:x}\r\n", piece.len()).unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(read(stream).status, 200);
    assert_eq!(count(), format!("1006\t{}", 21 + 499_500));
}

#[derive(Row, Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Line {
    a: u64,
    s: String,
}

#[tokio::test]
async fn the_crate_works_with_compression_both_ways() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let client =
        client(&engine.url()).with_database("default").with_compression(clickhouse::Compression::Lz4);
    client
        .query("CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
        .execute()
        .await
        .unwrap();
    let lines: Vec<_> = (0..200_000).map(|a| Line { a, s: format!("line {a}") }).collect();
    let mut insert = client.insert::<Line>("t").await.unwrap();
    for line in &lines {
        insert.write(line).await.unwrap();
    }
    insert.end().await.unwrap();
    let back: Vec<Line> = client.query("SELECT a, s FROM t ORDER BY a").fetch_all().await.unwrap();
    assert!(back == lines);
    let one: u64 = client.query("SELECT sum(a) FROM t WHERE a < ?").bind(10).fetch_one().await.unwrap();
    assert_eq!(one, 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_does_not_keep_an_insert_waiting() {
    let directory = Directory::new();
    let engine = start(&directory.0);
    let url = engine.url();
    ok(&post(&url, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a"));
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, address) = (std::sync::Arc::clone(&order), url.clone());
    let reader = std::thread::spawn(move || {
        ok(&get(
            &address,
            "SELECT sleepEachRow(1) FROM numbers(4) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0",
        ));
        seen.lock().unwrap().push("read");
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    ok(&post(&url, "INSERT INTO t VALUES (1)"));
    order.lock().unwrap().push("insert");
    reader.join().unwrap();
    assert_eq!(*order.lock().unwrap(), ["insert", "read"]);
}
