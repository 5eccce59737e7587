//! A cgroup v2 id -> its path -> the container. For processes that are gone, of which the kernel's records keep the
//! cgroup.

use std::collections::HashMap;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_core::identity::Container;

use super::container;

/// The tree is walked again for an unknown id, at most this often.
const REFRESH: Duration = Duration::from_secs(1);
/// cgroups nest deeper than this only by mistake.
const DEPTH_MAX: usize = 24;

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside v1 (hybrid).
pub fn mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mount_in(&mounts)
}

fn mount_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        // Octal escapes stand for space, tab, newline and backslash.
        let path = path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        (kind == "cgroup2").then(|| path.into())
    })
}

/// The containers of the host's cgroups, by cgroup id (the inode of its directory).
#[derive(Default)]
pub struct Cgroups {
    containers: HashMap<u64, Option<Container>>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// The container of the cgroup with this id.
    pub fn container(&mut self, id: u64) -> Option<Container> {
        if !self.containers.contains_key(&id) && self.walked.is_none_or(|at| at.elapsed() >= REFRESH) {
            self.containers.clear();
            if let Some(root) = mount() {
                if let Ok(metadata) = root.metadata() {
                    self.containers.insert(metadata.ino(), None);
                }
                self.walk(&root, "", DEPTH_MAX);
            }
            self.walked = Some(Instant::now());
        }
        self.containers.get(&id).cloned().flatten()
    }

    fn walk(&mut self, directory: &Path, path: &str, depth: usize) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                self.containers.insert(entry.ino(), container::of_path(&path));
                self.walk(&entry.path(), &path, depth - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let hybrid = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(mount_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_in("none /my\\040cgroup cgroup2 rw 0 0"), Some("/my cgroup".into()));
        assert_eq!(mount_in("cgroup2 /x tmpfs rw 0 0\nbroken\n"), None);
    }
}
