//! Events -> sessions with their messages, in the order in which weir told them. Statements of one message are joined.

use std::collections::HashMap;

use agent_core::event::{Event, EventKind};

/// The statements of one message.
pub type Message<'a> = Vec<&'a Event>;

/// One connection, as weir saw it.
pub struct Session<'a> {
    /// The client's address.
    pub address: &'a str,
    /// The client's port.
    pub port: u16,
    /// What it sent.
    pub messages: Vec<Message<'a>>,
}

/// Sorts statement events by session. Those that weir itself says were never executed (they came after an error in
/// a pipeline) are counted, not kept: the server does not log them either.
pub fn sessions(events: &[Event]) -> (Vec<Session<'_>>, usize) {
    let mut sessions: Vec<Session<'_>> = Vec::new();
    let mut known: HashMap<u64, usize> = HashMap::new();
    let mut skipped = 0;
    for event in events.iter().filter(|e| e.event_kind == EventKind::Statement) {
        if &*event.error_type == "not_executed" && event.batch_id.is_empty() {
            skipped += 1;
            continue;
        }
        let at = *known.entry(event.session_id).or_insert_with(|| {
            sessions.push(Session {
                address: &event.client_address,
                port: event.client_port,
                messages: Vec::new(),
            });
            sessions.len() - 1
        });
        let messages = &mut sessions[at].messages;
        match messages.last_mut() {
            Some(message) if !event.batch_id.is_empty() && message[0].batch_id == event.batch_id => {
                message.push(event);
            }
            _ => messages.push(vec![event]),
        }
    }
    (sessions, skipped)
}

/// Rows that a statement processed: changed, or else sent.
pub fn rows(event: &Event) -> Option<u64> {
    event.db_response_affected_rows.or(event.db_response_returned_rows)
}

/// True where the statements of a message, in order, make up its whole text: between them are only blanks,
/// semicolons and comments.
pub fn makes_up(message: &[&Event], whole: &str) -> bool {
    if let [only] = message
        && *only.db_query_text == *whole
    {
        return true;
    }
    let mut rest = whole;
    for event in message {
        // An empty statement has no place of its own.
        let Some(at) = rest.find(&*event.db_query_text) else { return false };
        if !blank(&rest[..at]) {
            return false;
        }
        rest = &rest[at + event.db_query_text.len()..];
    }
    blank(rest)
}

fn blank(text: &str) -> bool {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            return rest.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_the_statements_of_a_message() {
        let part = |text: &str| Event { db_query_text: text.into(), ..Event::default() };
        let (a, b) = (part("select 1"), part("select 1"));
        assert!(makes_up(&[&a, &b], "select 1;/* and */ select 1 -- end"));
        assert!(!makes_up(&[&a], "select 1; select 2"));
        assert!(!makes_up(&[&a, &b], "select 1; drop table t; select 1"));
        assert!(makes_up(&[&part("")], ""));
    }
}
