//! Segments of TCP sockets -> payload records, as much of each as the socket's mode asks for.
//!
//! A record is reserved in the ring at its size class and filled there: one copy, and no scratch buffer that a
//! softirq or a preempting task on the same CPU could overwrite.

use core::mem::MaybeUninit;

use agent_common::{
    CHUNK, EDGE, Packet, Socket, Tuple, UNKNOWN_ALLOWANCE, UNKNOWN_BUDGET, direction, kind, mode, tcp,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use crate::maps::{EVENTS, SOCKETS, count, crowd, kept_from, lost, wake};
use crate::{go, tls};

const PROTO_TCP: u8 = 6;
const STATE_LISTEN: u32 = 10;
/// Records of one segment: 16 of 32 KiB cover the largest that BIG TCP makes.
const CHUNKS: u32 = 16;

/// What a socket sends.
#[cgroup_skb]
pub fn weir_egress(ctx: SkBuffContext) -> i32 {
    segment(ctx.skb.skb, direction::EGRESS);
    1
}

/// What a socket receives.
#[cgroup_skb]
pub fn weir_ingress(ctx: SkBuffContext) -> i32 {
    segment(ctx.skb.skb, direction::INGRESS);
    1
}

#[inline(always)]
fn load<T>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the range and writes exactly the bytes of `T`, which is plain data here.
    unsafe {
        let rc = bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
        (rc == 0).then(|| value.assume_init())
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_length: u8,
    _service: u8,
    total: [u8; 2],
    _id: [u8; 2],
    fragment: [u8; 2],
    _ttl: u8,
    protocol: u8,
    _checksum: [u8; 2],
    source: u32,
    destination: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    _version: [u8; 4],
    _payload: [u8; 2],
    next: u8,
    _hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    source: [u8; 2],
    destination: [u8; 2],
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    offset: u8,
    flags: u8,
}

/// Everything about one segment but its bytes.
#[derive(Clone, Copy)]
struct Meta {
    packet: Packet,
    /// Offset of the payload in the packet.
    payload: u32,
    urgent: bool,
    /// A policy may act on its socket.
    covered: bool,
}

#[inline(always)]
fn segment(skb: *mut __sk_buff, way: u8) {
    // SAFETY: reading fields of the context is what the verifier checks.
    let (version_offset, length) = (0u32, unsafe { (*skb).len });
    // The cheapest question first: most sockets of a host are known and of no interest.
    // SAFETY: the context is valid for this helper.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let known = SOCKETS.get_ptr_mut(&cookie);
    if let Some(socket) = known {
        // SAFETY: checked above.
        if unsafe { (*socket).mode[way as usize & 1] } == mode::IGNORE {
            return;
        }
    }
    let Some(first) = load::<u8>(skb, version_offset) else { return };
    let mut tuple = Tuple::default();
    let (source, destination, header);
    if first >> 4 == 4 {
        let Some(ip) = load::<Ipv4>(skb, 0) else { return };
        if ip.protocol != PROTO_TCP {
            return;
        }
        if u16::from_be_bytes(ip.fragment) & 0x1fff != 0 {
            count(|c| c.unparsed += 1);
            return;
        }
        header = u32::from(ip.version_length & 15) * 4;
        tuple.version = 4;
        (source, destination) = ([ip.source, 0, 0, 0], [ip.destination, 0, 0, 0]);
    } else if first >> 4 == 6 {
        let Some(ip) = load::<Ipv6>(skb, 0) else { return };
        let Some(offset) = past_extensions(skb, ip.next) else { return };
        header = offset;
        tuple.version = 6;
        (source, destination) = (ip.source, ip.destination);
    } else {
        return;
    }
    let Some(tcp) = load::<Tcp>(skb, header) else { return };
    let payload = header + u32::from(tcp.offset >> 4) * 4;
    let bytes = length.saturating_sub(payload);
    let flags = tcp.flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
    let ends = flags & (tcp::FIN | tcp::RST) != 0;
    if bytes == 0 && !ends {
        return;
    }
    count(|c| c.segments += 1);
    let (sport, dport) = (u16::from_be_bytes(tcp.source), u16::from_be_bytes(tcp.destination));
    if way == direction::EGRESS {
        (tuple.local, tuple.remote, tuple.local_port, tuple.remote_port) =
            (source, destination, sport, dport);
    } else {
        (tuple.local, tuple.remote, tuple.local_port, tuple.remote_port) =
            (destination, source, dport, sport);
    }
    let listening = meets_listener(skb);
    let packet = Packet {
        kind: kind::PACKET,
        length: bytes,
        head: bytes,
        tail: 0,
        cookie: if listening { 0 } else { cookie },
        // SAFETY: no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        sequence: u32::from_be_bytes(tcp.sequence),
        acknowledgment: u32::from_be_bytes(tcp.acknowledgment),
        tuple,
        flags,
        direction: way,
        padding: [0; 6],
        task: tls::task(),
        call: 0,
    };
    let mut meta = Meta { packet, payload, urgent: false, covered: false };
    // A listener's segment is the handshake's last and carries data: its socket is not made yet, the ports tell
    // whose it is.
    meta.packet.call = match tls::call(meta.packet.task as u32) {
        0 => go::session((meta.packet.task >> 32) as u32),
        call => call,
    };
    let copy = if listening { Copy::Whole } else { decide(&mut meta, known, cookie, ends) };
    if copy != Copy::Nothing && kept_from(u32::from(meta.covered)) {
        return drop_record(meta.packet.cookie, way, bytes);
    }
    match copy {
        Copy::Whole => whole(skb, &mut meta),
        Copy::Edges => edges(skb, &mut meta),
        Copy::Nothing => {}
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Copy {
    Nothing,
    Edges,
    Whole,
}

/// What the socket's mode asks for.
#[inline(always)]
fn decide(meta: &mut Meta, known: Option<*mut Socket>, cookie: u64, ends: bool) -> Copy {
    let bytes = meta.packet.length;
    let socket = match known {
        Some(socket) => socket,
        None if bytes == 0 => return Copy::Nothing,
        None => {
            if SOCKETS.insert(&cookie, &NEW, u64::from(BPF_NOEXIST)).is_err() {
                count(|c| c.sockets_full += 1);
            }
            match SOCKETS.get_ptr_mut(&cookie) {
                Some(socket) => socket,
                None => return Copy::Nothing,
            }
        }
    };
    // SAFETY: the pointer was checked; each direction's fields are written under the socket's lock only.
    let socket = unsafe { &mut *socket };
    meta.covered = socket.urgent != 0;
    meta.urgent = meta.covered;
    let here = if meta.packet.direction == direction::EGRESS { 0 } else { 1 };
    // Whether the sender has seen something new since the guard was set.
    let news = meta.packet.acknowledgment != socket.guard[here];
    match socket.mode[here] {
        mode::UNKNOWN => {
            let mut used = socket.unknown[here];
            if news {
                socket.guard[here] = meta.packet.acknowledgment;
                used = used.min(UNKNOWN_BUDGET - UNKNOWN_ALLOWANCE);
            }
            if used > UNKNOWN_BUDGET && bytes > 2 * EDGE {
                undecided(cookie, bytes - 2 * EDGE);
                return Copy::Edges;
            }
            // The first bytes of a connection decide what it is: the sooner, the less of others is copied. While
            // nobody has decided, the agent is reminded now and then.
            meta.urgent |= used == 0 || used >> 16 != (used + bytes) >> 16;
            socket.unknown[here] = used.saturating_add(bytes).saturating_add(1);
            Copy::Whole
        }
        mode::HEAD_TAIL if bytes > 2 * EDGE && !news => Copy::Edges,
        mode::FULL | mode::HEAD_TAIL if bytes > 2 * EDGE && socket.answers & (1 << here) != 0 => {
            // Requests are worth more than results: these make room first.
            match crowd() {
                0 => Copy::Whole,
                1 => {
                    count(|c| c.shed_bytes += u64::from(bytes - 2 * EDGE));
                    Copy::Edges
                }
                _ => {
                    drop_record(cookie, meta.packet.direction, bytes);
                    Copy::Nothing
                }
            }
        }
        mode::FULL | mode::HEAD_TAIL => Copy::Whole,
        mode::SKIP => {
            let end = meta.packet.sequence.wrapping_add(bytes);
            if ends || end.wrapping_sub(socket.skip_until[here]) as i32 > 0 {
                Copy::Whole
            } else {
                Copy::Nothing
            }
        }
        _ => Copy::Nothing,
    }
}

/// A socket that nobody has decided about.
pub static NEW: Socket = Socket {
    mode: [mode::UNKNOWN; 2],
    skip_until: [0; 2],
    guard: [0; 2],
    unknown: [0; 2],
    urgent: 0,
    answers: 0,
};

/// Offset of the TCP header behind IPv6 extension headers; `None` where there is none.
#[inline(always)]
fn past_extensions(skb: *mut __sk_buff, next: u8) -> Option<u32> {
    let (mut next, mut offset) = (next, 40u32);
    for _ in 0..4 {
        match next {
            PROTO_TCP => return Some(offset),
            // hop-by-hop, routing, destination options: next header, then length in 8 bytes after the first 8
            0 | 43 | 60 => {
                let [n, l] = load::<[u8; 2]>(skb, offset)?;
                next = n;
                offset += (u32::from(l) + 1) * 8;
            }
            // Fragments are put together before a socket sees them.
            44 => {
                count(|c| c.unparsed += 1);
                return None;
            }
            _ => return None,
        }
    }
    None
}

/// True where the segment was delivered to a listening socket: the connection's own does not exist yet.
#[inline(always)]
fn meets_listener(skb: *mut __sk_buff) -> bool {
    // SAFETY: the verifier follows the null check and allows the field.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        !sk.is_null() && (*sk).state == STATE_LISTEN
    }
}

/// Hands over all of a segment, in pieces of at most [`CHUNK`].
#[inline(always)]
fn whole(skb: *mut __sk_buff, meta: &mut Meta) {
    let (total, first, flags) = (meta.packet.length, meta.packet.sequence, meta.packet.flags);
    let mut done = 0u32;
    if total > CHUNK {
        // FIN and RST belong to the last byte.
        meta.packet.flags = flags & tcp::ACK;
        meta.packet.length = CHUNK;
        meta.packet.head = CHUNK;
        for _ in 0..CHUNKS {
            if total - done <= CHUNK {
                break;
            }
            meta.packet.sequence = first.wrapping_add(done);
            put::<{ CHUNK as usize }>(skb, meta, done);
            done += CHUNK;
        }
        if total - done > CHUNK {
            return drop_record(meta.packet.cookie, meta.packet.direction, total - done);
        }
    }
    meta.packet.sequence = first.wrapping_add(done);
    meta.packet.length = total - done;
    meta.packet.head = total - done;
    meta.packet.flags = flags;
    sized(skb, meta, done);
}

/// Hands over a segment's first and last bytes.
#[inline(always)]
fn edges(skb: *mut __sk_buff, meta: &mut Meta) {
    let total = meta.packet.length;
    let Some(mut slot) = EVENTS.reserve::<Chunk<{ 2 * EDGE as usize }>>(0) else {
        return drop_record(meta.packet.cookie, meta.packet.direction, total);
    };
    meta.packet.head = EDGE;
    meta.packet.tail = EDGE;
    let entry = slot.as_mut_ptr();
    // SAFETY: the slot is as large as its type; the helper fills exactly what is handed over.
    let rc = unsafe {
        (&raw mut (*entry).packet).write(meta.packet);
        let data = (&raw mut (*entry).data).cast::<u8>();
        bpf_skb_load_bytes(skb.cast(), meta.payload, data.cast(), EDGE)
            | bpf_skb_load_bytes(
                skb.cast(),
                meta.payload + total - EDGE,
                data.add(EDGE as usize).cast(),
                EDGE,
            )
    };
    if rc != 0 {
        slot.discard(0);
        return drop_record(meta.packet.cookie, meta.packet.direction, total);
    }
    slot.submit(wake(meta.urgent));
    count(|c| {
        c.records += 1;
        c.bytes += u64::from(2 * EDGE);
    });
}

#[repr(C)]
struct Chunk<const N: usize> {
    packet: Packet,
    data: [u8; N],
}

/// Picks the size class: a power of two, so at most half of a record's room is unused.
#[inline(always)]
fn sized(skb: *mut __sk_buff, meta: &mut Meta, offset: u32) {
    match meta.packet.head {
        0..=128 => put::<128>(skb, meta, offset),
        129..=256 => put::<256>(skb, meta, offset),
        257..=512 => put::<512>(skb, meta, offset),
        513..=1024 => put::<1024>(skb, meta, offset),
        1025..=2048 => put::<2048>(skb, meta, offset),
        2049..=4096 => put::<4096>(skb, meta, offset),
        4097..=8192 => put::<8192>(skb, meta, offset),
        8193..=16384 => put::<16384>(skb, meta, offset),
        _ => put::<32768>(skb, meta, offset),
    }
}

/// Reserves a record of class `N`, fills it in place and hands it over.
#[inline(always)]
fn put<const N: usize>(skb: *mut __sk_buff, meta: &mut Meta, offset: u32) {
    let length = meta.packet.head;
    let Some(mut slot) = EVENTS.reserve::<Chunk<N>>(0) else {
        return drop_record(meta.packet.cookie, meta.packet.direction, length);
    };
    let entry = slot.as_mut_ptr();
    let mut rc = 0;
    // SAFETY: the slot is as large as its type, and no more than `N` bytes are written behind the record.
    unsafe {
        (&raw mut (*entry).packet).write(meta.packet);
        if length > 0 {
            // Says 1..=N in a way that the verifier follows: N is a power of two.
            let bounded = ((length - 1) & (N as u32 - 1)) + 1;
            rc = bpf_skb_load_bytes(
                skb.cast(),
                meta.payload + offset,
                (&raw mut (*entry).data).cast(),
                bounded,
            );
        }
    }
    if rc != 0 {
        slot.discard(0);
        return drop_record(meta.packet.cookie, meta.packet.direction, length);
    }
    slot.submit(wake(meta.urgent));
    count(|c| {
        c.records += 1;
        c.bytes += u64::from(length);
    });
}

/// Counts what found no room, in all and for its socket. Out of line: verified once, not at each of its callers.
#[inline(never)]
fn drop_record(cookie: u64, way: u8, bytes: u32) {
    count(|c| {
        c.ring_full += 1;
        c.ring_full_bytes += u64::from(bytes);
    });
    lost(cookie, |l| {
        l.records += 1;
        if way == direction::EGRESS {
            l.bytes[0] += u64::from(bytes);
        } else {
            l.bytes[1] += u64::from(bytes);
        }
    });
}

/// Counts what is left out of an undecided socket beyond its budget.
#[inline(never)]
fn undecided(cookie: u64, bytes: u32) {
    count(|c| c.undecided_bytes += u64::from(bytes));
    lost(cookie, |l| l.undecided += u64::from(bytes));
}
