//! `/proc/PID` -> what a living process is. Each process is read through one directory handle, so a pid that is
//! reused between two reads yields an error, not a mixture.

use std::io::Read;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use agent_core::identity::{AgentSign, Container};
use procfs::process::{Process, Stat};

use super::container;

/// Arguments are read up to this many bytes; a statement on the command line may be long.
const ARGUMENTS_MAX: u64 = 16 * 1024;
/// The environment is searched up to this many bytes.
const ENVIRONMENT_MAX: u64 = 256 * 1024;
/// The kernel's "no login uid".
const NO_LOGIN: u32 = u32::MAX;

/// What `/proc/PID/stat` says: enough for the tree of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Brief {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) start_ns: u64,
    pub(super) name: Arc<str>,
}

/// What `/proc/PID` says in full.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) brief: Brief,
    pub(super) executable: String,
    pub(super) arguments: Vec<String>,
    pub(super) uid: u32,
    pub(super) login_uid: Option<u32>,
    pub(super) container: Option<Container>,
    pub(super) agents: Vec<AgentSign>,
}

/// Nanoseconds since boot now, suspend included: the clock of process start times.
pub(super) fn boot_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Length of one tick of `/proc/PID/stat`'s start time.
pub(super) fn tick_ns() -> u64 {
    static TICK: LazyLock<u64> = LazyLock::new(|| 1_000_000_000 / procfs::ticks_per_second().max(1));
    *TICK
}

/// Every process there is, kernel threads left out.
pub(super) fn all() -> Vec<Brief> {
    const KTHREADD: i32 = 2;
    let stats = procfs::process::all_processes().into_iter().flatten();
    stats
        .filter_map(|process| process.ok()?.stat().ok())
        .filter(|stat| stat.pid != KTHREADD && stat.ppid != KTHREADD)
        .map(Brief::from)
        .collect()
}

/// The place of a living process in the tree.
pub(super) fn brief(pid: u32) -> Option<Brief> {
    Some(Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?.into())
}

/// A living process in full; none where it is gone.
pub(super) fn observe(pid: u32) -> Option<Observed> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let brief = Brief::from(process.stat().ok()?);
    let status = process.status().ok()?;
    let executable = process.exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let arguments = read(&process, "cmdline", ARGUMENTS_MAX);
    let cgroup = read(&process, "cgroup", ARGUMENTS_MAX);
    Some(Observed {
        brief,
        executable: executable.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(executable),
        arguments: split_arguments(&arguments),
        uid: status.ruid,
        login_uid: process.loginuid().ok().filter(|uid| *uid != NO_LOGIN),
        container: container::of_process(&String::from_utf8_lossy(&cgroup)),
        agents: agents_in(&read(&process, "environ", ENVIRONMENT_MAX)),
    })
}

/// What a living process calls itself: a server may write a title over its arguments.
pub(super) fn title(pid: u32) -> Option<String> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    Some(split_arguments(&read(&process, "cmdline", ARGUMENTS_MAX)).join(" ").trim_end().to_owned())
}

/// NUL-separated arguments -> text; a process may have overwritten its own with anything.
pub(super) fn split_arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let trimmed = bytes.iter().rposition(|b| *b != 0).map_or(&[][..], |end| &bytes[..=end]);
    if trimmed.is_empty() {
        return Vec::new();
    }
    trimmed.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn read(process: &Process, name: &str, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = process.open_relative(name) {
        // A process that exits in the middle ends the text early; what was read stands.
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

impl From<Stat> for Brief {
    fn from(stat: Stat) -> Self {
        Self {
            pid: stat.pid as u32,
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            start_ns: stat.starttime.saturating_mul(tick_ns()),
            name: stat.comm.into(),
        }
    }
}

/// Signs of AI agent runtimes in an environment (`NAME=value`, NUL-separated). What a process inherits is easy to
/// set and easy to lose, hence the low confidence; only names and the value of `AI_AGENT` are kept.
pub(super) fn agents_in(environment: &[u8]) -> Vec<AgentSign> {
    let mut signs: Vec<AgentSign> = Vec::new();
    let mut add = |name: &str, confidence| {
        if !name.is_empty() && !signs.iter().any(|sign| &*sign.name == name) {
            signs.push(AgentSign { name: name.into(), source: "environment", confidence });
        }
    };
    for variable in environment.split(|b| *b == 0) {
        let Some(equals) = variable.iter().position(|b| *b == b'=') else { continue };
        let (name, value) = (&variable[..equals], &variable[equals + 1..]);
        if value.is_empty() {
            continue;
        }
        match name {
            b"AI_AGENT" => add(&agent_name(value), 50),
            b"CLAUDECODE" => add("claude-code", 50),
            b"CURSOR_AGENT" => add("cursor", 50),
            // Set in every terminal of the editor, also where a person types.
            b"CURSOR_TRACE_ID" => add("cursor", 30),
            b"GEMINI_CLI" => add("gemini-cli", 50),
            _ if name.starts_with(b"CODEX_") => add("codex", 40),
            _ => {}
        }
    }
    signs
}

/// A value that a client chose, made safe to show and to group by.
fn agent_name(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.@/ ".contains(*c)).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process() {
        let me = observe(std::process::id()).unwrap();
        assert_eq!(me.brief.pid, std::process::id());
        assert_eq!(me.uid, nix::unistd::getuid().as_raw());
        assert_eq!(std::path::Path::new(&me.executable), std::env::current_exe().unwrap());
        assert_eq!(me.arguments[0], std::env::args().next().unwrap());
        assert!(me.brief.start_ns > 0 && me.brief.start_ns <= boot_ns());
        assert_eq!(brief(std::process::id()), Some(me.brief.clone()));
        assert!(all().contains(&me.brief));
    }

    #[test]
    fn arguments() {
        let split = |bytes: &[u8]| split_arguments(bytes).join("|");
        assert_eq!(split(b"psql\0-c\0select 1\0"), "psql|-c|select 1");
        assert_eq!(split(b"sh\0\0x\0"), "sh||x");
        assert_eq!(
            split(b"postgres: shop app 127.0.0.1(4) idle\0\0\0\0"),
            "postgres: shop app 127.0.0.1(4) idle"
        );
        assert_eq!(split(b""), "");
        assert_eq!(split(b"\0\0"), "");
    }

    #[test]
    fn agents() {
        let names = |environment: &[u8]| {
            agents_in(environment)
                .into_iter()
                .map(|s| format!("{}:{}", s.name, s.confidence))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(b"PATH=/bin\0CLAUDECODE=1\0HOME=/root\0"), ["claude-code:50"]);
        assert_eq!(names(b"CODEX_SANDBOX=seatbelt\0CODEX_HOME=/x\0"), ["codex:40"]);
        assert_eq!(names(b"AI_AGENT=my\x1b[31m-bot/2\0"), ["my31m-bot/2:50"]);
        assert_eq!(names(b"CLAUDECODE=\0NOT_CLAUDECODE=1\0CLAUDECODE"), Vec::<String>::new());
        assert_eq!(names(b"CURSOR_TRACE_ID=abc\0GEMINI_CLI=1"), ["cursor:30", "gemini-cli:50"]);
    }
}
