//! A value of every type, in text and in binary, and what it becomes.

use super::dialogue::{Dialogue, col, in_binary, query, row, rows};
use super::plan;

/// What the client gets for the value of a sensitive column.
fn masked(oid: u32, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
    let mut d = Dialogue::new();
    d.ask(&query("select email from t"), Some(&plan()));
    let column = if binary { in_binary(col("email", oid)) } else { col("email", oid) };
    let head = rows(&[column]);
    let seen = d.answer(&[head.clone(), row(&[Some(value)])]).expect("masked");
    let row = seen.strip_prefix(&head[..]).expect("the head");
    assert_eq!(u32::from_be_bytes(row[1..5].try_into().unwrap()) as usize + 1, row.len());
    let length = i32::from_be_bytes(row[7..11].try_into().unwrap());
    (length >= 0).then(|| {
        assert_eq!(length as usize, row.len() - 11);
        row[11..].to_vec()
    })
}

#[test]
fn texts() {
    for (oid, value, expected) in [
        (25, "grüße", "*****"),
        (1042, "ab   ", "*****"),
        (18, "x", "*"),
        (16, "t", "f"),
        (23, "-42", "0"),
        (1700, "12.50", "0"),
        (701, "Infinity", "0"),
        (114, " {\"a\":1}", "{}"),
        (3802, "[1]", "[]"),
        (3802, "\"x\"", "\"****\""),
        (3802, "true", "false"),
        (3802, "12", "0"),
        (17, "\\xdeadbeef", "\\x00000000"),
        (17, "a\\001", "\\x0000000000"),
        (2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"),
        (1082, "1999-12-31", "2000-01-01"),
        (1082, "31.12.1999", "01.01.2000"),
        (1082, "12/31/1999", "01/01/2000"),
        (1082, "12-31-1999", "01-01-2000"),
        (1114, "1999-12-31 23:59:59.5", "2000-01-01 00:00:00"),
        (1114, "Fri Dec 31 23:59:59 1999", "Sat Jan 01 00:00:00 2000"),
        (1184, "1999-12-31 23:59:59+02", "2000-01-01 00:00:00+00"),
        (1184, "31.12.1999 23:59:59 CET", "01.01.2000 00:00:00 UTC"),
        (1186, "3 days 04:05:06", "00:00:00"),
        (1186, "P3DT4H", "PT0S"),
        (869, "10.1.2.3/8", "0.0.0.0"),
        (1560, "1011", "0000"),
        (3904, "[1,10)", "empty"),
        (1009, "{a,\"b c\",NULL,\"NULL\",\"\"}", "{*,***,NULL,****,\"\"}"),
        (1007, "[2:3]={{1,2},{3,NULL}}", "[2:3]={{0,0},{0,NULL}}"),
        (1015, "{\"a\\\"b\",\"{x}\"}", "{***,***}"),
        (1020, "{(1,1),(0,0);(2,2),(1,1)}", "{\"(0,0),(0,0)\";\"(0,0),(0,0)\"}"),
        (1115, "{\"1999-12-31 00:00:00\"}", "{\"2000-01-01 00:00:00\"}"),
        (3807, "{\"{\\\"a\\\": 1}\",\"[]\"}", "{\"{}\",[]}"),
        (1009, "{}", "{}"),
    ] {
        let seen = masked(oid, false, value.as_bytes()).map(|seen| String::from_utf8(seen).unwrap());
        assert_eq!(seen.as_deref(), Some(expected), "{oid}: {value}");
    }
}

#[test]
fn binaries() {
    let inet: &[u8] = &[2, 32, 0, 4, 10, 1, 2, 3];
    let array = |elements: &[u8]| {
        [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1][..], elements].concat()
    };
    for (oid, value, expected) in [
        (25, "grüße".as_bytes(), &b"*****"[..]),
        (16, &[1], &[0]),
        (21, &[1, 2], &[0, 0]),
        (23, &[1, 2, 3, 4], &[0; 4]),
        (20, &[1; 8], &[0; 8]),
        (1700, &[0, 1, 0, 0, 0, 0, 0, 2, 0, 42], &[0; 8]),
        (3802, b"\x01{\"a\":1}", b"\x01{}"),
        (17, b"abc", &[0; 3]),
        (869, inet, &[2, 32, 0, 4, 0, 0, 0, 0]),
        (1562, &[0, 0, 0, 9, 0xff, 0x80], &[0, 0, 0, 9, 0, 0]),
        (1266, &[1; 12], &[0; 12]),
        (3904, &[2, 0, 0, 0, 4, 0, 0, 0, 1], &[1]),
        (
            1007,
            &array(&[0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 8]),
            &array(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
        ),
    ] {
        assert_eq!(masked(oid, true, value).as_deref(), Some(expected), "{oid}");
    }
}

#[test]
fn what_is_not_known_or_malformed_becomes_null() {
    for (oid, binary, value) in [
        (90_000, false, &b"mood"[..]),
        (90_000, true, b"mood"),
        (2249, false, b"(1,ann)"),
        (1009, false, b"{ann"),
        (1009, false, b"ann"),
        (1009, false, b"{a}{b}"),
        (1009, true, b"\0\0\0\x01ann"),
        (1009, true, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]),
        (3802, true, b""),
        (1560, true, b"\0"),
    ] {
        assert_eq!(masked(oid, binary, value), None, "{oid}");
    }
}
