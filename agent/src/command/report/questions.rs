//! Who, what, export, access review: each question's arguments and the statement that answers it.

use std::process::ExitCode;

use agent_core::sql::{Dialect, Texts};

use super::Common;
use super::query::{Query, pattern};
use crate::command::explain::dialect;

/// A relation by its name with or without schema, `*` for anything.
const RELATION: &str = "arrayExists(r -> tupleElement(r, 1) ILIKE {relation:String} \
                        OR tupleElement(r, 1) ILIKE {qualified:String}, statement_relations)";

fn relation(query: &mut Query, name: Option<&String>) {
    if let Some(name) = name {
        query.given(RELATION, "relation", Some(pattern(name, false)));
        query.value("qualified", format!("%.{}", pattern(name, false)));
    }
}

/// Who it was, as far as somebody wants to say.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Actor {
    /// Principal (`identity_principal`), `*` for anything
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// User of the observed database, `*` for anything
    #[arg(long, value_name = "NAME")]
    db_user: Option<String>,
    /// Executable of the client process, by path or last part of it, `*` for anything
    #[arg(long, value_name = "NAME")]
    process: Option<String>,
    /// AI agent, `*` for any
    #[arg(long, value_name = "NAME")]
    ai_agent: Option<String>,
    /// Session
    #[arg(long, value_name = "SESSION_ID")]
    session: Option<u64>,
}

impl Actor {
    fn conditions(&self, query: &mut Query) {
        let like = |text: &Option<String>| text.as_ref().map(|text| pattern(text, false));
        query.given("identity_principal ILIKE {principal:String}", "principal", like(&self.principal));
        query.given("db_user ILIKE {db_user:String}", "db_user", like(&self.db_user));
        if self.process.is_some() {
            query.given(
                "(process_executable_path ILIKE {process:String} OR process_executable_path ILIKE {program:String})",
                "process",
                like(&self.process),
            );
            query.value("program", format!("%/{}", like(&self.process).unwrap_or_default()));
        }
        query.given(
            "ai_agent_name != '' AND ai_agent_name ILIKE {ai_agent:String}",
            "ai_agent",
            like(&self.ai_agent),
        );
        query.given("session_id = {session:UInt64}", "session", self.session.map(|id| id.to_string()));
    }
}

/// `weir report who`.
#[derive(clap::Args)]
#[group(id = "statement", required = true, multiple = true, args = ["fingerprint", "text", "relation", "like"])]
pub(super) struct Who {
    #[command(flatten)]
    common: Common,
    /// Fingerprint of the statement
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Part of the text as it is recorded; with `*`, all of it
    #[arg(long, value_name = "PATTERN")]
    text: Option<String>,
    /// Relation, with or without schema, `*` for anything
    #[arg(long, value_name = "NAME")]
    relation: Option<String>,
    /// A statement like it: the same but for literals, spacing and comments
    #[arg(long, value_name = "STATEMENT")]
    like: Option<String>,
    /// The dialect of `--like`
    #[arg(long, value_name = "PROTOCOL", default_value = "postgresql", value_parser = dialect)]
    dialect: Dialect,
}

impl Who {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut query = Query::new(&self.common);
        query.holds("event_kind = 'statement'");
        query.given("db_query_fingerprint = {fingerprint:String}", "fingerprint", self.fingerprint);
        query.given("db_query_text ILIKE {text:String}", "text", self.text.map(|text| pattern(&text, true)));
        relation(&mut query, self.relation.as_ref());
        if let Some(like) = &self.like {
            let text = Texts::default().intern(self.dialect, like.as_bytes());
            query.given(
                "db_query_fingerprint = {like:String}",
                "like",
                Some(text.analysis().db_query_fingerprint.to_string()),
            );
        }
        query
            .print(
                &self.common,
                "SELECT toString(identity_principal) AS principal, toString(db_user) AS user, \
                 toString(process_executable_path) AS process, toString(process_owner) AS owner, \
                 toString(ai_agent_name) AS ai_agent, toString(host_name) AS host, \
                 toString(client_address) AS client, toString(db_namespace) AS namespace, \
                 count() AS statements, sum(ifNull(db_response_returned_rows, 0)) AS returned, \
                 sum(ifNull(db_response_affected_rows, 0)) AS affected, \
                 countIf(db_response_status_code != '') AS errors, \
                 arrayStringConcat(arraySort(groupUniqArray(toString(disposition))), ' ') AS dispositions, \
                 concat(replaceOne(toString(min(time)), ' ', 'T'), 'Z') AS first, \
                 concat(replaceOne(toString(max(time)), ' ', 'T'), 'Z') AS last, \
                 toString(any(db_query_text)) AS statement \
                 FROM events WHERE {where} \
                 GROUP BY principal, user, process, owner, ai_agent, host, client, namespace \
                 ORDER BY last DESC LIMIT {limit:UInt64}",
            )
            .await
    }
}

/// `weir report what`.
#[derive(clap::Args)]
pub(super) struct What {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    actor: Actor,
}

impl What {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut query = Query::new(&self.common);
        query.holds("event_kind = 'statement'");
        self.actor.conditions(&mut query);
        query
            .print(
                &self.common,
                "SELECT toString(db_system_name) AS system, toString(db_namespace) AS namespace, \
                 toString(tupleElement(r, 1)) AS relation, \
                 if(relation = '', '', toString(tupleElement(r, 2))) AS access, \
                 arrayStringConcat(arraySort(groupUniqArrayArray(arrayMap(e -> toString(e), statement_effects))), ' ') \
                 AS effects, \
                 arrayStringConcat(arraySort(groupUniqArrayArray(arrayMap(c -> toString(tupleElement(c, 1)), \
                 data_classes))), ' ') AS classes, \
                 count() AS statements, sum(ifNull(db_response_returned_rows, 0)) AS returned, \
                 sum(ifNull(db_response_affected_rows, 0)) AS affected, countIf(statement_unbounded) AS unbounded, \
                 countIf(NOT statement_complete) AS not_understood, \
                 uniqExact(session_id) AS sessions, \
                 concat(replaceOne(toString(min(time)), ' ', 'T'), 'Z') AS first, \
                 concat(replaceOne(toString(max(time)), ' ', 'T'), 'Z') AS last \
                 FROM events LEFT ARRAY JOIN statement_relations AS r WHERE {where} \
                 GROUP BY system, namespace, relation, access ORDER BY statements DESC, relation LIMIT {limit:UInt64}",
            )
            .await
    }
}

/// `weir report export`.
#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    actor: Actor,
    /// Only this class of data: card, email, secret, ...
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

pub(super) const EXPORT: &str = "SELECT toString(tupleElement(d, 1)) AS class, \
     toString(tupleElement(d, 2)) AS column, toString(identity_principal) AS principal, \
     toString(db_user) AS user, toString(process_executable_path) AS process, \
     toString(ai_agent_name) AS ai_agent, toString(client_address) AS client, \
     toString(host_name) AS host, toString(db_namespace) AS namespace, count() AS statements, \
     sum(ifNull(db_response_returned_rows, 0)) AS rows, sum(capture_bytes) AS request_bytes, \
     arrayStringConcat(arraySort(groupUniqArrayArray(arrayMap(e -> toString(e), statement_effects))), ' ') AS effects, \
     concat(replaceOne(toString(min(time)), ' ', 'T'), 'Z') AS first, \
     concat(replaceOne(toString(max(time)), ' ', 'T'), 'Z') AS last \
     FROM events ARRAY JOIN data_classes AS d WHERE {where} \
     GROUP BY class, column, principal, user, process, ai_agent, client, host, namespace \
     ORDER BY rows DESC, statements DESC, class LIMIT {limit:UInt64}";

/// Statements whose answer, or whose file, carries data away.
pub(super) const LEAVES: &str = "event_kind = 'statement' AND db_response_status_code = '' \
     AND hasAny(arrayMap(e -> toString(e), statement_effects), ['read', 'copy_out', 'file', 'program', 'replicate']) \
     AND (isNull(db_response_returned_rows) OR db_response_returned_rows > 0)";

impl Export {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut query = Query::new(&self.common);
        query.holds(LEAVES);
        query.given("tupleElement(d, 1) = {class:String}", "class", self.class);
        self.actor.conditions(&mut query);
        query.print(&self.common, EXPORT).await
    }
}

/// `weir report access-review`.
#[derive(clap::Args)]
pub(super) struct AccessReview {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    actor: Actor,
    /// Relation, with or without schema, `*` for anything
    #[arg(long, value_name = "NAME")]
    relation: Option<String>,
}

pub(super) const REVIEW: &str = "SELECT toString(identity_principal) AS principal, toString(db_user) AS user, \
     toString(db_system_name) AS system, toString(db_namespace) AS namespace, \
     toString(tupleElement(r, 1)) AS relation, if(relation = '', '', toString(tupleElement(r, 2))) AS access, \
     arrayStringConcat(arrayMap(e -> toString(e), statement_effects), ' ') AS effects, \
     arrayStringConcat(arraySort(groupUniqArrayArray(arrayMap(c -> toString(tupleElement(c, 1)), data_classes))), ' ') \
     AS classes, count() AS statements, sum(ifNull(db_response_returned_rows, 0)) AS returned, \
     sum(ifNull(db_response_affected_rows, 0)) AS affected, \
     countIf(disposition NOT IN ('allowed', 'approved')) AS objected, \
     concat(replaceOne(toString(min(time)), ' ', 'T'), 'Z') AS first, \
     concat(replaceOne(toString(max(time)), ' ', 'T'), 'Z') AS last \
     FROM events LEFT ARRAY JOIN statement_relations AS r WHERE {where} \
     GROUP BY principal, user, system, namespace, relation, access, effects \
     ORDER BY principal, user, namespace, relation, access, effects LIMIT {limit:UInt64}";

impl AccessReview {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut query = Query::new(&self.common);
        query.holds("event_kind = 'statement'");
        relation(&mut query, self.relation.as_ref());
        self.actor.conditions(&mut query);
        query.print(&self.common, REVIEW).await
    }
}
