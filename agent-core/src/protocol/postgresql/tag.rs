//! CommandComplete's tag -> what was done and to how many rows.

/// A command tag: `SELECT 5`, `INSERT 0 1`, `CREATE TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    /// The words before the numbers.
    pub(super) verb: &'a [u8],
    /// The last number.
    pub(super) rows: Option<u64>,
}

/// Reads the body of a CommandComplete message.
pub(super) fn read(body: &[u8]) -> Tag<'_> {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    let digits = tag.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (words, number) = tag.split_at(tag.len() - digits);
    let rows = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    // INSERT has an object id between; 0 in all living versions.
    let words = words.trim_ascii_end();
    let verb = words.trim_suffix_digits();
    Tag { verb, rows }
}

trait TrimDigits {
    fn trim_suffix_digits(&self) -> &[u8];
}

impl TrimDigits for [u8] {
    fn trim_suffix_digits(&self) -> &[u8] {
        let digits = self.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        self[..self.len() - digits].trim_ascii_end()
    }
}

/// (returned, affected) rows of a command. `sent`: rows that came before the tag, where all of them were seen.
pub(super) fn rows(tag: Tag<'_>, sent: Option<u64>, copied_out: bool) -> (Option<u64>, Option<u64>) {
    match tag.verb {
        // Rows that were selected but not sent went into a table: CREATE TABLE AS, SELECT INTO, REFRESH.
        b"SELECT" => match (sent, tag.rows) {
            (Some(0), Some(rows)) if rows > 0 => (None, Some(rows)),
            (_, rows) => (rows.or(sent), None),
        },
        b"FETCH" => (tag.rows.or(sent), None),
        b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" => (sent.filter(|&sent| sent > 0), tag.rows),
        b"COPY" if copied_out => (tag.rows.or(sent), None),
        b"COPY" => (None, tag.rows),
        b"MOVE" => (None, None),
        _ => (sent.filter(|&sent| sent > 0), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_all_shapes() {
        let of = |tag: &str, sent| rows(read(tag.as_bytes()), sent, false);
        assert_eq!(of("SELECT 5\0", Some(5)), (Some(5), None));
        assert_eq!(of("SELECT 5\0", None), (Some(5), None));
        assert_eq!(of("SELECT 5\0", Some(0)), (None, Some(5)), "CREATE TABLE AS");
        assert_eq!(of("SELECT 0\0", Some(0)), (Some(0), None));
        assert_eq!(of("INSERT 0 3\0", Some(0)), (None, Some(3)));
        assert_eq!(of("INSERT 0 3\0", Some(3)), (Some(3), Some(3)), "RETURNING");
        assert_eq!(of("UPDATE 0\0", Some(0)), (None, Some(0)));
        assert_eq!(of("COPY 7\0", Some(0)), (None, Some(7)));
        assert_eq!(rows(read(b"COPY 7\0"), None, true), (Some(7), None));
        assert_eq!(of("CREATE TABLE\0", Some(0)), (None, None));
        assert_eq!(of("SHOW\0", Some(1)), (Some(1), None));
        assert_eq!(of("FETCH 2\0", Some(2)), (Some(2), None));
        assert_eq!(of("SELECT 99999999999999999999999\0", Some(1)).0, Some(1));
        assert_eq!(read(b"INSERT 0 3").verb, b"INSERT");
    }
}
