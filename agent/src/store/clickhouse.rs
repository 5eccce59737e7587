//! The `clickhouse` crate as the writer uses it: one client, one insert of a spooled batch, errors by kind.

use std::time::Duration;

use agent_core::receipt::{Chain, Hash};
use bytes::Bytes;
use clickhouse::error::Error;
use clickhouse::{Client, Compression};

use super::Config;
use super::row::Row;
use super::spool::Batch;

/// Longest silence while data is sent, and while the server commits.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_mins(2);

/// A client as the configuration says.
pub fn client(config: &Config) -> Client {
    let mut client = Client::default()
        .with_url(&config.url)
        .with_database(&config.database)
        .with_product_info("weir", env!("CARGO_PKG_VERSION"))
        // Over the loopback interface compression costs more than it saves.
        .with_compression(if is_local(&config.url) { Compression::None } else { Compression::Lz4 });
    if !config.user.is_empty() {
        client = client.with_user(&config.user);
    }
    if !config.password.0.is_empty() {
        client = client.with_password(&config.password.0);
    }
    client
}

fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

/// Sends one batch as one insert. The token makes ClickHouse drop it, with what its materialized views would
/// make of it, where it has been stored before.
pub(super) async fn insert(client: &Client, batch: &Batch, blocks: Vec<Bytes>) -> Result<(), Error> {
    send(client, &batch.target, &batch.token, blocks).await
}

/// Stores one row of another table, once for each token.
pub(super) async fn insert_row(client: &Client, row: &Row, token: &str) -> Result<(), Error> {
    send(client, &row.target, token, vec![Bytes::copy_from_slice(&row.block)]).await
}

async fn send(client: &Client, target: &str, token: &str, blocks: Vec<Bytes>) -> Result<(), Error> {
    let sql = format!("INSERT INTO {target} FORMAT Native");
    let mut insert = client
        .insert_formatted_with(sql)
        .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT))
        .with_setting("insert_deduplicate", "1")
        .with_setting("insert_deduplication_token", token)
        .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
        // The batch becomes one block, so that it is stored whole or not at all.
        .with_setting("async_insert", "0")
        .with_setting("min_insert_block_size_rows", "10000000")
        .with_setting("min_insert_block_size_bytes", "0")
        // A replayed capture may span more days than a live agent ever does.
        .with_setting("max_partitions_per_insert_block", "0");
    for block in blocks {
        insert.send(block).await?;
    }
    insert.end().await
}

/// The chain of this agent as ClickHouse knows it; empty where it knows none.
pub(super) async fn chain(config: &Config) -> Result<Chain, Error> {
    let head = async {
        let found: Option<(u64, String)> = client(config)
            .query("SELECT sequence, hash FROM events WHERE agent_id = ? ORDER BY sequence DESC LIMIT 1")
            .bind(&config.agent_id)
            .fetch_optional()
            .await?;
        Ok(found
            .and_then(|(sequence, hash)| Some(Chain { sequence, head: unhex(&hash)? }))
            .unwrap_or_default())
    };
    match tokio::time::timeout(Duration::from_secs(5), head).await {
        Ok(Err(error)) if meaning(&error) == Meaning::Schema => Ok(Chain::default()),
        Ok(result) => result,
        Err(_) => Err(Error::TimedOut),
    }
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// What an error means for the batch that met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// ClickHouse is away or busy: the same again soon.
    Retry,
    /// The tables are not there: apply the schema, then again.
    Schema,
    /// Only its operator can help: said clearly, tried again now and then.
    Operator(&'static str),
}

/// Sorts an error by its type and ClickHouse's own code.
pub(super) fn meaning(error: &Error) -> Meaning {
    match error {
        Error::BadResponse(text) => match code(text) {
            // UNKNOWN_TABLE, UNKNOWN_DATABASE, NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER.
            Some(60 | 81 | 16 | 47) => Meaning::Schema,
            // AUTHENTICATION_FAILED, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD.
            Some(516 | 192 | 193 | 194) => {
                Meaning::Operator("user or password is wrong: see store.user, store.password_file")
            }
            Some(497) => {
                Meaning::Operator("the user may not write there: GRANT it INSERT, SELECT and CREATE")
            }
            Some(164 | 291) => Meaning::Operator("the server or the user is read-only"),
            // NOT_ENOUGH_SPACE, CANNOT_WRITE_TO_FILE_DESCRIPTOR.
            Some(243 | 75) => Meaning::Operator("the server's disk is full"),
            // CANNOT_PARSE..., TYPE_MISMATCH, INCORRECT_DATA, SYNTAX_ERROR, UNKNOWN_SETTING.
            Some(6 | 26 | 27 | 33 | 53 | 117 | 62 | 115) => {
                Meaning::Operator("the server does not take the batch: is it older than ClickHouse 24.8?")
            }
            _ => Meaning::Retry,
        },
        Error::InvalidParams(_) | Error::Unsupported(_) | Error::SchemaMismatch(_) => {
            Meaning::Operator("store.url is not a ClickHouse address")
        }
        _ => Meaning::Retry,
    }
}

fn code(text: &str) -> Option<u32> {
    let at = text.find("Code: ")?;
    let digits: String = text[at + 6..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_code() {
        let of = |text: &str| meaning(&Error::BadResponse(text.into()));
        assert_eq!(of("Code: 252. DB::Exception: Too many parts (TOO_MANY_PARTS)"), Meaning::Retry);
        assert_eq!(of("Code: 60. DB::Exception: Table weir.events does not exist"), Meaning::Schema);
        assert!(matches!(of("Code: 516. DB::Exception: x"), Meaning::Operator(_)));
        assert_eq!(of("502 Bad Gateway"), Meaning::Retry);
        assert_eq!(meaning(&Error::TimedOut), Meaning::Retry);
        assert_eq!(meaning(&Error::Network("refused".into())), Meaning::Retry);
    }

    #[test]
    fn loopback_is_not_compressed() {
        assert!(
            is_local("http://127.0.0.1:8123") && is_local("http://[::1]:1") && is_local("localhost:8123")
        );
        assert!(!is_local("https://clickhouse:8443"));
    }
}
