//! Receipts, wherever they are kept, and what is signed about them -> whole, or what is wrong.

mod clickhouse; // the store -> chains
mod lines; // a file of JSON lines -> chains
pub mod bundle; // an evidence bundle -> chains

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agent_core::receipt::{
    Auditor, Fault, Finding, KeyId, Keyring, Link, Proofs, Seals, Stub, Suspect, Trust,
};
use anyhow::Context as _;

pub use self::clickhouse::{
    audit as clickhouse, proofs as clickhouse_proofs, range as clickhouse_range, scan, window,
};
pub use self::lines::{audit as lines, links};

/// What is known from elsewhere.
#[derive(Clone, Debug)]
pub struct Known {
    /// Keys that are genuine; where there are none, each agent's first key is believed.
    pub keys: Vec<KeyId>,
    /// What was said outside of the store: it counts as what the store says, and its keys are genuine.
    pub anchored: Proofs,
    /// First receipt of chains that are parts of longer ones, by agent; the empty name is every agent's.
    pub from: BTreeMap<Arc<str>, u64>,
    /// Receipts that are asked for at once: bounds the memory on both sides.
    pub window: u64,
}

impl Default for Known {
    fn default() -> Self {
        let (keys, anchored, from) = Default::default();
        Self { keys, anchored, from, window: 200_000 }
    }
}

impl Known {
    /// Adds the lines of an anchor file.
    pub fn read_anchor(&mut self, path: &Path) -> anyhow::Result<()> {
        read_proofs(path, &mut self.anchored)
    }

    fn trust(&self) -> Trust {
        let mut trust = Trust { keys: self.keys.clone(), ..Trust::default() };
        for key in &self.anchored.keys {
            trust.agents.entry(Arc::clone(&key.agent_id)).or_default().push(key.key_id);
        }
        trust
    }

    fn from(&self, agent_id: &str) -> u64 {
        self.from.get(agent_id).or_else(|| self.from.get("")).copied().unwrap_or(1)
    }
}

/// Reads proofs, one a line.
pub fn read_proofs(path: &Path, proofs: &mut Proofs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        proofs.read_line(line).map_err(|error| {
            anyhow::anyhow!("{} line {}: not a proof: {error}", path.display(), number + 1)
        })?;
    }
    Ok(())
}

/// What was found out about one agent's receipts.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Whose.
    pub agent_id: Arc<str>,
    /// Receipts that are whole.
    pub count: u64,
    /// First and last that are there; zeros where none is.
    pub range: (u64, u64),
    /// The last that a checkpoint signed; 0 where there is none.
    pub signed: u64,
    /// The key that signed it.
    pub key_id: Option<KeyId>,
    /// Checkpoints that are believed.
    pub checkpoints: u64,
    /// Receipts that were made before the agent had a key, or lost its state.
    pub unsigned: Vec<(u64, u64)>,
    /// What was removed by a policy.
    pub stubs: Vec<Stub>,
    /// Removed receipts that are still there.
    pub left_over: u64,
    /// The first receipt that is wrong.
    pub broken: Option<Finding>,
    /// How many are.
    pub faults: u64,
}

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Agent by agent, by name.
    pub chains: Vec<Chain>,
    /// Something signed that is not to be believed: the receipts of its agent were not looked at.
    pub suspects: Vec<Suspect>,
}

impl Report {
    /// True where nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.suspects.is_empty() && self.chains.iter().all(|chain| chain.faults == 0)
    }

    /// Receipts that are whole.
    pub fn count(&self) -> u64 {
        self.chains.iter().map(|chain| chain.count).sum()
    }
}

/// What is signed, believed or not, agent by agent.
pub struct Court {
    ring: Keyring,
    proofs: Proofs,
}

impl Court {
    /// Hears what the store says and what was said elsewhere.
    pub fn new(mut proofs: Proofs, known: &Known) -> Result<Self, Suspect> {
        proofs.keys.extend(known.anchored.keys.iter().cloned());
        proofs.checkpoints.extend(known.anchored.checkpoints.iter().cloned());
        proofs.stubs.extend(known.anchored.stubs.iter().cloned());
        Ok(Self { ring: Keyring::new(&proofs.keys, &known.trust())?, proofs })
    }

    /// Agents about which something is signed.
    fn agents(&self) -> impl Iterator<Item = &Arc<str>> {
        let checkpoints = self.proofs.checkpoints.iter().map(|checkpoint| &checkpoint.agent_id);
        checkpoints.chain(self.proofs.stubs.iter().map(|stub| &stub.agent_id))
    }

    /// What an agent's receipts must be.
    pub fn seals(&self, agent_id: &str, known: &Known) -> Result<Seals, Suspect> {
        self.ring.seals(agent_id, &self.proofs, known.from(agent_id))
    }

    fn auditor(&self, agent_id: &str, known: &Known) -> Result<Auditor, Suspect> {
        self.seals(agent_id, known).map(Auditor::new)
    }
}

/// Nothing more will come of an agent.
fn chain(agent_id: &Arc<str>, mut auditor: Auditor) -> Chain {
    auditor.finish();
    let seals = auditor.seals();
    Chain {
        agent_id: Arc::clone(agent_id),
        count: auditor.count(),
        range: auditor.range(),
        signed: auditor.signed(),
        key_id: seals.marks.last().map(|mark| mark.key_id),
        checkpoints: seals.checkpoints,
        unsigned: seals.unsigned.clone(),
        stubs: seals.stubs.clone(),
        left_over: auditor.left_over,
        broken: auditor.first,
        faults: auditor.faults,
    }
}

/// How many threads hash.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16)
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let agent = &self.agent_id;
        if let Some(Finding { sequence, event_id, fault }) = &self.broken {
            let id = if matches!(fault, Fault::CutOff { .. }) {
                String::new()
            } else {
                let id = agent_core::event::uuid(*event_id);
                format!(" (event {})", String::from_utf8_lossy(&id))
            };
            write!(f, "broken: agent {agent}: receipt {sequence}{id}: {fault}")?;
            if self.faults > 1 {
                write!(f, "; {} more after it", self.faults - 1)?;
            }
            return Ok(());
        }
        let (first, last) = self.range;
        write!(f, "whole: agent {agent}: {} receipts", self.count)?;
        if self.count > 0 {
            write!(f, ", {first} to {last}")?;
        }
        match self.key_id {
            Some(key) if self.signed >= last => write!(f, ", all signed, the last by key {key}")?,
            Some(key) => write!(
                f,
                ", signed up to {} by key {key}, the newest {} not yet",
                self.signed,
                last - self.signed
            )?,
            None => f.write_str(", not signed")?,
        }
        for (from, to) in &self.unsigned {
            write!(f, "; {from} to {to} were made before its key and are not signed")?;
        }
        if let (Some(first), Some(last)) = (self.stubs.first(), self.stubs.last()) {
            write!(
                f,
                "; {} to {} were removed by {} until {}",
                first.first_sequence,
                last.last_sequence,
                last.policy,
                agent_core::event::rfc3339(last.time)
            )?;
        }
        // Another agent does that where this one has been silent for longer than its receipts are kept.
        if let Some(stub) = self.stubs.iter().find(|stub| stub.removed_by != *agent) {
            write!(f, ", {} to {} by agent {}", stub.first_sequence, stub.last_sequence, stub.removed_by)?;
        }
        if self.left_over > 0 {
            write!(f, "; {} of them are still there", self.left_over)?;
        }
        Ok(())
    }
}

/// Receipts of several agents, each checked in the order in which they come.
struct Chains<'a> {
    court: &'a Court,
    known: &'a Known,
    auditors: BTreeMap<Arc<str>, Auditor>,
    suspects: BTreeMap<Arc<str>, Suspect>,
}

impl<'a> Chains<'a> {
    fn new(court: &'a Court, known: &'a Known) -> Self {
        let mut chains = Self { court, known, auditors: BTreeMap::new(), suspects: BTreeMap::new() };
        for agent in court.agents() {
            chains.auditor(agent);
        }
        chains
    }

    fn auditor(&mut self, agent_id: &Arc<str>) -> Option<&mut Auditor> {
        if self.suspects.contains_key(agent_id) {
            return None;
        }
        if !self.auditors.contains_key(agent_id) {
            match self.court.auditor(agent_id, self.known) {
                Ok(auditor) => drop(self.auditors.insert(Arc::clone(agent_id), auditor)),
                Err(suspect) => {
                    self.suspects.insert(Arc::clone(agent_id), suspect);
                }
            }
        }
        self.auditors.get_mut(agent_id)
    }

    fn link(&mut self, agent_id: &Arc<str>, link: &Link) {
        if let Some(auditor) = self.auditor(agent_id) {
            auditor.link(link);
        }
    }

    fn report(self) -> Report {
        let chains = self.auditors.into_iter().map(|(agent, auditor)| chain(&agent, auditor)).collect();
        Report { chains, suspects: self.suspects.into_values().collect() }
    }
}
