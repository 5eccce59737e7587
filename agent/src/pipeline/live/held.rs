//! Statements that are held on their way: who asks for them goes to the shim, what became of them comes back.

use agent_core::event::EventKind;
use agent_core::policy::Policies;
use agent_core::segment::{Nanos, Side};

use super::{Driver, Tap};
use crate::gate::Gate;
use crate::gate::talk::News;
use crate::pipeline::Pipeline;

/// Says who asks on a connection, and which port its database has.
pub(super) fn introduce(gate: &mut Gate, tap: &Tap, policies: &Policies) {
    let Some(inline) = &mut gate.inline else { return };
    if let Some(cookie) = tap.server {
        inline.introduce(tap.flow.who(cookie));
    }
    let (local, remote) = tap.accepted.unwrap_or((tap.ends.1, tap.ends.0));
    let port = if tap.flow.core().client() == Some(Side::A) { local.port } else { remote.port };
    if let (Some(system), true) = (tap.flow.system(), tap.server.is_some()) {
        inline.watch_port(port, system, policies);
    }
}

/// A connection is gone.
pub(super) fn closed(gate: &mut Gate, server: u64) {
    if let Some(inline) = &mut gate.inline {
        inline.forget(server);
    }
}

impl Driver {
    /// Begins to hold statements where rules want that; called before anything is said to be ready, and then each second.
    pub fn look_after_gate(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let Some(gate) = &mut self.gate else { return };
        gate.follow(&pipeline.policies, &self.ports);
        let Some(inline) = &mut gate.inline else { return };
        tracing::debug!(tally = ?inline.tally(), "the gate");
        let overflowed = inline.overflowed();
        for decision in inline.unclaimed() {
            // Never silence: its statement was not seen, or not understood.
            pipeline.note(EventKind::Decision, now, |event| {
                event.event_id = if decision.id == 0 { event.event_id } else { decision.id };
                event.policy_rule = decision.policy_rule.as_str().into();
                event.policy_version = decision.policy_version.as_str().into();
                event.policy_mode = decision.mode().name().into();
                event.disposition = decision.disposition();
            });
        }
        for cookie in overflowed {
            self.end_held(cookie, "held_bytes", now, pipeline);
        }
    }

    /// Reads what the shim tells.
    pub(super) fn tend_gate(&mut self, pipeline: &mut Pipeline) {
        let Some(gate) = &mut self.gate else { return };
        if gate.inline.is_none() {
            return;
        }
        let stranded = gate.tend();
        let now = self.live.now();
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
            match news {
                News::Blind { cookie, cause } => {
                    self.of_server(cookie, |tap| {
                        tap.flow.tell(now, pipeline, EventKind::Blind, |event| {
                            event.error_type = format!("gate_{cause}").into();
                            event.statement_complete = false;
                        });
                    });
                }
                News::Untold(count) => pipeline.note(EventKind::Loss, now, |event| {
                    event.error_type = "decisions_untold".into();
                    event.db_query_text = format!("{count} decisions of the gate were not told").into();
                    event.statement_complete = false;
                }),
                News::Ask { .. } | News::Withdrawn { .. } | News::Decided(_) | News::Drained => {}
            }
        }
    }

    /// Does something about the connection whose server has this socket.
    fn of_server(&mut self, server: u64, change: impl FnOnce(&mut Tap)) {
        if let Some(tap) = self.taps.values_mut().find(|tap| tap.server == Some(server)) {
            change(tap);
        }
    }

    /// Bytes of this connection are lost in the gate: it cannot go on.
    fn end_held(&mut self, server: u64, cause: &'static str, now: Nanos, pipeline: &mut Pipeline) {
        let Some((&cookie, tap)) = self.taps.iter_mut().find(|(_, tap)| tap.server == Some(server)) else {
            tracing::error!(
                cookie = server,
                cause,
                "a connection whose bytes were lost in the gate is not known"
            );
            return;
        };
        let (local, remote) = tap.ends;
        tap.flow.tell(now, pipeline, EventKind::Loss, |event| {
            event.error_type = cause.into();
            event.statement_complete = false;
        });
        if let Some(gate) = &mut self.gate {
            gate.end(cookie, local, remote, cause);
        }
    }
}
