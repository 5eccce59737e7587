-- One row for one event; every column is spelled as the event's field is.
--
-- Sized for the most common row, a short statement of a busy session: most of its columns repeat the row
-- before, so they cost next to nothing once compressed. What costs is what is random: 32 bytes of hash,
-- the duration, the time's low bits.
--
-- Codecs: columns without one of their own take ZSTD(1) from the table's settings: at this table's
-- repetition it packs about as well as higher levels, at several times LZ4's ratio, and inserts stay fast.
--
-- LowCardinality: strings that repeat are stored once in each part, and a row holds one byte that points
-- there; grouping and filtering then work on numbers. Statement text is among them because the default
-- redaction turns literals into placeholders: a workload has few texts. Where it has many (redaction none),
-- ClickHouse falls back to plain strings for the parts concerned.
--
-- Nullable only where null and 0 differ: rows, durations, process ids.
CREATE TABLE IF NOT EXISTS events
(
    -- The two halves of event_id, a UUIDv7. As numbers they compress by their differences (time and a
    -- counter grow steadily), which the 16 bytes of a UUID do not.
    event_id_high UInt64 CODEC(Delta(8), ZSTD(1)),
    event_id_low UInt64 CODEC(Delta(8), ZSTD(1)),
    event_id UUID ALIAS reinterpretAsUUID(concat(reinterpretAsFixedString(event_id_high), reinterpretAsFixedString(event_id_low))),
    -- Of the request's first byte, UTC. Neighbours differ by microseconds.
    time DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    event_kind Enum8('session' = 1, 'statement' = 2, 'decision' = 3, 'approval' = 4, 'loss' = 5, 'blind' = 6, 'config' = 7),
    agent_id LowCardinality(String),
    host_name LowCardinality(String),
    -- Few sessions are active within a few thousand rows: ZSTD finds the whole number again.
    session_id UInt64,
    db_system_name LowCardinality(String),
    db_namespace LowCardinality(String),
    db_user LowCardinality(String),
    db_application_name LowCardinality(String),
    db_query_text LowCardinality(String),
    batch_id String,
    batch_index UInt32,
    db_query_summary LowCardinality(String),
    db_operation_name LowCardinality(String),
    db_collection_name LowCardinality(String),
    db_query_fingerprint LowCardinality(String),
    db_query_parameters Array(LowCardinality(String)),
    statement_effects Array(Enum8('read' = 1, 'insert' = 2, 'update' = 3, 'delete' = 4, 'truncate' = 5, 'create' = 6, 'alter' = 7, 'drop' = 8, 'grant' = 9, 'revoke' = 10, 'copy_in' = 11, 'copy_out' = 12, 'call' = 13, 'execute' = 14, 'lock' = 15, 'session' = 16, 'admin' = 17, 'file' = 18, 'program' = 19, 'replicate' = 20)),
    statement_relations Array(Tuple(name LowCardinality(String), access Enum8('read' = 1, 'write' = 2))),
    statement_unbounded Bool,
    statement_complete Bool,
    data_classes Array(Tuple(class LowCardinality(String), column LowCardinality(String))),
    db_response_status_code LowCardinality(String),
    error_type LowCardinality(String),
    -- T64 drops the bits that no row of a block uses, before ZSTD.
    db_response_returned_rows Nullable(UInt64) CODEC(T64, ZSTD(1)),
    db_response_affected_rows Nullable(UInt64) CODEC(T64, ZSTD(1)),
    duration_ns Nullable(UInt64) CODEC(T64, ZSTD(1)),
    first_byte_ns Nullable(UInt64) CODEC(T64, ZSTD(1)),
    client_address LowCardinality(String),
    client_port UInt16,
    server_address LowCardinality(String),
    server_port UInt16,
    network_transport LowCardinality(String),
    network_tls Bool,
    process_pid Nullable(UInt32),
    process_start_ns Nullable(UInt64),
    process_executable_path LowCardinality(String),
    process_command_line LowCardinality(String),
    process_owner LowCardinality(String),
    process_auid Nullable(UInt32),
    process_ancestry Array(LowCardinality(String)),
    container_id LowCardinality(String),
    container_runtime LowCardinality(String),
    k8s_namespace_name LowCardinality(String),
    k8s_pod_name LowCardinality(String),
    k8s_pod_uid LowCardinality(String),
    k8s_workload_kind LowCardinality(String),
    k8s_workload_name LowCardinality(String),
    k8s_service_account_name LowCardinality(String),
    ai_agent_name LowCardinality(String),
    identity_principal LowCardinality(String),
    -- Every row of a session carries the same half dozen claims: one shared text instead of four arrays.
    identity_evidence LowCardinality(String),
    identity_claims Array(Tuple(key String, value String, source String, confidence UInt8)) ALIAS JSONExtract(toString(identity_evidence), 'Array(Tuple(key String, value String, source String, confidence UInt8))'),
    identity_conflict Bool,
    -- One for each trace: as good as unique, so no dictionary.
    trace_id String,
    span_id String,
    policy_rule LowCardinality(String),
    policy_version LowCardinality(String),
    policy_mode LowCardinality(String),
    disposition Enum8('allowed' = 1, 'alerted' = 2, 'held' = 3, 'approved' = 4, 'denied' = 5, 'blocked' = 6, 'killed' = 7, 'masked' = 8),
    approval_id String,
    approval_state LowCardinality(String),
    approval_actor LowCardinality(String),
    capture_source Enum8('packet' = 1, 'tls' = 2, 'unix' = 3, 'pcap' = 4),
    capture_vantage Enum8('client' = 1, 'server' = 2),
    capture_truncated Bool,
    capture_lost_before UInt64 CODEC(T64, ZSTD(1)),
    capture_bytes UInt64 CODEC(T64, ZSTD(1)),
    -- Grows by one: nothing remains of it.
    sequence UInt64 CODEC(Delta(8), ZSTD(1)),
    -- previous_hash and hash side by side. A hash does not compress, but the row before ends with the bytes
    -- that this one begins with, so ZSTD stores a reference: 35 bytes instead of 64.
    chain FixedString(64),
    previous_hash String ALIAS lower(hex(substring(chain, 1, 32))),
    hash String ALIAS lower(hex(substring(chain, 33, 32))),
    -- When the row was stored. Retention counts from here, so that a capture of years ago can be replayed.
    stored_at DateTime('UTC') DEFAULT now() CODEC(Delta(4), ZSTD(1)),

    -- Granules (8192 rows) that cannot hold what is looked for are skipped.
    INDEX time_range time TYPE minmax GRANULARITY 1,
    INDEX sequence_range sequence TYPE minmax GRANULARITY 1,
    INDEX session_set session_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX fingerprint_set db_query_fingerprint TYPE set(256) GRANULARITY 4,
    INDEX principal_set identity_principal TYPE set(256) GRANULARITY 4,
    INDEX trace_set trace_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = MergeTree
-- A day is what retention drops, without rewriting anything.
PARTITION BY toDate(time)
-- By minute, because every dashboard asks for a span of time; within it by agent and sequence, because
-- that makes neighbours of the receipts whose hashes repeat each other, and lets `weir verify` read a chain
-- in order.
ORDER BY (toStartOfMinute(time), agent_id, sequence)
TTL stored_at + INTERVAL 90 DAY DELETE
SETTINGS
    default_compression_codec = 'ZSTD(1)',
    -- Parts expire as a whole.
    ttl_only_drop_parts = 1,
    -- A batch that is sent again within the last 10,000 inserts is recognised by its token and dropped.
    non_replicated_deduplication_window = 10000,
    -- A batch is written as one file, a merged part as a file for each column.
    min_bytes_for_wide_part = 536870912,
    min_rows_for_wide_part = 0;
