//! Kernel records -> flows: which socket is which connection, what to copy of it, who is at its ends.
//!
//! A connection with both ends on this host has two sockets. One of them is tapped, the client's where there is a
//! choice, and the other is left alone: one statement, one event.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_common::{Counters, Open, Packet, Socket, Tuple, direction, mode, tcp};
use agent_core::event::{CaptureSource, EventKind};
use agent_core::exchange::Cancel;
use agent_core::identity::Workload;
use agent_core::judge::Verdict;
use agent_core::segment::{Endpoint, Flags, Nanos, Segment, Side};
use hashbrown::{HashMap as FastMap, HashSet as FastSet};

use crate::capture::live::{Live, Record, Records};
use crate::gate::talk::Decision;
use crate::gate::{Gate, Inline, Outcome, Target};
use crate::identify::sockets::Listening;
use crate::identify::{Exec, Resolver, Tapped};

use super::pooler::ServerEnd;
use super::unix::{Hands, UnixTaps, Want};
use super::{Ends, Flow, Host, Pipeline, Wishes};
use crate::capture::tls::Search;

mod held; // statements that are held: who asks for them, what became of them
mod late; // connections that were open before the gate -> enrolled between two of their messages
mod tls; // plaintext of TLS sessions -> flows

/// How long the reader sleeps when nothing is urgent: long enough that a busy database costs few wakeups.
const NAP: Duration = Duration::from_millis(20);
/// A batch that takes longer is worth a line in the log.
const SLUGGISH: Duration = Duration::from_millis(100);
/// Records handled between two looks at the rest of the world.
const BATCH: usize = 4096;
/// How long the end waits for a record that its writer is not done with.
const UNFINISHED: Duration = Duration::from_secs(2);
/// How long the end takes at most to handle what was handed over before it.
const LAST: Duration = Duration::from_secs(20);

/// Everything about live connections. Belongs to one thread.
pub struct Driver {
    records: Option<Records>,
    live: Live,
    resolver: Resolver,
    gate: Option<Gate>,
    ports: HashMap<u16, &'static str>,
    taps: FastMap<u64, Tap>,
    /// The tapped socket of each connection with a known beginning, by what both ends agree on: the client's and
    /// the server's first sequence numbers. Address translation does not change them.
    by_start: FastMap<(u32, u32), u64>,
    /// The same by addresses, for connections that were open before the agent.
    by_ends: FastMap<(Endpoint, Endpoint), u64>,
    /// Sockets of no interest: the other ends of tapped ones, and what is no database.
    left_alone: FastSet<u64>,
    /// Ends of the shim's connections with itself, until their other ends show.
    own: FastSet<(Endpoint, Endpoint)>,
    unix: UnixTaps,
    modes: Vec<(u64, Socket)>,
    counted: Counters,
    /// Records that had been dropped when poolers were settled last.
    dropped: u64,
    /// Looks to come at sockets whose end may not have been reported, and what was missing at the last one.
    looks: u32,
    missing: HashSet<u64>,
    ticked: Nanos,
    /// Most bytes that waited in the ring since the last tick.
    filled: u64,
    tls: tls::Sessions,
    late: late::Late,
}

/// One tapped socket.
struct Tap {
    flow: Flow,
    socket: Socket,
    start: Option<(u32, u32)>,
    ends: (Endpoint, Endpoint),
    /// Whether it connected or accepted; `None` where it was open before the agent.
    active: Option<bool>,
    /// It has carried bytes: the kernel side knows it until it closes.
    spoke: bool,
    /// Its other end is on this host too, and left alone.
    peer_here: bool,
    /// What is known of its TLS; none where it speaks plainly.
    tls: Option<Box<tls::Hidden>>,
    /// Its ends as the server's socket sees them, where that is on this host too and was seen: the addresses may be
    /// translated in between.
    accepted: Option<(Endpoint, Endpoint)>,
    /// The server's socket, where it is on this host and was seen: what the gate has. The client's, where the gate has that.
    server: Option<u64>,
}

/// An address as it lies in a record.
fn address(version: u8, words: [u32; 4]) -> IpAddr {
    let mut bytes = [0u8; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    if version == 4 {
        return Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into();
    }
    // A dual-stack socket shows its IPv4 peers as ::ffff:a.b.c.d.
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

fn ends(tuple: &Tuple) -> (Endpoint, Endpoint) {
    (
        Endpoint { address: address(tuple.version, tuple.local), port: tuple.local_port },
        Endpoint { address: address(tuple.version, tuple.remote), port: tuple.remote_port },
    )
}

/// Answers a flow's questions about its ends.
struct Here<'a> {
    resolver: &'a mut Resolver,
    gate: Option<&'a mut Gate>,
    tapped: Tapped,
    begun: bool,
    accepted: Option<(Endpoint, Endpoint)>,
    server: Option<u64>,
}

impl Host for Here<'_> {
    fn workload(&mut self, client: Side) -> Option<Arc<Workload>> {
        if client == Side::A {
            let known = self.resolver.resolve_now(self.tapped.cookie);
            return known.or_else(|| self.resolver.resolve_slow(&self.tapped));
        }
        // The server's socket is tapped: the client is elsewhere, unless it was there before the agent.
        if self.begun { None } else { self.resolver.resolve_peer(&self.tapped) }
    }
    fn server_titles(&mut self, client: Side) -> Vec<String> {
        self.resolver.titles(&self.tapped, client == Side::A)
    }
    fn kill(&mut self, verdict: &Verdict, client: Side, cancel: Option<&Cancel>) -> bool {
        let Some(gate) = self.gate.as_deref_mut() else { return false };
        let known = self.resolver.resolve_now(self.tapped.cookie);
        let processes: Vec<_> = known.iter().map(|w| (w.process.pid, w.process.start_ns)).collect();
        // A process tells its network namespace faster than the table of sockets does.
        let namespace = if known.is_none() { self.resolver.namespace(&self.tapped) } else { None };
        let server = if client == Side::A { self.tapped.remote } else { self.tapped.local };
        let done = gate.kill(&Target {
            cookie: self.tapped.cookie,
            local: self.tapped.local,
            remote: self.tapped.remote,
            namespace,
            processes: &processes,
            cancel: cancel.map(|cancel| (server, cancel)),
            rule: &verdict.policy_rule,
        });
        done.outcome == Outcome::Killed
    }
    fn decision(&mut self, text: &[u8], expected: bool) -> Option<Decision> {
        let gate = self.gate.as_deref_mut()?;
        // What leaves a client in place of a statement is nothing that a rule is about.
        let replaced = gate.inline.as_ref().is_some_and(|inline| inline.holds_for(self.tapped.remote));
        gate.decision(self.server?, text, expected || replaced)
    }
    fn watched(&mut self, text: &[u8], verdict: &Verdict) {
        if let (Some(gate), Some(server)) = (self.gate.as_deref_mut(), self.server) {
            gate.compare(server, text, verdict);
        }
    }
    fn server_end(&mut self, client: Side) -> ServerEnd {
        let Tapped { local, remote, .. } = self.tapped;
        let mirrored = if client == Side::A { (remote, local) } else { (local, remote) };
        let (local, remote) = self.accepted.unwrap_or(mirrored);
        ServerEnd::Tcp(local, remote)
    }
    fn listening(&mut self, pid: u32) -> Option<Listening> {
        self.resolver.sockets().listening(pid)
    }
    fn holds(&mut self, namespace: u64, local: Endpoint, remote: Endpoint) -> bool {
        self.resolver.sockets().holds(namespace, local, remote)
    }
}

impl Driver {
    /// `ports`: what the configuration promises on a server port. `unix`: whether Unix sockets are tapped. `search`:
    /// finds TLS libraries, where their plaintext is wanted.
    pub fn new(
        (records, live): (Records, Live),
        gate: Option<Gate>,
        ports: HashMap<u16, &'static str>,
        unix: Want,
        search: Option<Search>,
    ) -> Self {
        let now = live.now();
        Self {
            records: Some(records),
            live,
            resolver: Resolver::new(),
            gate,
            ports,
            taps: FastMap::new(),
            by_start: FastMap::new(),
            by_ends: FastMap::new(),
            left_alone: FastSet::new(),
            own: FastSet::new(),
            unix: UnixTaps::new(unix),
            modes: Vec::new(),
            counted: Counters::default(),
            dropped: 0,
            looks: 0,
            missing: HashSet::new(),
            ticked: now,
            filled: 0,
            tls: tls::Sessions::new(search),
            late: late::Late::default(),
        }
    }

    /// Handles records until `each` says to stop; it is called at least every [`NAP`].
    pub fn run(&mut self, pipeline: &mut Pipeline, mut each: impl FnMut(&mut Pipeline) -> bool) {
        let Some(mut records) = self.records.take() else { return };
        loop {
            records.wait(NAP, self.gate.as_ref().and_then(|gate| gate.bell.as_ref()));
            let mut last = false;
            while self.turn(&mut records, pipeline) == BATCH && !last {
                last = !each(pipeline);
            }
            if last || !each(pipeline) {
                break;
            }
        }
        // What the kernel side still held, then what waits for an answer.
        let unread = self.read_up(&mut records, pipeline);
        self.finish(pipeline);
        if unread > 0 {
            tracing::warn!(bytes = unread, "ended with records that were not read");
            pipeline.note(EventKind::Loss, self.live.now(), |event| {
                event.error_type = "unread".into();
                event.capture_lost_before = unread;
                event.statement_complete = false;
            });
        }
        self.records = Some(records);
    }

    /// Handles what the kernel side has handed over up to now, and nothing for ever where more comes meanwhile; returns
    /// the bytes that were left.
    fn read_up(&mut self, records: &mut Records, pipeline: &mut Pipeline) -> u64 {
        let (head, began) = (records.head(), Instant::now());
        let mut moved = began;
        loop {
            let n = self.turn(records, pipeline);
            let left = head.map_or(u64::from(n == BATCH), |head| records.before(head));
            // An empty turn is not the end: a writer that was put off its processor in the middle of a record keeps
            // what is behind it from being read.
            if n > 0 {
                moved = Instant::now();
            } else if left > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            if left == 0 || moved.elapsed() > UNFINISHED || began.elapsed() > LAST {
                return left;
            }
        }
    }

    /// Handles at most one batch; returns its size.
    fn turn(&mut self, records: &mut Records, pipeline: &mut Pipeline) -> usize {
        let offset = self.live.wall(0);
        let before = Instant::now();
        self.tend_gate(pipeline);
        self.filled = self.filled.max(records.fill());
        let mut n = 0;
        while n < BATCH {
            let taken = records.drain(BATCH - n, |record| {
                self.record(&record, offset, pipeline);
                // What is to be copied is said at once: behind a big result the rest of a batch takes milliseconds, in
                // which the kernel side would go on by the old word.
                self.modes.is_empty()
            });
            n += taken;
            let said = !self.modes.is_empty();
            for (cookie, socket) in self.modes.drain(..) {
                self.live.set(cookie, &socket);
            }
            if taken == 0 || !said {
                break;
            }
        }
        if before.elapsed() > SLUGGISH {
            // Verdicts wait for this thread: whoever tunes a host must be able to see it.
            tracing::info!(records = n, took = ?before.elapsed(), "a batch of records took long");
        }
        for (session, mode) in self.tls.modes.drain(..) {
            self.live.set_tls(session, mode);
        }
        let now = self.live.now();
        if pipeline.poolers.is_active() {
            // What is told of a pooler's clients depends on nothing of them having been lost.
            let dropped = self.live.counters().ring_full;
            pipeline.settle(now, std::mem::replace(&mut self.dropped, dropped) != dropped);
        }
        if now.since(self.ticked) > 1_000_000_000 {
            self.ticked = now;
            let recognised = self.taps.values().filter(|tap| tap.flow.is_detected()).count();
            pipeline.gauges.ring_used = std::mem::take(&mut self.filled);
            pipeline.gauges.connections = [self.taps.len() as u64, recognised as u64];
            self.follow_rules(pipeline);
            self.look_after_gate(pipeline);
            self.look_after_unix(n < BATCH, pipeline);
            self.hidden(now, pipeline);
            self.live.resync_clock();
            self.report_loss(now, pipeline);
            if n < BATCH {
                self.close_unreported(now, pipeline);
            }
        }
        n
    }

    fn record(&mut self, record: &Record<'_>, offset: Nanos, pipeline: &mut Pipeline) {
        match *record {
            Record::Packet(packet, head, tail) => {
                let time = Nanos(packet.time.wrapping_add(offset.0));
                self.packet(packet, head, tail, time, pipeline);
            }
            Record::Open(open) => self.open(open, Nanos(open.time.wrapping_add(offset.0)), pipeline),
            Record::Close(close) => {
                let time = Nanos(close.time.wrapping_add(offset.0));
                self.close(close.cookie, time, pipeline);
            }
            Record::Connect(connect) => {
                if self.gate.as_ref().is_some_and(|gate| gate.shim_pid() == Some(connect.pid)) {
                    self.leave_alone(connect.cookie);
                }
                self.resolver.processes.connect(connect.cookie, connect.pid);
            }
            Record::UnixOpen(open, name) => {
                let time = Nanos(open.time.wrapping_add(offset.0));
                let mut hands = Hands { resolver: &mut self.resolver, gate: self.gate.as_mut() };
                self.unix.open(open, name, time, &mut hands, pipeline);
            }
            Record::UnixData(data, head, tail) => {
                let time = Nanos(data.time.wrapping_add(offset.0));
                let mut hands = Hands { resolver: &mut self.resolver, gate: self.gate.as_mut() };
                self.unix.data(data, head, tail, time, &mut hands, pipeline, &mut self.modes);
            }
            Record::Exec(exec, path, arguments) => {
                self.tls.executed(exec.pid);
                if let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) {
                    inline.executed(exec.pid);
                }
                self.resolver.processes.exec(&Exec {
                    pid: exec.pid,
                    parent: exec.parent,
                    time_ns: exec.time,
                    filename: path,
                    arguments,
                    name: exec.comm.split(|b| *b == 0).next().unwrap_or_default(),
                    uid: exec.uid,
                    cgroup: exec.cgroup,
                });
            }
            Record::Fork(fork) => self.resolver.processes.fork(fork.parent, fork.child, fork.time),
            Record::Exit(exit) => {
                for session in self.tls.exited(exit.pid) {
                    self.live.forget_tls(session);
                }
                self.resolver.processes.exit(exit.pid, exit.time);
            }
            Record::Tls(tls, head, tail) => {
                let time = Nanos(tls.time.wrapping_add(offset.0));
                self.plaintext(tls, (head, tail), time, pipeline);
            }
            Record::TlsEnd(end) => self.tls.ended(end.session),
        }
    }

    fn open(&mut self, open: &Open, time: Nanos, pipeline: &mut Pipeline) {
        let active = open.active == 1;
        let start =
            if active { (open.send_next, open.receive_next) } else { (open.receive_next, open.send_next) };
        let ends = ends(&open.tuple);
        if active && self.left_alone.contains(&open.cookie) {
            // What the shim's connections with itself carry is somebody else's, sent in his name.
            match self.other_end(start, ends) {
                Some(other) => {
                    self.close(other, time, pipeline);
                    self.leave_alone(other);
                }
                None => drop(self.own.insert(ends)),
            }
            return;
        }
        if !active && self.own.remove(&(ends.1, ends.0)) {
            self.leave_alone(open.cookie);
            return;
        }
        let (mut peer_here, mut accepted, mut server) = (false, None, (!active).then_some(open.cookie));
        if let Some(first) = self.other_end(start, ends)
            && first != open.cookie
        {
            if active {
                // The server's end came first and was tapped: give way to the client's, nothing was said yet.
                accepted = self.taps.get(&first).map(|tap| tap.ends);
                self.close(first, time, pipeline);
                self.leave_alone(first);
                (peer_here, server) = (true, Some(first));
            } else {
                self.leave_alone(open.cookie);
                if let Some(tap) = self.taps.get_mut(&first) {
                    tap.peer_here = true;
                    tap.accepted = Some(ends);
                    tap.server.get_or_insert(open.cookie);
                }
                return;
            }
        }
        self.by_start.insert(start, open.cookie);
        // Its SYN carried data (TCP Fast Open): the flow has begun already.
        let begun = self.taps.get_mut(&open.cookie).filter(|tap| tap.active.is_some() && tap.start.is_none());
        let tap = match begun {
            Some(tap) => tap,
            None => self.tap(open.cookie, ends, Some(active)),
        };
        tap.start = Some(start);
        (tap.peer_here, tap.accepted, tap.server) = (peer_here, accepted, tap.server.or(server));
    }

    /// The tapped socket at the other end of a connection that begins. Data in a SYN that the server did not take
    /// makes their numbers differ in the client's part: then the addresses have to agree as well.
    fn other_end(&self, start: (u32, u32), ends: (Endpoint, Endpoint)) -> Option<u64> {
        let same_server = |cookie: &&u64| {
            self.taps.get(*cookie).and_then(|tap| tap.start).is_some_and(|known| known.1 == start.1)
        };
        let by_ends = || self.by_ends.get(&(ends.1, ends.0)).filter(same_server);
        self.by_start.get(&start).or_else(by_ends).copied()
    }

    /// Nothing more is wanted of this socket.
    fn leave_alone(&mut self, cookie: u64) {
        self.left_alone.insert(cookie);
        let ignore = Socket { mode: [mode::IGNORE; 2], ..Socket::default() };
        self.modes.push((cookie, ignore));
    }

    fn tap(&mut self, cookie: u64, ends: (Endpoint, Endpoint), active: Option<bool>) -> &mut Tap {
        let hint = self.ports.get(&ends.1.port).or_else(|| self.ports.get(&ends.0.port)).copied();
        let source = CaptureSource::Packet;
        let mut flow = Flow::new(cookie, Ends::Tcp([ends.0, ends.1]), source, active.is_some(), hint, 0);
        if self.tls.is_on() {
            flow.withhold();
        }
        self.by_ends.insert(ends, cookie);
        let (peer_here, accepted, tls) = (false, None, None);
        // Its server is elsewhere: the gate has its client.
        let held = self.gate.as_ref().and_then(|gate| gate.inline.as_ref());
        let server = held.filter(|inline| active == Some(true) && inline.holds_for(ends.1)).map(|_| cookie);
        let tap = Tap {
            flow,
            socket: Socket::default(),
            start: None,
            ends,
            active,
            spoke: false,
            peer_here,
            tls,
            accepted,
            server,
        };
        self.taps.entry(cookie).insert(tap).into_mut()
    }

    /// Rules that act were loaded, or are gone: says which sockets wake the agent at once.
    fn follow_rules(&mut self, pipeline: &Pipeline) {
        for (cookie, tap) in &mut self.taps {
            let urgent = u32::from(tap.flow.may_be_stopped(&pipeline.policies));
            if tap.flow.is_detected() && tap.socket.urgent != urgent {
                tap.socket.urgent = urgent;
                self.modes.push((*cookie, tap.socket));
            }
        }
    }

    fn packet(&mut self, packet: &Packet, head: &[u8], tail: &[u8], time: Nanos, pipeline: &mut Pipeline) {
        let mut cookie = packet.cookie;
        if cookie == 0 {
            // It met the listening socket: the connection's own is found by its ends.
            let (local, remote) = ends(&packet.tuple);
            match self.by_ends.get(&(local, remote)) {
                Some(&known) => cookie = known,
                None => return,
            }
        }
        if self.left_alone.contains(&cookie) {
            return;
        }
        if !self.taps.contains_key(&cookie) {
            let both = ends(&packet.tuple);
            // The other end of one that is tapped already? Both were open before the agent.
            if let Some(first) = self.by_ends.get(&(both.1, both.0))
                && let Some(tap) = self.taps.get_mut(first)
                && tap.active.is_none()
            {
                tap.peer_here = true;
                self.leave_alone(cookie);
                return;
            }
            if packet.length == 0 {
                return; // a last FIN of something that never mattered
            }
            let active = packet.direction == direction::EGRESS && packet.flags & tcp::ACK == 0;
            let begins = packet.flags & tcp::SYN != 0;
            self.tap(cookie, both, begins.then_some(active));
        }
        let looked_at = self.taps.get(&cookie).is_some_and(Tap::is_undecided);
        if looked_at {
            self.may_be_ciphertext(cookie, packet, head, time, pipeline);
        }
        let Some(tap) = self.taps.get_mut(&cookie) else { return };
        tap.spoke |= packet.length > 0 && packet.cookie != 0;
        if let Some(hidden) =
            tap.tls.as_deref_mut().filter(|_| tap.active.is_none() && !tap.flow.is_detected())
        {
            // What its beginning would have told is told by its plaintext or by nothing.
            let over = hidden.ends(packet);
            if !looked_at {
                self.ciphertext(cookie, packet, head, time, pipeline);
            }
            if over {
                self.close(cookie, time, pipeline);
                self.live.forget(cookie);
            }
            return;
        }
        let egress = packet.direction == direction::EGRESS;
        let segment = Segment {
            from: if egress { Side::A } else { Side::B },
            time,
            sequence: packet.sequence,
            acknowledgment: packet.acknowledgment,
            flags: Flags {
                syn: packet.flags & tcp::SYN != 0,
                fin: packet.flags & tcp::FIN != 0,
                rst: packet.flags & tcp::RST != 0,
                ack: packet.flags & tcp::ACK != 0,
            },
            length: packet.length,
            head,
            tail,
        };
        let tapped = Tapped { cookie, local: tap.ends.0, remote: tap.ends.1 };
        let begun = tap.active.is_some();
        let (accepted, server) = (tap.accepted, tap.server);
        let mut host =
            Here { resolver: &mut self.resolver, gate: self.gate.as_mut(), tapped, begun, accepted, server };
        let hidden = tap.tls.is_some();
        let wishes = tap.flow.segment(&segment, pipeline, &mut host);
        if hidden {
            self.ciphertext(cookie, packet, head, time, pipeline);
        } else if wishes.encrypted {
            let mut hidden = tls::Hidden::unproven(time);
            hidden.ends(packet);
            tap.tls = Some(Box::new(hidden));
            self.tls.ties.joined_socket(cookie);
        } else if wishes.blind.is_some() {
            tap.tls = Some(Box::new(tls::Hidden::new(time)));
            self.tls.ties.socket(cookie);
        } else if wishes.refused {
            self.taps.remove(&cookie);
            self.by_ends.remove(&(tapped.local, tapped.remote));
            self.tls.ties.forget_socket(cookie);
            self.leave_alone(cookie);
        } else if wishes != Wishes::default() {
            if wishes.detected {
                tap.socket.mode = [mode::FULL; 2];
                if let Some(client) = tap.flow.core().client() {
                    tap.socket.answers = 1 << client.other().index();
                }
            }
            tap.socket.urgent = u32::from(tap.flow.may_be_stopped(&pipeline.policies));
            for side in [Side::A, Side::B] {
                if let Some(bulk) = wishes.bulk[side.index()] {
                    // Side A is the tapped socket: what it sends is egress, index 0.
                    tap.socket.mode[side.index()] = if bulk { mode::HEAD_TAIL } else { mode::FULL };
                    // It holds for the answer to what was read so far, for it may reach the kernel late.
                    tap.socket.guard[side.index()] = tap.flow.core().next(side.other());
                }
            }
            self.modes.push((cookie, tap.socket));
            if (wishes.session || wishes.detected)
                && let Some(gate) = &mut self.gate
            {
                let unheld = held::introduce(gate, tap, self.resolver.sockets(), &pipeline.policies);
                if let Some(port) = unheld {
                    held::tell_unheld(port, time, pipeline);
                }
            }
        }
        if !begun && self.taps.get(&cookie).is_some_and(|tap| tap.flow.core().is_ended()) {
            // Nobody will report its end: it was open before the programs were.
            self.close(cookie, time, pipeline);
            self.live.forget(cookie);
        }
    }

    fn close(&mut self, cookie: u64, time: Nanos, pipeline: &mut Pipeline) {
        self.resolver.processes.forget(cookie);
        if self.left_alone.remove(&cookie) {
            return;
        }
        self.tie_at_last(cookie, time, pipeline);
        if self
            .taps
            .get(&cookie)
            .and_then(|tap| tap.tls.as_deref())
            .is_some_and(tls::Hidden::is_open_question)
        {
            self.tell_if_database(cookie, time, pipeline);
        }
        let Some(mut tap) = self.taps.remove(&cookie) else { return };
        let tapped = Tapped { cookie, local: tap.ends.0, remote: tap.ends.1 };
        let (begun, accepted, server) = (tap.active.is_some(), tap.accepted, tap.server);
        let mut host =
            Here { resolver: &mut self.resolver, gate: self.gate.as_mut(), tapped, begun, accepted, server };
        let plain = tap.tls.is_none();
        self.tls.ties.forget_socket(cookie);
        if let Some(hidden) = tap.tls.take() {
            hidden.close(&mut tap.flow, time, pipeline, &mut host);
        }
        tap.flow.close(time, pipeline, &mut host);
        if let (Some(gate), Some(server)) = (&mut self.gate, tap.server) {
            held::closed(gate, server, &mut tap.flow, time, pipeline);
        }
        if plain {
            let [sent, received] = self.live.lost_of(cookie).bytes;
            tap.flow.tell_lost(sent + received, time, pipeline);
        }
        if self.by_ends.get(&tap.ends) == Some(&cookie) {
            self.by_ends.remove(&tap.ends);
        }
        if let Some(start) = tap.start {
            self.by_start.remove(&start);
        }
    }

    /// Closes what the kernel side does not know any more: where records were dropped, ends of connections are among
    /// them. What is missing at two looks is over, and every record of it was read in between.
    fn close_unreported(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        if self.looks == 0 {
            return;
        }
        self.looks -= 1;
        let missing = |(cookie, tap): (&u64, &Tap)| (tap.spoke && !self.live.has(*cookie)).then_some(*cookie);
        let missing: HashSet<u64> = self.taps.iter().filter_map(missing).collect();
        let before = std::mem::replace(&mut self.missing, missing);
        for cookie in before {
            if self.missing.remove(&cookie) {
                self.close(cookie, now, pipeline);
            }
        }
    }

    /// Taps Unix sockets while a database listens on one, and lets go of those that are closed.
    /// `caught_up`: no record waits to be read.
    pub fn look_after_unix(&mut self, caught_up: bool, pipeline: &mut Pipeline) {
        let now = self.live.now();
        let mut hands = Hands { resolver: &mut self.resolver, gate: self.gate.as_mut() };
        self.unix.look_after(now, caught_up, &mut self.live, &mut hands, pipeline);
    }

    fn report_loss(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let counters = self.live.counters();
        let before = std::mem::replace(&mut self.counted, counters);
        let causes = [
            (
                "ring_full",
                counters.ring_full - before.ring_full,
                counters.ring_full_bytes - before.ring_full_bytes,
            ),
            ("sockets_full", counters.sockets_full - before.sockets_full, 0),
            ("unparsed", counters.unparsed - before.unparsed, 0),
            ("tls_full", counters.tls_full - before.tls_full, 0),
            (
                "shed",
                u64::from(counters.shed_bytes > before.shed_bytes),
                counters.shed_bytes - before.shed_bytes,
            ),
            (
                "unreadable",
                u64::from(counters.unreadable_bytes > before.unreadable_bytes),
                counters.unreadable_bytes - before.unreadable_bytes,
            ),
        ];
        if counters.ring_full > before.ring_full {
            // Records of processes and of ends of connections may be among what found no room.
            self.looks = 3;
            self.resolver.processes.rescan();
            let inline = self.gate.as_mut().and_then(|gate| gate.inline.as_mut());
            if let Some(parsers) = inline.and_then(Inline::parsers) {
                parsers.look_at_all();
            }
        }
        let undecided = counters.undecided_bytes - before.undecided_bytes;
        if undecided > 0 {
            // Not an event of its own: most such sockets turn out to be no database, and where one does, the hole in
            // its stream is told with its connection.
            tracing::info!(bytes = undecided, "sockets carried more than is copied before they are known");
        }
        for (reason, records, bytes) in causes {
            if records > 0 {
                tracing::warn!(reason, records, bytes, "the kernel side could not hand over all it saw");
                pipeline.note(EventKind::Loss, now, |event| {
                    event.error_type = reason.into();
                    event.capture_lost_before = bytes;
                    event.statement_complete = false;
                });
            }
        }
    }

    fn finish(&mut self, pipeline: &mut Pipeline) {
        let now = self.live.now();
        let open: Vec<u64> = self.taps.keys().copied().collect();
        for cookie in open {
            self.close(cookie, now, pipeline);
        }
        self.unix.finish(now, pipeline);
        let Pipeline { poolers, output, .. } = pipeline;
        poolers.flush(output);
        self.report_loss(now, pipeline);
    }
}
