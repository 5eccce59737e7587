//! Bytes -> tokens, as the database's own lexer cuts them. Linear in the text, never fails, knows no grammar.
//!
//! PostgreSQL: `src/backend/parser/scan.l` with `standard_conforming_strings` on (the default since 9.1).
//! MySQL: "Lexical structure" and "Comments" of its manual; versioned comments are read, as the server does.

use super::Dialect;

/// What a token is. Comments and white space are not tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A keyword or an unquoted name; MySQL's `@x` and T-SQL's `#x` too.
    Word,
    /// A quoted name: `"x"`, `U&"x"`, `` `x` ``, `[x]`.
    Name,
    /// `'...'`, with continuation lines and MySQL's `"..."`.
    String,
    /// A string in which a backslash escapes: `E'...'`, MySQL's and ClickHouse's `'...'`.
    Escaped,
    /// `U&'...'`.
    Unicode,
    /// `$tag$...$tag$`.
    Dollar,
    /// `B'...'` and `X'...'`.
    Bits,
    /// A number without its sign.
    Number,
    /// `$1`, `?`, `{name:Type}`.
    Parameter,
    /// One operator.
    Operator,
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `[`.
    OpenBracket,
    /// `]`.
    CloseBracket,
    /// `,`.
    Comma,
    /// `;`.
    Semicolon,
    /// `.`.
    Dot,
    /// `:`, `::` or `:=`.
    Colon,
    /// A byte that starts no token.
    Other,
}

impl Kind {
    /// True for a literal value.
    pub fn is_literal(self) -> bool {
        matches!(
            self,
            Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar | Kind::Bits | Kind::Number
        )
    }
}

/// One token: what it is and where it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// White space or a comment stands before it.
    pub spaced: bool,
    /// Offset of its first byte.
    pub start: u32,
    /// Offset behind its last byte.
    pub end: u32,
}

impl Token {
    /// Its bytes in the text that it was cut from.
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// True for this keyword, in any case.
    pub fn is(self, text: &[u8], keyword: &str) -> bool {
        self.kind == Kind::Word && self.of(text).eq_ignore_ascii_case(keyword.as_bytes())
    }
}

/// Cuts a text into tokens, appended to `out`. False where the text ends inside a string, a name or a comment:
/// what was open is the last token. Texts beyond 4 GiB are cut off there, and false.
pub fn tokenize(dialect: Dialect, text: &[u8], out: &mut Vec<Token>) -> bool {
    let whole = u32::try_from(text.len()).is_ok();
    let text = if whole { text } else { text.get(..u32::MAX as usize).unwrap_or_default() };
    let mut lexer = Lexer { dialect, text, at: 0, executed: 0, closed: true };
    loop {
        let before = lexer.at;
        lexer.skip_blank();
        let (start, spaced) = (lexer.at, lexer.at > before);
        let Some(kind) = lexer.token() else { break };
        out.push(Token { kind, spaced, start: start as u32, end: lexer.at as u32 });
    }
    lexer.closed && whole && lexer.executed == 0
}

struct Lexer<'a> {
    dialect: Dialect,
    text: &'a [u8],
    at: usize,
    /// Depth of MySQL's executed comments.
    executed: u32,
    closed: bool,
}

const WORD: u8 = 1; // continues a word
const START: u8 = 2; // starts a word
const SPACE: u8 = 4;
const DIGIT: u8 = 8;
const OPERATOR: u8 = 16;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        table[b] = match c {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 128..=255 => WORD | START,
            b'0'..=b'9' => WORD | DIGIT,
            b'$' => WORD,
            b' ' | b'\t' | b'\n' | b'\r' | 11 | 12 => SPACE,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        b += 1;
    }
    table
}

fn class(byte: Option<u8>) -> u8 {
    byte.map_or(0, |b| CLASS[usize::from(b)])
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at.saturating_add(ahead)).copied()
    }

    fn starts(&self, with: &[u8]) -> bool {
        self.text.get(self.at..).is_some_and(|rest| rest.starts_with(with))
    }

    fn skip_while(&mut self, classes: u8) {
        while class(self.peek(0)) & classes != 0 {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|b| b != b'\n' && b != b'\r') {
            self.at += 1;
        }
    }

    fn skip_blank(&mut self) {
        loop {
            self.skip_while(SPACE);
            match (self.peek(0), self.peek(1)) {
                (Some(b'-'), Some(b'-')) if self.is_dash_comment() => self.skip_line(),
                (Some(b'#'), next) if self.is_hash_comment(next) => self.skip_line(),
                (Some(b'/'), Some(b'*')) => self.comment(),
                (Some(b'*'), Some(b'/')) if self.executed > 0 => {
                    self.executed -= 1;
                    self.at += 2;
                }
                (Some(0), None) => self.at += 1, // a terminating NUL that a driver sent along
                _ => return,
            }
        }
    }

    /// MySQL wants white space or the end behind `--`.
    fn is_dash_comment(&self) -> bool {
        self.dialect != Dialect::Mysql || self.peek(2).is_none_or(|b| b <= b' ')
    }

    fn is_hash_comment(&self, next: Option<u8>) -> bool {
        match self.dialect {
            Dialect::Mysql => true,
            Dialect::Clickhouse => matches!(next, Some(b' ' | b'!')),
            Dialect::Postgresql | Dialect::Tsql | Dialect::Redis | Dialect::Mongodb => false,
        }
    }

    fn comment(&mut self) {
        if self.dialect == Dialect::Mysql {
            let marker = if self.starts(b"/*!") {
                3
            } else if self.starts(b"/*M!") {
                4
            } else {
                0
            };
            if marker > 0 {
                self.at += marker;
                self.skip_while(DIGIT);
                self.executed += 1;
                return;
            }
        }
        let nested = matches!(self.dialect, Dialect::Postgresql | Dialect::Tsql);
        let mut depth = 1u32;
        self.at += 2;
        while let Some(b) = self.peek(0) {
            match (b, self.peek(1)) {
                (b'*', Some(b'/')) => {
                    self.at += 2;
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                (b'/', Some(b'*')) if nested => {
                    self.at += 2;
                    depth = depth.saturating_add(1);
                }
                _ => self.at += 1,
            }
        }
        self.closed = false;
    }

    fn token(&mut self) -> Option<Kind> {
        let first = self.peek(0)?;
        let kind = match first {
            b'(' => self.one(Kind::Open),
            b')' => self.one(Kind::Close),
            b',' => self.one(Kind::Comma),
            b';' => self.one(Kind::Semicolon),
            b'[' if self.dialect == Dialect::Tsql => self.quoted(b']', 1, false, Kind::Name),
            b'[' => self.one(Kind::OpenBracket),
            b']' => self.one(Kind::CloseBracket),
            b':' => {
                self.at += if matches!(self.peek(1), Some(b':' | b'=')) { 2 } else { 1 };
                Kind::Colon
            }
            b'.' if class(self.peek(1)) & DIGIT != 0 => self.number(),
            b'.' => self.one(Kind::Dot),
            b'0'..=b'9' => self.number(),
            b'\'' => self.string(0, self.backslash()),
            b'"' if self.dialect == Dialect::Mysql => self.quoted(b'"', 1, true, Kind::Escaped),
            b'"' => self.quoted(b'"', 1, self.dialect == Dialect::Clickhouse, Kind::Name),
            b'`' if matches!(self.dialect, Dialect::Mysql | Dialect::Clickhouse) => {
                self.quoted(b'`', 1, self.dialect == Dialect::Clickhouse, Kind::Name)
            }
            b'$' => self.dollar(),
            b'@' if matches!(self.dialect, Dialect::Mysql | Dialect::Tsql) => self.sigil(),
            b'#' if self.dialect == Dialect::Tsql => self.sigil(),
            b'?' if self.dialect != Dialect::Postgresql => self.one(Kind::Parameter),
            b'{' if self.dialect == Dialect::Clickhouse => self.quoted(b'}', 1, false, Kind::Parameter),
            _ if class(Some(first)) & START != 0 => self.word(first),
            _ if class(Some(first)) & OPERATOR != 0 => self.operator(),
            _ => self.one(Kind::Other),
        };
        Some(kind)
    }

    fn one(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn backslash(&self) -> bool {
        matches!(self.dialect, Dialect::Mysql | Dialect::Clickhouse)
    }

    /// Reads to `close`, which escapes itself by being doubled; `skip` bytes of opening were seen.
    fn quoted(&mut self, close: u8, skip: usize, backslash: bool, kind: Kind) -> Kind {
        self.at += skip;
        while let Some(b) = self.peek(0) {
            self.at += 1;
            if b == close {
                if self.peek(0) != Some(close) {
                    return kind;
                }
                self.at += 1;
            } else if b == b'\\' && backslash {
                self.at += 1;
            }
        }
        self.at = self.text.len();
        self.closed = false;
        kind
    }

    /// A string whose opening quote stands behind `prefix` bytes. PostgreSQL continues it on another line,
    /// where the same escapes are in force.
    fn string(&mut self, prefix: usize, backslash: bool) -> Kind {
        let kind = if backslash { Kind::Escaped } else { Kind::String };
        self.quoted(b'\'', prefix + 1, backslash, kind);
        while self.dialect == Dialect::Postgresql && self.continues() {
            self.quoted(b'\'', 1, backslash, kind);
        }
        kind
    }

    /// Moves to the quote that continues a string, if there is one: white space with a newline, `--` comments.
    fn continues(&mut self) -> bool {
        let back = self.at;
        let mut newline = false;
        loop {
            match self.peek(0) {
                Some(b'\n' | b'\r') => {
                    newline = true;
                    self.at += 1;
                }
                Some(b' ' | b'\t' | 11 | 12) => self.at += 1,
                Some(b'-') if newline && self.peek(1) == Some(b'-') => self.skip_line(),
                Some(b'\'') if newline => return true,
                _ => {
                    self.at = back;
                    return false;
                }
            }
        }
    }

    fn word(&mut self, first: u8) -> Kind {
        let quote = self.peek(1) == Some(b'\'');
        let unicode = self.peek(1) == Some(b'&');
        match (self.dialect, first) {
            (Dialect::Postgresql, b'e' | b'E') | (Dialect::Mysql, b'n' | b'N') if quote => {
                return self.string(1, true);
            }
            (Dialect::Postgresql | Dialect::Tsql, b'n' | b'N') if quote => return self.string(1, false),
            (Dialect::Postgresql | Dialect::Mysql, b'b' | b'B' | b'x' | b'X') if quote => {
                self.string(1, false);
                return Kind::Bits;
            }
            (Dialect::Postgresql, b'u' | b'U') if unicode && self.peek(2) == Some(b'\'') => {
                self.string(2, false);
                return Kind::Unicode;
            }
            (Dialect::Postgresql, b'u' | b'U') if unicode && self.peek(2) == Some(b'"') => {
                return self.quoted(b'"', 3, false, Kind::Name);
            }
            _ => {}
        }
        self.skip_while(WORD);
        Kind::Word
    }

    /// `@variable`, `@@setting`, `#table`: one word with its sigil.
    fn sigil(&mut self) -> Kind {
        let back = self.at;
        while matches!(self.peek(0), Some(b'@' | b'#')) {
            self.at += 1;
        }
        if class(self.peek(0)) & WORD == 0 {
            self.at = back;
            return if matches!(self.peek(1), Some(b'\'' | b'"' | b'`')) {
                self.one(Kind::Other)
            } else {
                self.operator()
            };
        }
        self.skip_while(WORD);
        Kind::Word
    }

    fn number(&mut self) -> Kind {
        if self.peek(0) == Some(b'0') && matches!(self.peek(1), Some(b'x' | b'X' | b'o' | b'O' | b'b' | b'B'))
        {
            self.at += 2;
            while self.peek(0).is_some_and(|b| b.is_ascii_hexdigit() || b == b'_') {
                self.at += 1;
            }
            return Kind::Number;
        }
        self.digits();
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
            if class(self.peek(1 + sign)) & DIGIT != 0 {
                self.at += 1 + sign;
                self.digits();
            }
        }
        Kind::Number
    }

    fn digits(&mut self) {
        while self.peek(0).is_some_and(|b| b.is_ascii_digit() || b == b'_') {
            self.at += 1;
        }
    }

    /// `$1`, `$$...$$`, `$tag$...$tag$`, or a stray `$`.
    fn dollar(&mut self) -> Kind {
        if class(self.peek(1)) & DIGIT != 0 {
            self.at += 1;
            self.skip_while(DIGIT);
            return Kind::Parameter;
        }
        let mut tag = 1;
        while class(self.peek(tag)) & (if tag == 1 { START } else { START | DIGIT }) != 0 {
            tag += 1;
        }
        if self.peek(tag) != Some(b'$') || matches!(self.dialect, Dialect::Mysql | Dialect::Tsql) {
            return if matches!(self.dialect, Dialect::Mysql | Dialect::Tsql) {
                self.skip_while(WORD);
                Kind::Word
            } else {
                self.one(Kind::Other)
            };
        }
        let (open, body) = (self.at, self.at + tag + 1);
        let text = self.text;
        let mark = text.get(open..body).unwrap_or_default();
        let mut from = body;
        // Every candidate is a `$`; a mark has no `$` inside, so each byte is looked at a bounded number of times.
        while let Some(found) = text.get(from..).and_then(|rest| rest.iter().position(|&b| b == b'$')) {
            let end = from + found;
            if text.get(end..).is_some_and(|rest| rest.starts_with(mark)) {
                self.at = end + mark.len();
                return Kind::Dollar;
            }
            from = end + 1;
        }
        self.at = text.len();
        self.closed = false;
        Kind::Dollar
    }

    /// The longest operator, by PostgreSQL's rules: it ends before a comment, and loses a final `+` or `-` unless
    /// it has one of the characters that SQL's own operators lack.
    fn operator(&mut self) -> Kind {
        let start = self.at;
        let mut special = false;
        while let Some(b) = self.peek(0).filter(|&b| class(Some(b)) & OPERATOR != 0) {
            let next = self.peek(1);
            let comment = matches!((b, next), (b'-', Some(b'-')) | (b'/', Some(b'*')));
            let foreign = match self.dialect {
                Dialect::Postgresql | Dialect::Redis | Dialect::Mongodb => false,
                Dialect::Mysql => matches!(b, b'`' | b'#' | b'?' | b'@') || (b == b'*' && next == Some(b'/')),
                Dialect::Tsql => matches!(b, b'`' | b'#' | b'?' | b'@'),
                Dialect::Clickhouse => matches!(b, b'`' | b'?' | b'#'),
            };
            if self.at > start && (comment || foreign) {
                break;
            }
            special |= matches!(b, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
            self.at += 1;
        }
        if !special || self.dialect != Dialect::Postgresql {
            while self.at > start + 1 && matches!(self.text.get(self.at - 1), Some(b'+' | b'-')) {
                self.at -= 1;
            }
        }
        Kind::Operator
    }
}
