//! A connection -> who is at its client end, by the cheapest evidence that names a process.

use std::sync::Arc;

use agent_core::identity::{Identity, Wire, Workload, decide};
use agent_core::segment::Endpoint;

use super::proc;
use super::process::ProcessTable;
use super::sockets::{SocketOwner, Sockets};

/// A socket that capture taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// Its cookie.
    pub cookie: u64,
    /// Its own end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

/// The processes and sockets of this host. Belongs to one thread.
#[derive(Default)]
pub struct Resolver {
    /// Every process: feed it the kernel's lifecycle records.
    pub processes: ProcessTable,
    sockets: Option<Sockets>,
}

impl Resolver {
    /// Reads the processes and the open connections of this host.
    pub fn new() -> Self {
        Self { processes: ProcessTable::new(), sockets: Some(Sockets::snapshot()) }
    }

    /// Who holds the tapped socket, where its connect record or an earlier look said so. Never reads more than one
    /// process's `/proc`.
    pub fn resolve_now(&mut self, cookie: u64) -> Option<Arc<Workload>> {
        self.processes.of_connection(cookie)
    }

    /// Who holds the tapped socket, by `/proc/*/fd`: for connections that were adopted, and for those whose process
    /// is unknown. May take milliseconds (it reads the host's descriptors, at most once a second), so call it once
    /// for each connection. The answer is remembered for [`Resolver::resolve_now`].
    pub fn resolve_slow(&mut self, socket: &Tapped) -> Option<Arc<Workload>> {
        if let Some(known) = self.processes.of_connection(socket.cookie) {
            return Some(known);
        }
        let owner = self.sockets().of_cookie(socket.cookie)?;
        self.attribute(&owner)
    }

    /// Who holds the other end of the tapped socket, where that is on this host too.
    pub fn resolve_peer(&mut self, socket: &Tapped) -> Option<Arc<Workload>> {
        let owner = self.sockets().of_ends(socket.remote, socket.local)?;
        self.processes.of_connection(owner.entry.cookie).or_else(|| self.attribute(&owner))
    }

    /// The titles of the processes at one end of the connection: the tapped one, or the other where `far`. Servers say
    /// there whom they serve; one that forks for each connection may hold it with its child. May take milliseconds, as
    /// [`Resolver::resolve_slow`].
    pub fn titles(&mut self, socket: &Tapped, far: bool) -> Vec<String> {
        let sockets = self.sockets.get_or_insert_with(Sockets::snapshot);
        let owner =
            if far { sockets.of_ends(socket.remote, socket.local) } else { sockets.of_cookie(socket.cookie) };
        owner.iter().flat_map(|owner| &owner.pids).filter_map(|pid| proc::title(*pid)).collect()
    }

    /// The title of a process.
    pub fn title(&self, pid: u32) -> Option<String> {
        proc::title(pid)
    }

    /// The inode of the network namespace that holds the socket: a kill must happen in it.
    pub fn namespace(&mut self, socket: &Tapped) -> Option<u64> {
        self.sockets().entry(socket.cookie, socket.local, socket.remote).map(|(_, namespace)| namespace)
    }

    /// The tables of the kernel's sockets.
    pub fn sockets(&mut self) -> &mut Sockets {
        self.sockets.get_or_insert_with(Sockets::snapshot)
    }

    /// What the evidence amounts to. Make it once for each connection, and again when the wire says something new.
    pub fn identity(workload: Option<&Workload>, wire: Wire<'_>) -> Identity {
        decide(workload, wire)
    }

    /// Several processes hold the socket where it was inherited or passed on: a forking server's parent, a shell
    /// and what it started. The youngest is at work, but that is a guess, and marked as one.
    fn attribute(&mut self, owner: &SocketOwner) -> Option<Arc<Workload>> {
        let mut holders: Vec<_> = owner.pids.iter().filter_map(|pid| self.processes.workload(*pid)).collect();
        holders.sort_by_key(|workload| (workload.process.start_ns, workload.process.pid));
        let shared = holders.len() > 1 && !self.is_fork_server(&holders);
        let mut workload = holders.pop()?;
        if shared {
            workload = Arc::new(Workload { shared, ..(*workload).clone() });
        }
        self.processes.attribute(owner.entry.cookie, workload.clone());
        Some(workload)
    }

    /// Two holders, parent and child, of one program: a server that has not yet closed its copy.
    fn is_fork_server(&mut self, holders: &[Arc<Workload>]) -> bool {
        let [parent, child] = holders else { return false };
        parent.process.executable == child.process.executable
            && self.processes.parents(child.process.pid).first() == Some(&parent.process.pid)
    }
}
