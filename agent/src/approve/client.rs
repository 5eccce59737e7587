//! A command -> the control socket -> its answer, with errors that say what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::UnixStream;

use super::View;
use super::control::{ACTOR, Words};

/// Longer than the agent's own patience with itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ten thousand requests with long texts.
const ANSWER: usize = 512 << 20;

/// Speaks to the agent on this host.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What was answered.
struct Told {
    actor: String,
    body: Vec<u8>,
}

impl Client {
    /// For the agent that listens there.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// What waits and this user may decide about, and who the agent takes him for.
    pub fn pending(&self) -> anyhow::Result<(Vec<View>, String)> {
        let told = self.call(Method::GET, "/v1/approvals", String::new())?;
        let lines = told.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let views = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
        Ok((views.context("the agent's answer is not understood; is it of this version?")?, told.actor))
    }

    /// Approves or denies; what was decided about.
    pub fn decide(
        &self,
        id: &str,
        approve: bool,
        digest: Option<String>,
        reason: String,
    ) -> anyhow::Result<View> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            bail!("`{id}` is no id of a request; `weir pending` lists them");
        }
        let verb = if approve { "approve" } else { "deny" };
        let words = serde_json::to_string(&Words { digest, reason })?;
        let told = self.call(Method::POST, &format!("/v1/approvals/{id}/{verb}"), words)?;
        Ok(serde_json::from_slice(&told.body)?)
    }

    /// Ends a session; what came of it, by name.
    pub fn kill(&self, session: u64) -> anyhow::Result<Map<String, Value>> {
        let told = self.call(Method::POST, &format!("/v1/sessions/{session}/kill"), String::new())?;
        Ok(serde_json::from_slice(&told.body)?)
    }

    /// `on`, `off`, or how the gate stands; by name.
    pub fn gate(&self, switch: Option<bool>) -> anyhow::Result<Map<String, Value>> {
        let (method, path) = match switch {
            None => (Method::GET, "/v1/gate"),
            Some(true) => (Method::POST, "/v1/gate/on"),
            Some(false) => (Method::POST, "/v1/gate/off"),
        };
        Ok(serde_json::from_slice(&self.call(method, path, String::new())?.body)?)
    }

    fn call(&self, method: Method, path: &str, body: String) -> anyhow::Result<Told> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = runtime.block_on(async {
            // Inside: a timeout is one of its runtime.
            tokio::time::timeout(PATIENCE, self.ask(method, path, body)).await
        });
        asked.unwrap_or_else(|_| bail!("the agent at {} does not answer", self.socket.display()))
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<Told> {
        let at = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow::anyhow!("no agent listens on {at}; start `weir run`, or say where with --socket")
            }
            io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("you may not use {at}: its directory is closed to you; try as root")
            }
            _ => anyhow::anyhow!("cannot use {at}: {error}"),
        })?;
        let gone = || format!("the agent at {at} ended the conversation");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(gone)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "weir")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes::Bytes::from(body)))?;
        let answer = sender.send_request(request).await.with_context(gone)?;
        let status = answer.status();
        let actor = answer.headers().get(ACTOR).and_then(|name| name.to_str().ok()).unwrap_or_default();
        let actor = actor.to_owned();
        let read = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = read.map_err(|error| anyhow::anyhow!("{}: {error}", gone()))?.to_bytes().to_vec();
        if status.is_success() {
            return Ok(Told { actor, body });
        }
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        match told["message"].as_str() {
            Some(message) => bail!("{message}"),
            None => bail!("the agent at {at} answers {status}; is it of this version?"),
        }
    }
}
