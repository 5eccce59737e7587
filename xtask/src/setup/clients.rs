//! Clients of other languages -> packages and programs: node-postgres, pgjdbc, lib/pq. Each language's own TLS is tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::scratch::Scratch;
use crate::shell;

/// The driver of Node.js, pinned as the Python ones are.
const NODE: &str = "pg@8.23.1";
/// The driver of Go, as Debian has its source.
const GO: &str = "golang-github-lib-pq-dev";

/// Fetches the drivers that are not there yet.
pub(super) fn ensure() -> Result<()> {
    node()?;
    go()
}

/// Where programs of Node.js find `pg`.
pub fn node_modules() -> Result<PathBuf> {
    let own = super::cache()?.join("node/node_modules");
    Ok(if own.exists() { own } else { "/usr/share/nodejs".into() })
}

/// pgjdbc.
pub const JDBC: &str = "/usr/share/java/postgresql.jar";

fn node() -> Result<()> {
    let home = super::cache()?.join("node");
    let (stamp, shared) = (home.join("drivers"), Path::new("/usr/share/nodejs/pg").exists());
    if shared || fs::read_to_string(&stamp).is_ok_and(|wanted| wanted == NODE) {
        return Ok(());
    }
    if shell::find("npm").is_none() {
        return packages::install(&["node-pg".to_owned()]);
    }
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home)?;
    let mut npm = Command::new("npm");
    // Scripts of packages are not run.
    npm.args([
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--no-package-lock",
        NODE,
    ]);
    shell::step("node-postgres", "from the npm registry", npm.current_dir(&home))?;
    fs::write(stamp, NODE)?;
    Ok(())
}

/// Debian's package of the driver wants a dozen others, for what is not used here: only its own files are taken.
fn go() -> Result<()> {
    let home = super::cache()?.join("go");
    if home.join("src/github.com/lib/pq/conn.go").exists() {
        return Ok(());
    }
    let scratch = Scratch::new("go")?;
    let mut apt = Command::new("apt-get");
    apt.args(["--quiet", "download", GO]).current_dir(scratch.path());
    if shell::step("lib/pq", "the PostgreSQL driver of Go", &mut apt).is_err() {
        packages::lists()?;
        shell::step("lib/pq", "the PostgreSQL driver of Go", &mut apt)?;
    }
    let archives = fs::read_dir(scratch.path())?.flatten().map(|entry| entry.path());
    let archive = archives.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let unpacked = scratch.path().join("unpacked");
    let mut dpkg = Command::new("dpkg");
    shell::output(dpkg.arg("-x").arg(archive.context("apt-get downloaded nothing")?).arg(&unpacked))?;
    fs::create_dir_all(&home)?;
    let _ = fs::remove_dir_all(home.join("src"));
    shell::output(Command::new("cp").arg("-r").arg(unpacked.join("usr/share/gocode/src")).arg(&home))
        .map(|_| ())
}

/// Builds a Go program from one file: static, against what was fetched. Go keeps what it compiled for the next time.
/// `flags` are those of `go build`.
pub fn go_build(source: &Path, to: &Path, flags: &[&str]) -> Result<()> {
    let home = super::cache()?.join("go");
    let mut go = Command::new("go");
    go.arg("build").args(flags).arg("-o").arg(to).arg(source);
    go.env("GO111MODULE", "off")
        .env("GOPATH", &home)
        .env("GOCACHE", home.join("cache"))
        .env("CGO_ENABLED", "0");
    shell::output(&mut go).map(|_| ()).with_context(|| format!("cannot build {}", source.display()))
}
