//! Statements that are held on their way: who asks for them goes to the shim, what became of them comes back.

use std::sync::Arc;
use std::time::Instant;

use agent_core::approval::{Answer, Asked, Request};
use agent_core::event::{DataClass, Disposition, Event, EventKind, uuid};
use agent_core::policy::{Mode, Policies};
use agent_core::segment::{Nanos, Side};
use agent_core::tie::Session;
use serde_json::{Map, Value};

use super::{Driver, Tap};
use crate::approve::{Command, Switch};
use crate::gate::canary::Difference;
use crate::gate::talk::{Approval, Decision, News};
use crate::gate::{Gate, Inline, Outcome, Target, waits_in_kernel};
use crate::identify::sockets::Sockets;
use crate::pipeline::{Flow, Pipeline};

/// Says who asks on a connection, and which port its database has. Gives the port where it cannot go through the gate.
pub(super) fn introduce(
    gate: &mut Gate,
    tap: &Tap,
    sockets: &mut Sockets,
    policies: &Policies,
) -> Option<u16> {
    let (Some(inline), Some(server)) = (&mut gate.inline, tap.server) else { return None };
    inline.introduce(tap.flow.who(server));
    let (local, remote) = tap.accepted.unwrap_or((tap.ends.1, tap.ends.0));
    let port = if tap.flow.core().client() == Some(Side::A) { local.port } else { remote.port };
    let system = tap.flow.system().filter(|system| inline.wants_port(port, system, policies))?;
    // Who speaks the protocol at a port that nobody has named may be anything.
    let owner = sockets.of_cookie(server)?;
    let waits = owner.pids.iter().find_map(|pid| waits_in_kernel(*pid, server).ok())?;
    if waits {
        inline.leave_port(port);
    } else {
        inline.watch_port(port, system, policies);
    }
    waits.then_some(port)
}

/// Never silence: what is asked at this port is judged, and nothing of it is held.
pub(super) fn tell_unheld(port: u16, now: Nanos, pipeline: &mut Pipeline) {
    tracing::warn!(
        port,
        "the server there waits in the kernel for what it reads: its statements cannot be held"
    );
    pipeline.note(EventKind::Blind, now, |event| {
        event.error_type = "gate_waits".into();
        event.server_port = port;
        event.statement_complete = false;
    });
}

/// Never silence: what was decided about a statement that was not seen, or not understood.
fn decided(event: &mut Event, decision: &Decision) {
    event.event_id = if decision.id == 0 { event.event_id } else { decision.id };
    event.db_query_text = decision.shown.as_str().into();
    event.policy_rule = decision.policy_rule.as_str().into();
    event.policy_version = decision.policy_version.as_str().into();
    event.policy_mode = decision.mode().name().into();
    event.disposition = decision.disposition();
    if let Some(approval) = &decision.approval {
        event.approval_state = approval.state.as_str().into();
    }
}

/// A connection is gone, and all that was seen of it is told.
pub(super) fn closed(gate: &mut Gate, server: u64, flow: &mut Flow, now: Nanos, pipeline: &mut Pipeline) {
    let Some(inline) = &mut gate.inline else { return };
    for decision in inline.unclaimed_of(server) {
        flow.tell(now, pipeline, EventKind::Decision, |event| decided(event, &decision));
    }
    inline.forget(server);
}

impl Driver {
    /// Begins to hold statements where rules want that; called before anything is said to be ready, and then each second.
    pub fn look_after_gate(&mut self, pipeline: &mut Pipeline) {
        let now = self.live.now();
        let Some(gate) = &mut self.gate else { return };
        gate.follow(&pipeline.policies, &self.ports);
        let Some(inline) = &mut gate.inline else { return };
        let tally = inline.tally();
        tracing::debug!(?tally, "the gate");
        let before = inline.told.replace(tally).unwrap_or_default();
        let mut failures = Vec::new();
        if let Some(parsers) = inline.parsers() {
            parsers.clean();
            failures = parsers.failures();
            tracing::debug!(parsed = ?parsers.counts(), "the gate in servers' parsers");
        }
        // Never silence: these connections, or statements, are judged, and nothing of them is held.
        failures.extend([
            ("gate_crowded", tally.crowded - before.crowded),
            // Another program's sockmap has them: a service mesh, or another weir.
            ("gate_refused", tally.refused - before.refused),
            ("gate_failed", tally.failed - before.failed),
            // Nobody held statements at that moment. Failing open these connections go past the gate until they are taken
            // in again; failing closed what came is dropped.
            ("gate_unguarded", tally.unguarded - before.unguarded),
            // Its client hung up while something was held for long: what was held may be lost.
            ("gate_parted", tally.parted - before.parted),
        ]);
        for (cause, more) in failures {
            if more > 0 {
                tracing::warn!(cause, times = more, "not everything goes through the gate");
                pipeline.note(EventKind::Blind, now, |event| {
                    event.error_type = cause.into();
                    event.db_query_text = format!("{more} times").into();
                    event.statement_complete = false;
                });
            }
        }
        let overflowed = inline.overflowed();
        let differences = gate.canary.settle(|cookie| inline.has(cookie));
        for decision in inline.unclaimed() {
            match self.flow_of(decision.cookie) {
                Some(flow) => {
                    flow.tell(now, pipeline, EventKind::Decision, |event| decided(event, &decision));
                }
                None => pipeline.note(EventKind::Decision, now, |event| decided(event, &decision)),
            }
        }
        for cookie in overflowed {
            self.end_held(cookie, "held_bytes", now, pipeline);
        }
        self.look_after_late(now, pipeline);
        for difference in differences {
            self.tell_difference(&difference, now, pipeline);
        }
    }

    /// A canary's two judges do not say the same of a statement.
    fn tell_difference(&mut self, difference: &Difference, now: Nanos, pipeline: &mut Pipeline) {
        tracing::warn!(rule = difference.rule, by = difference.said_by, "the gate and capture differ");
        let write = |event: &mut Event| {
            event.error_type = "canary_differs".into();
            event.db_query_text = format!("said by {} alone", difference.said_by).into();
            event.policy_rule = difference.rule.as_str().into();
            event.policy_version = difference.version.as_str().into();
            event.policy_mode = Mode::Monitor.name().into();
            event.disposition = difference.action.disposition();
        };
        match self.flow_of(difference.cookie) {
            Some(flow) => flow.tell(now, pipeline, EventKind::Decision, write),
            None => pipeline.note(EventKind::Decision, now, write),
        }
    }

    /// Reads what the shim tells.
    pub(super) fn tend_gate(&mut self, pipeline: &mut Pipeline) {
        let Some(gate) = &mut self.gate else { return };
        let stranded = gate.tend();
        let now = self.live.now();
        self.obey(now, pipeline);
        if !stranded.is_empty() {
            pipeline.note(EventKind::Loss, now, |event| {
                event.error_type = "shim_gone".into();
                event.statement_complete = false;
            });
        }
        for cookie in stranded {
            self.end_held(cookie, "shim_gone", now, pipeline);
        }
        while let Some(news) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()?.news()) {
            self.hear(news, now, pipeline);
        }
        self.tie_unsealed(now, pipeline);
        let answers = self.gate.as_ref().and_then(|gate| gate.approvals.as_ref()).map(|all| all.answers());
        for answer in answers.into_iter().flatten() {
            self.answered(&answer, now, pipeline);
        }
    }

    fn hear(&mut self, news: News, now: Nanos, pipeline: &mut Pipeline) {
        if let (News::Blind { cookie, .. }, Some(gate)) = (&news, &mut self.gate) {
            gate.canary.blind(*cookie);
        }
        match news {
            News::Blind { cookie, .. } if self.is_parsed(cookie) => {}
            News::Blind { cookie, cause } => {
                if let Some(flow) = self.flow_of(cookie) {
                    flow.tell(now, pipeline, EventKind::Blind, |event| {
                        event.error_type = format!("gate_{cause}").into();
                        event.statement_complete = false;
                    });
                }
            }
            News::Masked { cookie, rules, classes } => {
                let rows = classes.iter().map(|(_, rows)| *rows).max();
                let version =
                    |name: &str| pipeline.policies.named(name).map(|policy| Arc::clone(&policy.version));
                let version = version(&rules);
                let write = |event: &mut Event| {
                    let class = |(class, _): &(String, u64)| DataClass {
                        class: class.as_str().into(),
                        column: "".into(),
                    };
                    event.data_classes = classes.iter().map(class).collect();
                    event.db_response_returned_rows = rows;
                    event.policy_rule = rules.as_str().into();
                    event.policy_version = version.unwrap_or_default();
                    event.policy_mode = Mode::Enforce.name().into();
                    event.disposition = Disposition::Masked;
                };
                match self.flow_of(cookie) {
                    Some(flow) => flow.tell(now, pipeline, EventKind::Decision, write),
                    None => pipeline.note(EventKind::Decision, now, write),
                }
            }
            News::Unmasked { cookie, cause } => {
                tracing::warn!(cookie, cause, "an answer could not be masked: its session is ended");
                self.end_held(cookie, "unmaskable", now, pipeline);
            }
            News::Unsealed { cookie, object, pid } => self.tls.unsealed(cookie, Session { object, pid }, now),
            News::Ended { cookie, rule } => {
                if let Some((&tapped, tap)) = self.taps.iter().find(|(_, tap)| tap.server == Some(cookie))
                    && let Some(gate) = &mut self.gate
                {
                    gate.end(tapped, tap.ends, None, &rule);
                } else if rule.is_empty() {
                    self.end_held(cookie, "gate_tls_untied", now, pipeline);
                } else {
                    // The decision is told by itself.
                    self.end_unseen(cookie, &rule);
                }
            }
            News::Untold(count) => pipeline.note(EventKind::Loss, now, |event| {
                event.error_type = "decisions_untold".into();
                event.db_query_text = format!("{count} decisions of the gate were not told").into();
                event.statement_complete = false;
            }),
            News::Dropped(bytes) => pipeline.note(EventKind::Loss, now, |event| {
                event.error_type = "gate_dropped".into();
                event.db_query_text = format!("{bytes} bytes could not be sent on by the gate").into();
                event.statement_complete = false;
            }),
            News::Ask { id, cookie, rule, digest, shown } => {
                self.ask(id, cookie, &rule, (digest, shown), now, pipeline);
            }
            News::Withdrawn { id } => {
                if let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) {
                    inline.settled(id);
                }
                if let Some(approvals) = self.gate.as_ref().and_then(|gate| gate.approvals.as_ref()) {
                    approvals.withdraw(id);
                }
            }
            News::Decided(_) | News::Would(_) | News::Drained | News::Answers => {}
        }
    }

    /// Asks for approval of a statement that is held, and says that it is.
    fn ask(
        &mut self,
        id: u128,
        cookie: u64,
        rule: &str,
        (digest, shown): ([u8; 32], String),
        now: Nanos,
        pipeline: &mut Pipeline,
    ) {
        let policies = Arc::clone(&pipeline.policies);
        let policy = policies.named(rule);
        let mut request = None;
        let write = |event: &mut Event| {
            // The statement's own event will have that id.
            let own = std::mem::replace(&mut event.event_id, id);
            event.db_query_text = shown.into();
            event.policy_rule = rule.into();
            if let Some(policy) = policy {
                event.policy_version = Arc::clone(&policy.version);
                event.policy_mode = policy.mode.name().into();
                let terms = policy.approval.clone().unwrap_or_default();
                request = Some(Request::new(event, &policy.message, digest, terms));
            }
            event.event_id = own;
            event.disposition = Disposition::Held;
            event.approval_state = "pending".into();
            event.approval_id = String::from_utf8_lossy(&uuid(id)).into();
        };
        if let Some(flow) = self.flow_of(cookie) {
            flow.tell(now, pipeline, EventKind::Approval, write);
        } else {
            pipeline.note(EventKind::Approval, now, write);
        }
        let Some(gate) = &mut self.gate else { return };
        let asked = request.and_then(|request| Some(gate.approvals.as_ref()?.ask(request)));
        match asked {
            Some(Asked::Waits) => {}
            Some(Asked::Answered(answer)) => self.answered(&answer, now, pipeline),
            // Nobody to ask, or a rule that is gone by now: its terms say what then.
            None => {
                if let Some(inline) = &mut gate.inline {
                    inline.answer(id, false, "nobody can be asked", Approval::default());
                }
            }
        }
    }

    /// Somebody has decided, or nobody did in time.
    fn answered(&mut self, answer: &Answer, now: Nanos, pipeline: &mut Pipeline) {
        let approval = Approval {
            id: String::from_utf8_lossy(&uuid(answer.decided)).into_owned(),
            state: answer.state.name().into(),
            actor: answer.actor.to_string(),
        };
        pipeline.note(EventKind::Approval, now, |event| {
            event.session_id = answer.session_id;
            event.approval_id = approval.id.as_str().into();
            event.approval_state = approval.state.as_str().into();
            event.approval_actor = approval.actor.as_str().into();
            event.disposition = if answer.goes_on { Disposition::Approved } else { Disposition::Denied };
        });
        if let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) {
            let state = answer.state.name();
            let reason = match (&*answer.actor, &*answer.reason) {
                ("", _) => state.to_owned(),
                (actor, "") => format!("{state} by {actor}"),
                (actor, reason) => format!("{state} by {actor}: {reason}"),
            };
            inline.answer(answer.id, answer.goes_on, &reason, approval);
        }
    }

    /// Carries out what an operator wants.
    pub(super) fn obey(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let orders = self.gate.as_ref().and_then(|gate| gate.approvals.as_ref()).map(|all| all.orders());
        for order in orders.into_iter().flatten() {
            let reply = match order.command {
                Command::Kill { session_id } => self.kill_session(session_id, &order.actor, now, pipeline),
                Command::Gate(switch) => Ok(self.switch(switch, &order.actor, now, pipeline)),
            };
            order.answer(reply);
        }
    }

    fn switch(
        &mut self,
        switch: Switch,
        actor: &str,
        now: Nanos,
        pipeline: &mut Pipeline,
    ) -> Map<String, Value> {
        let begin = Instant::now();
        let off = match switch {
            Switch::Status => None,
            Switch::On => Some(false),
            Switch::Off => Some(true),
        };
        if let (Some(off), Some(gate)) = (off, &mut self.gate) {
            gate.settings.off = off;
            gate.follow(&pipeline.policies, &self.ports);
            pipeline.note(EventKind::Config, now, |event| {
                event.error_type = if off { "gate_off".into() } else { "gate_on".into() };
                event.approval_actor = actor.into();
            });
            self.look_after_late(now, pipeline);
        }
        let gate = self.gate.as_ref();
        let tally = gate.and_then(|gate| gate.inline.as_ref()).map(Inline::tally);
        let state = match (gate.is_some_and(|gate| gate.settings.off), tally.is_some()) {
            (true, _) => "off",
            (false, true) => "armed",
            (false, false) => "idle",
        };
        let tally = tally.unwrap_or_default();
        let mut told = Map::new();
        told.insert("state".into(), state.into());
        told.insert("took_ms".into(), (begin.elapsed().as_millis() as u64).into());
        let open = gate.and_then(|gate| gate.inline.as_ref()).map_or(0, Inline::open);
        for (name, count) in [
            ("connections", tally.enrolled),
            ("open", open),
            ("held", tally.held),
            ("passed", tally.passed),
            ("not_enrolled", tally.crowded + tally.refused),
            ("lost", tally.failed + tally.overflowed),
        ] {
            told.insert(name.into(), count.into());
        }
        if let Some(canary) = gate.and_then(|gate| gate.canary.told()) {
            told.insert("canary".into(), canary);
        }
        told
    }

    fn kill_session(
        &mut self,
        session: u64,
        actor: &str,
        now: Nanos,
        pipeline: &mut Pipeline,
    ) -> Result<Map<String, Value>, String> {
        let begin = Instant::now();
        let (Some(tap), Some(gate)) = (self.taps.get_mut(&session), &mut self.gate) else {
            let ended = self.unix.kill(session, actor, now, pipeline).ok_or_else(|| {
                format!("no session {session} is known; `weir top` and the receipts name them")
            })?;
            ended.map_err(|error| format!("session {session}: {error}"))?;
            return Ok(Map::from_iter([
                ("session_id".to_owned(), Value::from(session.to_string())),
                ("outcome".to_owned(), Value::from("killed")),
                ("took_us".to_owned(), Value::from(begin.elapsed().as_micros() as u64)),
            ]));
        };
        let (local, remote) = tap.ends;
        let client = tap.flow.core().client().unwrap_or(Side::A);
        let server = if client == Side::A { remote } else { local };
        let cancel = tap.flow.cancel().map(|cancel| (server, cancel));
        let namespace = None;
        let target =
            Target { cookie: session, local, remote, namespace, processes: &[], cancel, rule: "operator" };
        let done = gate.kill(&target);
        tap.flow.tell(now, pipeline, EventKind::Decision, |event| {
            event.error_type = "operator".into();
            event.approval_actor = actor.into();
            let killed = done.outcome == Outcome::Killed;
            event.disposition = if killed { Disposition::Killed } else { Disposition::Allowed };
        });
        if done.outcome != Outcome::Killed {
            return Err(format!("session {session}: {}", done.outcome));
        }
        Ok(Map::from_iter([
            ("session_id".to_owned(), Value::from(session.to_string())),
            ("outcome".to_owned(), Value::from("killed")),
            ("took_us".to_owned(), Value::from(done.total_ns / 1000)),
        ]))
    }

    /// Whether what is said on a connection that cannot be read is judged when its server parses it.
    fn is_parsed(&mut self, server: u64) -> bool {
        let Some(tap) = self.taps.values().find(|tap| tap.server == Some(server)) else { return false };
        let mirrored = tap.flow.core().client() == Some(Side::A) || tap.active == Some(true);
        let seen = if mirrored { (tap.ends.1, tap.ends.0) } else { tap.ends };
        let (local, remote) = tap.accepted.unwrap_or(seen);
        let sockets = self.resolver.sockets();
        let Some((entry, namespace)) = sockets.entry(server, local, remote) else { return false };
        let parsers = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()?.parsers());
        parsers.is_some_and(|parsers| parsers.serves(namespace, entry.local.port, sockets))
    }

    /// The connection whose server has this socket.
    pub(super) fn flow_of(&mut self, server: u64) -> Option<&mut Flow> {
        let tap = self.taps.values_mut().find(|tap| tap.server == Some(server));
        tap.map(|tap| &mut tap.flow).or_else(|| self.unix.of_key(server))
    }

    /// Bytes of this connection are lost in the gate: it cannot go on.
    fn end_held(&mut self, server: u64, cause: &'static str, now: Nanos, pipeline: &mut Pipeline) {
        let write = |event: &mut Event| {
            event.error_type = cause.into();
            event.statement_complete = false;
        };
        if let Some((&cookie, tap)) = self.taps.iter_mut().find(|(_, tap)| tap.server == Some(server)) {
            tap.flow.tell(now, pipeline, EventKind::Loss, write);
            if let Some(gate) = &mut self.gate {
                gate.end(cookie, tap.ends, None, cause);
            }
        } else if !self.unix.shut(server, cause, now, pipeline) && self.end_unseen(server, cause) {
            pipeline.note(EventKind::Loss, now, write);
        }
    }

    /// Ends a connection that capture has not seen yet, or has missed. False where it is gone.
    fn end_unseen(&mut self, cookie: u64, cause: &str) -> bool {
        self.resolver.sockets().look_again();
        let Some(owner) = self.resolver.sockets().of_cookie(cookie) else {
            tracing::debug!(cookie, cause, "a connection that is to be ended is gone");
            return false;
        };
        if let Some(gate) = &mut self.gate {
            gate.end(cookie, (owner.entry.local, owner.entry.remote), Some(owner.namespace), cause);
        }
        true
    }
}
