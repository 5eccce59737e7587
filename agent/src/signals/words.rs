//! A signal -> a line for people, how grave it is, and attributes for machines.

use agent_core::event::{Disposition, EventKind};
use serde_json::Value;

use super::Signal;

/// How grave a signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing happened that should not.
    Information,
    /// Somebody should look.
    Warning,
    /// Somebody was stopped.
    Error,
}

/// How grave it is.
pub fn severity(signal: &Signal) -> Severity {
    let stopped =
        [Disposition::Denied, Disposition::Blocked, Disposition::Killed].contains(&signal.event.disposition);
    match signal.event.event_kind {
        EventKind::Loss | EventKind::Blind => Severity::Warning,
        _ if signal.event.disposition == Disposition::Allowed => Severity::Information,
        _ if stopped && &*signal.event.policy_mode == "enforce" => Severity::Error,
        _ => Severity::Warning,
    }
}

/// What was done, in a word or three.
pub fn verdict(signal: &Signal) -> String {
    let event = &signal.event;
    let word = match event.event_kind {
        EventKind::Loss => return "loss".into(),
        EventKind::Blind => return "blind".into(),
        _ => match event.disposition {
            Disposition::Allowed => "allowed",
            Disposition::Alerted => "alert",
            Disposition::Held => "held",
            Disposition::Approved => "approved",
            Disposition::Denied => "denied",
            Disposition::Blocked => "blocked",
            Disposition::Killed => "killed",
            Disposition::Masked => "masked",
        },
    };
    let watched = &*event.policy_mode == "monitor" && event.disposition > Disposition::Alerted;
    if watched { format!("would be {word}") } else { word.into() }
}

/// One line: what was done, by which rule, about what, to whom. Holds no value of any statement.
pub fn headline(signal: &Signal) -> String {
    let event = &signal.event;
    let mut line = format!("[{}]", verdict(signal));
    let mut say = |text: &str| line.push_str(text);
    if event.policy_rule.is_empty() {
        if !event.error_type.is_empty() {
            say(&format!(" {}", event.error_type));
        }
    } else {
        say(&format!(" {}", event.policy_rule));
    }
    if !event.db_query_summary.is_empty() {
        say(&format!(": {}", event.db_query_summary));
    }
    if !event.identity_principal.is_empty() {
        say(&format!(" by {}", event.identity_principal));
    }
    if !event.ai_agent_name.is_empty() {
        say(&format!(" (AI agent {})", event.ai_agent_name));
    }
    let program = event.process_executable_path.rsplit('/').next().unwrap_or_default();
    if !program.is_empty() {
        say(&format!(" with {program}"));
    }
    if !event.db_system_name.is_empty() {
        say(&format!(" on {}", event.db_system_name));
        if !event.db_namespace.is_empty() {
            say(&format!(" {}", event.db_namespace));
        }
        if !event.db_user.is_empty() {
            say(&format!(" as {}", event.db_user));
        }
    }
    if !event.host_name.is_empty() {
        say(&format!(" at {}", event.host_name));
    }
    if signal.count > 1 {
        say(&format!(", {} times", signal.count));
    }
    if !signal.message.is_empty() {
        say(&format!(". {}", signal.message));
    }
    line
}

/// The event's fields that say something, by name, without those of the receipt chain: a signal is on its way before
/// its receipt is chained.
pub fn fields(signal: &Signal) -> Vec<(String, Value)> {
    let Ok(Value::Object(all)) = serde_json::to_value(&*signal.event) else { return Vec::new() };
    let chain = ["sequence", "previous_hash", "hash"];
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    all.into_iter().filter(|(name, value)| !chain.contains(&name.as_str()) && says(value)).collect()
}
