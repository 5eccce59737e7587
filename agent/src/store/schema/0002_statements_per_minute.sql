-- How many statements, how many failed, what they moved and how long they took, for each minute and who and
-- what: kept for two years in a few bytes where the events themselves are kept for 90 days.
CREATE TABLE IF NOT EXISTS statements_per_minute
(
    minute DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    agent_id LowCardinality(String),
    host_name LowCardinality(String),
    db_system_name LowCardinality(String),
    db_namespace LowCardinality(String),
    db_user LowCardinality(String),
    identity_principal LowCardinality(String),
    db_operation_name LowCardinality(String),
    statements UInt64 CODEC(T64, ZSTD(1)),
    errors UInt64 CODEC(T64, ZSTD(1)),
    unbounded UInt64 CODEC(T64, ZSTD(1)),
    returned_rows UInt64 CODEC(T64, ZSTD(1)),
    affected_rows UInt64 CODEC(T64, ZSTD(1)),
    duration_ns UInt64 CODEC(T64, ZSTD(1))
)
-- Adds up the rows of equal keys when parts merge: read it with sum() and GROUP BY.
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, agent_id, host_name, db_system_name, db_namespace, db_user, identity_principal, db_operation_name)
TTL minute + INTERVAL 2 YEAR DELETE
SETTINGS default_compression_codec = 'ZSTD(1)', ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS statements_per_minute_view TO statements_per_minute AS
SELECT
    toDateTime(toStartOfMinute(time), 'UTC') AS minute,
    agent_id,
    host_name,
    db_system_name,
    db_namespace,
    db_user,
    identity_principal,
    db_operation_name,
    count() AS statements,
    countIf(db_response_status_code != '') AS errors,
    countIf(statement_unbounded) AS unbounded,
    sum(ifNull(db_response_returned_rows, 0)) AS returned_rows,
    sum(ifNull(db_response_affected_rows, 0)) AS affected_rows,
    sum(ifNull(events.duration_ns, 0)) AS duration_ns
FROM events
WHERE event_kind = 'statement'
GROUP BY minute, agent_id, host_name, db_system_name, db_namespace, db_user, identity_principal, db_operation_name;
