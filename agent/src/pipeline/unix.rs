//! Kernel records of Unix sockets -> flows.
//!
//! Both ends of a Unix socket are on this host, and each is tapped where it sends. Nobody reports the end of one: a
//! look at the kernel's table of sockets, once a second, does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agent_common::{Socket, UnixData, UnixOpen, mode};
use agent_core::event::{CaptureSource, Disposition, EventKind};
use agent_core::exchange::Cancel;
use agent_core::identity::Workload;
use agent_core::judge::Verdict;
use agent_core::protocol;
use agent_core::segment::{Endpoint, Flags, Nanos, Segment, Side};

use crate::capture::live::Live;
use crate::gate::talk::Decision;
use crate::gate::{self, Gate};
use crate::identify::Resolver;
use crate::identify::sockets::{Listening, unix_name};

use super::pooler::ServerEnd;
use super::{Ends, Flow, Host, Pipeline, Wishes};

/// Looks at the table of sockets that find no database before the tap is taken off again.
const LINGER: u32 = 10;

/// Looks that are left out while records wait to be read. Behind so many, those that waited before the first are read.
const BEHIND: u32 = 10;

/// A sender may be put off its processor between its send and the record of it, and be answered before it is back:
/// nanoseconds for which its bytes are waited for.
const PATIENCE: u64 = 1_000_000_000;

/// Whether Unix sockets are tapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// While a database listens on one.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Every tapped Unix socket. Belongs to the driver's thread.
pub struct UnixTaps {
    want: Want,
    attached: bool,
    idle: u32,
    /// By cookie.
    ends: HashMap<u64, End>,
    /// What names a socket while it lives -> its cookie.
    by_name: HashMap<u64, u64>,
    /// By the cookie of the end that was seen first.
    conversations: HashMap<u64, Conversation>,
    /// Sockets that were connected before the programs were attached.
    older: HashSet<u64>,
    /// Ends that are gone; records of theirs may still be on their way until the next look.
    doomed: Vec<u64>,
    /// Closed ends that the kernel side still knows.
    closed: Vec<u64>,
    /// Bytes of sockets that are not known: the record of who they are found no room.
    strays: u64,
    /// Looks at the table that were left out since the last one.
    behind: u32,
}

struct End {
    own: u64,
    peer: u64,
    conversation: u64,
    side: Side,
    socket: Socket,
}

/// What handles the records of Unix sockets.
pub struct Hands<'a> {
    /// Who has which socket.
    pub resolver: &'a mut Resolver,
    /// What acts.
    pub gate: Option<&'a mut Gate>,
}

struct Conversation {
    flow: Flow,
    path: Arc<str>,
    ends: [Option<u64>; 2],
    /// The process that each side's latest bytes came from.
    pids: [u32; 2],
    told: [u32; 2],
}

/// Answers a flow's questions about its ends.
struct Here<'a> {
    resolver: &'a mut Resolver,
    gate: Option<&'a mut Gate>,
    pids: [u32; 2],
    path: Arc<str>,
    /// What the gate knows it by: the client's cookie.
    key: Option<u64>,
}

impl Host for Here<'_> {
    fn workload(&mut self, client: Side) -> Option<Arc<Workload>> {
        self.resolver.processes.workload(self.pids[client.index()])
    }
    fn server_titles(&mut self, client: Side) -> Vec<String> {
        let pid = self.pids[client.other().index()];
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).into_iter().collect()
    }
    fn kill(&mut self, _verdict: &Verdict, _client: Side, _cancel: Option<&Cancel>) -> bool {
        false // the kernel destroys no Unix socket on demand
    }
    fn decision(&mut self, text: &[u8], expected: bool) -> Option<Decision> {
        self.gate.as_deref_mut()?.decision(self.key?, text, expected)
    }
    fn watched(&mut self, text: &[u8], verdict: &Verdict) {
        if let (Some(gate), Some(key)) = (self.gate.as_deref_mut(), self.key) {
            gate.compare(key, text, verdict);
        }
    }
    fn server_end(&mut self, client: Side) -> ServerEnd {
        ServerEnd::Unix(Arc::clone(&self.path), self.pids[client.other().index()])
    }
    fn listening(&mut self, pid: u32) -> Option<Listening> {
        self.resolver.sockets().listening(pid)
    }
    fn holds(&mut self, namespace: u64, local: Endpoint, remote: Endpoint) -> bool {
        self.resolver.sockets().holds(namespace, local, remote)
    }
}

impl Conversation {
    fn key(&self) -> Option<u64> {
        self.flow.core().client().and_then(|client| self.ends[client.index()])
    }

    /// What it answers by. The flow is left out: it is what asks.
    fn here<'a>(&self, hands: &'a mut Hands<'_>) -> Here<'a> {
        let (pids, path, key) = (self.pids, Arc::clone(&self.path), self.key());
        Here { resolver: hands.resolver, gate: hands.gate.as_deref_mut(), pids, path, key }
    }

    /// Has its statements held from now on, once both ends are known and what they speak: its server waits for the next
    /// message then, for the client waits for an answer to its first.
    fn guard(&mut self, gate: &mut Gate) {
        let Some(inline) = &mut gate.inline else { return };
        let Some(client) = self.flow.core().client() else { return };
        let server = client.other().index();
        let (Some(key), Some(socket), Some(system)) =
            (self.ends[client.index()], self.ends[server], self.flow.system())
        else {
            return;
        };
        // PostgreSQL names its sockets after its port.
        let port = self.path.rsplit('.').next().and_then(|port| port.parse().ok());
        if port.is_some_and(|port| !inline.takes_port(port)) {
            return;
        }
        // A server's process that is gone asks for nothing any more.
        if let Err(error) = inline.adopt(key, self.pids[server], socket, system)
            && std::path::Path::new(&format!("/proc/{}", self.pids[server])).exists()
        {
            inline.unadopted();
            tracing::warn!(%error, path = &*self.path, "statements of a Unix socket cannot be held");
        }
        inline.introduce(self.flow.who(key));
    }
}

impl UnixTaps {
    /// None yet.
    pub fn new(want: Want) -> Self {
        Self {
            want,
            attached: false,
            idle: 0,
            ends: HashMap::new(),
            by_name: HashMap::new(),
            conversations: HashMap::new(),
            older: HashSet::new(),
            doomed: Vec::new(),
            closed: Vec::new(),
            strays: 0,
            behind: 0,
        }
    }

    /// Taps or stops to, as listeners come and go, and closes what is gone. To be called about once a second.
    /// `caught_up`: no record waits to be read.
    pub fn look_after(
        &mut self,
        now: Nanos,
        caught_up: bool,
        live: &mut Live,
        hands: &mut Hands<'_>,
        pipeline: &mut Pipeline,
    ) {
        if self.want == Want::Never {
            return;
        }
        let mut wanted = self.want == Want::Always;
        hands.resolver.sockets().unix_listeners(|name| {
            wanted |= std::str::from_utf8(name).is_ok_and(|name| protocol::of_socket(name).is_some());
        });
        self.idle = if wanted { 0 } else { self.idle + 1 };
        if wanted && !self.attached {
            match live.attach_unix() {
                Ok(()) => {
                    self.attached = true;
                    pipeline.poolers.unix = true;
                    self.older = hands.resolver.sockets().unix_connected().unwrap_or_default();
                }
                Err(error) => {
                    // Once: what cannot be done now cannot be done in a second either.
                    tracing::warn!(%error, "Unix sockets cannot be tapped");
                    self.want = Want::Never;
                    pipeline.note(EventKind::Blind, now, |event| {
                        event.error_type = "unix".into();
                        event.network_transport = "unix".into();
                        event.statement_complete = false;
                    });
                }
            }
            return;
        }
        if !self.attached {
            return;
        }
        self.tell_strays(now, pipeline);
        // Where records wait, some may be of who is gone.
        self.behind = if caught_up || self.behind == BEHIND { 0 } else { self.behind + 1 };
        if self.behind > 0 {
            return;
        }
        // Where the table does not answer nobody is known to be gone.
        let Some(alive) = hands.resolver.sockets().unix_connected() else { return };
        for cookie in std::mem::take(&mut self.doomed) {
            // The kernel goes through its table in pieces, and may pass over a socket while others leave.
            if !alive.contains(&cookie) {
                self.close(cookie, now, hands, pipeline);
            }
        }
        self.closed.drain(..).for_each(|cookie| live.forget(cookie));
        self.older.retain(|cookie| alive.contains(cookie));
        self.doomed.extend(self.ends.keys().filter(|cookie| !alive.contains(cookie)));
        if self.idle > LINGER && self.ends.is_empty() && live.detach_unix().is_ok() {
            self.attached = false;
            pipeline.poolers.unix = false;
        }
    }

    /// Tells what was sent by sockets that nobody knows.
    fn tell_strays(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let bytes = std::mem::take(&mut self.strays);
        if bytes > 0 {
            tracing::warn!(bytes, "Unix sockets sent whose beginning was not seen");
            pipeline.note(EventKind::Loss, now, |event| {
                event.error_type = "unix_unknown".into();
                event.capture_lost_before = bytes;
                event.statement_complete = false;
            });
        }
    }

    /// A socket speaks, or is spoken to, for the first time. `name`: its own or its peer's.
    pub fn open(
        &mut self,
        open: &UnixOpen,
        name: &[u8],
        time: Nanos,
        hands: &mut Hands<'_>,
        pipeline: &mut Pipeline,
    ) {
        // The process may be gone in a moment: a first look at it now.
        hands.resolver.processes.workload(open.pid);
        // Its place in memory was another socket's: that one is gone, and its peer has nobody to speak with.
        if let Some(before) = self.by_name.get(&open.own).copied() {
            self.close(before, time, hands, pipeline);
        }
        let peer = self.by_name.get(&open.peer).copied();
        let peer = peer.filter(|cookie| self.ends.get(cookie).is_some_and(|end| end.peer == open.own));
        let (conversation, side) = match peer.and_then(|cookie| self.ends.get(&cookie)) {
            Some(end) => (end.conversation, end.side.other()),
            None => (open.cookie, Side::A),
        };
        let path = unix_name(name);
        let known = self.conversations.entry(conversation).or_insert_with(|| {
            let begins = !self.older.contains(&open.cookie);
            let hint = protocol::of_socket(&path);
            let source = CaptureSource::Unix;
            let flow = Flow::new(open.cookie, Ends::Unix(Arc::clone(&path)), source, begins, hint, PATIENCE);
            Conversation { flow, path, ends: [None; 2], pids: [0; 2], told: [0; 2] }
        });
        known.ends[side.index()] = Some(open.cookie);
        known.pids[side.index()] = open.pid;
        self.by_name.insert(open.own, open.cookie);
        let socket = Socket::default();
        self.ends.insert(open.cookie, End { own: open.own, peer: open.peer, conversation, side, socket });
        if let Some(gate) = hands.gate.as_deref_mut() {
            known.guard(gate);
        }
    }

    /// A socket sent.
    #[expect(clippy::too_many_arguments, reason = "one record and the four that serve it")]
    pub fn data(
        &mut self,
        data: &UnixData,
        head: &[u8],
        tail: &[u8],
        time: Nanos,
        hands: &mut Hands<'_>,
        pipeline: &mut Pipeline,
        modes: &mut Vec<(u64, Socket)>,
    ) {
        let Some(end) = self.ends.get(&data.cookie) else {
            self.strays += u64::from(data.length);
            return;
        };
        let (side, id) = (end.side, end.conversation);
        let Some(known) = self.conversations.get_mut(&id) else { return };
        known.pids[side.index()] = data.pid;
        let client = known.flow.core().client();
        if client == Some(side) && known.told[side.index()] != data.pid {
            // The socket was passed on, or came with a fork.
            let workload = hands.resolver.processes.workload(data.pid);
            known.flow.hand_over(workload, time, pipeline);
            known.told[side.index()] = data.pid;
        }
        let segment = Segment {
            from: side,
            time,
            sequence: data.sequence,
            acknowledgment: data.acknowledgment,
            flags: Flags { ack: true, ..Flags::default() },
            length: data.length,
            head,
            tail,
        };
        let mut host = known.here(hands);
        let wishes = known.flow.segment(&segment, pipeline, &mut host);
        if wishes == Wishes::default() {
            return;
        }
        if wishes.detected {
            known.told = known.pids;
        }
        if let Some(gate) = hands.gate.as_deref_mut() {
            known.guard(gate);
        }
        for side in [Side::A, Side::B] {
            let Some(cookie) = known.ends[side.index()] else { continue };
            let Some(end) = self.ends.get_mut(&cookie) else { continue };
            let before = end.socket;
            if wishes.refused {
                end.socket.mode = [mode::IGNORE; 2];
            } else if wishes.detected {
                end.socket.mode = [mode::FULL; 2];
            }
            end.socket.urgent = u32::from(known.flow.may_be_stopped(&pipeline.policies));
            if let Some(bulk) = wishes.bulk[side.index()] {
                // What this end sends is its first direction.
                end.socket.mode[0] = if bulk { mode::HEAD_TAIL } else { mode::FULL };
                end.socket.guard[0] = known.flow.core().next(side.other());
            }
            let same = (before.mode, before.guard, before.urgent)
                == (end.socket.mode, end.socket.guard, end.socket.urgent);
            if !same {
                modes.push((cookie, end.socket));
            }
        }
        if wishes.refused {
            self.conversations.remove(&id);
        }
    }

    /// The conversation that the gate knows by this key.
    pub fn of_key(&mut self, key: u64) -> Option<&mut Flow> {
        self.conversations.values_mut().find(|known| known.key() == Some(key)).map(|known| &mut known.flow)
    }

    /// The server's process and socket of the conversation that the gate knows by this key.
    pub fn server_of(&self, key: u64) -> Option<(u32, u64)> {
        let known = self.conversations.values().find(|known| known.key() == Some(key))?;
        let server = known.flow.core().client()?.other().index();
        Some((known.pids[server], known.ends[server]?))
    }

    /// Ends the conversation that the gate knows by this key: bytes of it are lost. False where there is none. The kernel
    /// destroys no Unix socket on demand; both ends see the end of the stream.
    pub fn shut(&mut self, key: u64, cause: &'static str, now: Nanos, pipeline: &mut Pipeline) -> bool {
        let Some(known) = self.conversations.values_mut().find(|known| known.key() == Some(key)) else {
            return false;
        };
        let side = known.flow.core().client().map_or(1, |client| client.other().index());
        let shut = known.ends[side].map(|socket| gate::shut(known.pids[side], socket));
        known.flow.tell(now, pipeline, EventKind::Loss, |event| {
            event.error_type = cause.into();
            event.statement_complete = false;
        });
        if !matches!(shut, Some(Ok(()))) {
            tracing::error!(
                path = &*known.path,
                cause,
                "a conversation that cannot go on could not be ended"
            );
        }
        true
    }

    /// Ends a session at the operator's wish; none where there is no such session. What its server executes for it goes on
    /// until it wants to answer.
    pub fn kill(
        &mut self,
        session: u64,
        actor: &str,
        now: Nanos,
        pipeline: &mut Pipeline,
    ) -> Option<std::io::Result<()>> {
        let known = self.conversations.get_mut(&session)?;
        let server = known.flow.core().client().map_or(1, |client| client.other().index());
        let socket = known.ends[server].ok_or(std::io::ErrorKind::NotFound.into());
        let shut = socket.and_then(|socket| gate::shut(known.pids[server], socket));
        known.flow.tell(now, pipeline, EventKind::Decision, |event| {
            event.error_type = "operator".into();
            event.approval_actor = actor.into();
            event.disposition = if shut.is_ok() { Disposition::Killed } else { Disposition::Allowed };
        });
        Some(shut)
    }

    /// The agent ends: hands out what is pending.
    pub fn finish(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        self.tell_strays(now, pipeline);
        for (_, mut known) in self.conversations.drain() {
            known.flow.close(now, pipeline, &mut super::Nobody);
        }
        self.ends.clear();
        self.by_name.clear();
    }

    /// Closes the conversation of an end, for both of its ends.
    fn close(&mut self, cookie: u64, now: Nanos, hands: &mut Hands<'_>, pipeline: &mut Pipeline) {
        let Some(end) = self.ends.get(&cookie) else { return };
        let mut ends = [Some(cookie), None];
        if let Some(known) = self.conversations.remove(&end.conversation) {
            ends = known.ends;
            let (mut flow, path) = (known.flow, known.path);
            let key = flow.core().client().and_then(|client| ends[client.index()]);
            let (pids, gate) = (known.pids, hands.gate.as_deref_mut());
            flow.close(now, pipeline, &mut Here { resolver: hands.resolver, gate, pids, path, key });
            if let (Some(gate), Some(key)) = (hands.gate.as_deref_mut(), key)
                && let Some(inline) = &mut gate.inline
            {
                inline.closed(key);
            }
        }
        for cookie in ends.into_iter().flatten() {
            let Some(end) = self.ends.remove(&cookie) else { continue };
            if self.by_name.get(&end.own) == Some(&cookie) {
                self.by_name.remove(&end.own);
            }
            self.closed.push(cookie);
        }
    }
}
