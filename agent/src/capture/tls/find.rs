//! Processes and directories -> files with a TLS library in them, each once.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::library::{self, Library};
use super::mapped::{Mapped, Watch};

/// A file by what it is, not by its name: device and inode.
pub type Inode = (u64, u64);

/// Where libraries lie that a process may load. Looked through once for each mount namespace, so that the probes are
/// there before the first process is.
const DIRECTORIES: [&str; 10] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// A process that is looked at without the kernel's word on what it maps is looked at after these times: its libraries
/// are there at once, those of its extensions later.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(40), Duration::from_millis(400)];
/// What was mapped within this time is looked at together.
const GATHER: Duration = Duration::from_millis(1);

/// Most files that are remembered.
const FILES_MAX: usize = 1 << 16;

/// A file to probe.
#[derive(Debug)]
pub struct Found {
    /// The file itself.
    pub file: File,
    /// Which one.
    pub inode: Inode,
    /// Its name in its own mount namespace.
    pub name: PathBuf,
    /// What is in it.
    pub library: Library,
}

/// Looks at processes; remembers what it has seen.
#[derive(Default)]
pub struct Finder {
    /// Files that were looked into.
    files: HashSet<Inode>,
    /// The same by what the kernel calls them.
    mapped: HashSet<(u32, u32, u64)>,
    namespaces: HashSet<u64>,
}

impl Finder {
    /// Everything that runs now, and what lies in the usual directories of each mount namespace.
    pub fn everything(&mut self, out: &mut impl FnMut(Found)) {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            self.process(pid, out);
        }
    }

    /// One process: the files that it executes code of, and the directories of its mount namespace.
    pub fn process(&mut self, pid: u32, out: &mut impl FnMut(Found)) {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        if let Ok(namespace) = std::fs::metadata(format!("/proc/{pid}/ns/mnt"))
            && self.namespaces.insert(namespace.ino())
        {
            for directory in DIRECTORIES {
                self.directory(&root, Path::new(directory), out);
            }
        }
        let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return };
        for name in executable(&maps) {
            self.file(&within(&root, name), name, out);
        }
    }

    fn directory(&mut self, root: &Path, directory: &Path, out: &mut impl FnMut(Found)) {
        let entries = std::fs::read_dir(within(root, directory)).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            if name.to_str().is_some_and(is_named_like_one) {
                let name = directory.join(name);
                self.file(&within(root, &name), &name, out);
            }
        }
    }

    /// A file that was mapped a moment ago; the process may be gone.
    fn mapped(&mut self, mapped: &Mapped, out: &mut impl FnMut(Found)) {
        if self.mapped.len() >= FILES_MAX {
            self.mapped.clear();
        }
        if !self.mapped.insert(mapped.file) {
            return;
        }
        let root = PathBuf::from(format!("/proc/{}/root", mapped.pid));
        let names = [within(&root, &mapped.name), mapped.name.clone()];
        let same = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|m| m.ino() == mapped.file.2);
        match names.iter().find(same).or_else(|| names.iter().find(|path| path.exists())) {
            Some(path) => self.file(path, &mapped.name, out),
            // Whoever maps it next may be there for longer.
            None => drop(self.mapped.remove(&mapped.file)),
        }
    }

    fn file(&mut self, path: &Path, name: &Path, out: &mut impl FnMut(Found)) {
        let Ok(file) = File::open(path) else { return };
        let Ok(metadata) = file.metadata() else { return };
        let inode = (metadata.dev(), metadata.ino());
        if self.files.len() >= FILES_MAX {
            self.files.clear();
        }
        if !metadata.is_file() || !self.files.insert(inode) {
            return;
        }
        if let Some(library) = library::look(&file) {
            out(Found { file, inode, name: name.to_owned(), library });
        }
    }
}

/// Follows what is mapped, until `over` says that nobody wants to know any more.
pub fn follow(finder: &mut Finder, watch: &mut Watch, over: impl Fn() -> bool, out: &mut impl FnMut(Found)) {
    while !over() {
        watch.wait(Duration::from_millis(500));
        std::thread::sleep(GATHER);
        let lost = watch.drain(&mut |mapped| finder.mapped(&mapped, out));
        if lost {
            finder.everything(out);
        }
    }
}

/// Looks at each process that is named, until nobody names any more: where the kernel does not tell what is mapped.
pub fn ask(finder: &mut Finder, processes: &Receiver<u32>, out: &mut impl FnMut(Found)) {
    let mut waiting: VecDeque<(Instant, u32, usize)> = VecDeque::new();
    loop {
        let next = waiting.iter().map(|(at, ..)| *at).min();
        let timeout = next.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(Instant::now()));
        match processes.recv_timeout(timeout) {
            Ok(pid) => waiting.push_back((Instant::now() + LOOKS[0], pid, 0)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for _ in 0..waiting.len() {
            let Some((at, pid, look)) = waiting.pop_front() else { break };
            if at > now {
                waiting.push_back((at, pid, look));
                continue;
            }
            finder.process(pid, out);
            if let Some(next) = LOOKS.get(look + 1) {
                waiting.push_back((now + *next, pid, look + 1));
            }
        }
    }
}

/// The files that a process executes code of, with their names.
pub fn executed_by(pid: u32) -> Vec<(Inode, PathBuf)> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let files = executable(&maps).filter_map(|name| {
        let metadata = std::fs::metadata(within(&root, name)).ok()?;
        Some(((metadata.dev(), metadata.ino()), name.to_owned()))
    });
    files.collect()
}

/// Files of which a process maps code, from the text of its `maps`.
fn executable(maps: &str) -> impl Iterator<Item = &Path> {
    let mut last = "";
    maps.lines().filter_map(move |line| {
        let mut fields = line.splitn(6, ' ');
        let mode = fields.nth(1)?;
        let name = fields.nth(3)?.trim_start();
        let wanted = mode.as_bytes().get(2) == Some(&b'x') && name.starts_with('/') && name != last;
        if wanted {
            last = name;
        }
        wanted.then(|| Path::new(name.strip_suffix(" (deleted)").unwrap_or(name)))
    })
}

fn is_named_like_one(name: &str) -> bool {
    ["libssl.so", "libssl-", "libgnutls.so", "libgnutls-", "libboringssl", "libssl3.so"]
        .iter()
        .any(|start| name.starts_with(start))
        && name.contains(".so")
}

/// An absolute name, below a root.
fn within(root: &Path, name: &Path) -> PathBuf {
    root.join(name.strip_prefix("/").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mapped_code() {
        let maps = "\
55d0c0000000-55d0c0021000 r--p 00000000 fe:00 1310   /usr/bin/psql
55d0c0021000-55d0c0042000 r-xp 00021000 fe:00 1310   /usr/bin/psql
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000100000-7f0000160000 r-xp 0001f000 fe:00 1311   /usr/lib/a b/libssl.so.3 (deleted)
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0      [vdso]
";
        let names: Vec<_> = executable(maps).collect();
        assert_eq!(names, [Path::new("/usr/bin/psql"), Path::new("/usr/lib/a b/libssl.so.3")]);
    }

    #[test]
    fn names_of_libraries() {
        assert!(
            ["libssl.so.3", "libssl-6a9b88ec.so.3", "libgnutls.so.30"].into_iter().all(is_named_like_one)
        );
        assert!(!["libssl.a", "libc.so.6", "libsslcommon.txt"].into_iter().any(is_named_like_one));
    }
}
