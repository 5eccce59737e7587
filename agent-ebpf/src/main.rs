//! Kernel programs: packets, TLS plaintext and lifecycles of sockets in, ring buffer records out.
//!
//! They know sockets and bytes, never a protocol. What is copied for which socket is said by the agent.
#![no_std]
#![no_main]

mod go; // uprobes: the same of Go's own TLS
mod maps; // what is shared with the agent
mod packet; // cgroup_skb: segments of TCP sockets -> payload records
mod plain; // uprobes: what clients of enrolled servers elsewhere write -> the shim
mod process; // sched tracepoints: programs and processes -> lifecycle records
mod socket; // sock_ops, connect: connections -> lifecycle records
mod tls; // uprobes: plaintext of TLS sessions -> records
mod unix; // sends and receives of Unix sockets -> payload records

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
