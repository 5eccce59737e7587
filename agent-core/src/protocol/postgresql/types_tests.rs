//! Binary values -> the text that the server would have sent.

use super::*;

/// What PostgreSQL 15 itself sends in binary for these values, and prints for them.
#[test]
fn binary_values_print_as_postgresql_prints_them() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/postgresql/types.tsv"));
    let mut seen = 0;
    for line in text.expect("the recorded values").lines() {
        let [oid, hex, want] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let got = binary(oid.parse().unwrap(), &bytes);
        assert_eq!(got, Parameter::Text(want.into()), "type {oid}");
        // A value that is cut short is not printed wrong.
        if let Some(short) = bytes.len().checked_sub(1) {
            let _ = binary(oid.parse().unwrap(), &bytes[..short]);
        }
        seen += 1;
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn unknown_types_and_nonsense_stay_bytes() {
    assert_eq!(binary(600, &[0; 16]), Parameter::Binary([0; 16].into()));
    assert_eq!(binary(23, b"abc"), Parameter::Binary((*b"abc").into()));
    assert_eq!(binary(1007, &[0xff; 40]), Parameter::Binary([0xff; 40].into()));
    assert_eq!(
        binary(1700, &[0, 1, 0x7f, 0xff, 0, 0, 0, 0, 0xff, 0xff]),
        Parameter::Binary([0, 1, 0x7f, 0xff, 0, 0, 0, 0, 0xff, 0xff].into())
    );
}

#[test]
fn long_values_are_cut_and_counted() {
    let long = "y".repeat(VALUE_MAX + 5);
    assert!(text(long.as_bytes()).ends_with(&format!("... ({} bytes)", VALUE_MAX + 5)));
    let Parameter::Text(shown) = binary(17, long.as_bytes()) else { panic!("bytea prints") };
    assert!(shown.len() < VALUE_MAX + 64 && shown.ends_with(" bytes)"));
}
