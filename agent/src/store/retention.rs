//! Receipts that are old enough -> gone, and a signed stub for each agent, against which the rest still verifies.
//!
//! Expiry by ClickHouse would leave a chain without its beginning, which looks like one that was beheaded. So an agent
//! verifies what it is about to remove, signs what is left of it, and only then removes the parts that hold nothing
//! else. Its own receipts up to a checkpoint, and those of agents of which nothing newer is there: they will not do it
//! themselves any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_core::event::{Event, EventKind};
use agent_core::receipt::{Hex, Stub};
use anyhow::Context as _;
use clickhouse::Client;

use super::notary::Notary;
use super::row::Row;
use super::writer::{Queue, lock, loss, now};
use super::{Config, clickhouse as store};
use crate::audit::{self, Known};

/// When it is looked first after the start, and how often from then on.
const FIRST: Duration = Duration::from_mins(1);
const EVERY: Duration = Duration::from_hours(1);
const DAY: u64 = 86_400;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// By agent: first and last receipt that have a stub now.
    pub ranges: BTreeMap<String, (u64, u64)>,
    /// Parts of the table that are gone.
    pub parts: u64,
    /// Why receipts that are old enough stay: they are not whole.
    pub refused: Vec<String>,
}

/// Removes what is old enough, now and then, for as long as it runs.
pub(super) async fn keep(config: Arc<Config>, notary: Arc<Mutex<Notary>>, queue: Arc<Queue>) {
    let client = store::client(&config);
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = EVERY;
        match remove(&client, &config, &notary, now()).await {
            Ok(removed) => {
                for (agent, (first, last)) in &removed.ranges {
                    let text = format!("receipts {first} to {last} of agent {agent} were removed by age");
                    queue.push(said(&config, "receipts_removed", text));
                }
                for refused in &removed.refused {
                    tracing::error!("receipts that are old enough stay: {refused}");
                    queue.push(said(&config, "retention_refused", refused.clone()));
                }
            }
            Err(error) => tracing::warn!("cannot remove old receipts now: {error:#}"),
        }
    }
}

fn said(config: &Config, what: &str, text: String) -> Event {
    Event { event_kind: EventKind::Config, ..loss(config, what, text) }
}

/// Removes what is old enough at a time.
pub(super) async fn remove(
    client: &Client,
    config: &Config,
    notary: &Mutex<Notary>,
    now: u64,
) -> anyhow::Result<Removed> {
    let mut removed = Removed::default();
    let latest = (now / 1_000_000_000).saturating_sub(u64::from(config.retention_days) * DAY);
    // Days of the table's partitions. A replayed capture of years ago is as young as the day it was stored.
    let days: Vec<String> = client
        .query(
            "SELECT toString(toDate(time)) AS day FROM events \
             WHERE time < toDateTime({latest:UInt32}, 'UTC') \
             GROUP BY day HAVING max(stored_at) < toDateTime({latest:UInt32}, 'UTC') ORDER BY day",
        )
        .param("latest", latest / DAY * DAY)
        .fetch_all()
        .await?;
    if days.is_empty() {
        return Ok(removed);
    }
    let known = Known::default();
    let proofs = audit::clickhouse_proofs(client).await?;
    let court = audit::Court::new(proofs, &known).map_err(|suspect| anyhow::anyhow!("{suspect}"))?;
    let agents: Vec<(String, u64)> = client
        .query(
            "SELECT toString(agent_id), max(sequence) FROM events WHERE toDate(time) IN {days:Array(Date)} \
             GROUP BY agent_id ORDER BY agent_id",
        )
        .param("days", &days)
        .fetch_all()
        .await?;
    let mut gone = BTreeMap::new();
    for (agent, last) in agents {
        let seals = court.seals(&agent, &known).map_err(|suspect| anyhow::anyhow!("{suspect}"))?;
        let start = seals.start.unwrap_or_default();
        let newer: (u64, u64) = client
            .query(
                "SELECT count(), min(sequence) FROM events \
                 WHERE agent_id = {agent:String} AND NOT (toDate(time) IN {days:Array(Date)})",
            )
            .param("agent", &agent)
            .param("days", &days)
            .fetch_one()
            .await?;
        let to = match newer {
            (0, _) if agent != config.agent_id => last,
            (0, _) => seals.marks.iter().rev().map(|mark| mark.sequence).find(|&at| at <= last).unwrap_or(0),
            (_, next) if agent == config.agent_id => {
                seals.marks.iter().rev().map(|mark| mark.sequence).find(|&at| at < next).unwrap_or(0)
            }
            _ => 0,
        };
        gone.insert(agent.clone(), start.0.max(to));
        if to <= start.0 {
            gone.insert(agent, start.0);
            continue;
        }
        match audit::clickhouse_range(client, &agent, seals, to).await? {
            Ok((first, last)) => {
                let stub = Stub {
                    agent_id: agent.as_str().into(),
                    first_sequence: start.0.saturating_add(1),
                    last_sequence: to,
                    count: to - start.0,
                    previous_hash: Hex(start.1),
                    first_hash: Hex(first),
                    last_hash: Hex(last),
                    time: now,
                    policy: format!("retention: {{days: {}}}", config.retention_days).into(),
                    removed_by: config.agent_id.as_str().into(),
                    key_id: Hex([0; 16]),
                    signature: Hex([0; 64]),
                };
                let stub = lock(notary).stub(stub);
                let token = format!("{}/stub/{}-{}", stub.agent_id, stub.first_sequence, stub.last_sequence);
                store::insert_row(client, &Row::from(&stub), &token).await.context("cannot store a stub")?;
                removed.ranges.insert(agent, (stub.first_sequence, to));
            }
            Err(broken) => {
                removed.refused.push(format!("agent {agent}: {broken}"));
                gone.insert(agent, start.0);
            }
        }
    }
    removed.parts = parts(client, &days, &gone).await?;
    Ok(removed)
}

/// Drops the parts whose every receipt has a stub. A part that is merged meanwhile has another name: it goes next time.
async fn parts(client: &Client, days: &[String], gone: &BTreeMap<String, u64>) -> anyhow::Result<u64> {
    let found: Vec<(String, String, u64)> = client
        .query(
            "SELECT toString(_part), toString(agent_id), max(sequence) FROM events \
             WHERE toDate(time) IN {days:Array(Date)} GROUP BY _part, agent_id",
        )
        .param("days", days)
        .fetch_all()
        .await?;
    let mut parts: BTreeMap<String, bool> = BTreeMap::new();
    for (part, agent, last) in found {
        let covered = gone.get(&agent).is_some_and(|&to| last <= to);
        *parts.entry(part).or_insert(true) &= covered;
    }
    let mut dropped = 0;
    for part in parts.into_iter().filter(|(_, covered)| *covered).map(|(part, _)| part) {
        // ClickHouse's own name, which takes no parameter; nothing else than such a name is put into the statement.
        if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            continue;
        }
        match client.query(&format!("ALTER TABLE events DROP PART '{part}'")).execute().await {
            Ok(()) => dropped += 1,
            Err(error) => tracing::info!(%error, part, "a part is dropped next time"),
        }
    }
    Ok(dropped)
}
