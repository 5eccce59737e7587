//! The kernel side of the gate: loaded, attached, armed and taken away again by the agent.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use agent_common::gate::{ANSWERS, Framing, Remote, Shared, Tally, entry as state_of, lane as state};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, Queue, SockHash};
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, SkMsg, SkSkb, SockOps};
use aya::{Ebpf, EbpfLoader};

use super::entry::{self, Entrance};
use super::lanes::{LaneRef, Lanes, Page};
use super::parse::{self, Parsers};
use crate::capture::btf;
use crate::capture::live::{CaptureError, cgroup2, typed};

/// The kernel programs.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-gate"));

/// Most connections that can be enrolled at once.
pub const LANES: u32 = 4096;

/// The attached programs and their maps. What is enrolled keeps those it needs until it closes.
pub struct Guard {
    ebpf: Ebpf,
    guarded: SockHash<MapData, u64>,
    /// Kept open: the kernel side of what is enrolled does not need it to be, the next connections do.
    _answered: SockHash<MapData, u64>,
    free: Queue<MapData, u32>,
    ports: HashMap<MapData, u16, u32>,
    remotes: HashMap<MapData, Remote, u32>,
    gated: HashMap<MapData, u64, u32>,
    tally: PerCpuArray<MapData, Tally>,
    shared: Page<Shared>,
    lanes: Lanes,
    entrance: Entrance,
    /// Whether it can be used, or why not.
    queued: Result<(), String>,
    /// Probes on servers' parsers, or why there are none.
    parsers: Result<Parsers, String>,
    /// What the shim works with, in the order of [`Part`].
    parts: Vec<OwnedFd>,
}

/// Why a connection cannot be enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// Another program has it: a service mesh, another weir, or one that was here before.
    Taken,
    /// There is no room yet.
    Crowded,
    /// It has something unread.
    Busy,
    /// It is gone, or the kernel does not want it.
    Other,
}

/// The maps that the shim works with: which descriptor of a message is which.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Its sockets, by lane.
    Shims,
    /// Which lane a socket serves.
    Serves,
    /// Lanes.
    Lanes,
    /// Lanes that are free.
    Free,
    /// Texts that pass.
    Known,
    /// Names of texts.
    Names,
    /// What all share.
    Shared,
    /// First messages.
    Hello,
    /// What is asked about texts that are about to be parsed.
    Asked,
    /// What is answered to that.
    Answers,
    /// Sessions about which is asked.
    Classes,
    /// Enrolled sockets, by cookie.
    Guarded,
    /// Plaintext of clients. Not a map of the gate's own programs, as the next is not: where their probes cannot be, both
    /// are missing.
    Plain,
    /// How much each session has written.
    Written,
}

impl Part {
    /// Those of the gate's own programs, in order, with the names of their maps.
    pub const OWN: [(Part, &'static str); 12] = [
        (Part::Shims, "SHIMS"),
        (Part::Serves, "SERVES"),
        (Part::Lanes, "LANES"),
        (Part::Free, "FREE"),
        (Part::Known, "KNOWN"),
        (Part::Names, "NAMES"),
        (Part::Shared, "SHARED"),
        (Part::Hello, "HELLO"),
        (Part::Asked, "ASKED"),
        (Part::Answers, "ANSWERS"),
        (Part::Classes, "CLASSES"),
        (Part::Guarded, "GUARDED"),
    ];
}

fn fd(map: &Map) -> Option<BorrowedFd<'_>> {
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::Queue(data)
    | Map::RingBuf(data)
    | Map::SockHash(data)) = map
    else {
        return None;
    };
    Some(data.fd().as_fd())
}

/// A server's address as the kernel side has it.
pub fn remote(server: SocketAddr) -> Remote {
    let port = server.port().into();
    match server.ip() {
        IpAddr::V4(address) => Remote::v4(u32::from_ne_bytes(address.octets()), port),
        IpAddr::V6(address) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(address.octets().chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            Remote::v6(words, port)
        }
    }
}

/// What is to be set in programs before they are loaded, by name; an error says why it cannot be known.
pub type Globals = Result<Vec<(&'static str, u32)>, String>;

impl Guard {
    /// Loads and attaches everything; nothing is enrolled before [`Guard::arm`] and [`Guard::enrol_port`].
    /// `tls`: servers' parsers are probed, for what cannot be read on its way.
    pub fn attach(framings: &[Framing], shared: Shared, tls: bool) -> Result<Self, CaptureError> {
        let mut loader = EbpfLoader::new();
        for name in ["GUARDED", "ANSWERED", "GATED", "LANES", "BUFFERS", "FREE", "HELLO"] {
            loader.map_max_entries(name, LANES);
        }
        for name in ["SHIMS", "SERVES"] {
            loader.map_max_entries(name, 3 * LANES + 1);
        }
        let known = btf::ask(|btf| [parse::globals(btf), entry::globals(btf)]);
        let [globals, queued] = known.unwrap_or_else(|why| [Err(why.clone()), Err(why)]);
        for (name, value) in globals.iter().chain(&queued).flatten() {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let entrance = Entrance::new(&mut ebpf)?;
        let wanted = if tls { globals.map(drop) } else { Err("gate.tls is off".to_owned()) };
        let parsers = wanted.and_then(|()| Parsers::load(&mut ebpf).map_err(|error| error.to_string()));
        if let (true, Err(why)) = (tls, &parsers) {
            tracing::warn!(%why, "what cannot be read on its way is not held");
        }
        let mut parts = Vec::new();
        for (_, name) in Part::OWN {
            let map = ebpf.map(name).and_then(fd).ok_or(CaptureError::Missing(name))?;
            parts.push(
                map.try_clone_to_owned()
                    .map_err(|source| CaptureError::Open { path: name.into(), source })?,
            );
        }
        let mapped = |part: Part| parts[part as usize].as_fd();
        let open = |source| CaptureError::Open { path: "a map of the gate".into(), source };
        let page = Page::map(mapped(Part::Shared)).map_err(open)?;
        page.set(&shared);
        let lanes = Lanes::map(mapped(Part::Lanes), LANES as usize).map_err(open)?;
        let mut map = |name| ebpf.take_map(name).ok_or(CaptureError::Missing(name));
        let mut stored: Array<_, Framing> = Array::try_from(map("FRAMINGS")?)?;
        for (index, framing) in (0..).zip(framings) {
            stored.set(index, framing, 0)?;
        }
        let guarded: SockHash<_, u64> = SockHash::try_from(map("GUARDED")?)?;
        let answered: SockHash<_, u64> = SockHash::try_from(map("ANSWERED")?)?;
        let shims: SockHash<_, u64> = SockHash::try_from(map("SHIMS")?)?;
        let free = Queue::try_from(map("FREE")?)?;
        let ports = HashMap::try_from(map("PORTS")?)?;
        let remotes = HashMap::try_from(map("REMOTES")?)?;
        let gated = HashMap::try_from(map("GATED")?)?;
        let tally = PerCpuArray::try_from(map("TALLY")?)?;
        {
            let name = "weir_verdict";
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            let program: &mut SkSkb = typed(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.attach(guarded.fd()).map_err(refused)?;
        }
        {
            let name = "weir_release";
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            let program: &mut SkMsg = typed(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.attach(shims.fd()).map_err(refused)?;
        }
        {
            let name = "weir_answer";
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            let program: &mut SkMsg = typed(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.attach(answered.fd()).map_err(refused)?;
        }
        {
            let name = "weir_delay";
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            let path = cgroup2()?;
            let root = File::open(&path).map_err(|source| CaptureError::Open { path, source })?;
            let program: &mut CgroupSkb = typed(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.attach(&root, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single).map_err(refused)?;
        }
        {
            let name = "weir_enrol";
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            let path = cgroup2()?;
            let root = File::open(&path).map_err(|source| CaptureError::Open { path, source })?;
            let program: &mut SockOps = typed(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.attach(&root, CgroupAttachMode::Single).map_err(refused)?;
        }
        Ok(Self {
            ebpf,
            entrance,
            queued: queued.map(drop),
            guarded,
            _answered: answered,
            free,
            ports,
            remotes,
            gated,
            tally,
            shared: page,
            lanes,
            parsers,
            parts,
        })
    }

    /// Probes on servers' parsers, where this kernel can have them.
    pub fn parsers(&mut self) -> Option<&mut Parsers> {
        self.parsers.as_mut().ok()
    }

    /// What the shim is given.
    pub fn parts(&self) -> Vec<RawFd> {
        self.parts.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// What all of the gate shares.
    pub fn shared(&self) -> &Page<Shared> {
        &self.shared
    }

    /// The lanes.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// From now on connections to this port are enrolled, with what the server sends where `answers`.
    pub fn enrol_port(&mut self, port: u16, framing: u32, answers: bool) {
        let served = framing | if answers { ANSWERS } else { 0 };
        if let Err(error) = self.ports.insert(port, served, 0) {
            tracing::warn!(%error, port, "the gate cannot watch this port");
        }
    }

    /// From now on connections of processes here to this server elsewhere are enrolled.
    pub fn enrol_remote(&mut self, server: SocketAddr, framing: u32) {
        if let Err(error) = self.remotes.insert(remote(server), framing, 0) {
            tracing::warn!(%error, %server, "the gate cannot watch connections to this server");
        }
    }

    /// Enrols a connection that is open already and whose server's socket has nothing unread; it goes by this cookie. All
    /// that it sends from now on is held.
    pub fn adopt(&mut self, cookie: u64, socket: BorrowedFd<'_>, framing: u32) -> Result<(), MapError> {
        let index = self.begin(cookie, framing, true)?;
        let entered = self.guarded.insert(cookie, socket.as_raw_fd(), 0);
        if entered.is_err() {
            self.give_back(cookie, index);
        }
        entered
    }

    /// Enrols connections that are open already, by the cookies of their servers' sockets in this network namespace and
    /// the places of their framings; they pass at first. Those that have something unread stay outside.
    pub fn let_in(
        &mut self,
        wanted: &[(u64, u32)],
        namespace: &File,
    ) -> io::Result<Vec<(u64, Result<(), Barred>)>> {
        if let Err(why) = &self.queued {
            return Err(io::Error::other(why.clone()));
        }
        let (mut answers, mut cookies, mut lanes) = (Vec::new(), Vec::new(), Vec::new());
        for &(cookie, framing) in wanted {
            match self.begin(cookie, framing, false) {
                Ok(index) => {
                    cookies.push(cookie);
                    lanes.push(index);
                }
                Err(_) => answers.push((cookie, Err(Barred::Crowded))),
            }
        }
        let walked = self.entrance.let_in(&mut self.ebpf, &cookies, namespace);
        let failed = |_: &io::Error| vec![state_of::FAILED; cookies.len()];
        let outcomes = walked.as_ref().map_or_else(failed, Vec::clone);
        for ((cookie, lane), outcome) in cookies.into_iter().zip(lanes).zip(outcomes) {
            let answer = match outcome {
                state_of::IN => Ok(()),
                state_of::TAKEN => Err(Barred::Taken),
                state_of::WANTED => Err(Barred::Busy),
                _ => Err(Barred::Other),
            };
            if answer.is_err() {
                self.give_back(cookie, lane);
            }
            answers.push((cookie, answer));
        }
        walked.map(|_| answers)
    }

    /// Takes a lane for a connection that is to be enrolled.
    fn begin(&mut self, cookie: u64, framing: u32, held: bool) -> Result<u32, MapError> {
        let index = self.free.pop(0)?;
        let lane = self.lanes.get(index as usize).ok_or(MapError::ElementNotFound)?;
        lane.begin(cookie, framing, held);
        let known = self.gated.insert(cookie, index, 0);
        if known.is_err() {
            self.give_back(cookie, index);
        }
        known.map(|()| index)
    }

    /// Nothing came of it.
    fn give_back(&mut self, cookie: u64, index: u32) {
        let _ = self.gated.remove(&cookie);
        if let Some(lane) = self.lanes.get(index as usize) {
            lane.set_state(state::CLOSED);
        }
    }

    /// The lane of a connection.
    pub fn lane(&self, cookie: u64) -> Option<LaneRef<'_>> {
        self.lanes.get(self.gated.get(&cookie, 0).ok()? as usize).filter(|lane| lane.cookie() == cookie)
    }

    /// Cookies of the sockets that are enrolled and open.
    pub fn members(&self) -> HashSet<u64> {
        self.guarded.keys().filter_map(Result::ok).collect()
    }

    /// A connection is closed whose end the kernel side does not see.
    pub fn closed(&mut self, cookie: u64) {
        if let Ok(index) = self.gated.get(&cookie, 0)
            && let Some(lane) = self.lanes.get(index as usize)
        {
            let _ = self.gated.remove(&cookie);
            let _ = self.guarded.remove(&cookie);
            lane.set_state(state::CLOSED);
        }
    }

    /// True where the connection with this cookie is enrolled.
    pub fn has(&self, cookie: u64) -> bool {
        self.gated.get(&cookie, 0).is_ok()
    }

    /// New connections are not enrolled any more.
    pub fn stop_enrolling(&self) {
        self.shared.stop_enrolling();
    }

    /// How many connections are enrolled now.
    pub fn open(&self) -> usize {
        self.gated.keys().filter_map(Result::ok).count()
    }

    /// Totals of all CPUs.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        if let Ok(values) = self.tally.get(&0, 0) {
            for one in values.iter() {
                sum.enrolled += one.enrolled;
                sum.crowded += one.crowded;
                sum.refused += one.refused;
                sum.held += one.held;
                sum.passed += one.passed;
                sum.unguarded += one.unguarded;
                sum.failed += one.failed;
                sum.overflowed += one.overflowed;
                sum.long += one.long;
                sum.odd += one.odd;
                sum.new += one.new;
                sum.unnamed += one.unnamed;
                sum.answers += one.answers;
                sum.early += one.early;
                sum.parted += one.parted;
            }
        }
        sum
    }
}
