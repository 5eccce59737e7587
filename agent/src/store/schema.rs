//! Numbered SQL files -> a database that has every table, each file applied once and recorded.

use clickhouse::Client;
use clickhouse::error::Result;

/// A numbered file of statements.
struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal)*) => {
        &[$(Migration { version: $version, name: $name, sql: include_str!(concat!("schema/", $name, ".sql")) }),*]
    };
}

/// Every file, in order. A published one is never changed: what it should have said goes into the next.
static MIGRATIONS: &[Migration] = migrations! {
    1 "0001_events"
    2 "0002_statements_per_minute"
    3 "0003_proofs"
};

/// What only makes things cheaper, tried once: a ClickHouse that does not know a setting goes on without it.
///
/// Merging is most of what a row costs. With a base of 10 in place of 5 a merge takes more parts at once, so a row is
/// written again half as often: 5.4 microseconds of CPU a row in place of 8.5, over 30 inserts of 14,000 rows.
static TUNING: &[&str] = &["ALTER TABLE events MODIFY SETTING merge_selector_base = 10"];

/// The version that this agent writes.
pub fn version() -> u32 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

/// Brings a database to [`version`]. Several agents may do so at once: every statement can be repeated.
///
/// A database that is ahead (a newer agent was here) is left as it is: new versions only add.
pub async fn apply(client: &Client, database: &str) -> Result<()> {
    let root = client.clone().with_database("default");
    root.query("CREATE DATABASE IF NOT EXISTS ?")
        .bind(clickhouse::sql::Identifier(database))
        .execute()
        .await?;
    client
        .query(
            "CREATE TABLE IF NOT EXISTS schema_versions \
             (version UInt32, name String, agent_version String, applied_at DateTime('UTC') DEFAULT now()) \
             ENGINE = ReplacingMergeTree(applied_at) ORDER BY version",
        )
        .execute()
        .await?;
    let known: Vec<u32> = client.query("SELECT DISTINCT version FROM schema_versions").fetch_all().await?;
    let new = known.is_empty();
    for migration in MIGRATIONS.iter().filter(|m| !known.contains(&m.version)) {
        for statement in statements(migration.sql) {
            // A question mark in the file is not a placeholder.
            client.query(&statement.replace('?', "??")).execute().await?;
        }
        client
            .query("INSERT INTO schema_versions (version, name, agent_version) VALUES (?, ?, ?)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(env!("CARGO_PKG_VERSION"))
            .execute()
            .await?;
        tracing::info!(version = migration.version, name = migration.name, "schema applied");
    }
    for statement in TUNING.iter().filter(|_| new) {
        if let Err(error) = client.query(statement).execute().await {
            tracing::debug!(%error, statement, "not tuned");
        }
    }
    Ok(())
}

/// The statements of a file: each ends with a semicolon at the end of its line.
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split_inclusive(";\n")
        .map(|s| s.trim_end().trim_end_matches(';'))
        .filter(|s| s.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("--")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbered_as_their_files() {
        for (i, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, i + 1);
            assert!(migration.name.starts_with(&format!("{:04}_", i + 1)), "{}", migration.name);
        }
    }

    #[test]
    fn files_are_cut_into_statements() {
        let all: Vec<_> = MIGRATIONS.iter().flat_map(|m| statements(m.sql)).collect();
        assert_eq!(all.len(), 8);
        let repeatable = |s: &str| s.contains("IF NOT EXISTS ") || s.contains(" MODIFY TTL ");
        assert!(all.iter().all(|s| repeatable(s) && !s.ends_with(';')));
    }
}
