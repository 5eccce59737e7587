//! The maps that the programs share with the agent, and the one way to put a record into the ring.

use agent_common::{Counters, Lost, Socket};
use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};

/// Everything that goes up to the agent. Its size is set at load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 26, 0);

/// Cookie -> what to copy. Entries leave with their socket's CLOSE. A plain hash: under an LRU a burst of
/// short-lived sockets could evict a tapped one, and its statements would silently be missing.
#[map]
pub static SOCKETS: HashMap<u64, Socket> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);

/// Cookie -> what could not be handed over.
#[map]
pub static LOST: LruHashMap<u64, Lost> = LruHashMap::with_max_entries(1 << 14, 0);

/// Totals.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Set by the agent before load: ring fill in bytes above which it is woken.
#[unsafe(no_mangle)]
static WATERMARK: u64 = 1 << 22;

/// Set by the agent before load: ring fill in bytes above which of results only the edges are copied, above which
/// nothing large of them is, and above which only sockets that a policy may act on have room.
#[unsafe(no_mangle)]
static CROWDED: [u64; 3] = [1 << 23, 3 << 22, 15 << 20];

/// How crowded the ring is: 0 to 3.
#[inline(always)]
pub fn crowd() -> u32 {
    let filled = EVENTS.query(AVAILABLE);
    let [edges, nothing, others] = global(&CROWDED);
    u32::from(filled > edges) + u32::from(filled > nothing) + u32::from(filled > others)
}

/// True where the last room of the ring is kept from this socket, for those that a policy may act on.
#[inline(always)]
pub fn kept_from(urgent: u32) -> bool {
    urgent == 0 && crowd() == 3
}

/// `BPF_RB_AVAIL_DATA`: bytes in the ring that were not consumed yet.
const AVAILABLE: u64 = 0;

/// Reads a global that the agent set before load.
#[inline(always)]
pub fn global<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid to read; volatile keeps the compiler from folding the initial value in.
    unsafe { core::ptr::read_volatile(value) }
}

/// Flags for handing a record over: waking costs more than all the rest, so it happens when it is urgent or
/// when the ring fills up; otherwise the agent's timer finds the record.
#[inline(always)]
pub fn wake(urgent: bool) -> u64 {
    if urgent || EVENTS.query(AVAILABLE) > global(&WATERMARK) {
        BPF_RB_FORCE_WAKEUP as u64
    } else {
        BPF_RB_NO_WAKEUP as u64
    }
}

/// Applies `change` to this CPU's totals.
#[inline(always)]
pub fn count(change: impl FnOnce(&mut Counters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the pointer is this CPU's slot, checked above.
        change(unsafe { &mut *counters });
    }
}

static NOTHING_LOST: Lost = Lost { bytes: [0; 2], records: 0, undecided: 0 };

/// Notes what a socket lost: `change` gets its entry.
#[inline(always)]
pub fn lost(cookie: u64, change: impl FnOnce(&mut Lost)) {
    if LOST.get_ptr_mut(&cookie).is_none() {
        let _ = LOST.insert(&cookie, &NOTHING_LOST, u64::from(BPF_NOEXIST));
    }
    if let Some(entry) = LOST.get_ptr_mut(&cookie) {
        // SAFETY: the pointer was checked above. One socket's segments of one direction are serialised by
        // its lock, and each direction has its own counter.
        change(unsafe { &mut *entry });
    }
}

/// Puts a small record into the ring; false where there was no room.
#[inline(always)]
pub fn send<T: Copy + 'static>(record: T, urgent: bool) -> bool {
    match EVENTS.reserve::<T>(0) {
        Some(mut slot) => {
            slot.write(record);
            slot.submit(wake(urgent));
            true
        }
        None => {
            count(|c| c.ring_full += 1);
            false
        }
    }
}
