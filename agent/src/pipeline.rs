//! The only place where the stages meet: captured segments in, judged events out.

pub mod files; // capture files -> flows
pub mod live; // kernel records -> flows
pub mod unix; // kernel records of Unix sockets -> flows
pub mod pooler; // who works for whom behind a pooler
mod act; // statement and who asks for it -> verdict, and what is done
pub mod record; // statement, session, identity, verdict -> event

use std::collections::VecDeque;
use std::sync::Arc;

use agent_core::connection::Connection;
use agent_core::event::{CaptureSource, CaptureVantage, Event, EventKind};
use agent_core::exchange::{Blindness, Cancel, Loss, LossReason, Session, Statement, Ticket};
use agent_core::identity::{Wire, Workload, decide};
use agent_core::judge::{Memory, Verdict};
use agent_core::policy::Policies;
use agent_core::protocol::{Sink, Titled, titled};
use agent_core::segment::{Endpoint, Nanos, Segment, Side};
use agent_core::sql::Texts;

use crate::gate::talk::{Decision, Who};
use crate::identify::sockets::Listening;
use crate::metrics::Gauges;

use pooler::{Outcome, Poolers, Role, ServerEnd};
use record::Recorder;

/// A request that is told late may be this much older than it says, in nanoseconds.
const LATE: u64 = 1_000_000_000;
/// Most verdicts that wait for their statement's answer on one connection.
const VERDICTS_MAX: usize = 4096;

/// Who is at the two ends of a flow, and what can be done about it. The live driver answers; files know nothing.
pub trait Host {
    /// The process at the client's end, once it is known which end that is.
    fn workload(&mut self, client: Side) -> Option<Arc<Workload>>;
    /// The titles of the processes that hold the server's end, where that is on this host.
    fn server_titles(&mut self, client: Side) -> Vec<String>;
    /// Ends the connection now, as the verdict's rule wants, and has the server stop what it executes. True where the
    /// connection is known to be over.
    fn kill(&mut self, verdict: &Verdict, client: Side, cancel: Option<&Cancel>) -> bool;
    /// What was decided about a statement of this text before the server had it; `expected`: a rule wants it to have
    /// been held.
    fn decision(&mut self, text: &[u8], expected: bool) -> Option<Decision> {
        let _ = (text, expected);
        None
    }
    /// What a rule that only watches would do about a statement of this text: a canary compares it with what the gate says.
    fn watched(&mut self, text: &[u8], verdict: &Verdict) {
        let _ = (text, verdict);
    }
    /// Where the server's end is.
    fn server_end(&mut self, client: Side) -> ServerEnd {
        let _ = client;
        ServerEnd::default()
    }
    /// What a process listens on; none where it does not.
    fn listening(&mut self, pid: u32) -> Option<Listening> {
        let _ = pid;
        None
    }
    /// Whether that network namespace holds a connection with these ends, as its own end sees them.
    fn holds(&mut self, namespace: u64, local: Endpoint, remote: Endpoint) -> bool {
        let _ = (namespace, local, remote);
        false
    }
}

/// Nothing is known about the ends: a capture file.
pub struct Nobody;

impl Host for Nobody {
    fn workload(&mut self, _client: Side) -> Option<Arc<Workload>> {
        None
    }
    fn server_titles(&mut self, _client: Side) -> Vec<String> {
        Vec::new()
    }
    fn kill(&mut self, _verdict: &Verdict, _client: Side, _cancel: Option<&Cancel>) -> bool {
        false
    }
}

/// Takes the events of a pipeline.
pub type Output = Box<dyn FnMut(&Event)>;

/// What all flows share.
pub struct Pipeline {
    /// Statement texts, understood once each.
    pub texts: Texts,
    /// The rules in force.
    pub policies: Arc<Policies>,
    /// What happened before, as far as they ask.
    pub memory: Memory,
    /// How events are made of what is known.
    pub recorder: Recorder,
    /// Poolers, and what waits for the client behind it.
    pub poolers: Poolers,
    /// What its driver counts.
    pub gauges: Gauges,
    /// Where events go. They are lent: who keeps one clones it.
    pub output: Output,
}

impl Pipeline {
    /// A pipeline that hands its events to `output`.
    pub fn new(recorder: Recorder, policies: Arc<Policies>, output: Output) -> Self {
        let (texts, memory, poolers) = (Texts::default(), Memory::default(), Poolers::default());
        Self { texts, policies, memory, recorder, poolers, gauges: Gauges::default(), output }
    }

    /// Tells what poolers' connections had to wait with and is decided by now. `dropped`: the kernel side has lost
    /// something since the last time.
    pub fn settle(&mut self, now: Nanos, dropped: bool) {
        self.poolers.settle(now, dropped, &mut self.output);
    }

    /// What is known of it now.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            texts: self.texts.size(),
            lookups: self.texts.lookups(),
            policies: self.policies.len(),
            memory: self.memory.size(),
            ..self.gauges
        }
    }

    /// Hands out an event that is about no flow.
    pub fn note(&mut self, kind: EventKind, time: Nanos, change: impl FnOnce(&mut Event)) {
        let mut event = self.recorder.blank(kind, time);
        change(&mut event);
        (self.output)(&event);
    }
}

/// One connection on its way through the stages.
pub struct Flow {
    core: Connection,
    state: State,
}

/// What a flow's segment asked of its driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// A database was recognised: every byte is wanted.
    pub detected: bool,
    /// Nothing more will come of this connection.
    pub refused: bool,
    /// What is known of the session has changed: user, database.
    pub session: bool,
    /// By side: only heads and tails are needed (true), or everything again (false).
    pub bulk: [Option<bool>; 2],
    /// It cannot be read from here on, and nothing was said of it yet: see [`Flow::withhold`].
    pub blind: Option<Blindness>,
    /// It was joined midway and carries TLS, of a database or of anything else: see [`Flow::suppose`].
    pub encrypted: bool,
}

/// Where the two ends of a flow are.
#[derive(Clone, Debug)]
pub enum Ends {
    /// Of side A and side B.
    Tcp([Endpoint; 2]),
    /// The path, or the abstract name behind an `@`.
    Unix(Arc<str>),
}

struct State {
    session_id: u64,
    ends: Ends,
    source: CaptureSource,
    client: Option<Side>,
    /// All that the flow's events have in common, with what its last statement left. Statements are filled in here:
    /// a new event for each would cost more than everything else about it.
    event: Event,
    workload: Option<Arc<Workload>>,
    session: Option<Arc<Session>>,
    /// Subject of the client's TLS certificate; empty where none was seen.
    certificate: Arc<str>,
    /// Who a session is that was joined too late to see its login.
    titled: Option<Titled>,
    announced: bool,
    /// Verdicts on statements whose answer is awaited, oldest first. Empty while no rule matches.
    verdicts: VecDeque<(u64, Verdict)>,
    judged: u64,
    wishes: Wishes,
    withhold: bool,
    /// Bytes that were told as lost.
    lost: u64,
    /// What poolers have to do with it, as of the generation.
    role: Role,
    generation: u64,
    /// Who asks a pooler here, for those that it asks on this one's behalf.
    actor: Option<Arc<Event>>,
    /// Requests that wait for their answers, and when there was none last.
    waiting: u64,
    idle: Nanos,
}

impl Ends {
    fn is_unix(&self) -> bool {
        matches!(self, Ends::Unix(_))
    }
}

impl Flow {
    /// `begins`: its first byte will be seen. `hint`: what a configured port promises.
    pub fn new(
        session_id: u64,
        ends: Ends,
        source: CaptureSource,
        begins: bool,
        hint: Option<&'static str>,
        patience: u64,
    ) -> Self {
        let core = Connection::with_patience(begins, hint, patience);
        // Sequence numbers that weir gives itself begin with 0.
        let numbered = begins && matches!(ends, Ends::Unix(_));
        Self {
            core: if numbered { core.from_zero() } else { core },
            state: State {
                session_id,
                ends,
                source,
                client: None,
                event: Event::default(),
                workload: None,
                session: None,
                certificate: Arc::default(),
                titled: None,
                announced: false,
                verdicts: VecDeque::new(),
                judged: 0,
                wishes: Wishes::default(),
                withhold: false,
                lost: 0,
                role: Role::default(),
                generation: 0,
                actor: None,
                waiting: 0,
                idle: Nanos(0),
            },
        }
    }

    /// Another process is at work at the client's end now.
    pub fn hand_over(&mut self, workload: Option<Arc<Workload>>, now: Nanos, pipeline: &mut Pipeline) {
        let Pipeline { policies, memory, recorder, poolers, output, .. } = pipeline;
        poolers.moved(self.state.session_id, workload.as_ref().map(|workload| &workload.process));
        self.state.workload = workload;
        self.state.role = poolers.role(self.state.session_id);
        let host = &mut Nobody;
        FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now }.refresh();
    }

    /// The state of the machine that reads it.
    pub fn core(&self) -> &Connection {
        &self.core
    }

    /// Takes the next captured piece; what it yields goes to the pipeline's output.
    pub fn segment(&mut self, segment: &Segment<'_>, pipeline: &mut Pipeline, host: &mut dyn Host) -> Wishes {
        let Pipeline { texts, policies, memory, recorder, poolers, output, .. } = pipeline;
        let now = segment.time;
        let mut sink =
            FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now };
        self.core.segment(segment, texts, &mut sink);
        std::mem::take(&mut self.state.wishes)
    }

    /// The connection is gone: hands out what is pending.
    pub fn close(&mut self, time: Nanos, pipeline: &mut Pipeline, host: &mut dyn Host) {
        let Pipeline { texts, policies, memory, recorder, poolers, output, .. } = pipeline;
        let now = time;
        let mut sink =
            FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now };
        self.core.close(time, texts, &mut sink);
        poolers.closed(self.state.session_id, time);
    }

    /// What the kernel side could not hand over of this connection: tells what no hole in its streams has shown, as
    /// when its end is missing.
    pub fn tell_lost(&mut self, bytes: u64, time: Nanos, pipeline: &mut Pipeline) {
        let more = bytes.saturating_sub(self.state.lost);
        if more == 0 || !self.state.announced {
            return;
        }
        let Pipeline { policies, memory, recorder, poolers, output, .. } = pipeline;
        let (host, now) = (&mut Nobody, time);
        let mut sink =
            FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now };
        let mut event = sink.occurrence(EventKind::Loss, time);
        event.capture_lost_before = more;
        event.statement_complete = false;
        event.error_type = "ring_full".into();
        sink.emit(&event);
    }

    /// Says nothing where TLS begins: its plaintext may come another way. The driver is told, and says it in the end.
    pub fn withhold(&mut self) {
        self.state.withhold = true;
    }

    /// Tells that nothing more can be read of this connection, and why.
    pub fn tell_blind(&mut self, time: Nanos, cause: &str, pipeline: &mut Pipeline) {
        let Pipeline { policies, memory, recorder, poolers, output, .. } = pipeline;
        poolers.dark(self.state.role, self.state.session_id, true);
        let (host, now) = (&mut Nobody, time);
        let mut sink =
            FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now };
        sink.refresh();
        let mut event = sink.occurrence(EventKind::Blind, time);
        event.statement_complete = false;
        event.network_tls = true;
        event.error_type = cause.into();
        (sink.output)(&event);
    }

    /// Nothing of it could be read, but something else tells that it is a session of this database, and which side is
    /// its client.
    pub fn suppose(&mut self, protocol: &'static str, client: Side, host: &mut dyn Host) {
        let state = &mut self.state;
        state.client = Some(client);
        state.workload = host.workload(client);
        state.session = Some(Arc::new(Session { system: protocol, adopted: true, ..Session::default() }));
        state.titled = state.title(host, client);
    }

    /// What was [supposed](Self::suppose) is what its events say from now on.
    pub fn believe(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let Pipeline { policies, memory, recorder, poolers, output, .. } = pipeline;
        let host = &mut Nobody;
        FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now }.refresh();
    }

    /// The client has shown a certificate with this subject.
    pub fn certify(&mut self, subject: &Arc<str>) {
        self.state.certificate = Arc::clone(subject);
    }

    /// How to stop what the session is executing, where that is known.
    pub fn cancel(&self) -> Option<&Cancel> {
        self.state.session.as_deref()?.cancel.as_ref()
    }

    /// Who asks here, for those who decide about what is held on its way to this server's socket.
    pub fn who(&self, cookie: u64) -> Who {
        let event = &self.state.event;
        let session = self.state.session.as_deref();
        Who {
            cookie,
            session_id: event.session_id,
            identity_principal: event.identity_principal.to_string(),
            ai_agent_name: event.ai_agent_name.to_string(),
            db_namespace: event.db_namespace.to_string(),
            db_user: event.db_user.to_string(),
            search_path: session.map(|session| session.search_path.clone()).unwrap_or_default(),
            process: event.process_pid.zip(event.process_start_ns),
            backend: session.map_or(0, |session| session.backend),
        }
    }

    /// The event of something about this connection that is no statement.
    pub fn tell(
        &mut self,
        time: Nanos,
        pipeline: &mut Pipeline,
        kind: EventKind,
        change: impl FnOnce(&mut Event),
    ) {
        let Pipeline { policies, memory, recorder, poolers, output, .. } = pipeline;
        let (host, now) = (&mut Nobody, time);
        let mut sink =
            FlowSink { state: &mut self.state, policies, memory, recorder, poolers, output, host, now };
        let mut event = sink.occurrence(kind, time);
        change(&mut event);
        sink.emit(&event);
    }

    /// What it was recognised as.
    pub fn system(&self) -> Option<&'static str> {
        self.state.session.as_ref().map(|session| session.system)
    }

    /// Process id of the client, where it is known.
    pub fn process(&self) -> Option<u32> {
        self.state.workload.as_ref().map(|workload| workload.process.pid)
    }

    /// True where a rule may end this session, by what is known of it.
    pub fn may_be_stopped(&self, policies: &Policies) -> bool {
        let event = &self.state.event;
        self.is_detected() && policies.may_stop(&event.db_system_name, &event.db_namespace)
    }

    /// True where a database was recognised.
    pub fn is_detected(&self) -> bool {
        self.core.is_detected()
    }
}

impl State {
    /// Whom the server's process says that it serves.
    fn title(&self, host: &mut dyn Host, client: Side) -> Option<Titled> {
        let system = self.session.as_ref()?.system;
        let port = match &self.ends {
            Ends::Tcp(ends) => ends[client.index()].port,
            Ends::Unix(_) => 0,
        };
        host.server_titles(client).iter().find_map(|title| titled(system, title, port))
    }
}

struct FlowSink<'a> {
    state: &'a mut State,
    policies: &'a Policies,
    memory: &'a mut Memory,
    recorder: &'a mut Recorder,
    poolers: &'a mut Poolers,
    output: &'a mut Output,
    host: &'a mut dyn Host,
    now: Nanos,
}

impl FlowSink<'_> {
    /// Everything about the flow that does not change from statement to statement.
    fn refresh(&mut self) {
        let State {
            session_id,
            ends,
            client,
            session,
            certificate,
            titled,
            workload,
            event: p,
            source,
            role,
            ..
        } = &mut *self.state;
        let client = client.unwrap_or(Side::A);
        self.recorder.stamp(p);
        p.session_id = *session_id;
        p.capture_source = *source;
        p.network_tls = *source == CaptureSource::Tls;
        match ends {
            Ends::Tcp(ends) => {
                let (from, to) = (ends[client.index()], ends[client.other().index()]);
                p.client_address = from.address.to_string().into();
                p.client_port = from.port;
                p.server_address = to.address.to_string().into();
                p.server_port = to.port;
                p.network_transport = "tcp".into();
                // Side A is the tapped socket.
                p.capture_vantage =
                    if client == Side::A { CaptureVantage::Client } else { CaptureVantage::Server };
            }
            Ends::Unix(path) => {
                p.server_address = Arc::clone(path);
                p.network_transport = "unix".into();
                p.capture_vantage = CaptureVantage::Client;
            }
        }
        let mut wire = Wire { certificate, ..Wire::default() };
        if let Some(session) = session {
            // What the wire said counts for more.
            let known = |wire, title| if String::is_empty(wire) { title } else { wire };
            let (login, namespace) = match titled {
                Some(titled) => {
                    (known(&session.user, &titled.user), known(&session.namespace, &titled.namespace))
                }
                None => (&session.user, &session.namespace),
            };
            let user = known(&session.role, login);
            p.db_system_name = session.system.into();
            p.db_namespace = namespace.as_str().into();
            p.db_user = user.as_str().into();
            p.db_application_name = session.application_name.as_str().into();
            wire.db_user = login;
            wire.titled = session.user.is_empty();
            wire.application_name = &session.application_name;
        }
        let role = *role;
        let known = workload.as_deref().filter(|_| role.relays.is_none());
        record::identify(p, decide(known, wire));
        let mut actor = None;
        if role.is_pooled() {
            if role.relays.is_some() {
                record::nobody(p);
            }
            let claims = p.identity_claims.iter().cloned();
            p.identity_claims = claims.chain(self.poolers.claims(role)).collect();
            actor = role.serves.map(|_| Arc::new(p.clone()));
        }
        self.state.actor = actor;
    }

    /// Learns what poolers have to do with the flow where that may have changed.
    fn follow(&mut self) {
        let (state, poolers) = (&mut *self.state, &mut *self.poolers);
        if state.role.serves.is_some()
            && state.ends.is_unix()
            && let ServerEnd::Unix(_, pid) = self.host.server_end(state.client.unwrap_or(Side::A))
            && pid != 0
        {
            poolers.answers(state.session_id, pid);
        }
        if state.generation != poolers.generation() {
            state.generation = poolers.generation();
            let role = poolers.role(state.session_id);
            if state.role != role {
                state.role = role;
                self.refresh();
            }
        }
    }

    /// The verdict on a statement that is answered; those before it will not be asked for.
    fn verdict(&mut self, ticket: Ticket) -> Option<Verdict> {
        if ticket == Ticket::default() {
            return None;
        }
        let at = self.state.verdicts.iter().position(|(judged, _)| *judged == ticket.0)?;
        self.state.verdicts.remove(at).map(|(_, verdict)| verdict)
    }

    fn emit(&mut self, event: &Event) {
        let state = &*self.state;
        let waits =
            state.role.relays.is_some_and(|at| self.poolers.queue(at, state.session_id, event, self.now));
        if !waits {
            (self.output)(event);
        }
    }

    fn occurrence(&mut self, kind: EventKind, time: Nanos) -> Event {
        let mut event = self.state.event.clone();
        self.recorder.occurrence(&mut event, kind, time);
        event
    }
}

impl Sink for FlowSink<'_> {
    fn detected(&mut self, protocol: &'static str, client: Side) {
        self.state.wishes.detected = true;
        self.state.client = Some(client);
        self.state.workload = self.host.workload(client);
        let (id, source) = (self.state.session_id, self.state.source);
        if source != CaptureSource::Pcap {
            let server = (self.host.server_end(client), source != CaptureSource::Packet);
            let process = self.state.workload.as_ref().map(|workload| &workload.process);
            self.poolers.detected(id, protocol, server, process, self.now, self.host);
            self.state.generation = self.poolers.generation();
            self.state.role = self.poolers.role(id);
        }
        self.refresh();
        self.state.event.db_system_name = protocol.into();
    }

    fn refused(&mut self) {
        self.state.wishes.refused = true;
    }

    fn encrypted(&mut self) {
        // Inside of TLS, and on a Unix socket, more of it is nobody's business here.
        match (&self.state.ends, self.state.source) {
            (Ends::Unix(_), _) | (_, CaptureSource::Tls) => self.state.wishes.refused = true,
            _ => self.state.wishes.encrypted = true,
        }
    }

    fn session(&mut self, session: &Arc<Session>) {
        self.state.session = Some(Arc::clone(session));
        self.state.wishes.session = true;
        if !self.state.announced && session.adopted && session.user.is_empty() {
            let client = self.state.client.unwrap_or(Side::A);
            self.state.titled = self.state.title(self.host, client);
        }
        self.refresh();
        if !self.state.announced {
            self.state.announced = true;
            let mut event = self.occurrence(EventKind::Session, self.now);
            event.db_response_status_code = session.status.as_str().into();
            if session.adopted {
                event.error_type = "adopted".into();
            }
            self.emit(&event);
        }
    }

    fn request(&mut self, statement: &Statement) -> Ticket {
        self.follow();
        let role = self.state.role;
        if self.policies.is_empty() && !role.is_pooled() {
            return Ticket::default();
        }
        let place = (self.state.session_id, self.state.judged + 1);
        if let (Some(at), Some(actor)) = (role.serves, &self.state.actor) {
            let from = match self.state.source {
                CaptureSource::Packet | CaptureSource::Pcap => statement.started,
                // Told late, but the pooler had answered everything before.
                _ => self.state.idle.max(Nanos(statement.started.0.saturating_sub(LATE))),
            };
            self.poolers.asked(at, place, statement, from, actor);
            self.state.waiting += 1;
        }
        let behind = role.relays.map(|at| self.poolers.relayed(at, place, statement).to_vec());
        let behind = behind.unwrap_or_default();
        let verdict = if self.policies.is_empty() { None } else { self.act(statement, &behind) };
        if verdict.is_none() && !role.is_pooled() {
            return Ticket::default();
        }
        self.state.judged += 1;
        if let Some(verdict) = verdict {
            if self.state.verdicts.len() >= VERDICTS_MAX {
                self.state.verdicts.pop_front();
            }
            self.state.verdicts.push_back((self.state.judged, verdict));
        }
        Ticket(self.state.judged)
    }

    fn statement(&mut self, mut statement: Statement) {
        if !self.state.announced {
            // A session that was joined late says who it is with its first statement.
            self.session(&statement.session);
        }
        // What it did to the session, or what came after, is known by now: it was sent before.
        let later = self.state.session.take_if(|now| !Arc::ptr_eq(now, &statement.session));
        if later.is_some() {
            self.state.session = Some(Arc::clone(&statement.session));
            self.refresh();
        }
        self.follow();
        let asked = self.verdict(statement.ticket);
        let answered = self.judge_again(asked.as_ref(), &mut statement);
        let late = answered.as_ref().is_some_and(Verdict::kills);
        let mut verdict = answered.or(asked);
        let decision = self.held(&statement, &mut verdict);
        self.recorder.statement(&mut self.state.event, &statement, verdict.as_ref());
        record::held(&mut self.state.event, decision.as_ref());
        let state = &mut *self.state;
        let place = (state.session_id, statement.ticket.0);
        if let Some(at) = state.role.serves {
            self.poolers.answered(at, place, &Outcome::of(&state.event));
            state.waiting = state.waiting.saturating_sub(1);
            if state.waiting == 0 {
                state.idle = statement.ended.unwrap_or(self.now);
            }
        }
        match state.role.relays {
            Some(at) => self.poolers.hold(at, place, state.event.clone(), self.now),
            None => (self.output)(&state.event),
        }
        if late {
            self.tell_late(&statement);
        }
        if later.is_some() {
            self.state.session = later;
            self.refresh();
        }
    }

    fn lost(&mut self, loss: Loss) {
        self.poolers.dark(self.state.role, self.state.session_id, false);
        if matches!(loss.reason, LossReason::Gap | LossReason::Buffer) {
            self.state.lost += loss.bytes;
        }
        let mut event = self.occurrence(EventKind::Loss, loss.time);
        event.capture_lost_before = loss.bytes;
        event.statement_complete = false;
        event.error_type = match loss.reason {
            LossReason::Gap => "gap",
            LossReason::Buffer => "buffer",
            LossReason::Oversize => "oversize",
            LossReason::Garbled => "garbled",
        }
        .into();
        self.emit(&event);
    }

    fn blind(&mut self, blindness: Blindness) {
        if self.state.withhold && blindness == Blindness::Tls {
            self.state.wishes.blind = Some(blindness);
            self.poolers.dark(self.state.role, self.state.session_id, false);
            return;
        }
        self.poolers.dark(self.state.role, self.state.session_id, true);
        let mut event = self.occurrence(EventKind::Blind, self.now);
        event.statement_complete = false;
        event.network_tls = blindness == Blindness::Tls;
        event.error_type = match blindness {
            Blindness::Tls => "tls",
            Blindness::Gss => "gss",
        }
        .into();
        self.emit(&event);
    }

    fn bulk(&mut self, from: Side, on: bool) {
        self.state.wishes.bulk[from.index()] = Some(on);
    }
}
