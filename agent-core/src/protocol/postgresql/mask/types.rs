//! Type id -> how its values are masked. Type ids: `pg_type.dat` of PostgreSQL 12 to 18.

/// What kind of value a type has, as far as masking it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Characters, the same in both formats.
    Text,
    /// JSON as text; with a version byte before it in binary (jsonb).
    Json {
        versioned: bool,
    },
    /// One constant for each format.
    Fixed {
        text: &'static str,
        binary: &'static [u8],
    },
    /// Zero bytes of this length in binary.
    Zero {
        text: &'static str,
        length: usize,
    },
    /// `bytea`: as many zero bytes.
    Bytes,
    /// `bit` and `varbit`: as many zero bits.
    Bits,
    /// A date, or with a time, in the style of `DateStyle`.
    Date,
    Timestamp,
    TimestampTz,
    Interval,
    /// An array of this type; each element is masked.
    Array {
        element: u32,
    },
}

/// What is known about a type; none for types that are not built in, whose values become NULL.
pub(super) fn kind(oid: u32) -> Option<Kind> {
    use Kind::{Array, Bits, Bytes, Date, Fixed, Interval, Json, Text, Timestamp, TimestampTz, Zero};
    Some(match oid {
        // "char", name, text, unknown, bpchar, varchar, refcursor
        18 | 19 | 25 | 705 | 1042 | 1043 | 1790 => Text,
        114 => Json { versioned: false },
        3802 => Json { versioned: true },
        142 => Fixed { text: "<masked/>", binary: b"<masked/>" },
        4072 => Fixed { text: "$", binary: b"\x01$" },
        16 => Zero { text: "f", length: 1 },
        21 => Zero { text: "0", length: 2 },
        // int4, oid, xid, cid, float4
        23 | 26 | 28 | 29 | 700 => Zero { text: "0", length: 4 },
        // int8, xid8, float8, numeric (no digits)
        20 | 5069 | 701 | 1700 => Zero { text: "0", length: 8 },
        // regproc and its kin
        24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191 => Zero { text: "-", length: 4 },
        27 => Zero { text: "(0,0)", length: 6 },
        790 => Zero { text: "$0.00", length: 8 },
        2950 => Zero { text: "00000000-0000-0000-0000-000000000000", length: 16 },
        829 => Zero { text: "00:00:00:00:00:00", length: 6 },
        774 => Zero { text: "00:00:00:00:00:00:00:00", length: 8 },
        3220 => Zero { text: "0/0", length: 8 },
        1083 => Zero { text: "00:00:00", length: 8 },
        1266 => Zero { text: "00:00:00+00", length: 12 },
        869 => Fixed { text: "0.0.0.0", binary: &[2, 32, 0, 4, 0, 0, 0, 0] },
        650 => Fixed { text: "0.0.0.0/0", binary: &[2, 0, 1, 4, 0, 0, 0, 0] },
        17 => Bytes,
        1560 | 1562 => Bits,
        1082 => Date,
        1114 => Timestamp,
        1184 => TimestampTz,
        1186 => Interval,
        600 => Zero { text: "(0,0)", length: 16 },
        601 => Zero { text: "[(0,0),(0,0)]", length: 32 },
        603 => Zero { text: "(0,0),(0,0)", length: 32 },
        718 => Zero { text: "<(0,0),0>", length: 24 },
        628 => Fixed { text: "{1,0,0}", binary: LINE },
        602 => Fixed { text: "((0,0))", binary: PATH },
        604 => Fixed { text: "((0,0))", binary: POLYGON },
        // tsvector
        3614 => Zero { text: "", length: 4 },
        // tsquery: since its minor releases of 2026 the server takes none without an operand.
        3615 => Fixed { text: "'masked'", binary: TSQUERY },
        // txid_snapshot, pg_snapshot
        2970 | 5038 => Fixed { text: "1:1:", binary: SNAPSHOT },
        // Ranges, then multiranges: empty.
        3904 | 3906 | 3908 | 3910 | 3912 | 3926 => Fixed { text: "empty", binary: &[1] },
        4451 | 4532..=4536 => Zero { text: "{}", length: 4 },
        _ => Array { element: element(oid)? },
    })
}

const LINE: &[u8] = &[0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const PATH: &[u8] = &[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const POLYGON: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// One item: an operand of any weight, no prefix.
const TSQUERY: &[u8] = b"\0\0\0\x01\x01\0\0masked\0";
const SNAPSHOT: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];

/// The element type of an array type.
fn element(array: u32) -> Option<u32> {
    let at = ARRAYS.binary_search_by_key(&array, |pair| pair.0).ok()?;
    ARRAYS.get(at).map(|pair| pair.1)
}

/// Array types and their element types, sorted.
static ARRAYS: &[(u32, u32)] = &[
    (143, 142),
    (199, 114),
    (271, 5069),
    (629, 628),
    (651, 650),
    (719, 718),
    (775, 774),
    (791, 790),
    (1000, 16),
    (1001, 17),
    (1002, 18),
    (1003, 19),
    (1005, 21),
    (1007, 23),
    (1008, 24),
    (1009, 25),
    (1010, 27),
    (1011, 28),
    (1012, 29),
    (1014, 1042),
    (1015, 1043),
    (1016, 20),
    (1017, 600),
    (1018, 601),
    (1019, 602),
    (1020, 603),
    (1021, 700),
    (1022, 701),
    (1027, 604),
    (1028, 26),
    (1040, 829),
    (1041, 869),
    (1115, 1114),
    (1182, 1082),
    (1183, 1083),
    (1185, 1184),
    (1187, 1186),
    (1231, 1700),
    (1270, 1266),
    (1561, 1560),
    (1563, 1562),
    (2201, 1790),
    (2949, 2970),
    (2951, 2950),
    (3221, 3220),
    (3643, 3614),
    (3645, 3615),
    (3807, 3802),
    (3905, 3904),
    (3907, 3906),
    (3909, 3908),
    (3911, 3910),
    (3913, 3912),
    (3927, 3926),
    (4073, 4072),
    (5039, 5038),
    (6150, 4451),
    (6151, 4532),
    (6152, 4533),
    (6153, 4534),
    (6155, 4535),
    (6157, 4536),
];

#[cfg(test)]
mod tests {
    #[test]
    fn arrays_are_sorted() {
        assert!(super::ARRAYS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(super::ARRAYS.iter().all(|pair| super::kind(pair.1).is_some()));
    }
}
