//! Kernel lifecycle records and `/proc` -> who a pid is, also after it has exited.
//!
//! A short `psql -c` is gone before anybody looks, and it is the interesting one: what its exec record brought
//! stays for [`GRACE`] after the exit, and the first look at a living process is kept for good.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use agent_core::identity::{AgentSign, Process, Workload};
use lru::LruCache;

use super::cgroup::Cgroups;
use super::proc::{self, Brief, Observed};
use super::redact;
use super::users::Users;

/// How long an exited process is remembered.
const GRACE: Duration = Duration::from_mins(2);
/// Most exited processes that are remembered; the oldest go first.
const EXITED_MAX: usize = 32 * 1024;
/// Most processes in all. Beyond it exit records must have been lost: the table is compared with `/proc`.
const TASKS_MAX: usize = 256 * 1024;
/// Most connections whose process is remembered between `connect` and their first bytes.
const CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(64 * 1024).unwrap();
/// Longest ancestry.
const ANCESTRY_MAX: usize = 16;
/// Programs that are AI agent runtimes, by the name the kernel knows them by.
const AGENT_PROGRAMS: [(&str, &str); 8] = [
    ("aider", "aider"),
    ("claude", "claude-code"),
    ("codex", "codex"),
    ("cursor-agent", "cursor"),
    ("gemini", "gemini-cli"),
    ("goose", "goose"),
    ("opencode", "opencode"),
    ("copilot", "copilot-cli"),
];

/// What the kernel says when a process executes a program. Times are nanoseconds since boot
/// (`bpf_ktime_get_boot_ns`), pids are thread group ids in the first pid namespace.
#[derive(Clone, Copy, Debug)]
pub struct Exec<'a> {
    /// The process.
    pub pid: u32,
    /// Its parent; 0 where unknown.
    pub parent: u32,
    /// When.
    pub time_ns: u64,
    /// Path of the program as it was asked for.
    pub filename: &'a [u8],
    /// Arguments, NUL-separated, as far as they were captured; may be empty.
    pub arguments: &'a [u8],
    /// The task's name after the exec.
    pub name: &'a [u8],
    /// Real uid.
    pub uid: u32,
    /// Id of its cgroup v2; 0 where unknown.
    pub cgroup: u64,
}

/// Every process of the host, by pid, and who made which connection.
pub struct ProcessTable {
    tasks: HashMap<u32, Task>,
    /// Exited processes, oldest first: pid, start and exit time.
    exited: VecDeque<(u32, u64, u64)>,
    connections: LruCache<u64, Arc<Workload>>,
    users: Users,
    cgroups: Cgroups,
}

struct Task {
    parent: u32,
    start_ns: u64,
    name: Arc<str>,
    /// What the last exec record brought; shared by forked children. None: it began before the agent did.
    image: Option<Arc<Image>>,
    /// Made at the first look-up, and when: boot time.
    workload: Option<(Arc<Workload>, u64)>,
    exited: bool,
}

struct Image {
    filename: String,
    arguments: Box<[u8]>,
    uid: u32,
    cgroup: u64,
}

impl ProcessTable {
    /// The table with every process that runs now.
    pub fn new() -> Self {
        let mut table = Self {
            tasks: HashMap::new(),
            exited: VecDeque::new(),
            connections: LruCache::new(CONNECTIONS_MAX),
            users: Users::new(),
            cgroups: Cgroups::default(),
        };
        table.rescan();
        table
    }

    /// Compares the table with `/proc`: at the start, and after lifecycle records were lost.
    pub fn rescan(&mut self) {
        let now = proc::boot_ns();
        let living: HashMap<u32, Brief> = proc::all().into_iter().map(|b| (b.pid, b)).collect();
        let gone = |pid: &u32, task: &Task| {
            !task.exited && living.get(pid).is_none_or(|brief| !same_start(brief.start_ns, task.start_ns))
        };
        let gone: Vec<u32> =
            self.tasks.iter().filter(|(pid, task)| gone(pid, task)).map(|(p, _)| *p).collect();
        for pid in gone {
            self.exit(pid, now);
        }
        for brief in living.into_values() {
            if self.tasks.get(&brief.pid).is_none_or(|task| task.exited) {
                self.tasks.insert(brief.pid, Task::of(&brief));
            }
        }
    }

    /// A process was made. Threads are not processes: leave them out.
    pub fn fork(&mut self, parent: u32, child: u32, time_ns: u64) {
        let (name, image) = match self.tasks.get(&parent) {
            Some(task) => (task.name.clone(), task.image.clone()),
            None => (Arc::default(), None),
        };
        // As /proc will say it, so that the process has one start time whoever saw it.
        let start_ns = time_ns - time_ns % proc::tick_ns();
        let task = Task { parent, start_ns, name, image, workload: None, exited: false };
        self.tasks.insert(child, task);
        if self.tasks.len() > TASKS_MAX {
            self.rescan();
        }
    }

    /// A process runs another program from now on.
    pub fn exec(&mut self, exec: &Exec<'_>) {
        let image = Image {
            filename: String::from_utf8_lossy(exec.filename).into_owned(),
            arguments: exec.arguments.into(),
            uid: exec.uid,
            cgroup: exec.cgroup,
        };
        let name = exec.name.split(|b| *b == 0).next().unwrap_or_default();
        let task = self.tasks.entry(exec.pid).or_insert_with(|| {
            Task::of(&proc::brief(exec.pid).unwrap_or_else(|| Brief {
                pid: exec.pid,
                parent: exec.parent,
                start_ns: exec.time_ns,
                name: Arc::default(),
            }))
        });
        task.name = String::from_utf8_lossy(name).into();
        task.image = Some(Arc::new(image));
        // Records come in batches: a look at /proc may already have seen the new program.
        if task.workload.as_ref().is_some_and(|(_, seen)| *seen < exec.time_ns) {
            task.workload = None;
        }
    }

    /// A process ended. It is remembered for a while.
    pub fn exit(&mut self, pid: u32, time_ns: u64) {
        if let Some(task) = self.tasks.get_mut(&pid)
            && !task.exited
        {
            task.exited = true;
            self.exited.push_back((pid, task.start_ns, time_ns));
        }
        while let Some((pid, start_ns, exit_ns)) = self.exited.front().copied() {
            let fresh = Duration::from_nanos(time_ns.saturating_sub(exit_ns)) < GRACE;
            if fresh && self.exited.len() <= EXITED_MAX {
                break;
            }
            self.exited.pop_front();
            if self.tasks.get(&pid).is_some_and(|task| task.exited && task.start_ns == start_ns) {
                self.tasks.remove(&pid);
            }
        }
    }

    /// The process `pid` opened the connection of socket `cookie`: looks at it now, while it lives.
    pub fn connect(&mut self, cookie: u64, pid: u32) -> Option<Arc<Workload>> {
        let workload = self.workload(pid)?;
        self.connections.put(cookie, workload.clone());
        Some(workload)
    }

    /// Who opened the connection of socket `cookie`, where [`ProcessTable::connect`] or
    /// [`ProcessTable::attribute`] said so.
    pub fn of_connection(&mut self, cookie: u64) -> Option<Arc<Workload>> {
        self.connections.get(&cookie).cloned()
    }

    /// Remembers who is at the end of socket `cookie`, found by other means.
    pub fn attribute(&mut self, cookie: u64, workload: Arc<Workload>) {
        self.connections.put(cookie, workload);
    }

    /// The socket is gone.
    pub fn forget(&mut self, cookie: u64) {
        self.connections.pop(&cookie);
    }

    /// Who `pid` is. The first look at a living process reads `/proc` (about 0.1 ms); later ones are a clone of an
    /// `Arc`.
    pub fn workload(&mut self, pid: u32) -> Option<Arc<Workload>> {
        if let Some((workload, _)) = self.tasks.get(&pid).and_then(|task| task.workload.as_ref()) {
            return Some(workload.clone());
        }
        let seen = proc::boot_ns();
        let living = self.tasks.get(&pid).is_none_or(|task| !task.exited);
        let observed = proc::observe(pid).filter(|observed| match self.tasks.get(&pid) {
            // The pid may have gone to another process whose fork record is still on its way.
            // A process that is ending has no program any more: then its exec record knows better.
            Some(task) => {
                let ending = observed.executable.is_empty() && task.image.is_some();
                living && !ending && same_start(task.start_ns, observed.brief.start_ns)
            }
            None => true,
        });
        let workload = Arc::new(match observed {
            Some(observed) => {
                let task = self.tasks.entry(pid).or_insert_with(|| Task::of(&observed.brief));
                task.start_ns = observed.brief.start_ns;
                self.workload_from_proc(observed)
            }
            None => self.workload_from_records(pid)?,
        });
        if let Some(task) = self.tasks.get_mut(&pid) {
            task.workload = Some((workload.clone(), seen));
        }
        Some(workload)
    }

    /// How many processes are known, exited ones included.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The parents of `pid`, nearest first.
    pub(super) fn parents(&mut self, pid: u32) -> Vec<u32> {
        let mut parents = Vec::new();
        let mut next = self.parent(pid);
        while let Some(pid) = next.filter(|pid| parents.len() < ANCESTRY_MAX && !parents.contains(pid)) {
            parents.push(pid);
            next = self.parent(pid);
        }
        parents
    }

    fn parent(&mut self, pid: u32) -> Option<u32> {
        let parent = self.tasks.get(&pid)?.parent;
        if parent == 0 {
            return None;
        }
        if let Entry::Vacant(unknown) = self.tasks.entry(parent) {
            unknown.insert(Task::of(&proc::brief(parent)?));
        }
        Some(parent)
    }

    fn workload_from_proc(&mut self, observed: Observed) -> Workload {
        let Observed { brief, executable, arguments, uid, login_uid, container, agents } = observed;
        let command_line = redact::command_line(&arguments);
        let process = self.process(&brief, executable, command_line, uid, login_uid);
        Workload {
            login: login_uid.map(|uid| self.users.name(uid)),
            agents: with_programs(agents, &brief.name, &process.ancestry),
            process: Arc::new(process),
            container,
            observed: true,
            shared: false,
        }
    }

    /// A process that nobody saw alive: its exec record, and from the nearest parent that lives what children
    /// inherit (container, login, environment).
    fn workload_from_records(&mut self, pid: u32) -> Option<Workload> {
        let task = self.tasks.get(&pid)?;
        let brief = Brief { pid, parent: task.parent, start_ns: task.start_ns, name: task.name.clone() };
        let image = task.image.clone();
        let parents = self.parents(pid);
        let heir = parents.into_iter().find_map(|parent| self.heritage(parent)).unwrap_or_default();
        let mut workload = match image {
            Some(image) => {
                let arguments = proc::split_arguments(&image.arguments);
                let command_line = redact::command_line(&arguments);
                let auid = heir.process.auid;
                let process = self.process(&brief, image.filename.clone(), command_line, image.uid, auid);
                let container = self.cgroups.container(image.cgroup).or(heir.container);
                Workload { process: Arc::new(process), container, ..heir }
            }
            // Forked, never executed a program, gone: what its parent is, it was.
            None if heir.process.pid == brief.parent && brief.parent != 0 => {
                let parent = heir.process.clone();
                let ancestry = self.ancestry(pid);
                let process = Process { pid, start_ns: brief.start_ns, ancestry, ..(*parent).clone() };
                Workload { process: Arc::new(process), ..heir }
            }
            None => return None,
        };
        workload.agents = with_programs(workload.agents.to_vec(), &brief.name, &workload.process.ancestry);
        workload.observed = false;
        Some(workload)
    }

    /// What the children of `pid` inherit, where it is known or alive.
    fn heritage(&mut self, pid: u32) -> Option<Workload> {
        let known = self.tasks.get(&pid).and_then(|task| task.workload.as_ref());
        if let Some((workload, _)) = known.filter(|(workload, _)| workload.observed) {
            return Some((**workload).clone());
        }
        let task = self.tasks.get(&pid)?;
        let observed =
            proc::observe(pid).filter(|o| !task.exited && same_start(o.brief.start_ns, task.start_ns))?;
        Some(self.workload_from_proc(observed))
    }

    fn process(
        &mut self,
        brief: &Brief,
        executable: String,
        command_line: String,
        uid: u32,
        auid: Option<u32>,
    ) -> Process {
        Process {
            pid: brief.pid,
            start_ns: brief.start_ns,
            executable: executable.into(),
            command_line: if command_line.is_empty() { brief.name.clone() } else { command_line.into() },
            owner: self.users.name(uid),
            auid,
            ancestry: self.ancestry(brief.pid),
        }
    }

    fn ancestry(&mut self, pid: u32) -> Arc<[Arc<str>]> {
        let parents = self.parents(pid);
        let name = |pid: &u32| self.tasks.get(pid).map(|task| format!("{}({pid})", task.name).into());
        parents.iter().filter_map(name).collect()
    }
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new()
    }
}

impl Task {
    fn of(brief: &Brief) -> Self {
        Self {
            parent: brief.parent,
            start_ns: brief.start_ns,
            name: brief.name.clone(),
            image: None,
            workload: None,
            exited: false,
        }
    }
}

/// `/proc` rounds start times down to ticks, and the fork record is written a moment after the start.
fn same_start(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= 2 * proc::tick_ns()
}

/// Adds the agent runtimes among the process and its parents to the signs in its environment.
fn with_programs(mut signs: Vec<AgentSign>, name: &str, ancestry: &[Arc<str>]) -> Arc<[AgentSign]> {
    let parents = ancestry.iter().filter_map(|entry| entry.rsplit_once('('));
    for program in std::iter::once(name).chain(parents.map(|(name, _)| name)) {
        if let Some((_, agent)) = AGENT_PROGRAMS.iter().find(|(known, _)| *known == program)
            && !signs.iter().any(|sign| sign.source == "ancestry" && &*sign.name == *agent)
        {
            signs.push(AgentSign { name: (*agent).into(), source: "ancestry", confidence: 70 });
        }
    }
    signs.into()
}
