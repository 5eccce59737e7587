//! An iterator over the TCP sockets of a network namespace: those that the agent wants in and that have nothing unread are
//! enrolled.
//!
//! It has each socket's lock, which nobody has who enrols a socket from outside. Of a packet that was read in part, all
//! would be looked at and handed to the server again: a socket may only come in while its queue is empty.

use core::ffi::c_void;

use agent_common::gate::entry;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_get_socket_cookie, bpf_map_update_elem},
    },
    macros::map,
    maps::HashMap,
};

use super::{GUARDED, volatile};

/// Sockets that are to come in, by cookie: see [`entry`].
#[map]
static LATE: HashMap<u64, u32> = HashMap::with_max_entries(1 << 12, BPF_F_NO_PREALLOC);

/// Where a socket says how many packets it has that were not read to their end; set by the agent before load, from BTF.
#[unsafe(no_mangle)]
static SK_QUEUED: u32 = 0;

const EBUSY: i64 = -16;

/// What the kernel hands to an iterator over TCP sockets.
#[repr(C)]
pub struct Turn {
    _meta: *const c_void,
    socket: *mut c_void,
}

/// One turn for each socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn weir_late(turn: *const Turn) -> i32 {
    // SAFETY: the kernel's context, whose fields the verifier knows.
    let socket = unsafe { (*turn).socket };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the socket was checked.
    let mut cookie = unsafe { bpf_get_socket_cookie(socket) };
    let Some(outcome) = LATE.get_ptr_mut(&cookie) else { return 0 };
    // SAFETY: within the socket, and read as memory that may not be there.
    let queued = unsafe {
        bpf_probe_read_kernel(socket.cast::<u8>().add(volatile(&SK_QUEUED) as usize).cast::<u32>())
    };
    if queued != Ok(0) {
        return 0;
    }
    // SAFETY: the map's value is a socket, which the verifier sees.
    let failed = unsafe {
        bpf_map_update_elem((&raw const GUARDED).cast_mut().cast(), (&raw mut cookie).cast(), socket, 0)
    };
    // SAFETY: the pointer was checked.
    unsafe {
        *outcome = match failed {
            0 => entry::IN,
            EBUSY => entry::TAKEN,
            _ => entry::FAILED,
        };
    }
    0
}
