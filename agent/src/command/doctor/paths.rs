//! Ways to a database that are no TCP connection of its client -> findings: Unix sockets, poolers.

use std::path::Path;

use agent_core::protocol;

use super::blind::listeners;
use super::{Answer, Capability, Need};
use crate::identify::sockets::Sockets;
use crate::pipeline::pooler;

pub(super) const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "Unix sockets",
        need: Need::Optional,
        since: "6.3",
        cure: "run a kernel of at least 6.3, or let local clients connect by TCP (psql -h 127.0.0.1)",
        blind: "statements over these sockets: packets do not pass there",
        probe: unix_sockets,
    },
    Capability {
        name: "poolers",
        need: Need::Optional,
        since: "",
        cure: "run the agent in the host's pid namespace, with CAP_SYS_PTRACE",
        blind: "which clients are behind the sessions that these processes open",
        probe: poolers,
    },
];

/// Whether Unix sockets can be tapped, and which databases listen on one.
fn unix_sockets() -> Answer {
    let Some(found) = listeners() else { return Answer::unknown("/proc/net/unix cannot be read") };
    let (read, other): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, path)| protocol::of_socket(path).is_some());
    let list = |found: &[(&str, String)]| {
        found.iter().map(|(database, path)| format!("{database} at {path}")).collect::<Vec<_>>().join(", ")
    };
    let traced = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .iter()
        .any(|root| Path::new(root).join("events/sock/sock_send_length").exists());
    match (traced, read.is_empty(), other.is_empty()) {
        (_, true, true) => Answer::ok("no database listens on one in this network namespace"),
        (true, false, true) => Answer::ok(format!("can be tapped: {}", list(&read))),
        (true, _, false) => Answer::blind(format!("of databases that are not read yet: {}", list(&other))),
        (false, ..) => {
            let all = [read, other].concat();
            Answer::blind(format!("no tracepoint sock:sock_send_length; {}", list(&all)))
        }
    }
}

/// Programs that are known as poolers, and what they listen on.
fn poolers() -> Answer {
    let mut sockets = Sockets::snapshot();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut seen = Vec::new();
    let mut hidden = Vec::new();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        let name = name.trim();
        if !pooler::PROGRAMS.contains(&name) {
            continue;
        }
        if std::fs::read_dir(format!("/proc/{pid}/fd")).is_err() {
            hidden.push(format!("{name}({pid})"));
        } else if let Some(listening) = sockets.listening(pid) {
            let tcp = listening.tcp.iter().map(|end| format!("{}:{}", end.address, end.port));
            let ends: Vec<String> = tcp.chain(listening.unix.iter().map(ToString::to_string)).collect();
            seen.push(format!("{name}({pid}) at {}", ends.join(", ")));
        }
    }
    if !hidden.is_empty() {
        return Answer::blind(format!("their sockets cannot be looked at: {}", hidden.join(", ")));
    }
    if seen.is_empty() {
        return Answer::ok("none of those known by name runs here; others are told by what they do");
    }
    Answer::ok(seen.join("; "))
}
