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
    /// `docker` `containerd` `cri-o` `podman` ...; empty where the path does not say.
    pub runtime: Arc<str>,
    /// Kubernetes pod uid where the kubelet made the cgroup; else empty.
    pub pod_uid: Arc<str>,
}

/// One piece of evidence about who is at work.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// What is claimed, named as the event field is: `process_owner`, `db_user`, ...
    pub key: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
    /// Where it comes from: `kernel` `proc` `cgroup` `environment` `wire` `server_title` ...
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

/// A sign that an AI agent runtime is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSign {
    /// The runtime: `claude-code`, `cursor`, or what `AI_AGENT` says.
    pub name: Arc<str>,
    /// `ancestry` or `environment`.
    pub source: &'static str,
    /// 0 to 100.
    pub confidence: u8,
}

/// What the host knows about the process at one end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The process.
    pub process: Arc<Process>,
    /// Its container.
    pub container: Option<Container>,
    /// Name of the user who logged in (sudo and su do not change it); none where no login was recorded.
    pub login: Option<Arc<str>>,
    /// Signs of an AI agent runtime.
    pub agents: Arc<[AgentSign]>,
    /// `/proc` was read while the process lived. False: only what the kernel's exec record brought.
    pub observed: bool,
    /// Other processes held the same socket: the choice among them is a guess (the youngest).
    pub shared: bool,
}

/// What the wire says about who is at work. Claims of the client, authenticated by the database at best.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire<'a> {
    /// Database user.
    pub db_user: &'a str,
    /// The user is what the title of the server's process says: the login itself was not seen.
    pub titled: bool,
    /// `application_name` and its like.
    pub application_name: &'a str,
    /// Subject of the client's TLS certificate, as its handshake showed it.
    pub certificate: &'a str,
}

/// Decides what the evidence amounts to.
///
/// The principal is, in this order of trust: the container, the login user, the owner of the process, the
/// database user. Container and database user carry a prefix (`container:`, `db_user:`), so that a name from the
/// wire never passes for one from the host.
pub fn decide(workload: Option<&Workload>, wire: Wire<'_>) -> Identity {
    let mut claims = Vec::with_capacity(12);
    let mut identity = Identity::default();
    let mut claim = |key: &str, value: &str, source: &str, confidence: u8| {
        if !value.is_empty() {
            let (key, value, source) = (key.into(), value.into(), source.into());
            claims.push(Claim { key, value, source, confidence });
        }
    };
    if let Some(workload) = workload {
        let process = &workload.process;
        let source = if workload.observed { "proc" } else { "kernel" };
        let trust = if workload.shared { 60 } else { 95 };
        if let Some(container) = &workload.container {
            claim("container_id", &container.id, "cgroup", trust);
            claim("k8s_pod_uid", &container.pod_uid, "cgroup", trust);
        }
        claim("process_login", workload.login.as_deref().unwrap_or(""), "loginuid", trust.min(85));
        claim("process_pid", &process.pid.to_string(), source, trust);
        claim("process_executable_path", &process.executable, source, trust);
        claim("process_owner", &process.owner, source, trust);
        for sign in &*workload.agents {
            claim("ai_agent_name", &sign.name, sign.source, sign.confidence);
        }
        let best = workload.agents.iter().max_by_key(|sign| sign.confidence);
        identity.ai_agent = best.map(|sign| sign.name.clone()).unwrap_or_default();
        identity.process = Some(process.clone());
        identity.container.clone_from(&workload.container);
    }
    claim("db_user", wire.db_user, if wire.titled { "server_title" } else { "wire" }, 30);
    // The server saw it too, and asked for a proof of its key; whether it trusts who signed it is not known here.
    claim("tls_client_subject", wire.certificate, "tls_handshake", 50);
    claim("db_application_name", wire.application_name, "wire", 10);
    identity.principal = principal(workload, wire.db_user);
    identity.conflict = conflict(&claims);
    identity.claims = claims.into();
    identity
}

fn principal(workload: Option<&Workload>, db_user: &str) -> Arc<str> {
    if let Some(workload) = workload {
        if let Some(container) = &workload.container {
            let short = container.id.get(..12).unwrap_or(&container.id);
            return format!("container:{short}").into();
        }
        if let Some(login) = &workload.login {
            return login.clone();
        }
        if !workload.process.owner.is_empty() {
            return workload.process.owner.clone();
        }
    }
    if db_user.is_empty() { Arc::default() } else { format!("db_user:{db_user}").into() }
}

/// Two values for something that a client can have only one of.
fn conflict(claims: &[Claim]) -> bool {
    const SINGLE: [&str; 5] =
        ["container_id", "k8s_pod_uid", "process_login", "process_pid", "process_owner"];
    claims.iter().enumerate().any(|(i, a)| {
        SINGLE.contains(&&*a.key) && claims.iter().skip(i + 1).any(|b| a.key == b.key && a.value != b.value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(container: Option<&str>, login: Option<&str>, owner: &str) -> Workload {
        Workload {
            process: Arc::new(Process { pid: 7, owner: owner.into(), ..Process::default() }),
            container: container.map(|id| Container { id: id.into(), ..Container::default() }),
            login: login.map(Into::into),
            observed: true,
            ..Workload::default()
        }
    }

    #[test]
    fn principal_follows_the_order_of_trust() {
        let wire = Wire { db_user: "shop", application_name: "psql", ..Wire::default() };
        let name = |w: Option<Workload>| decide(w.as_ref(), wire).principal.to_string();
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(name(Some(workload(Some(id), Some("alice"), "root"))), "container:0123456789ab");
        assert_eq!(name(Some(workload(None, Some("alice"), "root"))), "alice");
        assert_eq!(name(Some(workload(None, None, "root"))), "root");
        assert_eq!(name(None), "db_user:shop");
        assert_eq!(&*decide(None, Wire::default()).principal, "");
    }

    #[test]
    fn wire_claims_are_weak_and_guesses_weaker_than_facts() {
        let mut w = workload(None, None, "root");
        let confidence = |w: &Workload, key: &str| {
            let identity = decide(Some(w), Wire { db_user: "shop", ..Wire::default() });
            identity.claims.iter().find(|c| &*c.key == key).map(|c| c.confidence)
        };
        assert_eq!(confidence(&w, "process_owner"), Some(95));
        assert_eq!(confidence(&w, "db_user"), Some(30));
        assert_eq!(confidence(&w, "db_application_name"), None, "empty is not a claim");
        w.shared = true;
        assert_eq!(confidence(&w, "process_owner"), Some(60));
    }

    #[test]
    fn strongest_sign_names_the_agent() {
        let mut w = workload(None, None, "dev");
        let sign = |name: &str, source, confidence| AgentSign { name: name.into(), source, confidence };
        w.agents = [sign("cursor", "environment", 30), sign("claude-code", "ancestry", 70)].into();
        let identity = decide(Some(&w), Wire::default());
        assert_eq!(&*identity.ai_agent, "claude-code");
        assert!(!identity.conflict, "one agent may start another");
    }

    #[test]
    fn two_owners_conflict() {
        let claim = |key: &str, value: &str| Claim {
            key: key.into(),
            value: value.into(),
            source: "proc".into(),
            confidence: 95,
        };
        assert!(conflict(&[claim("process_owner", "a"), claim("db_user", "x"), claim("process_owner", "b")]));
        assert!(!conflict(&[claim("process_owner", "a"), claim("process_owner", "a")]));
        assert!(!conflict(&[claim("ai_agent_name", "a"), claim("ai_agent_name", "b")]));
    }
}
