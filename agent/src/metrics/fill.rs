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
        // SAFETY: each page begins with a position, as the kernel's interface of the ring buffer says, and lives as long
        // as the mapping; whoever writes it does so atomically.
        let (consumer, producer) = unsafe {
            let consumer = self.pages.cast::<AtomicUsize>();
            let producer = self.pages.byte_add(self.page).cast::<AtomicUsize>();
            (consumer.as_ref().load(Relaxed), producer.as_ref().load(Relaxed))
        };
        producer.wrapping_sub(consumer) as u64
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        let _ = unsafe { munmap(self.pages, self.length.get()) };
    }
}
