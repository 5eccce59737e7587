//! `signals` of the configuration -> where to, about what. Secrets come from files or the environment.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::event::{Disposition, Event, EventKind};
use agent_core::policy::nearest;
use serde::{Deserialize, Serialize};

/// Why a receiver cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// One receiver.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Sink {
    /// `webhook`, `syslog`, `otlp` or `ocsf`.
    pub kind: String,
    /// What it is called in metrics and in the log; its kind and number where left out.
    pub name: String,
    /// Dispositions that it is told of (`alerted`, `killed`, ...), and `loss` and `blind`.
    pub when: Vec<String>,
    /// Equal signals within this time are one, with a count; `0s`: each is told.
    pub within: String,
    /// Where an OTLP or OCSF receiver is, e.g. `http://collector:4318`. Holds no secret.
    pub url: String,
    /// File whose first line is the URL. A webhook's URL is a secret.
    pub url_file: Option<PathBuf>,
    /// Environment variable that holds the URL.
    pub url_env: String,
    /// File whose first line is sent as bearer token.
    pub token_file: Option<PathBuf>,
    /// Environment variable that holds the bearer token.
    pub token_env: String,
    /// Where a syslog is: `udp://host:514`, `tcp://host:601`, `unix:///dev/log`.
    pub address: String,
    /// Syslog's facility.
    pub facility: String,
    /// File that takes OCSF lines.
    pub file: Option<PathBuf>,
}

impl Default for Sink {
    fn default() -> Self {
        let when = ["alerted", "held", "denied", "blocked", "killed", "masked"];
        Self {
            kind: String::new(),
            name: String::new(),
            when: when.map(str::to_owned).into(),
            within: "5m".into(),
            url: String::new(),
            url_file: None,
            url_env: String::new(),
            token_file: None,
            token_env: String::new(),
            address: String::new(),
            facility: "local0".into(),
            file: None,
        }
    }
}

/// Kinds, and the keys that belong to each besides `kind`, `name`, `when` and `within`.
const KINDS: [(&str, &[&str]); 4] = [
    ("webhook", &["url_file", "url_env", "token_file", "token_env"]),
    ("syslog", &["address", "facility"]),
    ("otlp", &["url", "url_file", "url_env", "token_file", "token_env"]),
    ("ocsf", &["url", "url_file", "url_env", "token_file", "token_env", "file"]),
];

const DISPOSITIONS: [(&str, Disposition); 8] = [
    ("allowed", Disposition::Allowed),
    ("alerted", Disposition::Alerted),
    ("held", Disposition::Held),
    ("approved", Disposition::Approved),
    ("denied", Disposition::Denied),
    ("blocked", Disposition::Blocked),
    ("killed", Disposition::Killed),
    ("masked", Disposition::Masked),
];

/// Facilities of RFC 5424 by their usual names, from 0.
pub(super) const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Events that somebody wants to know of, by bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted(u16);

const LOSS: u16 = 1 << 14;
const BLIND: u16 = 1 << 15;

impl Wanted {
    /// True where this event is wanted.
    pub fn wants(self, event: &Event) -> bool {
        let bit = match event.event_kind {
            EventKind::Statement | EventKind::Decision => 1 << event.disposition as u16,
            EventKind::Loss => LOSS,
            EventKind::Blind => BLIND,
            EventKind::Session | EventKind::Approval | EventKind::Config => 0,
        };
        self.0 & bit != 0
    }
}

impl std::ops::BitOr for Wanted {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Sink {
    /// Says what is wrong, each with its key.
    pub fn check(&self, at: &str, errors: &mut Vec<String>) {
        let kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        let Some((kind, keys)) = KINDS.iter().find(|(kind, _)| *kind == self.kind) else {
            let hint = match nearest(&self.kind, &kinds) {
                Some(near) if !self.kind.is_empty() => format!("the nearest one is `{near}`"),
                _ => format!("here are: {}", kinds.join(", ")),
            };
            errors.push(format!("{at}.kind: `{}` is no kind of signal; {hint}", self.kind));
            return;
        };
        let default = Self::default();
        let given = [
            ("url", !self.url.is_empty()),
            ("url_file", self.url_file.is_some()),
            ("url_env", !self.url_env.is_empty()),
            ("token_file", self.token_file.is_some()),
            ("token_env", !self.token_env.is_empty()),
            ("address", !self.address.is_empty()),
            ("facility", self.facility != default.facility),
            ("file", self.file.is_some()),
        ];
        for (key, _) in given.iter().filter(|(key, given)| *given && !keys.contains(key)) {
            let hint = if *key == "url" {
                "its URL is a secret: write it into a file and name that as `url_file`, or use `url_env`"
                    .to_owned()
            } else {
                format!("it takes {}", keys.join(", "))
            };
            errors.push(format!("{at}.{key} does not belong to `{kind}`; {hint}"));
        }
        let is = |name: &str| given.iter().any(|(key, given)| *key == name && *given);
        let places =
            ["url", "url_file", "url_env", "address", "file"].into_iter().filter(|key| is(key)).count();
        if places != 1 {
            let ways: Vec<&str> =
                keys.iter().copied().filter(|key| !key.starts_with("token") && *key != "facility").collect();
            errors.push(format!("{at}: say where to with one of {}", ways.join(", ")));
        }
        if is("token_file") && is("token_env") {
            errors.push(format!("{at}: token_file and token_env are two tokens"));
        }
        if is("url")
            && let Err(reason) = plain_url(&self.url)
        {
            errors.push(format!("{at}.url: {reason}"));
        }
        if *kind == "syslog" {
            if is("address")
                && let Err(reason) = super::syslog::Address::read(&self.address)
            {
                errors.push(format!("{at}.address: {reason}"));
            }
            if !FACILITIES.contains(&self.facility.as_str()) {
                let near = nearest(&self.facility, &FACILITIES).unwrap_or("local0");
                errors
                    .push(format!("{at}.facility: `{}` is none; the nearest one is `{near}`", self.facility));
            }
        }
        if self.window().is_none() {
            errors.push(format!("{at}.within: `{}` is no time; write e.g. 30s, 5m, 1h", self.within));
        }
        let mut words: Vec<&str> = DISPOSITIONS.iter().map(|(word, _)| *word).collect();
        if *kind != "ocsf" {
            words.extend(["loss", "blind"]);
        }
        for word in self.when.iter().filter(|word| !words.contains(&word.as_str())) {
            let hint = match nearest(word, &words) {
                Some(near) => format!("the nearest one is `{near}`"),
                None => format!("here are: {}", words.join(", ")),
            };
            errors.push(format!("{at}.when: `{word}` is nothing that `{kind}` is told of; {hint}"));
        }
        if self.when.is_empty() {
            errors.push(format!("{at}.when is empty: it would never be told anything"));
        }
    }

    /// How long equal signals are gathered.
    pub(super) fn window(&self) -> Option<Duration> {
        let (digits, unit) =
            self.within.split_at(self.within.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        Some(Duration::from_secs(u64::from(digits.parse::<u32>().ok()?) * unit))
    }

    /// What it is told of.
    pub(super) fn wanted(&self) -> Wanted {
        let bits = self.when.iter().map(|word| match word.as_str() {
            "loss" => LOSS,
            "blind" => BLIND,
            word => DISPOSITIONS.iter().find(|(name, _)| *name == word).map_or(0, |(_, d)| 1 << *d as u16),
        });
        Wanted(bits.fold(0, |all, bit| all | bit))
    }

    /// Its name in metrics and in the log.
    pub(super) fn label(&self, number: usize) -> String {
        if self.name.is_empty() { format!("{}{}", self.kind, number + 1) } else { self.name.clone() }
    }

    /// The URL, from where it is.
    pub(super) fn url(&self) -> Result<String, Problem> {
        if self.url.is_empty() {
            secret("url", self.url_file.as_ref(), &self.url_env)
        } else {
            Ok(self.url.clone())
        }
    }

    /// The bearer token, where one is wanted.
    pub(super) fn token(&self) -> Result<Option<String>, Problem> {
        if self.token_file.is_none() && self.token_env.is_empty() {
            return Ok(None);
        }
        secret("token", self.token_file.as_ref(), &self.token_env).map(Some)
    }
}

/// The first line of a file, or a variable. What goes wrong is told without what is in it.
pub(crate) fn secret(what: &str, file: Option<&PathBuf>, variable: &str) -> Result<String, Problem> {
    let (text, from) = if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Problem(format!("cannot read {what}_file {}: {error}", file.display())))?;
        (text, format!("{what}_file {}", file.display()))
    } else {
        let text = std::env::var(variable).unwrap_or_default();
        (text, format!("{what}_env {variable}"))
    };
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { Err(Problem(format!("{from} is empty"))) } else { Ok(line.to_owned()) }
}

/// A URL that may stand in a file that many read.
pub(crate) fn plain_url(url: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}; a URL with a secret belongs in `url_file` or `url_env`"));
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("it begins with neither http:// nor https://".into());
    };
    if !["http", "https"].contains(&scheme) {
        return Err(format!("`{scheme}` is neither http nor https"));
    }
    if rest.split('/').next().unwrap_or_default().contains('@') {
        return wrong("it holds a user");
    }
    if rest.contains(['?', '#']) {
        return wrong("it holds parameters");
    }
    Ok(())
}
