//! Temporary directories that go when dropped, free ports, and a look at what was left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The environment variable that names a run: everything that the run starts inherits it.
pub const RUN: &str = "XTASK_RUN";

/// Name of this run, short: the variable, or this process's id.
pub fn run() -> String {
    std::env::var(RUN).unwrap_or_else(|_| std::process::id().to_string())
}

/// A directory that others may enter, removed with all it holds when dropped.
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes a new one; `name` helps a person to see what it is for.
    pub fn new(name: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("weir-{}-{name}-{}-{number}", run(), std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it behind when dropped, for a person to look at.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A TCP port that was free on every address a moment ago.
pub fn free_port() -> Result<u16> {
    let listener =
        std::net::TcpListener::bind("[::]:0").or_else(|_| std::net::TcpListener::bind("0.0.0.0:0"))?;
    Ok(listener.local_addr()?.port())
}

/// What a run left behind on the machine, in words: processes, directories, network namespaces and links.
pub fn traces(run: &str) -> Vec<String> {
    let named = |dir: &Path, prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|n| n.starts_with(prefix)).map(|n| dir.join(n).display().to_string()).collect()
    };
    let prefix = format!("weir-{run}-");
    let mut found = named(&std::env::temp_dir(), &prefix);
    found.extend(named(Path::new("/run/netns"), &prefix));
    found.extend(named(Path::new("/sys/fs/bpf"), &prefix));
    found.extend(named(Path::new("/sys/class/net"), &format!("w{run}")));
    let mark = format!("{RUN}={run}\0");
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path()) {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&mark) {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            found.push(format!(
                "{}: {}",
                process.display(),
                String::from_utf8_lossy(&command).replace('\0', " ").trim()
            ));
        }
    }
    found.sort();
    found
}
