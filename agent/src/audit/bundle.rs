//! An evidence bundle, a directory or a tar file -> its manifest holds, and so does the chain of its receipts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_core::receipt::{Hex, Proofs, sha256};
use anyhow::{Context as _, bail, ensure};
use ring::digest::{Context as Hashing, SHA256};
use serde::{Deserialize, Serialize};

use super::{Known, Report, lines, read_proofs};

/// What a manifest says that it is.
const FORMAT: &str = "weir evidence 1";
/// Names within the bundle.
pub const MANIFEST: &str = "manifest.json";
/// Receipts, as JSON lines.
pub const EVENTS: &str = "events.jsonl";
/// Keys, checkpoints and stubs, as JSON lines.
pub const PROOFS: &str = "proofs.jsonl";
/// Where the texts of policies are.
pub const POLICIES: &str = "policies";

/// What is in a bundle.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Manifest {
    /// What this is.
    pub format: String,
    /// When it was made, and by which version.
    pub made_at: String,
    /// The version of weir that made it.
    pub weir_version: String,
    /// The period that was asked for; empty: open.
    pub since: String,
    /// Its end.
    pub until: String,
    /// Whose receipts it holds, and which.
    pub chains: Vec<Part>,
    /// Policies that receipts name and whose text the store does not have.
    pub policies_missing: Vec<String>,
    /// Every other file.
    pub files: Vec<Entry>,
}

/// A part of an agent's chain.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Part {
    /// Whose.
    pub agent_id: Arc<str>,
    /// Its first receipt.
    pub first_sequence: u64,
    /// Its last receipt.
    pub last_sequence: u64,
}

/// A file of the bundle.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Entry {
    /// Its path within the bundle.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: Hex<32>,
}

impl Manifest {
    /// For a period.
    pub fn new(made_at: String, since: String, until: String) -> Self {
        Self {
            format: FORMAT.into(),
            made_at,
            weir_version: env!("CARGO_PKG_VERSION").into(),
            since,
            until,
            chains: Vec::new(),
            policies_missing: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Lists the files of a directory and writes the manifest beside them.
    pub fn write(mut self, directory: &Path) -> anyhow::Result<()> {
        for path in files(directory)? {
            self.files.push(entry(directory, path)?);
        }
        let mut text = serde_json::to_string_pretty(&self)?;
        text.push('\n');
        std::fs::write(directory.join(MANIFEST), text)?;
        Ok(())
    }
}

/// Paths of all files but the manifest, relative to the directory.
fn files(directory: &Path) -> io::Result<BTreeSet<String>> {
    let (mut found, mut todo) = (BTreeSet::new(), vec![PathBuf::new()]);
    while let Some(inner) = todo.pop() {
        for file in std::fs::read_dir(directory.join(&inner))? {
            let file = file?;
            let path = inner.join(file.file_name());
            if file.file_type()?.is_dir() {
                todo.push(path);
            } else if path != Path::new(MANIFEST) {
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

fn entry(directory: &Path, path: String) -> anyhow::Result<Entry> {
    let full = directory.join(&path);
    let mut file = File::open(&full).with_context(|| format!("cannot open {}", full.display()))?;
    let (mut hash, mut bytes, mut buffer) = (Hashing::new(&SHA256), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(hash.finish().as_ref());
            return Ok(Entry { path, bytes, sha256: Hex(sha256) });
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Puts a directory into a tar file, the manifest first.
pub fn pack(directory: &Path, out: &Path) -> anyhow::Result<()> {
    let file = File::create_new(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut tar = tar::Builder::new(io::BufWriter::new(file));
    tar.mode(tar::HeaderMode::Deterministic);
    for path in std::iter::once(MANIFEST.to_owned()).chain(files(directory)?) {
        tar.append_path_with_name(directory.join(&path), &path)?;
    }
    tar.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}

/// True where a path is a bundle rather than a file of receipts.
pub fn is_bundle(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|extension| extension == "tar")
}

/// Checks a bundle: its files by the manifest, its policies by their versions, its receipts by what is signed.
pub fn audit(path: &Path, known: &Known) -> anyhow::Result<(Manifest, Report)> {
    if path.is_dir() {
        return directory(path, known);
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut tar = tar::Archive::new(io::BufReader::new(file));
    tar.unpack(scratch.path()).with_context(|| format!("{} does not unpack", path.display()))?;
    directory(scratch.path(), known)
}

fn directory(path: &Path, known: &Known) -> anyhow::Result<(Manifest, Report)> {
    let manifest =
        std::fs::read(path.join(MANIFEST)).context("there is no manifest.json: no bundle of weir")?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).context("broken: manifest.json: not a manifest")?;
    ensure!(manifest.format == FORMAT, "manifest.json is `{}`, this weir reads `{FORMAT}`", manifest.format);
    let found = files(path)?;
    for listed in &manifest.files {
        ensure!(found.contains(&listed.path), "broken: {}: it is missing", listed.path);
        let there = entry(path, listed.path.clone())?;
        ensure!(there == *listed, "broken: {}: it is not what the manifest says", listed.path);
        let name = Path::new(&listed.path);
        if name.starts_with(POLICIES) {
            policy(path, name)?;
        }
    }
    if let Some(more) = found.iter().find(|path| manifest.files.iter().all(|listed| listed.path != **path)) {
        bail!("broken: {more}: the manifest does not know it");
    }
    let mut proofs = Proofs::default();
    read_proofs(&path.join(PROOFS), &mut proofs)?;
    let mut known = known.clone();
    for part in &manifest.chains {
        known.from.insert(Arc::clone(&part.agent_id), part.first_sequence);
        // Checkpoints told elsewhere may be about receipts that are no part of this bundle.
        let inside = |sequence: u64| sequence + 1 >= part.first_sequence && sequence <= part.last_sequence;
        known.anchored.checkpoints.retain(|c| c.agent_id != part.agent_id || inside(c.sequence));
    }
    known.anchored.checkpoints.retain(|c| manifest.chains.iter().any(|part| part.agent_id == c.agent_id));
    let report = lines(&path.join(EVENTS), proofs, &known)?;
    for part in &manifest.chains {
        let Some(chain) = report.chains.iter().find(|chain| chain.agent_id == part.agent_id) else {
            continue;
        };
        ensure!(
            chain.faults > 0 || chain.range == (part.first_sequence, part.last_sequence),
            "broken: agent {}: receipts {} to {} are there, the manifest says {} to {}",
            part.agent_id,
            chain.range.0,
            chain.range.1,
            part.first_sequence,
            part.last_sequence
        );
    }
    Ok((manifest, report))
}

/// A policy's file is named after its version, and its version is the hash of its text.
fn policy(directory: &Path, name: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(directory.join(name))?;
    let version = name.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.rsplit_once('@'));
    let hash = Hex(sha256(&[text.trim_ascii()])).to_string();
    ensure!(
        version.is_some_and(|(_, version)| version.len() >= 12 && hash.starts_with(version)),
        "broken: {}: its text does not have this version",
        name.display()
    );
    Ok(())
}
