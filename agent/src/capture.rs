//! Captured traffic from the kernel or from files.

pub mod btf; // the kernel's type information -> offsets of its fields
pub mod live; // eBPF programs -> records
pub mod unix; // the programs on Unix sockets, on demand
pub mod frame; // link-layer frames -> segments
pub mod pcap; // capture files -> segments
