//! Calls into TLS libraries -> records of their plaintext.
//!
//! A write's bytes are taken where it begins, a read's where it returns. Offsets count what the calls said they did:
//! what is written again because the socket was full overlaps, as a segment that is sent again does.

use agent_common::{
    CHUNK, EDGE, TLS_BUDGET, Tls, TlsEnd, TlsKey, TlsMode, TlsState, call, direction, kind, mode,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_current_task, bpf_probe_read_user as read_user},
    },
    macros::{map, uprobe, uretprobe},
    maps::{HashMap, LruHashMap},
    programs::{ProbeContext, RetProbeContext},
};

use crate::maps::{EVENTS, count, global, kept_from, send, wake};
use crate::process::{TASK_PID, TASK_TGID};

/// Sessions that are copied or undecided, and how far they are.
#[map]
static TLS: HashMap<TlsKey, TlsState> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// What to copy of a session; undecided where there is no entry.
#[map]
static TLS_MODES: HashMap<TlsKey, TlsMode> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// Thread -> the call that it is inside of.
#[map]
static CALLS: LruHashMap<u32, Call> = LruHashMap::with_max_entries(1 << 14, 0);

/// Set by the agent before load: 1 where `bpf_get_current_pid_tgid` may be called by packet programs (Linux 6.10).
#[unsafe(no_mangle)]
static TASK_HELPER: u32 = 0;

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;
/// Pieces of one call: 512 of 32 KiB are 16 MiB.
const CHUNKS: u32 = 512;

#[repr(C)]
#[derive(Clone, Copy)]
struct Call {
    session: TlsKey,
    buffer: u64,
    /// Where the call puts how many bytes it did; 0 where it returns them.
    count: u64,
    kind: u32,
    padding: u32,
}

static IDLE: Call =
    Call { session: TlsKey { object: 0, pid: 0, padding: 0 }, buffer: 0, count: 0, kind: NONE, padding: 0 };
static BEGINNING: TlsState = TlsState { offset: [0; 2] };

/// Thread group and thread, as `bpf_get_current_pid_tgid` says them, also where packet programs may not call it.
#[inline(always)]
pub fn task() -> u64 {
    if global(&TASK_HELPER) != 0 {
        return bpf_get_current_pid_tgid();
    }
    let (pid, tgid) = (global(&TASK_PID), global(&TASK_TGID));
    if pid == 0 || tgid == 0 {
        return 0;
    }
    // SAFETY: the reads fail, and do not fault, where the offsets are wrong.
    unsafe {
        let task = bpf_get_current_task() as usize;
        let Ok(thread) = bpf_probe_read_kernel((task + pid as usize) as *const u32) else { return 0 };
        let Ok(group) = bpf_probe_read_kernel((task + tgid as usize) as *const u32) else { return 0 };
        u64::from(group) << 32 | u64::from(thread)
    }
}

/// The session whose write the thread is inside of; 0 where there is none.
#[inline(always)]
pub fn call(thread: u32) -> u64 {
    match CALLS.get_ptr(&thread) {
        // SAFETY: checked; the thread's own entry.
        Some(call) if unsafe { (*call).kind } == WRITE => unsafe { (*call).session.object },
        _ => 0,
    }
}

/// Any of the calls below that begins, where one program is on all of them (Linux 6.6).
#[uprobe]
pub fn weir_tls_enter(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the program's own.
    let call = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    // Both are read in any case: the verifier wants to see which field of the context it is.
    let (fourth, fifth): (u64, u64) = (ctx.arg(3).unwrap_or(0), ctx.arg(4).unwrap_or(0));
    let count = match call {
        call::WRITE_EX | call::READ_EX => fourth,
        call::WRITE_EX2 => fifth,
        _ => 0,
    };
    match call {
        call::WRITE | call::WRITE_EX | call::WRITE_EX2 => write(&ctx, count),
        call::READ | call::READ_EX => read(&ctx, count),
        call::END => end(&ctx),
        _ => 0,
    }
}

/// Any of them that returns.
#[uretprobe]
pub fn weir_tls_leave(ctx: RetProbeContext) -> u32 {
    // SAFETY: the context is the program's own.
    match unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } {
        call::WRITTEN => written(&ctx),
        call::WAS_READ => was_read(&ctx),
        _ => 0,
    }
}

/// `SSL_write(session, buffer, length)`, `gnutls_record_send`: they return how many bytes they took.
#[uprobe]
pub fn weir_tls_write(ctx: ProbeContext) -> u32 {
    write(&ctx, 0)
}

/// `SSL_write_ex(session, buffer, length, &written)`.
#[uprobe]
pub fn weir_tls_write_ex(ctx: ProbeContext) -> u32 {
    write(&ctx, ctx.arg(3).unwrap_or(0))
}

/// `SSL_write_ex2(session, buffer, length, flags, &written)`.
#[uprobe]
pub fn weir_tls_write_ex2(ctx: ProbeContext) -> u32 {
    write(&ctx, ctx.arg(4).unwrap_or(0))
}

/// `SSL_read(session, buffer, length)`, `gnutls_record_recv`.
#[uprobe]
pub fn weir_tls_read(ctx: ProbeContext) -> u32 {
    read(&ctx, 0)
}

/// `SSL_read_ex(session, buffer, length, &read)`.
#[uprobe]
pub fn weir_tls_read_ex(ctx: ProbeContext) -> u32 {
    read(&ctx, ctx.arg(3).unwrap_or(0))
}

/// `SSL_free(session)`, `SSL_clear`, `gnutls_deinit`.
#[uprobe]
pub fn weir_tls_end(ctx: ProbeContext) -> u32 {
    end(&ctx)
}

/// A write returns.
#[uretprobe]
pub fn weir_tls_written(ctx: RetProbeContext) -> u32 {
    written(&ctx)
}

/// A read returns.
#[uretprobe]
pub fn weir_tls_was_read(ctx: RetProbeContext) -> u32 {
    was_read(&ctx)
}

#[inline(always)]
fn write(ctx: &ProbeContext, count: u64) -> u32 {
    let Some(session) = enter(ctx, count, WRITE) else { return 0 };
    let length: u64 = ctx.arg(2).unwrap_or(0);
    copy(&session, ctx.arg(1).unwrap_or(0), length as u32, direction::EGRESS);
    0
}

#[inline(always)]
fn read(ctx: &ProbeContext, count: u64) -> u32 {
    enter(ctx, count, READ);
    0
}

#[inline(always)]
fn end(ctx: &ProbeContext) -> u32 {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    forget(&TlsKey { object: ctx.arg(0).unwrap_or(0), pid, padding: 0 });
    0
}

/// A session is over: who was told of it is told so.
#[inline(always)]
pub fn forget(session: &TlsKey) {
    let known = TLS.get_ptr(session).is_some();
    let _ = TLS.remove(session);
    if TLS_MODES.remove(session).is_ok() || known {
        // SAFETY: no preconditions.
        let time = unsafe { bpf_ktime_get_ns() };
        send(TlsEnd { kind: kind::TLS_END, padding: 0, session: *session, time }, false);
    }
}

#[inline(always)]
fn written(ctx: &RetProbeContext) -> u32 {
    if let Some((session, _, done)) = leave(ctx, WRITE) {
        advance(&session, direction::EGRESS, done);
    }
    0
}

#[inline(always)]
fn was_read(ctx: &RetProbeContext) -> u32 {
    let Some((session, buffer, done)) = leave(ctx, READ) else { return 0 };
    if copy(&session, buffer, done, direction::INGRESS) {
        advance(&session, direction::INGRESS, done);
    }
    0
}

/// Notes that a call has done so many bytes.
#[inline(always)]
pub fn advance(session: &TlsKey, way: u8, done: u32) {
    if let Some(state) = TLS.get_ptr_mut(session) {
        // SAFETY: checked; each direction of a session is used by one thread at a time.
        unsafe { (*state).offset[way as usize & 1] += u64::from(done) };
    }
}

/// Hands over what a call carries, where anybody wants it; false where the session cannot be kept.
#[inline(always)]
pub fn copy(session: &TlsKey, buffer: u64, length: u32, way: u8) -> bool {
    let Some((state, mode)) = wanted(session) else { return false };
    piece(session, state, mode, buffer, length, way);
    true
}

/// Notes the call that the thread is about to make; nothing where its session is left alone.
#[inline(always)]
fn enter(ctx: &ProbeContext, count: u64, kind: u32) -> Option<TlsKey> {
    let task = bpf_get_current_pid_tgid();
    let session = TlsKey { object: ctx.arg(0)?, pid: (task >> 32) as u32, padding: 0 };
    if is_ignored(&session) {
        return None;
    }
    let call = Call { session, buffer: ctx.arg(1)?, count, kind, padding: 0 };
    let thread = task as u32;
    match CALLS.get_ptr_mut(&thread) {
        // SAFETY: the thread's own entry.
        Some(entry) => unsafe { *entry = call },
        None => {
            let _ = CALLS.insert(&thread, &call, 0);
        }
    }
    Some(session)
}

/// Whether nothing is wanted of a session.
#[inline(always)]
pub fn is_ignored(session: &TlsKey) -> bool {
    // SAFETY: the entry is only read.
    unsafe { TLS_MODES.get(session) }.is_some_and(|said| said.mode[0] == mode::IGNORE)
}

/// The call that the thread returns from, with its buffer and how many bytes it did, where it did any.
#[inline(always)]
fn leave(ctx: &RetProbeContext, kind: u32) -> Option<(TlsKey, u64, u32)> {
    let thread = bpf_get_current_pid_tgid() as u32;
    let entry = CALLS.get_ptr_mut(&thread)?;
    // SAFETY: the thread's own entry.
    let call = unsafe { *entry };
    if call.kind != kind {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*entry).kind = IDLE.kind };
    let returned: i32 = ctx.ret();
    if returned <= 0 {
        return None;
    }
    let done = if call.count == 0 {
        returned as u32
    } else {
        // SAFETY: the read fails, and does not fault, where nothing is there.
        unsafe { bpf_probe_read_user(call.count as *const u64) }.ok()? as u32
    };
    (done > 0).then_some((call.session, call.buffer, done))
}

/// Where the session is and what is wanted of it; `None` where nothing can be kept.
#[inline(always)]
fn wanted(session: &TlsKey) -> Option<(*mut TlsState, TlsMode)> {
    let state = match TLS.get_ptr_mut(session) {
        Some(state) => state,
        None => {
            if TLS.insert(session, &BEGINNING, u64::from(BPF_NOEXIST)).is_err() {
                count(|c| c.tls_full += 1);
            }
            TLS.get_ptr_mut(session)?
        }
    };
    // SAFETY: the entry is only read; the agent replaces it as a whole.
    let said = unsafe { TLS_MODES.get(session) }.copied().unwrap_or_default();
    Some((state, said))
}

/// Hands over what a call carries, in pieces of at most [`CHUNK`].
#[inline(always)]
fn piece(session: &TlsKey, state: *mut TlsState, said: TlsMode, buffer: u64, length: u32, way: u8) {
    let (here, there) = if way == direction::EGRESS { (0, 1) } else { (1, 0) };
    // SAFETY: checked by the caller.
    let (offset, peer) = unsafe { ((*state).offset[here], (*state).offset[there]) };
    let undecided = said.mode[here] == mode::UNKNOWN;
    // A length may be negative: the call will say that it is wrong.
    if length == 0 || length > i32::MAX as u32 || undecided && offset > u64::from(TLS_BUDGET) {
        return;
    }
    if kept_from(said.urgent) {
        return drop_piece(length);
    }
    let mut tls = Tls {
        kind: kind::TLS,
        length,
        head: length,
        tail: 0,
        session: *session,
        // SAFETY: no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        offset,
        peer,
        call: length,
        direction: way,
        padding: [0; 3],
    };
    // What a session is about is said by its first bytes: the sooner the agent looks, the less of others is copied.
    let urgent = said.urgent != 0 || undecided && offset == 0;
    // Where the other direction has gone on since, the word was about something else.
    if said.mode[here] == mode::HEAD_TAIL && said.guard[here] == peer as u32 && length > 2 * EDGE {
        return edges(&mut tls, buffer, urgent);
    }
    let mut done = 0u32;
    if length > CHUNK {
        tls.length = CHUNK;
        tls.head = CHUNK;
        for _ in 0..CHUNKS {
            if length - done <= CHUNK {
                break;
            }
            put::<{ CHUNK as usize }>(&tls, buffer + u64::from(done), false);
            done += CHUNK;
            tls.offset = offset + u64::from(done);
            tls.call = 0;
        }
        if length - done > CHUNK {
            return drop_piece(length - done);
        }
    }
    tls.length = length - done;
    tls.head = length - done;
    sized(&tls, buffer + u64::from(done), urgent);
}

#[repr(C)]
struct Chunk<const N: usize> {
    tls: Tls,
    data: [u8; N],
}

/// Picks the size class, as for packets.
#[inline(always)]
fn sized(tls: &Tls, from: u64, urgent: bool) {
    match tls.head {
        0..=128 => put::<128>(tls, from, urgent),
        129..=256 => put::<256>(tls, from, urgent),
        257..=512 => put::<512>(tls, from, urgent),
        513..=1024 => put::<1024>(tls, from, urgent),
        1025..=2048 => put::<2048>(tls, from, urgent),
        2049..=4096 => put::<4096>(tls, from, urgent),
        4097..=8192 => put::<8192>(tls, from, urgent),
        8193..=16384 => put::<16384>(tls, from, urgent),
        _ => put::<32768>(tls, from, urgent),
    }
}

/// Reads 1 to `N` bytes of the process, `N` a power of two; false where they are not there.
///
/// # Safety
///
/// `to` may be written.
#[inline(always)]
pub unsafe fn read_up_to<const N: usize>(to: *mut [u8; N], length: u32, from: u64) -> bool {
    // Says 1..=N in a way that the verifier follows.
    let bounded = ((length - 1) & (N as u32 - 1)) + 1;
    // SAFETY: no more than `N` bytes are written, and the caller says that they may be.
    unsafe { read_user(to.cast(), bounded, from as *const _) == 0 }
}

/// Reserves a record of class `N`, fills it in place and hands it over.
#[inline(always)]
fn put<const N: usize>(tls: &Tls, from: u64, urgent: bool) {
    let Some(mut slot) = EVENTS.reserve::<Chunk<N>>(0) else { return drop_piece(tls.head) };
    let entry = slot.as_mut_ptr();
    // SAFETY: the slot is as large as its type.
    let read = unsafe {
        (&raw mut (*entry).tls).write(*tls);
        read_up_to(&raw mut (*entry).data, tls.head, from)
    };
    if !read {
        slot.discard(0);
        return unreadable(tls.head);
    }
    slot.submit(wake(urgent));
    handed(tls.head);
}

/// Hands over the first and last bytes of what a call carries.
#[inline(always)]
fn edges(tls: &mut Tls, from: u64, urgent: bool) {
    let Some(mut slot) = EVENTS.reserve::<Chunk<{ 2 * EDGE as usize }>>(0) else {
        return drop_piece(tls.length);
    };
    tls.head = EDGE;
    tls.tail = EDGE;
    let entry = slot.as_mut_ptr();
    let last = from + u64::from(tls.length - EDGE);
    // SAFETY: the slot is as large as its type, which holds two edges.
    let rc = unsafe {
        (&raw mut (*entry).tls).write(*tls);
        let data = (&raw mut (*entry).data).cast::<u8>();
        read_user(data.cast(), EDGE, from as *const _)
            | read_user(data.add(EDGE as usize).cast(), EDGE, last as *const _)
    };
    if rc != 0 {
        slot.discard(0);
        return unreadable(tls.length);
    }
    slot.submit(wake(urgent));
    handed(2 * EDGE);
}

#[inline(always)]
fn handed(bytes: u32) {
    count(|c| {
        c.records += 1;
        c.bytes += u64::from(bytes);
    });
}

/// Counts what found no room in the ring. Its session shows it too: as a hole between two offsets.
#[inline(never)]
fn drop_piece(bytes: u32) {
    count(|c| {
        c.ring_full += 1;
        c.ring_full_bytes += u64::from(bytes);
    });
}

/// Counts what could not be read: a page that is not there at the moment.
#[inline(never)]
fn unreadable(bytes: u32) {
    count(|c| c.unreadable_bytes += u64::from(bytes));
}
