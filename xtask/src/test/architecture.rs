//! Checks the shape of the sources: who may import whom, what `agent-core` must not know, head comments, sizes,
//! and that a database's name stays in its own file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Filter, Tally};
use crate::shell;

/// The one-way street: each crate and what it may import from the workspace.
const STREET: &[(&str, &[&str])] = &[
    ("agent-common", &[]),
    ("agent-ebpf", &["agent-common"]),
    ("agent-core", &[]),
    ("agent", &["agent-common", "agent-core"]),
    ("xtask", &[]),
    // The servers and the agent that tests drive are started as `demo` and `bench` start them.
    ("tests", &["agent", "agent-core", "xtask"]),
    ("fuzz", &["agent-core"]),
];

/// What the pure crate must not say: it has no clock, no file, no network, no runtime, no kernel.
/// Addresses and durations are values, and welcome.
const IMPURE: &[&str] = &[
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "Instant",
    "SystemTime",
    "std::thread",
    "std::process",
    "std::env",
    "tokio",
    "aya::",
    "unsafe ",
];

/// Where a database's name may not appear (law 1): adding a database changes nothing there.
const NAMELESS: &[&str] = &["agent-common/src", "agent-ebpf/src", "agent/src/store", "agent/src/capture"];
const DATABASES: &[&str] = &["postgres", "mysql", "mariadb", "redis", "mongodb", "sqlserver"];

/// Lines in a file at most.
const LONGEST: usize = 800;

pub(super) fn run(_: &Filter, tally: &mut Tally) {
    let root = shell::root();
    tally.check("the crate street is one-way", || street(&root));
    tally.check("every file says what becomes what", || each(&root, head));
    tally.check("no file is over 800 lines", || each(&root, size));
    tally.check("agent-core is pure", || each(&root, purity));
    tally.check("a database's name stays in its file", || each(&root, names));
    tally.check("nothing is left to do", || each(&root, leftovers));
}

fn street(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root)?.flatten() {
        let manifest = entry.path().join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((_, may)) = STREET.iter().find(|(n, _)| *n == name) else {
            wrong.push(format!(
                "{name}: no such house in the street; add it to xtask/src/test/architecture.rs"
            ));
            continue;
        };
        let manifest: toml::Table = fs::read_to_string(&manifest)?.parse().with_context(|| name.clone())?;
        for import in imports(&manifest) {
            if STREET.iter().any(|(n, _)| *n == import) && !may.contains(&import.as_str()) && import != name {
                wrong.push(format!("{name} may not import {import}"));
            }
        }
    }
    all(&wrong)
}

/// Dependencies of every kind that a manifest names.
fn imports(manifest: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            found.extend(
                table.iter().map(|(name, spec)| {
                    spec.get("package").and_then(|p| p.as_str()).unwrap_or(name).to_owned()
                }),
            );
        } else if key == "target" {
            found.extend(table.values().filter_map(|t| t.as_table()).flat_map(imports));
        }
    }
    found
}

/// Runs a check over every Rust file that is ours.
fn each(root: &Path, check: fn(&str, &str) -> Option<String>) -> Result<()> {
    let mut files = Vec::new();
    for (house, _) in STREET {
        collect(&root.join(house), &mut files);
    }
    if files.is_empty() {
        bail!("no sources under {}", root.display());
    }
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        wrong.extend(check(&name, &text).map(|what| format!("{name}: {what}")));
    }
    all(&wrong)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()) {
        let schema = path.parent().is_some_and(|d| d.ends_with("schema"));
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs" || (e == "sql" && schema)) {
            files.push(path);
        }
    }
}

fn head(name: &str, text: &str) -> Option<String> {
    let rust = Path::new(name).extension().is_some_and(|e| e == "rs");
    (rust && !text.starts_with("//! "))
        .then(|| "does not begin with a line `//! what becomes what`".to_owned())
}

fn size(_: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > LONGEST).then(|| format!("has {lines} lines; split it by meaning"))
}

fn purity(name: &str, text: &str) -> Option<String> {
    if name == "agent-core/src/lib.rs" && !text.contains("#![forbid(unsafe_code)]") {
        return Some("does not forbid unsafe code".to_owned());
    }
    if !name.starts_with("agent-core/src") || for_tests(name) {
        return None;
    }
    find(shipped(text), IMPURE).map(|(line, word)| format!("line {line} says `{}`", word.trim()))
}

fn names(name: &str, text: &str) -> Option<String> {
    if !NAMELESS.iter().any(|room| name.starts_with(room)) || for_tests(name) {
        return None;
    }
    find(&shipped(text).to_lowercase(), DATABASES).map(|(line, word)| format!("line {line} names {word}"))
}

/// Tests and benchmarks may read their data from files, and are about some database.
fn for_tests(name: &str) -> bool {
    ["tests.rs", "testing.rs", "bench.rs"].iter().any(|end| name.ends_with(end))
}

/// The part of a file before its unit tests.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

fn leftovers(name: &str, text: &str) -> Option<String> {
    if name.ends_with("test/architecture.rs") {
        return None;
    }
    let words = &["todo!(", "unimplemented!(", "FIXME", "TODO", "#[ignore"];
    find(text, words).map(|(line, word)| format!("line {line} says {word}"))
}

/// The first line of code (not of comment) that contains one of the words.
fn find<'w>(text: &str, words: &[&'w str]) -> Option<(usize, &'w str)> {
    text.lines().enumerate().find_map(|(number, line)| {
        let code = line.split("//").next().unwrap_or(line).split("--").next().unwrap_or(line);
        words.iter().find(|w| code.contains(**w)).map(|w| (number + 1, *w))
    })
}

fn all(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_is_wrong() {
        assert!(head("a.rs", "use x;\n").is_some() && head("a.rs", "//! Bytes -> words.\n").is_none());
        assert!(size("a.rs", &"x\n".repeat(801)).is_some());
        assert!(purity("agent-core/src/x.rs", "//! x\nuse std::fs;\n").is_some());
        assert!(
            purity(
                "agent-core/src/x.rs",
                "//! x\n// not std::fs\n#[cfg(test)]\nmod tests { use std::fs; }\n"
            )
            .is_none()
        );
        assert!(names("agent-ebpf/src/x.rs", "const PORT_OF_POSTGRES: u16 = 1;").is_some());
        assert!(names("agent-core/src/protocol.rs", "mod mysql;").is_none());
        assert!(leftovers("agent/src/x.rs", "fn f() { todo!() }").is_some());
    }

    #[test]
    fn sees_imports_of_every_kind() {
        let manifest = "[dependencies]\nagent-core = {}\n[dev-dependencies]\ncore = { package = 'agent' }\n\
                        [target.'cfg(unix)'.build-dependencies]\nxtask = {}\n";
        let mut found = imports(&manifest.parse().unwrap());
        found.sort();
        assert_eq!(found, ["agent", "agent-core", "xtask"]);
    }
}
