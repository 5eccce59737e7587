//! Rights, mounts and libraries -> findings.

use caps::{CapSet, Capability as Right};

use super::{Answer, Capability, Need};
use crate::capture::live::Live;

/// Smallest ring that can be made: enough to see whether the programs attach.
const RING: u32 = 64 * 1024;

pub(super) const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "CAP_BPF",
        need: Need::Required,
        since: "5.8",
        cure: "run as root, or give the capability (securityContext.capabilities.add: [BPF])",
        blind: "everything: no program can be loaded",
        probe: || right(Right::CAP_BPF),
    },
    Capability {
        name: "CAP_PERFMON",
        need: Need::Required,
        since: "5.8",
        cure: "run as root, or give the capability",
        blind: "processes: their tracepoints cannot be attached to",
        probe: || right(Right::CAP_PERFMON),
    },
    Capability {
        name: "CAP_NET_ADMIN",
        need: Need::Required,
        since: "",
        cure: "run as root, or give the capability",
        blind: "everything: packet programs cannot be attached, and no connection can be ended",
        probe: || right(Right::CAP_NET_ADMIN),
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        need: Need::Optional,
        since: "",
        cure: "run as root, or give the capability",
        blind: "executable, environment and sockets of processes of other users",
        probe: || right(Right::CAP_SYS_PTRACE),
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        need: Need::Optional,
        since: "",
        cure: "run as root, or give the capability",
        blind: "environment and sockets of processes of other users",
        probe: || right(Right::CAP_DAC_READ_SEARCH),
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        need: Need::Optional,
        since: "",
        cure: "run as root, or give the capability",
        blind: "connections in other network namespaces that were open before the agent started, and their end by `kill`",
        probe: || right(Right::CAP_SYS_ADMIN),
    },
    Capability {
        name: "host processes",
        need: Need::Optional,
        since: "",
        cure: "run in the host's pid namespace (hostPID: true, --pid=host), and /proc without hidepid",
        blind: "which process is at the client end",
        probe: host_processes,
    },
    Capability {
        name: "capture programs",
        need: Need::Required,
        since: "5.10",
        cure: "see the lines above that are missing; else report the verifier's words as a bug of weir",
        blind: "everything",
        probe: capture,
    },
    Capability {
        name: "embedded engine",
        need: Need::Optional,
        since: "",
        cure: "cargo xtask demo fetches libchdb.so; or name it with WEIR_LIBCHDB; or give `store.url` of a ClickHouse",
        blind: "nothing, but without a ClickHouse elsewhere nothing is stored",
        probe: engine,
    },
];

fn right(right: Right) -> Answer {
    let has = |right| caps::has_cap(None, CapSet::Effective, right).unwrap_or(false);
    // Who may write everything may read everything.
    let stands_in = right == Right::CAP_DAC_READ_SEARCH && has(Right::CAP_DAC_OVERRIDE);
    // Before 5.8 CAP_SYS_ADMIN stood for CAP_BPF and CAP_PERFMON, and it still does.
    let stands_for = matches!(right, Right::CAP_BPF | Right::CAP_PERFMON);
    if has(right) {
        Answer::ok("effective")
    } else if stands_in {
        Answer::ok("by CAP_DAC_OVERRIDE")
    } else if stands_for && has(Right::CAP_SYS_ADMIN) {
        Answer::ok("by CAP_SYS_ADMIN")
    } else {
        Answer::missing("this process does not have it")
    }
}

fn host_processes() -> Answer {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let nested =
        status.lines().find_map(|line| line.strip_prefix("NSpid:")).map(|p| p.split_whitespace().count());
    // Seen from the first namespace a process has one pid; a kernel thread is only there.
    let kthreadd = std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd");
    let init = std::fs::metadata("/proc/1/status").is_ok();
    match (nested, kthreadd, init) {
        (Some(1), true, true) => Answer::ok("all of the host's"),
        (_, _, false) => Answer::missing("/proc hides other users' processes (hidepid)"),
        _ => Answer::missing("this is a pid namespace of its own"),
    }
}

fn capture() -> Answer {
    match Live::attach(RING, &[]) {
        Ok(_detached_at_once) => Answer::ok("loaded, verified and attached"),
        Err(error) => {
            let mut innermost: &dyn std::error::Error = &error;
            while let Some(deeper) = innermost.source() {
                innermost = deeper;
            }
            Answer::missing(format!("{error}: {innermost}").lines().next().unwrap_or_default().to_owned())
        }
    }
}

fn engine() -> Answer {
    match crate::store::engine::find_library(None) {
        Ok(path) => Answer::ok(path.display().to_string()),
        Err(error) => Answer::missing(error.to_string()),
    }
}
