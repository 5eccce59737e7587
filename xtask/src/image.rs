//! Sources -> the container image, and one run of it against a PostgreSQL of this host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::setup::{self, Need};
use crate::{shell, terminal};

mod trial; // image -> a statement of the host, captured from inside

/// Build the container image.
///
/// The image holds the agent, the libraries that it is linked to, certificates, the shipped policies and the embedded
/// ClickHouse engine. Nothing is pulled from a registry.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask image\n  cargo xtask image --no-engine --tag registry.example.com/weir:0.1.0\n  cargo xtask image --try"
)]
pub struct Args {
    /// Name of the image.
    #[arg(long, default_value = concat!("weir:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// Leave the embedded engine out: 570 MB less, and receipts need a ClickHouse elsewhere.
    #[arg(long)]
    no_engine: bool,
    /// Then run it once: `weir tap` in a container must show a statement to a PostgreSQL of this host.
    #[arg(long = "try")]
    try_it: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        let mut needs = vec![Need::Build, Need::Containers];
        if !self.no_engine {
            needs.push(Need::Engine);
        }
        if self.try_it {
            needs.push(Need::Postgres);
        }
        setup::ensure(&needs)?;
        terminal::headline("Image");
        build(&self.tag, !self.no_engine)?;
        if self.try_it {
            terminal::headline("Trial");
            trial::run(&self.tag, !self.no_engine)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the image under this name.
pub fn build(tag: &str, engine: bool) -> Result<()> {
    let weir = build::weir(Profile::Release)?;
    let context = build::target().join("image");
    lay_out(&context, &weir, engine).context("cannot lay out the image")?;
    let mut command = builder()?;
    // Every instruction only copies, so no step runs in a container of its own: `chroot` needs the least rights.
    command.args(["build", "--isolation", "chroot", "--layers", "--tag", tag, "--file"]);
    command.arg(shell::root().join("deploy/Containerfile")).arg(&context);
    shell::step("image", tag, &mut command).context("the image does not build")
}

/// `podman`, else `buildah`: the same builder in two programs.
fn builder() -> Result<Command> {
    let program = ["podman", "buildah"].into_iter().find_map(shell::find);
    Ok(Command::new(program.context("neither podman nor buildah is installed: apt-get install podman")?))
}

/// The build context: `rootfs/` becomes the root, `engine/` its `/usr/lib/weir`.
fn lay_out(context: &Path, weir: &Path, engine: bool) -> Result<()> {
    if context.exists() {
        fs::remove_dir_all(context)?;
    }
    let rootfs = context.join("rootfs");
    for directory in
        ["etc/ssl/certs", "etc/weir/config", "etc/weir/secret", "run/weir", "tmp", "usr/bin", "var/lib/weir"]
    {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    fs::create_dir_all(context.join("engine"))?;
    copy(weir, &rootfs.join("usr/bin/weir"))?;
    let mut libraries = linked(weir)?;
    if engine {
        let library = setup::cache()?.join("libchdb.so");
        libraries.extend(linked(&library)?);
        copy(&library, &context.join("engine/libchdb.so"))?;
    }
    for library in libraries {
        // Under the path that the loader looks at, with what a link there stands for.
        let relative = library.strip_prefix("/").unwrap_or(&library);
        copy(&fs::canonicalize(&library)?, &rootfs.join(relative))?;
    }
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        copy(certificates, &rootfs.join("etc/ssl/certs/ca-certificates.crt"))?;
    } else {
        terminal::say(
            "no /etc/ssl/certs/ca-certificates.crt here: an https store will need its own (SSL_CERT_FILE)",
        );
    }
    // Names are resolved by files and DNS; the library for both is in the C library itself.
    fs::write(rootfs.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/:/nonexistent\n")?;
    fs::write(rootfs.join("etc/group"), "root:x:0:\n")?;
    let policies = shell::root().join("deploy/policies");
    copy_tree(&policies, &rootfs.join("etc/weir/policies"))
}

/// The shared libraries that a program or library is linked to, and the loader, as `ldd` names them.
fn linked(object: &Path) -> Result<BTreeSet<PathBuf>> {
    let text = shell::output(Command::new("ldd").arg(object))?;
    libraries(&text)
}

fn libraries(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for line in ldd.lines().map(str::trim) {
        // `libc.so.6 => /lib/.../libc.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`, `linux-vdso.so.1 (0x...)`
        let target = line.split_once("=> ").map_or(line, |(_, target)| target);
        if target.starts_with("not found") {
            bail!("a library is missing here: {line}");
        }
        let path = target.split(" (").next().unwrap_or(target);
        if path.starts_with('/') {
            libraries.insert(path.into());
        }
    }
    Ok(libraries)
}

/// A copy, or a second name where that is possible: the engine is large.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_as_ldd_names_them() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x0000)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000)\n\t/lib64/ld-linux-x86-64.so.2 (0x0000)\n";
        let found: Vec<_> = libraries(text).unwrap().into_iter().collect();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }
}
