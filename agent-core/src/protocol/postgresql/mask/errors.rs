//! ErrorResponse and NoticeResponse -> the same without the values in their words.
//!
//! Severity, SQLSTATE, positions and names stay. A quoted piece of the message stays where it is one of the error's own
//! names or stands in the statement's text; the words of a user's own RAISE stay where the text has them. Details,
//! contexts and inner queries lose every word, but for the names of a violated key.

use crate::reader::Reader;

/// SQLSTATE classes whose messages are the server's own.
const OWN: &[&[u8; 2]] = &[
    b"02", b"03", b"08", b"09", b"0A", b"0B", b"0L", b"0P", b"0Z", b"20", b"21", b"22", b"23", b"24", b"25",
    b"26", b"27", b"28", b"2B", b"2D", b"2F", b"34", b"3B", b"3D", b"3F", b"40", b"42", b"44", b"53", b"54",
    b"55", b"57", b"58", b"72", b"F0",
];

/// Appends a whole message of this kind (`E` or `N`). `None` where the body is malformed.
pub(super) fn rewrite(kind: u8, body: &[u8], text: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
    let fields = fields(body)?;
    let start = out.len();
    let field =
        |wanted: u8| fields.iter().find(|(kind, _)| *kind == wanted).map_or(&b""[..], |field| field.1);
    let code = field(b'C');
    // What a function says is the user's own, whatever code it gives.
    let raised =
        matches!(field(b'R'), b"exec_stmt_raise" | b"PLy_output" | b"do_util_elog" | b"exec_stmt_assert");
    let own = kind == b'E' && !raised && OWN.iter().any(|class| code.starts_with(&class[..]));
    let names: Vec<&[u8]> = [b's', b't', b'c', b'd', b'n'].iter().map(|kind| field(*kind)).collect();
    out.extend_from_slice(&[kind, 0, 0, 0, 0]);
    for (kind, value) in &fields {
        out.push(*kind);
        match kind {
            b'M' | b'H' if own => quoted(value, &names, text, out),
            b'M' | b'H' => words(value, text, out),
            b'D' => detail(value, out),
            b'W' | b'q' => words(value, None, out),
            _ => out.extend_from_slice(value),
        }
        out.push(0);
    }
    out.push(0);
    super::columns::put_length(out, start + 1, 4).ok()
}

fn fields(body: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut reader = Reader::new(body);
    let mut fields = Vec::new();
    loop {
        match reader.u8()? {
            0 => return reader.is_empty().then_some(fields),
            kind => fields.push((kind, reader.cstring()?)),
        }
    }
}

fn has(text: Option<&[u8]>, piece: &[u8]) -> bool {
    text.is_some_and(|text| !piece.is_empty() && text.windows(piece.len()).any(|window| window == piece))
}

/// Masks what stands in quotes.
fn quoted(value: &[u8], names: &[&[u8]], text: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(first) = value.iter().position(|&b| b == b'"') else {
        return out.extend_from_slice(value);
    };
    let last = value.iter().rposition(|&b| b == b'"').unwrap_or(first);
    let (head, rest) = value.split_at(first);
    let (inner, tail) = rest.split_at(last - first);
    out.extend_from_slice(head);
    // A value may hold quotes: pieces that are not known go with all that is between them.
    let known = |piece: &[u8]| names.contains(&piece) || has(text, piece);
    let pieces: Vec<&[u8]> = inner.split(|&b| b == b'"').skip(1).collect();
    if pieces.iter().step_by(2).all(|piece| known(piece)) {
        out.extend_from_slice(inner);
    } else {
        out.push(b'"');
        words(inner.get(1..).unwrap_or_default(), None, out);
    }
    out.extend_from_slice(tail);
}

/// Masks letters and digits, but for words that the text has.
fn words(value: &[u8], text: Option<&[u8]>, out: &mut Vec<u8>) {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80;
    for piece in value.chunk_by(|a, b| is_word(*a) == is_word(*b)) {
        if piece.first().is_some_and(|&b| is_word(b)) && !has(text, piece) {
            super::value::stars(piece, out);
        } else {
            out.extend_from_slice(piece);
        }
    }
}

/// `Key (email)=(a@b.c) already exists.` keeps the names.
fn detail(value: &[u8], out: &mut Vec<u8>) {
    const ENDS: &[&[u8]] = &[b" already exists.", b" is duplicated."];
    let find = |needle: &[u8]| value.windows(needle.len()).position(|window| window == needle);
    let key = value.starts_with(b"Key (").then(|| find(b")=(")).flatten();
    let Some(at) = key.map(|at| at + 3) else { return words(value, None, out) };
    let (head, rest) = value.split_at(at);
    out.extend_from_slice(head);
    let end = ENDS.iter().find(|end| rest.ends_with(end)).map_or(0, |end| end.len());
    let (inner, tail) = rest.split_at(rest.len() - end);
    words(inner, None, out);
    out.extend_from_slice(tail);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(kind: u8, fields: &[(u8, &str)], text: &str) -> String {
        let mut body = Vec::new();
        for (kind, value) in fields {
            body.push(*kind);
            body.extend_from_slice(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        let mut out = Vec::new();
        rewrite(kind, &body, Some(text.as_bytes()), &mut out).expect("well formed");
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize + 1, out.len());
        let told = self::fields(&out[5..]).expect("well formed");
        told.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn values_go_and_names_stay() {
        let duplicate = [
            (b'S', "ERROR"),
            (b'C', "23505"),
            (b'M', "duplicate key value violates unique constraint \"users_email_key\""),
            (b'D', "Key (email)=(ann@example.org) already exists."),
            (b'n', "users_email_key"),
        ];
        assert_eq!(
            rewritten(b'E', &duplicate, "insert into users select * from new"),
            "ERROR|23505|duplicate key value violates unique constraint \"users_email_key\"|\
             Key (email)=(***@*******.***) already exists.|users_email_key"
        );
        let cast = [(b'C', "22P02"), (b'M', "invalid input syntax for type integer: \"x4111\"")];
        assert_eq!(
            rewritten(b'E', &cast, "select ('x' || card)::int from t"),
            "22P02|invalid input syntax for type integer: \"*****\""
        );
        let missing = [(b'C', "42703"), (b'M', "column \"nope\" does not exist"), (b'P', "8")];
        assert_eq!(rewritten(b'E', &missing, "select nope from t"), "42703|column \"nope\" does not exist|8");
        let quotes = [(b'C', "22P02"), (b'M', "invalid: \"a\" secret \"b\"")];
        assert_eq!(rewritten(b'E', &quotes, "select"), "22P02|invalid: \"*\" ****** \"*\"");
        let row = [(b'C', "23514"), (b'M', "violated"), (b'D', "Failing row contains (1, 4111).")];
        assert_eq!(rewritten(b'E', &row, ""), "23514|violated|******* *** ******** (*, ****).");
    }

    #[test]
    fn what_a_function_raises_keeps_the_words_of_the_text() {
        let raised = [(b'C', "42501"), (b'M', "blocked 4111 by rule"), (b'R', "exec_stmt_raise")];
        assert_eq!(
            rewritten(b'E', &raised, "do $$begin raise exception 'blocked by rule'; end$$"),
            "42501|blocked **** by rule|exec_stmt_raise"
        );
        let notice = [(b'S', "NOTICE"), (b'C', "00000"), (b'M', "card is 4111")];
        assert_eq!(rewritten(b'N', &notice, "select f()"), "NOTICE|00000|**** ** ****");
    }
}
