//! The only place where the stages meet: captured segments in, judged events out.

pub mod live; // kernel records -> flows
pub mod record; // statement, session, identity, verdict -> event

use std::sync::Arc;

use agent_core::connection::Connection;
use agent_core::event::{CaptureSource, CaptureVantage, Event, EventKind};
use agent_core::exchange::{Blindness, Loss, LossReason, Session, Statement};
use agent_core::identity::{Wire, Workload, decide};
use agent_core::protocol::Sink;
use agent_core::segment::{Endpoint, Nanos, Segment, Side};
use agent_core::sql::Texts;

use record::Recorder;

/// Who is at the two ends of a flow, and what can be done about it. The live driver answers; files know nothing.
pub trait Host {
    /// The process at the client's end, once it is known which end that is.
    fn workload(&mut self, client: Side) -> Option<Arc<Workload>>;
}

/// Nothing is known about the ends: a capture file.
pub struct Nobody;

impl Host for Nobody {
    fn workload(&mut self, _client: Side) -> Option<Arc<Workload>> {
        None
    }
}

/// What all flows share.
pub struct Pipeline {
    /// Statement texts, understood once each.
    pub texts: Texts,
    /// How events are made of what is known.
    pub recorder: Recorder,
    /// Where events go.
    pub output: Box<dyn FnMut(Event)>,
}

impl Pipeline {
    /// A pipeline that hands its events to `output`.
    pub fn new(recorder: Recorder, output: Box<dyn FnMut(Event)>) -> Self {
        Self { texts: Texts::default(), recorder, output }
    }

    /// Hands out an event that is about no flow.
    pub fn note(&mut self, kind: EventKind, time: Nanos, change: impl FnOnce(&mut Event)) {
        let mut event = self.recorder.blank(kind, time);
        change(&mut event);
        (self.output)(event);
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
    /// By side: only heads and tails are needed (true), or everything again (false).
    pub bulk: [Option<bool>; 2],
}

struct State {
    session_id: u64,
    ends: [Endpoint; 2],
    source: CaptureSource,
    client: Option<Side>,
    /// All that the flow's events have in common.
    prototype: Event,
    workload: Option<Arc<Workload>>,
    session: Option<Arc<Session>>,
    announced: bool,
    wishes: Wishes,
}

impl Flow {
    /// `ends`: of side A and side B. `begins`: its first byte will be seen. `hint`: what a configured port promises.
    pub fn new(
        session_id: u64,
        ends: [Endpoint; 2],
        source: CaptureSource,
        begins: bool,
        hint: Option<&'static str>,
        patience: u64,
    ) -> Self {
        Self {
            core: Connection::with_patience(begins, hint, patience),
            state: State {
                session_id,
                ends,
                source,
                client: None,
                prototype: Event::default(),
                workload: None,
                session: None,
                announced: false,
                wishes: Wishes::default(),
            },
        }
    }

    /// The end of one side.
    pub fn end(&self, side: Side) -> Endpoint {
        self.state.ends[side.index()]
    }

    /// The state of the machine that reads it.
    pub fn core(&self) -> &Connection {
        &self.core
    }

    /// Takes the next captured piece; what it yields goes to the pipeline's output.
    pub fn segment(&mut self, segment: &Segment<'_>, pipeline: &mut Pipeline, host: &mut dyn Host) -> Wishes {
        let Pipeline { texts, recorder, output } = pipeline;
        let mut sink = FlowSink { state: &mut self.state, recorder, output, host, now: segment.time };
        self.core.segment(segment, texts, &mut sink);
        std::mem::take(&mut self.state.wishes)
    }

    /// The connection is gone: hands out what is pending.
    pub fn close(&mut self, time: Nanos, pipeline: &mut Pipeline, host: &mut dyn Host) {
        let Pipeline { texts, recorder, output } = pipeline;
        let mut sink = FlowSink { state: &mut self.state, recorder, output, host, now: time };
        self.core.close(time, texts, &mut sink);
    }

    /// True where a database was recognised.
    pub fn is_detected(&self) -> bool {
        self.core.is_detected()
    }
}

struct FlowSink<'a> {
    state: &'a mut State,
    recorder: &'a mut Recorder,
    output: &'a mut Box<dyn FnMut(Event)>,
    host: &'a mut dyn Host,
    now: Nanos,
}

impl FlowSink<'_> {
    /// Everything about the flow that does not change from statement to statement.
    fn refresh(&mut self) {
        let State { session_id, ends, client, session, workload, prototype, source, .. } = &mut *self.state;
        let client = client.unwrap_or(Side::A);
        let (from, to) = (ends[client.index()], ends[client.other().index()]);
        let p = prototype;
        self.recorder.stamp(p);
        p.session_id = *session_id;
        p.client_address = from.address.to_string().into();
        p.client_port = from.port;
        p.server_address = to.address.to_string().into();
        p.server_port = to.port;
        p.network_transport = "tcp".into();
        p.capture_source = *source;
        // Side A is the tapped socket.
        p.capture_vantage = if client == Side::A { CaptureVantage::Client } else { CaptureVantage::Server };
        let mut wire = Wire::default();
        if let Some(session) = session {
            let user = if session.role.is_empty() { &session.user } else { &session.role };
            p.db_system_name = session.system.into();
            p.db_namespace = session.namespace.as_str().into();
            p.db_user = user.as_str().into();
            p.db_application_name = session.application_name.as_str().into();
            wire.db_user = &session.user;
            wire.application_name = &session.application_name;
        }
        record::identify(p, decide(workload.as_deref(), wire));
    }

    fn emit(&mut self, event: Event) {
        (self.output)(event);
    }

    fn occurrence(&mut self, kind: EventKind, time: Nanos) -> Event {
        let mut event = self.state.prototype.clone();
        event.event_kind = kind;
        event.time = time.0;
        event.event_id = self.recorder.ids.next(time);
        event.statement_complete = true;
        event
    }
}

impl Sink for FlowSink<'_> {
    fn detected(&mut self, protocol: &'static str, client: Side) {
        self.state.wishes.detected = true;
        self.state.client = Some(client);
        self.state.workload = self.host.workload(client);
        self.refresh();
        self.state.prototype.db_system_name = protocol.into();
    }

    fn refused(&mut self) {
        self.state.wishes.refused = true;
    }

    fn session(&mut self, session: &Arc<Session>) {
        self.state.session = Some(Arc::clone(session));
        self.refresh();
        if !self.state.announced {
            self.state.announced = true;
            let mut event = self.occurrence(EventKind::Session, self.now);
            event.db_response_status_code = session.status.as_str().into();
            if session.adopted {
                event.error_type = "adopted".into();
            }
            self.emit(event);
        }
    }

    fn statement(&mut self, statement: Statement) {
        let event = self.recorder.statement(&self.state.prototype, &statement);
        self.emit(event);
    }

    fn lost(&mut self, loss: Loss) {
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
        self.emit(event);
    }

    fn blind(&mut self, blindness: Blindness) {
        let mut event = self.occurrence(EventKind::Blind, self.now);
        event.statement_complete = false;
        event.network_tls = blindness == Blindness::Tls;
        event.error_type = match blindness {
            Blindness::Tls => "tls",
            Blindness::Gss => "gss",
        }
        .into();
        self.emit(event);
    }

    fn bulk(&mut self, from: Side, on: bool) {
        self.state.wishes.bulk[from.index()] = Some(on);
    }
}
