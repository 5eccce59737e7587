//! A statement and who asks for it -> a verdict, at the request and again at the answer; and what is done about it.

use std::borrow::Cow;
use std::sync::Arc;

use agent_core::event::{DataClass, Disposition, Event, EventKind};
use agent_core::exchange::{Kind, Statement};
use agent_core::judge::{Held, Look, Subject, Verdict, judge, would};
use agent_core::policy::{Action, Mode};
use agent_core::segment::{Nanos, Side};
use agent_core::sql::Analysis;

use super::FlowSink;
use crate::gate::talk::Decision;

/// What a statement does, as far as its text tells.
fn analysis(statement: &Statement) -> Cow<'_, Analysis> {
    match (statement.prepared.as_ref().or(statement.text.as_ref()), statement.function) {
        (Some(text), _) => Cow::Borrowed(text.analysis()),
        (None, Some(id)) => Cow::Owned(Analysis::function_call(id)),
        // There is no text that one could have missed.
        (None, None) if statement.kind == Kind::Cancel => {
            Cow::Owned(Analysis { statement_complete: true, ..Analysis::default() })
        }
        // A text that was never seen may do anything.
        (None, None) => Cow::Owned(Analysis::default()),
    }
}

/// A statement of a session, asked for by an actor.
fn subject<'a>(
    session: &'a Event,
    actor: &'a Event,
    statement: &'a Statement,
    analysis: &'a Analysis,
    data: &'a [DataClass],
    time: Nanos,
) -> Subject<'a> {
    Subject {
        db_system_name: &session.db_system_name,
        db_namespace: &session.db_namespace,
        db_user: &session.db_user,
        search_path: &statement.session.search_path,
        ai_agent_name: &actor.ai_agent_name,
        identity_principal: &actor.identity_principal,
        data_classes: data,
        statement_complete: statement.complete && analysis.statement_complete,
        time: time.0,
        session_id: actor.session_id,
        process: actor.process_pid.zip(actor.process_start_ns),
        ..Subject::new(analysis)
    }
}

impl FlowSink<'_> {
    /// Judges a statement at its request, and acts at once where a rule says so. `behind`: a pooler's clients who may
    /// have asked for it; what is not known to be wrong for each of them is told, and nothing is done about it.
    pub(super) fn act(&mut self, statement: &Statement, behind: &[Arc<Event>]) -> Option<Verdict> {
        let analysis = analysis(statement);
        let data = if self.policies.needs_data() {
            statement.data_classes(&self.recorder.catalog)
        } else {
            Arc::default()
        };
        let session = &self.state.event;
        if self.policies.is_canary()
            && let Some(text) = statement.prepared.as_ref().or(statement.text.as_ref())
        {
            // Whoever is behind a pooler: the gate does not know either.
            let subject = subject(session, session, statement, &analysis, &data, statement.started);
            let verdict = would(self.policies, &subject);
            if !verdict.policy_rule.is_empty() {
                self.host.watched(text.bytes(), &verdict);
            }
        }
        let mut of = |actor: &Event, look| {
            let subject = subject(session, actor, statement, &analysis, &data, statement.started);
            let held = self.memory.look(self.policies, &subject, look);
            judge(self.policies, &Subject { held: &held, ..subject })
        };
        let mut verdict = if behind.is_empty() {
            of(session, Look::Request)
        } else {
            // It counts where the client asks the pooler for it.
            let verdicts: Vec<Verdict> = behind.iter().map(|actor| of(actor, Look::Aside)).collect();
            let certain = verdicts.iter().all(Verdict::kills);
            let mut verdict =
                verdicts.into_iter().max_by_key(|verdict| (verdict.kills(), verdict.disposition))?;
            if verdict.kills() && !certain {
                verdict.disposition = Disposition::Alerted;
            }
            verdict
        };
        if verdict.policy_rule.is_empty() {
            return None;
        }
        if verdict.disposition == Disposition::Killed {
            self.kill(&mut verdict, statement);
        }
        Some(verdict)
    }

    /// Ends the session where the verdict's rule acts. The receipt says what was done, not what was wanted.
    fn kill(&mut self, verdict: &mut Verdict, statement: &Statement) {
        if verdict.kills() {
            let client = self.state.client.unwrap_or(Side::A);
            if !self.host.kill(verdict, client, statement.session.cancel.as_ref()) {
                verdict.disposition = Disposition::Alerted;
            }
        }
    }

    /// Judges a statement again, by what only its answer tells: how many rows there were, which sensitive data is in
    /// them. Gives a verdict that is stricter than the one before, and acts by it: late, but told.
    pub(super) fn judge_again(
        &mut self,
        asked: Option<&Verdict>,
        statement: &mut Statement,
    ) -> Option<Verdict> {
        let (data, rows, memory) =
            (self.policies.needs_data(), self.policies.needs_rows(), self.policies.needs_memory());
        if !(memory || data && statement.sample.is_some()) {
            return None;
        }
        let catalog = &self.recorder.catalog;
        let (mut before, mut now) = (Arc::default(), Arc::default());
        if data {
            now = statement.data_classes(catalog);
            before = Arc::clone(&now);
            if !now.is_empty()
                && let Some(sample) = statement.sample.take()
            {
                before = statement.data_classes(catalog);
                statement.sample = Some(sample);
            }
        }
        let statement = &*statement;
        let analysis = analysis(statement);
        let session = &self.state.event;
        let time = statement.ended.unwrap_or(self.now);
        let subject = subject(session, session, statement, &analysis, &now, time);
        let relayed = self.state.role.relays.is_some();
        let held = if relayed || !(data || rows) {
            // A relayed one counts where the client asks the pooler for it: whose it is, is not known here yet.
            Held::none()
        } else {
            let returned = statement.returned_rows.unwrap_or(0);
            let rows = returned.max(statement.affected_rows.unwrap_or(0));
            self.memory.look(self.policies, &subject, Look::Answer { before: &before, rows })
        };
        let news = before != now || rows && held != Held::none();
        let nothing = Verdict::default();
        let mut stricter = None;
        if news {
            let verdict = judge(self.policies, &Subject { held: &held, ..subject });
            stricter = Some(verdict).filter(|verdict| verdict.outranks(asked.unwrap_or(&nothing)));
        }
        let last = stricter.as_ref().or(asked).unwrap_or(&nothing);
        if memory && !relayed && last.action <= Action::Alert {
            self.memory.learn(self.policies, &subject);
        }
        if let Some(verdict) = &mut stricter
            && verdict.disposition == Disposition::Killed
        {
            if relayed && verdict.kills() {
                // A session that others share is not ended for what may be somebody else's.
                verdict.disposition = Disposition::Alerted;
            } else {
                self.kill(verdict, statement);
            }
        }
        stricter
    }

    /// What became of a statement on its way, where it was held: that stands, and not what should have become of it. A
    /// rule that wants statements held has seen nothing but the statement itself where they are not.
    pub(super) fn held(&mut self, statement: &Statement, verdict: &mut Option<Verdict>) -> Option<Decision> {
        let holds = |verdict: &Verdict| {
            verdict.policy_mode == Some(Mode::Enforce)
                && matches!(verdict.action, Action::RequireApproval | Action::Block | Action::Mask)
        };
        let expected = verdict.as_ref().is_some_and(holds);
        let text = statement.text.as_ref()?;
        let decision = self.host.decision(text.bytes(), expected);
        match &decision {
            Some(decision) => {
                let verdict = verdict.get_or_insert_default();
                verdict.policy_rule = decision.policy_rule.as_str().into();
                verdict.policy_version = decision.policy_version.as_str().into();
                verdict.policy_mode = Some(decision.mode());
                verdict.disposition = decision.disposition();
            }
            None if expected => {
                if let Some(verdict) = verdict {
                    verdict.disposition = Disposition::Alerted;
                }
            }
            None => {}
        }
        decision
    }

    /// Tells that a rule acted when the answer was on its way already, by an event of its own.
    pub(super) fn tell_late(&mut self, statement: &Statement) {
        let mut event = self.state.event.clone();
        event.event_kind = EventKind::Decision;
        let time = statement.ended.unwrap_or(self.now);
        event.event_id = self.recorder.ids.next(time);
        event.time = time.0;
        event.error_type = "late".into();
        self.emit(&event);
    }
}
