//! A signal -> a log record of OTLP, in the JSON encoding of its protobuf messages (ExportLogsServiceRequest).

use serde_json::{Value, json};

use super::Signal;
use super::words::{Severity, fields, headline, severity};

/// Parts of names in which semantic conventions keep the underscore.
const KEPT: [(&str, &str); 8] = [
    (".status.code", ".status_code"),
    (".returned.rows", ".returned_rows"),
    (".affected.rows", ".affected_rows"),
    (".command.line", ".command_line"),
    (".service.account.", ".service_account."),
    (".start.ns", ".start_ns"),
    ("first.byte.ns", "first_byte_ns"),
    ("duration.ns", "duration_ns"),
];

/// The address of a receiver: `/v1/logs` unless the URL says more.
pub fn endpoint(url: &str) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    if path.is_empty() { format!("{}/v1/logs", url.trim_end_matches('/')) } else { url.to_owned() }
}

/// The body of the request.
pub fn body(signal: &Signal) -> Vec<u8> {
    let event = &signal.event;
    let (number, text) = match severity(signal) {
        Severity::Information => (9, "INFO"),
        Severity::Warning => (13, "WARN"),
        Severity::Error => (17, "ERROR"),
    };
    let mut attributes: Vec<Value> = fields(signal)
        .into_iter()
        .filter(|(name, _)| !["time", "host_name", "trace_id", "span_id"].contains(&name.as_str()))
        .map(|(name, value)| attribute(&name_of(&name), &value))
        .collect();
    if !signal.message.is_empty() {
        attributes.push(attribute("policy.message", &Value::from(&*signal.message)));
    }
    attributes.push(attribute("signal.count", &signal.count.into()));
    let mut record = json!({
        "timeUnixNano": event.time.to_string(),
        "observedTimeUnixNano": signal.last.max(event.time).to_string(),
        "severityNumber": number,
        "severityText": text,
        "eventName": "weir.signal",
        "body": {"stringValue": headline(signal)},
        "attributes": attributes,
    });
    if !event.trace_id.is_empty() {
        record["traceId"] = Value::from(&*event.trace_id);
        record["spanId"] = Value::from(&*event.span_id);
    }
    let resource = [
        attribute("service.name", &"weir".into()),
        attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
        attribute("service.instance.id", &Value::from(&*event.agent_id)),
        attribute("host.name", &Value::from(&*event.host_name)),
    ];
    let scope = json!({"name": "weir", "version": env!("CARGO_PKG_VERSION")});
    let scoped = json!({"scope": scope, "logRecords": [record]});
    let request = json!({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": [scoped]}]});
    request.to_string().into_bytes()
}

/// `db_query_text` -> `db.query.text`.
fn name_of(field: &str) -> String {
    KEPT.iter().fold(field.replace('_', "."), |name, (dotted, kept)| name.replace(dotted, kept))
}

fn attribute(name: &str, value: &Value) -> Value {
    json!({"key": name, "value": any_value(value)})
}

/// The oneof `AnyValue`; 64-bit integers are strings in protobuf's JSON.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) => match number.as_i64() {
            Some(value) => json!({"intValue": value.to_string()}),
            None => json!({"doubleValue": number.as_f64()}),
        },
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(items) => {
            json!({"arrayValue": {"values": items.iter().map(any_value).collect::<Vec<_>>()}})
        }
        Value::Object(fields) => {
            let values: Vec<Value> = fields.iter().map(|(name, value)| attribute(name, value)).collect();
            json!({"kvlistValue": {"values": values}})
        }
    }
}
