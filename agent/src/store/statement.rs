//! The text of an HTTP request -> what the engine is asked: an insert with its data, or a query and its format.
//!
//! The engine loses rows of binary data that follows an INSERT in one text, so statement and data are parted
//! here and go in by the streamed insert.

/// An INSERT parted from its data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Insert<'a> {
    /// The statement up to its FORMAT or VALUES clause.
    pub(super) head: &'a [u8],
    /// Format of the data; `None` where the statement names none.
    pub(super) format: Option<&'a str>,
    /// Data that followed in the statement's text.
    pub(super) inline: &'a [u8],
}

/// A word or a punctuation mark outside of quotes, comments and parentheses.
struct Word<'a> {
    text: &'a [u8],
    start: usize,
    end: usize,
}

/// The words of a statement at the outermost level.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_to(&mut self, needle: &[u8]) {
        let found = self.rest().windows(needle.len()).position(|w| w == needle);
        self.at = found.map_or(self.text.len(), |i| self.at + i + needle.len());
    }

    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(&b) = self.text.get(self.at) {
            self.at += 1;
            if b == b'\\' {
                self.at += 1;
            } else if b == quote {
                return;
            }
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let mut depth = 0usize;
        loop {
            let rest = self.rest();
            let first = *rest.first()?;
            match first {
                _ if first.is_ascii_whitespace() => self.at += 1,
                b'-' if rest.starts_with(b"--") => self.skip_to(b"\n"),
                b'#' if rest.starts_with(b"# ") || rest.starts_with(b"#!") => self.skip_to(b"\n"),
                b'/' if rest.starts_with(b"/*") => self.skip_to(b"*/"),
                b'\'' | b'"' | b'`' => self.skip_quoted(first),
                b'(' | b'[' | b'{' => {
                    depth += 1;
                    self.at += 1;
                }
                b')' | b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                _ => {
                    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
                    let length = rest.iter().take_while(|b| word(b)).count().max(1);
                    let start = self.at;
                    self.at += length;
                    if depth == 0 {
                        return Some(Word { text: &rest[..length], start, end: self.at });
                    }
                }
            }
        }
    }
}

fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// Parts an INSERT from its data. None for every other statement, for `INSERT ... SELECT` and for
/// `INSERT ... FROM INFILE`, which bring their own data.
pub(super) fn insert(text: &[u8]) -> Option<Insert<'_>> {
    let mut words = Words::new(text);
    if !is(words.next()?.text, "insert") {
        return None;
    }
    while let Some(word) = words.next() {
        if ["select", "with", "infile", "watch"].iter().any(|k| is(word.text, k)) {
            return None;
        }
        let head = text[..word.start].trim_ascii_end();
        if is(word.text, "values") {
            return Some(Insert { head, format: Some("Values"), inline: words.rest() });
        }
        if is(word.text, "format")
            && let Some(name) = words.next()
            && let Ok(format) = std::str::from_utf8(name.text)
            && name.text[0].is_ascii_alphabetic()
        {
            let rest = words.rest();
            let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b';')).count();
            let rest = &rest[blanks..];
            let inline = rest.strip_prefix(b"\n").unwrap_or(rest);
            return Some(Insert { head, format: Some(format), inline });
        }
    }
    Some(Insert { head: text.trim_ascii_end().strip_suffix(b";").unwrap_or(text), format: None, inline: b"" })
}

/// The format that a query names for its answer: `... FORMAT name`, then at most SETTINGS or a semicolon.
pub(super) fn answer_format(text: &[u8]) -> Option<&str> {
    let words: Vec<_> = Words::new(text).collect();
    let at = words.iter().rposition(|w| is(w.text, "format"))?;
    let name = words.get(at + 1)?;
    let ends = words.get(at + 2).is_none_or(|w| w.text == b";" || is(w.text, "settings"));
    let named = std::str::from_utf8(&text[name.start..name.end]).ok()?;
    (ends && named.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(named)
}

/// A statement that only reads and whose answer may be streamed.
pub(super) fn is_select(text: &[u8]) -> bool {
    Words::new(text).next().is_some_and(|w| is(w.text, "select") || is(w.text, "with"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserts_are_parted_from_their_data() {
        let split = |text: &'static str| insert(text.as_bytes()).unwrap();
        assert_eq!(
            split("INSERT INTO t (a, `format`) SETTINGS x='VALUES' FORMAT RowBinary"),
            Insert {
                head: b"INSERT INTO t (a, `format`) SETTINGS x='VALUES'",
                format: Some("RowBinary"),
                inline: b""
            }
        );
        assert_eq!(
            split("/* c */ insert into t values (1),(2)"),
            Insert { head: b"/* c */ insert into t", format: Some("Values"), inline: b" (1),(2)" }
        );
        assert_eq!(
            split("INSERT INTO t FORMAT CSV\n1,select\n"),
            Insert { head: b"INSERT INTO t", format: Some("CSV"), inline: b"1,select\n" }
        );
        assert_eq!(split("INSERT INTO t"), Insert { head: b"INSERT INTO t", format: None, inline: b"" });
    }

    #[test]
    fn what_brings_its_own_data_is_a_query() {
        for text in [
            "INSERT INTO t SELECT 1",
            "INSERT INTO t (a) WITH 1 AS x SELECT x",
            "SELECT 'insert into t format CSV'",
            "-- insert\nSELECT 1",
            "",
        ] {
            assert_eq!(insert(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_format_of_an_answer() {
        let of = |text: &'static str| answer_format(text.as_bytes());
        assert_eq!(of("SELECT 1 FORMAT JSONEachRow"), Some("JSONEachRow"));
        assert_eq!(of("SELECT 1 format CSV SETTINGS max_threads = 1;"), Some("CSV"));
        assert_eq!(of("SELECT format FROM t"), None);
        assert_eq!(of("SELECT 'x FORMAT CSV'"), None);
        assert_eq!(of("SELECT (SELECT 1 FORMAT CSV)"), None);
    }

    #[test]
    fn any_bytes_are_survived() {
        for text in
            [&b"insert into t format"[..], b"insert \xff\xfe values", b"'", b"((((", b"/*", b"--", b"format"]
        {
            let _ = (insert(text), answer_format(text), is_select(text));
        }
    }
}
