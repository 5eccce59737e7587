//! Flows and what their processes listen on -> poolers: who accepts sessions of a database and opens others for them.
//!
//! A pooler's process is at work at the client's end of its connections to the server, and is never who asks there.
//! What proves it: a tapped session of the same protocol ends at a socket that it listens on.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use agent_core::event::Event;
use agent_core::exchange::Statement;
use agent_core::identity::{Claim, Process};
use agent_core::protocol;
use agent_core::segment::{Endpoint, Nanos};
use lru::LruCache;

use crate::identify::sockets::Listening;

use super::Host;

pub mod join; // statements of both legs -> the client behind each

pub use join::Outcome;
use join::{Asking, Join, Keys, Place};

/// Programs that are poolers. A name proves nothing: it counts for one that listens.
pub const PROGRAMS: [&str; 8] =
    ["pgbouncer", "pgcat", "odyssey", "pgpool", "pgpool-II", "supavisor", "pgagroal", "proxysql"];
/// Most processes that are remembered as what they are.
const PROCESSES_MAX: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// Most groups of processes that listen and connect: applications are among them.
const GROUPS_MAX: usize = 1024;
/// A process that listens on nothing may do so a moment later: nanoseconds between two looks.
const AGAIN: u64 = 1_000_000_000;

/// Where the server's end of a flow is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerEnd {
    /// Not on this host, as far as is known.
    #[default]
    Elsewhere,
    /// A connection, as the server's own end sees it.
    Tcp(Endpoint, Endpoint),
    /// A Unix socket, and the process that answers there; 0 until it has.
    Unix(Arc<str>, u32),
}

/// What a pooler has to do with a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The flow ends at this pooler.
    pub serves: Option<usize>,
    /// The flow comes from this pooler, on behalf of others.
    pub relays: Option<usize>,
}

impl Role {
    /// A pooler has to do with it.
    pub fn is_pooled(self) -> bool {
        self != Role::default()
    }
}

/// All that is known of poolers on this host, and what joins their legs.
pub struct Poolers {
    groups: Vec<Group>,
    /// By pid and start time: the group, or none, and when that was found out.
    processes: LruCache<(u32, u64), (Option<usize>, Nanos)>,
    flows: HashMap<u64, Known>,
    keys: Keys,
    /// Changes with every role that may have changed.
    generation: u64,
    /// Whether Unix sockets are tapped.
    pub unix: bool,
}

/// Processes that listen on the same sockets and open connections of one protocol.
struct Group {
    protocol: &'static str,
    processes: Vec<Arc<Process>>,
    listening: Listening,
    /// What shows that it is a pooler, and how sure that is; none for an application that happens to listen.
    evidence: Option<(&'static str, u8)>,
    join: Join,
}

struct Known {
    protocol: &'static str,
    server: ServerEnd,
    role: Role,
    late: bool,
}

impl Default for Poolers {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            processes: LruCache::new(PROCESSES_MAX),
            flows: HashMap::new(),
            keys: Keys::default(),
            generation: 0,
            unix: false,
        }
    }
}

impl Poolers {
    /// A flow was recognised. `late`: its requests may be told after what they cause.
    pub fn detected(
        &mut self,
        session: u64,
        protocol: &'static str,
        (server, late): (ServerEnd, bool),
        client: Option<&Arc<Process>>,
        now: Nanos,
        host: &mut dyn Host,
    ) {
        let relays = client.and_then(|process| self.examine(process, protocol, now, host));
        let known = Known { protocol, server, role: Role { serves: None, relays }, late };
        self.flows.insert(session, known);
        for at in 0..self.groups.len() {
            self.attach(session, at, host);
        }
    }

    /// Another process is at work at the client's end.
    pub fn moved(&mut self, session: u64, client: Option<&Arc<Process>>) {
        let found =
            client.and_then(|p| self.processes.get(&(p.pid, p.start_ns))).and_then(|(group, _)| *group);
        if let Some(known) = self.flows.get_mut(&session)
            && known.role.relays != found
        {
            known.role.relays = found;
            self.generation += 1;
        }
    }

    /// It has become known which process answers at the flow's Unix socket.
    pub fn answers(&mut self, session: u64, pid: u32) {
        let Some(known) = self.flows.get_mut(&session) else { return };
        let ServerEnd::Unix(_, own) = &mut known.server else { return };
        *own = pid;
        let Some(at) = known.role.serves else { return };
        // The same path in another mount namespace is another socket.
        if !self.groups[at].processes.iter().any(|process| process.pid == pid) {
            known.role.serves = None;
            self.groups[at].join.left(session, Nanos(0));
            self.generation += 1;
        }
    }

    /// The flow is gone.
    pub fn closed(&mut self, session: u64, now: Nanos) {
        let Some(known) = self.flows.remove(&session) else { return };
        for at in [known.role.serves, known.role.relays].into_iter().flatten() {
            self.groups[at].join.left(session, now);
        }
    }

    /// Changes when a role may have changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What poolers have to do with a flow, as far as that is shown.
    pub fn role(&self, session: u64) -> Role {
        let Some(known) = self.flows.get(&session) else { return Role::default() };
        let shown = |at: Option<usize>| at.filter(|at| self.groups[*at].evidence.is_some());
        Role { serves: shown(known.role.serves), relays: shown(known.role.relays) }
    }

    /// What is claimed of a session that a pooler has to do with.
    pub fn claims(&self, role: Role) -> Vec<Claim> {
        let mut claims = Vec::new();
        for group in [role.relays, role.serves].into_iter().flatten().map(|at| &self.groups[at]) {
            let (Some((source, confidence)), Some(process)) = (group.evidence, group.processes.last()) else {
                continue;
            };
            let name = process.executable.rsplit('/').next().unwrap_or_default();
            let claim = |key: &str, value: String| Claim {
                key: key.into(),
                value: value.into(),
                source: source.into(),
                confidence,
            };
            claims.push(claim("pooler", format!("{name}({})", process.pid)));
            claims.push(claim("pooler_pid", process.pid.to_string()));
            claims.push(claim("pooler_executable_path", process.executable.to_string()));
            claims.push(claim("pooler_owner", process.owner.to_string()));
        }
        claims
    }

    /// A client asked a pooler for something. `from`: when it may have been sent at the earliest.
    pub fn asked(&mut self, at: usize, place: Place, statement: &Statement, from: Nanos, actor: &Arc<Event>) {
        let key = self.keys.of(statement);
        self.groups[at].join.asked(Asking { place, key, from, actor: Arc::clone(actor) }, statement.started);
    }

    /// A client was answered.
    pub fn answered(&mut self, at: usize, place: Place, outcome: &Outcome) {
        self.groups[at].join.answered(place, outcome);
    }

    /// A pooler asked a server for something: those of its clients who may be behind it.
    pub fn relayed(&mut self, at: usize, place: Place, statement: &Statement) -> &[Arc<Event>] {
        let key = self.keys.of(statement);
        self.groups[at].join.relayed(place, key, statement.started)
    }

    /// A pooler was answered by a server: the event waits until it is known whose it is.
    pub fn hold(&mut self, at: usize, place: Place, event: Event, now: Nanos) {
        self.groups[at].join.hold(place, event, now);
    }

    /// Another event of a pooler's connection: true where it waits behind others of it.
    pub fn queue(&mut self, at: usize, session: u64, event: &Event, now: Nanos) -> bool {
        self.groups[at].join.queue(session, event, now)
    }

    /// Bytes of a flow were lost, or, where `forever`, it cannot be read from here on.
    pub fn dark(&mut self, role: Role, session: u64, forever: bool) {
        if let Some(at) = role.serves {
            self.groups[at].join.clients.darken(session, forever);
        }
        if let Some(at) = role.relays {
            self.groups[at].join.servers.darken(session, forever);
        }
    }

    /// True where some flow is pooled: [`Poolers::settle`] has something to do.
    pub fn is_active(&self) -> bool {
        self.groups.iter().any(|group| group.evidence.is_some())
    }

    /// Tells what is decided by now. `dropped`: the kernel side has lost something since it was last asked.
    pub fn settle(&mut self, now: Nanos, dropped: bool, output: &mut dyn FnMut(&Event)) {
        for group in &mut self.groups {
            if dropped {
                group.join.clients.shaken(now);
                group.join.servers.shaken(now);
            }
            let unseen = !self.unix && !group.listening.unix.is_empty();
            group.join.settle(now, unseen, output);
        }
    }

    /// The agent ends: tells what waits.
    pub fn flush(&mut self, output: &mut dyn FnMut(&Event)) {
        self.settle(Nanos(u64::MAX), false, output);
    }

    /// The group of a process that opens connections, where it listens too.
    fn examine(
        &mut self,
        process: &Arc<Process>,
        protocol: &'static str,
        now: Nanos,
        host: &mut dyn Host,
    ) -> Option<usize> {
        let key = (process.pid, process.start_ns);
        if let Some((found, at)) = self.processes.get(&key)
            && (found.is_some() || now.since(*at) < AGAIN)
        {
            return *found;
        }
        let found = host.listening(process.pid).and_then(|l| self.group(process, protocol, l, host));
        self.processes.put(key, (found, now));
        found
    }

    fn group(
        &mut self,
        process: &Arc<Process>,
        protocol: &'static str,
        listening: Listening,
        host: &mut dyn Host,
    ) -> Option<usize> {
        let same = |group: &Group| {
            let known = &group.listening;
            group.protocol == protocol
                && known.namespace == listening.namespace
                && (known.tcp.iter().any(|end| listening.tcp.contains(end))
                    || known.unix.iter().any(|name| listening.unix.contains(name)))
        };
        if let Some(at) = self.groups.iter().position(same) {
            self.groups[at].processes.push(Arc::clone(process));
            return Some(at);
        }
        if self.groups.len() >= GROUPS_MAX {
            tracing::warn!(pid = process.pid, "too many programs listen and connect: poolers may go unseen");
            return None;
        }
        let promised = listening.unix.iter().any(|name| protocol::of_socket(name) == Some(protocol));
        let name = process.executable.rsplit('/').next().unwrap_or_default();
        let evidence = if promised {
            Some(("listener", 80))
        } else {
            PROGRAMS.contains(&name).then_some(("executable", 60))
        };
        let at = self.groups.len();
        let processes = vec![Arc::clone(process)];
        self.groups.push(Group { protocol, processes, listening, evidence, join: Join::default() });
        self.generation += 1;
        let sessions: Vec<u64> = self.flows.keys().copied().collect();
        for session in sessions {
            self.attach(session, at, host);
            if self.flows.get(&session).is_some_and(|known| known.role.serves == Some(at)) {
                // What it has asked for already was not noted.
                self.groups[at].join.clients.darken(session, false);
            }
        }
        Some(at)
    }

    /// Notes that a flow ends at a pooler, where it does: that is also what shows that it is one.
    fn attach(&mut self, session: u64, at: usize, host: &mut dyn Host) {
        let (Some(known), Some(group)) = (self.flows.get_mut(&session), self.groups.get_mut(at)) else {
            return;
        };
        if known.protocol != group.protocol
            || known.role.serves.is_some()
            || known.role.relays == Some(at)
            || !group.accepts(&known.server, host)
        {
            return;
        }
        known.role.serves = Some(at);
        group.evidence = Some(("flow", 95));
        group.join.joined(session, known.late);
        self.generation += 1;
    }
}

impl Group {
    fn accepts(&self, server: &ServerEnd, host: &mut dyn Host) -> bool {
        match server {
            ServerEnd::Elsewhere => false,
            ServerEnd::Tcp(local, remote) => {
                let listens = self.listening.tcp.iter().any(|end| {
                    end.port == local.port && (end.address.is_unspecified() || end.address == local.address)
                });
                listens && host.holds(self.listening.namespace, *local, *remote)
            }
            ServerEnd::Unix(path, pid) => {
                self.listening.unix.contains(path)
                    && (*pid == 0 || self.processes.iter().any(|process| process.pid == *pid))
            }
        }
    }
}
