//! A bare Debian or Ubuntu with rustup, git and root -> a machine that builds, runs and tests weir. Installs only
//! what is missing, says what and why, and is done in a moment the second time.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::terminal;

pub mod clients; // node-postgres, pgjdbc, lib/pq
mod engine; // npm package -> libchdb.so in the cache
mod npm; // a package of the registry -> its archive, checked
mod packages; // what is missing -> apt
mod python; // client drivers -> a virtual environment
pub mod servers; // npm packages -> PostgreSQL 12 to 18
mod toolchain; // rustup, rust-src, bpf-linker

/// What a command needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// C compiler, OpenSSL's headers, curl, nightly with rust-src, bpf-linker.
    Build,
    /// rustfmt and clippy.
    Lint,
    /// The embedded ClickHouse engine.
    Engine,
    /// PostgreSQL with its clients.
    Postgres,
    /// pgaudit, pgbouncer, iproute2, tcpdump, tshark: what tests and benchmarks compare with.
    Peers,
    /// Python with the database drivers.
    Drivers,
    /// Node.js, Java and Go with theirs.
    Clients,
    /// podman or buildah.
    Containers,
    /// PostgreSQL servers of every supported major version.
    Versions,
}

/// Makes the machine ready for all of these.
pub fn ensure(needs: &[Need]) -> Result<()> {
    terminal::headline("Setup");
    packages::ensure(needs)?;
    if needs.contains(&Need::Build) {
        toolchain::nightly()?;
        toolchain::bpf_linker()?;
    }
    if needs.contains(&Need::Lint) {
        toolchain::lints()?;
    }
    if needs.contains(&Need::Engine) {
        engine::ensure()?;
    }
    if needs.contains(&Need::Drivers) {
        python::ensure()?;
    }
    if needs.contains(&Need::Clients) {
        clients::ensure()?;
    }
    if needs.contains(&Need::Versions) {
        servers::ensure()?;
    }
    terminal::say("everything is in place");
    Ok(())
}

/// Where what was fetched is kept: `$XDG_CACHE_HOME/weir` or `~/.cache/weir`.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|d| !d.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("weir");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The Python that has the client drivers.
pub fn python() -> Result<PathBuf> {
    Ok(cache()?.join("python/bin/python"))
}
