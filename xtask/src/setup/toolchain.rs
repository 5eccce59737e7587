//! rustup's nightly with `rust-src`, and bpf-linker built against an LLVM that the distribution has.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages;
use crate::{shell, terminal};

/// The LLVM versions that bpf-linker 0.13 knows: major, its cargo feature's default-ness, llvm-sys' prefix variable.
/// Newest first: an LLVM older than the compiler's cannot read what the compiler writes.
const LLVMS: &[(u32, &str)] =
    &[(23, "LLVM_SYS_231_PREFIX"), (22, "LLVM_SYS_221_PREFIX"), (21, "LLVM_SYS_211_PREFIX")];

/// A nightly toolchain that can build `core` for the bpf target.
pub(super) fn nightly() -> Result<()> {
    let installed = shell::output(Command::new("rustup").args(["toolchain", "list"]))
        .context("rustup is needed: https://rustup.rs")?;
    if !installed.lines().any(|l| l.starts_with("nightly")) {
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        shell::step("nightly toolchain", "compiles the kernel programs; a minute", &mut rustup)?;
    }
    component("nightly", "rust-src", "the source of `core`, for the bpf target; up to a minute")
}

/// rustfmt and clippy of the toolchain in use.
pub(super) fn lints() -> Result<()> {
    for (program, name) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if !shell::succeeds(Command::new(program).arg("--version")) {
            shell::step(name, "for the checks", Command::new("rustup").args(["component", "add", name]))?;
        }
    }
    Ok(())
}

fn component(toolchain: &str, name: &str, why: &str) -> Result<()> {
    let list = ["component", "list", "--installed", "--toolchain", toolchain];
    let installed = shell::output(Command::new("rustup").args(list))?;
    if installed.lines().any(|l| l.starts_with(name)) {
        return Ok(());
    }
    shell::step(name, why, Command::new("rustup").args(["component", "add", name, "--toolchain", toolchain]))
}

/// bpf-linker, against the newest LLVM that the distribution offers and that is not older than nightly's own.
pub(super) fn bpf_linker() -> Result<()> {
    if shell::succeeds(Command::new("bpf-linker").arg("--version")) {
        return Ok(());
    }
    let least = compiler_llvm()?;
    let choose =
        || LLVMS.iter().find(|(major, _)| *major >= least && packages::offered(&format!("llvm-{major}-dev")));
    let mut chosen = choose();
    if chosen.is_none() {
        packages::lists()?;
        chosen = choose();
    }
    match chosen {
        Some((major, prefix)) => {
            let with = [format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")];
            let with =
                with.into_iter().chain(["zlib1g-dev", "libzstd-dev", "libxml2-dev"].map(str::to_owned));
            packages::install(&with.collect::<Vec<_>>())?;
            let home = format!("/usr/lib/llvm-{major}");
            let mut cargo = Command::new("cargo");
            // `--locked`: what its authors tested. The link paths: llvm-sys does not hand them on for a shared libLLVM.
            cargo
                .args(["install", "bpf-linker", "--version", "^0.13", "--locked", "--no-default-features"])
                .args(["--features", &format!("llvm-{major}")])
                .env(prefix, &home)
                .env("RUSTFLAGS", format!("-L native={home}/lib -C link-arg=-Wl,-rpath,{home}/lib"))
                .current_dir("/");
            shell::step(
                "bpf-linker",
                &format!("links the kernel programs, with LLVM {major}; a minute or two"),
                &mut cargo,
            )
        }
        None => prebuilt(least),
    }
}

/// The binary that its authors publish, for distributions whose LLVM is too old.
fn prebuilt(least: u32) -> Result<()> {
    terminal::say(format!(
        "no LLVM {least} or newer among this distribution's packages: taking bpf-linker's own build"
    ));
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/latest/download/bpf-linker-{}-unknown-linux-musl.tar.zst",
        std::env::consts::ARCH
    );
    if shell::find("zstd").is_none() {
        packages::install(&["zstd".to_owned()])?;
    }
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.cargo")))?;
    let script = format!(
        "set -o pipefail; curl --fail --silent --show-error --location {url} | tar --zstd -x -C {home}/bin"
    );
    shell::step("bpf-linker", "links the kernel programs", Command::new("bash").args(["-c", &script])).with_context(
        || format!("install bpf-linker yourself (https://github.com/aya-rs/bpf-linker), with LLVM {least} or newer"),
    )?;
    if !shell::succeeds(Command::new("bpf-linker").arg("--version")) {
        bail!("the bpf-linker that was fetched from {url} does not run here");
    }
    Ok(())
}

/// Major version of the LLVM inside nightly.
fn compiler_llvm() -> Result<u32> {
    let about = shell::output(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"]))?;
    let line = about.lines().find_map(|l| l.strip_prefix("LLVM version: "));
    line.and_then(|v| v.split('.').next())
        .and_then(|v| v.parse().ok())
        .context("rustc does not name its LLVM")
}
