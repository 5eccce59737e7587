//! Many probes on one file as one link of the kernel (`uprobe_multi`, Linux 6.6).
//!
//! Taking a probe off waits until no processor can be inside of its program, about 0.1 s; a link waits once for all
//! that it holds. aya 0.14 has no such links, and loads no program for them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya_obj::generated::bpf_insn;

/// `BPF_PROG_LOAD`, `BPF_LINK_CREATE`.
const LOAD: libc::c_long = 5;
const LINK: libc::c_long = 28;
/// `BPF_PROG_TYPE_KPROBE`, with `BPF_TRACE_UPROBE_MULTI`.
const KPROBE: u32 = 2;
const UPROBE_MULTI: u32 = 48;
/// `BPF_F_UPROBE_MULTI_RETURN`.
const RETURN: u32 = 1;

/// `union bpf_attr`, as far as loading a program needs it.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u32; 2],
    log_buffer: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

/// The same of such a link.
#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Load>() == 72 && size_of::<Link>() == 64);

/// The system call; `T` is one of the structs above.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are valid for their size, and so is what they point to: the callers hold it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor of our own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Loads a program for such links.
pub(super) fn load(name: &str, code: &[bpf_insn], license: &CStr) -> io::Result<OwnedFd> {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let attributes = Load {
        kind: KPROBE,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name: short,
        attach: UPROBE_MULTI,
        ..Load::default()
    };
    bpf(LOAD, &attributes)
}

/// Does this kernel know such links? A directory cannot be probed, and it must be that which it says.
pub(super) fn is_known(program: &OwnedFd) -> bool {
    let refused = link(program, c"/", &[0], &[0], false).err().and_then(|error| error.raw_os_error());
    refused == Some(libc::EBADF)
}

/// Puts a program on offsets of a file, or on the returns of the functions whose return addresses are on top of the
/// stack there. It stays for as long as what is returned is open. `cookies`: what the program is told, for each.
pub(super) fn probe(
    file: &File,
    offsets: &[u64],
    cookies: &[u64],
    returns: bool,
    program: &OwnedFd,
) -> io::Result<OwnedFd> {
    // By descriptor: whatever the name stands for meanwhile, it is this file.
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    link(program, &path, offsets, cookies, returns)
}

fn link(
    program: &OwnedFd,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
    returns: bool,
) -> io::Result<OwnedFd> {
    let attributes = Link {
        program: program.as_raw_fd() as u32,
        attach: UPROBE_MULTI,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        cookies: cookies.as_ptr() as u64,
        count: offsets.len().min(cookies.len()) as u32,
        multi_flags: if returns { RETURN } else { 0 },
        ..Link::default()
    };
    bpf(LINK, &attributes)
}
