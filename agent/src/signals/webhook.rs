//! A signal -> the JSON of a Slack webhook (Mattermost, Rocket.Chat and others read it too): `text` and fields.

use agent_core::event::rfc3339;
use serde_json::{Value, json};

use super::Signal;
use super::words::{Severity, headline, severity};

/// Fields that people look at, in this order; each is named as in the event.
const FIELDS: [&str; 20] = [
    "policy_rule",
    "policy_mode",
    "disposition",
    "identity_principal",
    "ai_agent_name",
    "process_executable_path",
    "process_pid",
    "client_address",
    "db_system_name",
    "db_namespace",
    "db_user",
    "server_address",
    "statement_effects",
    "db_query_text",
    "db_query_fingerprint",
    "error_type",
    "db_response_returned_rows",
    "db_response_affected_rows",
    "session_id",
    "event_id",
];
/// Longest value; a field is looked at, not read.
const LENGTH: usize = 500;

/// The body of the request.
pub fn body(signal: &Signal) -> Vec<u8> {
    let known = super::words::fields(signal);
    let field = |title: &str, value: &str| {
        let end = value.floor_char_boundary(LENGTH);
        let cut = if end < value.len() { "…" } else { "" };
        json!({"title": title, "value": escaped(&value[..end]) + cut, "short": value.len() <= 40})
    };
    let mut fields: Vec<Value> = FIELDS
        .iter()
        .filter_map(|name| Some((*name, &known.iter().find(|(known, _)| known == name)?.1)))
        .map(|(name, value)| field(name, &plain(value)))
        .collect();
    fields.push(field("time", &rfc3339(signal.event.time)));
    if signal.count > 1 {
        fields.push(field("count", &signal.count.to_string()));
        fields.push(field("last_time", &rfc3339(signal.last)));
    }
    let color = match severity(signal) {
        Severity::Information => "good",
        Severity::Warning => "warning",
        Severity::Error => "danger",
    };
    let text = escaped(&headline(signal));
    let attachment = json!({"fallback": text, "color": color, "fields": fields});
    json!({"text": text, "attachments": [attachment]}).to_string().into_bytes()
}

/// A value as people read it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Slack takes these three for markup.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
