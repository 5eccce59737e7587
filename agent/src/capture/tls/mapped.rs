//! The kernel's word on every file that any process maps to execute it, at the moment it does.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use super::perf::{self, Attributes};

/// `PERF_TYPE_SOFTWARE`, `PERF_COUNT_SW_DUMMY`: an event that never happens, but whose side records do.
const SOFTWARE: u32 = 1;
const DUMMY: u64 = 9;
/// Executable mappings (`mmap`), with device and inode (`mmap2`); records wake by bytes (`watermark`).
const FLAGS: u64 = 1 << 8 | 1 << 14 | 1 << 23;
/// `PERF_RECORD_MMAP2`, `PERF_RECORD_LOST`.
const MMAP2: u32 = 10;
const LOST: u32 = 2;
/// Pages of each CPU's buffer: a process with a hundred libraries is 12 KiB.
const PAGES: usize = 64;
/// Where `data_head` and `data_tail` are in the first page, in words of 8 bytes.
const HEAD: usize = 1024 / 8;
const TAIL: usize = 1032 / 8;

/// A file that was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// By which process.
    pub pid: u32,
    /// Device and inode, as the file system itself counts them.
    pub file: (u32, u32, u64),
    /// Its name in the process's mount namespace.
    pub name: PathBuf,
}

/// All CPUs' buffers.
pub struct Watch {
    buffers: Vec<Buffer>,
    page: usize,
}

struct Buffer {
    event: OwnedFd,
    base: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the mapping is this process's, and only the holder of the buffer reads it.
unsafe impl Send for Buffer {}

impl Watch {
    /// Begins to watch. Needs `CAP_PERFMON`.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let mut buffers = Vec::new();
        for cpu in online()? {
            let attributes = Attributes {
                kind: SOFTWARE,
                config: DUMMY,
                flags: FLAGS,
                wakeup: 1,
                ..Attributes::default()
            };
            let event = perf::open(attributes, cpu)?;
            let length = (PAGES + 1) * page;
            // SAFETY: a new mapping of an event that is open; unmapped when the buffer is dropped.
            let base = unsafe {
                let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
                libc::mmap(std::ptr::null_mut(), length, protection, flags, event.as_raw_fd(), 0)
            };
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            buffers.push(Buffer { event, base, length });
        }
        Ok(Self { buffers, page })
    }

    /// Waits until something was mapped, or until `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut polls: Vec<libc::pollfd> = self
            .buffers
            .iter()
            .map(|b| libc::pollfd { fd: b.event.as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: valid descriptors for the time of the call.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, millis) };
    }

    /// Hands out what was mapped since; returns whether some of it was lost.
    pub fn drain(&mut self, take: &mut impl FnMut(Mapped)) -> bool {
        let mut lost = false;
        for buffer in &mut self.buffers {
            lost |= buffer.drain(self.page, take);
        }
        lost
    }
}

impl Buffer {
    fn drain(&mut self, page: usize, take: &mut impl FnMut(Mapped)) -> bool {
        let size = PAGES * page;
        // SAFETY: the first page holds the two positions; the kernel writes the head, we the tail.
        let (head, tail) = unsafe {
            let at = |word: usize| &*self.base.as_ptr().add(word);
            (at(HEAD).load(Ordering::Acquire), at(TAIL))
        };
        let mut position = tail.load(Ordering::Relaxed);
        let mut lost = false;
        while position < head {
            let kind_size = self.bytes(page, position as usize % size, 8);
            let kind = u32::from_ne_bytes([kind_size[0], kind_size[1], kind_size[2], kind_size[3]]);
            let length = usize::from(u16::from_ne_bytes([kind_size[6], kind_size[7]]));
            if length < 8 {
                position = head;
                break;
            }
            let record = self.bytes(page, position as usize % size, length);
            match kind {
                MMAP2 => parse(&record).into_iter().for_each(&mut *take),
                LOST => lost = true,
                _ => {}
            }
            position += length as u64;
        }
        fence(Ordering::SeqCst);
        tail.store(position, Ordering::Release);
        lost
    }

    /// A copy of bytes that may go around the buffer's end.
    fn bytes(&self, page: usize, at: usize, length: usize) -> Vec<u8> {
        let size = PAGES * page;
        // SAFETY: the data pages follow the first one; nothing outside of them is read.
        let data = unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<u8>().add(page), size) };
        let first = length.min(size - at);
        [&data[at..at + first], &data[..length - first]].concat()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, with this length.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// `struct { header; u32 pid, tid; u64 addr, len, pgoff; u32 maj, min; u64 ino, generation; u32 prot, flags; char name[]; }`
fn parse(record: &[u8]) -> Option<Mapped> {
    let word = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?));
    let name = record.get(72..)?.split(|b| *b == 0).next()?;
    let name = std::str::from_utf8(name).ok().filter(|name| name.starts_with('/'))?;
    Some(Mapped { pid: word(8)?, file: (word(40)?, word(44)?, long(48)?), name: name.into() })
}

/// CPUs that are online: `0-3,8`.
fn online() -> io::Result<Vec<i32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(range(text.trim()))
}

fn range(text: &str) -> Vec<i32> {
    let parts = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<i32>().ok()?..=last.parse::<i32>().ok()?)
    });
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        assert_eq!(range("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(range("0"), [0]);
    }

    #[test]
    fn records() {
        let mut record = vec![0; 72];
        record[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        record[40..44].copy_from_slice(&254_u32.to_ne_bytes());
        record[48..56].copy_from_slice(&1310_u64.to_ne_bytes());
        record.extend(b"/usr/lib/libssl.so.3\0\0\0\0");
        let expected = Mapped { pid: 7, file: (254, 0, 1310), name: "/usr/lib/libssl.so.3".into() };
        assert_eq!(parse(&record), Some(expected));
        record.truncate(72);
        record.extend(b"//anon\0\0");
        assert_eq!(parse(&record).map(|m| m.name), Some("//anon".into()));
        assert_eq!(parse(&record[..60]), None);
    }
}
