//! The agent -> its own `weir clickhouse` as a child process: the agent only ever speaks HTTP to a ClickHouse.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why the child does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The library is missing.
    #[error(transparent)]
    Engine(#[from] super::engine::EngineError),
    /// The process cannot be started.
    #[error("cannot start the embedded ClickHouse: {0}")]
    Start(#[from] std::io::Error),
    /// It ended before it was ready.
    #[error("the embedded ClickHouse ended at once ({status}): {said}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// The last line it printed.
        said: String,
    },
    /// It did not become ready in time.
    #[error("the embedded ClickHouse was not ready within {0:?}")]
    Late(Duration),
}

/// How the child is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine's data directory.
    pub path: PathBuf,
    /// Address to listen on; `None`: a free port of the loopback interface.
    pub listen: Option<SocketAddr>,
    /// The program: the agent itself where `None`.
    pub program: Option<PathBuf>,
    /// The engine's library, searched for where `None`.
    pub library: Option<PathBuf>,
    /// How long it may take to open its data.
    pub timeout: Duration,
}

impl Config {
    /// For a data directory, everything else as usual.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            listen: None,
            program: None,
            library: None,
            timeout: Duration::from_mins(1),
        }
    }
}

/// The embedded ClickHouse, stopped when it is dropped and when the agent dies.
#[derive(Debug)]
pub struct Embedded {
    child: Child,
    address: SocketAddr,
}

impl Embedded {
    /// Starts it and waits until it answers. Blocks: seconds where there is much data to open.
    pub fn start(config: &Config) -> Result<Self, EmbeddedError> {
        // Looked for here, so that a missing library is one clear error instead of a child that ended.
        let library = super::engine::find_library(config.library.as_deref())?;
        let address = match config.listen {
            Some(address) => address,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?,
        };
        let program = match &config.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?,
        };
        let mut child = Command::new(program)
            .arg("clickhouse")
            .arg("--with-parent")
            .args([Path::new("--path"), &config.path, Path::new("--library"), &library])
            .args(["--listen", &address.to_string()])
            // Not in the terminal's group: at Ctrl-C the agent still has events to write out.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = child.stderr.take().map(said);
        let begun = Instant::now();
        let mut embedded = Self { child, address };
        let mut last = String::new();
        loop {
            if let Some(lines) = &lines {
                match lines.recv_timeout(Duration::from_millis(50)) {
                    Ok(line) if line.starts_with("ready ") => return Ok(embedded),
                    Ok(line) => last = line,
                    Err(_) => {}
                }
            }
            if let Some(status) = embedded.child.try_wait()? {
                return Err(EmbeddedError::Ended { status, said: last });
            }
            if begun.elapsed() > config.timeout {
                return Err(EmbeddedError::Late(config.timeout));
            }
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets running requests end, then stops it; kills it where that takes too long.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // SAFETY: signals our own child, which has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(15) {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the child prints, line by line, until it ends: passed on to the agent's own log.
fn said(stderr: std::process::ChildStderr) -> std::sync::mpsc::Receiver<String> {
    use std::io::BufRead;
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
            if !line.starts_with("ready ") {
                tracing::warn!(target: "clickhouse", "{line}");
            }
            let _ = send.send(line);
        }
    });
    lines
}

/// Calls `then` once the process that started this one has ended, however it ended: its end of the pipe
/// that is our standard input closes. (`PR_SET_PDEATHSIG` would fire when the starting *thread* ends.)
pub(crate) fn when_parent_ends(then: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        then();
    });
}
