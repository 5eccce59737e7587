//! Connections that carried TLS before the agent came -> read from their next statement on, or told as blind.
//!
//! Nobody saw what they turned to TLS for. What a session writes still ties it to its socket, and its plaintext then says
//! what it is. Where that does not come, a database is known by its port, by other sessions at the same end, or by what
//! its server's process calls itself. What nothing of this tells is left alone.

use agent_common::{Packet, tcp};
use agent_core::protocol::{PROTOCOLS, of_port, titled};
use agent_core::segment::{Endpoint, Nanos, Side};
use agent_core::tie::begins_with_records;

use super::super::{Driver, Here, Tap};
use super::{Hidden, PATIENCE};
use crate::identify::Tapped;
use crate::pipeline::Pipeline;

impl Hidden {
    /// It carries TLS; of a database or not.
    pub(in super::super) fn unproven(since: Nanos) -> Self {
        Self { unproven: true, ..Self::new(since) }
    }

    /// Whether it is time to say that its plaintext does not come.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        !self.told && now.since(self.since) > PATIENCE
    }

    /// Whether it ends with nothing said of it that may have to be said.
    pub(in super::super) fn is_open_question(&self) -> bool {
        self.unproven && !self.told && self.plain.is_none()
    }

    /// Takes note of a segment's end marks. True once both directions are closed.
    pub(in super::super) fn ends(&mut self, packet: &Packet) -> bool {
        if packet.flags & tcp::RST != 0 {
            self.closed = [true; 2];
        }
        self.closed[usize::from(packet.direction & 1)] |= packet.flags & tcp::FIN != 0;
        self.closed == [true; 2]
    }
}

impl Tap {
    /// Whether it was open before the agent, and nobody knows what it is.
    pub(in super::super) fn is_undecided(&self) -> bool {
        self.active.is_none() && self.tls.is_none() && !self.flow.is_detected()
    }

    /// The server's end and what it speaks, where that is known.
    fn serves(&self) -> Option<(Endpoint, &'static str)> {
        let flow = match self.tls.as_deref() {
            Some(hidden) => hidden.plain.as_ref().map_or(&self.flow, |plain| &plain.flow),
            None => &self.flow,
        };
        let server = flow.core().client().filter(|_| flow.is_detected())?.other();
        Some((if server == Side::A { self.ends.0 } else { self.ends.1 }, flow.system()?))
    }
}

impl Driver {
    /// A segment of an undecided connection that was open before the agent. Where it looks like TLS its records are
    /// compared with what sessions write from the first one on: that one may be the statement's.
    pub(in super::super) fn may_be_ciphertext(
        &mut self,
        cookie: u64,
        packet: &Packet,
        head: &[u8],
        time: Nanos,
        pipeline: &mut Pipeline,
    ) {
        if !self.tls.ties.knows_socket(cookie) {
            if !self.tls.is_on() || !begins_with_records(head) {
                return;
            }
            self.tls.ties.joined_socket(cookie);
        }
        self.ciphertext(cookie, packet, head, time, pipeline);
    }

    /// Says which of the connections that were joined midway are databases' and stay blind; lets go of the others.
    pub(super) fn tell_joined(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let due = |(cookie, tap): (&u64, &Tap)| {
            let hidden = tap.tls.as_deref()?;
            (hidden.is_open_question() && hidden.is_due(now)).then_some(*cookie)
        };
        let due: Vec<u64> = self.taps.iter().filter_map(due).collect();
        for cookie in due {
            if !self.tell_if_database(cookie, now, pipeline) {
                self.tls.ties.forget_socket(cookie);
                if let Some(tap) = self.taps.remove(&cookie) {
                    self.by_ends.remove(&tap.ends);
                }
                self.leave_alone(cookie);
            }
        }
    }

    /// Tells that a connection is blind, if something says that it is a database's.
    pub(in super::super) fn tell_if_database(
        &mut self,
        cookie: u64,
        now: Nanos,
        pipeline: &mut Pipeline,
    ) -> bool {
        let Some(ends) = self.taps.get(&cookie).map(|tap| tap.ends) else { return false };
        let tapped = Tapped { cookie, local: ends.0, remote: ends.1 };
        let Some((protocol, client)) = self.database_at(&tapped) else { return false };
        let Some(tap) = self.taps.get_mut(&cookie) else { return false };
        let (begun, accepted, server) = (tap.active.is_some(), tap.accepted, tap.server);
        let mut host =
            Here { resolver: &mut self.resolver, gate: self.gate.as_mut(), tapped, begun, accepted, server };
        tap.flow.suppose(protocol, client, &mut host);
        // Where the client is elsewhere, its server's library would have had to tell.
        let process = tap
            .flow
            .process()
            .or_else(|| self.resolver.resolve_slow(&tapped).map(|workload| workload.process.pid));
        let cause = match process.map(|pid| self.tls.cause(pid)) {
            // Its library is read, but which of its sessions this is has not shown.
            Some("tls_untied") => "tls_adopted",
            Some(cause) => cause,
            None => "tls",
        };
        if let Some(hidden) = tap.tls.as_deref_mut() {
            hidden.told = true;
        }
        tap.flow.tell_blind(now, cause, pipeline);
        true
    }

    /// What is served at one of the ends, and which side is the client.
    fn database_at(&mut self, tapped: &Tapped) -> Option<(&'static str, Side)> {
        let servers = [(Side::B, tapped.remote), (Side::A, tapped.local)];
        let hinted = |end: Endpoint| self.ports.get(&end.port).copied().or_else(|| of_port(end.port));
        let known = |end: Endpoint| {
            let same = |tap: &Tap| tap.serves().filter(|(server, _)| *server == end).map(|(_, what)| what);
            self.taps.values().find_map(same)
        };
        let told = servers.iter().find_map(|(side, end)| Some((hinted(*end)?, side.other())));
        let told = told.or_else(|| servers.iter().find_map(|(side, end)| Some((known(*end)?, side.other()))));
        told.or_else(|| {
            servers.into_iter().find_map(|(side, _)| {
                let client = if side == Side::A { tapped.remote } else { tapped.local };
                let titles = self.resolver.titles(tapped, side == Side::B);
                let says = |name: &str| titles.iter().any(|title| titled(name, title, client.port).is_some());
                let entry = PROTOCOLS.iter().find(|entry| says(entry.name))?;
                Some((entry.name, side.other()))
            })
        })
    }
}
