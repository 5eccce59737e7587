//! Verdicts -> acts: asks the shim to end exactly one connection, and says what came of it.
//!
//! The shim is a process of its own with one capability; it holds no state. The agent opens the `sock_diag` sockets,
//! one for each network namespace, and passes them along with the request: the shim needs neither CAP_SYS_ADMIN nor
//! a look at `/proc`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_core::exchange::Cancel;
use agent_core::judge::Verdict;
use agent_core::policy::Policies;
use agent_core::segment::Endpoint;

use crate::approve::Approvals;
use crate::capture::live::Bell;
use crate::identify::netlink::Diag;

pub mod message; // requests and answers, one datagram each
pub mod kill; // request -> the kernel -> outcome
mod cancel; // what a killed session had asked for -> stopped
pub mod shim; // the process that does it
pub mod guard; // kernel programs -> enrolled connections
mod entry; // sockets that are open already -> enrolled
pub mod hold; // held bytes -> forwarded, replaced, or kept
pub mod talk; // what agent and shim tell each other about them
pub mod canary; // what would have been done -> counts
pub mod inline; // rules that hold -> the shim, what it decided -> events
mod borrow; // a process's socket -> a descriptor of our own
pub mod parse; // servers' programs -> probes on their parsers
pub mod lanes; // memory that agent, shim and kernel share

use canary::Canary;
use cancel::Cancels;
pub use inline::{Inline, Settings};
pub use message::Outcome;
use message::{Kill, Reply, Request};

/// The longest that the pipeline waits for an answer. An honest one takes a tenth of a millisecond, on a busy host more; and
/// a shim that is replaced takes what it holds with it.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a new shim may take to listen.
const START: Duration = Duration::from_secs(5);
/// A process may have several gates, one after the other or, in tests, at once.
static GATES: AtomicU64 = AtomicU64::new(0);
/// Most network namespaces whose `sock_diag` socket is kept (an open one keeps its namespace alive).
const NAMESPACES_MAX: usize = 64;

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The directory of the socket cannot be made or used.
    #[error("cannot use {path} for the shim's socket: {source}; choose another with `state`")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim did not start.
    #[error("cannot start the shim ({0}); `weir doctor` says what enforcement needs")]
    Start(io::Error),
    /// No netlink.
    #[error("cannot open sock_diag ({0}); enforcement needs CAP_NET_ADMIN and CONFIG_INET_DIAG")]
    Netlink(io::Error),
}

/// A connection to end. It is named by its cookie; everything else only helps to find it.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Cookie of the tapped socket.
    pub cookie: u64,
    /// Its own end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// Inode of its network namespace, where it is known.
    pub namespace: Option<u64>,
    /// Processes at its ends that live on this host: pid and start time, nanoseconds since boot.
    pub processes: &'a [(u32, u64)],
    /// The server's end, and what stops the statement that runs there.
    pub cancel: Option<(Endpoint, &'a Cancel)>,
    /// The rule that decided.
    pub rule: &'a str,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What the kernel said.
    pub outcome: Outcome,
    /// Nanoseconds that the kernel took.
    pub act_ns: u64,
    /// Nanoseconds from the call to the answer: decision to reset.
    pub total_ns: u64,
}

/// Is told what came of each kill.
type Watch = Box<dyn Fn(&Done)>;

/// The agent's side of the gate: starts the shim, starts it again when it dies, asks it to act.
pub struct Gate {
    program: PathBuf,
    socket: PathBuf,
    link: Option<Link>,
    restarts: u64,
    next: u64,
    own: u64,
    namespaces: HashMap<u64, Namespace>,
    cancels: Cancels,
    spared_ends: HashSet<Endpoint>,
    watch: Option<Watch>,
    /// What rules that only watch would have done.
    pub canary: Canary,
    /// Statements are held before the server has them.
    pub inline: Option<Inline>,
    /// What held them, while it is switched off.
    resting: Option<Inline>,
    /// Cookies of servers' sockets whose connections have lost bytes in a shim that is gone, until they are told.
    lost: Vec<u64>,
    /// How they are.
    pub settings: Settings,
    /// Who is asked about statements that need somebody's approval.
    pub approvals: Option<Arc<Approvals>>,
    /// Is rung when their answers, or orders, wait.
    pub bell: Option<Bell>,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Inode of its network namespace.
    namespace: u64,
    /// The interface that it is bound to; 0 for none.
    interface: u32,
}

/// One network namespace.
struct Namespace {
    diag: Diag,
    /// To enter it; none for the agent's own.
    entrance: Option<Arc<File>>,
}

struct Link {
    child: Child,
    socket: OwnedFd,
}

impl Gate {
    /// Starts the shim: `program shim --socket DIRECTORY/shim-PID-N.sock`.
    pub fn start(program: &Path, directory: &Path) -> Result<Self, GateError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| GateError::Directory { path: directory.into(), source })?;
        let own = namespace_of("self").map_err(GateError::Netlink)?;
        let number = GATES.fetch_add(1, Ordering::Relaxed);
        let mut gate = Self {
            program: program.into(),
            socket: directory.join(format!("shim-{}-{number}.sock", std::process::id())),
            link: None,
            restarts: 0,
            next: 0,
            own,
            namespaces: HashMap::from([(
                own,
                Namespace { diag: Diag::open().map_err(GateError::Netlink)?, entrance: None },
            )]),
            cancels: Cancels::default(),
            spared_ends: HashSet::new(),
            watch: None,
            canary: Canary::default(),
            inline: None,
            resting: None,
            lost: Vec::new(),
            settings: Settings::default(),
            approvals: None,
            bell: None,
        };
        gate.link = Some(gate.launch().map_err(GateError::Start)?);
        Ok(gate)
    }

    /// Connections to this end are never ended: the ClickHouse that the receipts go to.
    pub fn spare_endpoint(&mut self, endpoint: Endpoint) {
        self.spared_ends.insert(endpoint);
    }

    /// Tells what came of each kill, as it is known.
    pub fn watch(&mut self, watch: impl Fn(&Done) + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// How often a dead shim was replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The shim's pid, while it runs.
    pub fn shim_pid(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.child.id())
    }

    /// Ends the connection and waits for the answer: about 0.1 ms, at most [`PATIENCE`] for each namespace that has
    /// to be tried. What the session had asked for goes on without it: the server is told to stop that too, behind the
    /// caller's back.
    pub fn kill(&mut self, target: &Target<'_>) -> Done {
        let begin = Instant::now();
        let (mut done, place) = self.find_and_kill(target);
        done.total_ns = begin.elapsed().as_nanos() as u64;
        if let Some(watch) = &self.watch {
            watch(&done);
        }
        // A client that has hung up by itself must not have its way either.
        if let (Outcome::Killed | Outcome::Gone, Some((server, cancel))) = (&done.outcome, target.cancel)
            && let Some(known) = self.namespaces.get(&place.namespace)
        {
            self.cancels.send(server, place.interface, cancel, known.entrance.clone());
        }
        if matches!(done.outcome, Outcome::Killed) {
            tracing::info!(cookie = target.cookie, rule = target.rule, total_ns = done.total_ns, "killed");
        } else {
            tracing::warn!(cookie = target.cookie, rule = target.rule, outcome = %done.outcome, "not killed");
        }
        done
    }

    /// Also says where the connection is, or was most likely.
    fn find_and_kill(&mut self, target: &Target<'_>) -> (Done, Place) {
        let without_act = |outcome| Done { outcome, act_ns: 0, total_ns: 0 };
        let spared = target.processes.iter().any(|(pid, _)| *pid == std::process::id())
            || self.spared_ends.contains(&target.local)
            || self.spared_ends.contains(&target.remote);
        if spared {
            let refused = Outcome::Refused("the agent depends on this connection".into());
            return (without_act(refused), Place { namespace: self.own, interface: 0 });
        }
        // Cookies are unique over all namespaces: trying the wrong one ends nothing.
        // The same ends may exist in several namespaces, so a refusal by one is not the last word either.
        let hints = target.processes.iter().filter_map(|(pid, _)| namespace_of(pid).ok());
        let mut namespaces: Vec<u64> = target.namespace.into_iter().chain(hints).chain([self.own]).collect();
        let likely = Place { namespace: namespaces[0], interface: 0 };
        let mut last = without_act(Outcome::Gone);
        let mut everywhere = false;
        let mut next = 0;
        while let Some(namespace) = namespaces.get(next).copied() {
            if !namespaces[..next].contains(&namespace) && self.open(namespace, target.processes) {
                let mut place = Place { namespace, interface: 0 };
                let mut done = self.ask(target, place);
                if matches!(done.outcome, Outcome::Gone | Outcome::Refused(_))
                    && let Some(interface) = self.interface(target, namespace)
                {
                    place.interface = interface;
                    done = self.ask(target, place);
                }
                match done.outcome {
                    Outcome::Killed | Outcome::Failed(_) => return (done, place),
                    Outcome::Refused(_) => last = done,
                    Outcome::Gone => {}
                }
            }
            next += 1;
            if next == namespaces.len() && !everywhere && target.namespace.is_none() {
                everywhere = true;
                namespaces.extend(all_namespaces());
            }
        }
        (last, likely)
    }

    /// The interface that the connection is bound to (link-local addresses, VRFs): the kernel does not find it by its
    /// ends alone. None where it is not in this namespace or not bound.
    fn interface(&mut self, target: &Target<'_>, namespace: u64) -> Option<u32> {
        let diag = &mut self.namespaces.get_mut(&namespace)?.diag;
        let entry = diag.find_bound(target.local, target.remote, target.cookie).ok()??;
        Some(entry.interface).filter(|interface| *interface != 0)
    }

    /// Makes sure that there is a `sock_diag` socket for the namespace.
    fn open(&mut self, namespace: u64, processes: &[(u32, u64)]) -> bool {
        if self.namespaces.contains_key(&namespace) {
            return true;
        }
        let hints = processes.iter().map(|(pid, _)| *pid);
        let Some(pid) =
            hints.chain(pids()).find(|pid| namespace_of(pid).is_ok_and(|inode| inode == namespace))
        else {
            return false;
        };
        let opened = File::open(format!("/proc/{pid}/ns/net")).and_then(|file| {
            // The process may have moved on between the look and the open.
            if file.metadata()?.ino() != namespace {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(Namespace { diag: Diag::open_in(&file)?, entrance: Some(Arc::new(file)) })
        });
        let Ok(opened) = opened else { return false };
        if self.namespaces.len() >= NAMESPACES_MAX {
            let own = self.own;
            self.namespaces.retain(|inode, _| *inode == own);
        }
        self.namespaces.insert(namespace, opened);
        true
    }

    /// One question, one answer. A shim that does not answer is replaced and asked once more.
    fn ask(&mut self, target: &Target<'_>, place: Place) -> Done {
        let failed = |reason: String| Done { outcome: Outcome::Failed(reason), act_ns: 0, total_ns: 0 };
        for _ in 0..2 {
            if self.link.is_none()
                && let Err(error) = self.replace()
            {
                return failed(format!("the shim does not start: {error}"));
            }
            self.next += 1;
            let kill = Kill {
                id: self.next,
                cookie: target.cookie,
                local: (target.local.address, target.local.port),
                remote: (target.remote.address, target.remote.port),
                interface: place.interface,
                processes: target.processes.into(),
                rule: target.rule.chars().take(message::RULE_MAX / 4).collect(),
                deadline_ns: message::now_ns() + PATIENCE.as_nanos() as u64,
            };
            let (Some(link), Some(known)) = (&self.link, self.namespaces.get(&place.namespace)) else {
                break;
            };
            match exchange(link, &known.diag, kill) {
                Ok(reply) => return Done { outcome: reply.outcome, act_ns: reply.act_ns, total_ns: 0 },
                Err(error) => {
                    tracing::error!(%error, "the shim does not answer: starting it again");
                    self.link = None;
                }
            }
        }
        failed("the shim does not answer".into())
    }

    /// Puts rules in force for what is held: begins to hold where one of them wants that, ends where none does any more.
    pub fn follow(&mut self, policies: &Arc<Policies>, ports: &HashMap<u16, &'static str>) {
        if !policies.needs_gate() || self.settings.off {
            if let Some(mut inline) = self.inline.take() {
                let forsaken = inline.forsaken();
                inline.suspend();
                self.withdraw(&forsaken);
                self.resting = Some(inline);
            }
            return;
        }
        if self.inline.is_none() {
            if let Some(resting) = &mut self.resting
                && !resting.is_over()
            {
                if resting.is_at_work() {
                    // Answers from before are on their way through it still: the next look begins.
                    return;
                }
                self.link = None;
            }
            if self.link.is_none() {
                self.restarts += 1;
                self.link = self.launch().inspect_err(|error| tracing::error!(%error, "no shim")).ok();
            }
            // What was enrolled before can only be held by what it was enrolled in.
            if let Some(resting) = &mut self.resting {
                self.lost.extend(resting.left_behind());
            }
            match self.resting.take().map_or_else(|| Inline::start(&self.settings, policies), Ok) {
                Ok(inline) => {
                    self.inline = Some(inline);
                    self.hand_over();
                }
                Err(error) => {
                    tracing::error!(%error, "rules that hold statements cannot: no statement is kept from its server");
                    return;
                }
            }
        }
        if let Some(inline) = &mut self.inline
            && inline.follow(policies, ports)
        {
            self.canary.forget();
        }
    }

    /// What a rule that only watches would do about a statement of this connection, as capture judges it.
    pub fn compare(&mut self, cookie: u64, text: &[u8], verdict: &Verdict) {
        if let Some(inline) = &self.inline {
            self.canary.passive(cookie, talk::digest(text), verdict, inline.has(cookie));
        }
    }

    /// Looks after what holds statements: reads its news, starts it again where it is gone. Gives cookies of servers'
    /// sockets whose statements were lost with it: their connections cannot go on.
    pub fn tend(&mut self) -> Vec<u64> {
        if let Some(resting) = &mut self.resting {
            self.lost.extend(resting.left_behind());
        }
        if let Some(inline) = &mut self.inline {
            let alive = inline.poll();
            inline.would().into_iter().for_each(|would| self.canary.inline(would));
            if !alive {
                tracing::error!("what holds statements does not answer: starting it again");
                if let Err(error) = self.replace() {
                    tracing::error!(%error, "the shim does not start");
                }
            }
        }
        std::mem::take(&mut self.lost)
    }

    /// Another shim in the place of one that is gone or hangs.
    fn replace(&mut self) -> io::Result<()> {
        let mut forsaken = Vec::new();
        if let Some(inline) = &mut self.inline {
            inline.pause();
            self.lost.extend(inline.stranded());
            forsaken = inline.forsaken();
        }
        self.withdraw(&forsaken);
        // Its sockets close with it, and with them what it held.
        self.link = None;
        self.restarts += 1;
        self.link = Some(self.launch()?);
        self.hand_over();
        Ok(())
    }

    /// Ends a connection that cannot go on.
    /// `namespace`: inode of its network namespace, where it is known.
    pub fn end(
        &mut self,
        cookie: u64,
        (local, remote): (Endpoint, Endpoint),
        namespace: Option<u64>,
        cause: &str,
    ) {
        self.kill(&Target { cookie, local, remote, namespace, processes: &[], cancel: None, rule: cause });
    }

    /// What was decided about a statement of this connection, by its text. `expected`: a rule wants it to have been held,
    /// so what the shim has said last is worth a look.
    pub fn decision(&mut self, cookie: u64, text: &[u8], expected: bool) -> Option<talk::Decision> {
        let inline = self.inline.as_mut()?;
        if expected {
            inline.poll();
        }
        inline.decision(cookie, text)
    }

    /// Nobody needs to decide about these any more.
    fn withdraw(&self, ids: &[u128]) {
        if let Some(approvals) = &self.approvals {
            for id in ids {
                approvals.withdraw(*id);
            }
        }
    }

    /// Gives the shim what it needs to hold statements.
    fn hand_over(&mut self) {
        if let (Some(inline), Some(link)) = (&mut self.inline, &self.link)
            && let Err(error) = inline.hand_over(link.socket.as_fd())
        {
            tracing::error!(%error, "the shim cannot hold statements");
        }
    }

    fn launch(&self) -> io::Result<Link> {
        let _ = std::fs::remove_file(&self.socket);
        // No environment: it may hold passwords, and the shim needs nothing from it.
        let mut command = Command::new(&self.program);
        command.arg("shim").arg("--socket").arg(&self.socket).env_clear().current_dir("/");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let begin = Instant::now();
        loop {
            match message::connect(&self.socket) {
                Ok(socket) => {
                    let _ = std::fs::remove_file(&self.socket);
                    let peer = message::peer(&socket)?;
                    if peer.pid() == child.id() as i32 {
                        return Ok(Link { child, socket });
                    }
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(io::Error::other("another process listens on the shim's socket"));
                }
                Err(error) if begin.elapsed() > START => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(error);
                }
                Err(_) => {}
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(mut inline) = self.inline.take() {
            inline.suspend();
        }
        self.link = None;
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // It would end by itself when the socket closes; a hanging one would not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exchange(link: &Link, diag: &Diag, kill: Kill) -> io::Result<Reply> {
    let id = kill.id;
    message::send(link.socket.as_fd(), &Request::Kill(kill), Some(diag.as_raw_fd()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !message::readable(link.socket.as_fd(), left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (reply, _) =
            message::receive::<Reply>(link.socket.as_fd())?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if reply.id == id {
            return Ok(reply);
        }
    }
}

/// Ends both directions of a socket that a process has: how a Unix socket is ended.
pub fn shut(pid: u32, cookie: u64) -> io::Result<()> {
    let socket = borrow::socket(pid, cookie)?;
    Ok(nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both)?)
}

/// True where a process waits in the kernel for what this socket brings. While something is held such a wait ends with
/// `EAGAIN`, which only those expect who asked not to wait.
pub fn waits_in_kernel(pid: u32, cookie: u64) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let socket = borrow::socket(pid, cookie)?;
    let flags = OFlag::from_bits_truncate(fcntl(&socket, FcntlArg::F_GETFL)?);
    Ok(!flags.contains(OFlag::O_NONBLOCK))
}

/// A descriptor of our own for a socket that a process has. To be closed at once: while it is open the connection is too.
pub fn borrow(pid: u32, cookie: u64) -> io::Result<OwnedFd> {
    borrow::socket(pid, cookie)
}

fn namespace_of(pid: impl std::fmt::Display) -> io::Result<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).map(|metadata| metadata.ino())
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn all_namespaces() -> HashSet<u64> {
    pids().filter_map(|pid| namespace_of(pid).ok()).collect()
}
