//! The kernel ring's two positions -> how many bytes wait in it. Two loads from memory that the kernel shares.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The pages that hold the reader's and the kernel's position.
#[derive(Debug)]
pub struct Fill {
    pages: NonNull<libc::c_void>,
    page: usize,
    length: NonZeroUsize,
}

// SAFETY: the pages are only read, by atomic loads.
unsafe impl Send for Fill {}

impl Fill {
    /// Looks at a ring buffer map. None where the system does not let us.
    pub fn new(ring: impl AsFd) -> Option<Self> {
        let page = usize::try_from(procfs::page_size()).ok()?;
        let length = NonZeroUsize::new(2 * page)?;
        // SAFETY: a new mapping that nothing else relies on, read-only.
        let pages = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, ring, 0) };
        pages.ok().map(|pages| Self { pages, page, length })
    }

    /// Bytes that wait to be read.
    pub fn bytes(&self) -> u64 {
        let [consumer, producer] = self.positions();
        producer.wrapping_sub(consumer) as u64
    }

    /// How far the kernel has come: a place in the stream of all bytes of the ring.
    pub fn head(&self) -> usize {
        self.positions()[1]
    }

    /// Bytes before `head` that wait to be read.
    pub fn before(&self, head: usize) -> u64 {
        let ahead = head.wrapping_sub(self.positions()[0]).cast_signed();
        u64::try_from(ahead).unwrap_or(0)
    }

    /// The reader's position and the kernel's.
    fn positions(&self) -> [usize; 2] {
        // SAFETY: each page begins with a position, as the kernel's interface of the ring buffer says, and lives as long
        // as the mapping; whoever writes it does so atomically.
        unsafe {
            let consumer = self.pages.cast::<AtomicUsize>();
            let producer = self.pages.byte_add(self.page).cast::<AtomicUsize>();
            [consumer.as_ref().load(Relaxed), producer.as_ref().load(Relaxed)]
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        let _ = unsafe { munmap(self.pages, self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_waits_is_told_of_all_and_of_what_was_there_before() {
        let page = procfs::page_size();
        let ring = File::from(
            nix::sys::memfd::memfd_create(c"ring", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).expect("memory"),
        );
        ring.set_len(2 * page).expect("two pages");
        let at = |consumer: usize, producer: usize| {
            ring.write_all_at(&consumer.to_ne_bytes(), 0).expect("the reader's page");
            ring.write_all_at(&producer.to_ne_bytes(), page).expect("the kernel's page");
        };
        at(100, 350);
        let fill = Fill::new(&ring).expect("mapped");
        let head = fill.head();
        assert_eq!((fill.bytes(), head, fill.before(head)), (250, 350, 250));
        // The kernel goes on; the reader reads some, up to there, and beyond.
        for (consumer, before) in [(300, 50), (350, 0), (500, 0)] {
            at(consumer, 1000);
            assert_eq!((fill.bytes(), fill.before(head)), (1000 - consumer as u64, before), "{consumer}");
        }
    }
}
