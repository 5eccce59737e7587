//! Sources -> the binary `weir`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::shell;

/// How long the compiler may think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// For unit tests.
    Dev,
    /// For everything that is watched or measured.
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Cargo's target directory for this workspace.
pub fn target() -> PathBuf {
    let root = shell::root();
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Builds `weir` and says where it is. With `XTASK_WEIR` set, that binary is taken as it is.
pub fn weir(profile: Profile) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("XTASK_WEIR") {
        return Ok(binary.into());
    }
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--package", "agent", "--bin", "weir"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let fresh = !target().join(profile.directory()).join("weir").exists();
    let note = if fresh { "the first build takes some minutes" } else { "" };
    shell::step(
        "weir",
        &format!("compiling the agent and its kernel programs{}{note}", if fresh { "; " } else { "" }),
        &mut cargo,
    )
    .context("weir does not build")?;
    Ok(target().join(profile.directory()).join("weir"))
}
