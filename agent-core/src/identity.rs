//! Claims with source and confidence -> who. The agent gathers them; this module decides what they amount to.

use std::sync::Arc;

/// A process on this host, kept after it exits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Process id (thread group) in the host's pid namespace.
    pub pid: u32,
    /// Start time, nanoseconds since boot; with the pid it names the process for good.
    pub start_ns: u64,
    /// Path of the executable as the process sees it.
    pub executable: Arc<str>,
    /// Command line, redacted, arguments joined by spaces.
    pub command_line: Arc<str>,
    /// User name of its real uid, or the number.
    pub owner: Arc<str>,
    /// Login uid, where one was set.
    pub auid: Option<u32>,
    /// `name(pid)` of its parents, nearest first.
    pub ancestry: Arc<[Arc<str>]>,
}

/// The container a process runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Full id.
    pub id: Arc<str>,
    /// `docker` `containerd` `cri-o` `podman` ...
    pub runtime: Arc<str>,
}

/// One piece of evidence about who is at work.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// What is claimed, named as the event field is: `process_owner`, `db_user`, ...
    pub key: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
    /// Where it comes from: `kernel` `proc` `cgroup` `environment` `wire` ...
    pub source: Arc<str>,
    /// 0 to 100.
    pub confidence: u8,
}

/// Who is at the client end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The client process where it is on this host.
    pub process: Option<Arc<Process>>,
    /// Its container.
    pub container: Option<Container>,
    /// AI agent runtime, where there is evidence; else empty.
    pub ai_agent: Arc<str>,
    /// Who it is in the end.
    pub principal: Arc<str>,
    /// Every piece of evidence.
    pub claims: Arc<[Claim]>,
    /// Claims that cannot both be true.
    pub conflict: bool,
}
