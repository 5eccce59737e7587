//! One YAML file, with `WEIR_...` variables over it -> one documented struct.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_core::policy::nearest;
use agent_core::sql::Redaction;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::approve;
use crate::command::values;
use crate::pipeline::unix::Want;
use crate::signals::settings::Sink;

/// Why a configuration cannot be used. All that is wrong is said at once.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no YAML.
    #[error("{path} is not valid YAML: {reason}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// Keys or values that mean nothing.
    #[error("{}", .0.join("; "))]
    Keys(Vec<String>),
}

/// Everything that can be set. Every key is optional.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Config {
    /// Directory for the spool, the chain's head and the embedded engine's data.
    pub state: PathBuf,
    /// Where receipts go. Without a `url`: the embedded engine.
    pub store: Store,
    /// What is captured.
    pub capture: Capture,
    /// Directory of policy files, read again when they change. A directory that is missing holds none.
    pub policies: PathBuf,
    /// Identity maps. Accepted, not used yet.
    pub identity: Option<PathBuf>,
    /// File that declares which columns hold what class of sensitive data.
    pub catalog: Option<PathBuf>,
    /// What events keep of texts and parameters.
    pub redaction: RedactionConfig,
    /// How often the receipt chain is signed.
    pub checkpoint: Checkpoint,
    /// Where signed checkpoints are told outside of the store.
    pub anchor: Anchor,
    /// How long receipts are kept.
    pub retention: Retention,
    /// How connections are held.
    pub gate: Gate,
    /// Who is told of alerts and acts.
    pub signals: Vec<Sink>,
    /// How people decide about what is held, besides `weir approve`.
    pub approvals: approve::Settings,
    /// Where the agent can be asked.
    pub listen: Listen,
}

/// `store`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Store {
    /// ClickHouse's HTTP interface, e.g. `https://clickhouse:8443`; empty: the embedded engine.
    pub url: String,
    /// Database; made where it is missing.
    pub database: String,
    /// User.
    pub user: String,
    /// File whose first line is the password. Passwords never come from arguments.
    pub password_file: Option<PathBuf>,
    /// Cap of the spool on disk, e.g. `1GiB`.
    pub spool: String,
    /// Address of the embedded engine; port 0 takes a free one.
    pub listen: String,
}

/// `capture`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Capture {
    /// Server port -> protocol: a hint, other ports are looked at too.
    pub ports: BTreeMap<String, String>,
    /// Size of the kernel's ring buffer, a power of two.
    pub ring: String,
    /// Plaintext of TLS, by probes on the libraries that have it: `auto` or `off`.
    pub tls: String,
    /// Unix sockets: `auto` (while a database listens on one), `always` or `never`.
    pub unix: Want,
}

/// `redaction`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct RedactionConfig {
    /// For every database.
    pub default: Redaction,
    /// For single databases, by name.
    pub databases: BTreeMap<String, Redaction>,
}

/// `checkpoint`: whichever comes first, and a clean end.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Checkpoint {
    /// After so many receipts.
    pub receipts: u64,
    /// When a receipt has waited so many seconds.
    pub seconds: u64,
}

/// `anchor`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Anchor {
    /// File that each checkpoint is appended to, as a line of JSON: best one that this host can only add to.
    pub file: Option<PathBuf>,
    /// Address that each checkpoint is posted to.
    pub url: Option<String>,
}

/// `retention`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Retention {
    /// Receipts go after so many days, a day at a time, and leave a signed stub; 0 keeps them.
    pub days: u32,
}

/// `gate`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Gate {
    /// Rules with `mode: monitor` go through the gate too: what it would have done is counted, and nothing is done.
    pub canary: bool,
    /// `open` or `closed`.
    pub fail: String,
    /// Most bytes held.
    pub held_bytes: String,
    /// What comes over TLS is judged in the server's own parser, by a probe that keeps a processor busy meanwhile.
    pub tls: bool,
    /// Servers elsewhere, as `address:port`, and their protocols: what processes of this host ask them is held here.
    pub remote: BTreeMap<String, String>,
    /// Ports of servers whose connections go through the gate (for a Unix socket: the number that its path ends with);
    /// empty: those of every database that rules are about.
    pub ports: Vec<u16>,
}

/// `listen`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Listen {
    /// Prometheus metrics, `/healthz` and `/readyz`; empty: nowhere.
    pub metrics: String,
    /// Unix socket for `weir pending`, `approve`, `deny`, `kill` and `gate`; empty: none.
    pub control: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: "/var/lib/weir".into(),
            store: Store {
                url: String::new(),
                database: "weir".into(),
                user: String::new(),
                password_file: None,
                spool: "1GiB".into(),
                listen: "127.0.0.1:8123".into(),
            },
            capture: Capture::default(),
            policies: "/etc/weir/policies".into(),
            identity: None,
            catalog: None,
            redaction: RedactionConfig::default(),
            checkpoint: Checkpoint::default(),
            anchor: Anchor::default(),
            retention: Retention::default(),
            gate: Gate::default(),
            signals: Vec::new(),
            approvals: approve::Settings::default(),
            listen: Listen::default(),
        }
    }
}

impl Default for Capture {
    fn default() -> Self {
        Self { ports: BTreeMap::new(), ring: "64MiB".into(), tls: "auto".into(), unix: Want::Auto }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { receipts: 100_000, seconds: 60 }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { days: 90 }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            canary: false,
            fail: "open".into(),
            held_bytes: "64MiB".into(),
            tls: false,
            remote: BTreeMap::new(),
            ports: Vec::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self { metrics: "127.0.0.1:9108".into(), control: "/run/weir/weir.sock".into() }
    }
}

/// Keys of the contract that this version accepts and does not use.
pub const UNUSED: [&str; 1] = ["identity"];

/// Maps whose keys are the user's own.
const FREE: [&str; 3] = ["capture.ports", "redaction.databases", "gate.remote"];

/// `64MiB`, `1GiB`, `4096` -> bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1u64 << 40,
        _ => return None,
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

impl Config {
    /// Defaults, then the file, then the environment. Returns the configuration and which unused keys were set.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<&'static str>), ConfigError> {
        let given = match file {
            None => Value::Object(Map::new()),
            Some(path) => {
                let path = path.to_owned();
                let text = std::fs::read_to_string(&path)
                    .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                parse(&text).map_err(|reason| ConfigError::Yaml { path, reason })?
            }
        };
        Self::merge(given, environment)
    }

    fn merge(
        given: Value,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<&'static str>), ConfigError> {
        let mut tree = serde_json::to_value(Self::default()).unwrap_or_default();
        let (mut errors, mut set) = (Vec::new(), Vec::new());
        overlay(&mut tree, given, "", &mut errors, &mut set);
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix("WEIR_") else { continue };
            if OWN_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            if !assign(&mut tree, &rest.to_ascii_lowercase(), &value) {
                errors.push(format!("{name} names no setting; `weir run --print-config` shows them all"));
            }
        }
        let config: Option<Self> = serde_json::from_value(tree)
            .map_err(|error| errors.push(format!("a value does not fit: {error}")))
            .ok();
        if let Some(config) = &config {
            config.check(&mut errors);
        }
        match config {
            Some(config) if errors.is_empty() => {
                let unused = UNUSED
                    .into_iter()
                    .filter(|key| set.iter().any(|s: &String| s == key || s.starts_with(&format!("{key}."))));
                Ok((config, unused.collect()))
            }
            _ => Err(ConfigError::Keys(errors)),
        }
    }

    fn check(&self, errors: &mut Vec<String>) {
        if self.ring_bytes().is_none() {
            errors.push(format!("capture.ring: `{}` is no power of two of at least 4KiB", self.capture.ring));
        }
        if bytes(&self.store.spool).is_none() {
            errors.push(format!("store.spool: `{}` is no size; write e.g. 1GiB", self.store.spool));
        }
        if !["open", "closed"].contains(&self.gate.fail.as_str()) {
            errors.push(format!("gate.fail: `{}` is neither `open` nor `closed`", self.gate.fail));
        }
        if bytes(&self.gate.held_bytes).is_none() {
            errors.push(format!("gate.held_bytes: `{}` is no size; write e.g. 64MiB", self.gate.held_bytes));
        }
        if !["auto", "off"].contains(&self.capture.tls.as_str()) {
            errors.push(format!("capture.tls: `{}` is neither `auto` nor `off`", self.capture.tls));
        }
        if self.checkpoint.receipts == 0 || self.checkpoint.seconds == 0 {
            errors.push("checkpoint: `receipts` and `seconds` are at least 1".into());
        }
        let http = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if let Some(false) = self.anchor.url.as_ref().map(http) {
            errors.push("anchor.url is no address; write e.g. https://anchor.example/checkpoints".into());
        }
        for (number, sink) in self.signals.iter().enumerate() {
            sink.check(&format!("signals[{number}]"), errors);
        }
        self.approvals.check(errors);
        if !self.listen.metrics.is_empty() && self.listen.metrics.parse::<std::net::SocketAddr>().is_err() {
            let given = &self.listen.metrics;
            errors.push(format!("listen.metrics: `{given}` is no address; write e.g. 127.0.0.1:9108"));
        }
        if !["open", "closed"].contains(&self.gate.fail.as_str()) {
            errors.push(format!("gate.fail: `{}` is neither `open` nor `closed`", self.gate.fail));
        }
        if bytes(&self.gate.held_bytes).is_none_or(|most| most == 0) {
            errors.push(format!("gate.held_bytes: `{}` is no size; write e.g. 64MiB", self.gate.held_bytes));
        }
        if self.gate.ports.contains(&0) {
            errors.push("gate.ports: 0 is no port".into());
        }
        for (server, name) in &self.gate.remote {
            if let Err(reason) = values::remote(server, name) {
                errors.push(format!("gate.remote.{server}: {reason}"));
            }
        }
        for (port, name) in &self.capture.ports {
            if let Err(reason) = format!("{port}={name}").parse::<values::PortHint>() {
                errors.push(format!("capture.ports.{port}: {reason}"));
            }
        }
    }

    /// The kernel ring's size in bytes.
    pub fn ring_bytes(&self) -> Option<u32> {
        let size = u32::try_from(bytes(&self.capture.ring)?).ok()?;
        (size.is_power_of_two() && size >= 4096).then_some(size)
    }

    /// As YAML, to be shown.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).unwrap_or_default()
    }
}

/// Variables that are about something else than the configuration.
const OWN_VARIABLES: [&str; 2] = ["WEIR_LOG", "WEIR_LIBCHDB"];

fn parse(text: &str) -> Result<Value, String> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Value::Object(Map::new()));
    }
    serde_saphyr::from_str::<Value>(text).map_err(|e| e.to_string())
}

/// Lays `given` over the tree of defaults; a key that is not there is an error that names the nearest one.
fn overlay(tree: &mut Value, given: Value, path: &str, errors: &mut Vec<String>, set: &mut Vec<String>) {
    match (tree, given) {
        (Value::Object(known), Value::Object(given)) => {
            for (key, value) in given {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if FREE.contains(&path) {
                    known.insert(key, value);
                } else if let Some(inner) = known.get_mut(&key) {
                    overlay(inner, value, &at, errors, set);
                } else {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    let hint = match nearest(&key, &names) {
                        Some(near) => format!("the nearest one is `{near}`"),
                        None => format!("here are: {}", names.join(", ")),
                    };
                    errors.push(format!("`{at}` is no setting; {hint}"));
                }
            }
        }
        (list @ Value::Array(_), Value::Array(items)) if path == "signals" => {
            let mut sinks = Vec::new();
            for (number, item) in items.into_iter().enumerate() {
                let mut sink = serde_json::to_value(Sink::default()).unwrap_or_default();
                overlay(&mut sink, item, &format!("signals[{number}]"), errors, set);
                sinks.push(sink);
            }
            *list = Value::Array(sinks);
        }
        (Value::Object(_), Value::Null) => {}
        (Value::Object(_), _) => errors.push(format!("`{path}` holds settings, not a value")),
        (slot, value) => {
            set.push(path.to_owned());
            *slot = match (&*slot, value) {
                (Value::String(_), Value::Number(n)) => Value::String(n.to_string()),
                (_, value) => value,
            };
        }
    }
}

/// Sets `store_url` and the like: words joined by `_`, as the keys are nested.
fn assign(tree: &mut Value, name: &str, value: &str) -> bool {
    let Value::Object(known) = tree else { return false };
    for (key, inner) in known.iter_mut() {
        if name == key && !inner.is_object() {
            *inner = Value::String(value.to_owned());
            return true;
        }
        if let Some(rest) = name.strip_prefix(key.as_str()).and_then(|r| r.strip_prefix('_'))
            && assign(inner, rest, value)
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, env: &[(&str, &str)]) -> Result<(Config, Vec<&'static str>), String> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::merge(parse(yaml)?, env).map_err(|e| e.to_string())
    }

    #[test]
    fn the_contract_s_example() {
        let (config, unused) = load(
            r#"
state: /srv/weir   # spool
store: {url: "https://clickhouse:8443", database: weir, user: weir, password_file: /etc/weir/password}
capture: {ports: {6432: postgresql}, tls: auto, unix: auto}
policies: /etc/weir/policies
identity: /etc/weir/identity.yaml
redaction: {default: literals, databases: {shop: none}}
gate: {fail: open, held_bytes: 64MiB}
listen: {metrics: "127.0.0.1:9108", control: /run/weir/weir.sock}
"#,
            &[],
        )
        .unwrap();
        assert_eq!(config.state, PathBuf::from("/srv/weir"));
        assert_eq!(config.store.url, "https://clickhouse:8443");
        assert_eq!(config.capture.ports["6432"], "postgresql");
        assert_eq!(config.redaction.databases["shop"], Redaction::None);
        assert_eq!(unused, UNUSED);
    }

    #[test]
    fn every_wrong_key_is_named_with_the_nearest_one() {
        let error =
            load("stat: /x\nstore: {ulr: a}\ncapture: {ports: {1: gopher}, ring: 3, tls: maybe}\n", &[])
                .unwrap_err();
        for part in
            ["`stat`", "`state`", "`store.ulr`", "`url`", "capture.ports.1", "capture.ring", "capture.tls"]
        {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert!(load("store: 3", &[]).unwrap_err().contains("holds settings"));
    }

    #[test]
    fn signals_are_checked_as_strictly() {
        let yaml = "signals:
  - {kind: webhok, url_file: /etc/weir/hook}
  - {kind: webhook, url: 'https://hooks.slack.com/services/T0/B0/secret'}
  - {kind: webhook, url_fil: /etc/weir/hook, when: [kiled]}
  - {kind: otlp, url: 'http://user:secret@collector:4318'}
  - {kind: syslog, address: 'udp:/localhost', facility: loca0, within: 5 minutes}
  - {kind: ocsf, file: /var/log/ocsf.jsonl, url: 'http://x', when: [loss]}
";
        let error = load(yaml, &[]).unwrap_err();
        for part in [
            "signals[0].kind: `webhok` is no kind of signal; the nearest one is `webhook`",
            "signals[1].url does not belong to `webhook`; its URL is a secret",
            "`signals[2].url_fil` is no setting; the nearest one is `url_file`",
            "signals[2].when: `kiled` is nothing that `webhook` is told of; the nearest one is `killed`",
            "signals[2]: say where to with one of url_file, url_env",
            "signals[3].url: it holds a user",
            "signals[4].address: `udp:/localhost` is no address",
            "signals[4].facility: `loca0` is none; the nearest one is `local0`",
            "signals[4].within: `5 minutes` is no time",
            "signals[5]: say where to with one of url, url_file, url_env, file",
            "signals[5].when: `loss` is nothing that `ocsf` is told of",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert!(!error.contains("secret@"), "{error}");
        let (config, unused) = load("signals: [{kind: webhook, url_file: /x, when: [killed]}]", &[]).unwrap();
        assert_eq!((config.signals[0].when.len(), unused.len()), (1, 0));
        // What is printed can be read again, and holds no secret: it only says where they are.
        let again = load(&config.to_yaml(), &[]).unwrap().0;
        assert_eq!(again, config);
    }

    #[test]
    fn approvals_are_checked_too() {
        let error = load(
            "approvals: {listen: here, url: 'https://u:p@weir.example', slack_file: /x, slack_env: HOOK, slack: z}",
            &[],
        )
        .unwrap_err();
        for part in [
            "approvals.listen: `here` is no address",
            "approvals.url: it holds a user",
            "approvals: slack_file and slack_env are two chats",
            "`approvals.slack` is no setting; the nearest one is `slack_env`",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert!(load("approvals: {url: 'https://weir.example'}", &[]).is_err());
        let (config, _) = load(
            "approvals: {listen: '127.0.0.1:9110', url: 'https://weir.example', slack_file: /x}",
            &[("WEIR_LISTEN_CONTROL", "")],
        )
        .unwrap();
        assert_eq!((&*config.approvals.listen, config.listen.control), ("127.0.0.1:9110", PathBuf::new()));
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let env =
            [("WEIR_STORE_URL", "http://b"), ("WEIR_STATE", "/s"), ("WEIR_LOG", "debug"), ("HOME", "/")];
        let (config, _) = load("store: {url: 'http://a'}", &env).unwrap();
        assert_eq!((config.store.url.as_str(), config.state), ("http://b", PathBuf::from("/s")));
        assert!(load("", &[("WEIR_STROE_URL", "x")]).unwrap_err().contains("WEIR_STROE_URL"));
    }

    #[test]
    fn what_is_printed_is_what_is_read() {
        let yaml = Config::default().to_yaml();
        assert_eq!(load(&yaml, &[]).unwrap().0, Config::default(), "{yaml}");
    }

    #[test]
    fn what_the_gate_does_in_doubt_is_one_of_two() {
        assert!(!load("", &[]).unwrap().0.gate.canary);
        assert!(load("gate: {canary: true}", &[]).unwrap().0.gate.canary);
        let said = load("gate: {canary: perhaps}", &[]).unwrap_err();
        assert!(said.contains("expected a boolean"), "{said}");
        let wrong = parse("gate: {fail: opne, held_bytes: much}").unwrap();
        let said = Config::merge(wrong, std::iter::empty()).unwrap_err().to_string();
        assert!(said.contains("gate.fail: `opne` is neither `open` nor `closed`"), "{said}");
        assert!(said.contains("gate.held_bytes: `much` is no size"), "{said}");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("64MiB"), Some(64 << 20));
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("1 GiB"), Some(1 << 30));
        assert_eq!(bytes("12 parsecs"), None);
        assert_eq!(bytes(""), None);
    }
}
