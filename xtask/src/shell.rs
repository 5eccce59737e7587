//! Programs, run and awaited: their output is kept for when they fail, and shown as a sign of life meanwhile.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::terminal::Step;

/// How a command reads in a message: program and arguments, as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|w| {
        let w = w.to_string_lossy();
        if w.contains([' ', '"', '$', '*']) { format!("'{w}'") } else { w.into_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Standard output of a program that must succeed, without trailing white space.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !out.status.success() {
        bail!("{shown} failed ({}): {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// True where the program runs and says yes.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Runs a program as (part of) a step; every output line goes to `each`, the last ones into the error.
pub fn stream(step: &mut Step, command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let (send, receive) = mpsc::channel::<String>();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let other = send.clone();
    std::thread::spawn(move || out.into_iter().for_each(|o| forward(o, &send)));
    std::thread::spawn(move || err.into_iter().for_each(|e| forward(e, &other)));
    let mut tail = std::collections::VecDeque::new();
    loop {
        match receive.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => {
                each(&line);
                step.alive(&line);
                if tail.len() == 40 {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => step.alive(tail.back().map_or("", String::as_str)),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{shown} failed ({status}):\n{}", tail.make_contiguous().join("\n"));
    }
    Ok(())
}

/// Runs a program as a step of its own, quietly.
pub fn step(title: &str, note: &str, command: &mut Command) -> Result<()> {
    let mut step = Step::start(title, note);
    match stream(&mut step, command, |_| ()) {
        Ok(()) => {
            step.done("");
            Ok(())
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

fn forward(pipe: impl std::io::Read, send: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// A server that gets `signal` (`TERM`, `QUIT`) when we end in any way, Ctrl-C and SIGKILL included, and that a later
/// look finds by the name of this run. Ends with the thread that starts it.
pub fn server(signal: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command.env(crate::scratch::RUN, crate::scratch::run()).stdin(Stdio::null()).process_group(0);
    command
}

/// Where a program is, looked up in PATH and in the directories that root's PATH often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|d| d.join(program)).find(|p| p.is_file())
}

/// The root of the sources: the directory that holds the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// `cargo`, the one that runs us, in the sources' root.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
