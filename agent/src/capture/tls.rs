//! TLS libraries on this host -> probes on their calls.
//!
//! Nothing outlives the agent: a probe is a perf event, and ends with the process that holds it.

pub mod find; // processes -> files
pub mod library; // a file -> the calls in it
pub mod mapped; // what processes map, as they do
mod perf; // probes, and the kernel's watch over mappings
pub mod prologue; // a function -> where to probe it

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use find::{Finder, Found, Inode};
use mapped::Watch;

/// The loaded programs, by name.
pub type Programs = HashMap<&'static str, OwnedFd>;

/// A file with a TLS library in it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name in its own mount namespace.
    pub name: PathBuf,
    /// Which library it is.
    pub kind: &'static str,
    /// Probes that are on it; 0 where its plaintext cannot be had.
    pub probes: usize,
}

/// Finds libraries and puts probes on them, in a thread of its own. Ends with this value, and so do its probes.
pub struct Search {
    processes: Sender<u32>,
    known: Arc<Mutex<HashMap<Inode, Known>>>,
    /// Held by the thread for as long as it runs.
    _alive: Arc<()>,
}

impl Search {
    /// Begins; returns when everything that runs now is probed.
    pub fn start(programs: Programs) -> std::io::Result<Self> {
        let (processes, named) = channel();
        let (ready, is_ready) = channel::<()>();
        let known = Arc::new(Mutex::new(HashMap::new()));
        let mut probes = Probes { programs, events: Vec::new(), known: Arc::clone(&known) };
        let alive = Arc::new(());
        let wanted = Arc::downgrade(&alive);
        std::thread::Builder::new().name("weir-tls".into()).spawn(move || {
            let mut finder = Finder::default();
            // The watch first: what is mapped while everything is looked at must not be missed.
            let watch = Watch::open().inspect_err(|error| {
                tracing::info!(%error, "the kernel does not tell what is mapped: libraries are found a little later");
            });
            finder.everything(&mut |found| probes.put(found));
            drop(ready);
            match watch {
                Ok(mut watch) => {
                    let over = || wanted.strong_count() == 0;
                    find::follow(&mut finder, &mut watch, over, &mut |found| probes.put(found));
                }
                Err(_) => find::ask(&mut finder, &named, &mut |found| probes.put(found)),
            }
        })?;
        let _ = is_ready.recv();
        Ok(Self { processes, known, _alive: alive })
    }

    /// A process runs a program from now on.
    pub fn process(&self, pid: u32) {
        let _ = self.processes.send(pid);
    }

    /// What was found so far.
    pub fn known(&self) -> HashMap<Inode, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why the TLS of a process cannot be read, given what was found; as events name it.
pub fn cause(pid: u32, known: &HashMap<Inode, Known>) -> &'static str {
    let files = find::executed_by(pid);
    let mut probes = files.iter().filter_map(|(inode, _)| known.get(inode)).map(|library| library.probes);
    let java = |name: &PathBuf| name.file_name().is_some_and(|name| name == "libjvm.so");
    match probes.next().map(|first| probes.fold(first, usize::max)) {
        // It has a library that is read, but nothing that passed there is what this connection carries.
        Some(1..) => "tls_untied",
        Some(0) => "tls_not_probed",
        None if files.is_empty() => "tls",
        None if files.iter().any(|(_, name)| java(name)) => "tls_jsse",
        None => "tls_no_library",
    }
}

/// The probes that are in place.
struct Probes {
    programs: Programs,
    events: Vec<OwnedFd>,
    known: Arc<Mutex<HashMap<Inode, Known>>>,
}

impl Probes {
    fn put(&mut self, found: Found) {
        let Found { file, inode, name, library } = found;
        let mut events = Vec::new();
        // Ends before beginnings: a call that is entered unseen must not return as another one's.
        for point in library.points.iter().rev() {
            let Some(program) = self.programs.get(point.program) else { continue };
            match perf::probe(&file, point.offset, point.returns, program) {
                Ok(event) => events.push(event),
                Err(error) => {
                    tracing::warn!(%error, file = %name.display(), "plaintext of a TLS library cannot be read");
                    events.clear();
                    break;
                }
            }
        }
        let (probes, kind) = (events.len(), library.kind);
        tracing::debug!(file = %name.display(), kind, probes, "TLS library");
        self.events.append(&mut events);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(inode, Known { name, kind, probes });
    }
}
