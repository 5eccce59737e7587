//! Connections that were open before the gate, or that it let go -> enrolled, at a moment at which they stand between two
//! messages. Until then they pass; one that never comes to rest is told.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use agent_core::event::EventKind;
use agent_core::protocol::{Entry, titled};
use agent_core::segment::{Nanos, Side};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::{Driver, Here};
use crate::gate;
use crate::gate::guard::Barred;
use crate::identify::netlink;
use crate::identify::{Resolver, Tapped};
use crate::pipeline::Pipeline;

/// How often in one look a busy connection is tried, and how long apart.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_micros(100);
/// How often in one look all sockets are walked over, for those that have something unread.
const WALKS: u32 = 4;
/// How long one look may take: verdicts wait for this thread.
const LOOK: Duration = Duration::from_millis(30);
/// Looks that find a connection busy before that is told.
const PATIENCE: u32 = 3;
/// After so many looks, only each such look is taken.
const RARELY: u32 = 8;
/// Where a server does not say that it waits, both sides have to be silent for so long: milliseconds.
const SILENCE: u32 = 1000;

/// Connections that wait to be taken in.
#[derive(Default)]
pub(super) struct Late {
    /// When all sockets were looked at last.
    era: u64,
    /// By the cookie that the gate knows them by.
    waiting: HashMap<u64, Waiting>,
    /// Those that were let in here: the kernel side does not see their end.
    adopted: HashSet<u64>,
    /// Those that cannot be.
    barred: HashSet<u64>,
    /// That they cannot be let in was said: where this kernel is the reason, each look would say it again.
    said: bool,
}

#[derive(Default)]
struct Waiting {
    looks: u32,
    told: bool,
    known: bool,
}

/// The server's end of a connection.
struct Server {
    pid: u32,
    socket: OwnedFd,
    protocol: &'static Entry,
    /// The socket and its network namespace; none for a Unix socket, which is enrolled in another way.
    entry: Option<(netlink::Entry, u64)>,
}

impl Driver {
    /// Takes in what was open before and stands between two messages now.
    pub(super) fn look_after_late(&mut self, now: Nanos, pipeline: &mut Pipeline) {
        let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) else { return };
        let mut gone = Vec::new();
        if !self.late.adopted.is_empty() {
            let members = inline.members();
            gone.extend(self.late.adopted.extract_if(|cookie| !members.contains(cookie)));
            for cookie in &gone {
                inline.closed(*cookie);
            }
        }
        for cookie in gone {
            self.late.waiting.remove(&cookie);
            let tapped = self.taps.iter().find(|(_, tap)| tap.server == Some(cookie));
            if let Some(tapped) = tapped.map(|(tapped, _)| *tapped) {
                self.close(tapped, now, pipeline);
                self.live.forget(tapped);
            }
        }
        let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) else { return };
        for cookie in inline.resting() {
            self.late.waiting.entry(cookie).or_default();
        }
        let begun = self.late.era != inline.era();
        if !begun && self.late.waiting.is_empty() {
            return;
        }
        for waiting in self.late.waiting.values_mut() {
            waiting.looks += 1;
        }
        let due = |waiting: &Waiting| waiting.looks < RARELY || waiting.looks.is_multiple_of(RARELY);
        if !begun && !self.late.waiting.values().any(due) {
            return;
        }
        self.resolver.sockets().look_again();
        if begun {
            self.late.era = inline.era();
            let open: HashSet<u64> =
                self.resolver.sockets().connections().map(|entry| entry.cookie).collect();
            self.late.barred.retain(|cookie| open.contains(cookie));
            let ports: HashSet<u16> = inline.ports().map(|(port, _)| port).collect();
            for entry in self.resolver.sockets().connections() {
                if ports.contains(&entry.local.port) && !inline.has(entry.cookie) {
                    self.late.waiting.entry(entry.cookie).or_default();
                }
            }
        }
        let begin = Instant::now();
        let waiting: Vec<u64> =
            self.late.waiting.iter().filter(|(_, waiting)| due(waiting)).map(|(cookie, _)| *cookie).collect();
        let mut servers = Vec::new();
        for cookie in waiting {
            servers.extend(self.meet(cookie, now, pipeline).map(|server| (cookie, server)));
        }
        let barred = self.let_in(&servers);
        for (cookie, server) in servers {
            self.take_in(cookie, &server, barred.get(&cookie).copied(), begin + LOOK, now, pipeline);
        }
    }

    /// The server's end of a connection that waits, where there is any use in it.
    fn meet(&mut self, cookie: u64, now: Nanos, pipeline: &mut Pipeline) -> Option<Server> {
        if self.late.barred.contains(&cookie) {
            self.late.waiting.remove(&cookie);
            return None;
        }
        let Some(server) = self.server_of(cookie) else {
            tracing::debug!(cookie, "nobody serves it yet");
            // Nobody has accepted it yet, or it is gone.
            if self.late.waiting.get(&cookie).is_some_and(|waiting| waiting.looks > PATIENCE) {
                self.late.waiting.remove(&cookie);
            }
            return None;
        };
        let known = self.late.waiting.get_mut(&cookie).is_some_and(|w| std::mem::replace(&mut w.known, true));
        if let (Some((entry, _)), false) = (&server.entry, known) {
            self.acquaint(entry, server.protocol, now, pipeline);
        }
        Some(server)
    }

    /// Enrols what is not yet, all of a network namespace at once; what could not be, and why.
    fn let_in(&mut self, servers: &[(u64, Server)]) -> HashMap<u64, Barred> {
        let mut barred = HashMap::new();
        let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) else { return barred };
        let mut wanted: HashMap<u64, Vec<(u64, &'static str)>> = HashMap::new();
        let mut pids = HashMap::new();
        for (cookie, server) in servers {
            if let (Some((_, namespace)), false) = (server.entry, inline.has(*cookie)) {
                wanted.entry(namespace).or_default().push((*cookie, server.protocol.name));
                pids.insert(namespace, server.pid);
            }
        }
        for (namespace, mut wanted) in wanted {
            let Some(place) = pids.get(&namespace).and_then(|pid| place(*pid, namespace)) else {
                barred.extend(wanted.iter().map(|(cookie, _)| (*cookie, Barred::Other)));
                continue;
            };
            for _ in 0..WALKS {
                let answers = inline.let_in(&wanted, &place).unwrap_or_else(|error| {
                    let words = "connections that were open before are not held";
                    if std::mem::replace(&mut self.late.said, true) {
                        tracing::debug!(%error, "{words}");
                    } else {
                        tracing::warn!(%error, "{words}");
                    }
                    wanted.iter().map(|(cookie, _)| (*cookie, Err(Barred::Other))).collect()
                });
                for (cookie, answer) in answers {
                    match answer {
                        Ok(()) => {
                            barred.remove(&cookie);
                            self.late.adopted.insert(cookie);
                        }
                        Err(why) => drop(barred.insert(cookie, why)),
                    }
                }
                wanted.retain(|(cookie, _)| barred.get(cookie) == Some(&Barred::Busy));
                if wanted.is_empty() {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
        barred
    }

    /// Takes one in, if it can be now.
    fn take_in(
        &mut self,
        cookie: u64,
        server: &Server,
        barred: Option<Barred>,
        deadline: Instant,
        now: Nanos,
        pipeline: &mut Pipeline,
    ) {
        let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) else { return };
        if barred.is_none() {
            for _ in 0..TRIES {
                if inline.take_back(cookie, || is_between(&self.resolver, server)) {
                    tracing::debug!(cookie, "a connection that was open before goes through the gate");
                    self.late.waiting.remove(&cookie);
                    return;
                }
                if Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
        let title = self.resolver.title(server.pid);
        tracing::debug!(
            cookie,
            title,
            ?barred,
            read = is_read(&server.socket),
            "not between two messages yet"
        );
        let Some(waiting) = self.late.waiting.get_mut(&cookie) else { return };
        let cause = match barred {
            Some(Barred::Taken) => "gate_refused",
            Some(Barred::Crowded) => "gate_crowded",
            Some(Barred::Busy | Barred::Other) | None => "gate_late",
        };
        if waiting.told || barred != Some(Barred::Taken) && waiting.looks < PATIENCE {
            return;
        }
        // Never silence: nothing of it is held.
        waiting.told = true;
        if barred == Some(Barred::Taken) {
            self.late.waiting.remove(&cookie);
            self.late.barred.insert(cookie);
        }
        if let Some(flow) = self.flow_of(cookie) {
            flow.tell(now, pipeline, EventKind::Blind, |event| {
                event.error_type = cause.into();
                event.statement_complete = false;
            });
        }
    }

    /// The server's end of the connection that the gate knows by this cookie.
    fn server_of(&mut self, cookie: u64) -> Option<Server> {
        let inline = self.gate.as_ref()?.inline.as_ref()?;
        if let Some((pid, socket)) = self.unix.server_of(cookie) {
            let system = self.unix.of_key(cookie)?.system()?;
            let protocol = agent_core::protocol::PROTOCOLS.iter().find(|entry| entry.name == system)?;
            return Some(Server { pid, socket: gate::borrow(pid, socket).ok()?, protocol, entry: None });
        }
        let owner = self.resolver.sockets().of_cookie(cookie)?;
        let (_, protocol) = inline.ports().find(|(port, _)| *port == owner.entry.local.port)?;
        // The server's parent may have it for a moment, too: the one that serves says so.
        let client = owner.entry.remote.port;
        let serves = |pid: &u32| {
            let title = self.resolver.title(*pid);
            title.is_some_and(|title| titled(protocol.name, &title, client).is_some())
        };
        let pid = owner.pids.iter().copied().find(serves).or_else(|| owner.pids.iter().copied().max())?;
        let socket = gate::borrow(pid, cookie).ok()?;
        Some(Server { pid, socket, protocol, entry: Some((owner.entry, owner.namespace)) })
    }

    /// Taps a connection that has not said anything since weir is here, and says who asks on it, as far as its server's
    /// title and its client's process tell.
    fn acquaint(
        &mut self,
        server: &netlink::Entry,
        protocol: &'static Entry,
        now: Nanos,
        pipeline: &mut Pipeline,
    ) {
        let (cookie, ends) = (server.cookie, (server.local, server.remote));
        let mirrored = (ends.1, ends.0);
        let tapped = if self.taps.contains_key(&cookie) {
            cookie
        } else if let Some(client) = self.by_ends.get(&mirrored).copied() {
            client
        } else {
            self.tap(cookie, ends, None);
            cookie
        };
        let Some(tap) = self.taps.get_mut(&tapped) else { return };
        tap.server = Some(cookie);
        tap.accepted = Some(ends).filter(|_| tapped != cookie);
        if !tap.flow.is_detected() && tap.tls.is_none() {
            let at = Tapped { cookie: tapped, local: tap.ends.0, remote: tap.ends.1 };
            let (begun, accepted, server) = (tap.active.is_some(), tap.accepted, tap.server);
            let (resolver, gate) = (&mut self.resolver, None);
            let mut host = Here { resolver, gate, tapped: at, begun, accepted, server };
            let client = if tapped == cookie { Side::B } else { Side::A };
            tap.flow.suppose(protocol.name, client, &mut host);
            tap.flow.believe(now, pipeline);
        }
        let who = tap.flow.who(cookie);
        if let Some(inline) = self.gate.as_mut().and_then(|gate| gate.inline.as_mut()) {
            inline.introduce(who);
        }
    }
}

/// The network namespace of a process, where it is this one.
fn place(pid: u32, namespace: u64) -> Option<File> {
    let file = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    (file.metadata().ok()?.ino() == namespace).then_some(file)
}

/// True where the server has read all that came and waits to be asked.
fn is_between(resolver: &Resolver, server: &Server) -> bool {
    let says = |title: String| server.protocol.inline.and_then(|inline| (inline.idle)(&title));
    let idle = resolver.title(server.pid).and_then(says) == Some(true);
    // A client may leave its session in the middle of what it asks for: prepared, and not synchronised.
    (idle || is_silent(&server.socket)) && is_read(&server.socket)
}

/// True where nothing waits to be read. Looking moves what lies in the socket's own queue to where the gate's programs
/// have seen it: nothing that came before may be looked at later.
fn is_read(socket: &OwnedFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(recv(socket.as_raw_fd(), &mut [0], flags), Err(Errno::EAGAIN))
}

/// True where nothing has come for long, and the last word was the server's.
fn is_silent(socket: &OwnedFd) -> bool {
    // SAFETY: plain numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: a value and its length, as the option wants them.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    got == 0 && info.tcpi_last_data_recv >= SILENCE && info.tcpi_last_data_sent <= info.tcpi_last_data_recv
}
