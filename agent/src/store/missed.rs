//! Events that could not be recorded -> one loss event for each connection, with how many and why.

use std::collections::HashMap;

use agent_core::event::{Event, EventKind};

use super::Config;
use super::writer::{loss, now};

/// Connections that are told apart until they are reported; the rest is told as one.
const SESSIONS_MAX: usize = 1024;

/// Why an event is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The queue to the writer is full.
    Queue,
    /// The spool is at its cap.
    Spool,
    /// The disk refused.
    Disk,
}

/// What became of one connection's events.
#[derive(Default)]
struct Session {
    /// The connection's own fields.
    about: Event,
    counts: [u64; 3],
    /// Bytes of the requests.
    bytes: u64,
}

/// Events that were not recorded and not reported yet.
#[derive(Default)]
pub(super) struct Missed {
    sessions: HashMap<u64, Session>,
    since: u64,
}

impl Missed {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Counts an event. A report that could not be recorded itself is not lost: it will be made anew.
    pub(super) fn add(&mut self, reason: Reason, event: &Event) {
        if is_report(event) {
            return;
        }
        if self.is_empty() {
            self.since = now();
        }
        let full = self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&event.session_id);
        let id = if full { 0 } else { event.session_id };
        let session = self.sessions.entry(id).or_insert_with(|| Session {
            about: if id == 0 { Event::default() } else { about(event) },
            ..Session::default()
        });
        session.counts[reason as usize] += 1;
        session.bytes += event.capture_bytes;
    }

    /// Takes over what another has counted.
    pub(super) fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (id, session) in other.sessions {
            let full = self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&id);
            let mine = self.sessions.entry(if full { 0 } else { id }).or_default();
            if !full {
                mine.about = session.about;
            }
            for (mine, other) in mine.counts.iter_mut().zip(session.counts) {
                *mine += other;
            }
            mine.bytes += session.bytes;
        }
    }

    /// One event for each connection, the one for the rest first.
    pub(super) fn events(&self, config: &Config) -> Vec<Event> {
        let mut ids: Vec<u64> = self.sessions.keys().copied().collect();
        ids.sort_unstable();
        let until = now();
        let event = |id: &u64| {
            let Session { about, counts: [queue, spool, disk], bytes } = &self.sessions[id];
            let text = format!(
                "{} events not recorded: writer behind {queue}, spool full {spool}, disk full {disk}",
                queue + spool + disk
            );
            let loss = loss(config, REPORT, text);
            Event {
                time: self.since,
                duration_ns: Some(until.saturating_sub(self.since)),
                event_kind: loss.event_kind,
                agent_id: loss.agent_id,
                host_name: loss.host_name,
                error_type: loss.error_type,
                db_query_summary: loss.db_query_summary,
                statement_complete: true,
                capture_lost_before: *bytes,
                ..about.clone()
            }
        };
        ids.iter().map(event).collect()
    }
}

const REPORT: &str = "not_recorded";

pub(super) fn is_report(event: &Event) -> bool {
    event.event_kind == EventKind::Loss && &*event.error_type == REPORT
}

/// What names a connection.
fn about(event: &Event) -> Event {
    Event {
        session_id: event.session_id,
        db_system_name: event.db_system_name.clone(),
        db_namespace: event.db_namespace.clone(),
        db_user: event.db_user.clone(),
        client_address: event.client_address.clone(),
        client_port: event.client_port,
        server_address: event.server_address.clone(),
        server_port: event.server_port,
        network_transport: event.network_transport.clone(),
        network_tls: event.network_tls,
        process_pid: event.process_pid,
        process_start_ns: event.process_start_ns,
        process_executable_path: event.process_executable_path.clone(),
        identity_principal: event.identity_principal.clone(),
        capture_source: event.capture_source,
        capture_vantage: event.capture_vantage,
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(session_id: u64) -> Event {
        Event { session_id, client_port: session_id as u16, capture_bytes: 10, ..Event::default() }
    }

    #[test]
    fn each_connection_has_its_own_count_and_the_rest_is_one() {
        let mut missed = Missed::default();
        for id in 1..=SESSIONS_MAX as u64 + 5 {
            missed.add(Reason::Spool, &event(id));
        }
        let mut other = Missed::default();
        for _ in 0..3 {
            other.add(Reason::Queue, &event(7));
        }
        other.add(Reason::Disk, &event(1_000_000));
        missed.append(other);
        let events = missed.events(&Config::default());
        assert_eq!(events.len(), SESSIONS_MAX + 1);
        assert_eq!((events[0].session_id, events[0].capture_lost_before), (0, 60));
        assert_eq!(
            &*events[0].db_query_summary,
            "6 events not recorded: writer behind 0, spool full 5, disk full 1"
        );
        let seventh = &events[7];
        assert_eq!((seventh.session_id, seventh.client_port, seventh.capture_lost_before), (7, 7, 40));
        assert_eq!(
            &*seventh.db_query_summary,
            "4 events not recorded: writer behind 3, spool full 1, disk full 0"
        );
    }

    #[test]
    fn reports_are_not_counted() {
        let mut missed = Missed::default();
        missed.add(Reason::Spool, &event(1));
        let report = missed.events(&Config::default()).remove(0);
        let mut again = Missed::default();
        again.add(Reason::Spool, &report);
        assert!(again.is_empty());
    }
}
