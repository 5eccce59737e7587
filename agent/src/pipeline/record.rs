//! A statement with its session, identity and verdict -> the flat event of the contract.

use std::sync::Arc;

use crate::gate::talk::Decision;
use agent_core::event::{Disposition, Event, EventKind};
use agent_core::exchange::{Parameter, Statement};
use agent_core::identity::{Claim, Identity};
use agent_core::judge::Verdict;
use agent_core::protocol::PROTOCOLS;
use agent_core::segment::Nanos;
use agent_core::sensitive::{Catalog, has_password, is_sensitive};
use agent_core::sql::{Analysis, Redaction, analyze};

/// Makes UUIDs of version 7 (RFC 9562): the time of the event, then 32 random bits of this run, then a counter.
/// Unique without a random number for each event, sorted by time, and cheap to store.
#[derive(Debug)]
pub struct Ids {
    run: u32,
    count: u64,
}

impl Ids {
    /// `run`: random bits of this start of the agent.
    pub fn new(run: u32) -> Self {
        Self { run, count: 0 }
    }

    /// The next id, for an event at `time`.
    pub fn next(&mut self, time: Nanos) -> u128 {
        self.count += 1;
        let millis = u128::from(time.0 / 1_000_000) & ((1 << 48) - 1);
        let (high, low) = (u128::from(self.run >> 20), u128::from(self.run & 0xf_ffff));
        let count = u128::from(self.count) & ((1 << 42) - 1);
        millis << 80 | 7 << 76 | high << 64 | 2 << 62 | low << 42 | count
    }
}

/// Makes events: knows who the agent is and how much may be kept.
#[derive(Debug)]
pub struct Recorder {
    /// Event ids.
    pub ids: Ids,
    /// Names the agent and its receipt chain.
    pub agent_id: Arc<str>,
    /// This host.
    pub host_name: Arc<str>,
    /// What may be kept of texts and parameters.
    pub redaction: Redaction,
    /// The same for single databases, by name.
    pub redaction_by_database: std::collections::BTreeMap<String, Redaction>,
    /// Columns that somebody declared as sensitive.
    pub catalog: Arc<Catalog>,
    placeholder: Arc<str>,
    /// What is known of a text that was never seen.
    nothing: Analysis,
}

impl Recorder {
    /// A recorder for this run of the agent.
    pub fn new(agent_id: &str, host_name: &str, redaction: Redaction) -> Self {
        Self {
            ids: Ids::new(random()),
            agent_id: agent_id.into(),
            host_name: host_name.into(),
            redaction,
            redaction_by_database: std::collections::BTreeMap::new(),
            catalog: Arc::default(),
            placeholder: "?".into(),
            nothing: Analysis::default(),
        }
    }

    /// Writes the agent's name on an event.
    pub fn stamp(&self, event: &mut Event) {
        event.agent_id = Arc::clone(&self.agent_id);
        event.host_name = Arc::clone(&self.host_name);
    }

    /// An event about no connection.
    pub fn blank(&mut self, kind: EventKind, time: Nanos) -> Event {
        let mut event = Event {
            event_kind: kind,
            time: time.0,
            event_id: self.ids.next(time),
            statement_complete: true,
            ..Event::default()
        };
        self.stamp(&mut event);
        event
    }

    /// Makes a flow's event that of something that is no statement.
    pub(super) fn occurrence(&mut self, event: &mut Event, kind: EventKind, time: Nanos) {
        self.statement(event, &Statement { started: time, ..Statement::default() }, None);
        event.event_kind = kind;
        event.statement_complete = true;
    }

    /// Makes a flow's event that of one statement: writes every field that its session does not decide.
    pub(super) fn statement(&mut self, event: &mut Event, statement: &Statement, verdict: Option<&Verdict>) {
        let redaction = if self.redaction_by_database.is_empty() {
            self.redaction
        } else {
            self.redaction_by_database.get(&*event.db_namespace).copied().unwrap_or(self.redaction)
        };
        event.event_kind = EventKind::Statement;
        event.time = statement.started.0;
        event.event_id = self.ids.next(statement.started);
        if let Some(text) = &statement.text {
            let own = text.analysis();
            // What an EXECUTE does is what the statement behind the name does.
            let meant = statement.prepared.as_ref().map_or(own, |prepared| prepared.analysis());
            put(&mut event.db_query_text, &text.shown_with(redaction, &self.catalog));
            understood(event, own, meant);
            event.statement_complete = statement.complete && meant.statement_complete;
        } else {
            event.db_query_text = Arc::default();
            understood(event, &self.nothing, &self.nothing);
            event.statement_complete = false;
            if let Some(id) = statement.function {
                let call = Analysis::function_call(id);
                event.db_query_summary = call.db_query_summary;
                event.db_operation_name = call.db_operation_name;
                event.statement_effects = call.statement_effects;
            }
        }
        put(&mut event.data_classes, &statement.data_classes(&self.catalog));
        event.db_query_parameters.clear();
        for (number, parameter) in (1..).zip(&statement.parameters) {
            let shown = match redaction {
                Redaction::Literals => Arc::clone(&self.placeholder),
                Redaction::Sensitive if self.belongs(statement, number) => Arc::clone(&self.placeholder),
                _ => self.parameter(parameter, redaction),
            };
            event.db_query_parameters.push(shown);
        }
        if let Some(batch) = statement.batch {
            event.batch_id = format!("{:x}-{:x}", event.session_id, batch.id).into();
            event.batch_index = batch.index;
        } else {
            clear(&mut event.batch_id);
            event.batch_index = 0;
        }
        if statement.status.is_empty() {
            clear(&mut event.db_response_status_code);
        } else {
            event.db_response_status_code = statement.status.as_str().into();
        }
        if statement.error.is_empty() {
            put(&mut event.error_type, &event.db_response_status_code);
        } else {
            event.error_type = statement.error.into();
        }
        event.db_response_returned_rows = statement.returned_rows;
        event.db_response_affected_rows = statement.affected_rows;
        event.duration_ns = statement.ended.map(|t| t.since(statement.started));
        event.first_byte_ns = statement.first_byte.map(|t| t.since(statement.started));
        event.capture_truncated = statement.truncated;
        event.capture_lost_before = statement.lost_before;
        event.capture_bytes = statement.bytes;
        if let Some(verdict) = verdict {
            put(&mut event.policy_rule, &verdict.policy_rule);
            put(&mut event.policy_version, &verdict.policy_version);
            if *event.policy_mode != *verdict.mode_name() {
                event.policy_mode = verdict.mode_name().into();
            }
            event.disposition = verdict.disposition;
        } else {
            clear(&mut event.policy_rule);
            clear(&mut event.policy_version);
            clear(&mut event.policy_mode);
            event.disposition = Disposition::default();
        }
    }

    /// True where the text binds the parameter to a column of a sensitive class.
    fn belongs(&self, statement: &Statement, number: usize) -> bool {
        let column = statement.text.as_ref().and_then(|text| text.column_of_parameter(number));
        column.is_some_and(|column| {
            let (relation, name) = column.rsplit_once('.').unwrap_or(("", &column));
            self.catalog.column(&std::iter::once(relation), name).is_some()
        })
    }

    fn parameter(&self, parameter: &Parameter, redaction: Redaction) -> Arc<str> {
        match parameter {
            Parameter::Null => "NULL".into(),
            Parameter::Text(text) => {
                let goes = if redaction == Redaction::None { has_password(text) } else { is_sensitive(text) };
                if goes { Arc::clone(&self.placeholder) } else { text.as_ref().into() }
            }
            Parameter::Binary(bytes) => {
                use std::fmt::Write as _;
                let mut hex = String::with_capacity(2 + 2 * bytes.len());
                hex.push_str("\\x");
                for byte in bytes {
                    let _ = write!(hex, "{byte:02x}");
                }
                hex.into()
            }
        }
    }
}

/// Writes on a statement's event what became of it while it was held; none where it was not.
pub(super) fn held(event: &mut Event, decision: Option<&Decision>) {
    if let Some(decision) = decision
        && decision.id != 0
    {
        event.event_id = decision.id;
    }
    if let Some(decision) = decision
        && decision.replaced
        && let Some(entry) = PROTOCOLS.iter().find(|entry| *entry.name == *event.db_system_name)
    {
        let meant = analyze(entry.dialect, decision.shown.as_bytes());
        understood(event, &meant, &meant);
        event.db_query_text = decision.shown.as_str().into();
        event.statement_complete = meant.statement_complete;
    }
    if let Some(approval) = decision.and_then(|decision| decision.approval.as_ref()) {
        event.approval_id = approval.id.as_str().into();
        event.approval_state = approval.state.as_str().into();
        event.approval_actor = approval.actor.as_str().into();
    } else {
        clear(&mut event.approval_id);
        clear(&mut event.approval_state);
        clear(&mut event.approval_actor);
    }
}

/// Writes what a text does on an event; `meant` is the text behind the name where it executes one.
fn understood(event: &mut Event, own: &Analysis, meant: &Analysis) {
    put(&mut event.db_query_summary, &own.db_query_summary);
    put(&mut event.db_operation_name, &own.db_operation_name);
    put(&mut event.db_collection_name, &meant.db_collection_name);
    put(&mut event.db_query_fingerprint, &own.db_query_fingerprint);
    put(&mut event.statement_effects, &meant.statement_effects);
    put(&mut event.statement_relations, &meant.statement_relations);
    event.statement_unbounded = meant.statement_unbounded;
}

/// Shares `value`. It mostly is what is there already: then no count is touched.
fn put<T: ?Sized>(place: &mut Arc<T>, value: &Arc<T>) {
    if !Arc::ptr_eq(place, value) {
        *place = Arc::clone(value);
    }
}

/// Leaves nothing, at no cost where there is nothing.
fn clear(place: &mut Arc<str>) {
    if !place.is_empty() {
        *place = Arc::default();
    }
}

/// Writes who is at work on an event.
pub(super) fn identify(event: &mut Event, identity: Identity) {
    if let Some(process) = &identity.process {
        event.process_pid = Some(process.pid);
        event.process_start_ns = Some(process.start_ns);
        event.process_executable_path = Arc::clone(&process.executable);
        event.process_command_line = Arc::clone(&process.command_line);
        event.process_owner = Arc::clone(&process.owner);
        event.process_auid = process.auid;
        event.process_ancestry = Arc::clone(&process.ancestry);
    }
    if let Some(container) = &identity.container {
        event.container_id = Arc::clone(&container.id);
        event.container_runtime = Arc::clone(&container.runtime);
    }
    event.ai_agent_name = identity.ai_agent;
    event.identity_principal = identity.principal;
    event.identity_claims = identity.claims;
    event.identity_conflict = identity.conflict;
}

/// Takes off an event who is at work: it is a pooler's, which works for others.
pub(super) fn nobody(event: &mut Event) {
    let nobody = Event::default();
    event.process_pid = nobody.process_pid;
    event.process_start_ns = nobody.process_start_ns;
    event.process_executable_path = nobody.process_executable_path;
    event.process_command_line = nobody.process_command_line;
    event.process_owner = nobody.process_owner;
    event.process_auid = nobody.process_auid;
    event.process_ancestry = nobody.process_ancestry;
    event.container_id = nobody.container_id;
    event.container_runtime = nobody.container_runtime;
    event.ai_agent_name = nobody.ai_agent_name;
    event.identity_principal = nobody.identity_principal;
}

/// Writes on an event of a pooler's connection for which client it was, as the client's own session says. Its claims
/// say where they come from.
pub(super) fn act_for(event: &mut Event, client: &Event, confidence: u8) {
    event.process_pid = client.process_pid;
    event.process_start_ns = client.process_start_ns;
    event.process_executable_path = Arc::clone(&client.process_executable_path);
    event.process_command_line = Arc::clone(&client.process_command_line);
    event.process_owner = Arc::clone(&client.process_owner);
    event.process_auid = client.process_auid;
    event.process_ancestry = Arc::clone(&client.process_ancestry);
    event.container_id = Arc::clone(&client.container_id);
    event.container_runtime = Arc::clone(&client.container_runtime);
    event.ai_agent_name = Arc::clone(&client.ai_agent_name);
    event.identity_principal = Arc::clone(&client.identity_principal);
    event.identity_conflict = client.identity_conflict;
    let joined = |claim: &Claim| Claim {
        source: "join".into(),
        confidence: claim.confidence.min(confidence),
        ..claim.clone()
    };
    let own = |claim: &&Claim| !claim.key.starts_with("db_") && !claim.key.starts_with("pooler");
    let session = Claim {
        key: "pooled_session".into(),
        value: client.session_id.to_string().into(),
        source: "join".into(),
        confidence,
    };
    let claims = event.identity_claims.iter().cloned();
    event.identity_claims =
        claims.chain([session]).chain(client.identity_claims.iter().filter(own).map(joined)).collect();
}

/// 32 random bits, from the kernel.
pub(crate) fn random() -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if n == 4 { u32::from_ne_bytes(bytes) } else { std::process::id() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_unique_and_sorted() {
        let mut ids = Ids::new(0xdead_beef);
        let (a, b) = (ids.next(Nanos(1_000_000)), ids.next(Nanos(1_000_000)));
        let c = ids.next(Nanos(2_000_000));
        assert_eq!((a >> 76 & 15, a >> 62 & 3), (7, 2), "version and variant");
        assert_eq!(a >> 80, 1, "milliseconds lead");
        assert!(a < b && b < c);
        assert_eq!((a >> 64 & 0xfff) << 20 | (a >> 42 & 0xf_ffff), 0xdead_beef);
    }

    /// What must never be found in an event.
    const PLANTED: &[&str] = &[
        "hunter2",
        "4111111111111111",
        "5500-0000-0000-0004",
        "joe@secret.example",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "DE89370400440532013000",
        "219-09-9999",
    ];

    fn told(redaction: Redaction, text: &str, parameters: Vec<Parameter>) -> String {
        let mut recorder = Recorder::new("a", "h", redaction);
        let text =
            agent_core::sql::Texts::default().intern(agent_core::sql::Dialect::Postgresql, text.as_bytes());
        let statement =
            Statement { text: Some(text), parameters, status: "23505".into(), ..Statement::default() };
        let mut event = Event::default();
        recorder.statement(&mut event, &statement, None);
        serde_json::to_string(&event).unwrap() + &format!("{statement:?}{recorder:?}")
    }

    #[test]
    fn no_planted_secret_is_told_by_default() {
        for secret in PLANTED {
            for text in [
                format!("SELECT '{secret}'"),
                format!("INSERT INTO t (a) VALUES ('{secret}'), ('x') -- {secret}"),
                format!("UPDATE t /* {secret} */ SET a = $${secret}$$ WHERE b = E'{secret}'"),
                format!("ALTER ROLE joe PASSWORD '{secret}'"),
                format!("SELECT dblink_connect('password={secret}')"),
                format!("DO $x$ BEGIN EXECUTE '{secret}'; END $x$"),
                format!("selekt '{secret}"),
                format!("COPY t FROM PROGRAM 'curl -u {secret}'"),
            ] {
                let told = told(Redaction::Literals, &text, vec![Parameter::Text((*secret).into())]);
                assert!(!told.contains(secret), "{told}");
            }
            let line = crate::identify::redact::command_line(&["psql", "-c", &format!("SELECT '{secret}'")]);
            assert!(!line.contains(secret), "{line}");
            let line = crate::identify::redact::command_line(&["app", "--password", secret]);
            assert!(!line.contains(secret), "{line}");
        }
    }

    #[test]
    fn what_is_sensitive_goes_where_only_that_does() {
        for secret in PLANTED.iter().filter(|s| **s != "hunter2") {
            let parameters = vec![Parameter::Text((*secret).into()), Parameter::Text("plain".into())];
            let told =
                told(Redaction::Sensitive, &format!("SELECT 'plain', '{secret}' -- {secret}"), parameters);
            assert!(!told.contains(secret) && told.matches("plain").count() == 2, "{told}");
        }
        // By the column that a value is for, whatever it looks like.
        let parameters = vec![Parameter::Text("hunter2".into())];
        let told = told(
            Redaction::Sensitive,
            "UPDATE users SET password = $1 WHERE pin_code = 'hunter2'",
            parameters,
        );
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn passwords_go_whatever_the_setting() {
        for redaction in [Redaction::None, Redaction::Sensitive, Redaction::Literals] {
            for text in [
                "CREATE USER joe PASSWORD 'hunter2'",
                "alter role joe with encrypted password $$hunter2$$",
                "CREATE SUBSCRIPTION s CONNECTION 'host=a password=hunter2' PUBLICATION p",
                "SELECT 'postgres://joe:hunter2@db/shop'",
                "SELECT connect('host=a password=hunter2') -- password=hunter2",
            ] {
                let parameters = vec![Parameter::Text("host=a password=hunter2".into())];
                let told = told(redaction, text, parameters);
                assert!(!told.contains("hunter2"), "{told}");
            }
        }
    }

    #[test]
    fn classes_are_told_without_values() {
        let parameters = vec![Parameter::Text("4111111111111111".into())];
        let told = told(Redaction::Literals, "INSERT INTO pay (pan) VALUES ($1)", parameters);
        assert!(told.contains(r#""data_classes":[{"class":"card","column":"pay.pan"}]"#), "{told}");
    }
}
