//! Arguments -> a running agent: waits until it is ready, keeps what it says, ends it cleanly.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::build;
use crate::clickhouse::ClickHouse;
use crate::scratch::{self, Scratch};
use crate::shell;

/// A `weir tap` or `weir run` under way. Dropped: killed, and its directory goes.
pub struct Weir {
    child: Child,
    scratch: Scratch,
    ended: Option<ExitStatus>,
}

/// The binary under test: `XTASK_WEIR`, or the release build, or the debug build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("XTASK_WEIR") {
        return Ok(path.into());
    }
    let target = build::target();
    let built = ["release/weir", "debug/weir"].map(|p| target.join(p)).into_iter().find(|p| p.is_file());
    built.context("weir is not built: run `cargo build --release --bin weir`, or `cargo xtask test`")
}

impl Weir {
    /// Starts `weir` with these arguments and waits for `ready`.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_in(Scratch::new("agent")?, arguments)
    }

    /// As [`Weir::start`], in a directory of the caller's.
    pub fn start_in(scratch: Scratch, arguments: &[&str]) -> Result<Self> {
        Self::start_program(&binary()?, scratch, arguments)
    }

    /// As [`Weir::start_in`], with a binary of the caller's choice.
    pub fn start_program(binary: &Path, scratch: Scratch, arguments: &[&str]) -> Result<Self> {
        let mut weir = Self::spawn(binary, scratch, arguments)?;
        weir.wait_ready(Duration::from_mins(2))?;
        Ok(weir)
    }

    /// Starts it without waiting.
    pub fn spawn(binary: &Path, scratch: Scratch, arguments: &[&str]) -> Result<Self> {
        let child = shell::server("TERM", binary)
            .args(arguments)
            // Agents of other tests may be at work at the same time.
            .env("WEIR_LISTEN_CONTROL", scratch.path().join("weir.sock"))
            .stdout(File::create(scratch.path().join("out"))?)
            .stderr(File::create(scratch.path().join("err"))?)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        Ok(Self { child, scratch, ended: None })
    }

    /// Waits for the line `ready` on its standard error.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if self.said().lines().any(|l| l.trim() == "ready") {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                self.ended = Some(status);
                bail!("weir ended before it was ready ({status}): {}", self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("weir is not ready after {} s: {}", limit.as_secs(), self.said())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.scratch.path().join("err")).unwrap_or_default()
    }

    /// The file that its standard output goes to.
    pub fn out(&self) -> PathBuf {
        self.scratch.path().join("out")
    }

    /// `weir run` as a user would run it: embedded ClickHouse on a free port, state and policies in its directory.
    /// `more`: further lines of the configuration; with a `store:` of its own, the url that comes back means nothing.
    pub fn run(binary: &Path, scratch: Scratch, more: &str) -> Result<(Self, ClickHouse)> {
        let home = scratch.path();
        let (config, port) = (home.join("weir.yaml"), scratch::free_port()?);
        fs::create_dir_all(home.join("policies"))?;
        let home = home.display();
        let store = if more.contains("store:") {
            String::new()
        } else {
            format!("store: {{listen: \"127.0.0.1:{port}\"}}\n")
        };
        // Agents of other tests may be at work at the same time.
        let listen = if more.contains("listen: {metrics") { "" } else { "listen: {metrics: \"\"}\n" };
        let more = own_ports(more);
        let text = format!("state: {home}/state\npolicies: {home}/policies\n{store}{listen}{more}");
        fs::write(&config, text)?;
        let agent = Self::start_program(binary, scratch, &["run", "--config", &config.to_string_lossy()])?;
        Ok((agent, ClickHouse { url: format!("http://127.0.0.1:{port}") }))
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("a process id is positive")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Asks it to end (SIGINT) and waits for that.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        self.signal(Signal::INT)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_mins(1) {
            if let Some(status) = self.child.try_wait()? {
                self.ended = Some(status);
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("weir did not end within a minute of SIGINT: {}", self.said())
    }

    /// Kills it without a warning and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.ended = Some(self.child.wait()?);
        Ok(())
    }

    /// True while it runs.
    pub fn running(&mut self) -> bool {
        self.ended.is_none() && self.child.try_wait().is_ok_and(|s| s.is_none())
    }

    /// Peak resident memory so far, bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
    }

    /// CPU time used so far, seconds, user and system.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.pid())
    }

    /// Gives the directory back, for a next agent to start in. The agent must have ended.
    pub fn into_scratch(mut self) -> Result<Scratch> {
        self.end();
        let empty = Scratch::new("agent")?;
        Ok(std::mem::replace(&mut self.scratch, empty))
    }

    fn end(&mut self) {
        if self.ended.is_none()
            && let Some(group) = Pid::from_raw(self.child.id() as i32)
        {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
            // The embedded engine, a child of its, goes by itself; the group makes it sure.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// A configuration by which the gate takes only connections of the ports that it names: those of other tests' servers, at
/// work at the same time, are theirs.
fn own_ports(config: &str) -> String {
    let Some((_, rest)) = config.split_once("ports: {") else { return config.to_owned() };
    let named = rest.split('}').next().unwrap_or_default();
    let ports: Vec<&str> =
        named.split(',').filter_map(|pair| pair.split(':').next()).map(str::trim).collect();
    let ports = format!("gate: {{ports: [{}]", ports.join(", "));
    match config.split_once("gate: {") {
        Some((before, after)) => format!("{before}{ports}, {after}"),
        None => format!("{config}\n{ports}}}\n"),
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        if self.ended.is_none() && !std::thread::panicking() {
            let _ = self.stop();
        }
        self.end();
        if std::thread::panicking() {
            eprintln!("weir said:\n{}", self.said());
        }
    }
}

/// CPU time that a process (with its reaped children) used so far, seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields after the command's closing bracket; 14 and 15 of proc(5) are utime and stime in clock ticks of 10 ms.
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0.0))
        .collect();
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / 100.0
}
