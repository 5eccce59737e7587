//! Captured traffic from the kernel or from files.

pub mod btf; // the kernel's type information -> offsets of its fields
pub mod live; // eBPF programs -> records
pub mod unix; // the programs on Unix sockets, on demand
pub mod tls; // TLS libraries -> probes
pub mod frame; // link-layer frames -> segments
pub mod pcap; // capture files -> segments

/// True where the running kernel is of this version or later; false where it does not say.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
