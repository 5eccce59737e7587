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

/// Sees to it that no image of the process is written anywhere: statements, parameters and the sessions' secrets are in
/// its memory. A limit of zero holds for files, what is not dumpable for programs that take dumps (`core_pattern`). Other
/// users cannot look into its memory either.
pub fn no_dumps() -> anyhow::Result<()> {
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// `struct sched_attr`, as of its first version.
#[repr(C)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const _: () = assert!(size_of::<Scheduling>() == 48);

/// Short turns for the calling thread and those that it begins: who wants little at a time is let in before the turn of
/// another is over (Linux 6.12), which else lasts milliseconds. Older kernels know no such wish.
pub fn short_turns() {
    // SAFETY: numbers only; 0 is the calling thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let wish = Scheduling {
        size: size_of::<Scheduling>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: 100_000,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the value is valid for its size.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::info!(%error, "the kernel knows no short turns: what is held may wait longer on a busy host");
    }
}

/// Puts the calling thread before ordinary work. It sleeps most of the time, but what it has not read when the kernel's
/// buffers are full is lost, and on a busy host an ordinary thread may wait tens of milliseconds for its turn.
pub fn hurry() {
    // SAFETY: no pointers; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::info!(%error, "capture runs at ordinary priority (CAP_SYS_NICE is missing): bursts may be lost");
    }
}
