//! A request -> what people and programs are shown of it. Field names are those of the event where it has them.

use agent_core::approval::{Request, State, digest_text, id_text};
use agent_core::event::rfc3339;
use serde::{Deserialize, Serialize};

/// One request, as JSON has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are the contract's, and those of the policy's terms")]
pub struct View {
    pub approval_id: String,
    pub approval_state: String,
    /// Who decided; empty while it waits.
    pub approval_actor: String,
    /// When it was held.
    pub time: String,
    /// When nobody can decide any more.
    pub expires: String,
    pub session_id: String,
    pub policy_rule: String,
    pub policy_version: String,
    /// What the rule says.
    pub message: String,
    pub identity_principal: String,
    pub process_owner: String,
    pub ai_agent_name: String,
    pub db_system_name: String,
    pub db_namespace: String,
    pub db_user: String,
    pub client: String,
    pub db_query_text: String,
    /// SHA-256 of the exact bytes that are held.
    pub digest: String,
    pub groups: Vec<String>,
    pub ttl_seconds: u64,
    pub single_use: bool,
    pub on_timeout: String,
}

impl View {
    /// What is shown of a request in that state, decided by that one.
    pub fn new(request: &Request, state: State, actor: &str) -> Self {
        let text = |text: &str| text.to_owned();
        Self {
            approval_id: id_text(request.id),
            approval_state: text(state.name()),
            approval_actor: text(actor),
            time: rfc3339(request.asked),
            expires: rfc3339(request.expires()),
            session_id: request.session_id.to_string(),
            policy_rule: text(&request.policy_rule),
            policy_version: text(&request.policy_version),
            message: text(&request.message),
            identity_principal: text(&request.identity_principal),
            process_owner: text(&request.process_owner),
            ai_agent_name: text(&request.ai_agent_name),
            db_system_name: text(&request.db_system_name),
            db_namespace: text(&request.db_namespace),
            db_user: text(&request.db_user),
            client: text(&request.client),
            db_query_text: text(&request.db_query_text),
            digest: digest_text(&request.digest),
            groups: request.terms.groups.iter().map(|group| text(group)).collect(),
            ttl_seconds: request.terms.ttl.as_secs(),
            single_use: request.terms.single_use,
            on_timeout: text(request.terms.on_timeout.name()),
        }
    }

    /// Who asks, in a few words: the principal, else the database user; and the AI agent or the process's owner.
    pub fn who(&self) -> String {
        let who = if self.identity_principal.is_empty() { &self.db_user } else { &self.identity_principal };
        let mut out = if who.is_empty() { "somebody unknown".to_owned() } else { who.clone() };
        if !self.ai_agent_name.is_empty() {
            out.push_str(&format!(" by {}", self.ai_agent_name));
        }
        if !self.process_owner.is_empty() && self.process_owner != *who {
            out.push_str(&format!(" ({})", self.process_owner));
        }
        out
    }

    /// What an approval is for, in a few words.
    pub fn holds(&self) -> String {
        if self.single_use {
            return "this one execution".into();
        }
        format!("these bytes from the same client user, for {} s", self.ttl_seconds)
    }

    /// Which database, in a few words.
    pub fn where_to(&self) -> String {
        [&*self.db_system_name, &*self.db_namespace]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/")
    }
}
