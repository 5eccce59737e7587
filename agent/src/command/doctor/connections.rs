//! Connections to databases, by both their ends -> one finding for each whose TLS nobody here can read.

use std::collections::{BTreeMap, HashMap};

use agent_core::protocol::{Entry, PROTOCOLS, of_port, titled};
use agent_core::segment::Endpoint;

use super::blind::survey;
use super::{Finding, Need, Status};
use crate::capture::tls::find::Inode;
use crate::capture::tls::{self, Known};
use crate::identify::{Resolver, Tapped};

const NAME: &str = "TLS connection";
const BLIND: &str = "its statements, where it is encrypted";

/// Why the TLS of a process cannot be read, as events name it; in words; and what helps.
const CAUSES: [(&str, &str, &str); 7] = [
    (
        "tls_jsse",
        "Java's own TLS, which has no calls to look at",
        "run weir where the server is, if that is on OpenSSL; or sslmode=disable where it never leaves this host",
    ),
    (
        "tls_not_probed",
        "its TLS library cannot be read",
        "use a build of the library that keeps its symbols; or run weir where the other end is",
    ),
    (
        "tls_go_old",
        "built by a Go before 1.17",
        "build it with Go 1.17 or later; or run weir where the other end is",
    ),
    ("tls_go_architecture", "Go's own TLS, which is read on x86-64 only", "run weir where the other end is"),
    (
        "tls_rustls",
        "rustls, which cannot be read",
        "run weir where the server is, if that is on OpenSSL; or sslmode=disable where it never leaves this host",
    ),
    (
        "tls_no_library",
        "no TLS library that is known: built in and stripped, or one that is not read",
        "use a build that keeps its symbols, or one on OpenSSL; or run weir where the other end is",
    ),
    (
        "tls",
        "what it runs cannot be looked at",
        "run as root in the host's pid namespace, with CAP_SYS_PTRACE",
    ),
];

/// The processes at the two ends of a connection, the client's first, as far as they are on this host.
type Holders = [Vec<u32>; 2];

/// A connection to a database.
pub(super) struct Seen {
    /// What is spoken there.
    pub system: &'static str,
    /// Who holds it.
    pub pids: Holders,
    /// Its sockets, the client's first, as far as they are on this host.
    pub cookies: [Option<u64>; 2],
}

/// What is found of every connection to a database. `ports`: what server ports speak, beside the usual ones.
pub(super) fn examine(ports: &HashMap<u16, &'static str>) -> Vec<Finding> {
    let known = survey();
    let blind: Vec<Finding> =
        databases(ports).into_iter().filter_map(|(ends, seen)| finding(ends, &seen.pids, &known)).collect();
    if !blind.is_empty() {
        return blind;
    }
    let detail = "each to a database has an end whose library can be read".to_owned();
    let (cure, blind) = ("", "");
    vec![Finding {
        name: "TLS connections",
        status: Status::Ok,
        need: Need::Optional,
        since: "",
        detail,
        cure,
        blind,
        lane: None,
    }]
}

/// Connections to databases: the client's end and the server's, and who holds them.
pub(super) fn databases(ports: &HashMap<u16, &'static str>) -> BTreeMap<(Endpoint, Endpoint), Seen> {
    let mut resolver = Resolver::new();
    let serves = |port| ports.get(&port).copied().or_else(|| of_port(port));
    let entries: Vec<_> =
        resolver.sockets().connections().map(|entry| (entry.cookie, entry.local, entry.remote)).collect();
    let mut found = BTreeMap::<_, Seen>::new();
    for (cookie, local, remote) in entries {
        let tapped = Tapped { cookie, local, remote };
        let mut names = |port, peer| {
            let titles = resolver.titles(&tapped, peer);
            let named = |entry: &&Entry| titles.iter().any(|title| titled(entry.name, title, port).is_some());
            PROTOCOLS.iter().find(named).map(|entry| entry.name)
        };
        let (ends, own, system) = if let Some(system) = serves(remote.port) {
            ((local, remote), 0, system)
        } else if let Some(system) = serves(local.port).or_else(|| names(remote.port, false)) {
            ((remote, local), 1, system)
        } else if let Some(system) = names(local.port, true) {
            ((local, remote), 0, system)
        } else {
            continue;
        };
        let pids = resolver.sockets().of_cookie(cookie).map(|owner| owner.pids).unwrap_or_default();
        let none = || Seen { system, pids: Holders::default(), cookies: [None; 2] };
        let seen = found.entry(ends).or_insert_with(none);
        seen.pids[own].extend(pids);
        seen.cookies[own] = Some(cookie);
    }
    found
}

/// A connection of which no end can be read.
fn finding(
    (client, server): (Endpoint, Endpoint),
    holders: &Holders,
    known: &HashMap<Inode, Known>,
) -> Option<Finding> {
    let causes = holders.iter().flatten().map(|pid| (*pid, tls::cause(*pid, known)));
    let causes: Vec<(u32, &str)> = causes.collect();
    // One end that is read speaks for both.
    let of = |cause: &str| CAUSES.iter().find(|(name, ..)| *name == cause);
    if causes.iter().any(|(_, cause)| of(cause).is_none()) {
        return None;
    }
    let (pid, cause) = causes.first()?;
    let (_, why, cure) = of(cause)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let detail = format!("{}({pid}) {} to {}: {why}", name.trim(), shown(client), shown(server));
    Some(Finding {
        name: NAME,
        status: Status::Blind,
        need: Need::Optional,
        since: "",
        detail,
        cure,
        blind: BLIND,
        lane: None,
    })
}

pub(super) fn shown(end: Endpoint) -> String {
    std::net::SocketAddr::new(end.address, end.port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_nobody_can_read_has_a_cause_and_a_cure() {
        let end = |port| Endpoint { address: std::net::Ipv4Addr::LOCALHOST.into(), port };
        // This process has no TLS library, and the other end is elsewhere.
        let own = std::process::id();
        let found = finding((end(40_000), end(5432)), &[vec![own], vec![]], &HashMap::new()).unwrap();
        assert!(
            found.detail.contains(&format!("({own}) 127.0.0.1:40000 to 127.0.0.1:5432: no TLS")),
            "{}",
            found.detail
        );
        assert!(found.status == Status::Blind && !found.cure.is_empty() && !found.blind.is_empty());
        assert!(finding((end(1), end(2)), &[vec![], vec![]], &HashMap::new()).is_none(), "nobody's");
    }
}
