//! JSON, and what the shells of document databases make of it -> a tree: keys without quotes, single quotes, calls such
//! as `ObjectId("...")`, regular expressions, trailing commas, comments. Object keys keep their order.

/// Deeper than any document that a server takes (100).
const DEEPEST: usize = 120;

/// A value.
#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
    /// A name, with what it was called with: `ISODate("...")`, `Timestamp`.
    Call(String, Vec<Value>),
    /// A function or a regular expression: its text says nothing here.
    Code,
}

impl Value {
    /// The member of an object.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.members().iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn members(&self) -> &[(String, Value)] {
        match self {
            Value::Object(members) => members,
            _ => &[],
        }
    }

    pub(super) fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As the server reads a flag: 1, 1.0 and true are the same.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(is) => *is,
            Value::Number(number) => *number != 0.0,
            // {"$numberInt": "1"}
            Value::Object(members) => match members.as_slice() {
                [(kind, Value::Text(digits))] if kind.starts_with("$number") => {
                    digits.parse::<f64>().is_ok_and(|n| n != 0.0)
                }
                _ => true,
            },
            Value::Text(_) | Value::List(_) | Value::Call(..) | Value::Code => true,
        }
    }
}

/// Reads values one after the other.
pub(super) struct Reader<'a> {
    text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Steps over spaces and comments.
    pub(super) fn space(&mut self) {
        loop {
            match self.peek() {
                Some(byte) if byte.is_ascii_whitespace() => self.at += 1,
                Some(b'/') if self.text.get(self.at + 1) == Some(&b'/') => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                Some(b'/') if self.text.get(self.at + 1) == Some(&b'*') => {
                    self.at += 2;
                    while self.at < self.text.len() && !self.text[self.at..].starts_with(b"*/") {
                        self.at += 1;
                    }
                    self.at = self.text.len().min(self.at + 2);
                }
                _ => return,
            }
        }
    }

    pub(super) fn take(&mut self, byte: u8) -> bool {
        self.space();
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    /// A name: letters, digits, `_` and `$`.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        self.space();
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80) {
            self.at += 1;
        }
        std::str::from_utf8(&self.text[start..self.at]).ok().filter(|name| !name.is_empty())
    }

    pub(super) fn value(&mut self) -> Option<Value> {
        self.nested(0)
    }

    /// Values between parentheses, the first of which is taken already.
    pub(super) fn arguments(&mut self) -> Option<Vec<Value>> {
        self.list(b')', 0)
    }

    fn nested(&mut self, depth: usize) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        self.space();
        match self.peek()? {
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                loop {
                    if self.take(b'}') {
                        return Some(Value::Object(members));
                    }
                    self.space();
                    let key = match self.peek()? {
                        quote @ (b'"' | b'\'' | b'`') => self.quoted(quote)?,
                        _ => self.name()?.to_owned(),
                    };
                    if !self.take(b':') {
                        return None;
                    }
                    members.push((key, self.nested(depth + 1)?));
                    if !self.take(b',') && !self.ahead(b'}') {
                        return None;
                    }
                }
            }
            b'[' => {
                self.at += 1;
                Some(Value::List(self.list(b']', depth + 1)?))
            }
            quote @ (b'"' | b'\'' | b'`') => Some(Value::Text(self.quoted(quote)?)),
            b'/' => self.expression(),
            b'-' | b'+' | b'0'..=b'9' | b'.' => self.number(),
            _ => self.word(depth),
        }
    }

    fn ahead(&mut self, byte: u8) -> bool {
        self.space();
        self.peek() == Some(byte)
    }

    fn list(&mut self, close: u8, depth: usize) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        loop {
            if self.take(close) {
                return Some(items);
            }
            items.push(self.nested(depth + 1)?);
            if !self.take(b',') && !self.ahead(close) {
                return None;
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Option<String> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            if byte == quote {
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            if byte != b'\\' {
                text.push(byte);
                continue;
            }
            let next = self.peek()?;
            self.at += 1;
            match next {
                b'n' => text.push(b'\n'),
                b't' => text.push(b'\t'),
                b'r' => text.push(b'\r'),
                b'u' | b'x' => {
                    let digits = if next == b'u' { 4 } else { 2 };
                    let hex = self.text.get(self.at..self.at + digits)?;
                    let code = u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
                    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    self.at += digits;
                }
                _ => text.push(next),
            }
        }
    }

    /// A regular expression with its flags.
    fn expression(&mut self) -> Option<Value> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'\\' => self.at += 2,
                b'/' => break,
                b'\n' => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        while self.peek().is_some_and(|b| b.is_ascii_alphabetic()) {
            self.at += 1;
        }
        Some(Value::Code)
    }

    fn number(&mut self) -> Option<Value> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.text[start..self.at]).ok()?;
        digits.parse().ok().map(Value::Number)
    }

    fn word(&mut self, depth: usize) -> Option<Value> {
        let name = self.name()?;
        match name {
            "null" | "undefined" => return Some(Value::Null),
            "true" => return Some(Value::Bool(true)),
            "false" => return Some(Value::Bool(false)),
            "new" => return self.nested(depth + 1),
            // A function's body is not read.
            "function" => return None,
            _ => {}
        }
        if self.take(b'(') { Some(Value::Call(name.to_owned(), self.list(b')', depth + 1)?)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Value> {
        Reader::new(text.as_bytes()).value()
    }

    #[test]
    fn what_the_shell_makes_of_json() {
        let text = "{ a: 1, 'b' : [true, null,], \"c\": ObjectId('1f'), d: /x\\/y/i, // end\n e: -2.5e3 }";
        let Some(Value::Object(members)) = read(text) else { panic!("{text} is not read") };
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        assert!(members[1].1 == Value::List(vec![Value::Bool(true), Value::Null]));
        assert!(members[2].1 == Value::Call("ObjectId".into(), vec![Value::Text("1f".into())]));
        assert!(members[3].1 == Value::Code && members[4].1 == Value::Number(-2500.0));
        assert!(read(r#"{"$numberInt": "0"}"#).is_some_and(|zero| !zero.is_true()));
    }

    #[test]
    fn hostile_texts_are_no_value() {
        for text in
            ["{", "{a", "{a:", "[1", "\"x", "'\\", "/x", "f(", &"[".repeat(100_000), "{a 1}", "\"\\u12\"", ""]
        {
            assert!(read(text).is_none(), "{}", text.len());
        }
    }
}
