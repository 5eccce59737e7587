//! The kernel's sockets and `/proc/*/fd` -> who holds a connection. For connections older than the agent, and for
//! descriptors that were inherited or passed.

use std::collections::hash_map;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::segment::Endpoint;

use super::netlink::{Diag, Entry, Which};

/// `/proc/*/fd` is read at most this often: it costs about 1 us for each open file of the host.
const REFRESH: Duration = Duration::from_secs(1);
/// Most network namespaces that are kept open.
const NAMESPACES_MAX: usize = 4096;

/// Who holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// The processes that hold it, none where it has been closed. A server that forks for each connection may
    /// share it with its child for a moment.
    pub pids: Vec<u32>,
    /// The socket.
    pub entry: Entry,
    /// Inode of its network namespace.
    pub namespace: u64,
}

/// What a process listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Addresses and ports; an unspecified address stands for all.
    pub tcp: Vec<Endpoint>,
    /// Paths, and abstract names behind an `@`.
    pub unix: Vec<Arc<str>>,
    /// Inode of its network namespace.
    pub namespace: u64,
}

/// Every TCP connection of every network namespace that has a process in it.
pub struct Sockets {
    namespaces: HashMap<u64, Diag>,
    by_cookie: HashMap<u64, (Entry, u64)>,
    by_ends: HashMap<(Endpoint, Endpoint), Vec<u64>>,
    holders: HashMap<u32, Vec<u32>>,
    refreshed: Option<Instant>,
    /// Namespaces that could not be entered, with the reason of the last one.
    blind: Option<(usize, String)>,
}

impl Sockets {
    /// Reads everything once.
    pub fn snapshot() -> Self {
        let mut sockets = Self {
            namespaces: HashMap::new(),
            by_cookie: HashMap::new(),
            by_ends: HashMap::new(),
            holders: HashMap::new(),
            refreshed: None,
            blind: None,
        };
        sockets.refresh();
        sockets
    }

    /// Every connection that was open when the table was read last.
    pub fn connections(&self) -> impl Iterator<Item = &Entry> {
        self.by_cookie.values().map(|(entry, _)| entry)
    }

    /// Reads everything again.
    pub fn look_again(&mut self) {
        self.refresh();
    }

    /// How many network namespaces could not be looked into, and why.
    pub fn blind(&self) -> Option<(usize, &str)> {
        self.blind.as_ref().map(|(count, reason)| (*count, reason.as_str()))
    }

    /// The holder of the socket with this cookie. Where it is not known the tables are read again, at most once a
    /// second.
    pub fn of_cookie(&mut self, cookie: u64) -> Option<SocketOwner> {
        self.with_refresh(|sockets| sockets.lookup(cookie))
    }

    /// The holder of the socket whose own end is `local`. Addresses may repeat in different network namespaces:
    /// then there is no answer.
    pub fn of_ends(&mut self, local: Endpoint, remote: Endpoint) -> Option<SocketOwner> {
        self.with_refresh(|sockets| match sockets.by_ends.get(&(local, remote))?.as_slice() {
            [cookie] => sockets.lookup(*cookie),
            _ => None,
        })
    }

    /// The socket as it is now, without `/proc/*/fd`: tens of microseconds for each namespace.
    pub fn entry(&mut self, cookie: u64, local: Endpoint, remote: Endpoint) -> Option<(Entry, u64)> {
        if let Some(known) = self.by_cookie.get(&cookie) {
            return Some(*known);
        }
        let own = std::fs::metadata("/proc/self/ns/net").map(|m| m.ino()).ok();
        let mut namespaces: Vec<_> = self.namespaces.iter_mut().collect();
        namespaces.sort_by_key(|(namespace, _)| Some(**namespace) != own);
        let (namespace, entry) = namespaces.into_iter().find_map(|(namespace, diag)| {
            let entry = diag.find(local, remote).ok().flatten()?;
            (entry.cookie == cookie).then_some((*namespace, entry))
        })?;
        self.insert(entry, namespace);
        Some((entry, namespace))
    }

    /// The names of all listening Unix sockets, in every network namespace that has a process in it: about 1 us for
    /// each process of the host.
    pub fn unix_listeners(&mut self, mut each: impl FnMut(&[u8])) {
        self.open_namespaces(&pids().collect::<Vec<_>>());
        self.namespaces.retain(|_, diag| diag.dump_unix_listeners(|_, name| each(name)).is_ok());
    }

    /// The cookies of all connected Unix sockets, in the namespaces that were found last. None where one of them did not
    /// answer: what is missing then may well be alive.
    pub fn unix_connected(&mut self) -> Option<HashSet<u64>> {
        let mut cookies = HashSet::new();
        let before = self.namespaces.len();
        self.namespaces.retain(|_, diag| {
            diag.dump_unix(|cookie| {
                cookies.insert(cookie);
            })
            .is_ok()
        });
        (self.namespaces.len() == before).then_some(cookies)
    }

    /// What a process listens on: looks at its descriptors and at the listeners of its network namespace, tens of
    /// microseconds. Nothing where it cannot: then it is taken for no server.
    pub fn listening(&mut self, pid: u32) -> Option<Listening> {
        let inodes = socket_inodes(pid);
        // A plain client holds the one socket that it was found by.
        if inodes.len() < 2 {
            return None;
        }
        let namespace = self.enter(pid)?;
        let diag = self.namespaces.get_mut(&namespace)?;
        let mut found = Listening { namespace, ..Listening::default() };
        diag.dump(Which::Listeners, |entry| {
            if inodes.contains(&entry.inode) {
                found.tcp.push(entry.local);
            }
        })
        .ok()?;
        diag.dump_unix_listeners(|inode, name| {
            if inodes.contains(&inode) {
                found.unix.push(unix_name(name));
            }
        })
        .ok()?;
        (!found.tcp.is_empty() || !found.unix.is_empty()).then_some(found)
    }

    /// Whether the network namespace holds a connection with these ends, as its own end sees them.
    pub fn holds(&mut self, namespace: u64, local: Endpoint, remote: Endpoint) -> bool {
        let diag = self.namespaces.get_mut(&namespace);
        diag.is_some_and(|diag| matches!(diag.find(local, remote), Ok(Some(_))))
    }

    /// The inode of the process's network namespace, which can be asked from then on.
    fn enter(&mut self, pid: u32) -> Option<u64> {
        let path = format!("/proc/{pid}/ns/net");
        let inode = std::fs::metadata(&path).ok()?.ino();
        if let hash_map::Entry::Vacant(place) = self.namespaces.entry(inode) {
            let own = std::fs::metadata("/proc/self/ns/net").is_ok_and(|own| own.ino() == inode);
            let diag = if own { Diag::open() } else { File::open(&path).and_then(|f| Diag::open_in(&f)) };
            place.insert(diag.ok()?);
        }
        Some(inode)
    }

    fn with_refresh(&mut self, find: impl Fn(&Self) -> Option<SocketOwner>) -> Option<SocketOwner> {
        let found = find(self);
        if found.as_ref().is_some_and(|owner| !owner.pids.is_empty())
            || self.refreshed.is_some_and(|at| at.elapsed() < REFRESH)
        {
            return found;
        }
        self.refresh();
        find(self).or(found)
    }

    fn lookup(&self, cookie: u64) -> Option<SocketOwner> {
        let (entry, namespace) = self.by_cookie.get(&cookie)?;
        let pids = self.holders.get(&entry.inode).cloned().unwrap_or_default();
        Some(SocketOwner { pids, entry: *entry, namespace: *namespace })
    }

    fn insert(&mut self, entry: Entry, namespace: u64) {
        self.by_cookie.insert(entry.cookie, (entry, namespace));
        let same = self.by_ends.entry((entry.local, entry.remote)).or_default();
        if !same.contains(&entry.cookie) {
            same.push(entry.cookie);
        }
    }

    fn refresh(&mut self) {
        self.by_cookie.clear();
        self.by_ends.clear();
        self.blind = None;
        let processes: Vec<u32> = pids().collect();
        self.open_namespaces(&processes);
        let mut entries = Vec::new();
        self.namespaces.retain(|namespace, diag| {
            diag.dump(Which::Connections, |entry| entries.push((entry, *namespace))).is_ok()
        });
        for (entry, namespace) in entries {
            self.insert(entry, namespace);
        }
        // Sockets first, holders second: a socket that is passed on in between is found with its new holder.
        self.holders = holders(&processes, &self.by_cookie.values().map(|(e, _)| e.inode).collect());
        self.refreshed = Some(Instant::now());
    }

    /// One `sock_diag` socket for each namespace that some process is in; those that are gone are let go, since an
    /// open socket keeps its namespace alive.
    fn open_namespaces(&mut self, processes: &[u32]) {
        let mut present = HashSet::new();
        for pid in processes {
            let path = format!("/proc/{pid}/ns/net");
            let Ok(inode) = std::fs::metadata(&path).map(|m| m.ino()) else { continue };
            if !present.insert(inode) || self.namespaces.contains_key(&inode) {
                continue;
            }
            if present.len() > NAMESPACES_MAX {
                break;
            }
            match File::open(&path).and_then(|file| Diag::open_in(&file)) {
                Ok(diag) => drop(self.namespaces.insert(inode, diag)),
                Err(error) => {
                    let count = self.blind.as_ref().map_or(0, |(count, _)| *count);
                    self.blind = Some((count + 1, error.to_string()));
                }
            }
        }
        self.namespaces.retain(|inode, _| present.contains(inode));
        // Without CAP_SYS_ADMIN no namespace can be entered, not even one's own; that one needs no entering.
        if let Ok(own) = std::fs::metadata("/proc/self/ns/net").map(|m| m.ino())
            && !self.namespaces.contains_key(&own)
            && let Ok(diag) = Diag::open()
        {
            self.namespaces.insert(own, diag);
        }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Socket inode -> the processes that hold it, for the inodes that are wanted.
fn holders(processes: &[u32], wanted: &HashSet<u32>) -> HashMap<u32, Vec<u32>> {
    let mut holders: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes {
        for inode in socket_inodes(*pid).into_iter().filter(|inode| wanted.contains(inode)) {
            let pids = holders.entry(inode).or_default();
            if !pids.contains(pid) {
                pids.push(*pid);
            }
        }
    }
    holders
}

/// The inodes of the sockets that a process holds; none where it is gone.
fn socket_inodes(pid: u32) -> HashSet<u32> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    targets
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// The name of a Unix socket, for people: a path as it is, an abstract name as `ss` shows it, behind an `@`.
pub fn unix_name(name: &[u8]) -> Arc<str> {
    if let Some((0, name)) = name.split_first() {
        return format!("@{}", String::from_utf8_lossy(name)).into();
    }
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn endpoint(address: SocketAddr) -> Endpoint {
        Endpoint { address: address.ip().to_canonical(), port: address.port() }
    }

    #[test]
    fn both_ends_are_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (near, far) = (endpoint(client.local_addr().unwrap()), endpoint(client.peer_addr().unwrap()));
        let mut sockets = Sockets::snapshot();
        let owner = sockets.of_ends(near, far).unwrap();
        assert_eq!(owner.pids, [std::process::id()]);
        assert_eq!(owner.namespace, std::fs::metadata("/proc/self/ns/net").unwrap().ino());
        let other = sockets.of_ends(far, near).unwrap();
        assert_ne!(owner.entry.cookie, other.entry.cookie);
        assert_eq!(sockets.of_cookie(other.entry.cookie), Some(other.clone()));
        assert_eq!(sockets.entry(other.entry.cookie, far, near), Some((other.entry, other.namespace)));
        assert!(sockets.connections().any(|entry| entry.cookie == owner.entry.cookie));
        let listening = sockets.listening(std::process::id()).unwrap();
        assert!(listening.tcp.contains(&far) && listening.namespace == owner.namespace);
        assert!(sockets.holds(owner.namespace, far, near) && !sockets.holds(owner.namespace, far, far));
        drop((client, server));
    }

    #[test]
    fn names_of_both_kinds() {
        assert_eq!(&*unix_name(b"/run/postgresql/.s.PGSQL.5432\0\0"), "/run/postgresql/.s.PGSQL.5432");
        assert_eq!(&*unix_name(b"\0abstract"), "@abstract");
        assert_eq!(&*unix_name(b""), "");
    }
}
