//! A body -> an HTTP(S) request -> taken, to be tried again, or refused for good. URLs and tokens are never told.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::deliver::Failure;
use super::settings::Problem;

/// Longest that one attempt takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read of an answer, so that the connection can be used again.
const ANSWER: usize = 64 << 10;

/// One receiver's address.
pub(crate) struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    content: &'static str,
}

impl Post {
    pub(crate) fn new(url: &str, token: Option<&str>, content: &'static str) -> Result<Self, Problem> {
        let uri: Uri = url.parse().map_err(|_| Problem("the URL is none".into()))?;
        if uri.host().is_none() || !["http", "https"].contains(&uri.scheme_str().unwrap_or_default()) {
            return Err(Problem("the URL begins with neither http:// nor https://".into()));
        }
        let authorization = token
            .map(|token| HeaderValue::from_str(&format!("Bearer {token}")))
            .transpose()
            .map_err(|_| Problem("the token has characters that no header may have".into()))?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| Problem(format!("no certificates to trust: {error}")))?;
        let connector = tls.https_or_http().enable_http1().build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri,
            authorization,
            content,
        })
    }

    pub(crate) async fn send(&self, body: Bytes) -> Result<(), Failure> {
        match tokio::time::timeout(PATIENCE, self.attempt(body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Again(format!("no answer within {} s", PATIENCE.as_secs()), None)),
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<(), Failure> {
        let mut request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, self.content)
            .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")));
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(|_| Failure::Refused("no request".into()))?;
        let answer = self.client.request(request).await.map_err(|error| {
            // The chain of causes: `client error (Connect): tcp connect error: ...`, which names no path.
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            Failure::Again(text, None)
        })?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        // An answer may repeat what it was asked: it is read and not looked at.
        let _ = Limited::new(answer.into_body(), ANSWER).collect().await;
        if status.is_success() {
            return Ok(());
        }
        let again = status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        let text = format!("it answers {status}");
        Err(if again { Failure::Again(text, after.map(Duration::from_secs)) } else { Failure::Refused(text) })
    }
}

/// The same for a thread of its own that may wait, as an anchor's.
pub(crate) struct Blocking {
    runtime: tokio::runtime::Runtime,
    post: Post,
}

impl Blocking {
    /// For an address that takes JSON.
    pub(crate) fn new(url: &str) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let post = Post::new(url, None, "application/json").map_err(std::io::Error::other)?;
        Ok(Self { runtime, post })
    }

    /// Posts a body and waits until it is taken, or not.
    pub(crate) fn send(&self, body: String) -> std::io::Result<()> {
        match self.runtime.block_on(self.post.send(body.into())) {
            Ok(()) => Ok(()),
            Err(Failure::Again(why, _) | Failure::Refused(why)) => Err(std::io::Error::other(why)),
        }
    }
}

/// The part of an address that may be shown: nothing before its host, nothing behind.
pub(crate) fn shown(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        assert_eq!(shown("https://user:pass@hooks.example:8443/T0/B0?key=x"), "hooks.example:8443");
        assert_eq!(shown("hooks.example"), "hooks.example");
    }
}
