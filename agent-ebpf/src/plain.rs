//! What processes that ask enrolled servers elsewhere write into TLS sessions -> the shim, before it is encrypted.
//!
//! The shim has their ciphertext. By the time that a thread sends it, what it is made of is in the ring: the shim reads
//! that first. Only there where `gate.remote` and `gate.tls` want it, as programs of their own on the calls that capture
//! knows.

use agent_common::gate::Remote;
use agent_common::plain::{PIECE, Plain, SHORT, Written};
use agent_common::{TlsKey, call};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user, generated::bpf_get_attach_cookie,
    },
    macros::{map, uprobe, uretprobe},
    maps::{HashMap, LruHashMap, RingBuf},
    programs::{ProbeContext, RetProbeContext, SockAddrContext},
};

use crate::tls::read_up_to;

/// Servers elsewhere whose clients' plaintext is wanted.
#[map]
static SERVERS: HashMap<Remote, u32> = HashMap::with_max_entries(1 << 10, 0);
/// Processes that have connected to one of them.
#[map]
static CLIENTS: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1 << 14, 0);
/// Sessions of theirs: see [`Written`].
#[map]
static WRITTEN: LruHashMap<TlsKey, Written> = LruHashMap::with_max_entries(1 << 16, 0);
/// Thread -> the write that it is inside of.
#[map]
static WRITES: LruHashMap<u32, Write> = LruHashMap::with_max_entries(1 << 14, 0);
/// Records for the shim. As small as can be where nobody wants them: its size is set at load.
#[map]
static PLAIN: RingBuf = RingBuf::with_byte_size(1 << 12, 0);

static NOTHING: Written = Written { offset: 0, ignored: 0, lost: 0 };

/// Pieces of one call.
const PIECES: u32 = 512;

#[repr(C)]
#[derive(Clone, Copy)]
struct Write {
    session: TlsKey,
    /// Where the call puts how many bytes it did; 0 where it returns them.
    count: u64,
    /// 1 until it returns.
    open: u64,
}

/// A process connects, over IPv6 or not: if that is to such a server, what it writes is looked at from now on.
#[inline(always)]
pub fn connects<const V6: bool>(ctx: &SockAddrContext) {
    let address = ctx.sock_addr;
    // SAFETY: the verifier checks every read of the context. Volatile, each by itself: it takes no wider reads.
    let remote = unsafe {
        let port = u32::from(u16::from_be(core::ptr::read_volatile(&raw const (*address).user_port) as u16));
        if V6 {
            let words = [
                core::ptr::read_volatile(&raw const (*address).user_ip6[0]),
                core::ptr::read_volatile(&raw const (*address).user_ip6[1]),
                core::ptr::read_volatile(&raw const (*address).user_ip6[2]),
                core::ptr::read_volatile(&raw const (*address).user_ip6[3]),
            ];
            Remote::v6(words, port)
        } else {
            Remote::v4(core::ptr::read_volatile(&raw const (*address).user_ip4), port)
        }
    };
    // SAFETY: entries are plain numbers.
    if unsafe { SERVERS.get(&remote) }.is_some() {
        let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        let _ = CLIENTS.insert(&pid, &1, 0);
    }
}

/// A process is over.
#[inline(always)]
pub fn exits(pid: u32) {
    let _ = CLIENTS.remove(&pid);
}

/// A write begins, or a session ends.
#[uprobe]
pub fn weir_gate_enter(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the program's own.
    let call = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    // Read in any case: the verifier wants to see which field of the context it is.
    let (fourth, fifth): (u64, u64) = (ctx.arg(3).unwrap_or(0), ctx.arg(4).unwrap_or(0));
    let task = bpf_get_current_pid_tgid();
    let pid = (task >> 32) as u32;
    // SAFETY: entries are plain numbers.
    if unsafe { CLIENTS.get(&pid) }.is_none() {
        return 0;
    }
    let session = TlsKey { object: ctx.arg(0).unwrap_or(0), pid, padding: 0 };
    match call {
        call::WRITE => begin(&ctx, session, task as u32, 0),
        call::WRITE_EX => begin(&ctx, session, task as u32, fourth),
        call::WRITE_EX2 => begin(&ctx, session, task as u32, fifth),
        call::END => end(session),
        _ => {}
    }
    0
}

/// A write returns: what it has done is not written again.
#[uretprobe]
pub fn weir_gate_leave(ctx: RetProbeContext) -> u32 {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } != call::WRITTEN {
        return 0;
    }
    let thread = bpf_get_current_pid_tgid() as u32;
    let Some(entry) = WRITES.get_ptr_mut(&thread) else { return 0 };
    // SAFETY: the thread's own entry.
    let write = unsafe { *entry };
    if write.open == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*entry).open = 0 };
    let returned: i32 = ctx.ret();
    if returned <= 0 {
        return 0;
    }
    let done = if write.count == 0 {
        returned as u64
    } else {
        // SAFETY: the read fails, and does not fault, where nothing is there.
        match unsafe { bpf_probe_read_user(write.count as *const u64) } {
            Ok(done) => done,
            Err(_) => return 0,
        }
    };
    if let Some(written) = WRITTEN.get_ptr_mut(&write.session) {
        // SAFETY: checked; a session is written by one thread at a time.
        unsafe { (*written).offset += done };
    }
    0
}

#[inline(always)]
fn begin(ctx: &ProbeContext, session: TlsKey, thread: u32, count: u64) {
    let written = match WRITTEN.get_ptr_mut(&session) {
        Some(written) => written,
        None => {
            let _ = WRITTEN.insert(&session, &NOTHING, u64::from(BPF_NOEXIST));
            let Some(written) = WRITTEN.get_ptr_mut(&session) else { return };
            written
        }
    };
    // SAFETY: checked, here and below; a session is written by one thread at a time.
    if unsafe { (*written).ignored } != 0 {
        return;
    }
    let _ = WRITES.insert(&thread, &Write { session, count, open: 1 }, 0);
    let (buffer, length): (u64, u64) = (ctx.arg(1).unwrap_or(0), ctx.arg(2).unwrap_or(0));
    let length = length as u32;
    // A length may be negative: the call will say that it is wrong.
    if length == 0 || length > i32::MAX as u32 {
        return;
    }
    // SAFETY: as above; the helper has no preconditions.
    let (offset, time) = unsafe { ((*written).offset, bpf_ktime_get_ns()) };
    let mut head = Plain { session, time, offset, length, call: length, thread, padding: 0 };
    let mut done = 0u32;
    let mut all = true;
    if length > PIECE {
        head.length = PIECE;
        for _ in 0..PIECES {
            if length - done <= PIECE {
                break;
            }
            all &= put::<{ PIECE as usize }>(&head, buffer + u64::from(done));
            done += PIECE;
            head.offset = offset + u64::from(done);
            head.call = 0;
        }
    }
    head.length = length - done;
    all &= match head.length {
        0..=SHORT => put::<{ SHORT as usize }>(&head, buffer + u64::from(done)),
        _ if head.length <= PIECE => put::<{ PIECE as usize }>(&head, buffer + u64::from(done)),
        _ => false,
    };
    if !all {
        // SAFETY: as above.
        unsafe { (*written).lost = 1 };
    }
}

#[inline(always)]
fn end(session: TlsKey) {
    if WRITTEN.remove(&session).is_ok()
        && let Some(mut slot) = PLAIN.reserve::<Plain>(0)
    {
        slot.write(Plain { session, ..Plain::default() });
        slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    }
}

#[repr(C)]
struct Record<const N: usize> {
    head: Plain,
    bytes: [u8; N],
}

/// Puts a piece of at most `N` bytes into the ring; false where that cannot be. Nobody is woken: the ciphertext does that.
#[inline(always)]
fn put<const N: usize>(head: &Plain, from: u64) -> bool {
    let Some(mut slot) = PLAIN.reserve::<Record<N>>(0) else { return false };
    let record = slot.as_mut_ptr();
    // SAFETY: the slot is as large as its type.
    let read = unsafe {
        (&raw mut (*record).head).write(*head);
        read_up_to(&raw mut (*record).bytes, head.length, from)
    };
    if !read {
        slot.discard(0);
        return false;
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}
