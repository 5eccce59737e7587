//! A socket of another process -> a descriptor of our own for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A descriptor for the socket with this cookie that a process has.
pub(super) fn socket(pid: u32, cookie: u64) -> io::Result<OwnedFd> {
    let process = open(pid)?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if !is_socket {
            continue;
        }
        let Ok(copy) = copy(&process, number) else { continue };
        if nix_cookie(&copy).is_ok_and(|of| of == cookie) {
            return Ok(copy);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn nix_cookie(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: a value and its length, as the option wants them.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

fn copy(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

fn descriptor(got: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(got).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_cookie() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (one, other) = (OwnedFd::from(one), OwnedFd::from(other));
        let cookie = nix_cookie(&one).unwrap();
        let found = socket(std::process::id(), cookie).unwrap();
        assert_eq!(nix_cookie(&found).unwrap(), cookie);
        assert_ne!(nix_cookie(&other).unwrap(), cookie);
        assert!(socket(std::process::id(), u64::MAX).is_err());
    }
}
