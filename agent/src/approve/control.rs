//! The control socket -> decisions and orders. HTTP, so that `curl --unix-socket` will do; the kernel says who asks.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/approvals` | what waits and this user may decide about, one JSON object a line |
//! | `POST /v1/approvals/ID/approve`, `.../deny` | `{"digest": ..., "reason": ...}`, both optional; what was decided |
//! | `POST /v1/sessions/ID/kill` | what came of it; root only |
//! | `GET /v1/gate`, `POST /v1/gate/on`, `/v1/gate/off` | how it stands; root only |

use std::sync::Arc;
use std::time::Duration;

use agent_core::approval::{Actor, Decision, Power, Refusal, State, parse_digest};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Command, Shared, Switch, View, peer};
use crate::serve::{Answer, Peer, body, told};

/// How long the agent may take to carry out an order.
const PATIENCE: Duration = Duration::from_secs(15);
const JSON: &str = "application/json";
/// The header that tells who the agent takes the asker for.
pub(super) const ACTOR: &str = "weir-actor";

/// What comes with a decision.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Words {
    /// The bytes that are meant: SHA-256 in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    /// Why.
    pub(super) reason: String,
}

/// Why something was not done, for programs and for people.
fn refused(status: StatusCode, error: &str, message: &str) -> Answer {
    told(status, JSON, json!({"error": error, "message": message}).to_string() + "\n")
}

/// The status that says the same.
pub(super) fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Unknown => StatusCode::NOT_FOUND,
        Refusal::Short(_) => StatusCode::BAD_REQUEST,
        Refusal::NotInGroup { .. } | Refusal::Own { .. } => StatusCode::FORBIDDEN,
        Refusal::Expired { .. } | Refusal::Cancelled { .. } => StatusCode::GONE,
        Refusal::Ambiguous(_) | Refusal::Decided { .. } | Refusal::BytesDiffer => StatusCode::CONFLICT,
    }
}

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, peer: Peer) -> Answer {
    let Peer::Process { uid, gid, pid } = peer else {
        return refused(StatusCode::FORBIDDEN, "unknown_peer", "the kernel does not say who asks");
    };
    // Looking somebody up may take a directory service some time.
    let Ok(actor) = tokio::task::spawn_blocking(move || peer::actor(uid, gid, pid)).await else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "failed", "cannot look up who asks");
    };
    let mut answer = route(&shared, request, &actor).await;
    if let Ok(name) = HeaderValue::from_str(&actor.name) {
        answer.headers_mut().insert(ACTOR, name);
    }
    answer
}

async fn route(shared: &Shared, request: Request<Incoming>, actor: &Actor) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match (&method, &*parts) {
        (&Method::GET, ["v1", "approvals"]) => pending(shared, actor),
        (&Method::POST, ["v1", "approvals", id, what @ ("approve" | "deny")]) => {
            let words = match body(request).await {
                Some(bytes) if bytes.is_empty() => Ok(Words::default()),
                Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
                None => Err("it is too long, or came too slowly".into()),
            };
            match words {
                Ok(words) => decide(shared, actor, id, *what == "approve", &words),
                Err(why) => refused(StatusCode::BAD_REQUEST, "not_understood", &format!("the body: {why}")),
            }
        }
        (&Method::POST, ["v1", "sessions", id, "kill"]) => match id.parse() {
            Ok(session_id) => order(shared, actor, Command::Kill { session_id }).await,
            Err(_) => refused(
                StatusCode::BAD_REQUEST,
                "not_understood",
                "a session is a number: `session_id` of its events",
            ),
        },
        (&Method::GET, ["v1", "gate"]) => order(shared, actor, Command::Gate(Switch::Status)).await,
        (&Method::POST, ["v1", "gate", "on"]) => order(shared, actor, Command::Gate(Switch::On)).await,
        (&Method::POST, ["v1", "gate", "off"]) => order(shared, actor, Command::Gate(Switch::Off)).await,
        _ => refused(
            StatusCode::NOT_FOUND,
            "unknown",
            "GET /v1/approvals, POST /v1/approvals/ID/approve or deny, POST /v1/sessions/ID/kill, GET /v1/gate, \
             POST /v1/gate/on or off",
        ),
    }
}

fn pending(shared: &Shared, actor: &Actor) -> Answer {
    let views: Vec<View> = shared.with(|ledger, now| {
        ledger.expire(now);
        ledger.pending(actor).map(|request| View::new(request, State::Pending, "")).collect()
    });
    let mut lines = String::new();
    for view in views {
        // A struct of texts is always JSON.
        lines.push_str(&serde_json::to_string(&view).unwrap_or_default());
        lines.push('\n');
    }
    told(StatusCode::OK, "application/x-ndjson", lines)
}

fn decide(shared: &Shared, actor: &Actor, id: &str, approve: bool, words: &Words) -> Answer {
    let digest = match words.digest.as_deref().map(parse_digest) {
        Some(None) => {
            let told = "the digest is 64 hexadecimal digits";
            return refused(StatusCode::BAD_REQUEST, "not_understood", told);
        }
        given => given.flatten(),
    };
    let found = shared.with(|ledger, _| ledger.find(id));
    let decided = found
        .inspect_err(|refusal| shared.refuse(refusal.code(), &actor.name))
        .and_then(|id| shared.decide(&Decision { id, digest, actor, approve, reason: &words.reason }));
    match decided {
        Ok(view) => told(StatusCode::OK, JSON, serde_json::to_string(&view).unwrap_or_default() + "\n"),
        Err(refusal) => refused(status(&refusal), refusal.code(), &refusal.to_string()),
    }
}

async fn order(shared: &Shared, actor: &Actor, command: Command) -> Answer {
    if actor.power != Power::All {
        let told = format!("only root may do that, and you are {}", actor.name);
        return refused(StatusCode::FORBIDDEN, "not_root", &told);
    }
    tracing::info!(?command, actor = &*actor.name, "an order");
    let busy = |told| refused(StatusCode::SERVICE_UNAVAILABLE, "busy", told);
    let Some(reply) = shared.order(command, &actor.name) else {
        return busy("too many orders wait for the agent");
    };
    match tokio::time::timeout(PATIENCE, reply).await {
        Err(_) => busy("the agent did not answer in time: whether it was done is not known"),
        Ok(Err(_)) => refused(StatusCode::NOT_IMPLEMENTED, "not_done", "this agent does not do that"),
        Ok(Ok(Ok(done))) => told(StatusCode::OK, JSON, json!(done).to_string() + "\n"),
        Ok(Ok(Err(why))) => refused(StatusCode::CONFLICT, "failed", &why),
    }
}
