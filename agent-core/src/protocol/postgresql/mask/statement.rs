//! Statement text -> what it does to names: prepared statements and cursors, and what stands behind a name.

use super::super::command::{self, Command};
use crate::sql::Dialect;
use crate::sql::split;
use crate::sql::string_value;
use crate::sql::token::{self, Kind, Token};

/// A text and its tokens.
pub(super) struct Tokens<'t> {
    text: &'t [u8],
    tokens: Vec<Token>,
}

impl<'t> Tokens<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        let mut tokens = Vec::new();
        token::tokenize(Dialect::Postgresql, text, &mut tokens);
        if tokens.last().is_some_and(|last| last.kind == Kind::Semicolon) {
            tokens.pop();
        }
        Self { text, tokens }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn kind(&self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(self.text, word))
    }

    /// A name as the server stores it.
    pub(super) fn name(&self, at: usize) -> Option<String> {
        let token = self.tokens.get(at)?;
        let bytes = token.of(self.text);
        match token.kind {
            Kind::Word => Some(String::from_utf8_lossy(bytes).to_lowercase()),
            Kind::Name => {
                let inner = bytes.get(1..bytes.len().saturating_sub(1))?;
                Some(String::from_utf8_lossy(inner).replace("\"\"", "\""))
            }
            _ => None,
        }
    }

    /// A word, or what a string or number says, in lower case.
    pub(super) fn word(&self, at: usize) -> Option<String> {
        let token = self.tokens.get(at)?;
        if token.kind.is_literal() {
            return Some(string_value(self.text, *token).to_lowercase());
        }
        self.name(at).map(|name| name.to_lowercase())
    }

    /// What a string says.
    pub(super) fn string(&self, at: usize) -> Option<Vec<u8>> {
        let token = self.tokens.get(at).filter(|token| token.kind.is_literal())?;
        Some(string_value(self.text, *token).into_owned().into_bytes())
    }

    /// A string of one byte.
    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        match self.string(at)?[..] {
            [byte] => Some(byte),
            _ => None,
        }
    }

    /// Where the parenthesis at `at` is closed.
    pub(super) fn close_of(&self, at: usize) -> Option<usize> {
        let mut depth = 0usize;
        (at..self.len()).find(|&at| {
            match self.kind(at) {
                Some(Kind::Open) => depth += 1,
                Some(Kind::Close) => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        })
    }

    /// The text of the tokens from `from` to before `to`.
    pub(super) fn text_of(&self, from: usize, to: usize) -> Option<&'t [u8]> {
        let start = self.tokens.get(from)?.start as usize;
        let end = self.tokens.get(to.checked_sub(1)?)?.end as usize;
        self.text.get(start..end)
    }
}

/// What a statement is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'t> {
    /// `PREPARE name AS body`.
    Prepare { name: Box<[u8]>, body: &'t [u8] },
    /// `EXECUTE name`.
    Execute { name: Box<[u8]> },
    /// `DEALLOCATE name`, or all.
    Deallocate { name: Option<Box<[u8]>> },
    /// `DECLARE name CURSOR FOR query`.
    Declare { name: Box<[u8]>, query: &'t [u8] },
    /// `FETCH ... FROM name`.
    Fetch { name: Box<[u8]> },
    /// `CLOSE name`, or all.
    Close { name: Option<Box<[u8]>> },
    /// `COPY`.
    Copy,
    /// `DISCARD ALL`.
    DiscardAll,
    /// `DO`.
    Block,
    /// Anything else.
    Other,
}

/// Reads one statement.
pub(super) fn step(text: &[u8]) -> Step<'_> {
    let tokens = Tokens::new(text);
    let first = tokens.word(0).unwrap_or_default();
    let name = |at: usize| tokens.name(at).map(|name| name.into_bytes().into_boxed_slice());
    let one_or_all = |at: usize| if tokens.is(at, "all") { None } else { name(at) };
    match first.as_str() {
        "prepare" | "execute" | "deallocate" | "discard" => match command::read(text) {
            Command::Prepare { name, body } => Step::Prepare { name: name.fold(), body },
            Command::Execute { name } => Step::Execute { name: name.fold() },
            Command::Deallocate { name } => Step::Deallocate { name: name.map(|name| name.fold()) },
            Command::DiscardAll => Step::DiscardAll,
            _ => Step::Other,
        },
        "declare" => {
            let query = (2..tokens.len()).find(|&at| tokens.is(at, "for"));
            let query = query.and_then(|at| tokens.text_of(at + 1, tokens.len()));
            match (name(1), query) {
                (Some(name), Some(query)) => Step::Declare { name, query },
                _ => Step::Other,
            }
        }
        "fetch" => {
            let last = tokens.len().checked_sub(1).filter(|&at| at > 0);
            last.and_then(name).map_or(Step::Other, |name| Step::Fetch { name })
        }
        "close" => Step::Close { name: one_or_all(1) },
        "copy" => Step::Copy,
        "do" => Step::Block,
        _ => Step::Other,
    }
}

/// True where a text may have to do with names at all.
pub(super) fn may_name(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| matches!(b | 0x20, b'p' | b'd' | b'c' | b'e' | b'f')) {
        rest = rest.get(at..).unwrap_or_default();
        let starts = |word: &str| {
            rest.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
        };
        if ["prepare", "declare", "deallocate", "discard", "do", "close", "execute", "fetch"]
            .iter()
            .any(|word| starts(word))
        {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// The statements of a text as the server splits them.
pub(super) fn parts(text: &[u8]) -> Vec<&[u8]> {
    let mut tokens = Vec::new();
    token::tokenize(Dialect::Postgresql, text, &mut tokens);
    let ranges = split::split(Dialect::Postgresql, text, &tokens);
    let part = |range: std::ops::Range<usize>| {
        let start = tokens.get(range.start)?.start as usize;
        let end = tokens.get(range.end.checked_sub(1)?)?.end as usize;
        text.get(start..end)
    };
    ranges.into_iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let name = |name: &str| Box::<[u8]>::from(name.as_bytes());
        assert_eq!(
            step(b"DECLARE c SCROLL CURSOR WITH HOLD FOR select email from users"),
            Step::Declare { name: name("c"), query: b"select email from users" }
        );
        assert_eq!(step(b"fetch forward 10 from \"My c\";"), Step::Fetch { name: name("My c") });
        assert_eq!(step(b"fetch C"), Step::Fetch { name: name("c") });
        assert_eq!(step(b"close all"), Step::Close { name: None });
        assert_eq!(step(b"prepare p as select 1"), Step::Prepare { name: name("p"), body: b"select 1" });
        assert_eq!(step(b"execute p(1)"), Step::Execute { name: name("p") });
        assert_eq!(step(b"select 1"), Step::Other);
        assert!(may_name(b"select 1; PREPARE x as select 1") && !may_name(b"select description from codes"));
        assert_eq!(parts(b"select 1; ; select 2 -- no"), [&b"select 1"[..], b"select 2"]);
    }
}
