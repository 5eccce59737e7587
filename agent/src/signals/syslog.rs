//! A signal -> one message of RFC 5424, framed as its transport wants it.

use std::fmt::Write as _;
use std::path::PathBuf;

use agent_core::event::rfc3339;

use super::Signal;
use super::settings::FACILITIES;
use super::words::{Severity, headline, severity};

/// The structured data's id. 32473 is the number that RFC 5612 sets aside for those without one of their own.
const ID: &str = "weir@32473";
/// Longest value of a parameter: a datagram has to hold the message.
const LENGTH: usize = 512;
/// Fields that become parameters.
const FIELDS: [&str; 18] = [
    "event_id",
    "event_kind",
    "session_id",
    "policy_rule",
    "policy_version",
    "policy_mode",
    "disposition",
    "identity_principal",
    "ai_agent_name",
    "process_pid",
    "process_executable_path",
    "client_address",
    "server_address",
    "db_system_name",
    "db_namespace",
    "db_user",
    "db_query_fingerprint",
    "error_type",
];

/// Where a syslog is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A datagram for each message (RFC 5426).
    Udp(String),
    /// A stream of messages, each behind its length (RFC 6587).
    Tcp(String),
    /// A socket of this host, as `/dev/log`.
    Unix(PathBuf),
}

impl Address {
    /// `udp://host:514`, `tcp://host:601`, `unix:///dev/log`.
    pub fn read(text: &str) -> Result<Self, String> {
        const FORMS: &str = "write udp://host:514, tcp://host:601 or unix:///dev/log";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("`{text}` is no address; {FORMS}"));
        };
        let port = |rest: &str| {
            let port = rest.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if port.is_some_and(|(host, port)| !host.is_empty() && port != 0) {
                Ok(rest.to_owned())
            } else {
                Err(format!("`{text}` names no host and port; {FORMS}"))
            }
        };
        match scheme {
            "udp" => port(rest).map(Self::Udp),
            "tcp" => port(rest).map(Self::Tcp),
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            _ => Err(format!("`{text}` is no address; {FORMS}")),
        }
    }
}

/// The message, without a frame.
pub fn message(signal: &Signal, facility: &str) -> Vec<u8> {
    let event = &signal.event;
    let grave = match severity(signal) {
        Severity::Information => 6,
        Severity::Warning => 4,
        Severity::Error => 3,
    };
    let facility = FACILITIES.iter().position(|name| *name == facility).unwrap_or(16);
    let mut time = rfc3339(event.time);
    // Microseconds at most.
    time.replace_range(26..29, "");
    let kind = match super::words::verdict(signal).as_str() {
        "would be killed" => "would_kill".to_owned(),
        other => other.replace(' ', "_"),
    };
    let mut line = format!(
        "<{}>1 {time} {} weir {} {} [{ID}",
        facility * 8 + grave,
        header(&event.host_name, 255),
        std::process::id(),
        header(&kind, 32),
    );
    let known = super::words::fields(signal);
    for name in FIELDS {
        let Some((_, value)) = known.iter().find(|(known, _)| known == name) else { continue };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(line, " {name}=\"{}\"", parameter(&value));
    }
    let _ = write!(line, " count=\"{}\"] ", signal.count);
    let text: String = headline(signal).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if !text.is_ascii() {
        // Says that it is UTF-8.
        line.push('\u{feff}');
    }
    line.push_str(&text);
    line.into_bytes()
}

/// A field of the header: printable ASCII without spaces, `-` for nothing.
fn header(text: &str, most: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if text.is_empty() { "-".into() } else { text }
}

fn parameter(value: &str) -> String {
    let end = value.floor_char_boundary(LENGTH);
    let mut out = String::with_capacity(end);
    for c in value[..end].chars() {
        match c {
            '"' | '\\' | ']' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
