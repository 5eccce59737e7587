//! Real clients, one call each: psql, pgbench, and the drivers through small programs.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use xtask::postgres::Postgres;
use xtask::{setup, shell};

use crate::netns::NetNs;

/// How clients reach the server.
pub struct Route<'a> {
    /// The address that they connect to.
    pub host: String,
    /// The namespace that they are in.
    pub namespace: Option<&'a NetNs>,
    /// Whether they insist on TLS; otherwise they do without.
    pub tls: bool,
    /// The port, where it is not the server's.
    pub port: Option<u16>,
}

impl<'a> Route<'a> {
    /// Over IPv4 loopback.
    pub fn loopback4() -> Self {
        Self { host: "127.0.0.1".into(), namespace: None, tls: false, port: None }
    }

    /// Over IPv6 loopback.
    pub fn loopback6() -> Self {
        Self { host: "::1".into(), namespace: None, tls: false, port: None }
    }

    /// From another network namespace, IPv4.
    pub fn veth4(ns: &'a NetNs) -> Self {
        Self { host: ns.host4.clone(), namespace: Some(ns), tls: false, port: None }
    }

    /// From another network namespace, IPv6.
    pub fn veth6(ns: &'a NetNs) -> Self {
        Self { host: ns.host6.clone(), namespace: Some(ns), tls: false, port: None }
    }

    /// The same over TLS.
    #[must_use]
    pub fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// The same by another port, where something stands before the server.
    #[must_use]
    pub fn at(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// Over the server's Unix socket.
    pub fn unix(server: &Postgres) -> Self {
        Self {
            host: server.socket_directory().to_string_lossy().into_owned(),
            namespace: None,
            tls: false,
            port: None,
        }
    }

    /// Aims a command at the server by this route.
    pub fn aim(&self, mut command: Command) -> Command {
        command.env("PGHOST", &self.host);
        if self.tls {
            command.env("PGSSLMODE", "require");
        }
        if let Some(port) = self.port {
            command.env("PGPORT", port.to_string());
        }
        self.namespace.map_or(command_of(&command), |ns| ns.inside(&command))
    }
}

/// A copy: `Command` cannot be cloned, and a namespace has to wrap one.
fn command_of(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    copy
}

/// Runs `psql` with these arguments; errors of statements are part of the game.
pub fn psql(server: &Postgres, route: &Route<'_>, arguments: &[&str]) -> Result<String> {
    let mut psql = server.client("psql");
    psql.args(["-X", "-q", "-A", "-t"]).args(arguments);
    let out = route.aim(psql).output().context("cannot run psql")?;
    if out.status.code() == Some(2) {
        bail!("psql could not connect: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// Runs pgbench with these arguments (`-n` included) and returns how many transactions it counted.
pub fn pgbench(server: &Postgres, route: &Route<'_>, arguments: &[&str]) -> Result<u64> {
    let mut pgbench = server.client("pgbench");
    pgbench.arg("-n").args(arguments);
    let said = shell::output(&mut route.aim(pgbench))?;
    transactions(&said).with_context(|| format!("pgbench counted nothing: {said}"))
}

/// `number of transactions actually processed: 100/100` -> 100.
pub fn transactions(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|l| l.strip_prefix("number of transactions actually processed: "))?;
    line.split('/').next()?.trim().parse().ok()
}

/// Runs one of `tests/clients/*.py` with the drivers' Python.
pub fn python(server: &Postgres, route: &Route<'_>, script: &str, arguments: &[&str]) -> Result<String> {
    shell::output(&mut route.aim(interpreter(server, script, arguments)?))
}

/// What runs a script of the clients' directory, and leaves nothing compiled there.
fn interpreter(server: &Postgres, script: &str, arguments: &[&str]) -> Result<Command> {
    let python = setup::python()?;
    if !python.is_file() {
        bail!("the client drivers are not installed: run `cargo xtask test`");
    }
    let mut command = Command::new(python);
    command.arg("-B").arg(clients().join(script)).args(arguments);
    command.envs(server.client("psql").get_envs().filter_map(|(k, v)| Some((k, v?))));
    Ok(command)
}

/// A client that stays connected: runs a statement for each line that it reads, and answers with one line.
pub struct Session {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// An interactive `psql`.
    pub fn psql(server: &Postgres, route: &Route<'_>) -> Result<Self> {
        let mut psql = server.client("psql");
        psql.args(["-X", "-q", "-A", "-t"]);
        Self::start(route.aim(psql))
    }

    /// One of `tests/clients/*.py` that reads lines.
    pub fn python(server: &Postgres, route: &Route<'_>, script: &str) -> Result<Self> {
        Self::python_with(server, route, script, &[])
    }

    /// The same, with arguments.
    pub fn python_with(
        server: &Postgres,
        route: &Route<'_>,
        script: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::start(route.aim(interpreter(server, script, arguments)?))
    }

    /// A command that reads lines and answers each.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Self { child, answers })
    }

    /// Runs a statement that answers with one row and one column.
    pub fn ask(&mut self, sql: &str) -> Result<String> {
        let input = self.child.stdin.as_mut().context("its input is a pipe")?;
        writeln!(input, "{sql};")?;
        self.line().with_context(|| format!("asked: {sql}"))
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Result<String> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        anyhow::ensure!(answer.ends_with('\n'), "the client is gone");
        Ok(answer.trim_end().to_owned())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program of this crate against the server.
pub fn program(server: &Postgres, route: &Route<'_>, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    command.envs(server.client("psql").get_envs().filter_map(|(k, v)| Some((k, v?))));
    shell::output(&mut route.aim(command))
}

/// Where the client scripts are.
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}
