//! The kernel's perf events: probes on files, and a watch over what processes map.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `struct perf_event_attr` as of Linux 4.8 (`PERF_ATTR_SIZE_VER5`); older and newer kernels take it by its size.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Attributes {
    pub kind: u32,
    pub size: u32,
    pub config: u64,
    pub sample_period: u64,
    pub sample_type: u64,
    pub read_format: u64,
    pub flags: u64,
    pub wakeup: u32,
    pub breakpoint_type: u32,
    /// Of a probe: pointer to the path.
    pub config1: u64,
    /// Of a probe: offset in the file.
    pub config2: u64,
    pub branch_sample_type: u64,
    pub sample_registers_user: u64,
    pub sample_stack_user: u32,
    pub clock: i32,
    pub sample_registers_interrupt: u64,
    pub aux_watermark: u32,
    pub sample_max_stack: u16,
    pub reserved: u16,
}

const _: () = assert!(size_of::<Attributes>() == 112);

const CLOSE_ON_EXEC: u64 = 8;
const ENABLE: u64 = 0x2400;
const SET_PROGRAM: u64 = 0x4004_2408;

/// Opens an event for all processes on one CPU. For probes the CPU says nothing: they fire everywhere.
pub(super) fn open(mut attributes: Attributes, cpu: i32) -> io::Result<OwnedFd> {
    attributes.size = size_of::<Attributes>() as u32;
    // SAFETY: the attributes are valid for their size, and so is the path that they point to: the callers hold both.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, cpu, -1, CLOSE_ON_EXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor of our own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The kernel's number for probes on files, and the bit that asks for a function's return.
fn probe_kind() -> io::Result<(u32, u64)> {
    const ROOT: &str = "/sys/bus/event_source/devices/uprobe";
    let number = |text: &str| text.trim().rsplit(':').next().and_then(|n| n.parse::<u32>().ok());
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "perf's uprobe device cannot be read");
    let kind = number(&std::fs::read_to_string(format!("{ROOT}/type"))?).ok_or_else(unknown)?;
    let bit = number(&std::fs::read_to_string(format!("{ROOT}/format/retprobe"))?).ok_or_else(unknown)?;
    Ok((kind, 1 << bit))
}

/// Puts a loaded program on an offset of a file, or on the return of the function whose return address is on top of
/// the stack there. It stays for as long as what is returned is open.
pub(super) fn probe(file: &File, offset: u64, returns: bool, program: &OwnedFd) -> io::Result<OwnedFd> {
    let (kind, bit) = probe_kind()?;
    // By descriptor: whatever the name stands for meanwhile, it is this file.
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    let attributes = Attributes {
        kind,
        config: if returns { bit } else { 0 },
        config1: path.as_ptr() as u64,
        config2: offset,
        ..Attributes::default()
    };
    let event = open(attributes, 0)?;
    // SAFETY: both descriptors are open.
    let set = unsafe { libc::ioctl(event.as_raw_fd(), SET_PROGRAM as _, program.as_raw_fd()) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    if unsafe { libc::ioctl(event.as_raw_fd(), ENABLE as _, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(event)
}
