//! The kernel's features -> findings.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_core::segment::Endpoint;
use aya::maps::MapType;
use aya::programs::ProgramType;

use super::{Answer, Capability, Need};
use crate::identify::cgroup;
use crate::identify::netlink::Diag;

const OLDEST: (u32, u32) = (5, 10);

pub(super) const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "kernel",
        need: Need::Required,
        since: "5.10",
        cure: "run a supported kernel: Debian 11, Ubuntu 22.04, RHEL 9 or later",
        blind: "everything: older kernels lack what the programs use",
        probe: release,
    },
    Capability {
        name: "BTF",
        need: Need::Required,
        since: "5.4",
        cure: "boot a kernel built with CONFIG_DEBUG_INFO_BTF (all current distributions), or mount /sys",
        blind: "parents and arguments of processes: where they lie in this kernel is not known",
        probe: || file("/sys/kernel/btf/vmlinux"),
    },
    Capability {
        name: "cgroup v2",
        need: Need::Required,
        since: "4.10",
        cure: "mount -t cgroup2 none /sys/fs/cgroup/unified; in a container mount the host's /sys/fs/cgroup",
        blind: "everything: packets are taken at its root",
        probe: cgroup2,
    },
    Capability {
        name: "cgroup_skb programs",
        need: Need::Required,
        since: "4.10",
        cure: "give CAP_BPF and CAP_NET_ADMIN, and a seccomp profile that lets bpf(2) through; a kernel with \
               CONFIG_CGROUP_BPF",
        blind: "everything: packets are taken by these programs",
        probe: || program(ProgramType::CgroupSkb),
    },
    Capability {
        name: "sock_ops programs",
        need: Need::Required,
        since: "4.13",
        cure: "give CAP_BPF and CAP_NET_ADMIN, and a seccomp profile that lets bpf(2) through; a kernel with \
               CONFIG_CGROUP_BPF",
        blind: "where connections begin and end",
        probe: || program(ProgramType::SockOps),
    },
    Capability {
        name: "raw tracepoints",
        need: Need::Required,
        since: "4.17",
        cure: "give CAP_BPF and CAP_PERFMON, and a seccomp profile that lets bpf(2) through; a kernel with \
               CONFIG_BPF_EVENTS",
        blind: "processes that start and end",
        probe: || program(ProgramType::RawTracePoint),
    },
    Capability {
        name: "ring buffer",
        need: Need::Required,
        since: "5.8",
        cure: "give CAP_BPF, and a seccomp profile that lets bpf(2) through; run a kernel of at least 5.8",
        blind: "everything: what is captured comes through it",
        probe: ring_buffer,
    },
    Capability {
        name: "tracefs",
        need: Need::Required,
        since: "4.1",
        cure: "mount -t tracefs none /sys/kernel/tracing (`weir run` does where it may); in a container mount the host's",
        blind: "programs that processes execute: their tracepoints are found there",
        probe: tracefs,
    },
    Capability {
        name: "BPF JIT",
        need: Need::Optional,
        since: "3.0",
        cure: "sysctl net.core.bpf_jit_enable=1",
        blind: "nothing, but every packet costs several times as much",
        probe: jit,
    },
    Capability {
        name: "lockdown",
        need: Need::Optional,
        since: "5.4",
        cure: "boot with lockdown=integrity or none; the packet path works as it is",
        blind: "confidentiality forbids programs to read kernel memory: parents and arguments of processes",
        probe: lockdown,
    },
    Capability {
        name: "login uid",
        need: Need::Optional,
        since: "2.6",
        cure: "boot a kernel with CONFIG_AUDIT",
        blind: "who logged in before sudo or su",
        probe: || file("/proc/self/loginuid"),
    },
    Capability {
        name: "sock_diag",
        need: Need::Optional,
        since: "4.2",
        cure: "modprobe inet_diag tcp_diag; a kernel with CONFIG_INET_DIAG",
        blind: "processes of connections that were open before the agent started",
        probe: sock_diag,
    },
    Capability {
        name: "SOCK_DESTROY",
        need: Need::Optional,
        since: "4.5",
        cure: "give CAP_NET_ADMIN; a kernel with CONFIG_INET_DIAG_DESTROY",
        blind: "nothing, but a policy's `kill` cannot end a connection",
        probe: sock_destroy,
    },
    Capability {
        name: "FIONREAD",
        need: Need::Optional,
        since: "",
        cure: "run a kernel without that fault",
        blind: "nothing, but programs that ask how much there is to read may stand still in the gate",
        probe: super::fionread::probe,
    },
];

fn running() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Whether the running kernel is older than `since`; false where either is not known.
pub(super) fn older_than(since: &str) -> bool {
    version(since).zip(version(&running())).is_some_and(|(since, running)| running < since)
}

fn release() -> Answer {
    let release = running();
    match version(&release) {
        Some(version) if version >= OLDEST => Answer::ok(release),
        Some(_) => Answer::missing(format!("{release} is older than {}.{}", OLDEST.0, OLDEST.1)),
        None => Answer::unknown(format!("cannot tell the version from {release:?}")),
    }
}

/// `6.18.44-fc-v595` -> (6, 18)
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn file(path: &'static str) -> Answer {
    if Path::new(path).exists() { Answer::ok(path) } else { Answer::missing(format!("{path} is not there")) }
}

fn cgroup2() -> Answer {
    /// Inode of the hierarchy's root; a part of it that a container sees as the root has another.
    const ROOT: u64 = 1;
    let Some(path) = cgroup::mount() else { return Answer::missing("not mounted") };
    match std::fs::metadata(&path).map(|metadata| metadata.ino()) {
        Ok(ROOT) => Answer::ok(path.display().to_string()),
        Ok(_) => {
            Answer::missing(format!("{} is only this container's part (use --cgroupns=host)", path.display()))
        }
        Err(error) => Answer::missing(format!("{}: {error}", path.display())),
    }
}

fn program(kind: ProgramType) -> Answer {
    match aya::sys::is_program_supported(kind) {
        Ok(true) => Answer::ok("loads"),
        Ok(false) => Answer::missing("this kernel does not know them"),
        Err(error) => Answer::missing(source(&error)),
    }
}

fn ring_buffer() -> Answer {
    match aya::sys::is_map_supported(MapType::RingBuf) {
        Ok(true) => Answer::ok("can be made"),
        Ok(false) => Answer::missing("this kernel does not know it"),
        Err(error) => Answer::missing(source(&error)),
    }
}

/// The innermost reason, which names the system's error.
fn source(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
    }
    innermost.to_string()
}

fn tracefs() -> Answer {
    let mut causes = Vec::new();
    for place in crate::capture::live::TRACEFS {
        match std::fs::metadata(Path::new(place).join("events")) {
            Ok(_) => return Answer::ok(place),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                causes.push(format!("not mounted at {place}"));
            }
            Err(error) => causes.push(format!("{place}: {error}")),
        }
    }
    Answer::missing(causes.join(", "))
}

fn jit() -> Answer {
    match std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").map(|text| text.trim().to_owned()) {
        Ok(value) if value == "0" => Answer::missing("net.core.bpf_jit_enable is 0"),
        Ok(_) => Answer::ok("on"),
        // Built with CONFIG_BPF_JIT_ALWAYS_ON, or not visible from this network namespace.
        Err(error) => Answer::unknown(format!("net.core.bpf_jit_enable: {error}")),
    }
}

fn lockdown() -> Answer {
    let Ok(modes) = std::fs::read_to_string("/sys/kernel/security/lockdown") else {
        return Answer::ok("securityfs does not show it: nothing is forbidden by it that was tried above");
    };
    match modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
        Some(("confidentiality", _)) => Answer::missing("confidentiality is in force"),
        Some((mode, _)) => Answer::ok(mode),
        None => Answer::unknown(modes.trim().to_owned()),
    }
}

fn sock_diag() -> Answer {
    match loopback().and_then(|(_listener, pair)| pair.cookie().map(|_| ())) {
        Ok(()) => Answer::ok("answers"),
        Err(error) => Answer::missing(error.to_string()),
    }
}

fn sock_destroy() -> Answer {
    let destroyed = loopback().and_then(|(_listener, pair)| {
        let cookie = pair.cookie()?;
        Diag::open()?.destroy(pair.near, pair.far, 0, cookie)
    });
    match destroyed {
        Ok(()) => Answer::ok("ended a connection of its own"),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Answer::missing("the kernel was built without CONFIG_INET_DIAG_DESTROY")
        }
        Err(error) => Answer::missing(error.to_string()),
    }
}

/// A connection of our own to try things on.
struct Pair {
    near: Endpoint,
    far: Endpoint,
    _client: TcpStream,
}

impl Pair {
    fn cookie(&self) -> std::io::Result<u64> {
        let entry = Diag::open()?.find(self.near, self.far)?;
        entry
            .map(|entry| entry.cookie)
            .ok_or_else(|| std::io::Error::other("it does not know an open connection"))
    }
}

fn loopback() -> std::io::Result<(TcpListener, Pair)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let end = |address: std::net::SocketAddr| Endpoint { address: address.ip(), port: address.port() };
    let (near, far) = (end(client.local_addr()?), end(client.peer_addr()?));
    Ok((listener, Pair { near, far, _client: client }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.10.0-30-amd64"), Some((5, 10)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version("linux"), None);
        assert!((5, 9) < OLDEST && (6, 1) > OLDEST && (5, 10) >= OLDEST);
    }
}
