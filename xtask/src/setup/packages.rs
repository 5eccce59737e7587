//! What is missing -> apt. Servers that come with packages are not started, and no cluster is made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Need;
use crate::{postgres, shell};

/// Installs what is missing for these needs.
pub(super) fn ensure(needs: &[Need]) -> Result<()> {
    let mut missing = Vec::new();
    for need in needs {
        missing.extend(lacking(*need));
    }
    missing.sort();
    missing.dedup();
    install(&missing)?;
    // Its package is named after the server's version, known only now.
    if needs.contains(&Need::Peers) {
        let version = postgres::version(&postgres::directory()?)?;
        if !Path::new(&format!("/usr/share/postgresql/{version}/extension/pgaudit.control")).exists() {
            install(&[format!("postgresql-{version}-pgaudit")])?;
        }
    }
    Ok(())
}

fn lacking(need: Need) -> Vec<String> {
    let programs: &[(&str, &str)] = match need {
        Need::Build => {
            &[("cc", "build-essential"), ("curl", "curl"), ("pkg-config", "pkg-config"), ("tar", "tar")]
        }
        Need::Postgres => &[("psql", "postgresql-client")],
        Need::Peers => &[
            ("pgbouncer", "pgbouncer"),
            ("ip", "iproute2"),
            ("tcpdump", "tcpdump"),
            ("tshark", "tshark"),
            ("taskset", "util-linux"),
            ("openssl", "openssl"),
        ],
        Need::Drivers => &[("python3", "python3")],
        Need::Clients => &[("node", "nodejs"), ("javac", "default-jdk-headless"), ("go", "golang-go")],
        Need::Containers => &[("podman", "podman")],
        Need::Lint | Need::Engine | Need::Versions => &[],
    };
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|(p, _)| shell::find(p).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    let files: &[(&str, &str)] = match need {
        Need::Build => &[("/usr/include/openssl/ssl.h", "libssl-dev")],
        Need::Clients => &[(super::clients::JDBC, "libpostgresql-jdbc-java")],
        _ => &[],
    };
    missing.extend(
        files.iter().filter(|(f, _)| !Path::new(f).exists()).map(|(_, package)| (*package).to_owned()),
    );
    if need == Need::Postgres && postgres::directory().is_err() {
        missing.extend(["postgresql", "postgresql-contrib"].map(str::to_owned));
    }
    if need == Need::Drivers
        && !shell::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"]))
    {
        missing.push("python3-venv".to_owned());
    }
    missing
}

/// Installs packages; with none, does nothing.
pub(super) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if shell::find("apt-get").is_none() {
        bail!("these are missing, and there is no apt-get here to install them: {list}");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("run this as root, or install first: {list}");
    }
    let _quiet = Quiet::new()?;
    shell::step("package lists", "apt-get update", apt().arg("update")).context("apt-get update failed")?;
    let note = "from the distribution, a minute or two";
    shell::step(&list, note, apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("apt-get could not install {list}"))
}

/// True where the distribution offers a package (as far as its lists are here).
pub(super) fn offered(package: &str) -> bool {
    let policy = shell::output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().any(|l| l.trim_start().starts_with("Candidate:") && !l.contains("(none)"))
}

/// Fetches the package lists anew: there may be none yet, or old ones.
pub(super) fn lists() -> Result<()> {
    shell::step("package lists", "apt-get update", apt().arg("update"))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    command
}

/// While this lives, installing a server package neither starts the server nor makes a cluster.
struct Quiet {
    made: Vec<PathBuf>,
}

impl Quiet {
    fn new() -> Result<Self> {
        let mut quiet = Self { made: Vec::new() };
        quiet.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)?;
        fs::create_dir_all("/etc/postgresql-common/createcluster.d")?;
        quiet.write(
            "/etc/postgresql-common/createcluster.d/weir.conf",
            "create_main_cluster = false\n",
            0o644,
        )?;
        Ok(quiet)
    }

    fn write(&mut self, path: &str, text: &str, mode: u32) -> Result<()> {
        let path = PathBuf::from(path);
        if !path.exists() {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            self.made.push(path);
        }
        Ok(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = fs::remove_file(path);
        }
    }
}
