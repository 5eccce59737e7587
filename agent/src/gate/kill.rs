//! A request -> SOCK_DESTROY in the kernel -> what came of it.

use std::io;
use std::time::Instant;

use agent_core::segment::Endpoint;

use super::message::{Kill, Outcome, Reply, now_ns};
use crate::identify::netlink::Diag;

/// Ends the connection that the request names, and no other: the kernel compares the cookie under its own lock,
/// so there is no gap between check and act. `caller` and this process are never ended.
pub fn act(request: &Kill, diag: &mut Diag, caller: u32) -> Reply {
    let begin = Instant::now();
    let outcome = decide(request, diag, caller);
    Reply { id: request.id, outcome, act_ns: begin.elapsed().as_nanos() as u64 }
}

fn decide(request: &Kill, diag: &mut Diag, caller: u32) -> Outcome {
    if request.processes.iter().any(|(pid, _)| *pid == caller || *pid == std::process::id()) {
        return Outcome::Refused("it is the agent's own connection".into());
    }
    if request.cookie == 0 {
        return Outcome::Refused("no connection has the cookie 0".into());
    }
    if now_ns() > request.deadline_ns {
        return Outcome::Failed("the deadline has passed".into());
    }
    let end = |(address, port): (std::net::IpAddr, u16)| Endpoint { address, port };
    let (local, remote) = (end(request.local), end(request.remote));
    match diag.destroy(local, remote, request.interface, request.cookie) {
        Ok(()) => Outcome::Killed,
        Err(error) => match error.raw_os_error() {
            // Nothing, or a socket with another cookie: the listener that the kernel falls back to once the
            // connection is gone, or a later connection between the same ends.
            Some(libc::ENOENT | libc::ESTALE) => match diag.find(local, remote) {
                Ok(Some(entry)) if entry.cookie != request.cookie => {
                    Outcome::Refused("its ends belong to another connection now".into())
                }
                _ => Outcome::Gone,
            },
            Some(libc::EPERM) => Outcome::Failed("the shim lacks CAP_NET_ADMIN".into()),
            Some(libc::EOPNOTSUPP) => {
                Outcome::Failed("the kernel was built without CONFIG_INET_DIAG_DESTROY".into())
            }
            _ => Outcome::Failed(explain(&error)),
        },
    }
}

fn explain(error: &io::Error) -> String {
    format!("the kernel refuses: {error}")
}
