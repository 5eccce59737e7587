//! `weir report evidence`: a period's receipts, policies, keys and checkpoints -> files that anybody can verify.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_core::event::rfc3339;
use agent_core::receipt::{Proof, Proofs, decode};
use anyhow::Context as _;
use clickhouse::Client;

use super::query::{Format, Query, moment};
use super::{Common, Database, fresh, questions};
use crate::audit::bundle::{self, EVENTS, Manifest, POLICIES, PROOFS, Part};
use crate::audit::{clickhouse_proofs, scan};

/// Receipts that are asked for at once.
const WINDOW: u64 = 50_000;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    database: Database,
    /// Not before: a time (2026-11-01, 2026-11-01T08:00:00Z) or so long ago (24h, 90d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,
    /// Before: a time or so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
    /// Only this agent's receipts
    #[arg(long, value_name = "AGENT_ID")]
    agent: Option<String>,
    /// Directory to make, or tar file where it ends in .tar
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        fresh(&self.out)?;
        let client = self.database.client()?;
        let packed = self.out.extension().is_some_and(|extension| extension == "tar");
        let scratch = tempfile::tempdir_in(parent(&self.out)).context("cannot write beside --out")?;
        let directory = scratch.path().join("bundle");
        std::fs::create_dir(&directory)?;
        let manifest = self
            .fill(&client, &directory)
            .await
            .with_context(|| format!("cannot read {}", self.database.url))?;
        let (chains, missing) = (manifest.chains.clone(), manifest.policies_missing.clone());
        manifest.write(&directory)?;
        if packed {
            bundle::pack(&directory, &self.out)?;
        } else {
            std::fs::rename(&directory, &self.out)?;
        }
        for Part { agent_id, first_sequence, last_sequence } in &chains {
            println!("agent {agent_id}: receipts {first_sequence} to {last_sequence}");
        }
        for policy in missing {
            println!("the text of policy {policy} is not in the store");
        }
        println!("{}: verify it with `weir verify {}`", self.out.display(), self.out.display());
        Ok(ExitCode::SUCCESS)
    }

    async fn fill(&self, client: &Client, directory: &Path) -> anyhow::Result<Manifest> {
        let time = |time: Option<u64>| time.map(rfc3339).unwrap_or_default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut manifest = Manifest::new(rfc3339(now.as_nanos() as u64), time(self.since), time(self.until));
        let common = Common {
            database: self.database.clone(),
            since: self.since,
            until: self.until,
            namespace: None,
            system: None,
            agent: self.agent.clone(),
            format: Format::Csv,
            limit: u64::MAX,
        };
        let proofs = clickhouse_proofs(client).await?;
        manifest.chains = parts(client, &common, &proofs).await?;
        let named = events(client, &manifest.chains, &directory.join(EVENTS)).await?;
        write_proofs(&proofs, &manifest.chains, &directory.join(PROOFS))?;
        manifest.policies_missing = policies(client, &common, &named, directory).await?;
        for (name, condition, select) in TABLES {
            let mut query = Query::new(&common);
            query.holds(condition);
            std::fs::write(directory.join(name), query.bytes(client, select, "CSVWithNames").await?)?;
        }
        std::fs::write(directory.join("README.md"), README)?;
        Ok(manifest)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The receipts of the period, up to the checkpoints around them: so that their beginning and their end are signed.
async fn parts(client: &Client, common: &Common, proofs: &Proofs) -> anyhow::Result<Vec<Part>> {
    let asked = Query::new(common)
        .bytes(
            client,
            "SELECT toString(agent_id), min(sequence), max(sequence) FROM events WHERE {where} \
             GROUP BY agent_id ORDER BY agent_id LIMIT {limit:UInt64}",
            "JSONCompactEachRow",
        )
        .await?;
    let mut parts = Vec::new();
    for line in asked.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let (agent_id, first, last): (String, u64, u64) =
            serde_json::from_slice(line).context("ClickHouse's answer is not JSON")?;
        let own = |agent: &str| agent == agent_id;
        let signed = || proofs.checkpoints.iter().filter(|c| own(&c.agent_id)).map(|c| c.sequence);
        let removed = proofs.stubs.iter().filter(|s| own(&s.agent_id)).map(|s| s.last_sequence).max();
        let before =
            signed().filter(|&at| at < first).max().max(removed.filter(|&at| at < first)).unwrap_or(0);
        let newest: u64 = client
            .query("SELECT max(sequence) FROM events WHERE agent_id = {agent:String}")
            .param("agent", &agent_id)
            .fetch_one()
            .await?;
        let after = signed().filter(|&at| at >= last && at <= newest).min().unwrap_or(newest);
        parts.push(Part { agent_id: agent_id.into(), first_sequence: before + 1, last_sequence: after });
    }
    Ok(parts)
}

/// Writes the receipts; which policies they name.
async fn events(client: &Client, parts: &[Part], path: &Path) -> anyhow::Result<BTreeSet<(String, String)>> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut named = BTreeSet::new();
    for Part { agent_id, first_sequence, last_sequence } in parts {
        let mut from = *first_sequence;
        while from <= *last_sequence {
            let to = from.saturating_add(WINDOW - 1).min(*last_sequence);
            scan(client, agent_id, (from, to), true, |receipt| {
                let mut event = decode(receipt.canonical)
                    .with_context(|| format!("receipt {} of {agent_id} is not an event", receipt.sequence))?;
                (event.previous_hash, event.hash) = (receipt.previous_hash, receipt.hash);
                if !event.policy_version.is_empty() {
                    named.insert((event.policy_rule.to_string(), event.policy_version.to_string()));
                }
                serde_json::to_writer(&mut out, &event)?;
                out.write_all(b"\n")?;
                Ok(())
            })
            .await?;
            let Some(next) = to.checked_add(1) else { break };
            from = next;
        }
    }
    out.flush()?;
    Ok(named)
}

fn write_proofs(proofs: &Proofs, parts: &[Part], path: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let part = |agent: &str| parts.iter().find(|part| &*part.agent_id == agent);
    let keys = proofs.keys.iter().cloned().map(Proof::Key);
    let checkpoints = proofs
        .checkpoints
        .iter()
        .filter(|c| {
            part(&c.agent_id)
                .is_some_and(|part| (part.first_sequence - 1..=part.last_sequence).contains(&c.sequence))
        })
        .cloned()
        .map(Proof::Checkpoint);
    let stubs = proofs.stubs.iter().filter(|s| part(&s.agent_id).is_some()).cloned().map(Proof::Stub);
    for proof in keys.chain(checkpoints).chain(stubs) {
        serde_json::to_writer(&mut out, &proof)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes the texts of all policies that were put in force before the end of the period, and when; answers which of
/// those that receipts name are not there.
async fn policies(
    client: &Client,
    common: &Common,
    named: &BTreeSet<(String, String)>,
    directory: &Path,
) -> anyhow::Result<Vec<String>> {
    let until = common.until.unwrap_or(i64::MAX as u64).min(i64::MAX as u64);
    let before = "time < fromUnixTimestamp64Nano({until:Int64}, 'UTC')";
    let texts: Vec<(String, String, String)> = client
        .query(&format!(
            "SELECT toString(policy_rule) AS rule, policy_version, any(text) FROM policies WHERE {before} \
             GROUP BY rule, policy_version ORDER BY rule, policy_version"
        ))
        .param("until", until)
        .fetch_all()
        .await?;
    std::fs::create_dir(directory.join(POLICIES))?;
    let mut known = BTreeSet::new();
    for (rule, version, text) in texts {
        // A rule's name is its writer's; the version is hexadecimal by construction, but the table is not ours alone.
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
        };
        let file = format!("{}@{}.yaml", plain(&rule), plain(&version));
        std::fs::write(directory.join(POLICIES).join(file), text)?;
        known.insert((rule, version));
    }
    let times = client
        .query(&format!(
            "SELECT DISTINCT toString(agent_id) AS agent_id, toString(policy_rule) AS policy_rule, policy_version, file, \
             concat(replaceOne(toString(time), ' ', 'T'), 'Z') AS in_force_from FROM policies WHERE {before} \
             ORDER BY in_force_from, agent_id, policy_rule"
        ))
        .param("until", until)
        .fetch_bytes("CSVWithNames")?
        .collect()
        .await?;
    std::fs::write(directory.join("policies.csv"), times)?;
    let missing = named.iter().filter(|named| !known.contains(*named));
    Ok(missing.map(|(rule, version)| format!("{rule}@{version}")).collect())
}

/// Tables that answer what auditors ask first: file, condition, statement.
const TABLES: [(&str, &str, &str); 5] = [
    ("access-review.csv", "event_kind = 'statement'", questions::REVIEW),
    ("sensitive-data.csv", questions::LEAVES, questions::EXPORT),
    (
        "policy-decisions.csv",
        "policy_rule != ''",
        "SELECT toString(policy_rule) AS policy_rule, policy_version, toString(policy_mode) AS policy_mode, \
         toString(disposition) AS disposition, toString(identity_principal) AS principal, toString(db_user) AS user, \
         toString(db_namespace) AS namespace, toString(db_query_summary) AS summary, count() AS statements, \
         concat(replaceOne(toString(min(time)), ' ', 'T'), 'Z') AS first, \
         concat(replaceOne(toString(max(time)), ' ', 'T'), 'Z') AS last \
         FROM events WHERE {where} \
         GROUP BY policy_rule, policy_version, policy_mode, disposition, principal, user, namespace, summary \
         ORDER BY last DESC LIMIT {limit:UInt64}",
    ),
    (
        "not-seen.csv",
        "event_kind IN ('loss', 'blind')",
        "SELECT concat(replaceOne(toString(time), ' ', 'T'), 'Z') AS at, toString(event_kind) AS kind, \
         toString(error_type) AS cause, toString(host_name) AS host, toString(server_address) AS server, \
         server_port, capture_lost_before AS lost_bytes, duration_ns, toString(db_query_summary) AS said, sequence, \
         toString(agent_id) AS agent FROM events WHERE {where} ORDER BY time LIMIT {limit:UInt64}",
    ),
    (
        "agent-changes.csv",
        "event_kind = 'config'",
        "SELECT concat(replaceOne(toString(time), ' ', 'T'), 'Z') AS at, toString(error_type) AS what, \
         toString(db_query_summary) AS said, toString(host_name) AS host, sequence, toString(agent_id) AS agent \
         FROM events WHERE {where} ORDER BY time LIMIT {limit:UInt64}",
    ),
];

const README: &str = include_str!("evidence.md");
