//! A request and what became of it -> messages in a chat that takes Slack's blocks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use agent_core::approval::{Answer, Request, State};
use agent_core::policy::OnTimeout;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::link::Link;
use super::{Links, Notice, Shared, View};
use crate::serve;
use crate::signals::Told;
use crate::signals::deliver::Attempts;
use crate::signals::http::Post;
use crate::signals::webhook::escaped;

/// Longest statement in a message; a block may have 3,000 characters.
const TEXT: usize = 2_000;
/// Longest other value.
const VALUE: usize = 200;

/// The chat's end of the queue.
pub(super) struct Talk {
    pub(super) post: Post,
    pub(super) told: Told,
    pub(super) notices: mpsc::Receiver<Notice>,
    pub(super) host: String,
}

impl Talk {
    /// Tells what comes, each until it is taken, and ends when it is told to.
    pub(super) async fn run(mut self, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
        let mut under_way = 0;
        let told = async {
            while let Some(notice) = self.notices.recv().await {
                under_way = 1;
                let message = match &notice {
                    Notice::Asked(request) => asked(request, shared.links.as_ref(), &self.host),
                    Notice::Settled(request, answer) => settled(request, answer, &self.host),
                };
                let body = bytes::Bytes::from(message.to_string());
                let mut attempts = Attempts::new(&self.told);
                while attempts.again(self.post.send(body.clone()).await).await {}
                under_way = 0;
            }
        };
        tokio::select! {
            () = told => {}
            () = serve::end(&mut stopped) => {}
        }
        while self.notices.try_recv().is_ok() {
            under_way += 1;
        }
        self.told.tally.dropped_ended.fetch_add(under_way, Relaxed);
    }
}

/// Somebody is to decide.
fn asked(request: &Request, links: Option<&Links>, host: &str) -> Value {
    let view = View::new(request, State::Pending, "");
    let (who, rule, to) = (value(&view.who()), value(&view.policy_rule), value(&view.where_to()));
    let title = format!("Approval wanted: rule {rule} holds a statement of {who}");
    let fields: Vec<Value> = [
        ("Who", who),
        ("Database", to),
        ("As user", value(&view.db_user)),
        ("From", value(&view.client)),
        ("Rule", rule),
        ("Approves", value(&view.holds())),
        ("Until", value(&agent_core::approval::moment(request.expires()))),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| mrkdwn(&format!("*{name}*\n{value}")))
    .collect();
    let mut blocks = vec![section(&format!("*{title}*"))];
    if !view.message.is_empty() {
        blocks.push(section(&value(&view.message)));
    }
    blocks.push(section(&code(&view.db_query_text)));
    blocks.push(json!({"type": "section", "fields": fields}));
    let buttons: Vec<Value> = links
        .into_iter()
        .flat_map(|links| [(true, links), (false, links)])
        .filter_map(button(request))
        .collect();
    if !buttons.is_empty() {
        blocks.push(json!({"type": "actions", "elements": buttons}));
    }
    let end = if request.terms.on_timeout == OnTimeout::Allow { "it goes on" } else { "it is refused" };
    let note = format!(
        "On {}: `weir approve {id}` or `weir deny {id}`. If nobody decides, {end}.",
        value(host),
        id = view.approval_id
    );
    blocks.push(json!({"type": "context", "elements": [mrkdwn(&note)]}));
    message(&title, &blocks)
}

/// Somebody has decided, or nobody did.
fn settled(request: &Request, answer: &Answer, host: &str) -> Value {
    let view = View::new(request, answer.state, &answer.actor);
    let what = match answer.state {
        State::Approved | State::Used => "Approved",
        State::Denied => "Denied",
        State::Expired if answer.goes_on => "Nobody decided in time: it goes on",
        State::Expired => "Nobody decided in time: refused",
        State::Cancelled => "Withdrawn: the client did not wait",
        State::Pending => "Waits",
    };
    let by = if answer.actor.is_empty() { String::new() } else { format!(" by {}", value(&answer.actor)) };
    let title = format!("{what}{by}");
    let mut lines = format!(
        "*{title}*\nStatement of {} on {}, held by rule {} (host {})",
        value(&view.who()),
        value(&view.where_to()),
        value(&view.policy_rule),
        value(host)
    );
    if !answer.reason.is_empty() {
        lines.push_str(&format!("\n> {}", value(&answer.reason).replace('\n', " ")));
    }
    let note = format!("Request {}", view.approval_id);
    message(
        &title,
        &[
            section(&lines),
            section(&code(&view.db_query_text)),
            json!({"type": "context", "elements": [mrkdwn(&note)]}),
        ],
    )
}

/// A button that opens a page: to press it decides nothing yet.
fn button(request: &Request) -> impl Fn((bool, &Links)) -> Option<Value> {
    |(approve, links)| {
        let link = Link { approve, id: request.id, digest: request.digest, expires: request.expires() };
        let token = links.key.sign(&link).ok()?;
        let (verb, text, style) =
            if approve { ("approve", "Approve", "primary") } else { ("deny", "Deny", "danger") };
        Some(json!({
            "type": "button",
            "text": {"type": "plain_text", "text": text},
            "style": style,
            "url": format!("{}/{verb}/{token}", links.url),
        }))
    }
}

fn message(text: &str, blocks: &[Value]) -> Value {
    // Nobody but the one who presses is to fetch a link.
    json!({"text": text, "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": mrkdwn(text)})
}

fn mrkdwn(text: &str) -> Value {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

/// A value that is no markup.
fn value(text: &str) -> String {
    let text = cut(text, VALUE);
    // Emphasis and code begin and end with these: a space of no width takes their meaning.
    let mut out = String::new();
    for c in escaped(&text).chars() {
        if matches!(c, '*' | '_' | '~' | '`') {
            out.push('\u{200b}');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// A statement as a block of code, which it cannot end.
fn code(text: &str) -> String {
    format!("```\n{}\n```", escaped(&cut(text, TEXT)).replace('`', "`\u{200b}"))
}

fn cut(text: &str, length: usize) -> String {
    let end = text.floor_char_boundary(length);
    text[..end].to_owned() + if end < text.len() { "…" } else { "" }
}

#[cfg(test)]
mod tests {
    use agent_core::event::Event;
    use agent_core::policy::Approval;

    use super::*;

    fn request(text: &str) -> Request {
        let event = Event {
            event_id: 1,
            db_query_text: text.into(),
            policy_rule: "no_drop".into(),
            db_user: "<!channel>".into(),
            ..Event::default()
        };
        Request::new(&event, &"".into(), [7; 32], Approval::default())
    }

    #[test]
    fn nobody_s_statement_is_markup() {
        let hostile =
            "DROP ``` <!channel> <https://evil.example|click> & *x*".to_owned() + &"é".repeat(4_000);
        let message = asked(&request(&hostile), None, "host");
        let text = message.to_string();
        assert!(!text.contains("<!channel>") && !text.contains("<https"), "{text}");
        let block = message["blocks"][1]["text"]["text"].as_str().unwrap();
        assert_eq!(block.matches("```").count(), 2, "{block}");
        assert!(block.chars().count() < 3_000);
        assert!(message["blocks"].as_array().unwrap().iter().all(|block| block["type"] != "actions"));
    }

    #[test]
    fn buttons_open_signed_links() {
        let state = tempfile::tempdir().unwrap();
        let key = super::super::link::Key::open(state.path()).unwrap();
        let links = Links { key, url: "https://weir.example.com".into() };
        let message = asked(&request("DROP TABLE t"), Some(&links), "host");
        let actions = message["blocks"].as_array().unwrap().iter().find(|block| block["type"] == "actions");
        let urls =
            actions.unwrap()["elements"].as_array().unwrap().iter().map(|b| b["url"].as_str().unwrap());
        let read: Vec<_> = urls
            .map(|url| {
                let (verb, token) =
                    url.strip_prefix("https://weir.example.com/").unwrap().split_once('/').unwrap();
                (verb, links.key.read(token).unwrap())
            })
            .collect();
        assert_eq!(
            (read[0].0, read[0].1.approve, read[1].0, read[1].1.approve),
            ("approve", true, "deny", false)
        );
        assert!(read.iter().all(|(_, link)| link.id == 1 && link.digest == [7; 32]));
    }
}
