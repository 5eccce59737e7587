//! Root -> the few capabilities that a process of weir needs, for good.

use caps::{CapSet, Capability, CapsHashSet};

/// What a live capture needs for as long as it runs, and why.
pub const CAPTURE: [Capability; 6] = [
    Capability::CAP_BPF,             // maps and programs
    Capability::CAP_PERFMON,         // tracepoints, reading kernel memory in them
    Capability::CAP_NET_ADMIN,       // cgroup programs, the kernel's table of sockets
    Capability::CAP_SYS_PTRACE,      // whose descriptors, executable and environment a process has
    Capability::CAP_DAC_READ_SEARCH, // the same where file modes forbid it
    Capability::CAP_SYS_ADMIN,       // enter network namespaces to ask for their sockets
];

/// Gives up every other capability, in this process and in all that it starts, and the ways to get them back.
/// What the process does not have anyway is no error: the kernel will say what it misses.
pub fn keep(wanted: &[Capability]) -> anyhow::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let had = caps::read(None, CapSet::Permitted)?;
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            // A capability that this kernel does not know cannot be dropped, and need not be.
            if !wanted.contains(&capability) {
                let _ = caps::drop(None, CapSet::Bounding, capability);
            }
        }
    }
    let keep: CapsHashSet = wanted.iter().copied().filter(|c| had.contains(c)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}
