//! Loads and attaches the kernel programs; hands out their records in order and sets what they copy.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_common::gate::Remote;
use agent_common::{
    Close, Connect, Counters, Exec, Exit, Fork, Lost, Open, Packet, Socket, Tls, TlsEnd, TlsKey, TlsMode,
    TlsState, UnixData, UnixOpen, UnixSocket, kind,
};
use agent_core::segment::Nanos;
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, RawTracePoint, SockOps, TracePoint,
    UProbe,
};
use aya::{Ebpf, EbpfLoader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::btf::{self, Btf};
use super::tls::programs::{self, Programs};
use super::unix;
use crate::metrics::fill::Fill;

/// The kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-probes"));

/// Why capture cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted; run `mount -t cgroup2 none /sys/fs/cgroup/unified` or boot with it"
    )]
    NoCgroup,
    /// The mount table or a cgroup could not be opened.
    #[error("cannot open {path}: {source}; run weir as root on the host, or mount it into the container")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The kernel refused the object.
    #[error("the kernel refused weir's programs: {0}; run `weir doctor` to see what this host lacks")]
    Load(#[from] aya::EbpfError),
    /// The kernel refused one program.
    #[error(
        "the kernel refused program {name}: {}; run `weir doctor` to see what this host lacks",
        brief(source)
    )]
    Program {
        /// The program's name.
        name: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map or program is missing from the object.
    #[error("the built-in kernel object lacks {0}; this build of weir is broken")]
    Missing(&'static str),
    /// A map could not be used.
    #[error("cannot use a map of the kernel side: {0}")]
    Map(#[from] aya::maps::MapError),
}

/// What was refused and by which instruction; the verifier's whole way there has thousands of lines.
fn brief(error: &aya::programs::ProgramError) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().split(" Verifier output").next().unwrap_or_default();
    let said = lines.rev().find(|l| {
        !l.contains("verification time") && !l.starts_with("processed ") && !l.starts_with("stack depth")
    });
    said.map_or_else(|| first.to_owned(), |said| format!("{first} ({said})"))
}

/// A record of the kernel side, borrowed from the ring.
pub enum Record<'a> {
    /// A piece of payload: the record, the captured head, the captured tail.
    Packet(&'a Packet, &'a [u8], &'a [u8]),
    /// A connection was established.
    Open(&'a Open),
    /// A socket was closed.
    Close(&'a Close),
    /// A process connects.
    Connect(&'a Connect),
    /// A program started: the record, its path, its arguments (each ended by NUL).
    Exec(&'a Exec, &'a [u8], &'a [u8]),
    /// A process forked.
    Fork(&'a Fork),
    /// A process ended.
    Exit(&'a Exit),
    /// A Unix socket spoke first: the record, its name or its peer's.
    UnixOpen(&'a UnixOpen, &'a [u8]),
    /// A Unix socket sent: the record, the captured head, the captured tail.
    UnixData(&'a UnixData, &'a [u8], &'a [u8]),
    /// A piece of a TLS session's plaintext: the record, the captured head, the captured tail.
    Tls(&'a Tls, &'a [u8], &'a [u8]),
    /// A TLS session is over.
    TlsEnd(&'a TlsEnd),
}

/// The reading end of the ring.
pub struct Records {
    ring: RingBuf<MapData>,
    fill: Option<Fill>,
}

/// Other threads ring it where there is something to do for whoever waits for records.
#[derive(Clone)]
pub struct Bell(Arc<EventFd>);

impl Bell {
    /// One that is quiet.
    pub fn new() -> nix::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)))
    }

    /// From any thread; never waits.
    pub fn ring(&self) {
        // A counter that is full rings already.
        let _ = self.0.write(1);
    }
}

impl Records {
    /// Waits until the kernel side asks to be read, until somebody rings, or until `timeout`.
    pub fn wait(&self, timeout: Duration, bell: Option<&Bell>) {
        // SAFETY: the descriptor is the ring's own, and open for as long as this.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let other = bell.map_or(ring, |bell| bell.0.as_fd());
        let mut both = [ring, other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // Where it fails there was a signal: the caller looks around and comes again.
        let _ = poll(&mut both, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
        if let Some(bell) = bell {
            let _ = bell.0.read();
        }
    }

    /// Bytes that wait to be read; 0 where the system does not tell.
    pub fn fill(&self) -> u64 {
        self.fill.as_ref().map_or(0, Fill::bytes)
    }

    /// How far the kernel side has come; nothing where the system does not tell.
    pub fn head(&self) -> Option<usize> {
        self.fill.as_ref().map(Fill::head)
    }

    /// Bytes before `head` that wait to be read. A record that its writer is not done with keeps all behind it.
    pub fn before(&self, head: usize) -> u64 {
        self.fill.as_ref().map_or(0, |fill| fill.before(head))
    }

    /// Hands out at most `most` records, oldest first, until `take` wants no more; returns how many there were.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(Record<'_>) -> bool) -> usize {
        for n in 0..most {
            let Some(item) = self.ring.next() else { return n };
            if let Some(record) = decode(&item)
                && !take(record)
            {
                return n + 1;
            }
        }
        most
    }
}

/// The attached programs. Dropping it detaches them all; so does the end of the process, however it ends:
/// nothing is pinned.
pub struct Live {
    sockets: HashMap<MapData, u64, Socket>,
    lost: HashMap<MapData, u64, Lost>,
    counters: PerCpuArray<MapData, Counters>,
    tls: HashMap<MapData, TlsKey, TlsState>,
    tls_modes: HashMap<MapData, TlsKey, TlsMode>,
    offset: u64,
    pub(super) unix: HashMap<MapData, u64, UnixSocket>,
    pub(super) ebpf: Ebpf,
    /// All maps, for programs that are loaded later.
    maps: Vec<(String, OwnedFd)>,
    /// The shim wants to know what these processes' TLS sessions carry: those that ask servers elsewhere.
    clients: bool,
}

/// What the shim reads the plaintext of TLS sessions from: the maps `PLAIN` and `WRITTEN`.
pub type Plaintext = [OwnedFd; 2];

/// Bytes of the ring `PLAIN` where somebody reads it.
const PLAIN_RING: u32 = 1 << 24;

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or beside v1 (hybrid).
pub fn cgroup2() -> Result<PathBuf, CaptureError> {
    let path = PathBuf::from("/proc/self/mounts");
    let mounts = std::fs::read_to_string(&path).map_err(|source| CaptureError::Open { path, source })?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .ok_or(CaptureError::NoCgroup)
}

/// Where tracefs may be.
pub const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Mounts tracefs where nobody has: systemd does at boot, other inits and many virtual machines do not. Where that is
/// refused (a container), attaching says what is missing.
fn provide_tracefs() {
    if TRACEFS.iter().any(|place| Path::new(place).join("events").exists()) {
        return;
    }
    let flags =
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    let fstype = Some("tracefs");
    match nix::mount::mount(fstype, TRACEFS[0], fstype, flags, None::<&str>) {
        Ok(()) => tracing::info!("mounted tracefs at {}", TRACEFS[0]),
        Err(error) => tracing::debug!(%error, "tracefs is not mounted, and cannot be"),
    }
}

/// Offset of a field in a tracepoint's record, from tracefs; `None` where tracefs does not show it.
fn tracepoint_offset(name: &str, field: &str) -> Option<u32> {
    let text = TRACEFS
        .iter()
        .find_map(|root| std::fs::read_to_string(format!("{root}/events/sched/{name}/format")).ok())?;
    let line = text.lines().find(|l| l.contains(&format!(" {field};")))?;
    line.split("offset:").nth(1)?.split(';').next()?.trim().parse().ok()
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for the call to write to.
    unsafe { libc::clock_gettime(id, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Nanoseconds to add to `CLOCK_MONOTONIC` to get wall clock time.
fn clock_offset() -> u64 {
    clock(libc::CLOCK_REALTIME) - clock(libc::CLOCK_MONOTONIC)
}

/// What the programs must know of this kernel. 0 says "unknown": then arguments and parents come from /proc
/// alone, where they may come too late.
fn globals() -> Vec<(&'static str, u32)> {
    let image = btf::image();
    let btf = Btf::parse(&image);
    let offset = |s: &str, f: &str| btf.as_ref().and_then(|b| b.offset(s, f)).unwrap_or(0);
    let mut globals = vec![
        ("TASK_MM", offset("task_struct", "mm")),
        ("MM_ARG_START", offset("mm_struct", "arg_start")),
        ("TASK_PARENT", offset("task_struct", "real_parent")),
        ("TASK_TGID", offset("task_struct", "tgid")),
        ("EXEC_FILENAME", tracepoint_offset("sched_process_exec", "filename").unwrap_or(8)),
        ("TASK_PID", offset("task_struct", "pid")),
        ("TASK_FSBASE", fsbase(&offset)),
        ("TASK_HELPER", u32::from(super::kernel_at_least(6, 10))),
    ];
    globals.extend(unix::globals(offset));
    globals
}

/// Where a task keeps the base of its thread's storage; 0 where it does not.
fn fsbase(offset: &impl Fn(&str, &str) -> u32) -> u32 {
    match (offset("task_struct", "thread"), offset("thread_struct", "fsbase")) {
        (0, _) | (_, 0) => 0,
        (thread, base) => thread + base,
    }
}

impl Live {
    /// Loads and attaches everything. `ring_bytes`: a power of two, at least a page. `servers`: servers elsewhere whose
    /// clients' plaintext the gate wants to have before it is encrypted.
    pub fn attach(ring_bytes: u32, servers: &[SocketAddr]) -> Result<(Records, Self), CaptureError> {
        provide_tracefs();
        let globals = globals();
        // A quarter full wakes the reader: three quarters remain for what comes until it runs.
        let watermark = u64::from(ring_bytes) / 4;
        let mut loader = EbpfLoader::new();
        for (name, value) in &globals {
            loader.override_global(name, value, true);
        }
        let part = u64::from(ring_bytes) / 16;
        let crowded = [8 * part, 12 * part, 15 * part];
        loader.override_global("CROWDED", &crowded, true);
        loader.override_global("WATERMARK", &watermark, true).map_max_entries("EVENTS", ring_bytes);
        if !servers.is_empty() {
            loader.map_max_entries("PLAIN", PLAIN_RING);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let path = cgroup2()?;
        let root = File::open(&path).map_err(|source| CaptureError::Open { path, source })?;

        {
            let name = "weir_fork";
            let program: &mut RawTracePoint = typed(&mut ebpf, name)?;
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            program.load().map_err(refused)?;
            program.attach("sched_process_fork").map_err(refused)?;
        }
        for name in ["weir_exec", "weir_exit"] {
            let event = name.replace("weir_", "sched_process_");
            let program: &mut TracePoint = typed(&mut ebpf, name)?;
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            program.load().map_err(refused)?;
            program.attach("sched", &event).map_err(refused)?;
        }
        for name in ["weir_connect4", "weir_connect6"] {
            let program: &mut CgroupSockAddr = typed(&mut ebpf, name)?;
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            program.load().map_err(refused)?;
            program.attach(&root, CgroupAttachMode::Single).map_err(refused)?;
        }
        {
            let name = "weir_socket";
            let program: &mut SockOps = typed(&mut ebpf, name)?;
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            program.load().map_err(refused)?;
            program.attach(&root, CgroupAttachMode::Single).map_err(refused)?;
        }
        // Packets last: by now a connection's beginning is seen before its bytes.
        for (name, kind) in
            [("weir_egress", CgroupSkbAttachType::Egress), ("weir_ingress", CgroupSkbAttachType::Ingress)]
        {
            let program: &mut CgroupSkb = typed(&mut ebpf, name)?;
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            program.load().map_err(refused)?;
            program.attach(&root, kind, CgroupAttachMode::Single).map_err(refused)?;
        }
        let maps = ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), descriptor(map)?))).collect();
        let mut map = |name| ebpf.take_map(name).ok_or(CaptureError::Missing(name));
        let mut known: HashMap<_, Remote, u32> = HashMap::try_from(map("SERVERS")?)?;
        for server in servers {
            known.insert(crate::gate::guard::remote(*server), 1, 0)?;
        }
        let ring = RingBuf::try_from(map("EVENTS")?)?;
        // SAFETY: the descriptor is the ring's own, and open for as long as this.
        let fill = Fill::new(unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) });
        let records = Records { ring, fill };
        let live = Self {
            sockets: HashMap::try_from(map("SOCKETS")?)?,
            lost: HashMap::try_from(map("LOST")?)?,
            counters: PerCpuArray::try_from(map("COUNTERS")?)?,
            offset: clock_offset(),
            unix: HashMap::try_from(map("UNIX")?)?,
            tls: HashMap::try_from(map("TLS")?)?,
            tls_modes: HashMap::try_from(map("TLS_MODES")?)?,
            ebpf,
            maps,
            clients: !servers.is_empty(),
        };
        Ok((records, live))
    }

    /// Loads the programs that are put on calls of TLS libraries. Gives what the shim reads, where it wants to.
    pub fn load_tls(&mut self) -> Result<(Programs, Option<Plaintext>), CaptureError> {
        let mut maps = std::mem::take(&mut self.maps);
        match programs::shared(OBJECT, &maps, self.clients) {
            Ok(programs) => {
                let mut take =
                    |name| maps.extract_if(.., |(known, _)| known == name).next().map(|(_, fd)| fd);
                let plain = take("PLAIN").zip(take("WRITTEN")).filter(|_| self.clients);
                return Ok((programs, plain.map(Plaintext::from)));
            }
            Err(error) => tracing::info!(%error, "each probe on a TLS library is a perf event of its own"),
        }
        if self.clients {
            tracing::warn!("TLS to servers elsewhere is not held: that needs Linux 6.6");
        }
        let mut loaded = std::collections::HashMap::new();
        for programs::Kind { program: name, .. } in programs::KINDS {
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            let program: &mut UProbe = typed(&mut self.ebpf, name)?;
            program.load().map_err(refused)?;
            let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
            let fd = fd.as_fd().try_clone_to_owned().map_err(|source| refused(source.into()))?;
            loaded.insert(name, fd);
        }
        Ok((Programs::Alone(loaded), None))
    }

    /// Says what to copy of a TLS session.
    pub fn set_tls(&mut self, session: TlsKey, mode: TlsMode) {
        let _ = self.tls_modes.insert(session, mode, 0);
    }

    /// Forgets a TLS session whose end no call will tell: its process is gone.
    pub fn forget_tls(&mut self, session: TlsKey) {
        let _ = self.tls_modes.remove(&session);
        let _ = self.tls.remove(&session);
    }

    /// Wall clock time of a record's `CLOCK_MONOTONIC` nanoseconds.
    pub fn wall(&self, monotonic: u64) -> Nanos {
        Nanos(monotonic.wrapping_add(self.offset))
    }

    /// Now, in wall clock time.
    pub fn now(&self) -> Nanos {
        self.wall(clock(libc::CLOCK_MONOTONIC))
    }

    /// Follows the wall clock, which may be set or slewed while the agent runs.
    pub fn resync_clock(&mut self) {
        self.offset = clock_offset();
    }

    /// Says what to copy of a socket. A socket that is gone is no error.
    pub fn set(&mut self, cookie: u64, socket: &Socket) {
        const EXISTING: u64 = 2; // BPF_EXIST: never makes an entry that no CLOSE would remove
        let _ = self.sockets.insert(cookie, socket, EXISTING);
    }

    /// Forgets a socket whose end the kernel side will not report: it was open before the programs were.
    pub fn forget(&mut self, cookie: u64) {
        let _ = self.sockets.remove(&cookie);
        let _ = self.unix.remove(&cookie);
    }

    /// Totals of all CPUs.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        if let Ok(values) = self.counters.get(&0, 0) {
            for c in values.iter() {
                sum.segments += c.segments;
                sum.records += c.records;
                sum.bytes += c.bytes;
                sum.ring_full += c.ring_full;
                sum.ring_full_bytes += c.ring_full_bytes;
                sum.sockets_full += c.sockets_full;
                sum.unparsed += c.unparsed;
                sum.undecided_bytes += c.undecided_bytes;
                sum.unreadable_bytes += c.unreadable_bytes;
                sum.tls_full += c.tls_full;
                sum.shed_bytes += c.shed_bytes;
            }
        }
        sum
    }

    /// What one socket lost so far.
    pub fn lost_of(&self, cookie: u64) -> Lost {
        self.lost.get(&cookie, 0).unwrap_or_default()
    }

    /// Whether the kernel side still knows a socket: one that has carried bytes and was not closed.
    pub fn has(&self, cookie: u64) -> bool {
        self.sockets.get(&cookie, 0).is_ok()
    }

    /// What each socket lost so far, by cookie.
    pub fn lost(&self) -> Vec<(u64, Lost)> {
        self.lost.iter().filter_map(Result::ok).collect()
    }
}

/// A descriptor of our own for a map of one of the kinds that the programs have.
fn descriptor(map: &Map) -> Option<OwnedFd> {
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::RingBuf(data)) = map
    else {
        return None;
    };
    data.fd().as_fd().try_clone_to_owned().ok()
}

pub(crate) fn typed<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, CaptureError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(CaptureError::Missing(name))?;
    program.try_into().map_err(|source| CaptureError::Program { name, source: Box::new(source) })
}

/// A record of type `T` at the front of `bytes`.
fn view<T>(bytes: &[u8]) -> Option<&T> {
    if bytes.len() < size_of::<T>() || bytes.as_ptr().align_offset(align_of::<T>()) != 0 {
        return None;
    }
    // SAFETY: long enough and aligned (the ring aligns to 8); the records are plain integers, any bits are valid.
    Some(unsafe { &*bytes.as_ptr().cast::<T>() })
}

/// The captured head and tail behind a record of type `T`.
fn payload<T>(bytes: &[u8], head: u32, tail: u32) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.get(size_of::<T>()..)?.split_at_checked(head as usize)?;
    Some((head, rest.get(..tail as usize)?))
}

fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    Some(match *view::<u32>(bytes)? {
        kind::PACKET => {
            let packet = view::<Packet>(bytes)?;
            let (head, tail) = payload::<Packet>(bytes, packet.head, packet.tail)?;
            Record::Packet(packet, head, tail)
        }
        kind::OPEN => Record::Open(view(bytes)?),
        kind::CLOSE => Record::Close(view(bytes)?),
        kind::CONNECT => Record::Connect(view(bytes)?),
        kind::EXEC => {
            let exec = view::<Exec>(bytes)?;
            let path = exec.path.get(..exec.path_length as usize)?;
            Record::Exec(exec, path, exec.arguments.get(..exec.arguments_length as usize)?)
        }
        kind::FORK => Record::Fork(view(bytes)?),
        kind::EXIT => Record::Exit(view(bytes)?),
        kind::UNIX_OPEN => {
            let open = view::<UnixOpen>(bytes)?;
            Record::UnixOpen(open, open.name.get(..open.name_length as usize)?)
        }
        kind::UNIX_DATA => {
            let data = view::<UnixData>(bytes)?;
            let payload = &bytes[size_of::<UnixData>()..];
            let head = payload.get(..data.head as usize)?;
            let tail = payload.get(data.head as usize..)?.get(..data.tail as usize)?;
            Record::UnixData(data, head, tail)
        }
        kind::TLS => {
            let tls = view::<Tls>(bytes)?;
            let (head, tail) = payload::<Tls>(bytes, tls.head, tls.tail)?;
            Record::Tls(tls, head, tail)
        }
        kind::TLS_END => Record::TlsEnd(view(bytes)?),
        _ => return None,
    })
}
