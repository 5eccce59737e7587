//! Signed links -> pages and decisions. To look is not to decide: chats and mail scanners fetch every link they see.

use std::sync::Arc;

use agent_core::approval::{Actor, Decision, Power, Refusal, State};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, StatusCode};

use super::link::Link;
use super::{Shared, View, control, now, page};
use crate::serve::{Answer, body, told};

const HTML: &str = "text/html; charset=utf-8";
/// What a page may do: be shown, and send its own form.
const HEADERS: [(HeaderName, &str); 6] = [
    (CACHE_CONTROL, "no-store"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    // The address is what lets somebody decide: it goes nowhere.
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    let mut answer = route(&shared, request).await;
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn route(shared: &Shared, request: Request<Incoming>) -> Answer {
    let page = |status, html| told(status, HTML, html);
    let path = request.uri().path();
    let token = path.strip_prefix("/approve/").map(|token| (true, token));
    let Some((approve, token)) = token.or_else(|| path.strip_prefix("/deny/").map(|token| (false, token)))
    else {
        return page(
            StatusCode::NOT_FOUND,
            page::refused("There is nothing here", "Use a link from a message."),
        );
    };
    let links = shared.links.as_ref();
    let link = links.and_then(|links| links.key.read(token)).filter(|link| link.approve == approve);
    let Some(link) = link else {
        shared.refuse("bad_link", "link");
        let told = "This agent did not make this link as it is: it was cut, or changed.";
        return page(StatusCode::FORBIDDEN, page::refused("Not a valid link", told));
    };
    let outcome = match *request.method() {
        Method::GET | Method::HEAD => look(shared, &link).map(|view| page::question(&view, link.approve)),
        Method::POST => {
            // Read, so that the answer is not cut off; it says nothing.
            if body(request).await.is_none() {
                return page(
                    StatusCode::BAD_REQUEST,
                    page::refused("Too much was sent", "Nothing was decided."),
                );
            }
            decide(shared, &link).map(|view| page::done(&view, link.approve))
        }
        _ => {
            let mut answer =
                page(StatusCode::METHOD_NOT_ALLOWED, page::refused("GET or POST", "Nothing was decided."));
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            return answer;
        }
    };
    match outcome {
        Ok(html) => page(StatusCode::OK, html),
        Err(refusal) => {
            let (status, title) = match refusal {
                // The link was good once: the agent was started anew, or has forgotten.
                Refusal::Unknown => (StatusCode::GONE, "Not known any more"),
                Refusal::Decided { .. } => (StatusCode::CONFLICT, "Already decided"),
                Refusal::Expired { .. } => (StatusCode::GONE, "Too late"),
                Refusal::Cancelled { .. } => (StatusCode::GONE, "Withdrawn"),
                _ => (control::status(&refusal), "Not decided"),
            };
            page(status, page::refused(title, &page::sentence(&refusal.to_string())))
        }
    }
}

/// What a link is about, where it still counts.
fn look(shared: &Shared, link: &Link) -> Result<View, Refusal> {
    shared.with(|ledger, now| {
        if let Some(refusal) = ledger.settled(link.id, now) {
            return Err(refusal);
        }
        let (request, _) = ledger.get(link.id).ok_or(Refusal::Unknown)?;
        if request.digest != link.digest {
            return Err(Refusal::BytesDiffer);
        }
        in_time(link, now)?;
        Ok(View::new(request, State::Pending, ""))
    })
}

fn decide(shared: &Shared, link: &Link) -> Result<View, Refusal> {
    look(shared, link).inspect_err(|refusal| shared.refuse(refusal.code(), "link"))?;
    in_time(link, now())?;
    // What is not proven is not said: whoever has the link, and where it was told.
    let from = if shared.chat.is_some() { "link:slack" } else { "link" };
    let actor = Actor { name: from.into(), user: "".into(), power: Power::Bearer(link.id) };
    let (id, digest) = (link.id, Some(link.digest));
    shared.decide(&Decision { id, digest, actor: &actor, approve: link.approve, reason: "" })
}

fn in_time(link: &Link, now: u64) -> Result<(), Refusal> {
    if link.expires <= now { Err(Refusal::Expired { at: link.expires }) } else { Ok(()) }
}
