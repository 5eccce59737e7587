//! The tables of a ClickHouse -> chains, a window of receipts at a time, several windows at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_core::receipt::{
    Auditor, Checkpoint, FIELDS, Hash, Hex, Key, KeyId, Link, Proofs, Receipt, Seals, Stub, length,
};
use anyhow::bail;
use clickhouse::{Client, Row};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::{Chains, Court, Known, Report, workers};

/// Checks every agent's receipts.
pub async fn audit(client: &Client, known: &Known) -> anyhow::Result<Report> {
    // Before the receipts: what an agent at work signs meanwhile is about receipts that are not asked for.
    let court = match Court::new(proofs(client).await?, known) {
        Ok(court) => court,
        Err(suspect) => return Ok(Report { suspects: vec![suspect], ..Report::default() }),
    };
    let found: Vec<String> =
        client.query("SELECT DISTINCT toString(agent_id) FROM events ORDER BY 1").fetch_all().await?;
    let mut chains = Chains::new(&court, known);
    let agents: BTreeSet<Arc<str>> =
        found.into_iter().map(Arc::from).chain(court.agents().cloned()).collect();
    for agent in agents {
        if let Some(auditor) = chains.auditor(&agent) {
            receipts(client, &agent, auditor, (u64::MAX, known.window)).await?;
        }
    }
    Ok(chains.report())
}

/// Checks an agent's receipts up to one: the hashes of the first and the last, or what is wrong.
pub async fn range(
    client: &Client,
    agent: &str,
    mut seals: Seals,
    to: u64,
) -> anyhow::Result<Result<(Hash, Hash), String>> {
    seals.marks.retain(|mark| mark.sequence <= to);
    let (agent, mut auditor) = (Arc::from(agent), Auditor::new(seals));
    receipts(client, &agent, &mut auditor, (to, Known::default().window)).await?;
    let ends = auditor.ends().filter(|_| auditor.range().1 == to);
    let chain = super::chain(&agent, auditor);
    Ok(match ends {
        Some(ends) if chain.faults == 0 => Ok(ends),
        Some(_) => Err(chain.to_string()),
        None => Err(format!("receipt {to} is not there")),
    })
}

/// Brings one agent's receipts, those that are there now: an agent at work goes on writing.
async fn receipts(
    client: &Client,
    agent: &Arc<str>,
    auditor: &mut Auditor,
    (to, window_size): (u64, u64),
) -> anyhow::Result<()> {
    let start = auditor.seals().start.map_or(0, |(last, _)| last);
    let (count, mut from, last): (u64, u64, u64) = client
        .query(
            "SELECT count(), min(sequence), max(sequence) FROM events \
             WHERE agent_id = {agent:String} AND sequence > {start:UInt64} AND sequence <= {to:UInt64}",
        )
        .param("agent", &**agent)
        .param("start", start)
        .param("to", to)
        .fetch_one()
        .await?;
    if start > 0 {
        let sql = "SELECT count() FROM events WHERE agent_id = {agent:String} AND sequence <= {start:UInt64}";
        auditor.left_over =
            client.query(sql).param("agent", &**agent).param("start", start).fetch_one().await?;
    }
    let mut read = 0;
    while read < count && from <= last {
        let starts = std::iter::successors(Some(from), |from| from.checked_add(window_size));
        let windows = starts.take_while(|from| *from <= last).map(|from| {
            let (client, agent) = (client.clone(), Arc::clone(agent));
            let to = from.saturating_add(window_size - 1).min(last);
            async move { (to, tokio::spawn(async move { window(&client, &agent, from, to).await }).await) }
        });
        let mut windows = std::pin::pin!(stream::iter(windows).buffered(workers()));
        let mut empty = None;
        while let Some((to, links)) = windows.next().await {
            let links = links??;
            read += links.len() as u64;
            for link in &links {
                auditor.link(link);
            }
            if links.is_empty() {
                empty = Some(to);
                break;
            }
        }
        let Some(to) = empty else { break };
        // Nothing in this window: on to the next receipt there is, which shows what is missing before it.
        from = client
            .query(
                "SELECT min(sequence) FROM events WHERE agent_id = {agent:String} AND sequence > {to:UInt64}",
            )
            .param("agent", &**agent)
            .param("to", to)
            .fetch_one()
            .await?;
        if from == 0 {
            break;
        }
    }
    if read < count {
        bail!("agent {agent}: {count} receipts were counted, {read} read: they changed meanwhile");
    }
    Ok(())
}

/// Hashes the receipts of one agent from one sequence to another, by their sequence.
pub async fn window(client: &Client, agent: &str, from: u64, to: u64) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::new();
    scan(client, agent, (from, to), false, |receipt| {
        links.push(Link::of(&receipt, event_id(receipt.canonical)));
        Ok(())
    })
    .await?;
    links.sort_by_key(|link| link.sequence);
    Ok(links)
}

/// Reads the receipts of one agent from one sequence to another. The server hands out the very bytes that are hashed
/// (see `agent_core::receipt`), so nothing is decoded but their length. Unless they are wanted in order, they come as
/// they lie: that spares the server a sort of all columns.
pub async fn scan(
    client: &Client,
    agent: &str,
    (from, to): (u64, u64),
    in_order: bool,
    mut each: impl FnMut(Receipt<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT {}, chain FROM events WHERE agent_id = {{agent:String}} \
         AND sequence BETWEEN {{from:UInt64}} AND {{to:UInt64}}{}",
        FIELDS.join(", "),
        if in_order { " ORDER BY sequence" } else { "" }
    );
    let query = client.query(&sql).param("agent", agent).param("from", from).param("to", to);
    let mut cursor = query.fetch_bytes("RowBinary")?;
    let mut pending: Vec<u8> = Vec::new();
    while let Some(piece) = cursor.next().await? {
        // A row that is cut between two pieces is joined, the others are read where they are.
        let mut at = 0;
        while !pending.is_empty() && at < piece.len() {
            let (before, more) = (pending.len(), &piece[at..piece.len().min(at + 4096)]);
            pending.extend_from_slice(more);
            match row(&pending) {
                Some((receipt, length)) => {
                    each(receipt)?;
                    // It ends within the bytes that were added last.
                    at += length - before;
                    pending.clear();
                }
                None => at += more.len(),
            }
        }
        while let Some((receipt, length)) = row(&piece[at..]) {
            each(receipt)?;
            at += length;
        }
        pending.extend_from_slice(&piece[at..]);
    }
    if !pending.is_empty() {
        bail!("the answer ended within a receipt");
    }
    Ok(())
}

/// The first row of the bytes and its length; none where it is not whole.
fn row(bytes: &[u8]) -> Option<(Receipt<'_>, usize)> {
    let (canonical, rest) = bytes.split_at_checked(length(bytes)?)?;
    let (previous_hash, rest) = rest.split_first_chunk::<32>()?;
    let (hash, _) = rest.split_first_chunk::<32>()?;
    let sequence = u64::from_le_bytes(*canonical.last_chunk()?);
    let receipt = Receipt { sequence, previous_hash: *previous_hash, hash: *hash, canonical };
    Some((receipt, canonical.len() + 64))
}

fn event_id(canonical: &[u8]) -> u128 {
    let half = |at: usize| {
        canonical.get(at..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |b| u64::from_le_bytes(*b))
    };
    u128::from(half(0)) << 64 | u128::from(half(8))
}

#[derive(Row, Deserialize)]
struct KeyRow {
    agent_id: String,
    key_id: String,
    public_key: String,
    from_sequence: u64,
    time: u64,
    previous_key_id: String,
    signature: String,
}

#[derive(Row, Deserialize)]
struct CheckpointRow {
    agent_id: String,
    sequence: u64,
    head: String,
    time: u64,
    count: u64,
    key_id: String,
    signature: String,
}

#[derive(Row, Deserialize)]
struct StubRow {
    agent_id: String,
    first_sequence: u64,
    last_sequence: u64,
    count: u64,
    previous_hash: String,
    first_hash: String,
    last_hash: String,
    time: u64,
    policy: String,
    removed_by: String,
    key_id: String,
    signature: String,
}

/// The time as it is signed.
const TIME: &str = "reinterpretAsUInt64(toUnixTimestamp64Nano(time)) AS time";

/// All that is signed, as the store has it. Nothing where the tables are those of an earlier version.
pub async fn proofs(client: &Client) -> anyhow::Result<Proofs> {
    let mut proofs = Proofs::default();
    let tables: Vec<String> = client
        .query(
            "SELECT toString(name) FROM system.tables WHERE database = currentDatabase() \
             AND name IN ('signing_keys', 'checkpoints', 'stubs')",
        )
        .fetch_all()
        .await?;
    let has = |table: &str| tables.iter().any(|name| name == table);
    if has("signing_keys") {
        let sql = format!(
            "SELECT toString(agent_id) AS agent_id, key_id, public_key, from_sequence, {TIME}, previous_key_id, \
             signature FROM signing_keys"
        );
        for row in client.query(&sql).fetch_all::<KeyRow>().await? {
            proofs.keys.push(row.key().map_err(|error| error.about("signing_keys"))?);
        }
    }
    if has("checkpoints") {
        let sql = format!(
            "SELECT toString(agent_id) AS agent_id, sequence, head, {TIME}, count, toString(key_id) AS key_id, \
             signature FROM checkpoints ORDER BY agent_id, sequence"
        );
        for row in client.query(&sql).fetch_all::<CheckpointRow>().await? {
            proofs.checkpoints.push(row.checkpoint().map_err(|error| error.about("checkpoints"))?);
        }
    }
    if has("stubs") {
        let sql = format!(
            "SELECT toString(agent_id) AS agent_id, first_sequence, last_sequence, count, previous_hash, first_hash, \
             last_hash, {TIME}, policy, toString(removed_by) AS removed_by, toString(key_id) AS key_id, signature \
             FROM stubs ORDER BY agent_id, first_sequence"
        );
        for row in client.query(&sql).fetch_all::<StubRow>().await? {
            proofs.stubs.push(row.stub().map_err(|error| error.about("stubs"))?);
        }
    }
    Ok(proofs)
}

/// A row whose hexadecimal digits are none.
struct Garbled {
    agent_id: String,
    column: &'static str,
}

impl Garbled {
    fn about(self, table: &str) -> anyhow::Error {
        anyhow::anyhow!(
            "broken: agent {}: {} in {table} is garbled: it was changed",
            self.agent_id,
            self.column
        )
    }
}

fn hex<const N: usize>(text: &str, agent_id: &str, column: &'static str) -> Result<Hex<N>, Garbled> {
    text.parse().map_err(|_| Garbled { agent_id: agent_id.into(), column })
}

impl KeyRow {
    fn key(self) -> Result<Key, Garbled> {
        let agent = &self.agent_id;
        let previous: Option<KeyId> = match self.previous_key_id.as_str() {
            "" => None,
            id => Some(hex(id, agent, "previous_key_id")?),
        };
        Ok(Key {
            key_id: hex(&self.key_id, agent, "key_id")?,
            public_key: hex(&self.public_key, agent, "public_key")?,
            from_sequence: self.from_sequence,
            time: self.time,
            previous_key_id: previous,
            signature: hex(&self.signature, agent, "signature")?,
            agent_id: self.agent_id.into(),
        })
    }
}

impl CheckpointRow {
    fn checkpoint(self) -> Result<Checkpoint, Garbled> {
        let agent = &self.agent_id;
        Ok(Checkpoint {
            sequence: self.sequence,
            head: hex(&self.head, agent, "head")?,
            time: self.time,
            count: self.count,
            key_id: hex(&self.key_id, agent, "key_id")?,
            signature: hex(&self.signature, agent, "signature")?,
            agent_id: self.agent_id.into(),
        })
    }
}

impl StubRow {
    fn stub(self) -> Result<Stub, Garbled> {
        let agent = &self.agent_id;
        Ok(Stub {
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
            count: self.count,
            previous_hash: hex(&self.previous_hash, agent, "previous_hash")?,
            first_hash: hex(&self.first_hash, agent, "first_hash")?,
            last_hash: hex(&self.last_hash, agent, "last_hash")?,
            time: self.time,
            policy: self.policy.into(),
            removed_by: self.removed_by.into(),
            key_id: hex(&self.key_id, agent, "key_id")?,
            signature: hex(&self.signature, agent, "signature")?,
            agent_id: self.agent_id.into(),
        })
    }
}
