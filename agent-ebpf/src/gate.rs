//! Kernel programs of the gate: what a client sends to an enrolled server's socket -> on to the server, or to the shim.
//!
//! A text that was judged before, for this kind of session, is known by its hash and passes; all else is held. They know
//! sockets, bytes and a [`Framing`] that says where texts stand, never a protocol.
#![no_std]
#![no_main]
// The bpf target has no atomic types; the instruction exists since 5.12.
#![feature(asm_experimental_arch)]

use core::arch::asm;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use agent_common::gate::{
    ANSWERS, FROM_SHIM, Framing, HEADER, HELLO_MAX, Known, Lane, MESSAGES_MAX, NAME_MAX, Name, PASSES,
    Remote, SINK, Shared, TO_SHIM, Tally, act, lane as state, late,
};
use agent_common::shape::{Shape, TEXT_MAX};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_INGRESS, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE,
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, sk_action::SK_DROP, sk_action::SK_PASS,
    },
    btf_maps::SkStorage,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_socket_cookie, bpf_ktime_get_ns,
        generated::{bpf_loop, bpf_sk_storage_get, bpf_skb_load_bytes},
    },
    macros::{btf_map, map, sk_msg, sock_ops, stream_verdict},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, SockHash},
    programs::{SkBuffContext, SkMsgContext, SockOpsContext},
};

mod early; // what comes before its time is made to come again
mod enter; // sockets that are open already
mod parse; // a uprobe on a server's parser: what could not be read on its way

const TCP_CLOSE: u32 = 7;
/// A value that nobody gives to [`Shared::armed`].
const KEPT: u32 = 0xffff;

/// Enrolled sockets of servers, by cookie.
#[map]
static GUARDED: SockHash<u64> = SockHash::with_max_entries(1 << 12, 0);
/// Those of them whose answers go through the shim, by cookie: what they send is looked at as well.
#[map]
static ANSWERED: SockHash<u64> = SockHash::with_max_entries(1 << 12, 0);
/// Lanes of these sockets: a program that looks at what is sent cannot ask for the socket's cookie.
#[btf_map]
static LANE_OF: SkStorage<u32> = SkStorage::new();
/// The shim's sockets: by lane those that have what is held, and two more for answers, see [`TO_SHIM`], [`FROM_SHIM`].
#[map]
static SHIMS: SockHash<u64> = SockHash::with_max_entries(3 << 12, 0);
/// Which place of `SHIMS` a shim's socket has, by its ports: its own in the upper half.
#[map]
static SERVES: HashMap<u32, u64> = HashMap::with_max_entries(3 << 12, BPF_F_NO_PREALLOC);
/// Enrolled sockets: cookie -> lane.
#[map]
static GATED: HashMap<u64, u32> = HashMap::with_max_entries(1 << 12, BPF_F_NO_PREALLOC);
/// See [`Lane`].
#[map]
static LANES: Array<Lane> = Array::with_max_entries(1 << 12, BPF_F_MMAPABLE);
/// What is being looked at, by lane. One socket is looked at by one processor at a time; a processor may be taken from
/// one socket to another in the middle of it. All that a walk remembers is in here as well: the verifier follows every
/// value on the stack through every turn of a loop, and gives up.
#[map]
static BUFFERS: Array<Buffer> = Array::with_max_entries(1 << 12, 0);
/// Lanes that have their shim's socket and no connection.
#[map]
static FREE: Queue<u32> = Queue::with_max_entries(1 << 12, 0);
/// Server ports whose connections are enrolled: which framing they have.
#[map]
static PORTS: HashMap<u16, u32> = HashMap::with_max_entries(256, 0);
/// See [`Remote`].
#[map]
static REMOTES: HashMap<Remote, u32> = HashMap::with_max_entries(1 << 10, 0);
/// See [`Framing`].
#[map]
static FRAMINGS: Array<Framing> = Array::with_max_entries(8, 0);
/// Texts that pass.
#[map]
static KNOWN: HashMap<Known, u32> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
/// Names of prepared texts -> hashes of the texts.
#[map]
static NAMES: LruHashMap<Name, u64> = LruHashMap::with_max_entries(1 << 16, 0);
/// First messages of connections, by lane.
#[map]
static HELLO: Array<[u8; HELLO_MAX as usize]> = Array::with_max_entries(1 << 12, 0);
/// See [`Shared`].
#[map]
static SHARED: Array<Shared> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Totals.
#[map]
static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn tally(change: impl FnOnce(&mut Tally)) {
    if let Some(tally) = TALLY.get_ptr_mut(0) {
        // SAFETY: this CPU's slot, checked above.
        change(unsafe { &mut *tally });
    }
}

/// A connection to an enrolled port is accepted, or an enrolled one is gone.
#[sock_ops]
pub fn weir_enrol(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            // SAFETY: the verifier checks every read of the context.
            let port = unsafe { read_volatile(&raw const (*ctx.ops).local_port) } as u16;
            // SAFETY: entries are plain numbers.
            if let Some(&served) = unsafe { PORTS.get(&port) } {
                enrol(&ctx, served & !ANSWERS, served & ANSWERS != 0, 0);
            }
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            let remote = remote(&ctx);
            // SAFETY: entries are plain numbers.
            if let Some(&framing) = unsafe { REMOTES.get(&remote) } {
                enrol(&ctx, framing, true, 1);
            }
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => leave(&ctx),
        _ => {}
    }
    1
}

const AF_INET6: u32 = 10;

/// The other end of a socket.
#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Remote {
    let ops = ctx.ops;
    // SAFETY: the verifier checks every read of the context. Volatile, each by itself: it takes no wider reads.
    unsafe {
        let port = u32::from_be(read_volatile(&raw const (*ops).remote_port));
        let first = read_volatile(&raw const (*ops).remote_ip4);
        if read_volatile(&raw const (*ops).family) != AF_INET6 {
            return Remote::v4(first, port);
        }
        let address = [
            read_volatile(&raw const (*ops).remote_ip6[0]),
            read_volatile(&raw const (*ops).remote_ip6[1]),
            read_volatile(&raw const (*ops).remote_ip6[2]),
            read_volatile(&raw const (*ops).remote_ip6[3]),
        ];
        Remote::v6(address, port)
    }
}

/// `through`: what the socket sends goes through the shim.
#[inline(always)]
fn enrol(ctx: &SockOpsContext, framing: u32, through: bool, client: u32) {
    if shared().is_none_or(|shared| volatile(&shared.armed) != 1) {
        return;
    }
    let Ok(Some(index)) = FREE.pop() else {
        tally(|t| t.crowded += 1);
        return;
    };
    let Some(lane) = LANES.get_ptr_mut(index) else { return };
    // SAFETY: a helper without preconditions but a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the pointer was checked; nobody else uses a lane that was free.
    unsafe {
        let since = bpf_ktime_get_ns();
        *lane = Lane { word: 1, cookie, state: state::OPEN, framing, client, since, ..Lane::default() };
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = ctx.set_cb_flags(flags as i32);
    let mut key = cookie;
    // SAFETY: the context's pointer is valid for the call.
    let let_in = GATED.insert(&cookie, &index, 0).is_ok()
        && GUARDED.update(&mut key, unsafe { &mut *ctx.ops }, 0).is_ok();
    if let_in {
        tally(|t| t.enrolled += 1);
        // Where this fails the shim sees a connection whose answers it cannot change, and lets nothing be asked that
        // would have to be.
        if through && answer_through_shim(ctx, cookie, index) {
            // SAFETY: as above.
            unsafe { write_volatile(&raw mut (*lane).answers, 1) };
        }
    } else {
        let _ = GATED.remove(&cookie);
        // SAFETY: as above.
        unsafe { write_volatile(&raw mut (*lane).state, state::CLOSED) };
        tally(|t| t.refused += 1);
    }
}

/// From here on what the server sends is looked at.
#[inline(always)]
fn answer_through_shim(ctx: &SockOpsContext, cookie: u64, mut index: u32) -> bool {
    // SAFETY: the verifier checks every read of the context.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return false;
    }
    let map = (&raw const LANE_OF).cast_mut().cast();
    // SAFETY: the socket was checked, the value lives for the call.
    let kept = unsafe {
        bpf_sk_storage_get(
            map,
            socket.cast(),
            (&raw mut index).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    let mut key = cookie;
    // SAFETY: the context's pointer is valid for the call.
    !kept.is_null() && ANSWERED.update(&mut key, unsafe { &mut *ctx.ops }, 0).is_ok()
}

#[inline(always)]
fn leave(ctx: &SockOpsContext) {
    // SAFETY: a helper without preconditions but a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: entries are plain numbers.
    let Some(&index) = (unsafe { GATED.get(&cookie) }) else { return };
    if let Some(lane) = LANES.get_ptr_mut(index) {
        // SAFETY: the pointer was checked.
        unsafe { write_volatile(&raw mut (*lane).state, state::CLOSED) };
    }
    let _ = GATED.remove(&cookie);
}

#[inline(always)]
fn shared() -> Option<&'static Shared> {
    SHARED.get(0)
}

/// What a client has sent and its server has not read yet.
#[stream_verdict]
pub fn weir_verdict(ctx: SkBuffContext) -> u32 {
    let size = ctx.len();
    if size == 0 {
        // The end of the stream. Redirected it would be an error that the shim reads for ever.
        return SK_PASS;
    }
    // SAFETY: a helper without preconditions but a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: entries are plain numbers.
    let Some(&index) = (unsafe { GATED.get(&cookie) }) else { return SK_PASS };
    let Some(lane) = LANES.get_ptr_mut(index) else { return SK_PASS };
    // SAFETY: checked above; the kernel side is alone with its fields, the shim's are plain words.
    let lane = unsafe { &mut *lane };
    let verdict = decide(&ctx, lane, index, cookie, size);
    // Behind all else that is said of these bytes: the end of the stream waits for it.
    let looked = volatile(&lane.looked).wrapping_add(size);
    // SAFETY: a plain word, which this socket's processing alone writes.
    unsafe { write_volatile(&raw mut lane.looked, looked) };
    verdict
}

/// Whether what has come goes on to the server, or to the shim.
#[inline(always)]
fn decide(ctx: &SkBuffContext, lane: &mut Lane, index: u32, cookie: u64, size: u32) -> u32 {
    let Some(shared) = shared() else { return SK_PASS };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if lane.client != 0 {
        // What its server answers. It is looked at for one reason: a socket whose sends alone are looked at tells its
        // process that there is nothing to read (`FIONREAD`) on kernels of 2026.
        return SK_PASS;
    }
    if volatile(&shared.armed) == KEPT {
        // Never so. But this makes the program hold the map that holds the sockets, as each of them holds the program: a
        // socket that leaves the map while it is open counts its bytes wrongly from then on (redirected ones are missing
        // in `copied_seq`), and its server reads nothing any more. So none leaves, whoever is killed.
        let mut key = cookie;
        return GUARDED.redirect_skb(ctx, &mut key, 0) as u32;
    }
    let size64 = u64::from(size);
    let mut waiting = volatile(&lane.word);
    if waiting >= PASSES {
        if add(lane, size64 << 1) >= PASSES {
            return SK_PASS;
        }
        // It was taken back in this very moment.
        add(lane, (size64 << 1).wrapping_neg());
        waiting = volatile(&lane.word);
    }
    if volatile(&shared.armed) == 0 && waiting & 1 == 0 {
        return SK_PASS;
    }
    if volatile(&shared.pulse) + volatile(&shared.patience) < now {
        tally(|t| t.unguarded += 1);
        // Behind what the shim has and does not hand on nothing may pass: that would be another order.
        if waiting <= 1 && volatile(&lane.answers) == 0 && volatile(&shared.closed) == 0 {
            // Nobody follows where messages begin from here on: it has to be taken back.
            let change = PASSES - waiting + (size64 << 1);
            if add(lane, change) == waiting {
                return SK_PASS;
            }
            add(lane, change.wrapping_neg());
        }
        // The agent ends a connection that has lost something.
        lane.overflow = 1;
        return SK_DROP;
    }
    if waiting == 1 && lane.late == late::NO && lane.hello == 0 && greets(ctx, lane, index, size) {
        return SK_PASS;
    }
    if waiting & 1 != 0 {
        if (waiting >> 1) + size64 > volatile(&lane.forwarded) + volatile(&shared.held_max) {
            lane.overflow = 1;
            tally(|t| t.overflowed += 1);
            return SK_DROP;
        }
        if waiting == 1 {
            lane.since = now;
        }
        let before = add(lane, size64 << 1);
        if before & 1 != 0 {
            return hold(ctx, lane, index, (waiting, size64), shared);
        }
        // Somebody has let go in this very moment.
        if before >= PASSES {
            return SK_PASS;
        }
        add(lane, (size64 << 1).wrapping_neg());
    }
    let start = volatile(&lane.remain);
    let Some(buffer) = BUFFERS.get_ptr_mut(index) else { return SK_PASS };
    // SAFETY: checked above, and this socket's alone. Volatile: the walk reads and changes it by a pointer of its own.
    let look = unsafe { &raw mut (*buffer).look };
    let begin = Look {
        at: start,
        size,
        risky: 1,
        passed: 0,
        framing: lane.framing,
        class: volatile(&lane.class),
        cookie,
        key: shared.key,
    };
    // SAFETY: as above.
    unsafe { write_volatile(look, begin) };
    let mut walk = Walk { skb: ctx.as_ptr(), index: u64::from(index) };
    // SAFETY: the callback takes what it is given, and is gone when this returns.
    unsafe {
        bpf_loop(MESSAGES_MAX, message as *mut c_void, (&raw mut walk).cast(), 0);
    }
    // SAFETY: as above.
    let (risky, at, passed) = unsafe {
        (
            read_volatile(&raw const (*look).risky),
            read_volatile(&raw const (*look).at),
            read_volatile(&raw const (*look).passed),
        )
    };
    if risky == 0 {
        lane.remain = at - size;
        lane.passed += u64::from(passed);
        tally(|t| t.passed += 1);
        return SK_PASS;
    }
    lane.skip = start;
    lane.forwarded = 0;
    lane.since = now;
    if volatile(&lane.begun) & 2 != 0 {
        tally(|t| t.parted += 1);
    }
    if add(lane, size64 << 1 | 1) >= PASSES {
        // It was let go for good while this was looked at: there may be nobody any more who hands it on.
        add(lane, u64::MAX);
        return SK_PASS;
    }
    hold(ctx, lane, index, (0, size64), shared)
}

/// True where a piece is a connection's first message and nothing else. It cannot ask for anything, and it may not be
/// redirected: what came before the server accepted the connection is looked at when the server reads, and a redirection
/// in there is missing in `copied_seq` for ever. The server's loop would find the socket readable, and nothing in it.
#[inline(always)]
fn greets(ctx: &SkBuffContext, lane: &mut Lane, index: u32, size: u32) -> bool {
    let Some(hello) = HELLO.get_ptr_mut(index) else { return false };
    // SAFETY: checked above, and this socket's alone.
    let hello = unsafe { &mut *hello };
    if !load(ctx.as_ptr(), 0, hello, size) {
        return false;
    }
    let Some(framing) = FRAMINGS.get(lane.framing) else { return false };
    let word = u32::from_be_bytes([hello[4], hello[5], hello[6], hello[7]]);
    if size < 8
        || u32::from_be_bytes([hello[0], hello[1], hello[2], hello[3]]) != size
        || word == framing.never
    {
        return false;
    }
    lane.hello = size;
    true
}

#[inline(always)]
fn hold(
    ctx: &SkBuffContext,
    lane: &mut Lane,
    index: u32,
    (waiting, size): (u64, u64),
    shared: &Shared,
) -> u32 {
    let mut key = u64::from(index);
    let verdict = SHIMS.redirect_skb(ctx, &mut key, u64::from(BPF_F_INGRESS)) as u32;
    if verdict == SK_PASS {
        tally(|t| t.held += 1);
        return verdict;
    }
    // The shim has just died. Nothing of this connection was with it: then it is as any other that nobody guards.
    tally(|t| t.failed += 1);
    if waiting <= 1 && volatile(&lane.answers) == 0 && volatile(&shared.closed) == 0 {
        if add(lane, PASSES - 1) == size << 1 | 1 {
            return SK_PASS;
        }
        add(lane, (PASSES - 1).wrapping_neg());
    }
    lane.overflow = 1;
    SK_DROP
}

/// Adds to a lane's word; gives what it was.
#[inline(always)]
fn add(lane: &mut Lane, what: u64) -> u64 {
    add_to(&raw mut lane.word, what)
}

/// Adds to a word of a map's value; gives what it was.
#[inline(always)]
fn add_to(word: *mut u64, what: u64) -> u64 {
    let mut value = what;
    // SAFETY: the word is aligned, and everybody changes it atomically.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            value = inout(reg) value,
            word = in(reg) word,
        );
    }
    value
}

#[inline(always)]
fn volatile<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { read_volatile(value) }
}

/// Keeps the compiler from checking one register and using another, which the verifier does not follow.
#[inline(always)]
fn opaque(value: u32) -> u64 {
    let mut value = u64::from(value);
    // SAFETY: copies a register to itself.
    unsafe { asm!("{value} = {value}", value = inout(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// What a lane's looks need: see [`BUFFERS`].
#[repr(C)]
pub struct Buffer {
    bytes: [u8; TEXT_MAX as usize],
    look: Look,
    read: Read,
}

/// A walk over the messages of a piece.
#[repr(C)]
struct Walk {
    skb: *mut c_void,
    /// The lane.
    index: u64,
}

/// How far it is.
#[repr(C)]
struct Look {
    /// Where the next message begins.
    at: u32,
    size: u32,
    /// 0 once all of the piece is known to be harmless.
    risky: u32,
    passed: u32,
    framing: u32,
    class: u32,
    cookie: u64,
    key: [u64; 2],
}

const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// Looks at one message; what is not known to be harmless ends the walk.
unsafe extern "C" fn message(_number: u32, walk: *mut c_void) -> i64 {
    // SAFETY: the caller's, and only ours while the walk goes on.
    let walk = unsafe { &*walk.cast::<Walk>() };
    let index = walk.index as u32;
    let Some(buffer) = BUFFERS.get_ptr_mut(index) else { return STOP };
    // SAFETY: checked above, and this socket's alone.
    let Buffer { bytes, look, read } = unsafe { &mut *buffer };
    if look.at >= look.size {
        look.risky = 0;
        return STOP;
    }
    let left = look.size - look.at;
    if left < HEADER || !load(walk.skb, look.at, bytes, HEADER) {
        return STOP;
    }
    let Some(framing) = FRAMINGS.get(look.framing) else { return STOP };
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    let whole = length.wrapping_add(framing.more);
    if whole < HEADER || whole > 1 << 30 {
        return STOP;
    }
    let act = framing.acts[usize::from(bytes[0])];
    let known = match act {
        act::PASS => true,
        act::TEXT | act::NAMED_TEXT | act::NAMED => {
            let have = if left < whole { left } else { whole };
            let body = have - HEADER;
            let take = if body < TEXT_MAX { body } else { TEXT_MAX };
            // A text that is not all here, or longer than what is looked at, is held.
            let fits = left >= whole && body <= TEXT_MAX;
            (act == act::NAMED || fits)
                && load(walk.skb, look.at + HEADER, bytes, take)
                && is_known(look, read, index, take, act)
        }
        _ => false,
    };
    if !known {
        return STOP;
    }
    look.at += whole;
    GO_ON
}

#[inline(always)]
fn load(skb: *mut c_void, from: u32, buffer: &mut [u8; TEXT_MAX as usize], length: u32) -> bool {
    let length = opaque(length);
    if length == 0 || length > u64::from(TEXT_MAX) {
        return false;
    }
    // SAFETY: the buffer is as long as checked.
    unsafe { bpf_skb_load_bytes(skb, from, buffer.as_mut_ptr().cast(), length as u32) == 0 }
}

/// A walk over the bytes of a message: names, then a text.
#[repr(C)]
struct Read {
    shape: Shape,
    key: [u64; 2],
    /// Hash of the last name.
    name: u64,
    length: u32,
    /// Names that are still to come.
    names: u32,
    /// Bytes of the name that is being read.
    named: u32,
    /// 1 where a text follows the names.
    texts: u32,
    /// Where the last NUL that counts stands, and one more; 0 before it is found.
    end: u32,
}

/// Bytes that one call of [`bytes`] reads.
const STEP: u32 = 1;

/// Reads what stands in the first `length` bytes of the buffer: names and a text as `act` says.
#[inline(always)]
fn is_known(look: &mut Look, read: &mut Read, index: u32, length: u32, act: u8) -> bool {
    let names = match act {
        act::TEXT => 0u32,
        act::NAMED_TEXT => 1,
        _ => 2,
    };
    let begin = Read {
        shape: Shape::new(look.key),
        key: look.key,
        name: 0,
        length,
        names,
        named: 0,
        texts: (act != act::NAMED) as u32,
        end: 0,
    };
    let read = &raw mut *read;
    // SAFETY: it is the lane's. Volatile: the walk reads and changes it by a pointer of its own.
    unsafe { write_volatile(read, begin) };
    // SAFETY: the callback takes what it is given, and is gone when this returns.
    unsafe {
        let mut lane = u64::from(index);
        bpf_loop(length.div_ceil(STEP), bytes as *mut c_void, (&raw mut lane).cast(), 0);
    }
    // SAFETY: as above.
    let read = unsafe { read_volatile(read) };
    if read.end == 0 || read.named > NAME_MAX {
        tally(|t| t.long += 1);
        return false;
    }
    let name = Name { cookie: look.cookie, hash: read.name };
    let hash = if act == act::NAMED {
        // SAFETY: entries are plain numbers.
        match unsafe { NAMES.get(&name) } {
            Some(&hash) => hash,
            None => {
                tally(|t| t.unnamed += 1);
                return false;
            }
        }
    } else {
        // What follows a text's NUL in the same message was not judged with it.
        if act == act::TEXT && read.end != length {
            return false;
        }
        read.shape.finish()
    };
    let known = Known { hash, class: look.class, padding: 0 };
    if hash == 0 {
        tally(|t| t.odd += 1);
        return false;
    }
    // SAFETY: entries are plain numbers.
    if unsafe { KNOWN.get(&known) }.is_none() {
        tally(|t| t.new += 1);
        return false;
    }
    if act == act::NAMED_TEXT && NAMES.insert(&name, &hash, 0).is_err() {
        return false;
    }
    look.passed += 1;
    true
}

/// Reads the next few bytes.
unsafe extern "C" fn bytes(number: u32, lane: *mut c_void) -> i64 {
    // SAFETY: the caller's number of the lane.
    let lane = unsafe { *lane.cast::<u64>() } as u32;
    let Some(buffer) = BUFFERS.get_ptr_mut(lane) else { return STOP };
    // SAFETY: checked above, and this socket's alone.
    let Buffer { bytes: buffer, read, .. } = unsafe { &mut *buffer };
    let mut shape = read.shape;
    let mut k = 0u32;
    while k < STEP {
        let at = number * STEP + k;
        k += 1;
        if at >= TEXT_MAX || at >= read.length {
            read.shape = shape;
            return STOP;
        }
        let byte = buffer[(opaque(at) & u64::from(TEXT_MAX - 1)) as usize];
        if byte == 0 {
            if read.names > 0 {
                read.name = shape.finish();
                read.names -= 1;
                if read.names > 0 {
                    // Only the last name matters, and how long the others are does not.
                    read.named = 0;
                }
                shape = Shape::new(read.key);
            } else if read.texts != 0 {
                read.end = at + 1;
            }
            if read.names == 0 && read.texts == 0 {
                read.end = at + 1;
            }
            if read.end != 0 {
                read.shape = shape;
                return STOP;
            }
        } else if read.names > 0 {
            shape.raw(byte);
            read.named += 1;
        } else {
            shape.step(byte);
        }
    }
    read.shape = shape;
    GO_ON
}

/// What the shim lets through: into its server's socket, or, of what came from there, on to the client.
#[sk_msg]
pub fn weir_release(ctx: SkMsgContext) -> u32 {
    // SAFETY: the verifier checks every read of the context.
    let (own, other) = unsafe {
        (read_volatile(&raw const (*ctx.msg).local_port), read_volatile(&raw const (*ctx.msg).remote_port))
    };
    let ports = own << 16 | u32::from(u32::from_be(other) as u16);
    // SAFETY: entries are plain numbers.
    let Some(&place) = (unsafe { SERVES.get(&ports) }) else { return SK_DROP };
    let Some(lane) = LANES.get_ptr_mut(place as u32) else { return SK_DROP };
    // SAFETY: checked above.
    let mut cookie = unsafe { (*lane).cookie };
    let way = u64::from(BPF_F_INGRESS);
    let verdict = if place & FROM_SHIM == 0 {
        GUARDED.redirect_msg(&ctx, &mut cookie, way)
    } else {
        ANSWERED.redirect_msg(&ctx, &mut cookie, 0)
    };
    if verdict as u32 == SK_PASS {
        return SK_PASS;
    }
    // The connection is gone. Not `SK_DROP`: the kernel asks no more after that, and nothing that is sent on this socket
    // would ever go anywhere again, for the next connection of this lane either.
    let mut sink = SINK;
    SHIMS.redirect_msg(&ctx, &mut sink, way) as u32
}

/// What a server sends whose answers go through the shim, or a client whose server is elsewhere. It goes into a connection that the shim reads, not into its
/// socket: that one is full at some time, and then the server waits, as it would for its client.
#[sk_msg]
pub fn weir_answer(ctx: SkMsgContext) -> u32 {
    // SAFETY: the verifier checks every read of the context.
    let socket = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if socket.is_null() {
        return SK_DROP;
    }
    let map = (&raw const LANE_OF).cast_mut().cast();
    // SAFETY: the socket was checked.
    let index = unsafe { bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0) };
    if index.is_null() {
        return SK_DROP;
    }
    // SAFETY: checked above, and as large.
    let index = unsafe { *index.cast::<u32>() };
    let Some(lane) = LANES.get_ptr_mut(index) else { return SK_DROP };
    // SAFETY: checked above.
    let (answers, mut cookie) = unsafe { (read_volatile(&raw const (*lane).answers), (*lane).cookie) };
    if answers == 0 {
        // Not `SK_PASS`: after a send that was cut short the next one would pass unseen.
        return ANSWERED.redirect_msg(&ctx, &mut cookie, 0) as u32;
    }
    // SAFETY: checked above; helpers without preconditions.
    unsafe {
        if (*lane).client != 0 {
            write_volatile(&raw mut (*lane).sender, bpf_get_current_pid_tgid());
            write_volatile(&raw mut (*lane).sent, bpf_ktime_get_ns());
        }
    }
    let mut place = u64::from(index) | TO_SHIM;
    let verdict = SHIMS.redirect_msg(&ctx, &mut place, 0) as u32;
    tally(|t| if verdict == SK_PASS { t.answers += 1 } else { t.failed += 1 });
    verdict
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
