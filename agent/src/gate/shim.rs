//! The process that acts: requests in, outcomes out. One caller, one capability, no store, no network, no `/proc`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use caps::Capability;

use super::kill;
use super::message::{self, Kill, Outcome, Reply};
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
    loop {
        let (request, namespace) = match message::receive::<Kill>(caller.as_fd()) {
            Ok(Some(received)) => received,
            // The agent is gone, and its shim goes with it.
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        let reply = if let Some(fd) = namespace {
            kill::act(&request, &mut Diag::from_fd(fd), pid)
        } else {
            let outcome = Outcome::Failed("no sock_diag socket came with the request".into());
            Reply { id: request.id, outcome, act_ns: 0 }
        };
        match message::send(caller.as_fd(), &reply, None) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
}

/// Gives up everything but CAP_NET_ADMIN, for good. Without root there is nothing to give up, and every kill will
/// say that it lacks the capability.
fn confine() -> anyhow::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    crate::privileges::keep(&[Capability::CAP_NET_ADMIN])
}
