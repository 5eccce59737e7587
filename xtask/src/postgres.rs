//! Settings -> a PostgreSQL server of our own, on a free port, in a temporary directory, gone when dropped.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::scratch::{self, Scratch};
use crate::shell;

/// One running server. User `postgres`, no password, every address may connect.
pub struct Postgres {
    child: Child,
    directory: PathBuf,
    scratch: Scratch,
    /// Its TCP port, on every address of the host.
    pub port: u16,
}

/// The directory of the server's programs: `XTASK_POSTGRES_BIN`, or the newest of the distribution.
pub fn directory() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XTASK_POSTGRES_BIN") {
        return Ok(dir.into());
    }
    let versions =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let mut versions: Vec<PathBuf> = versions.filter(|d| d.join("postgres").is_file()).collect();
    versions.sort_by_key(|d| version_in(d));
    versions.pop().context("no PostgreSQL server under /usr/lib/postgresql; `cargo xtask test` installs one")
}

fn version_in(path: &Path) -> u32 {
    path.iter().filter_map(|part| part.to_str()?.parse().ok()).next_back().unwrap_or(0)
}

/// Major version of the server whose programs are in `directory`.
pub fn version(directory: &Path) -> Result<u32> {
    let text = shell::output(Command::new(directory.join("postgres")).arg("--version"))?;
    let number = text.split_whitespace().find_map(|w| w.split('.').next()?.parse().ok());
    number.with_context(|| format!("cannot read the version in {text:?}"))
}

/// The account that the server runs as: it refuses root.
fn account() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |flag: &str| -> Result<u32> {
        Ok(shell::output(Command::new("id").args([flag, "postgres"]))?.parse()?)
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

impl Postgres {
    /// Starts a server with these settings of `postgresql.conf` on top of the defaults.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_from(&directory()?, settings)
    }

    /// Starts a server whose programs are in `servers`; the clients are those of the distribution.
    pub fn start_from(servers: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let mut last = None;
        // A free port may be taken between looking and binding.
        for _ in 0..3 {
            match Self::try_start(servers, settings, scratch::free_port()?) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("not tried"))).context("cannot start PostgreSQL")
    }

    fn try_start(servers: &Path, settings: &[(&str, &str)], port: u16) -> Result<Self> {
        let (directory, account) = (directory()?, account()?);
        let scratch = Scratch::new("postgres")?;
        let home = scratch.path();
        if let Some((uid, gid)) = account {
            chown(home, Some(uid), Some(gid))?;
        }
        let as_server = |program: &str| {
            let mut command = shell::server("QUIT", servers.join(program));
            if let Some((uid, gid)) = account {
                command.uid(uid).gid(gid);
            }
            command.current_dir(home);
            command
        };
        let data = home.join("data");
        let mut initdb = as_server("initdb");
        initdb
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "-D",
            ])
            .arg(&data);
        shell::output(&mut initdb)?;
        let mut conf = format!(
            "port = {port}\nlisten_addresses = '*'\nunix_socket_directories = '{}'\nfsync = off\nmax_connections = 200\n\
             max_wal_size = '4GB'\n",
            home.display()
        );
        for (name, value) in settings {
            let value = value.replace('\'', "''");
            conf.extend([*name, " = '", &value, "'\n"]);
        }
        fs::write(data.join("weir.conf"), conf)?;
        let main = data.join("postgresql.conf");
        fs::write(&main, fs::read_to_string(&main)? + "include 'weir.conf'\n")?;
        let hba = "local all all trust\nhost all all all trust\nlocal replication all trust\nhost replication all all trust\n";
        fs::write(data.join("pg_hba.conf"), hba)?;
        let log = fs::File::create(home.join("server.log"))?;
        let child =
            as_server("postgres").arg("-D").arg(&data).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut server = Self { child, directory, scratch, port };
        server.wait_ready()?;
        Ok(server)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let file = self.data().join("postmaster.pid");
        while began.elapsed() < Duration::from_mins(1) {
            if let Some(status) = self.child.try_wait()? {
                bail!("PostgreSQL ended at once ({status}): {}", self.log());
            }
            // The last line is the state; see `miscinit.h`.
            if fs::read_to_string(&file).is_ok_and(|t| t.lines().nth(7).is_some_and(|l| l.trim() == "ready"))
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("PostgreSQL is not ready after a minute: {}", self.log())
    }

    /// From now on it takes TLS, with a certificate of its own making.
    pub fn offer_tls(&self) -> Result<()> {
        self.certificate("/CN=weir-test", "server")?;
        self.quietly("alter system set ssl = on")?;
        self.quietly("select pg_reload_conf()")?;
        for _ in 0..100 {
            if self.quietly("show ssl")? == "on" {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the server does not take TLS: {}", self.log())
    }

    /// From now on it lets in whom these lines of `pg_hba.conf` let in, and local users.
    pub fn admit(&self, lines: &str) -> Result<()> {
        fs::write(self.data().join("pg_hba.conf"), format!("local all all trust\n{lines}\n"))?;
        self.quietly("select pg_reload_conf()").map(|_| ())
    }

    /// Makes a certificate that signs itself, and its key, both readable for the server and for nobody else.
    pub fn certificate(&self, subject: &str, name: &str) -> Result<(PathBuf, PathBuf)> {
        let data = self.data();
        let owner = fs::metadata(&data)?;
        let (certificate, key) = (data.join(format!("{name}.crt")), data.join(format!("{name}.key")));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-new", "-x509", "-nodes", "-days", "2", "-subj", subject]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        shell::output(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        for file in [&certificate, &key] {
            chown(file, Some(owner.uid()), Some(owner.gid()))?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
        }
        Ok((certificate, key))
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Directory of its Unix socket and its own log.
    pub fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the server said on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("server.log")).unwrap_or_default()
    }

    /// A client program of the same version, told where the server is (IPv4 loopback, database `postgres`).
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join(program));
        command.envs([
            ("PGHOST", "127.0.0.1"),
            ("PGUSER", "postgres"),
            ("PGDATABASE", "postgres"),
            ("PGSSLMODE", "disable"),
        ]);
        command
            .env("PGPORT", self.port.to_string())
            .env("PGCONNECT_TIMEOUT", "20")
            .env("PGGSSENCMODE", "disable");
        command
    }

    /// Where its Unix socket is.
    pub fn socket_directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs statements over the Unix socket; the answer is unaligned text.
    pub fn quietly(&self, sql: &str) -> Result<String> {
        let mut psql = self.client("psql");
        psql.env("PGHOST", self.scratch.path()).args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]);
        shell::output(&mut psql)
    }

    /// Fills the pgbench tables, over the Unix socket.
    pub fn pgbench_tables(&self, scale: u32) -> Result<()> {
        let mut pgbench = self.client("pgbench");
        pgbench.env("PGHOST", self.scratch.path()).args(["-i", "-q", "-s", &scale.to_string()]);
        shell::output(&mut pgbench).map(|_| ())
    }

    /// Shuts it down in good order, so that its log is whole; the directory stays until dropped.
    pub fn halt(&mut self) -> Result<()> {
        let pid =
            rustix::process::Pid::from_raw(self.child.id() as i32).context("a process id is positive")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it at once, without a checkpoint.
    fn stop(&mut self) {
        if self.child.try_wait().ok().flatten().is_some() {
            return;
        }
        // SIGQUIT: immediate shutdown. The group, so that no backend outlives it.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            for _ in 0..250 {
                if self.child.try_wait().ok().flatten().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
