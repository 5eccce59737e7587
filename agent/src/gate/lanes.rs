//! Memory of the gate's maps that agent and shim have mapped: one word of it is changed by one of them, or atomically.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use agent_common::gate::{Lane, PASSES, Shared, lane as state, late};
use agent_common::parse::{Parsed, SLOTS, answer};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// One value of a map, mapped.
pub struct Page<T> {
    at: NonNull<T>,
    length: usize,
}

// SAFETY: shared memory whose words are read and written one at a time.
unsafe impl<T> Send for Page<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Page<T> {}

impl<T> Page<T> {
    fn many(fd: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        // Elements of an array that can be mapped lie one behind the other, each aligned to 8.
        let length = NonZeroUsize::new(size_of::<T>() * count).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of as many bytes as the map has (else the kernel refuses).
        let at = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, fd, 0)? };
        Ok(Self { at: at.cast(), length: length.get() })
    }

    /// Maps a map's only value.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::many(fd, 1)
    }
}

impl<T> Drop for Page<T> {
    fn drop(&mut self) {
        // SAFETY: made by `many`, and nobody holds a reference into it any more.
        let _ = unsafe { munmap(self.at.cast(), self.length) };
    }
}

macro_rules! word {
    ($atomic:ty, $place:expr) => {
        // SAFETY: mapped for as long as `self`, aligned, and only ever changed as a whole word.
        unsafe { <$atomic>::from_ptr(&raw mut $place) }
    };
}

impl Page<Shared> {
    /// Fills it in before anybody else looks at it.
    pub fn set(&self, shared: &Shared) {
        // SAFETY: mapped for as long as `self`.
        unsafe { self.at.as_ptr().write_volatile(*shared) };
    }

    /// Most bytes of a connection that may wait.
    pub fn held_max(&self) -> u64 {
        word!(AtomicU64, (*self.at.as_ptr()).held_max).load(Ordering::Relaxed)
    }

    /// The key of hashes; never changes.
    pub fn key(&self) -> [u64; 2] {
        // SAFETY: mapped for as long as `self`.
        unsafe { (*self.at.as_ptr()).key }
    }

    /// Whether connections go through the gate.
    pub fn armed(&self, armed: bool) {
        word!(AtomicU32, (*self.at.as_ptr()).armed).store(u32::from(armed), Ordering::SeqCst);
    }

    /// New connections are not enrolled any more; those that are stay.
    pub fn stop_enrolling(&self) {
        word!(AtomicU32, (*self.at.as_ptr()).armed).store(2, Ordering::SeqCst);
    }

    /// Whether nothing passes without a shim.
    pub fn closed(&self, closed: bool) {
        word!(AtomicU32, (*self.at.as_ptr()).closed).store(u32::from(closed), Ordering::SeqCst);
    }

    /// Whether they do.
    pub fn is_armed(&self) -> bool {
        word!(AtomicU32, (*self.at.as_ptr()).armed).load(Ordering::SeqCst) != 0
    }

    /// The shim is at work at this time.
    pub fn beat(&self, now: u64) {
        word!(AtomicU64, (*self.at.as_ptr()).pulse).store(now, Ordering::Release);
    }

    /// When the shim was at work last.
    pub fn pulse(&self) -> u64 {
        word!(AtomicU64, (*self.at.as_ptr()).pulse).load(Ordering::Acquire)
    }
}

impl Page<Parsed> {
    /// What it says now.
    pub fn get(&self) -> Parsed {
        // SAFETY: mapped for as long as `self`; plain numbers that are read one by one.
        unsafe { self.at.as_ptr().read_volatile() }
    }
}

/// Places for answers: see [`agent_common::parse::answer`].
pub struct Slots(Page<u64>);

impl Slots {
    /// Maps the map of answers.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Page::many(fd, SLOTS as usize).map(Self)
    }

    /// Answers a question.
    pub fn answer(&self, ticket: u64, denied: bool) {
        let place = (ticket % u64::from(SLOTS)) as usize;
        // SAFETY: within the mapping.
        let at = unsafe { self.0.at.as_ptr().add(place) };
        word!(AtomicU64, *at).store(answer(ticket, denied), Ordering::Release);
    }
}

/// All lanes.
pub struct Lanes {
    page: Page<Lane>,
    count: usize,
}

/// Words of one lane.
#[derive(Clone, Copy)]
pub struct LaneRef<'a> {
    at: *mut Lane,
    _of: std::marker::PhantomData<&'a Lanes>,
}

impl Lanes {
    /// Maps the map of lanes.
    pub fn map(fd: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Ok(Self { page: Page::many(fd, count)?, count })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One of them; none beyond the last.
    pub fn get(&self, index: usize) -> Option<LaneRef<'_>> {
        if index >= self.count {
            return None;
        }
        // SAFETY: within the mapping.
        let at = unsafe { self.page.at.as_ptr().add(index) };
        Some(LaneRef { at, _of: std::marker::PhantomData })
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $set:ident $field:ident: $atomic:ty = $value:ty;)*) => { $(
        $(#[$doc])*
        pub fn $get(self) -> $value {
            word!($atomic, (*self.at).$field).load(Ordering::SeqCst)
        }
        /// Sets it.
        pub fn $set(self, value: $value) {
            word!($atomic, (*self.at).$field).store(value, Ordering::SeqCst);
        }
    )* };
}

impl LaneRef<'_> {
    fields! {
        /// See [`Lane::word`].
        word set_word word: AtomicU64 = u64;
        /// See [`Lane::forwarded`].
        forwarded set_forwarded forwarded: AtomicU64 = u64;
        /// See [`Lane::cookie`].
        cookie set_cookie cookie: AtomicU64 = u64;
        /// See [`Lane::passed`].
        passed set_passed passed: AtomicU64 = u64;
        /// See [`Lane::state`].
        state set_state state: AtomicU32 = u32;
        /// See [`Lane::remain`].
        remain set_remain remain: AtomicU32 = u32;
        /// See [`Lane::class`].
        class set_class class: AtomicU32 = u32;
        /// See [`Lane::framing`].
        framing set_framing framing: AtomicU32 = u32;
        /// See [`Lane::skip`].
        skip set_skip skip: AtomicU32 = u32;
        /// See [`Lane::hello`].
        hello set_hello hello: AtomicU32 = u32;
        /// See [`Lane::late`].
        late set_late late: AtomicU32 = u32;
        /// See [`Lane::overflow`].
        overflow set_overflow overflow: AtomicU32 = u32;
        /// See [`Lane::answers`].
        answers set_answers answers: AtomicU32 = u32;
        /// See [`Lane::client`].
        client set_client client: AtomicU32 = u32;
        /// See [`Lane::sender`].
        sender set_sender sender: AtomicU64 = u64;
        /// See [`Lane::sent`].
        sent set_sent sent: AtomicU64 = u64;
        /// See [`Lane::answering`].
        answering set_answering answering: AtomicU32 = u32;
    }

    /// Opens the fast way again, for good where `passes`, if exactly `forwarded` bytes have come to the shim since it was
    /// closed.
    pub fn release(self, forwarded: u64, passes: bool) -> bool {
        let open = if passes { PASSES } else { 0 };
        let word = word!(AtomicU64, (*self.at).word);
        word.compare_exchange(forwarded << 1 | 1, open, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Counts anew while the fast way stays closed, if exactly `forwarded` bytes have come to the shim.
    pub fn rest(self, forwarded: u64) -> bool {
        let word = word!(AtomicU64, (*self.at).word);
        let rests = word.compare_exchange(forwarded << 1 | 1, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if rests {
            self.set_forwarded(0);
        }
        rests
    }

    /// Begins for a connection that was open before. `held`: all that it sends from now on; else it passes until it is
    /// [taken back](Self::take_back).
    pub fn begin(self, cookie: u64, framing: u32, held: bool) {
        let word = if held { 1 } else { PASSES };
        let lane = Lane { word, cookie, framing, late: late::NEW, ..Lane::default() };
        // SAFETY: mapped for as long as `self`; nobody looks at a lane that is neither free nor enrolled.
        unsafe { self.at.write_volatile(lane) };
        self.set_state(state::OPEN);
    }

    /// True where it passes and may be taken back.
    pub fn is_resting(self) -> bool {
        let open = self.state() == state::OPEN && self.client() == 0;
        // Odd while the kernel side finds that it passes.
        open && self.word() >= PASSES && self.word() & 1 == 0 && self.late() != late::LEFT
    }

    /// Holds what a connection that passes sends from now on, if nothing has come since its word was this one.
    pub fn take_back(self, since: u64) -> bool {
        // Nobody but the agent changes these while it passes.
        self.set_late(late::NEW);
        self.set_skip(0);
        self.set_remain(0);
        self.set_forwarded(0);
        let word = word!(AtomicU64, (*self.at).word);
        since >= PASSES
            && since & 1 == 0
            && word.compare_exchange(since, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// True where something of it is held.
    pub fn is_held(self) -> bool {
        let word = self.word();
        word < PASSES && word & 1 != 0 && word > 1
    }

    /// Lets a connection pass for good, if nothing of it is held.
    pub fn set_passes(self) -> bool {
        let word = word!(AtomicU64, (*self.at).word);
        word.compare_exchange(0, PASSES, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}
