//! The first packet of a connection -> what it asks for: a session, encryption, a cancellation.

use super::settings::Values;
use crate::exchange::{Cancel, Session};
use crate::reader::Reader;

/// What an untyped packet of the startup phase is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// SSLRequest.
    Tls,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest for the backend with this process id. Its key is a secret and goes no further.
    Cancel(u32),
    /// StartupMessage with its parameters.
    Startup(Reader<'a>),
    /// None of these.
    Unknown,
}

impl PartialEq for Reader<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rest() == other.rest()
    }
}
impl Eq for Reader<'_> {}
impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes[{}]", self.rest().len())
    }
}

/// As TLS writes an application protocol's name: length first.
const ALPN: &[u8] = b"\x0apostgresql";
pub(super) const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// Reads what follows the length of an untyped packet.
pub(super) fn packet(body: &[u8]) -> Packet<'_> {
    let mut reader = Reader::new(body);
    match reader.u32() {
        Some(TLS) => Packet::Tls,
        Some(GSS) => Packet::Gss,
        Some(CANCEL) => Packet::Cancel(reader.u32().unwrap_or(0)),
        Some(version) if version >> 16 == 3 => Packet::Startup(reader),
        _ => Packet::Unknown,
    }
}

/// Is this the beginning of an untyped packet? `None` where too few bytes are there to tell.
pub(super) fn begins(bytes: &[u8]) -> Option<bool> {
    let mut reader = Reader::new(bytes);
    let Some(length) = reader.u32() else {
        return bytes.iter().take(2).any(|&b| b != 0).then_some(false);
    };
    if !(8..=10_000).contains(&length) {
        return Some(false);
    }
    let code = reader.u32()?;
    Some(match code {
        TLS | GSS => length == 8,
        CANCEL => (16..=268).contains(&length),
        // 3.0, 3.2, and those that a client tries in order to find out whether the server negotiates.
        version => version >> 16 == 3 && length > 8,
    })
}

/// A TLS ClientHello that names PostgreSQL as its protocol (direct TLS, PostgreSQL 17 and later)?
/// `None` where it is not whole yet.
pub(super) fn direct_tls(bytes: &[u8]) -> Option<bool> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != 0x16 || reader.u8()? != 3 {
        return Some(false);
    }
    reader.u8()?;
    let length = usize::from(reader.u16()?);
    let hello = reader.bytes(length)?;
    Some(hello.windows(ALPN.len()).any(|window| window == ALPN))
}

/// The CancelRequest for a backend and its key: four bytes in protocol 3.0, up to 256 in 3.2.
pub(super) fn cancel(backend: u32, key: &[u8]) -> Option<Cancel> {
    let length = u32::try_from(key.len()).ok().filter(|length| (4..=256).contains(length))? + 12;
    let head = [length.to_be_bytes(), CANCEL.to_be_bytes(), backend.to_be_bytes()];
    Some(Cancel::new([head.as_flattened(), key].concat()))
}

/// Fills in what the startup packet says about the session.
pub(super) fn session(mut parameters: Reader<'_>, session: &mut Session) -> Values {
    let mut values = Values::default();
    while let Some(name) = parameters.cstring().filter(|name| !name.is_empty()) {
        let Some(value) = parameters.cstring() else { break };
        let text = String::from_utf8_lossy(value).into_owned();
        match name {
            b"user" => session.user = text,
            b"database" => session.namespace = text,
            b"replication" => {
                session.replication =
                    !["", "false", "off", "no", "0", "f", "n"].contains(&text.to_ascii_lowercase().as_str());
            }
            b"options" => options(&text, session, &mut values),
            _ => setting(&String::from_utf8_lossy(name), text, session, &mut values),
        }
    }
    if session.namespace.is_empty() {
        session.namespace.clone_from(&session.user);
    }
    session.role.clone_from(&values.role);
    session.search_path.clone_from(&values.search_path);
    values
}

fn setting(name: &str, value: String, session: &mut Session, values: &mut Values) {
    match name.to_ascii_lowercase().replace('-', "_").as_str() {
        "application_name" => session.application_name = value,
        "search_path" => values.search_path = value,
        "role" if value != "none" => values.role = value,
        _ => {}
    }
}

/// `-c name=value`, `--name=value`; a backslash keeps a blank.
fn options(text: &str, session: &mut Session, values: &mut Values) {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = words.len() - 1;
        match c {
            '\\' => words[last].extend(chars.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => words[last].push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(pair) => pair.to_owned(),
            None => continue,
        };
        if let Some((name, value)) = pair.split_once('=') {
            setting(name, value.to_owned(), session, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_parameters() {
        let mut seen = Session::default();
        let body =
            b"\0\x03\0\0user\0ann\0application_name\0psql\0options\0-c search_path=a\\ b --role=eve\0\0";
        let Packet::Startup(parameters) = packet(body) else { panic!("a startup packet") };
        session(parameters, &mut seen);
        assert_eq!(
            (seen.user.as_str(), seen.namespace.as_str()),
            ("ann", "ann"),
            "the database defaults to the user"
        );
        assert_eq!((seen.search_path.as_str(), seen.role.as_str()), ("a b", "eve"));
        assert_eq!(seen.application_name, "psql");
    }

    #[test]
    fn a_cancel_request_is_one() {
        for key in [&b"abcd"[..], &[7; 32], &[7; 256]] {
            let request = cancel(4711, key).unwrap();
            assert_eq!(begins(request.bytes()), Some(true));
            let (length, body) = request.bytes().split_first_chunk().unwrap();
            assert_eq!(u32::from_be_bytes(*length) as usize, request.bytes().len());
            assert_eq!((packet(body), &body[8..]), (Packet::Cancel(4711), key));
            assert_eq!(format!("{request:?}"), format!("cancel[{}]", key.len() + 12), "the key is a secret");
        }
        assert!([&b"abc"[..], &[7; 257]].iter().all(|key| cancel(4711, key).is_none()));
    }

    #[test]
    fn first_bytes() {
        assert_eq!(begins(b"\0\0\0\x08\x04\xd2\x16\x2f"), Some(true));
        assert_eq!(begins(b"\0\0\0\x64\0\x03\0\x02"), Some(true));
        assert_eq!(begins(b"\0\0\0\x64\0\x02\0\0"), Some(false), "protocol 2");
        assert_eq!(begins(b"GET / HT"), Some(false));
        assert_eq!(begins(b"\0\0\0"), None);
        assert_eq!(direct_tls(b"\x16\x03\x01\0\x0c?\x0apostgresql"), Some(true));
        assert_eq!(direct_tls(b"\x16\x03\x01\0\x03abc"), Some(false));
        assert_eq!(direct_tls(b"\x16\x03\x01\0\x0c?"), None);
    }
}
