//! A text -> a POST, over HTTP or HTTPS, from a thread that may wait for it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Posts; keeps its connection.
#[derive(Default)]
pub(crate) struct Poster(Option<(tokio::runtime::Runtime, Https)>);

impl Poster {
    /// Posts a text; an answer other than 2xx is an error. An error never holds the address: it may hold a secret.
    pub(crate) fn post(&mut self, url: &str, content_type: &str, body: &str) -> io::Result<()> {
        if self.0.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let connector =
                HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
            self.0 = Some((runtime, Client::builder(TokioExecutor::new()).build(connector)));
        }
        let Some((runtime, client)) = &self.0 else { return Ok(()) };
        let request = Request::post(url)
            .header("content-type", content_type)
            .header("user-agent", concat!("weir/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not an address to post to"))?;
        let answer =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, client.request(request)).await });
        match answer {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(io::Error::other(format!("the server answers {}", response.status()))),
            Ok(Err(error)) => Err(io::Error::other(if error.is_connect() {
                "the server cannot be reached".to_owned()
            } else {
                error.to_string()
            })),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")),
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
