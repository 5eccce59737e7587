//! Client drivers -> a virtual environment in the cache.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// The drivers that the end-to-end tests drive, and the parser that reads metrics, pinned: a test that changes by itself proves nothing.
const DRIVERS: &[&str] = &["psycopg[binary]==3.3.*", "asyncpg==0.32.*", "prometheus-client==0.26.*"];

/// Makes the environment where it is not yet, or where the drivers changed.
pub(super) fn ensure() -> Result<()> {
    let home = super::cache()?.join("python");
    let (stamp, wanted) = (home.join("drivers"), DRIVERS.join("\n"));
    let python = super::python()?;
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted)
        && shell::succeeds(Command::new(&python).arg("--version"))
    {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&home);
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&home);
    shell::step("Python environment", "for the client drivers of the tests", &mut venv)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(DRIVERS);
    shell::step("psycopg, asyncpg, prometheus-client", "from PyPI", &mut pip)?;
    fs::write(stamp, wanted)?;
    Ok(())
}
