//! An image -> `weir tap` and `weir run` in containers with named capabilities -> statements of this host's PostgreSQL.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::clickhouse::ClickHouse;
use crate::postgres::Postgres;
use crate::scratch::{self, Scratch};
use crate::shell;
use crate::terminal::{self, Step};

/// What the agent needs, and no more; deploy/kubernetes/daemonset.yaml says why each.
const CAPABILITIES: &str = "BPF,PERFMON,NET_ADMIN,SYS_ADMIN,SYS_PTRACE,DAC_READ_SEARCH,SYS_NICE";
/// podman lowers its own limit of processes to this before it starts anything.
const PROCESSES: u64 = 32_768;
const PATIENCE: Duration = Duration::from_mins(1);

/// Starts a PostgreSQL on this host and the agent in a container, runs psql, and waits for its statement: first on the
/// terminal, then, where the image holds the engine, in the ClickHouse inside of the container.
pub(super) fn run(tag: &str, engine: bool) -> Result<()> {
    let server = Postgres::start(&[])?;
    let hint = format!("{}=postgresql", server.port);
    let container = Container::start(tag, &[], &["tap", "--format", "jsonl", "--port", &hint])?;
    let step = Step::start("capture", "a psql on this host, seen from inside of the container");
    let mark = format!("seen_from_the_image_{}", std::process::id());
    speak(&server, &mark)?;
    match container.statement(&mark) {
        Ok(event) => {
            step.done("");
            for field in ["db_query_text", "process_executable_path", "process_command_line", "process_owner"]
            {
                terminal::say(format_args!("{field}: {}", event[field].as_str().unwrap_or_default()));
            }
            check(&event)?;
        }
        Err(error) => {
            step.failed();
            return Err(error);
        }
    }
    drop(container);
    if engine { record(tag, &server) } else { Ok(()) }
}

fn speak(server: &Postgres, mark: &str) -> Result<()> {
    let mut psql = server.client("psql");
    psql.args(["-X", "-q", "-A", "-t", "-c", &format!("select 1 as {mark}")]);
    shell::output(&mut psql).map(|_| ())
}

/// The whole agent, with its engine and its receipts, in one container.
fn record(tag: &str, server: &Postgres) -> Result<()> {
    let state = Scratch::new("image-state")?;
    let port = scratch::free_port()?;
    let volume = format!("--volume={}:/var/lib/weir", state.path().display());
    let listen = format!("--env=WEIR_STORE_LISTEN=127.0.0.1:{port}");
    let container =
        Container::start(tag, &[&volume, &listen, "--tmpfs=/run/weir", "--tmpfs=/tmp"], &["run"])?;
    let step = Step::start("receipt", "the same, from the ClickHouse inside of the container");
    let mark = format!("kept_by_the_image_{}", std::process::id());
    speak(server, &mark)?;
    let clickhouse = ClickHouse { url: format!("http://127.0.0.1:{port}") };
    let query = format!(
        "SELECT process_executable_path, hash != '' FROM weir.events WHERE db_query_text LIKE '%{mark}%' FORMAT TSV"
    );
    let began = Instant::now();
    loop {
        let found = clickhouse.query(&query).unwrap_or_default();
        if let Some((program, sealed)) = found.trim().split_once('\t') {
            if !program.ends_with("psql") || sealed != "1" {
                step.failed();
                bail!("the receipt came, but it is not psql's or not sealed: {found}");
            }
            step.done(&format!("{program}, sealed in the chain"));
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            step.failed();
            bail!("no receipt came: {}", container.errors.try_iter().collect::<Vec<_>>().join("\n"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The client's process is known in spite of the container's walls.
fn check(event: &Value) -> Result<()> {
    let program = event["process_executable_path"].as_str().unwrap_or_default();
    if !program.ends_with("psql") || event["process_pid"].as_u64().is_none() {
        bail!("the statement was captured, but its process is not psql: {event}");
    }
    Ok(())
}

/// A running container; killed and removed when dropped.
struct Container {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
    _scratch: Scratch,
}

impl Container {
    fn start(tag: &str, options: &[&str], arguments: &[&str]) -> Result<Self> {
        let podman = shell::find("podman").context("podman is not installed: apt-get install podman")?;
        let scratch = Scratch::new("image")?;
        let what = arguments.first().copied().unwrap_or_default();
        let name = format!("weir-trial-{what}-{}", std::process::id());
        let mut command = podman_run(&podman, scratch.path())?;
        command.args(["--rm", "--name", &name]).args(limits()?);
        command.args(["--pid=host", "--network=host", "--cgroupns=host", "--read-only", "--cap-drop=all"]);
        command.arg(format!("--cap-add={CAPABILITIES}"));
        command.args(["--volume", "/sys/kernel/tracing:/sys/kernel/tracing:ro"]).args(options).arg(tag);
        command.args(arguments);
        let step = Step::start("container", &format!("weir {what}, with seven capabilities"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run {}", shell::show(&command)))?;
        let (lines, errors) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let mut container = Self { name, child, lines, errors, _scratch: scratch };
        match container.wait_ready() {
            Ok(()) => step.done(""),
            Err(error) => {
                step.failed();
                return Err(error);
            }
        }
        Ok(container)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (began, mut said) = (Instant::now(), Vec::new());
        while began.elapsed() < PATIENCE {
            if let Ok(line) = self.errors.recv_timeout(Duration::from_millis(200)) {
                if line == "ready" {
                    return Ok(());
                }
                said.push(line);
            } else if let Some(status) = self.child.try_wait()? {
                said.extend(self.errors.try_iter());
                bail!("the container ended at once ({status}): {}", said.join("\n"));
            }
        }
        bail!("weir is not ready in the container after a minute: {}", said.join("\n"))
    }

    /// The event of the statement that holds `mark`.
    fn statement(&self, mark: &str) -> Result<Value> {
        let began = Instant::now();
        let mut others = 0;
        while let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) {
            let event: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
            if event["event_kind"] == "statement"
                && event["db_query_text"].as_str().is_some_and(|text| text.contains(mark))
            {
                return Ok(event);
            }
            others += 1;
        }
        let errors: Vec<String> = self.errors.try_iter().collect();
        bail!("the statement did not come ({others} other events did): {}", errors.join("\n"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let podman = |arguments: &[&str]| {
            let _ =
                Command::new("podman").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        };
        podman(&["kill", "--signal", "INT", &self.name]);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) && self.child.try_wait().is_ok_and(|s| s.is_none()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        podman(&["rm", "--force", "--time", "0", &self.name]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `podman run`, with the host's cgroup v2 mounted into the container where the host has it.
///
/// Hosts that mount v1 and v2 side by side ("hybrid", v2 at `/sys/fs/cgroup/unified`) are refused by crun once v2 has
/// a controller: "cgroups in hybrid mode not supported, drop all controllers from cgroupv2". There podman gets a mount
/// namespace of its own in which `unified` is not mounted, and the container gets another mount of the same hierarchy.
/// (`--cgroups=disabled` is no way out: podman then refuses `--pid=host`.)
fn podman_run(podman: &Path, scratch: &Path) -> Result<Command> {
    let unified = cgroup2()?;
    if unified == Path::new("/sys/fs/cgroup") {
        let mut command = Command::new(podman);
        command.args(["run", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro"]);
        return Ok(command);
    }
    let script = r#"umount "$1" && mount -t cgroup2 none "$2" && shift 2 && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(&unified).arg(scratch).arg(podman);
    command.args(["--cgroup-manager=cgroupfs", "run", "--volume"]);
    command.arg(format!("{}:{}:ro", scratch.display(), unified.display()));
    Ok(command)
}

fn cgroup2() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
    let path = found.and_then(|fields| fields.get(1).map(PathBuf::from));
    path.context("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// podman asks for more open files and processes than it has, which needs CAP_SYS_RESOURCE: "setrlimit
/// `RLIMIT_NOFILE`: Operation not permitted" from crun where root lacks it. So it is told what there is.
fn limits() -> Result<[String; 2]> {
    let text = std::fs::read_to_string("/proc/self/limits")?;
    let hard = |name: &str, at_most: u64| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        value.unwrap_or(at_most).min(at_most)
    };
    let (files, processes) = (hard("Max open files", 1 << 20), hard("Max processes", PROCESSES));
    Ok([format!("--ulimit=nofile={files}:{files}"), format!("--ulimit=nproc={processes}:{processes}")])
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok)) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}
