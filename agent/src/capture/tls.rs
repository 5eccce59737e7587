//! TLS libraries on this host -> probes on their calls.
//!
//! Nothing outlives the agent: probes are links, or perf events, and end with the process that holds them.

pub mod find; // processes -> files
mod go; // the calls of Go's own TLS
mod image; // a file -> its symbols and code
pub mod library; // a file -> the calls in it
pub mod mapped; // what processes map, as they do
mod multi; // many probes, one link
pub mod parser; // a server's program -> a probe on its parser
mod pclntab; // Go's names of functions, in stripped programs too
mod perf; // single probes, and the kernel's watch over mappings
pub mod programs; // what runs on them
pub mod prologue; // a function -> where to probe it

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use find::{Finder, Found, Inode};
use library::{Library, Point};
use mapped::Watch;
use programs::{GATE, Programs, SHARED, kind};

/// Threads that take off probes at the end. Each waits for the kernel, which lets many go at once.
const LETTING_GO: usize = 64;

/// A file with a TLS library in it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name in its own mount namespace.
    pub name: PathBuf,
    /// Which library it is.
    pub kind: &'static str,
    /// Probes that are on it; 0 where its plaintext cannot be had.
    pub probes: usize,
    /// Why it cannot, as events name it; empty where that is not known.
    pub blind: &'static str,
}

/// Finds libraries and puts probes on them, in a thread of its own. Ends with this value, and so do its probes.
pub struct Search {
    processes: Sender<u32>,
    known: Arc<Mutex<HashMap<Inode, Known>>>,
    held: Arc<Mutex<Held>>,
    /// Held by the thread for as long as it runs.
    _alive: Arc<()>,
}

impl Search {
    /// Begins; returns when everything that runs now is probed.
    pub fn start(programs: Programs) -> io::Result<Self> {
        let (processes, named) = channel();
        let (ready, is_ready) = channel::<()>();
        let known = Arc::new(Mutex::new(HashMap::new()));
        let held = Arc::new(Mutex::new(Some(Vec::new())));
        let probes = Probes { programs, held: Arc::clone(&held), known: Arc::clone(&known) };
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
        Ok(Self { processes, known, held, _alive: alive })
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
    let libraries = files.iter().filter_map(|(inode, _)| known.get(inode));
    let java = |name: &PathBuf| name.file_name().is_some_and(|name| name == "libjvm.so");
    match libraries.max_by_key(|library| (library.probes, library.blind)) {
        // It has a library that is read, but nothing that passed there is what this connection carries.
        Some(Known { probes: 1.., .. }) => "tls_untied",
        Some(Known { blind: "", .. }) => "tls_not_probed",
        Some(Known { blind, .. }) => blind,
        None if files.is_empty() => "tls",
        None if files.iter().any(|(_, name)| java(name)) => "tls_jsse",
        None => "tls_no_library",
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let each = held.len().div_ceil(LETTING_GO).max(1);
        let mut held = held.into_iter();
        std::thread::scope(|scope| {
            while held.len() > 0 {
                let some: Vec<OwnedFd> = held.by_ref().take(each).collect();
                // Where no thread can be had, they go one by one.
                drop(std::thread::Builder::new().spawn_scoped(scope, move || drop(some)));
            }
        });
    }
}

/// What keeps probes in place; `None` once they are not wanted any more.
type Held = Option<Vec<OwnedFd>>;

/// Puts probes in place.
struct Probes {
    programs: Programs,
    held: Arc<Mutex<Held>>,
    known: Arc<Mutex<HashMap<Inode, Known>>>,
}

impl Probes {
    fn put(&self, found: Found) {
        let Found { file, inode, name, library } = found;
        let held = self.probe(&file, &library.points).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %name.display(), "plaintext of a TLS library cannot be read");
            Vec::new()
        });
        let probes = if held.is_empty() { 0 } else { library.points.len() };
        let Library { kind, blind, .. } = library;
        tracing::debug!(file = %name.display(), kind, probes, "TLS library");
        if let Some(all) = self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            all.extend(held);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(inode, Known { name, kind, probes, blind });
    }

    /// Probes a file, all or nothing. Ends before beginnings: a call that is entered unseen must not return as
    /// another one's.
    fn probe(&self, file: &File, points: &[Point]) -> io::Result<Vec<OwnedFd>> {
        match &self.programs {
            Programs::Shared(programs) => {
                let links = SHARED.iter().chain(&GATE).filter_map(|name| {
                    let ours = points.iter().filter_map(|point| {
                        let kind = kind(point.program)?;
                        (kind.shared == *name || kind.gate == Some(*name)).then_some((
                            point.offset,
                            kind.cookie,
                            kind.returns,
                        ))
                    });
                    let (offsets, cookies, returns) = split(ours)?;
                    Some(multi::probe(file, &offsets, &cookies, returns, programs.get(name)?))
                });
                links.collect()
            }
            Programs::Alone(programs) => {
                let events = points.iter().rev().filter_map(|point| {
                    let (kind, program) = (kind(point.program)?, programs.get(point.program)?);
                    Some(perf::probe(file, point.offset, kind.returns, program))
                });
                events.collect()
            }
        }
    }
}

/// Offsets and cookies side by side; `None` where there are none.
fn split(probes: impl Iterator<Item = (u64, u64, bool)>) -> Option<(Vec<u64>, Vec<u64>, bool)> {
    let (mut offsets, mut cookies, mut all_return) = (Vec::new(), Vec::new(), false);
    for (offset, cookie, returns) in probes {
        offsets.push(offset);
        cookies.push(cookie);
        all_return = returns;
    }
    (!offsets.is_empty()).then_some((offsets, cookies, all_return))
}
