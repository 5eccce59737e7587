//! What the server says that it did -> names of statements, portals and cursors, and the request that is answered next.

use std::sync::{Arc, OnceLock};

use super::statement::{self, Step};
use super::{Ask, MOST_NAMES, Masker, Outcome, Portal, Prepared, Recent};
use crate::mask::Plan;

impl Masker {
    pub(super) fn parsed(&mut self) {
        match self.waiting.pop_front() {
            Some(Ask::Parse { name, prepared }) => {
                if let Some(plan) = &prepared.plan {
                    self.recent = Some(Recent { plan: Arc::clone(plan), text: prepared.text.clone() });
                }
                self.name_statement(name, prepared);
            }
            _ => self.lost = true,
        }
    }

    pub(super) fn name_statement(&mut self, name: Box<[u8]>, prepared: Arc<Prepared>) {
        if self.statements.len() >= MOST_NAMES && !self.statements.contains_key(&name) {
            // What is not remembered is not known, which is safe.
            self.statements.clear();
        }
        self.statements.insert(name, prepared);
    }

    pub(super) fn name_portal(&mut self, name: Box<[u8]>, portal: Portal) {
        if self.portals.len() >= MOST_NAMES && !self.portals.contains_key(&name) {
            self.portals.clear();
        }
        self.portals.insert(name, Arc::new(portal));
    }

    pub(super) fn bound(&mut self) {
        match self.waiting.pop_front() {
            Some(Ask::Bind { name, statement, formats, plan }) => {
                let known = self.statements.get(&statement).cloned();
                // Prepared before the session was gated: a description of its portal is kept with its name.
                let prepared = known.unwrap_or_else(|| {
                    let unknown = Arc::<Prepared>::default();
                    self.name_statement(statement, Arc::clone(&unknown));
                    unknown
                });
                self.name_portal(
                    name,
                    Portal { prepared: Some(prepared), formats, plan, described: OnceLock::new() },
                );
            }
            _ => self.lost = true,
        }
    }

    pub(super) fn closed(&mut self) {
        match self.waiting.pop_front() {
            Some(Ask::CloseStatement(name)) => drop(self.statements.remove(&name)),
            Some(Ask::ClosePortal(name)) => drop(self.portals.remove(&name)),
            _ => self.lost = true,
        }
    }

    /// COPY data is wanted. Syncs that were sent before its end count for nothing.
    pub(super) fn copies_in(&mut self) {
        self.copying_in = true;
        while let Some(Ask::Sync | Ask::CopyEnd) = self.waiting.get(1) {
            if let Some(Ask::CopyEnd) = self.waiting.remove(1) {
                self.copying_in = false;
                break;
            }
        }
    }

    pub(super) fn complete(&mut self) {
        self.outcome = Outcome::Unset;
        self.copying_in = false;
        match self.waiting.pop_front() {
            Some(Ask::Query(mut query)) => {
                if let Some(part) = query.parts.get(query.at) {
                    self.done(part, query.plan.as_ref());
                } else if query.unseen {
                    self.forget_names();
                }
                query.at += 1;
                self.waiting.push_front(Ask::Query(query));
            }
            Some(Ask::Execute { portal, plan }) => {
                let executed = self.portals.get(&portal).and_then(|portal| portal.prepared.clone());
                let text = executed.as_ref().and_then(|prepared| prepared.text.as_deref());
                match (&executed, text) {
                    (Some(prepared), Some(text)) => {
                        let plan = plan.or_else(|| prepared.plan.clone());
                        if statement::may_name(text) || plan.is_some() {
                            self.done(text, plan.as_ref());
                        }
                    }
                    (Some(prepared), None) if prepared.unseen => self.forget_names(),
                    // Prepared before the session was gated, as are all names that it could mean.
                    _ => {}
                }
            }
            _ => self.lost = true,
        }
    }

    /// What is not known is not masked by what it was.
    fn forget_names(&mut self) {
        self.statements.clear();
        self.portals.clear();
    }

    /// A statement was executed: follows what it did to names.
    fn done(&mut self, text: &[u8], plan: Option<&Arc<Plan>>) {
        if let Some(plan) = plan {
            self.recent = Some(Recent { plan: Arc::clone(plan), text: Some(text.into()) });
        }
        let made = |text: &[u8]| {
            Arc::new(Prepared { text: Some(text.into()), plan: plan.cloned(), ..Prepared::default() })
        };
        match statement::step(text) {
            Step::Prepare { name, body } => self.name_statement(name, made(body)),
            Step::Declare { name, query } => {
                let portal = Portal { prepared: Some(made(query)), ..Portal::default() };
                self.name_portal(name, portal);
            }
            Step::Deallocate { name: Some(name) } => drop(self.statements.remove(&name)),
            Step::Deallocate { name: None } => self.statements.clear(),
            Step::Close { name: Some(name) } => drop(self.portals.remove(&name)),
            Step::Close { name: None } => self.portals.clear(),
            // A block may change any name, too.
            Step::DiscardAll | Step::Block => self.forget_names(),
            _ => {}
        }
    }

    pub(super) fn suspended(&mut self, kind: u8) {
        match self.waiting.front() {
            // Its columns stay, but the next Execute begins anew.
            Some(Ask::Execute { .. }) => {
                self.waiting.pop_front();
                self.outcome = Outcome::Unset;
            }
            Some(Ask::Query(_)) if kind == b'I' => {}
            _ => self.lost = true,
        }
    }

    pub(super) fn failed(&mut self) {
        self.outcome = Outcome::Unset;
        self.copying_in = false;
        match self.waiting.front() {
            // ReadyForQuery ends these.
            Some(Ask::Query(_) | Ask::Function { .. } | Ask::Sync) | None => {}
            Some(_) => {
                let sync = self.waiting.iter().position(|ask| matches!(ask, Ask::Sync));
                self.skipping = sync.is_none();
                self.waiting.drain(..sync.unwrap_or(self.waiting.len()));
            }
        }
    }

    pub(super) fn ready(&mut self) {
        self.outcome = Outcome::Unset;
        self.copying_in = false;
        self.recent = None;
        match self.waiting.pop_front() {
            Some(Ask::Query(_)) => {
                // A simple query ends the unnamed statement and portal.
                self.statements.remove(&b""[..]);
                self.portals.remove(&b""[..]);
            }
            Some(Ask::Sync | Ask::Function { .. }) | None => {}
            Some(_) => self.lost = true,
        }
    }
}
