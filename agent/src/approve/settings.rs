//! `approvals` of the configuration -> where people are asked. Secrets come from files or the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::link::Key;
use crate::signals::http::Post;
use crate::signals::settings::{Problem, plain_url, secret};
use crate::signals::{Tally, Told};

/// `approvals`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Settings {
    /// Where signed links are answered, e.g. `127.0.0.1:9110`; empty: nowhere, decisions are made by command.
    pub listen: String,
    /// What links begin with, as people reach it, e.g. `https://weir.example.com`; empty: `http://` and `listen`.
    pub url: String,
    /// File whose first line is the URL of a Slack webhook, which is told what waits and what became of it.
    pub slack_file: Option<PathBuf>,
    /// Environment variable that holds that URL.
    pub slack_env: String,
}

/// Settings with their secrets.
#[derive(Default)]
pub struct Opened {
    /// The control socket.
    pub(super) control: Option<PathBuf>,
    /// Where links are answered.
    pub(super) listen: Option<SocketAddr>,
    /// The key that signs them, and what they begin with.
    pub(super) links: Option<(Key, String)>,
    /// The chat.
    pub(super) chat: Option<(Post, Told)>,
    /// This host's name, for people.
    pub(super) host: String,
}

impl Settings {
    /// Says what is wrong, each with its key.
    pub fn check(&self, errors: &mut Vec<String>) {
        if !self.listen.is_empty() && self.listen.parse::<SocketAddr>().is_err() {
            errors.push(format!(
                "approvals.listen: `{}` is no address; write e.g. 127.0.0.1:9110",
                self.listen
            ));
        }
        if !self.url.is_empty() {
            if let Err(reason) = plain_url(&self.url) {
                errors.push(format!("approvals.url: {reason}"));
            }
            if self.listen.is_empty() {
                errors
                    .push("approvals.url: links need `approvals.listen` too, where they are answered".into());
            }
        }
        if self.slack_file.is_some() && !self.slack_env.is_empty() {
            errors.push("approvals: slack_file and slack_env are two chats".into());
        }
    }

    /// Reads the secrets; makes the key of links where there is none yet. An empty `control` is none.
    pub fn open(&self, control: &Path, state: &Path, host: &str) -> Result<Opened, Problem> {
        let wrong = |problem: Problem| Problem(format!("approvals: {problem}"));
        let listen = self.listen.parse().ok();
        let key = || {
            Key::open(state).map_err(|error| {
                let path = state.join("approval.key");
                Problem(format!("approvals: cannot use the key of links {}: {error}", path.display()))
            })
        };
        let key = listen.is_some().then(key).transpose()?;
        let links = key.map(|key| (key, self.url.trim_end_matches('/').to_owned()));
        let chat = if self.slack_file.is_none() && self.slack_env.is_empty() {
            None
        } else {
            let url = secret("slack", self.slack_file.as_ref(), &self.slack_env).map_err(wrong)?;
            let post = Post::new(&url, None, "application/json").map_err(wrong)?;
            Some((post, Told { name: "approvals".into(), tally: Arc::new(Tally::default()) }))
        };
        let control = (!control.as_os_str().is_empty()).then(|| control.to_owned());
        Ok(Opened { control, listen, links, chat, host: host.to_owned() })
    }
}
