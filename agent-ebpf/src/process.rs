//! Programs started, processes forked and ended -> records, so that a name outlives its process.

use agent_common::{ARGUMENTS, Exec, Exit, Fork, PATH, kind};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
        bpf_probe_read_kernel,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel_str, bpf_probe_read_user,
        },
    },
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};

use crate::maps::{EVENTS, count, global, send, wake};
use crate::plain;

// Set by the agent before load: from tracefs' format files, and from BTF (0: unknown, then it is left out).
#[unsafe(no_mangle)]
static EXEC_FILENAME: u32 = 8;
#[unsafe(no_mangle)]
pub static TASK_PID: u32 = 0;
#[unsafe(no_mangle)]
static TASK_MM: u32 = 0;
#[unsafe(no_mangle)]
static MM_ARG_START: u32 = 0;
#[unsafe(no_mangle)]
static TASK_PARENT: u32 = 0;
#[unsafe(no_mangle)]
pub static TASK_TGID: u32 = 0;

/// `sched:sched_process_exec`, in the new program's context.
#[tracepoint]
pub fn weir_exec(ctx: TracePointContext) -> u32 {
    let Some(mut slot) = EVENTS.reserve::<Exec>(0) else {
        count(|c| c.ring_full += 1);
        return 0;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: the slot is as large as the record; every field is written before it is handed over, the unused
    // parts of the two texts excepted, which their lengths exclude.
    unsafe {
        (*record).kind = kind::EXEC;
        (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*record).uid = bpf_get_current_uid_gid() as u32;
        (*record).parent = parent();
        (*record).time = bpf_ktime_get_boot_ns();
        (*record).cgroup = bpf_get_current_cgroup_id();
        (*record).comm = bpf_get_current_comm().unwrap_or_default();
        (*record).path_length = 0;
        (*record).arguments_length = 0;
        // __data_loc: offset in the record in the lower half, length in the upper.
        if let Ok(location) = ctx.read_at::<u32>(global(&EXEC_FILENAME) as usize) {
            let at = ctx.as_ptr().cast::<u8>().add((location & 0xffff) as usize);
            let path = (&raw mut (*record).path).cast::<core::ffi::c_void>();
            let n = bpf_probe_read_kernel_str(path, PATH as u32, at.cast());
            if n > 0 {
                (*record).path_length = n as u32 - 1;
            }
        }
        if let Some((start, length)) = arguments() {
            let to = (&raw mut (*record).arguments).cast::<core::ffi::c_void>();
            let bounded = ((length - 1) & (ARGUMENTS as u32 - 1)) + 1;
            if bpf_probe_read_user(to, bounded, start as *const _) == 0 {
                (*record).arguments_length = bounded;
            }
        }
    }
    slot.submit(wake(false));
    0
}

/// Process id of the current task's parent; 0 where unknown.
#[inline(always)]
unsafe fn parent() -> u32 {
    let (parent, tgid) = (global(&TASK_PARENT), global(&TASK_TGID));
    if parent == 0 || tgid == 0 {
        return 0;
    }
    // SAFETY: the reads fail, and do not fault, where the offsets are wrong.
    unsafe {
        let task = bpf_get_current_task() as usize;
        let Ok(parent) = bpf_probe_read_kernel((task + parent as usize) as *const usize) else { return 0 };
        bpf_probe_read_kernel((parent + tgid as usize) as *const u32).unwrap_or(0)
    }
}

/// Where the current program's arguments lie, and their length, at most [`ARGUMENTS`].
#[inline(always)]
unsafe fn arguments() -> Option<(usize, u32)> {
    let (mm, start) = (global(&TASK_MM), global(&MM_ARG_START));
    if mm == 0 || start == 0 {
        return None;
    }
    // SAFETY: as in `parent`.
    unsafe {
        let task = bpf_get_current_task() as usize;
        let mm = bpf_probe_read_kernel((task + mm as usize) as *const usize).ok()?;
        let from = bpf_probe_read_kernel((mm + start as usize) as *const usize).ok()?;
        let to = bpf_probe_read_kernel((mm + start as usize + 8) as *const usize).ok()?;
        let length = to.checked_sub(from).filter(|l| *l > 0)?;
        Some((from, if length > ARGUMENTS { ARGUMENTS as u32 } else { length as u32 }))
    }
}

/// Raw `sched_process_fork` (parent task, child task), in the parent's context. Raw, because only the tasks
/// themselves tell a process from a thread.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn weir_fork(ctx: RawTracePointContext) -> i32 {
    let (pid, tgid) = (global(&TASK_PID) as usize, global(&TASK_TGID) as usize);
    if pid == 0 || tgid == 0 {
        return 0;
    }
    // SAFETY: the second argument is the child's task; the reads fail, and do not fault, where an offset is wrong.
    unsafe {
        let task: usize = ctx.arg(1);
        let Ok(child) = bpf_probe_read_kernel((task + pid) as *const u32) else { return 0 };
        let Ok(group) = bpf_probe_read_kernel((task + tgid) as *const u32) else { return 0 };
        if child == group {
            let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
            let time = bpf_ktime_get_boot_ns();
            send(Fork { kind: kind::FORK, parent, child, padding: 0, time }, false);
        }
    }
    0
}

/// `sched:sched_process_exit`: a process is over when its first thread is.
#[tracepoint]
pub fn weir_exit(_ctx: TracePointContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    if (id >> 32) as u32 == id as u32 {
        // SAFETY: no preconditions.
        let time = unsafe { bpf_ktime_get_boot_ns() };
        send(Exit { kind: kind::EXIT, pid: id as u32, time }, false);
        plain::exits(id as u32);
    }
    0
}
