//! How fast rows go in and what they take on disk: a pgbench-like workload against a real ClickHouse.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::event::{CaptureVantage, Event};
use agent_core::identity::Claim;
use agent_core::sql::{Access, Effect, Relation};

use super::{Config, Store, clickhouse};

/// What was measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Rows that were pushed, stored and counted.
    pub rows: u64,
    /// From the first push to the last confirmation.
    pub seconds: f64,
    /// Their ratio.
    pub rows_per_second: f64,
    /// CPU seconds of this process (chain, encoding, spool, sending), a million rows.
    pub writer_cpu_seconds_per_million: f64,
    /// Bytes of the table's active parts, once they are merged into one.
    pub bytes_on_disk: u64,
    /// Their ratio.
    pub bytes_per_row: f64,
    /// The columns that take most: name and bytes per row.
    pub largest_columns: Vec<(String, f64)>,
}

/// Pushes `rows` events as fast as the store takes them, then counts what arrived.
pub async fn run(url: &str, rows: u64, state: PathBuf) -> anyhow::Result<Report> {
    let database = format!("weir_bench_{}", std::process::id());
    let config = Config { url: url.into(), database, state, agent_id: "bench".into(), ..Config::default() };
    let client = clickhouse::client(&config);
    super::schema::apply(&client, &config.database).await?;
    let store = Store::open(config.clone()).await?;
    let mut samples = Samples::new();
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    for _ in 0..rows {
        let event = samples.next_event();
        // The bench may wait, the pipeline never does.
        while store.counters().spooled > 400_000 || store.queue_is_full() {
            std::thread::sleep(Duration::from_millis(1));
        }
        store.push(event);
    }
    let counters = store.close(Duration::from_mins(5)).await;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let stored: u64 = client.query("SELECT count() FROM events").fetch_one().await?;
    anyhow::ensure!(
        stored == rows && counters.stored == rows,
        "{rows} rows were pushed, {} confirmed, {stored} counted",
        counters.stored
    );
    // As a large merge would write it; also the only form in which ClickHouse tells the sizes of columns.
    client.query("ALTER TABLE events MODIFY SETTING min_bytes_for_wide_part = 0").execute().await?;
    client.query("OPTIMIZE TABLE events FINAL").execute().await?;
    let of_table = |what: &str| {
        format!(
            "SELECT toUInt64(sum({what})) FROM system.parts WHERE database = ? AND table = 'events' AND active"
        )
    };
    let bytes_on_disk: u64 =
        client.query(&of_table("bytes_on_disk")).bind(&config.database).fetch_one().await?;
    let columns: Vec<(String, u64)> = client
        .query(
            "SELECT name, data_compressed_bytes FROM system.columns WHERE database = ? AND table = 'events' \
             ORDER BY data_compressed_bytes DESC LIMIT 12",
        )
        .bind(&config.database)
        .fetch_all()
        .await?;
    client.query(&format!("DROP DATABASE {}", config.database)).execute().await?;
    Ok(Report {
        rows,
        seconds,
        rows_per_second: rows as f64 / seconds,
        writer_cpu_seconds_per_million: cpu / rows as f64 * 1e6,
        bytes_on_disk,
        bytes_per_row: bytes_on_disk as f64 / rows as f64,
        largest_columns: columns
            .into_iter()
            .map(|(name, bytes)| (name, bytes as f64 / rows as f64))
            .collect(),
    })
}

fn cpu_seconds() -> f64 {
    // SAFETY: getrusage fills the structure that it is given.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Statements of pgbench's TPC-B script, redacted, with what an agent knows about them.
struct Kind {
    text: Arc<str>,
    summary: Arc<str>,
    operation: Arc<str>,
    collection: Arc<str>,
    fingerprint: Arc<str>,
    effects: Arc<[Effect]>,
    relations: Arc<[Relation]>,
    returned: Option<u64>,
    affected: Option<u64>,
    bytes: u64,
}

fn kind(text: &str, effect: Effect, collection: &str) -> Kind {
    let operation = text.split(' ').next().unwrap_or_default().trim_end_matches(';');
    let (reads, writes) = (effect == Effect::Read, matches!(effect, Effect::Update | Effect::Insert));
    let access = if reads { Access::Read } else { Access::Write };
    Kind {
        text: text.into(),
        summary: format!("{operation} {collection}").trim_end().into(),
        operation: operation.into(),
        collection: collection.into(),
        fingerprint: format!("{:016x}", crc32fast::hash(text.as_bytes())).into(),
        effects: [effect].into(),
        relations: if collection.is_empty() {
            [].into()
        } else {
            [Relation { name: collection.into(), access }].into()
        },
        returned: reads.then_some(1),
        affected: writes.then_some(1),
        bytes: text.len() as u64 + 9,
    }
}

/// Events of eight busy pgbench sessions.
pub struct Samples {
    kinds: Vec<Kind>,
    sessions: Vec<(u64, u16, usize)>,
    shared: Event,
    clock: u64,
    random: u64,
    number: u64,
}

impl Samples {
    /// Sessions begin at different places of the script.
    pub fn new() -> Self {
        let claim = |key: &str, value: &str, source: &str, confidence| Claim {
            key: key.into(),
            value: value.into(),
            source: source.into(),
            confidence,
        };
        Self {
            kinds: vec![
                kind("BEGIN;", Effect::Session, ""),
                kind(
                    "UPDATE pgbench_accounts SET abalance = abalance + ? WHERE aid = ?;",
                    Effect::Update,
                    "pgbench_accounts",
                ),
                kind(
                    "SELECT abalance FROM pgbench_accounts WHERE aid = ?;",
                    Effect::Read,
                    "pgbench_accounts",
                ),
                kind(
                    "UPDATE pgbench_tellers SET tbalance = tbalance + ? WHERE tid = ?;",
                    Effect::Update,
                    "pgbench_tellers",
                ),
                kind(
                    "UPDATE pgbench_branches SET bbalance = bbalance + ? WHERE bid = ?;",
                    Effect::Update,
                    "pgbench_branches",
                ),
                kind(
                    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP);",
                    Effect::Insert,
                    "pgbench_history",
                ),
                kind("END;", Effect::Session, ""),
            ],
            sessions: (0..8).map(|i| (0x4000_0000 + i * 17, 40_000 + i as u16 * 2, i as usize % 7)).collect(),
            shared: Event {
                agent_id: "bench".into(),
                host_name: "db-1".into(),
                db_system_name: "postgresql".into(),
                db_namespace: "bench".into(),
                db_user: "app".into(),
                db_application_name: "pgbench".into(),
                statement_complete: true,
                client_address: "127.0.0.1".into(),
                server_address: "127.0.0.1".into(),
                server_port: 5432,
                network_transport: "tcp".into(),
                process_pid: Some(4242),
                process_start_ns: Some(123_456_789_000),
                process_executable_path: "/usr/lib/postgresql/15/bin/pgbench".into(),
                process_command_line: "pgbench -c 8 -T 60 bench".into(),
                process_owner: "app".into(),
                process_auid: Some(1000),
                process_ancestry: ["bash(4000)".into(), "sshd(3990)".into(), "systemd(1)".into()].into(),
                identity_principal: "app".into(),
                identity_claims: [
                    claim("process_owner", "app", "kernel", 95),
                    claim("process_auid", "1000", "kernel", 95),
                    claim("process_executable_path", "/usr/lib/postgresql/15/bin/pgbench", "proc", 90),
                    claim("db_user", "app", "wire", 60),
                    claim("db_application_name", "pgbench", "wire", 20),
                ]
                .into(),
                capture_vantage: CaptureVantage::Client,
                ..Event::default()
            },
            clock: 1_795_262_400_000_000_000,
            random: 0x9e37_79b9_7f4a_7c15,
            number: 0,
        }
    }

    /// Xorshift: the same workload each time.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// The next statement.
    pub fn next_event(&mut self) -> Event {
        self.number += 1;
        self.clock += 5_000 + self.random(20_000);
        let at = self.random(8) as usize;
        let (duration, wait) = (40_000 + self.random(400_000), self.random(2_000));
        let (session_id, client_port, step) = self.sessions[at];
        self.sessions[at].2 = (step + 1) % self.kinds.len();
        let kind = &self.kinds[step];
        Event {
            // Completion gives the order, the request's first byte the time.
            time: self.clock - duration,
            session_id,
            client_port,
            db_query_text: Arc::clone(&kind.text),
            db_query_summary: Arc::clone(&kind.summary),
            db_operation_name: Arc::clone(&kind.operation),
            db_collection_name: Arc::clone(&kind.collection),
            db_query_fingerprint: Arc::clone(&kind.fingerprint),
            statement_effects: Arc::clone(&kind.effects),
            statement_relations: Arc::clone(&kind.relations),
            db_response_returned_rows: kind.returned,
            db_response_affected_rows: kind.affected,
            duration_ns: Some(duration),
            first_byte_ns: Some(duration - wait.saturating_sub(1_800)),
            capture_bytes: kind.bytes,
            ..self.shared.clone()
        }
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}
