//! Values, names, texts and answers -> classes; numbers are made up or the issuers' published examples.

use super::*;
use crate::sql::{Dialect, Redaction, Texts};

fn classes(value: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    values::classes(value, &mut |class| found.push(class));
    found
}

#[test]
fn values_by_form_and_check_digits() {
    for (class, values) in [
        ("email", &["joe@example.com", "Joe.O'Brien+x@mail.example.co.uk", "jürgen@müller.de"][..]),
        ("phone", &["+49 30 901820", "+14155550123", "(212) 555-0123", "212-555-0123"]),
        (
            "card",
            &[
                "4111111111111111",
                "4111 1111 1111 1111",
                "5500-0000-0000-0004",
                "378282246310005",
                "6011111111111117",
            ],
        ),
        ("iban", &["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606"]),
        (
            "national_id",
            &[
                "219-09-9999",
                "AB123456C",
                "86095742719",
                "12345678Z",
                "X1234567L",
                "RSSMRA85T10A562S",
                "44051401359",
                "529.982.247-25",
                "255081416802538",
                "130 692 544",
            ],
        ),
        (
            "secret",
            &[
                "AKIAIOSFODNN7EXAMPLE",
                "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
                "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOHcbrzqgy",
                "sk-proj-abcdefghijklmnopqrstuvwx",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
                "postgres://joe:hunter2@db/shop",
                "host=db user=joe password=hunter2",
                "-----BEGIN RSA PRIVATE KEY-----\nabc",
            ],
        ),
        ("jwt", &["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"]),
    ] {
        for value in values {
            assert_eq!(classes(value), [class], "{value}");
            let inside = format!("Note: {value}, since then");
            assert!(classes(&inside).contains(&class) || class == "phone" || value.contains(' '), "{inside}");
        }
    }
    for value in [
        "hello world, this is text",
        "2020-01-01 10:00:00",
        "4111111111111112",
        "1234567890123456",
        "0000000000000000",
        "DE89370400440532013001",
        "000-12-3456",
        "BG123456A",
        "86095742718",
        "123e4567-e89b-12d3-a456-426614174000",
        "d41d8cd98f00b204e9800998ecf8427e",
        "SELECT a FROM t WHERE b = 1",
        "user@localhost",
        "a@b",
        "https://example.com/path?x=1",
        "postgres://joe@db/shop",
        "192.168.100.200",
        "application/json; charset=utf-8",
        "1699999999999",
        "100000000000000001",
        "CamelCaseIdentifierOfAVeryLongClassName",
    ] {
        assert_eq!(classes(value), [""; 0], "{value}");
    }
}

fn told(catalog: &Catalog, text: &str) -> Vec<String> {
    let text = Texts::default().intern(Dialect::Postgresql, text.as_bytes());
    text.data_classes(catalog).iter().map(|d| format!("{} {}", d.class, d.column)).collect()
}

#[test]
fn texts_by_their_names_and_literals() {
    let none = Catalog::default();
    for (text, expected) in [
        ("SELECT email FROM users", &["email users.email"][..]),
        (
            "SELECT u.email, o.total FROM public.users u JOIN orders AS o ON o.uid = u.id",
            &["email public.users.email"],
        ),
        ("SELECT phone, email FROM a, b", &["phone phone", "email email"]),
        ("SELECT * FROM t WHERE a = 'joe@example.com'", &["email t.a"]),
        ("SELECT * FROM t WHERE lower(contact) IN ('x', 'joe@example.com')", &["email t.contact"]),
        ("INSERT INTO t (id, pan) VALUES (1, '4111111111111111')", &["card t.pan"]),
        ("INSERT INTO t (id, num) VALUES (1, 'x'), (2, 4111111111111111)", &["card t.num"]),
        ("UPDATE t SET \"Api_Key\" = $1", &["secret t.api_key"]),
        ("SELECT * FROM pg_authid", &["secret pg_authid.*"]),
        ("SELECT count(*) FROM tokens", &["secret tokens.*"]),
        ("SELECT id, email_verified FROM users", &[]),
        ("SELECT 'joe@example.com'", &["email "]),
        ("SELECT email(1) FROM t", &[]),
    ] {
        assert_eq!(told(&none, text), expected, "{text}");
    }
}

#[test]
fn a_catalogue_goes_before_names() {
    let catalog = Catalog::read(
        "c.yaml",
        "relations:\n  public.users: {mail: email, fon: phone}\n  \"*.pay*\": {n: card}\n\
         columns: {\"*_zz\": health}\nexcept: [templates.email]\n",
    )
    .unwrap();
    assert_eq!(told(&catalog, "SELECT mail FROM users"), ["email users.mail"]);
    assert_eq!(told(&catalog, "SELECT * FROM users"), ["email users.mail", "phone users.fon"]);
    assert_eq!(told(&catalog, "COPY users TO STDOUT"), ["email users.mail", "phone users.fon"]);
    assert_eq!(told(&catalog, "SELECT count(*) FROM users"), [""; 0]);
    assert_eq!(
        told(&catalog, "SELECT n, a_zz FROM s.payments"),
        ["card s.payments.n", "health s.payments.a_zz"]
    );
    assert_eq!(told(&catalog, "SELECT email FROM templates"), [""; 0]);
    let problems = Catalog::read("c.yaml", "relatoins: {}\ncolumns: 3\n").unwrap_err();
    assert_eq!(problems.len(), 2);
    assert!(problems[0].to_string().contains("c.yaml:1:1") && problems[0].message.contains("'relations'"));
}

#[test]
fn answers_by_their_columns_and_first_rows() {
    let mut sample = Sample::new(Sample::columns([b"id".as_slice(), b"Email", b"note"].into_iter()));
    sample.row([Some(b"1".as_slice()), None, Some(b"card 4111 1111 1111 1111")].into_iter());
    sample.row([Some(b"2".as_slice()), Some(b"joe@example.com"), Some(&[0xff, 0xfe])].into_iter());
    let mut found = Found::default();
    sample.classes(&Catalog::default(), &[], &mut found);
    let told: Vec<String> = found.as_slice().iter().map(|d| format!("{} {}", d.class, d.column)).collect();
    assert_eq!(told, ["email email", "card note"]);
    assert!(!format!("{sample:?}").contains("joe"));
    sample.row(std::iter::empty());
    assert!(!sample.wants_row());
}

#[test]
fn only_what_is_sensitive_goes() {
    let catalog = Catalog::default();
    for (text, sensitive, none) in [
        ("SELECT 'a', 5 -- note", "SELECT 'a', 5 -- note", "SELECT 'a', 5 -- note"),
        (
            "SELECT * FROM t WHERE a = 'joe@example.com' AND b = 'x'",
            "SELECT * FROM t WHERE a = ? AND b = 'x'",
            "SELECT * FROM t WHERE a = 'joe@example.com' AND b = 'x'",
        ),
        (
            "UPDATE u SET password = 'x' WHERE id = 7",
            "UPDATE u SET password = ? WHERE id = 7",
            "UPDATE u SET password = 'x' WHERE id = 7",
        ),
        ("SELECT 'postgres://j:pw@h/d'", "SELECT ?", "SELECT ?"),
        (
            "SELECT 1 /* mail joe@example.com */ + 2",
            "SELECT 1 + 2",
            "SELECT 1 /* mail joe@example.com */ + 2",
        ),
    ] {
        let text = Texts::default().intern(Dialect::Postgresql, text.as_bytes());
        assert_eq!(&*text.shown_with(Redaction::Sensitive, &catalog), sensitive);
        assert_eq!(&*text.shown_with(Redaction::None, &catalog), none);
    }
}

proptest::proptest! {
    /// Any value ends, and nothing panics.
    #[test]
    fn any_value(value in "\\PC{0,80}") {
        let _ = classes(&value);
    }

    /// Digits and letters in the forms that are looked for.
    #[test]
    fn any_form(value in "[0-9A-Za-z@.+ -]{6,40}") {
        let _ = classes(&value);
    }
}
