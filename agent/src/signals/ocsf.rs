//! A signal -> one event of OCSF's class Datastore Activity (6005), with the profile Security Control.

use agent_core::event::{Disposition, Event, EventKind};
use agent_core::sql::Effect;
use serde_json::{Map, Value, json};

use super::Signal;
use super::words::{Severity, headline, severity};

/// The version of the schema that the events follow.
const VERSION: &str = "1.5.0";
const CLASS: u64 = 6005;

/// What the statement does, as the class counts activities.
fn activity(event: &Event) -> (u64, &'static str) {
    let does = |effects: &[Effect]| event.statement_effects.iter().any(|effect| effects.contains(effect));
    if event.event_kind == EventKind::Session {
        (3, "Connect")
    } else if does(&[Effect::Delete, Effect::Truncate, Effect::Drop]) {
        (7, "Delete")
    } else if does(&[Effect::Update, Effect::Alter, Effect::Grant, Effect::Revoke]) {
        (2, "Update")
    } else if does(&[Effect::Create]) {
        (6, "Create")
    } else if does(&[Effect::Insert, Effect::CopyIn]) {
        (5, "Write")
    } else if does(&[Effect::Read, Effect::CopyOut, Effect::Replicate]) {
        (4, "Query")
    } else if event.statement_effects.is_empty() {
        (0, "Unknown")
    } else {
        (99, "Other")
    }
}

/// What was done: `action_id`, `disposition_id` and their captions.
fn outcome(event: &Event) -> (u64, &'static str, u64, &'static str) {
    if &*event.policy_mode == "monitor" && event.disposition > Disposition::Alerted {
        return (1, "Allowed", 15, "Detected");
    }
    match event.disposition {
        Disposition::Allowed => (1, "Allowed", 1, "Allowed"),
        Disposition::Alerted => (1, "Allowed", 19, "Alert"),
        Disposition::Held => (1, "Allowed", 14, "Delayed"),
        Disposition::Approved => (1, "Allowed", 8, "Approved"),
        Disposition::Denied => (2, "Denied", 25, "Rejected"),
        Disposition::Blocked => (2, "Denied", 2, "Blocked"),
        Disposition::Killed => (2, "Denied", 21, "Reset"),
        Disposition::Masked => (1, "Allowed", 7, "Custom Action"),
    }
}

/// An object of what says something.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| says(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// Where one end is; what is left is the host for a Unix socket, and what cannot be known is said so.
fn endpoint(address: &str, port: u16, host: &str) -> Value {
    let ip = address.parse::<std::net::IpAddr>().is_ok();
    object([
        ("ip", if ip { address.into() } else { Value::Null }),
        ("port", if port > 0 { port.into() } else { Value::Null }),
        ("hostname", if ip { Value::Null } else { host.into() }),
        ("svc_name", if ip { Value::Null } else { address.into() }),
    ])
}

fn process(event: &Event) -> Value {
    let path = &*event.process_executable_path;
    let name = path.rsplit('/').next().unwrap_or_default();
    let file = if path.is_empty() { Value::Null } else { json!({"name": name, "path": path, "type_id": 1}) };
    let Some(pid) = event.process_pid else { return Value::Null };
    object([
        ("pid", pid.into()),
        ("name", name.into()),
        ("cmd_line", (&*event.process_command_line).into()),
        ("file", file),
        ("user", object([("name", (&*event.process_owner).into())])),
    ])
}

/// The event, on one line without its end.
pub fn line(signal: &Signal) -> Vec<u8> {
    let event = &signal.event;
    let (activity_id, activity_name) = activity(event);
    let (action_id, action, disposition_id, disposition) = outcome(event);
    let (severity_id, severity) = match severity(signal) {
        Severity::Information => (1, "Informational"),
        Severity::Warning => (3, "Medium"),
        Severity::Error => (4, "High"),
    };
    let millis = |nanos: u64| Value::from(nanos / 1_000_000);
    let text = |text: &str| Value::from(text);
    let failed = !event.error_type.is_empty();
    let place = if event.db_namespace.is_empty() {
        (
            "uid",
            Value::from(format!("{} {}:{}", event.db_system_name, event.server_address, event.server_port)),
        )
    } else {
        ("name", text(&event.db_namespace))
    };
    let who = if event.identity_principal.is_empty() { &event.db_user } else { &event.identity_principal };
    let query = if event.db_query_text.is_empty() {
        Value::Null
    } else {
        object([
            ("query_string", text(&event.db_query_text)),
            ("uid", text(&event.db_query_fingerprint)),
            ("query_time", millis(event.time)),
        ])
    };
    let policy = object([
        ("name", text(&event.policy_rule)),
        ("uid", text(&event.policy_rule)),
        ("version", text(&event.policy_version)),
        ("desc", text(&signal.message)),
        ("is_applied", (&*event.policy_mode == "enforce").into()),
    ]);
    let product = json!({"name": "weir", "vendor_name": "weir", "version": env!("CARGO_PKG_VERSION")});
    let metadata = object([
        ("version", VERSION.into()),
        ("product", product),
        ("profiles", json!(["security_control"])),
        ("uid", Value::from(String::from_utf8_lossy(&agent_core::event::uuid(event.event_id)))),
        ("correlation_uid", text(&event.trace_id)),
        ("log_name", "weir.signals".into()),
        ("log_provider", text(&event.agent_id)),
    ]);
    let session = object([("uid", event.session_id.to_string().into())]);
    let actor = object([
        ("user", object([("name", text(who))])),
        ("process", process(event)),
        ("session", session),
        ("app_name", text(&event.db_application_name)),
    ]);
    let unmapped: Map<String, Value> = super::words::fields(signal)
        .into_iter()
        .filter(|(name, _)| {
            ["statement_", "data_classes", "ai_agent_name", "container_", "k8s_", "capture_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    let all = object([
        ("activity_id", activity_id.into()),
        ("activity_name", activity_name.into()),
        ("category_uid", 6.into()),
        ("category_name", "Application Activity".into()),
        ("class_uid", CLASS.into()),
        ("class_name", "Datastore Activity".into()),
        ("type_uid", (CLASS * 100 + activity_id).into()),
        ("type_name", format!("Datastore Activity: {activity_name}").into()),
        ("severity_id", severity_id.into()),
        ("severity", severity.into()),
        ("time", millis(event.time)),
        ("start_time", millis(event.time)),
        ("end_time", millis(signal.last.max(event.time) + event.duration_ns.unwrap_or(0))),
        ("duration", event.duration_ns.map_or(Value::Null, millis)),
        ("count", signal.count.into()),
        ("message", headline(signal).into()),
        ("status_id", if failed { 2.into() } else { 1.into() }),
        ("status", if failed { "Failure".into() } else { "Success".into() }),
        ("status_code", text(&event.db_response_status_code)),
        ("metadata", metadata),
        ("actor", actor),
        ("src_endpoint", endpoint(&event.client_address, event.client_port, &event.host_name)),
        ("dst_endpoint", endpoint(&event.server_address, event.server_port, &event.host_name)),
        ("database", object([place, ("type_id", 1.into()), ("type", text(&event.db_system_name))])),
        ("table", object([("name", text(&event.db_collection_name))])),
        ("type_id", 1.into()),
        ("type", "Database".into()),
        ("query_info", query),
        ("action_id", action_id.into()),
        ("action", action.into()),
        ("disposition_id", disposition_id.into()),
        ("disposition", disposition.into()),
        ("is_alert", (event.disposition != Disposition::Allowed).into()),
        ("policy", if event.policy_rule.is_empty() { Value::Null } else { policy }),
        ("unmapped", Value::Object(unmapped)),
    ]);
    all.to_string().into_bytes()
}
