//! Plaintext of TLS sessions -> flows, each under the name of the socket that its ciphertext is on.
//!
//! A connection that turns to TLS stays tapped, so that its records can be compared with what sessions write. Once one
//! session is known to be its own, that session's plaintext is the connection, and its ciphertext is left alone.

use std::collections::HashMap;
use std::sync::Arc;

use agent_common::{Packet, Socket, Tls, TlsKey, TlsMode, direction, mode};
use agent_core::event::CaptureSource;
use agent_core::protocol::could_be;
use agent_core::segment::{Flags, Nanos, Segment, Side};
use agent_core::tie::{Context, End, Flight, Session, Step, Ties};

use super::{Driver, Here, Tap};
use crate::capture::tls::{self, Search};
use crate::identify::Tapped;
use crate::pipeline::{Ends, Flow, Host, Nobody, Pipeline, Wishes};

mod joined; // connections that carried TLS before -> read from their next statement on, or told

/// How long plaintext may take to show up before its connection is said to be blind.
const PATIENCE: u64 = 2_000_000_000;
/// How long a session's plaintext is kept without a socket to go with it.
const WAITING_MAX: u64 = 30_000_000_000;
/// Plaintext that is kept of one session, and of all, before it is known whose it is.
const HELD_MAX: usize = 1 << 20;
const HELD_ALL: usize = 64 << 20;
/// Records of a peer on this host after which its session is not waited for any more.
const PEER_RECORDS: usize = 32;
/// Bytes of each direction that are looked at to see whether a session is a database's.
const LOOK: usize = 16 << 10;

/// All TLS sessions of this host that may be a database's.
#[derive(Default)]
pub(super) struct Sessions {
    search: Option<Search>,
    pub(super) ties: Ties,
    states: HashMap<Session, State>,
    by_process: HashMap<u32, Vec<Session>>,
    held: usize,
    /// Connections with their sessions, as the gate says: it sends their ciphertext itself, so that no packet tells.
    unsealed: Vec<(u64, Session, Nanos)>,
    /// What is to be copied of which session from now on.
    pub(super) modes: Vec<(TlsKey, TlsMode)>,
}

enum State {
    /// Its socket is not known yet.
    Waiting(Waiting),
    /// It is the plaintext of this socket; true once that is settled.
    Tied(u64, bool),
    /// Nothing is wanted of it.
    Ignored,
}

struct Waiting {
    pieces: Vec<Piece>,
    bytes: usize,
    since: Nanos,
}

/// A piece of plaintext that waits.
struct Piece {
    tls: Tls,
    time: Nanos,
    head: Box<[u8]>,
    tail: Box<[u8]>,
}

/// A tapped connection that has turned to TLS.
pub(super) struct Hidden {
    since: Nanos,
    told: bool,
    plain: Option<Plain>,
    settled: [bool; 2],
    /// Its ciphertext is not looked at any more.
    left_alone: bool,
    /// The client's handshake, and the subject of the certificate that it showed.
    flight: Flight,
    certificate: Arc<str>,
    /// What it turned to TLS for was not seen: it may be anything.
    unproven: bool,
    /// Which sides have closed, where the kernel side will not tell.
    closed: [bool; 2],
}

/// The plaintext of a connection, as one of its ends has it.
struct Plain {
    flow: Flow,
    session: Session,
    end: End,
    mode: TlsMode,
}

fn key(session: Session) -> TlsKey {
    TlsKey { object: session.object, pid: session.pid, padding: 0 }
}

fn session(key: TlsKey) -> Session {
    Session { object: key.object, pid: key.pid }
}

impl Sessions {
    pub(super) fn new(search: Option<Search>) -> Self {
        Self { search, ..Self::default() }
    }

    /// Whose plaintext a connection's is, as the gate says.
    pub(super) fn unsealed(&mut self, cookie: u64, of: Session, now: Nanos) {
        self.unsealed.push((cookie, of, now));
    }

    /// Whether plaintext may come at all.
    pub(super) fn is_on(&self) -> bool {
        self.search.is_some()
    }

    /// Why the TLS of a process cannot be read.
    fn cause(&self, pid: u32) -> &'static str {
        self.search.as_ref().map_or("tls", |search| tls::cause(pid, &search.known()))
    }

    /// A process runs a program from now on: it may bring a library.
    pub(super) fn executed(&self, pid: u32) {
        if let Some(search) = &self.search {
            search.process(pid);
        }
    }

    /// A session's object was freed.
    pub(super) fn ended(&mut self, of: TlsKey) {
        let of = session(of);
        self.drop_session(of);
        if let Some(all) = self.by_process.get_mut(&of.pid) {
            all.retain(|known| *known != of);
        }
    }

    /// A process is gone, its sessions with it: which ones they were.
    pub(super) fn exited(&mut self, pid: u32) -> Vec<TlsKey> {
        let all = self.by_process.remove(&pid).unwrap_or_default();
        for session in &all {
            self.drop_session(*session);
        }
        all.into_iter().map(key).collect()
    }

    fn drop_session(&mut self, session: Session) {
        self.ties.forget_session(session);
        if let Some(State::Waiting(waiting)) = self.states.remove(&session) {
            self.held -= waiting.bytes;
        }
    }

    fn ignore(&mut self, session: Session) {
        self.ties.forget_session(session);
        if let Some(state) = self.states.get_mut(&session)
            && let State::Waiting(waiting) = std::mem::replace(state, State::Ignored)
        {
            self.held -= waiting.bytes;
        }
        self.modes.push((key(session), TlsMode { mode: [mode::IGNORE; 2], ..TlsMode::default() }));
    }

    /// Keeps a piece of a session whose socket is not known; lets go of those that are no database's.
    fn wait(&mut self, of: Session, piece: Piece) {
        let time = piece.time;
        if !self.states.contains_key(&of) {
            self.by_process.entry(of.pid).or_default().push(of);
        }
        let state = self
            .states
            .entry(of)
            .or_insert_with(|| State::Waiting(Waiting { pieces: Vec::new(), bytes: 0, since: time }));
        let State::Waiting(waiting) = state else { return };
        let size = piece.head.len() + piece.tail.len() + size_of::<Piece>();
        waiting.bytes += size;
        waiting.pieces.push(piece);
        self.held += size;
        let [written, read] = [direction::EGRESS, direction::INGRESS].map(|way| {
            let pieces = waiting.pieces.iter().filter(|piece| piece.tls.direction == way);
            pieces.flat_map(|piece| &*piece.head).take(LOOK).copied().collect::<Vec<u8>>()
        });
        if waiting.bytes > HELD_MAX || self.held > HELD_ALL || !could_be(&written, &read) {
            self.ignore(of);
        }
    }

    /// Lets go of plaintext that no socket came for.
    fn expire(&mut self, now: Nanos) {
        let old: Vec<Session> = self
            .states
            .iter()
            .filter(|(_, state)| matches!(state, State::Waiting(w) if now.since(w.since) > WAITING_MAX))
            .map(|(session, _)| *session)
            .collect();
        if !old.is_empty() {
            tracing::info!(
                sessions = old.len(),
                "TLS sessions that may be a database's belong to no known socket"
            );
        }
        for session in old {
            self.ignore(session);
        }
    }
}

impl Hidden {
    pub(super) fn new(since: Nanos) -> Self {
        Self {
            since,
            told: false,
            plain: None,
            settled: [false; 2],
            left_alone: false,
            flight: Flight::default(),
            certificate: Arc::default(),
            unproven: false,
            closed: [false; 2],
        }
    }

    /// The connection is over: what waits is handed out, or it is told that nothing was seen.
    pub(super) fn close(
        mut self,
        flow: &mut Flow,
        time: Nanos,
        pipeline: &mut Pipeline,
        host: &mut dyn Host,
    ) {
        match &mut self.plain {
            Some(plain) => plain.flow.close(time, pipeline, host),
            None if !self.told && !self.unproven => flow.tell_blind(time, "tls", pipeline),
            None => {}
        }
    }
}

impl Driver {
    /// A piece of some session's plaintext.
    pub(super) fn plaintext(
        &mut self,
        tls: &Tls,
        (head, tail): (&[u8], &[u8]),
        time: Nanos,
        pipeline: &mut Pipeline,
    ) {
        let of = session(tls.session);
        let writes = tls.direction == direction::EGRESS && tls.call > 0;
        match self.tls.states.get(&of) {
            Some(State::Ignored) => {}
            Some(State::Tied(cookie, settled)) => {
                let cookie = *cookie;
                if writes && !settled {
                    self.tls.ties.wrote(of, tls.offset, tls.call);
                }
                self.feed(cookie, tls, (head, tail), time, pipeline);
            }
            Some(State::Waiting(_)) | None => {
                if writes {
                    self.tls.ties.wrote(of, tls.offset, tls.call);
                }
                self.tls.wait(of, Piece { tls: *tls, time, head: head.into(), tail: tail.into() });
            }
        }
    }

    /// A segment of a connection that has turned to TLS.
    pub(super) fn ciphertext(
        &mut self,
        cookie: u64,
        packet: &Packet,
        head: &[u8],
        time: Nanos,
        pipeline: &mut Pipeline,
    ) {
        let from = if packet.direction == direction::EGRESS { End::Near } else { End::Far };
        let context = Context { pid: (packet.task >> 32) as u32, object: packet.call };
        let mut steps = Vec::new();
        if let Some(tap) = self.taps.get_mut(&cookie)
            && let Some(hidden) = tap.tls.as_deref_mut()
            && tap.flow.core().client() == Some(if from == End::Near { Side::A } else { Side::B })
            && let Some(subject) = hidden.flight.segment(packet.sequence, head, packet.length)
        {
            hidden.certificate = subject.into();
            tap.flow.certify(&hidden.certificate);
        }
        let segment = (packet.sequence, head, packet.length);
        self.tls.ties.segment(cookie, from, context, segment, &mut |step| steps.push(step));
        for step in steps {
            self.step(step, time, pipeline);
        }
        let Some(tap) = self.taps.get_mut(&cookie) else { return };
        let Some(hidden) = tap.tls.as_deref_mut() else { return };
        if hidden.left_alone {
            if tap.active.is_none() {
                self.modes.push((cookie, Socket { urgent: 0, ..ends_only(&mut tap.socket, packet) }));
            }
            return;
        }
        let enough = match &hidden.plain {
            Some(plain) => {
                let other = if plain.end == End::Near { End::Far } else { End::Near };
                let alone =
                    !tap.peer_here || other == End::Near || self.tls.ties.unexplained(cookie) > PEER_RECORDS;
                hidden.settled[plain.end as usize] && (hidden.settled[other as usize] || alone)
            }
            // Nothing will come of looking on.
            None => hidden.told && self.tls.ties.is_exhausted(cookie),
        };
        if enough {
            hidden.left_alone = true;
            self.tls.ties.forget_socket(cookie);
            let socket = if tap.active.is_none() {
                ends_only(&mut tap.socket, packet)
            } else {
                tap.socket.mode = [mode::IGNORE; 2];
                tap.socket
            };
            self.modes.push((cookie, Socket { urgent: 0, ..socket }));
            tracing::debug!(cookie, "ciphertext is left alone");
        }
    }

    /// A connection is about to be closed: what the gate has told of it meanwhile is heard first.
    pub(super) fn tie_at_last(&mut self, cookie: u64, now: Nanos, pipeline: &mut Pipeline) {
        let waits =
            |tap: &Tap| tap.server == Some(cookie) && tap.tls.as_ref().is_some_and(|h| h.plain.is_none());
        if !self.taps.get(&cookie).is_some_and(waits) {
            return;
        }
        let inline = self.gate.as_mut().and_then(|gate| gate.inline.as_mut());
        if let Some((object, pid)) = inline.and_then(|inline| inline.unsealed(cookie)) {
            self.tls.unsealed(cookie, Session { object, pid }, now);
        }
        self.tie_unsealed(now, pipeline);
    }

    /// Ties what the gate has told to belong together, once it is known here that the connection is one of TLS.
    pub(super) fn tie_unsealed(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        for (cookie, of, since) in std::mem::take(&mut self.tls.unsealed) {
            if self.taps.get(&cookie).is_some_and(|tap| tap.tls.is_some()) {
                self.tls.ties.forget_session(of);
                self.step(Step::Tied(of, cookie, End::Near), now, pipeline);
                self.step(Step::Settled(of, cookie, End::Near), now, pipeline);
            } else if now.since(since) < PATIENCE {
                self.tls.unsealed.push((cookie, of, since));
            }
        }
    }

    fn step(&mut self, step: Step, time: Nanos, pipeline: &mut Pipeline) {
        match step {
            Step::Tied(of, cookie, end) => {
                let Some(tap) = self.taps.get_mut(&cookie) else { return };
                // One that was joined midway may be known for TLS by this alone.
                let hidden = tap.tls.get_or_insert_with(|| Box::new(Hidden::unproven(time)));
                if hidden.plain.is_some() {
                    // The other end of a connection that is read already: nothing more is asked of it.
                    hidden.settled[end as usize] = true;
                    self.tls.ignore(of);
                    return;
                }
                tracing::debug!(cookie, pid = of.pid, ?end, "plaintext found");
                let mut flow = begin(tap, cookie, time, pipeline);
                if let Some(hidden) = tap.tls.as_deref_mut() {
                    flow.certify(&hidden.certificate);
                    hidden.plain = Some(Plain { flow, session: of, end, mode: TlsMode::default() });
                }
                let known = self.tls.states.insert(of, State::Tied(cookie, false));
                let Some(State::Waiting(waiting)) = known else { return };
                self.tls.held -= waiting.bytes;
                for piece in waiting.pieces {
                    self.feed(cookie, &piece.tls, (&piece.head, &piece.tail), piece.time, pipeline);
                }
            }
            Step::Settled(of, cookie, end) => {
                if let Some(State::Tied(_, settled)) = self.tls.states.get_mut(&of) {
                    *settled = true;
                }
                if let Some(hidden) = self.taps.get_mut(&cookie).and_then(|tap| tap.tls.as_deref_mut()) {
                    hidden.settled[end as usize] = true;
                }
            }
            Step::Untied(of, cookie, _) => {
                self.tls.ignore(of);
                let Some(tap) = self.taps.get_mut(&cookie) else { return };
                let Some(hidden) = tap.tls.as_deref_mut() else { return };
                if hidden.plain.as_ref().is_none_or(|plain| plain.session != of) {
                    return;
                }
                tracing::warn!(cookie, "plaintext does not fit the connection that it was tied to");
                let tapped = Tapped { cookie, local: tap.ends.0, remote: tap.ends.1 };
                let (begun, accepted, server) = (tap.active.is_some(), tap.accepted, tap.server);
                let mut host = Here {
                    resolver: &mut self.resolver,
                    gate: self.gate.as_mut(),
                    tapped,
                    begun,
                    accepted,
                    server,
                };
                let Some(mut plain) = hidden.plain.take() else { return };
                plain.flow.close(time, pipeline, &mut host);
                if hidden.unproven {
                    // What its plaintext said it was counts for nothing any more.
                    self.tell_if_database(cookie, time, pipeline);
                } else {
                    hidden.told = true;
                    tap.flow.tell_blind(time, "tls_untied", pipeline);
                }
            }
        }
    }

    /// A piece of the plaintext of a connection.
    fn feed(
        &mut self,
        cookie: u64,
        tls: &Tls,
        (head, tail): (&[u8], &[u8]),
        time: Nanos,
        pipeline: &mut Pipeline,
    ) {
        let Some(tap) = self.taps.get_mut(&cookie) else { return };
        let Some(plain) = tap.tls.as_deref_mut().and_then(|hidden| hidden.plain.as_mut()) else { return };
        if plain.session != session(tls.session) {
            return;
        }
        let written = tls.direction == direction::EGRESS;
        let segment = Segment {
            from: if written == (plain.end == End::Near) { Side::A } else { Side::B },
            time,
            sequence: tls.offset as u32,
            acknowledgment: tls.peer as u32,
            flags: Flags { ack: true, ..Flags::default() },
            length: tls.length,
            head,
            tail,
        };
        let tapped = Tapped { cookie, local: tap.ends.0, remote: tap.ends.1 };
        let (begun, accepted, server) = (tap.active.is_some(), tap.accepted, tap.server);
        let mut host =
            Here { resolver: &mut self.resolver, gate: self.gate.as_mut(), tapped, begun, accepted, server };
        let wishes = plain.flow.segment(&segment, pipeline, &mut host);
        if wishes == Wishes::default() {
            return;
        }
        if wishes.refused {
            plain.mode.mode = [mode::IGNORE; 2];
        }
        if wishes.detected {
            plain.mode.mode = [mode::FULL; 2];
        }
        plain.mode.urgent = u32::from(plain.flow.may_be_stopped(&pipeline.policies));
        for side in [Side::A, Side::B] {
            if let Some(bulk) = wishes.bulk[side.index()] {
                // What side A sends is written by the near end and read by the far one.
                let way = if plain.end == End::Near { side } else { side.other() };
                plain.mode.mode[way.index()] = if bulk { mode::HEAD_TAIL } else { mode::FULL };
                plain.mode.guard[way.index()] = plain.flow.core().next(side.other());
            }
        }
        self.tls.modes.push((tls.session, plain.mode));
    }

    /// Tells which connections stay blind. Called about once a second.
    pub(super) fn hidden(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        self.tls.expire(now);
        self.tell_joined(now, pipeline);
        for (cookie, tap) in &mut self.taps {
            let Some(hidden) = tap.tls.as_deref_mut() else { continue };
            let due = hidden.is_due(now) && !hidden.unproven;
            match &mut hidden.plain {
                Some(plain) if plain.flow.is_detected() => {
                    let urgent = u32::from(plain.flow.may_be_stopped(&pipeline.policies));
                    if plain.mode.urgent != urgent {
                        plain.mode.urgent = urgent;
                        self.tls.modes.push((key(plain.session), plain.mode));
                    }
                }
                None if due => {
                    hidden.told = true;
                    let owner = self.resolver.resolve_now(*cookie);
                    let cause = owner.map_or("tls", |owner| self.tls.cause(owner.process.pid));
                    tap.flow.tell_blind(now, cause, pipeline);
                }
                _ => {}
            }
        }
    }
}

/// The flow of a connection's plaintext. Its numbers count plaintext bytes from 0, so that it is known where it begins.
fn begin(tap: &Tap, cookie: u64, time: Nanos, pipeline: &mut Pipeline) -> Flow {
    let ends = Ends::Tcp([tap.ends.0, tap.ends.1]);
    let mut flow = Flow::new(cookie, ends, CaptureSource::Tls, tap.active.is_some(), None, 0);
    let Some(active) = tap.active else { return flow };
    let client = if active { Side::A } else { Side::B };
    for (from, ack) in [(client, false), (client.other(), true)] {
        let syn = Segment {
            from,
            time,
            sequence: u32::MAX,
            acknowledgment: 0,
            flags: Flags { syn: true, ack, ..Flags::default() },
            length: 0,
            head: &[],
            tail: &[],
        };
        flow.segment(&syn, pipeline, &mut Nobody);
    }
    flow
}

/// Of a connection whose end the kernel side will not report, the ends of its directions are still wanted, and nothing
/// else: up to sequence numbers that are moved on when they are met.
fn ends_only(socket: &mut Socket, packet: &Packet) -> Socket {
    const FAR: u32 = 1 << 30;
    let way = usize::from(packet.direction == direction::INGRESS);
    socket.mode = [mode::SKIP; 2];
    socket.skip_until[way] = packet.sequence.wrapping_add(packet.length).wrapping_add(FAR);
    socket.skip_until[1 - way] = packet.acknowledgment.wrapping_add(FAR);
    *socket
}
