//! Connections -> records of their beginning, their process and their end.

use agent_common::{Close, Connect, Open, Tuple, kind};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG,
    },
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_socket_cookie,
        bpf_ktime_get_ns, generated::bpf_get_current_cgroup_id,
    },
    macros::{cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockOpsContext},
};

use crate::maps::{SOCKETS, send};
use crate::plain;

const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const TCP_CLOSE: u32 = 7;

/// Reads a context field at its own constant offset. Plain reads let the compiler merge two fields into one read
/// through a moved context pointer, which the verifier refuses.
macro_rules! field {
    ($ctx:expr, $($path:tt)+) => {
        // SAFETY: the verifier checks every read of the context.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx.ops).$($path)+) }
    };
}

/// Established and closed connections, of every socket in every namespace.
#[sock_ops]
pub fn weir_socket(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => open(&ctx, 1),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => open(&ctx, 0),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => close(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn open(ctx: &SockOpsContext, active: u32) {
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = ctx.set_cb_flags(flags as i32);
    // The context keeps the remote port in network order, in the upper half on little endian.
    let remote_port = u32::from_be(field!(ctx, remote_port)) as u16;
    let local4 = field!(ctx, local_ip4);
    let remote4 = field!(ctx, remote_ip4);
    let local6 = [
        field!(ctx, local_ip6[0]),
        field!(ctx, local_ip6[1]),
        field!(ctx, local_ip6[2]),
        field!(ctx, local_ip6[3]),
    ];
    let remote6 = [
        field!(ctx, remote_ip6[0]),
        field!(ctx, remote_ip6[1]),
        field!(ctx, remote_ip6[2]),
        field!(ctx, remote_ip6[3]),
    ];
    let v6 = field!(ctx, family) == AF_INET6;
    let tuple = Tuple {
        local: if v6 { local6 } else { [local4, 0, 0, 0] },
        remote: if v6 { remote6 } else { [remote4, 0, 0, 0] },
        local_port: field!(ctx, local_port) as u16,
        remote_port,
        version: if v6 { 6 } else { 4 },
        padding: [0; 3],
    };
    let (send_next, receive_next) = (field!(ctx, snd_nxt), field!(ctx, rcv_nxt));
    // SAFETY: helpers without preconditions but a valid context.
    let (cookie, time) = unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_ktime_get_ns()) };
    send(Open { kind: kind::OPEN, active, cookie, time, send_next, receive_next, tuple }, false);
}

#[inline(always)]
fn close(ctx: &SockOpsContext) {
    // SAFETY: as above.
    let (cookie, time) = unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_ktime_get_ns()) };
    let _ = SOCKETS.remove(&cookie);
    send(Close { kind: kind::CLOSE, padding: 0, cookie, time }, false);
}

/// A process connects over IPv4.
#[cgroup_sock_addr(connect4)]
pub fn weir_connect4(ctx: SockAddrContext) -> i32 {
    connect::<false>(&ctx)
}

/// A process connects over IPv6.
#[cgroup_sock_addr(connect6)]
pub fn weir_connect6(ctx: SockAddrContext) -> i32 {
    connect::<true>(&ctx)
}

#[inline(always)]
fn connect<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: context fields and helpers, as the verifier checks.
    let (stream, cookie, time, cgroup) = unsafe {
        (
            (*ctx.sock_addr).type_ == SOCK_STREAM,
            bpf_get_socket_cookie(ctx.as_ptr()),
            bpf_ktime_get_ns(),
            bpf_get_current_cgroup_id(),
        )
    };
    if stream {
        plain::connects::<V6>(ctx);
        let id = bpf_get_current_pid_tgid();
        let record = Connect {
            kind: kind::CONNECT,
            pid: (id >> 32) as u32,
            tid: id as u32,
            uid: bpf_get_current_uid_gid() as u32,
            cookie,
            time,
            cgroup,
            comm: bpf_get_current_comm().unwrap_or_default(),
        };
        // Urgent: the process may be gone in a few milliseconds, its /proc entry with it.
        send(record, true);
    }
    1
}
