//! Sends of Unix stream sockets -> payload records, in the order of the stream. Attached only while they are wanted.
//!
//! The tracepoints `sock_send_length` and `sock_recv_length` (Linux 6.3) fire behind every send and receive of a
//! socket, whatever call it came by, and never for a file: no other system call gets slower. What was sent lies in the
//! caller's memory, where the registers of its system call say; what cannot be found there is told as missing. Both
//! ends are on this host, so the sends of both are the whole conversation, and receives are only counted: they say
//! which request an answer may belong to.

use agent_common::{
    CHUNK, EDGE, Socket, UNIX_NAME, UNKNOWN_ALLOWANCE, UNKNOWN_BUDGET, UnixData, UnixOpen, UnixSocket, kind,
    mode,
};
use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
        generated::{
            bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_loop, bpf_probe_read_kernel as read_kernel,
            bpf_probe_read_user as read_user, bpf_task_pt_regs,
        },
    },
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};

use crate::maps::{EVENTS, SOCKETS, count, global, kept_from, lost, wake};
use crate::packet::NEW;

/// Cookie -> how far the socket has come. Entries leave when the agent finds the socket gone.
#[map]
static UNIX: HashMap<u64, UnixSocket> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

// Set by the agent before load, from BTF.
#[unsafe(no_mangle)]
static SOCK_FAMILY: u32 = 16;
#[unsafe(no_mangle)]
static SOCK_TYPE: u32 = 0;
#[unsafe(no_mangle)]
static UNIX_PEER: u32 = 0;
#[unsafe(no_mangle)]
static UNIX_ADDR: u32 = 0;
/// Offsets in the saved registers: the system call's number, its second and third argument.
#[unsafe(no_mangle)]
static REGS_NUMBER: u32 = 0;
#[unsafe(no_mangle)]
static REGS_SECOND: u32 = 0;
#[unsafe(no_mangle)]
static REGS_THIRD: u32 = 0;
/// Numbers of the calls that send: `write` and `sendto`, `writev`, `sendmsg`.
#[unsafe(no_mangle)]
static CALL_WRITE: u32 = 1;
#[unsafe(no_mangle)]
static CALL_SENDTO: u32 = 44;
#[unsafe(no_mangle)]
static CALL_WRITEV: u32 = 20;
#[unsafe(no_mangle)]
static CALL_SENDMSG: u32 = 46;

const AF_UNIX: u16 = 1;
const SOCK_STREAM: u16 = 1;
const MSG_OOB: i32 = 1;
const MSG_PEEK: i32 = 2;
/// Turns of one send: a call takes at most 1024 vectors, and each takes a turn to read and one to hand over; of one
/// buffer, these are 128 MiB.
const STEPS: u32 = 4096;

/// `sock_send_length(sk, sent, flags)`, in the sender's task, behind the send.
#[btf_tracepoint(function = "sock_send_length")]
pub fn weir_unix_sent(ctx: BtfTracePointContext) -> i32 {
    let (socket, length): (*mut core::ffi::c_void, i32) = (ctx.arg(0), ctx.arg(1));
    if length > 0 && is_stream(socket as usize) {
        sent(socket, length as u32);
    }
    0
}

/// `sock_recv_length(sk, received, flags)`, in the receiver's task, behind the receive.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn weir_unix_received(ctx: BtfTracePointContext) -> i32 {
    let (socket, length, flags): (*mut core::ffi::c_void, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if length > 0 && flags & (MSG_PEEK | MSG_OOB) == 0 && is_stream(socket as usize) {
        // SAFETY: the tracepoint hands over a socket.
        let cookie = unsafe { bpf_get_socket_cookie(socket) };
        if let Some((_, at)) = place(socket as usize, cookie) {
            // SAFETY: the pointer was checked; one receiver at a time holds the socket's lock.
            unsafe { (*at).received = (*at).received.wrapping_add(length as u32) };
        }
    }
    0
}

/// Reads a kernel field; zero where it cannot be read.
#[inline(always)]
fn field<T: Copy + Default>(base: usize, offset: u32) -> T {
    // SAFETY: the helper fails, and does not fault, where there is nothing to read.
    unsafe { bpf_probe_read_kernel((base + offset as usize) as *const T) }.unwrap_or_default()
}

#[inline(always)]
fn is_stream(socket: usize) -> bool {
    field::<u16>(socket, global(&SOCK_FAMILY)) == AF_UNIX
        && field::<u16>(socket, global(&SOCK_TYPE)) == SOCK_STREAM
}

/// The socket's entries, made at its first bytes; `None` where it is of no interest.
#[inline(always)]
fn place(socket: usize, cookie: u64) -> Option<(*mut Socket, *mut UnixSocket)> {
    if let Some(wanted) = SOCKETS.get_ptr_mut(&cookie) {
        // SAFETY: checked above.
        if unsafe { (*wanted).mode[0] } == mode::IGNORE {
            return None;
        }
        return UNIX.get_ptr_mut(&cookie).map(|at| (wanted, at));
    }
    let fresh = UnixSocket { sent: 0, received: 0 };
    if SOCKETS.insert(&cookie, &NEW, u64::from(BPF_NOEXIST)).is_err()
        || UNIX.insert(&cookie, &fresh, 0).is_err()
    {
        count(|c| c.sockets_full += 1);
        return None;
    }
    announce(socket, cookie);
    Some((SOCKETS.get_ptr_mut(&cookie)?, UNIX.get_ptr_mut(&cookie)?))
}

/// Tells who a socket is and who its peer.
#[inline(never)]
fn announce(socket: usize, cookie: u64) -> i32 {
    let Some(mut slot) = EVENTS.reserve::<UnixOpen>(0) else {
        count(|c| c.ring_full += 1);
        return 0;
    };
    let record = slot.as_mut_ptr();
    let peer: usize = field(socket, global(&UNIX_PEER));
    let own: usize = field(socket, global(&UNIX_ADDR));
    let address = if own != 0 || peer == 0 { own } else { field(peer, global(&UNIX_ADDR)) };
    // SAFETY: the slot is as large as the record and every field is written, the name's unused part excepted, which
    // its length excludes.
    unsafe {
        (*record).kind = kind::UNIX_OPEN;
        (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*record).cookie = cookie;
        (*record).own = socket as u64;
        (*record).peer = peer as u64;
        (*record).time = bpf_ktime_get_ns();
        (*record).bound = u32::from(own != 0);
        (*record).padding = 0;
        // `struct unix_address`: a count, the length of the address with its two bytes of family, the address.
        let length: u32 = field(address, 4);
        let name = if address == 0 || length < 3 { 0 } else { (length - 2).min(UNIX_NAME as u32) };
        (*record).name_length = name;
        if name > 0 {
            let to = (&raw mut (*record).name).cast();
            if read_kernel(to, UNIX_NAME as u32, (address + 10) as *const _) != 0 {
                (*record).name_length = 0;
            }
        }
    }
    slot.submit(wake(true));
    0
}

/// One send on its way into records.
#[derive(Clone, Copy)]
struct Walk {
    record: UnixData,
    /// The vectors that are left: their place in the caller's memory, their number.
    vectors: u64,
    count: u64,
    /// The piece at hand: its place, its length.
    base: u64,
    length: u64,
    /// Bytes of the send that are left.
    left: u32,
    urgent: u32,
}

#[inline(always)]
fn sent(socket: *mut core::ffi::c_void, bytes: u32) {
    // SAFETY: the tracepoint hands over a socket.
    let cookie = unsafe { bpf_get_socket_cookie(socket) };
    let Some((wanted, at)) = place(socket as usize, cookie) else { return };
    // SAFETY: both pointers were checked; two threads that send at once have no order that anyone could know.
    let (wanted, at) = unsafe { (&mut *wanted, &mut *at) };
    let sequence = at.sent;
    at.sent = sequence.wrapping_add(bytes);
    count(|c| c.segments += 1);
    let id = bpf_get_current_pid_tgid();
    let record = UnixData {
        kind: kind::UNIX_DATA,
        length: bytes,
        head: 0,
        tail: 0,
        cookie,
        // SAFETY: no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        sequence,
        acknowledgment: at.received,
        pid: (id >> 32) as u32,
        tid: id as u32,
    };
    let mut walk =
        Walk { record, vectors: 0, count: 0, base: 0, length: 0, left: bytes, urgent: wanted.urgent };
    let edges = decide(wanted, &mut walk);
    if kept_from(wanted.urgent) {
        count(|c| {
            c.ring_full += 1;
            c.ring_full_bytes += u64::from(bytes);
        });
        return missing(cookie, bytes);
    }
    locate(&mut walk);
    if edges && walk.vectors == 0 && walk.base != 0 {
        ends(&mut walk);
        return;
    }
    let from = (&raw mut walk).cast();
    // SAFETY: the callback gets back exactly this pointer. A loop of the kernel's: the verifier follows one turn, not
    // each of them.
    unsafe { bpf_loop(STEPS, step as *mut core::ffi::c_void, from, 0) };
    if walk.left > 0 {
        missing(cookie, walk.left);
    }
}

/// True where only the edges are wanted. The same rules as for segments.
#[inline(always)]
fn decide(socket: &mut Socket, walk: &mut Walk) -> bool {
    let bytes = walk.record.length;
    let news = walk.record.acknowledgment != socket.guard[0];
    match socket.mode[0] {
        mode::UNKNOWN => {
            let mut used = socket.unknown[0];
            if news {
                socket.guard[0] = walk.record.acknowledgment;
                used = used.min(UNKNOWN_BUDGET - UNKNOWN_ALLOWANCE);
            }
            if used > UNKNOWN_BUDGET && bytes > 2 * EDGE {
                return true;
            }
            walk.urgent |= u32::from(used == 0 || used >> 16 != used.wrapping_add(bytes) >> 16);
            socket.unknown[0] = used.saturating_add(bytes).saturating_add(1);
            false
        }
        mode::HEAD_TAIL => bytes > 2 * EDGE && !news,
        _ => false,
    }
}

/// Finds what was sent in the caller's memory, by its system call. Leaves the walk empty where that is not known:
/// io_uring, splice, several messages in a call.
#[inline(always)]
fn locate(walk: &mut Walk) {
    // SAFETY: the current task has saved registers; reads fail, and do not fault, where they point nowhere.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as usize;
    let number: u64 = field(registers, global(&REGS_NUMBER));
    let second: u64 = field(registers, global(&REGS_SECOND));
    let third: u64 = field(registers, global(&REGS_THIRD));
    let number = number as u32;
    if number == global(&CALL_WRITE) || number == global(&CALL_SENDTO) {
        walk.base = second;
        walk.length = third;
    } else if number == global(&CALL_WRITEV) {
        walk.vectors = second;
        walk.count = third;
    } else if number == global(&CALL_SENDMSG) {
        // `struct msghdr`: the vectors behind the name and its length.
        let mut vectors = [0u64; 2];
        // SAFETY: as above, into an array of that size.
        let rc = unsafe { read_user((&raw mut vectors).cast(), 16, (second + 16) as *const _) };
        if rc == 0 {
            [walk.vectors, walk.count] = vectors;
        }
    }
}

/// Hands over the next piece, or turns to the next vector; 1 where there is nothing more to do.
extern "C" fn step(_turn: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `sent` hands over its own.
    let walk = unsafe { &mut *walk };
    if walk.left == 0 {
        return 1;
    }
    if walk.length == 0 {
        if walk.count == 0 {
            return 1;
        }
        let mut vector = [0u64; 2];
        // SAFETY: the helper fails where the address is not the caller's; the array is of that size.
        if unsafe { read_user((&raw mut vector).cast(), 16, walk.vectors as *const _) } != 0 {
            return 1;
        }
        [walk.base, walk.length] = vector;
        walk.vectors += 16;
        walk.count -= 1;
        return 0;
    }
    let mut piece = if walk.left > CHUNK { CHUNK } else { walk.left };
    if u64::from(piece) > walk.length {
        piece = walk.length as u32;
    }
    walk.record.length = piece;
    walk.record.head = piece;
    if !sized(walk) {
        missing(walk.record.cookie, piece);
    }
    walk.record.sequence = walk.record.sequence.wrapping_add(piece);
    walk.base += u64::from(piece);
    walk.length -= u64::from(piece);
    walk.left -= piece;
    0
}

#[repr(C)]
struct Chunk<const N: usize> {
    record: UnixData,
    data: [u8; N],
}

/// Picks the size class, as for segments.
#[inline(always)]
fn sized(walk: &Walk) -> bool {
    match walk.record.head {
        0..=128 => put::<128>(walk),
        129..=512 => put::<512>(walk),
        513..=2048 => put::<2048>(walk),
        2049..=8192 => put::<8192>(walk),
        _ => put::<32768>(walk),
    }
}

#[inline(always)]
fn put<const N: usize>(walk: &Walk) -> bool {
    let length = walk.record.head;
    let Some(mut slot) = EVENTS.reserve::<Chunk<N>>(0) else {
        count(|c| {
            c.ring_full += 1;
            c.ring_full_bytes += u64::from(length);
        });
        return false;
    };
    let entry = slot.as_mut_ptr();
    // Says 1..=N in a way that the verifier follows: N is a power of two.
    let bounded = (length.wrapping_sub(1) & (N as u32 - 1)) + 1;
    // SAFETY: the slot is as large as its type, and no more than `N` bytes are written behind the record.
    let rc = unsafe {
        (&raw mut (*entry).record).write(walk.record);
        read_user((&raw mut (*entry).data).cast(), bounded, walk.base as *const _)
    };
    if rc != 0 {
        slot.discard(0);
        count(|c| c.unreadable_bytes += u64::from(length));
        return false;
    }
    slot.submit(wake(walk.urgent != 0));
    count(|c| {
        c.records += 1;
        c.bytes += u64::from(length);
    });
    true
}

/// Hands over the first and last bytes of a send from one buffer.
#[inline(never)]
fn ends(walk: &mut Walk) -> i32 {
    let total = walk.record.length;
    walk.record.head = EDGE;
    walk.record.tail = EDGE;
    let Some(mut slot) = EVENTS.reserve::<Chunk<{ 2 * EDGE as usize }>>(0) else {
        count(|c| {
            c.ring_full += 1;
            c.ring_full_bytes += u64::from(total);
        });
        missing(walk.record.cookie, total);
        return 0;
    };
    let entry = slot.as_mut_ptr();
    // SAFETY: the slot is as large as its type; the helper fills exactly what is handed over.
    let rc = unsafe {
        (&raw mut (*entry).record).write(walk.record);
        let data = (&raw mut (*entry).data).cast::<u8>();
        let tail = walk.base + u64::from(total) - u64::from(EDGE);
        read_user(data.cast(), EDGE, walk.base as *const _)
            | read_user(data.add(EDGE as usize).cast(), EDGE, tail as *const _)
    };
    if rc != 0 {
        slot.discard(0);
        count(|c| c.unreadable_bytes += u64::from(total));
        missing(walk.record.cookie, total);
        return 0;
    }
    slot.submit(wake(walk.urgent != 0));
    count(|c| {
        c.records += 1;
        c.bytes += u64::from(2 * EDGE);
    });
    0
}

/// Notes what a socket sent and nobody will see.
#[inline(never)]
fn missing(cookie: u64, bytes: u32) {
    lost(cookie, |l| {
        l.records += 1;
        l.bytes[0] += u64::from(bytes);
    });
}
