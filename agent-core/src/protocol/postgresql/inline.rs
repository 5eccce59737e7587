//! Held frontend messages -> what they ask for; what makes the server refuse in their place.
//!
//! The server itself raises the error: then transactions, pipelines and batches are as the protocol wants them.

use std::sync::Arc;

use hashbrown::HashMap;

use super::command::{self, Command, Setting, Value};
use super::startup::{self, Packet};
use super::{boundary, title};
use crate::exchange::{Blindness, Session};
use crate::protocol::Start;
use crate::protocol::inline::{Act, Inline, Meaning, Named, Refusal, Requests, Step};
use crate::reader::Reader;
use crate::sql::{Dialect, Text, Texts};

/// How PostgreSQL is held.
pub(super) static INLINE: Inline = Inline {
    more: 1,
    never: startup::CANCEL,
    act,
    parser: Some("pg_parse_query"),
    idle: title::is_idle,
    open: |start| Box::new(Frontend::new(start)),
};

/// Names of prepared statements that are remembered for one session.
const NAMES_MAX: usize = 4096;
/// Users and search paths that are remembered.
const ALSO_MAX: usize = 8;
/// A name that no client uses: what fails to be prepared must not replace a statement of the client's.
const REFUSED: &[u8] = b"weir_refused";

fn act(first: u8) -> Act {
    match first {
        b'Q' => Act::Text,
        b'P' => Act::NamedText,
        b'B' => Act::Named,
        // Close, Describe, Execute, Flush, Sync, COPY's data and ends, passwords, Terminate. An execution was asked for
        // with the Bind before it.
        b'C' | b'D' | b'E' | b'H' | b'S' | b'd' | b'c' | b'f' | b'p' | b'X' => Act::Pass,
        _ => Act::Hold,
    }
}

/// A name, and the text that it stood for.
type Renamed = (Box<[u8]>, Option<Arc<Text>>);

struct Frontend {
    started: bool,
    /// It is known where messages begin.
    aligned: bool,
    session: Session,
    also: Vec<(String, String)>,
    names: HashMap<Box<[u8]>, Arc<Text>>,
    /// Names that the last message gives, with what they stood for before.
    renamed: Vec<Renamed>,
}

impl Frontend {
    fn new(start: Start) -> Self {
        Self {
            started: start == Start::Midstream,
            aligned: start == Start::Beginning,
            session: Session { system: "postgresql", ..Session::default() },
            also: Vec::new(),
            names: HashMap::new(),
            renamed: Vec::new(),
        }
    }

    fn untyped(&mut self, bytes: &[u8]) -> Step {
        if bytes.first() == Some(&0x16) {
            return Step::Blind(Blindness::Tls);
        }
        match startup::begins(bytes) {
            None => return Step::Short,
            Some(false) => return Step::Unknown,
            Some(true) => {}
        }
        let mut reader = Reader::new(bytes);
        let length = reader.u32().unwrap_or(0) as usize;
        let Some(body) = bytes.get(4..length) else { return Step::Short };
        match startup::packet(body) {
            // What comes next is a handshake, or another packet where the server did not want to.
            Packet::Tls | Packet::Gss => Step::Pass(length as u64),
            Packet::Cancel(backend) => Step::Cancel(length, backend),
            Packet::Startup(parameters) => {
                startup::session(parameters, &mut self.session);
                self.started = true;
                Step::Pass(length as u64)
            }
            Packet::Unknown => Step::Unknown,
        }
    }

    /// Looks whether a message begins here, where that is not known. None: it does.
    fn align(&mut self, bytes: &[u8]) -> Option<Step> {
        if matches!(bytes, [0x14..=0x17, 3, ..]) {
            return Some(Step::Blind(Blindness::Tls));
        }
        let mut reader = Reader::new(bytes);
        match boundary::begins(bytes) {
            Some(true) => {
                self.aligned = true;
                None
            }
            // What cannot ask for anything proves nothing, and its client may wait for the answer.
            Some(false) => match (reader.u8(), reader.u32()) {
                (Some(kind), Some(length)) if act(kind) == Act::Pass => {
                    Some(Step::Pass(u64::from(length) + 1))
                }
                _ => Some(Step::Short),
            },
            None => Some(Step::Astray),
        }
    }

    fn known(&self, name: &[u8], named: &mut dyn FnMut(&[u8]) -> Named) -> Option<Arc<Text>> {
        match named(name) {
            Named::Text(text) => Some(text),
            Named::Lost => None,
            Named::Unseen => self.names.get(name).cloned(),
        }
    }

    fn name(&mut self, name: &[u8], text: &Arc<Text>) {
        if self.names.len() >= NAMES_MAX {
            // Rather a statement that is not known than one that is not remembered right.
            self.names.clear();
        }
        let before = self.names.insert(name.into(), Arc::clone(text));
        self.renamed.push((name.into(), before));
    }

    /// A setting may have another value from now on, beside those that it had.
    fn set(&mut self, setting: Setting, value: Option<&Value<'_>>) {
        let mut now = (self.session.role.clone(), self.session.search_path.clone());
        if let Some((user, path)) = self.also.last() {
            now = (user.clone(), path.clone());
        }
        match setting {
            Setting::Role | Setting::Authorization => now.0 = value.map(Value::text).unwrap_or_default(),
            Setting::SearchPath => now.1 = value.map(Value::list).unwrap_or_default(),
            Setting::ApplicationName => return,
        }
        self.also.retain(|old| *old != now);
        if self.also.len() >= ALSO_MAX {
            self.also.remove(0);
        }
        self.also.push(now);
    }

    /// Follows what a statement changes; gives what it means.
    fn follow(
        &mut self,
        text: &Arc<Text>,
        texts: &mut Texts,
        named: &mut dyn FnMut(&[u8]) -> Named,
        meaning: &mut Meaning,
    ) {
        let command = command::read(text.bytes());
        meaning.lasting &= command == Command::Other;
        match command {
            // What is prepared will be executed: whoever may not ask for it may not prepare it.
            Command::Prepare { name, body } => {
                let body = texts.intern(Dialect::Postgresql, body);
                self.name(&name.fold(), &body);
                meaning.texts.push(body);
            }
            Command::Execute { name } => {
                let name = name.fold();
                match self.known(&name, named) {
                    Some(known) => meaning.texts.push(known),
                    None => meaning.complete = false,
                }
            }
            Command::Set { setting: Setting::ApplicationName, .. } => {}
            Command::Set { setting, value, .. } => self.set(setting, value.as_ref()),
            Command::Other if command::may_configure(text.bytes()) => {
                meaning.lasting = false;
                for (setting, value) in command::configured(text.bytes()) {
                    self.set(setting, Some(&value));
                }
            }
            _ => {}
        }
        meaning.texts.push(Arc::clone(text));
    }
}

impl Requests for Frontend {
    fn rejoin(&mut self) {
        self.started = true;
        self.aligned = false;
    }

    fn next(&mut self, bytes: &[u8]) -> Step {
        // One that was open before may be in the middle of its beginning: no message begins with NUL, every packet does.
        let late = self.session.user.is_empty() && bytes.first() == Some(&0);
        if !self.started || late {
            return self.untyped(bytes);
        }
        if !self.aligned
            && let Some(step) = self.align(bytes)
        {
            return step;
        }
        let mut reader = Reader::new(bytes);
        let (Some(kind), Some(length)) = (reader.u8(), reader.u32()) else { return Step::Short };
        if length < 4 {
            return Step::Unknown;
        }
        let whole = u64::from(length) + 1;
        match act(kind) {
            Act::Pass => Step::Pass(whole),
            Act::Text | Act::NamedText | Act::Named => {
                if (bytes.len() as u64) < whole {
                    Step::Short
                } else {
                    Step::Ask(whole as usize)
                }
            }
            // A function call asks; what has no name is the server's to refuse.
            Act::Hold if kind != b'F' => Step::Pass(whole),
            Act::Hold if (bytes.len() as u64) < whole => Step::Short,
            Act::Hold => Step::Ask(whole as usize),
        }
    }

    fn meaning(
        &mut self,
        message: &[u8],
        texts: &mut Texts,
        named: &mut dyn FnMut(&[u8]) -> Named,
    ) -> Meaning {
        self.renamed.clear();
        let mut meaning = Meaning { complete: true, lasting: true, ..Meaning::default() };
        let mut reader = Reader::new(message.get(5..).unwrap_or_default());
        match message.first() {
            Some(b'Q') => {
                let Some(text) = reader.cstring() else { return Meaning::default() };
                let whole = texts.intern(Dialect::Postgresql, text);
                // Bytes behind the text's NUL are nobody's.
                meaning.complete &= reader.is_empty();
                for part in whole.parts() {
                    self.follow(part, texts, named, &mut meaning);
                }
                // A simple query ends the unnamed statement.
                self.names.remove(&b""[..]);
            }
            Some(b'P') => {
                let (Some(name), Some(text)) = (reader.cstring(), reader.cstring()) else {
                    return Meaning::default();
                };
                let text = texts.intern(Dialect::Postgresql, text);
                for part in text.parts() {
                    self.follow(part, texts, named, &mut meaning);
                }
                self.name(name, &text);
            }
            Some(b'B') => {
                let (Some(_), Some(name)) = (reader.cstring(), reader.cstring()) else {
                    return Meaning::default();
                };
                meaning.lasting = false;
                match self.known(name, named) {
                    Some(text) => {
                        for part in text.parts() {
                            self.follow(part, texts, named, &mut meaning);
                        }
                    }
                    None => meaning.complete = false,
                }
                meaning.lasting = false;
            }
            Some(b'F') => {
                meaning.function = reader.u32();
                (meaning.complete, meaning.lasting) = (false, false);
            }
            _ => return Meaning::default(),
        }
        meaning
    }

    fn text<'a>(&self, message: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        let mut reader = Reader::new(message.get(5..)?);
        match message.first()? {
            b'Q' => reader.cstring().filter(|_| reader.is_empty()).map(|text| (None, text)),
            b'P' => {
                let name = reader.cstring()?;
                reader.cstring().map(|text| (Some(name), text))
            }
            _ => None,
        }
    }

    fn wrap(&self, text: &[u8], out: &mut Vec<u8>) {
        write(out, b'Q', &[text, b"\0"]);
    }

    fn refuse(&self, message: &[u8], refusal: Refusal<'_>, out: &mut Vec<u8>) {
        if let Some(b'Q' | b'F') = message.first() {
            let hint = match refusal.hint {
                "" => String::new(),
                hint => format!(", HINT = {}", literal(hint)),
            };
            let code = if refusal.canceled { "57014" } else { "42501" };
            let text = format!(
                "DO $weir$BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = {}{hint}; END$weir$",
                literal(refusal.message)
            );
            write(out, b'Q', &[text.as_bytes(), b"\0"]);
        } else {
            // It has to fail when it is parsed: what fails only when it runs answers Describe wrongly. No expression
            // raises an error of one's own there; a syntax error shows its text in full.
            let text: String = refusal.message.chars().filter(|c| !matches!(c, '"' | '\0')).collect();
            write(out, b'P', &[REFUSED, b"\0\"", text.as_bytes(), b"\"\0", &[0, 0]]);
        }
    }

    fn refused(&mut self) {
        while let Some((name, before)) = self.renamed.pop() {
            match before {
                Some(text) => self.names.insert(name, text),
                None => self.names.remove(&name),
            };
        }
    }

    fn begun(&self) -> bool {
        self.started
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn also(&self) -> &[(String, String)] {
        &self.also
    }
}

/// A string literal that means the same under every setting.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            // It escapes under some settings, ends the body's quotes, ends the message.
            '\\' | '$' | '\0' => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

fn write(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&u32::try_from(length + 4).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, kind, &[body]);
        out
    }

    fn started() -> Frontend {
        let mut frontend = Frontend::new(Start::Beginning);
        let mut startup = b"\0\0\0\0\0\x03\0\0user\0ann\0database\0shop\0\0".to_vec();
        let length = startup.len() as u32;
        startup[..4].copy_from_slice(&length.to_be_bytes());
        for cut in 0..startup.len() {
            assert_eq!(frontend.next(&startup[..cut]), Step::Short, "{cut}");
        }
        assert_eq!(frontend.next(&startup), Step::Pass(startup.len() as u64));
        assert_eq!(
            (frontend.session().user.as_str(), frontend.session().namespace.as_str()),
            ("ann", "shop")
        );
        frontend
    }

    fn meant(frontend: &mut Frontend, message: &[u8]) -> (Vec<String>, bool, bool) {
        assert_eq!(frontend.next(message), Step::Ask(message.len()));
        let meaning = frontend.meaning(message, &mut Texts::default(), &mut |_| Named::Unseen);
        let text = |text: &Arc<Text>| String::from_utf8_lossy(text.bytes()).into_owned();
        (meaning.texts.iter().map(text).collect(), meaning.complete, meaning.lasting)
    }

    #[test]
    fn what_a_message_asks_for_is_found() {
        let mut frontend = started();
        let all = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let query = |text: &str| message(b'Q', &[text.as_bytes(), b"\0"].concat());
        let asked = |f: &mut Frontend, text| meant(f, &query(text));
        assert_eq!(
            asked(&mut frontend, "select 1; drop table t"),
            (all(&["select 1", "drop table t"]), true, true)
        );
        let (texts, complete, lasting) = asked(&mut frontend, "prepare x as delete from t");
        assert_eq!(
            (texts, complete, lasting),
            (all(&["delete from t", "prepare x as delete from t"]), true, false)
        );
        let (texts, complete, lasting) = asked(&mut frontend, "EXECUTE X");
        assert_eq!((texts, complete, lasting), (all(&["delete from t", "EXECUTE X"]), true, false));
        assert!(!asked(&mut frontend, "execute y").1, "nobody knows what y is");
        assert!(!asked(&mut frontend, "set search_path = secret").2);
        assert_eq!(frontend.also(), [(String::new(), "secret".to_owned())]);

        let parse = message(b'P', b"s1\0drop table t\0\0\0");
        assert_eq!(meant(&mut frontend, &parse), (all(&["drop table t"]), true, true));
        assert_eq!(frontend.text(&parse), Some((Some(&b"s1"[..]), &b"drop table t"[..])));
        let bind = message(b'B', b"\0s1\0\0\0\0\0\0\0");
        assert_eq!(meant(&mut frontend, &bind), (all(&["drop table t"]), true, false));
        let unknown = message(b'B', b"\0s2\0\0\0\0\0\0\0");
        assert_eq!(meant(&mut frontend, &unknown), (all(&[]), false, false));
        assert_eq!(frontend.next(&message(b'd', b"data")), Step::Pass(9));
        assert_eq!(frontend.next(&[b'Q', 0, 0, 0, 1]), Step::Unknown);
        assert_eq!(frontend.next(b"Q\0\0\0\x07ab"), Step::Short);
    }

    #[test]
    fn who_joins_late_believes_nothing() {
        let query = message(b'Q', b"drop table t\0");
        let mut late = Frontend::new(Start::Midstream);
        assert_eq!(late.next(b"op table t\0"), Step::Astray);
        assert_eq!(late.next(&query[..7]), Step::Short);
        assert_eq!(late.next(&[0x17, 3, 3, 0, 80]), Step::Blind(Blindness::Tls));
        // A row of a COPY, or a password: the server waits for it, and it proves nothing.
        assert_eq!(late.next(&message(b'd', b"1,2")), Step::Pass(8));
        assert_eq!(late.next(b"is it, he said"), Step::Astray);
        assert_eq!(late.next(b"d 150 more bytes of a text"), Step::Astray);
        assert_eq!(late.next(&query), Step::Ask(query.len()));
        // Aligned: now the header alone counts.
        assert_eq!(late.next(&message(b'd', b"1,2")), Step::Pass(8));
        late.rejoin();
        assert_eq!(late.next(b"op table t\0"), Step::Astray);
        let mut known = started();
        known.rejoin();
        assert_eq!(known.next(b"table t\0"), Step::Astray);
        assert_eq!(known.next(&message(b'S', b"")), Step::Pass(5));
        assert_eq!(known.session().user, "ann");
    }

    #[test]
    fn what_is_not_plain_is_said() {
        let mut frontend = Frontend::new(Start::Beginning);
        assert_eq!(frontend.next(&[0, 0, 0, 8, 4, 210, 22, 47]), Step::Pass(8));
        assert_eq!(frontend.next(&[0x16, 3, 1, 0]), Step::Blind(Blindness::Tls));
        assert_eq!(
            frontend.next(&[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 1, 0, 9, 9, 9, 9]),
            Step::Cancel(16, 256)
        );
        assert_eq!(frontend.next(b"GET / HTTP/1.1\r\n"), Step::Unknown);
    }

    #[test]
    fn a_refusal_cannot_be_broken_out_of() {
        let frontend = started();
        let refusal =
            Refusal { message: "no \"'; drop table t; $weir$ \\' \0 x", hint: "ask", canceled: false };
        let mut out = Vec::new();
        frontend.refuse(&message(b'Q', b"drop table t\0"), refusal, &mut out);
        let text = String::from_utf8(out[5..out.len() - 1].to_vec()).unwrap();
        assert!(text.contains("MESSAGE = 'no \"''; drop table t;  weir   ''   x', HINT = 'ask'"), "{text}");
        assert_eq!(out.len(), u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize + 1);
        out.clear();
        frontend.refuse(&message(b'P', b"s1\0drop table t\0\0\0"), refusal, &mut out);
        assert_eq!(String::from_utf8_lossy(&out).matches('"').count(), 2);
        assert_eq!(&out[5..18], b"weir_refused\0");
        assert_eq!(out.len(), u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize + 1);
    }
}
