//! HTTP -> `/metrics`, `/healthz` and `/readyz`, on a thread of its own with no rights at all.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::Metrics;
use crate::serve::{self, Answer, Keep, Listener, Thread, told};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    _thread: Thread,
}

impl Server {
    /// Listens, and answers from a thread of its own.
    pub fn start(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let thread = Thread::start("weir-metrics", move |stopped| async move {
            let handle = move |request: Request<Incoming>, _| {
                let answer = answer(&request, &metrics);
                async move { answer }
            };
            serve::serve(Listener::tcp(listener)?, Keep::Alive, handle, stopped).await;
            Ok(())
        })?;
        Ok(Self { address, _thread: thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Answer {
    let verdict = |wrong: Option<String>| match wrong {
        None => told(StatusCode::OK, TEXT, "ok\n".into()),
        Some(reason) => told(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason + "\n"),
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return told(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".into());
    }
    match request.uri().path() {
        "/metrics" => told(StatusCode::OK, OPEN_METRICS, metrics.text()),
        "/healthz" => verdict(metrics.sick()),
        "/readyz" => verdict(metrics.unready()),
        _ => told(StatusCode::NOT_FOUND, TEXT, "/metrics /healthz /readyz\n".into()),
    }
}
