//! Sockets that are open already -> enrolled, where they have nothing unread.

use std::fs::File;
use std::io;

use agent_common::gate::entry;
use aya::maps::{HashMap, MapData};
use aya::programs::Iter;
use aya::{Btf, Ebpf};

use super::guard::Globals;
use crate::capture::live::{CaptureError, typed};
use crate::capture::{btf, kernel_at_least};

const PROGRAM: &str = "weir_late";

/// The iterator that lets sockets in, loaded when the first is to come in.
pub(super) struct Entrance {
    late: HashMap<MapData, u64, u32>,
    loaded: bool,
}

/// What the kernel program must know of this kernel: where a socket counts its unread packets. An error names what is
/// missing.
pub(super) fn globals(btf: &btf::Btf<'_>) -> Globals {
    let queued = btf.wanted("sock", "sk_receive_queue")? + btf.wanted("sk_buff_head", "qlen")?;
    Ok(vec![("SK_QUEUED", queued)])
}

impl Entrance {
    /// Nothing is loaded yet.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, CaptureError> {
        let map = ebpf.take_map("LATE").ok_or(CaptureError::Missing("LATE"))?;
        Ok(Self { late: HashMap::try_from(map)?, loaded: false })
    }

    /// Lets those of the sockets in that have nothing unread, in one walk over all TCP sockets of the network
    /// namespace. By socket: see [`entry`].
    pub(super) fn let_in(
        &mut self,
        ebpf: &mut Ebpf,
        cookies: &[u64],
        namespace: &File,
    ) -> io::Result<Vec<u32>> {
        let program: &mut Iter = typed(ebpf, PROGRAM).map_err(io::Error::other)?;
        if !self.loaded {
            if !kernel_at_least(5, 15) {
                return Err(io::Error::other(
                    "before Linux 5.15 the kernel walks over sockets without their locks",
                ));
            }
            let btf = Btf::from_sys_fs().map_err(io::Error::other)?;
            program.load("tcp", &btf).map_err(io::Error::other)?;
            self.loaded = true;
        }
        for cookie in cookies {
            self.late.insert(cookie, entry::WANTED, 0).map_err(io::Error::other)?;
        }
        // A thread enters the namespace and ends: the iterator is about the one that it was made in.
        let walk = || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let link = program.attach().map_err(io::Error::other)?;
            let link = program.take_link(link).map_err(io::Error::other)?;
            let mut walk = link.into_file().map_err(io::Error::other)?;
            io::copy(&mut walk, &mut io::sink()).map(drop)
        };
        let walked = std::thread::scope(|scope| scope.spawn(walk).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        let mut outcomes = Vec::new();
        for cookie in cookies {
            outcomes.push(self.late.get(cookie, 0).unwrap_or(entry::FAILED));
            let _ = self.late.remove(cookie);
        }
        walked.map(|()| outcomes)
    }
}
