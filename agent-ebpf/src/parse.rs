//! A uprobe on a server's parser: a text that is about to be parsed -> on, or its statement is cancelled.
//!
//! For sessions that nobody can read on their way: over TLS, and those that could not be enrolled. A text that is known
//! goes on at once. About any other the shim is asked, and the server's process waits: a program cannot sleep, so it looks
//! for the answer again and again, gives the processor away in between, and has a limit of time.

use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use agent_common::gate::Known;
use agent_common::parse::{Asked, PIECE, Parsed, SLOTS};
use agent_common::shape::{Shape, TEXT_MAX};
use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_FORCE_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
        generated::{
            bpf_copy_from_user, bpf_copy_from_user_task, bpf_get_current_task_btf, bpf_loop,
            bpf_probe_read_user_str, bpf_send_signal,
        },
    },
    macros::{map, uprobe},
    maps::{Array, HashMap, RingBuf},
    programs::ProbeContext,
};

use super::{GATED, GO_ON, KNOWN, PORTS, STOP, add_to, opaque, shared, volatile};

/// Servers' processes that parse, by pid. The agent removes those that are gone.
#[map]
static BACKENDS: HashMap<u32, Backend> = HashMap::with_max_entries(1 << 13, BPF_F_NO_PREALLOC);
/// One that nothing is known of: too large for the stack.
#[map]
static NOBODY: Array<Backend> = Array::with_max_entries(1, 0);
/// Sessions whose statements are judged here: cookie of the server's socket -> whose known texts pass. The shim's.
#[map]
static CLASSES: HashMap<u64, u32> = HashMap::with_max_entries(1 << 14, BPF_F_NO_PREALLOC);
/// Questions: see [`Asked`].
#[map]
static ASKED: RingBuf = RingBuf::with_byte_size(1 << 22, 0);
/// Answers, by ticket: see [`agent_common::parse::answer`].
#[map]
static ANSWERS: Array<u64> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);
/// See [`Parsed`].
#[map]
static PARSED: Array<Parsed> = Array::with_max_entries(1, BPF_F_MMAPABLE);

// Offsets of kernel fields, set by the agent before load, from BTF.
#[unsafe(no_mangle)]
static TASK_START: u32 = 0;
#[unsafe(no_mangle)]
static TASK_FILES: u32 = 0;
#[unsafe(no_mangle)]
static FILES_TABLE: u32 = 0;
#[unsafe(no_mangle)]
static TABLE_MAX: u32 = 0;
#[unsafe(no_mangle)]
static TABLE_FILES: u32 = 0;
#[unsafe(no_mangle)]
static FILE_INODE: u32 = 0;
#[unsafe(no_mangle)]
static FILE_PRIVATE: u32 = 0;
#[unsafe(no_mangle)]
static INODE_MODE: u32 = 0;
#[unsafe(no_mangle)]
static SOCKET_SK: u32 = 0;
#[unsafe(no_mangle)]
static SK_FAMILY: u32 = 0;
#[unsafe(no_mangle)]
static SK_STATE: u32 = 0;
#[unsafe(no_mangle)]
static SK_PORT: u32 = 0;
#[unsafe(no_mangle)]
static SK_COOKIE: u32 = 0;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const TCP_LISTEN: u8 = 10;
const FORMAT: u16 = 0o170_000;
const SOCKET: u16 = 0o140_000;
/// Descriptors of a process that are looked at: a client's socket is among the first.
const DESCRIPTORS: u32 = 512;
/// How long it stands that a process has no client's socket, nanoseconds.
const LOOKED: u64 = 1_000_000_000;
/// How often at most a page is fetched for one text: each may be taken away again.
const FETCHES: u32 = 1 << 12;
/// A text that is longer and that nobody has judged in time is cancelled in any case, bytes.
const UNDERSTOOD: u64 = 64 << 10;
const SIGINT: u32 = 2;

/// What came of a question so far.
mod outcome {
    pub const NONE: u32 = 0;
    pub const ALLOWED: u32 = 1;
    pub const DENIED: u32 = 2;
    pub const UNREAD: u32 = 3;
    pub const LONG: u32 = 4;
}

/// A server's process, and what its program works with. It has one thread, so nobody else touches it; what a walk
/// remembers is in here as well, because the verifier follows every value on the stack through every turn of a loop.
#[repr(C)]
pub struct Backend {
    /// When the process began: another one may have its pid later.
    start: u64,
    /// Its client's socket; 0 for none.
    cookie: u64,
    /// When that was looked for.
    looked: u64,
    /// Its descriptors: where they are, how many.
    files: usize,
    most: u32,
    framing: u32,
    /// Whose known texts pass.
    class: u32,
    length: u32,
    text: [u8; TEXT_MAX as usize],
    shape: Shape,
    ask: Ask,
}

const _: () = assert!(size_of::<Backend>() == agent_common::parse::BACKEND);

/// A question on its way.
#[repr(C)]
struct Ask {
    text: u64,
    offset: u64,
    ticket: u64,
    deadline: u64,
    outcome: u32,
    sent: u32,
    fetched: u32,
    byte: u32,
}

/// All that a loop has on the stack.
struct Walk {
    backend: *mut Backend,
}

/// `pg_parse_query(text)`: before the server parses a text, whatever message brought it.
///
/// Each function here uses less than 64 bytes of stack, and none is made one with another. On x86 kernels since 6.13 have
/// the stack of a program of this kind that uses more on the processor, not on the process: a program that gives the
/// processor away finds what another process has left there.
#[uprobe(sleepable)]
pub fn weir_parse(ctx: ProbeContext) -> u32 {
    let text: u64 = ctx.arg(0).unwrap_or(0);
    let backend = find();
    if backend.is_null() || is_known(backend, text) {
        return 0;
    }
    ask(backend, text);
    conclude(backend);
    0
}

#[inline(always)]
fn count(of: impl FnOnce(*mut Parsed) -> *mut u64) -> u64 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else { return 0 };
    add_to(of(parsed), 1)
}

/// Counts one of the fields of [`Parsed`]; gives what it was.
macro_rules! count {
    ($field:ident) => {
        // SAFETY: a field of a value that was checked.
        count(|parsed| unsafe { &raw mut (*parsed).$field })
    };
}

/// Whether a text may pass: it is known for this session, or is read on its way.
#[inline(never)]
fn is_known(backend: *mut Backend, text: u64) -> bool {
    // SAFETY: checked by `find`, and this process's alone.
    let backend = unsafe { &mut *backend };
    // SAFETY: entries are plain numbers.
    backend.class = match unsafe { CLASSES.get(&backend.cookie) } {
        Some(&class) => class,
        None if unsafe { GATED.get(&backend.cookie) }.is_some() => return true,
        None => 0,
    };
    // SAFETY: as many bytes as the buffer has.
    let read =
        unsafe { bpf_probe_read_user_str(backend.text.as_mut_ptr().cast(), TEXT_MAX, text as *const _) };
    if read <= 1 || read >= i64::from(TEXT_MAX) {
        return false;
    }
    backend.length = read as u32 - 1;
    if !begin(backend) {
        return false;
    }
    hash(backend);
    let known = Known { hash: finish(backend), class: backend.class, padding: 0 };
    // SAFETY: entries are plain numbers.
    if known.hash == 0 || unsafe { KNOWN.get(&known) }.is_none() {
        return false;
    }
    count!(known);
    true
}

#[inline(never)]
fn begin(backend: *mut Backend) -> bool {
    let Some(shared) = shared() else { return false };
    // SAFETY: checked by `find`, and this process's alone.
    unsafe { (*backend).shape = Shape::new(shared.key) };
    true
}

#[inline(never)]
fn hash(backend: *mut Backend) -> u32 {
    // SAFETY: checked by `find`; the callback takes what it is given, and is gone when this returns.
    unsafe {
        let length = (*backend).length;
        let mut walk = Walk { backend };
        bpf_loop(length, byte as *mut c_void, (&raw mut walk).cast(), 0);
    }
    0
}

#[inline(never)]
fn finish(backend: *mut Backend) -> u64 {
    // SAFETY: checked by `find`, and this process's alone. Volatile: the loop has changed it by a pointer of its own.
    unsafe { read_volatile(&raw const (*backend).shape) }.finish()
}

/// Reads one byte of a text.
unsafe extern "C" fn byte(number: u32, walk: *mut c_void) -> i64 {
    // SAFETY: the caller's, which waits.
    let backend = unsafe { &mut *(*walk.cast::<Walk>()).backend };
    if number >= TEXT_MAX || number >= backend.length {
        return STOP;
    }
    backend.shape.step(backend.text[(opaque(number) & u64::from(TEXT_MAX - 1)) as usize]);
    GO_ON
}

/// Asks the shim, and waits for what it says.
#[inline(never)]
fn ask(backend: *mut Backend, text: u64) -> u32 {
    let Some(shared) = shared() else { return 0 };
    let ticket = count!(tickets) + 1;
    // SAFETY: checked by `find`, and this process's alone. Volatile: the loop reads and changes it by a pointer of its own.
    unsafe {
        let ask = &raw mut (*backend).ask;
        write_volatile(&raw mut (*ask).text, text);
        write_volatile(&raw mut (*ask).offset, 0);
        write_volatile(&raw mut (*ask).ticket, ticket);
        write_volatile(&raw mut (*ask).deadline, bpf_ktime_get_ns() + volatile(&shared.patience));
        write_volatile(&raw mut (*ask).outcome, outcome::NONE);
        write_volatile(&raw mut (*ask).sent, 0);
        write_volatile(&raw mut (*ask).fetched, 0);
        let mut walk = Walk { backend };
        bpf_loop(1 << 22, turn as *mut c_void, (&raw mut walk).cast(), 0);
    }
    0
}

/// Counts what came of it, and cancels what is not to be executed.
#[inline(never)]
fn conclude(backend: *mut Backend) -> u32 {
    let Some(shared) = shared() else { return 0 };
    // SAFETY: checked by `find`, and this process's alone, here and below. Volatile: as above.
    let cancels = match unsafe { read_volatile(&raw const (*backend).ask.outcome) } {
        outcome::ALLOWED => {
            count!(allowed);
            false
        }
        outcome::DENIED => {
            count!(denied);
            true
        }
        outcome::LONG => {
            count!(long);
            true
        }
        // The gate was switched off meanwhile.
        _ if volatile(&shared.armed) == 0 => false,
        outcome::UNREAD => {
            count!(unread);
            volatile(&shared.closed) != 0
        }
        // Padding must not be a way around.
        _ if unsafe { (*backend).ask.offset } > UNDERSTOOD => {
            count!(long);
            true
        }
        _ => {
            count!(unanswered);
            volatile(&shared.closed) != 0
        }
    };
    // SAFETY: no preconditions.
    if cancels && unsafe { bpf_send_signal(SIGINT) } != 0 {
        count!(failed);
    }
    0
}

/// Sends what is asked, or looks for the answer.
unsafe extern "C" fn turn(_number: u32, walk: *mut c_void) -> i64 {
    // SAFETY: the caller's, which waits.
    let backend = unsafe { (*walk.cast::<Walk>()).backend };
    // SAFETY: as above.
    let ask = unsafe { &mut (*backend).ask };
    let Some(shared) = shared() else { return STOP };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > ask.deadline
        || volatile(&shared.pulse) + volatile(&shared.patience) < now
        || volatile(&shared.armed) == 0
    {
        return STOP;
    }
    if ask.sent == 0 {
        return send(backend, volatile(&shared.held_max));
    }
    let Some(answer) = ANSWERS.get((ask.ticket & u64::from(SLOTS - 1)) as u32) else { return STOP };
    let answer = volatile(answer);
    if answer >> 1 == ask.ticket {
        ask.outcome = if answer & 1 == 0 { outcome::ALLOWED } else { outcome::DENIED };
        return STOP;
    }
    // On its way through the process's memory it lets others run who want to.
    // SAFETY: one byte of four; it fails, and does not fault, where nothing is there.
    unsafe {
        let to = (&raw mut ask.byte).cast();
        bpf_copy_from_user_task(to, 1, ask.text as *const _, bpf_get_current_task_btf(), 0)
    };
    GO_ON
}

/// A record of the ring.
#[repr(C)]
struct Piece {
    head: Asked,
    text: [u8; PIECE as usize],
}

/// Sends the next piece of the text.
#[inline(never)]
fn send(backend: *mut Backend, most: u64) -> i64 {
    // SAFETY: checked by `find`, and this process's alone.
    let backend = unsafe { &mut *backend };
    let ask = &mut backend.ask;
    if ask.offset > most {
        ask.outcome = outcome::LONG;
        return STOP;
    }
    // Full: the shim makes room.
    let Some(mut slot) = ASKED.reserve::<Piece>(0) else { return GO_ON };
    let piece = slot.as_mut_ptr();
    let from = ask.text + ask.offset;
    // SAFETY: as many bytes as the record has.
    let read = unsafe { bpf_probe_read_user_str((&raw mut (*piece).text).cast(), PIECE, from as *const _) };
    if read <= 0 {
        slot.discard(0);
        return fetch(ask, from);
    }
    let length = read as u32 - 1;
    let last = u32::from(read < i64::from(PIECE));
    // SAFETY: the record is as large as its type, and all of its head is written.
    unsafe {
        let head = &raw mut (*piece).head;
        (*head).ticket = ask.ticket;
        (*head).cookie = backend.cookie;
        (*head).offset = ask.offset;
        (*head).length = length;
        (*head).last = last;
        (*head).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*head).framing = backend.framing;
    }
    slot.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    ask.offset += u64::from(length);
    ask.sent = last;
    GO_ON
}

/// Fetches a page of the text that is not there at the moment.
#[inline(always)]
fn fetch(ask: &mut Ask, from: u64) -> i64 {
    ask.fetched += 1;
    let to = &raw mut ask.byte;
    // SAFETY: one byte of four, each time; it fails where nothing is there.
    let got = unsafe {
        bpf_copy_from_user(to.cast(), 1, (from + u64::from(PIECE - 1)) as *const _);
        bpf_copy_from_user(to.cast(), 1, from as *const _)
    };
    if got != 0 || ask.fetched > FETCHES {
        ask.outcome = outcome::UNREAD;
        return STOP;
    }
    GO_ON
}

/// The process's entry, where it serves a client that comes by an enrolled port and the gate is armed; else nothing.
#[inline(never)]
fn find() -> *mut Backend {
    if shared().is_none_or(|shared| volatile(&shared.armed) == 0) {
        return core::ptr::null_mut();
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let backend = match BACKENDS.get_ptr_mut(&pid) {
        Some(backend) => backend,
        None => {
            if let Some(nobody) = NOBODY.get(0) {
                let _ = BACKENDS.insert(&pid, nobody, u64::from(BPF_NOEXIST));
            }
            let Some(backend) = BACKENDS.get_ptr_mut(&pid) else {
                count!(crowded);
                return core::ptr::null_mut();
            };
            backend
        }
    };
    // SAFETY: no preconditions.
    let (task, now) = unsafe { (bpf_get_current_task_btf() as usize, bpf_ktime_get_ns()) };
    let start: u64 = field(task, global(&TASK_START));
    // SAFETY: checked, and this process's alone.
    unsafe {
        let stale = (*backend).start != start || (*backend).cookie == 0 && (*backend).looked + LOOKED < now;
        if stale {
            ((*backend).start, (*backend).cookie, (*backend).looked) = (start, 0, now);
            look(backend, task);
        }
        if read_volatile(&raw const (*backend).cookie) == 0 {
            return core::ptr::null_mut();
        }
    }
    backend
}

/// Looks for the process's client.
#[inline(never)]
fn look(backend: *mut Backend, task: usize) -> u32 {
    let files: usize = field(task, global(&TASK_FILES));
    let table: usize = field(files, global(&FILES_TABLE));
    // SAFETY: checked by `find`; the callback takes what it is given, and is gone when this returns.
    unsafe {
        write_volatile(&raw mut (*backend).most, field(table, global(&TABLE_MAX)));
        write_volatile(&raw mut (*backend).files, field(table, global(&TABLE_FILES)));
        let mut walk = Walk { backend };
        bpf_loop(DESCRIPTORS, descriptor as *mut c_void, (&raw mut walk).cast(), 0);
    }
    0
}

/// Is this one a client's socket?
unsafe extern "C" fn descriptor(number: u32, walk: *mut c_void) -> i64 {
    // SAFETY: the caller's, which waits.
    let backend = unsafe { &mut *(*walk.cast::<Walk>()).backend };
    if number >= backend.most {
        return STOP;
    }
    let file: usize = field(backend.files, number * 8);
    if file == 0 {
        return GO_ON;
    }
    let inode: usize = field(file, global(&FILE_INODE));
    if field::<u16>(inode, global(&INODE_MODE)) & FORMAT != SOCKET {
        return GO_ON;
    }
    let socket: usize = field(file, global(&FILE_PRIVATE));
    let sk: usize = field(socket, global(&SOCKET_SK));
    let family: u16 = field(sk, global(&SK_FAMILY));
    if family != AF_INET && family != AF_INET6 || field::<u8>(sk, global(&SK_STATE)) == TCP_LISTEN {
        return GO_ON;
    }
    let port: u16 = field(sk, global(&SK_PORT));
    // SAFETY: entries are plain numbers.
    let Some(&served) = (unsafe { PORTS.get(&port) }) else { return GO_ON };
    backend.cookie = field(sk, global(&SK_COOKIE));
    backend.framing = served & !agent_common::gate::ANSWERS;
    STOP
}

/// Reads a kernel field; zero where it cannot be read.
#[inline(always)]
fn field<T: Copy + Default>(base: usize, offset: u32) -> T {
    // SAFETY: the helper fails, and does not fault, where there is nothing to read.
    unsafe { bpf_probe_read_kernel((base + offset as usize) as *const T) }.unwrap_or_default()
}

/// Reads a global that the agent set before load.
#[inline(always)]
fn global(value: &u32) -> u32 {
    // SAFETY: a reference is valid to read; volatile keeps the compiler from folding the initial value in.
    unsafe { read_volatile(value) }
}
