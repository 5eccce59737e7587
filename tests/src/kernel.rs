//! What a process holds in the kernel, by id, and what of it is still there later.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

/// Ids of BPF programs, maps and links.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// Maps.
    pub maps: BTreeSet<u32>,
    /// Links.
    pub links: BTreeSet<u32>,
}

/// What a process holds now, from its file descriptors.
pub fn held_by(pid: u32) -> Held {
    let mut held = Held::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let id = |key: &str| -> Option<u32> {
            info.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok())
        };
        // A link's entry names its program too.
        held.links.extend(id("link_id:"));
        held.programs.extend(id("prog_id:"));
        held.maps.extend(id("map_id:"));
    }
    held
}

/// What of it is still in the kernel.
fn left(held: &Held) -> Held {
    let programs: BTreeSet<u32> = loaded_programs().flatten().map(|p| p.id()).collect();
    let maps: BTreeSet<u32> = loaded_maps().flatten().map(|m| m.id()).collect();
    let links: BTreeSet<u32> = loaded_links().flatten().map(|l| l.id()).collect();
    Held { programs: &held.programs & &programs, maps: &held.maps & &maps, links: &held.links & &links }
}

/// Waits until nothing of it is left: the kernel frees such things a moment after their last user.
pub fn wait_gone(held: &Held) -> Result<()> {
    let began = Instant::now();
    loop {
        let left = left(held);
        if left == Held::default() {
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(10) {
            bail!("still in the kernel: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Child processes of a process, by id and command line.
pub fn children(pid: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the command's closing bracket: state, parent.
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(pid) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((child, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}
