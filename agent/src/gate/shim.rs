//! The process that acts: requests in, outcomes out. One caller, one capability, no store, no network, no `/proc`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use caps::Capability;

use super::hold::Holder;
use super::kill;
use super::message::{self, Outcome, Reply, Request};
use crate::identify::netlink::Diag;

/// Who starts a shim connects at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the first caller at `path` that is root or the same user, until it is gone.
pub fn serve(path: &Path) -> anyhow::Result<()> {
    let listener = message::bind(path).map_err(|error| {
        anyhow::anyhow!("cannot listen at {}: {error}; remove it if it is stale", path.display())
    })?;
    // Who can connect meets a shim that has given up its rights already.
    confine()?;
    message::listen(&listener)?;
    let begin = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        if left.is_zero() || !message::readable(listener.as_fd(), left)? {
            anyhow::bail!("nobody connected to {}: the shim is started by `weir run`", path.display());
        }
        let caller = message::accept(listener.as_fd())?;
        let peer = message::peer(&caller)?;
        if peer.uid() == 0 || peer.uid() == nix::unistd::getuid().as_raw() {
            return Ok(converse(&caller, peer.pid() as u32)?);
        }
        tracing::warn!(uid = peer.uid(), pid = peer.pid(), "turned away a caller of another user");
    }
}

fn converse(caller: &std::os::fd::OwnedFd, pid: u32) -> io::Result<()> {
    let mut holding: Option<std::thread::JoinHandle<()>> = None;
    loop {
        let (request, fds) = match message::receive_all::<Request>(caller.as_fd()) {
            Ok(Some(received)) => received,
            // The agent is gone, and its shim goes with it, once nobody's statements wait in it.
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        };
        let mut fds = fds.into_iter();
        let request = match request {
            Request::Kill(kill) => kill,
            Request::Hold { closed, answers } => {
                let Some(agent) = fds.next() else { continue };
                // One after the other: both would read what comes.
                if let Some(before) = holding.take() {
                    let _ = before.join();
                }
                match Holder::new(agent, fds.collect(), closed, answers) {
                    Ok(holder) => {
                        let run = move || {
                            if let Err(error) = holder.run() {
                                tracing::error!(%error, "the gate has ended");
                            }
                        };
                        holding = std::thread::Builder::new().name("hold".into()).spawn(run).ok();
                    }
                    Err(error) => tracing::error!(%error, "statements cannot be held"),
                }
                continue;
            }
        };
        let reply = if let Some(fd) = fds.next() {
            kill::act(&request, &mut Diag::from_fd(fd), pid)
        } else {
            let outcome = Outcome::Failed("no sock_diag socket came with the request".into());
            Reply { id: request.id, outcome, act_ns: 0 }
        };
        match message::send(caller.as_fd(), &reply, None) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            other => other?,
        }
    }
    if let Some(holding) = holding {
        let _ = holding.join();
    }
    Ok(())
}

/// Gives up everything but CAP_NET_ADMIN (and CAP_BPF, where the kernel wants it for maps: before 5.19), for good. Without root there is nothing to give up, and every kill will
/// say that it lacks the capability.
fn confine() -> anyhow::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    // Clients wait for what is held.
    crate::privileges::hurry();
    crate::privileges::short_turns();
    if crate::capture::kernel_at_least(5, 19) {
        crate::privileges::keep(&[Capability::CAP_NET_ADMIN])
    } else {
        crate::privileges::keep(&[Capability::CAP_NET_ADMIN, Capability::CAP_BPF])
    }
}
