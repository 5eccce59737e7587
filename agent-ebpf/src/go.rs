//! Calls into Go's `crypto/tls` -> records of their plaintext. x86-64, Go 1.17 and later.
//!
//! Go passes arguments and results in registers of its own choice (its "ABIInternal"): RAX, RBX, RCX, RDI and so on,
//! with the running goroutine in R14. A goroutine changes its thread at any time, and its stack may move: so it is
//! what calls are remembered by, and a buffer on its stack is remembered by how far from the stack's upper end it is.
//! Where a function returns is probed at its `ret`s: a return address that was replaced would break Go's own walk over
//! its stack.

use agent_common::{TlsKey, call, direction};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_current_task},
    },
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};

use crate::maps::global;
use crate::tls::{advance, copy, forget, is_ignored};

/// What a goroutine is inside of.
#[map]
static GOROUTINES: LruHashMap<Goroutine, Call> = LruHashMap::with_max_entries(1 << 14, 0);

/// Processes in which the goroutine was found where [`running`] looks for it.
#[map]
static GO_PROCESSES: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1 << 12, 0);

/// 1 once there is one: a packet of a host without them asks nothing more.
#[unsafe(no_mangle)]
static mut GO_SEEN: u32 = 0;

/// Set by the agent before load: where a task keeps the base of its thread's storage; 0 where unknown.
#[unsafe(no_mangle)]
static TASK_FSBASE: u32 = 0;

/// Where Go keeps the running goroutine, below that base. Another place is possible where a C compiler has linked the
/// program; then sends are not known to be nested, and ciphertext order decides.
const RUNNING: u64 = 8;
/// Content type of application data (RFC 8446, 5.1): what else Go's record layer carries is the library's own.
const APPLICATION_DATA: u64 = 23;
/// The stack check found no room: the function begins again once there is (carry or zero: `jbe` is taken).
const BELOW_OR_EQUAL: u64 = 0x41;

#[repr(C)]
#[derive(Clone, Copy)]
struct Goroutine {
    address: u64,
    pid: u32,
    /// 0: reads, 1: writes. One may nest in the other.
    writes: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Call {
    session: TlsKey,
    /// The buffer, or how far below the stack's upper end it is.
    buffer: u64,
    on_stack: u32,
    /// 0 once it has returned.
    inside: u32,
}

/// What is of interest of the registers.
struct Registers {
    arguments: [u64; 4],
    goroutine: u64,
    flags: u64,
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn registers(ctx: &ProbeContext) -> Registers {
    // SAFETY: the context of a probe.
    let regs = unsafe { &*ctx.regs };
    Registers { arguments: [regs.rax, regs.rbx, regs.rcx, regs.rdi], goroutine: regs.r14, flags: regs.eflags }
}

#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
fn registers(_ctx: &ProbeContext) -> Registers {
    // No point of any file names these programs there.
    Registers { arguments: [0; 4], goroutine: 0, flags: BELOW_OR_EQUAL }
}

/// Any of the calls below, where one program is on all of them (Linux 6.6).
#[uprobe]
pub fn weir_go(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the program's own.
    match unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } {
        call::GO_WRITE => on(&ctx, call::GO_WRITE),
        call::GO_READ => on(&ctx, call::GO_READ),
        call::GO_END => on(&ctx, call::GO_END),
        _ => 0,
    }
}

/// Returns of Go's calls. A program of its own: the verifier gives up on all of them together.
#[uprobe]
pub fn weir_go_leave(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the program's own.
    match unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } {
        call::GO_WRITTEN => on(&ctx, call::GO_WRITTEN),
        call::GO_WAS_READ => on(&ctx, call::GO_WAS_READ),
        _ => 0,
    }
}

/// `(*Conn).writeRecordLocked(type, data)`: behind the handshake, and not without it, as `Write` may be.
#[uprobe]
pub fn weir_go_write(ctx: ProbeContext) -> u32 {
    on(&ctx, call::GO_WRITE)
}

/// A `ret` of it.
#[uprobe]
pub fn weir_go_written(ctx: ProbeContext) -> u32 {
    on(&ctx, call::GO_WRITTEN)
}

/// `(*Conn).Read(data)`.
#[uprobe]
pub fn weir_go_read(ctx: ProbeContext) -> u32 {
    on(&ctx, call::GO_READ)
}

/// A `ret` of it.
#[uprobe]
pub fn weir_go_was_read(ctx: ProbeContext) -> u32 {
    on(&ctx, call::GO_WAS_READ)
}

/// `(*Conn).clientHandshake`, `(*Conn).serverHandshake`, `(*Conn).Close`: a session begins, perhaps where another one
/// was that nobody has closed, or it ends.
#[uprobe]
pub fn weir_go_end(ctx: ProbeContext) -> u32 {
    on(&ctx, call::GO_END)
}

#[inline(always)]
fn on(ctx: &ProbeContext, call: u64) -> u32 {
    let registers = registers(ctx);
    let returns = call == call::GO_WRITTEN || call == call::GO_WAS_READ;
    if !returns && registers.flags & BELOW_OR_EQUAL != 0 {
        return 0;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let writes = u32::from(call == call::GO_WRITE || call == call::GO_WRITTEN);
    let goroutine = Goroutine { address: registers.goroutine, pid, writes };
    let [first, second, third, fourth] = registers.arguments;
    let (session, buffer, length, way) = match call {
        call::GO_WRITE => {
            let session = TlsKey { object: first, pid, padding: 0 };
            if second & 0xff != APPLICATION_DATA || is_ignored(&session) {
                return 0;
            }
            enter(&goroutine, Call { session, buffer: third, on_stack: 0, inside: 1 });
            verify(&goroutine);
            (session, third, fourth, direction::EGRESS)
        }
        call::GO_READ => {
            let session = TlsKey { object: first, pid, padding: 0 };
            if is_ignored(&session) {
                return 0;
            }
            let (buffer, on_stack) = place(&goroutine, second);
            enter(&goroutine, Call { session, buffer, on_stack, inside: 1 });
            return 0;
        }
        call::GO_WRITTEN => {
            if let Some(call) = leave(&goroutine)
                && first < 1 << 31
            {
                advance(&call.session, direction::EGRESS, first as u32);
            }
            return 0;
        }
        call::GO_WAS_READ => {
            let Some(call) = leave(&goroutine) else { return 0 };
            let Some(buffer) = found(&goroutine, &call) else { return 0 };
            (call.session, buffer, first, direction::INGRESS)
        }
        call::GO_END => {
            forget(&TlsKey { object: first, pid, padding: 0 });
            return 0;
        }
        _ => return 0,
    };
    // Nothing, or no length at all.
    if length == 0 || length >= 1 << 31 {
        return 0;
    }
    if copy(&session, buffer, length as u32, way) && way == direction::INGRESS {
        advance(&session, way, length as u32);
    }
    0
}

#[inline(always)]
fn enter(goroutine: &Goroutine, call: Call) {
    match GOROUTINES.get_ptr_mut(goroutine) {
        // SAFETY: the goroutine's own entry.
        Some(entry) => unsafe { *entry = call },
        None => {
            let _ = GOROUTINES.insert(goroutine, &call, 0);
        }
    }
}

#[inline(always)]
fn leave(goroutine: &Goroutine) -> Option<Call> {
    let entry = GOROUTINES.get_ptr_mut(goroutine)?;
    // SAFETY: the goroutine's own entry.
    let call = unsafe { *entry };
    if call.inside == 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*entry).inside = 0 };
    Some(call)
}

/// The bounds of a goroutine's stack: the first two words of what stands for it.
#[inline(always)]
fn stack(goroutine: &Goroutine) -> Option<(u64, u64)> {
    // SAFETY: the read fails, and does not fault, where nothing is there.
    let [low, high] = unsafe { bpf_probe_read_user(goroutine.address as *const [u64; 2]) }.ok()?;
    Some((low, high))
}

/// How to find a buffer when the call returns.
#[inline(always)]
fn place(goroutine: &Goroutine, buffer: u64) -> (u64, u32) {
    match stack(goroutine) {
        Some((low, high)) if low <= buffer && buffer < high => (high - buffer, 1),
        _ => (buffer, 0),
    }
}

/// Where that buffer is now.
#[inline(always)]
fn found(goroutine: &Goroutine, call: &Call) -> Option<u64> {
    if call.on_stack == 0 {
        return Some(call.buffer);
    }
    Some(stack(goroutine)?.1 - call.buffer)
}

/// The goroutine that the thread runs, as Go's own code finds it where it is not in its register.
#[inline(always)]
fn running() -> Option<u64> {
    let offset = global(&TASK_FSBASE) as usize;
    if offset == 0 {
        return None;
    }
    // SAFETY: the reads fail, and do not fault, where nothing is there.
    unsafe {
        let task = bpf_get_current_task() as usize;
        let base = bpf_probe_read_kernel((task + offset) as *const u64).ok()?;
        bpf_probe_read_user((base - RUNNING) as *const u64).ok()
    }
}

/// Sees whether the goroutine is where it is looked for: then packets of this process know whose they are.
#[inline(always)]
fn verify(goroutine: &Goroutine) {
    if GO_PROCESSES.get_ptr(&goroutine.pid).is_none() && running() == Some(goroutine.address) {
        let _ = GO_PROCESSES.insert(&goroutine.pid, &1, 0);
        // SAFETY: only ever set to the same value.
        unsafe { core::ptr::write_volatile(&raw mut GO_SEEN, 1) };
    }
}

/// The session whose write the running goroutine is inside of; 0 where there is none, or where it cannot be known.
#[inline(always)]
pub fn session(pid: u32) -> u64 {
    // SAFETY: a plain word, read once.
    if unsafe { core::ptr::read_volatile(&raw const GO_SEEN) } == 0 || GO_PROCESSES.get_ptr(&pid).is_none() {
        return 0;
    }
    let Some(address) = running() else { return 0 };
    match GOROUTINES.get_ptr(&Goroutine { address, pid, writes: 1 }) {
        // SAFETY: checked; the entry is only read.
        Some(call) if unsafe { (*call).inside } != 0 => unsafe { (*call).session.object },
        _ => 0,
    }
}
