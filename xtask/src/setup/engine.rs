//! npm package -> `libchdb.so` in the cache: the real ClickHouse engine as a library, checked by its digest.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::npm::{self, Package};
use crate::scratch::Scratch;
use crate::shell;
use crate::terminal::Step;

const PACKAGE: &str = "@chdb/lib-linux-x64-gnu";
const VERSION: &str = "26.7.3-stable.1";
/// SHA-512 of the package, as the registry states it (there in base64).
const DIGEST: &str = "5cff7b98caa7739b59a4a432c11f0dedc2d3b073624e61ebdf4a42e66ce8de35\
                      a6ba48ca9f62016bad1cd81fe059435cb858ce3235a8a2b408082a81563e70a7";

/// Fetches the engine where it is not yet.
pub(super) fn ensure() -> Result<()> {
    let cache = super::cache()?;
    let (library, stamp) = (cache.join("libchdb.so"), cache.join("libchdb.version"));
    if library.exists() && fs::read_to_string(&stamp).is_ok_and(|v| v == VERSION) {
        return Ok(());
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the embedded engine is published for x86_64 only: point `store.url` at a ClickHouse server instead"
        );
    }
    let mut step = Step::start("ClickHouse engine", "170 MB from the npm registry, unpacks to 570 MB");
    let fetched = fetch(&mut step, &cache, &library);
    match fetched {
        Ok(()) => {
            fs::write(&stamp, VERSION)?;
            step.done(&library.display().to_string());
            Ok(())
        }
        Err(error) => {
            step.failed();
            Err(error.context("cannot fetch the embedded ClickHouse engine"))
        }
    }
}

fn fetch(step: &mut Step, cache: &Path, library: &Path) -> Result<()> {
    let scratch = Scratch::new("engine")?;
    let archive =
        npm::fetch(step, &Package { name: PACKAGE, version: VERSION, digest: DIGEST }, scratch.path())?;
    // Unpacked beside its place and renamed: a half-written library is never found.
    let part = cache.join("unpacking");
    fs::create_dir_all(&part)?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(&part).args(["--strip-components=1", "package/libchdb.so"]);
    shell::stream(step, &mut tar, |_| ())?;
    fs::rename(part.join("libchdb.so"), library)?;
    fs::remove_dir_all(&part)?;
    Ok(())
}
