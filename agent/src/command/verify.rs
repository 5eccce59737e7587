//! `weir verify`: checks the receipt chain, from ClickHouse or from a file, one agent after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agent_core::event::Event;
use agent_core::receipt::{FIELDS, Fault, Receipt, Verifier, canonical, length};
use anyhow::{Context, bail};
use clickhouse::Client;

use crate::store::{self, Secret};

/// Receipts that are asked for at once: bounds the memory on both sides.
const WINDOW: u64 = 50_000;

/// Check the receipt chain: whole, or the first broken, missing or reordered receipt.
///
/// Receipts are checked agent by agent. A chain may begin above 1 where the oldest receipts have been deleted by
/// age. Exit status 0: every chain is whole. 1: one is not, or it cannot be read.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weir verify --url http://127.0.0.1:8123\n  weir verify events.jsonl")]
pub struct Args {
    /// Events as JSON lines, as `weir replay --format jsonl` writes them.
    #[arg(value_name = "FILE.jsonl", conflicts_with = "url")]
    file: Option<PathBuf>,
    /// ClickHouse's HTTP address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8123")]
    url: String,
    /// Database that holds the events.
    #[arg(long, default_value = "weir")]
    database: String,
    /// ClickHouse user.
    #[arg(long, default_value = "", env = "WEIR_STORE_USER")]
    user: String,
    /// File with the user's password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let outcome = if let Some(path) = &self.file {
            file(path)?
        } else {
            let password = match &self.password_file {
                Some(path) => std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the password from {}", path.display()))?
                    .trim_end()
                    .to_owned(),
                None => String::new(),
            };
            let config = store::Config {
                url: self.url.clone(),
                database: self.database.clone(),
                user: self.user.clone(),
                password: Secret(password),
                ..store::Config::default()
            };
            tokio::runtime::Runtime::new()?
                .block_on(database(&store::clickhouse::client(&config)))
                .with_context(|| format!("cannot read the receipts from {}", self.url))?
        };
        Ok(outcome.report())
    }
}

/// What was found: the whole chains, and the first receipt that is wrong.
#[derive(Default)]
struct Outcome {
    whole: Vec<(Arc<str>, Verifier)>,
    broken: Option<Broken>,
}

struct Broken {
    agent: Arc<str>,
    sequence: u64,
    event_id: u128,
    fault: Fault,
}

impl Outcome {
    fn report(&self) -> ExitCode {
        if let Some(b) = &self.broken {
            println!(
                "broken: agent {}: receipt {} (event {}): {}",
                b.agent,
                b.sequence,
                uuid(b.event_id),
                b.fault
            );
            return ExitCode::FAILURE;
        }
        for (agent, verifier) in &self.whole {
            let last = verifier.first + verifier.count.saturating_sub(1);
            println!("whole: agent {agent}: {} receipts, {} to {last}", verifier.count, verifier.first);
        }
        let total: u64 = self.whole.iter().map(|(_, v)| v.count).sum();
        println!("whole: {total} receipts of {} agents", self.whole.len());
        ExitCode::SUCCESS
    }
}

fn uuid(id: u128) -> String {
    let h = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// Lines in the order in which they stand; lines of several agents may be mixed.
fn file(path: &Path) -> anyhow::Result<Outcome> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut chains: BTreeMap<Arc<str>, Verifier> = BTreeMap::new();
    let mut bytes = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let event: Event = serde_json::from_str(&line)
            .with_context(|| format!("{} line {}: not an event", path.display(), number + 1))?;
        bytes.clear();
        canonical(&event, &mut bytes);
        let receipt = Receipt {
            sequence: event.sequence,
            previous_hash: event.previous_hash,
            hash: event.hash,
            canonical: &bytes,
        };
        if let Err(fault) = chains.entry(Arc::clone(&event.agent_id)).or_default().check(&receipt) {
            let (agent, sequence, event_id) = (event.agent_id, event.sequence, event.event_id);
            let broken = Some(Broken { agent, sequence, event_id, fault });
            return Ok(Outcome { broken, ..Outcome::default() });
        }
    }
    Ok(Outcome { whole: chains.into_iter().collect(), broken: None })
}

/// Every agent's receipts by their sequence, a window at a time.
async fn database(client: &Client) -> anyhow::Result<Outcome> {
    let agents: Vec<String> =
        client.query("SELECT DISTINCT toString(agent_id) FROM events ORDER BY 1").fetch_all().await?;
    let mut outcome = Outcome::default();
    for agent in agents {
        let mut verifier = Verifier::default();
        let mut from = 0u64;
        // Only what is there now: an agent that is at work goes on writing.
        let (count, last): (u64, u64) = client
            .query("SELECT count(), max(sequence) FROM events WHERE agent_id = ?")
            .bind(&agent)
            .fetch_one()
            .await?;
        while verifier.count < count && from <= last {
            let checked = verifier.count;
            if let Some(broken) = window(client, &agent, from, last, &mut verifier).await? {
                outcome.broken = Some(broken);
                return Ok(outcome);
            }
            if verifier.count > checked {
                from = verifier.first + verifier.count;
                continue;
            }
            // Nothing in this window: on to the next receipt there is, which shows what is missing before it.
            let next: (u64, u64) = client
                .query("SELECT count(), min(sequence) FROM events WHERE agent_id = ? AND sequence >= ?")
                .bind(&agent)
                .bind(from)
                .fetch_one()
                .await?;
            if next.0 == 0 {
                break;
            }
            from = next.1;
        }
        if verifier.count < count {
            bail!(
                "agent {agent}: {count} receipts were counted, {} read: they changed meanwhile",
                verifier.count
            );
        }
        outcome.whole.push((agent.into(), verifier));
    }
    Ok(outcome)
}

/// Checks the receipts from `from` on, at most a window of them. The server hands out the very bytes that are
/// hashed (see `receipt`), so nothing is decoded but their length.
async fn window(
    client: &Client,
    agent: &str,
    from: u64,
    last: u64,
    verifier: &mut Verifier,
) -> anyhow::Result<Option<Broken>> {
    let sql = format!(
        "SELECT {}, chain FROM events WHERE agent_id = ? AND sequence BETWEEN ? AND ? ORDER BY sequence",
        FIELDS.join(", ")
    );
    let to = from.saturating_add(WINDOW - 1).min(last);
    let mut cursor = client.query(&sql).bind(agent).bind(from).bind(to).fetch_bytes("RowBinary")?;
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let more = cursor.next().await?;
        if let Some(bytes) = &more {
            pending.extend_from_slice(bytes);
        }
        let mut at = 0;
        while let Some(row) = row(&pending[at..]) {
            let receipt = Receipt {
                sequence: row.sequence,
                previous_hash: row.previous_hash,
                hash: row.hash,
                canonical: row.canonical,
            };
            if let Err(fault) = verifier.check(&receipt) {
                let (agent, sequence, event_id) = (agent.into(), row.sequence, row.event_id);
                return Ok(Some(Broken { agent, sequence, event_id, fault }));
            }
            at += row.length;
        }
        pending.drain(..at);
        if more.is_none() {
            if !pending.is_empty() {
                bail!("the answer ended within a receipt");
            }
            return Ok(None);
        }
    }
}

struct Row<'a> {
    canonical: &'a [u8],
    event_id: u128,
    sequence: u64,
    previous_hash: [u8; 32],
    hash: [u8; 32],
    length: usize,
}

/// The first row of the bytes; none where it is not whole.
fn row(bytes: &[u8]) -> Option<Row<'_>> {
    let (canonical, rest) = bytes.split_at_checked(length(bytes)?)?;
    let (previous_hash, rest) = rest.split_first_chunk::<32>()?;
    let (hash, _) = rest.split_first_chunk::<32>()?;
    let (high, rest) = canonical.split_first_chunk::<8>()?;
    let (low, _) = rest.split_first_chunk::<8>()?;
    let sequence = canonical.last_chunk::<8>()?;
    Some(Row {
        canonical,
        event_id: u128::from(u64::from_le_bytes(*high)) << 64 | u128::from(u64::from_le_bytes(*low)),
        sequence: u64::from_le_bytes(*sequence),
        previous_hash: *previous_hash,
        hash: *hash,
        length: canonical.len() + 64,
    })
}
