-- What is signed about the receipt chains, and the texts of the policies that receipts name.
--
-- Hashes, keys and signatures are text, lowercase hexadecimal, as JSON has them: there are few of them, and whoever
-- looks can compare them with an anchor by eye. A row may be here twice where an agent published it again at its start.

-- Public keys. Each but an agent's first is signed by the one before.
CREATE TABLE IF NOT EXISTS signing_keys
(
    agent_id LowCardinality(String),
    key_id String,
    public_key String,
    -- The first receipt that it vouches for.
    from_sequence UInt64,
    time DateTime64(9, 'UTC'),
    previous_key_id String,
    signature String
)
ENGINE = MergeTree
ORDER BY (agent_id, from_sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- How far a chain had come: what is missing after its last receipt is found here.
CREATE TABLE IF NOT EXISTS checkpoints
(
    agent_id LowCardinality(String),
    -- The last receipt, its hash, and how many receipts there are since the checkpoint before.
    sequence UInt64 CODEC(Delta(8), ZSTD(1)),
    head String,
    time DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    count UInt64,
    key_id LowCardinality(String),
    signature String
)
ENGINE = MergeTree
ORDER BY (agent_id, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- What is left of receipts that retention has removed: the rest of their chain still verifies.
CREATE TABLE IF NOT EXISTS stubs
(
    agent_id LowCardinality(String),
    first_sequence UInt64,
    last_sequence UInt64,
    count UInt64,
    previous_hash String,
    first_hash String,
    last_hash String,
    time DateTime64(9, 'UTC'),
    policy String,
    removed_by LowCardinality(String),
    key_id LowCardinality(String),
    signature String
)
ENGINE = MergeTree
ORDER BY (agent_id, first_sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- The text behind policy_rule and policy_version of a receipt, at each time that an agent put it in force.
CREATE TABLE IF NOT EXISTS policies
(
    agent_id LowCardinality(String),
    policy_rule LowCardinality(String),
    policy_version String,
    text String CODEC(ZSTD(3)),
    file String,
    time DateTime64(9, 'UTC')
)
ENGINE = MergeTree
ORDER BY (policy_rule, policy_version, time)
SETTINGS non_replicated_deduplication_window = 10000;

-- Receipts go when an agent has left a stub for them, a day at a time; expiry by ClickHouse leaves no stub, and a
-- chain without its beginning cannot be told from one that was beheaded. So it only ends what no agent looks after.
ALTER TABLE events MODIFY TTL stored_at + INTERVAL 10 YEAR DELETE;
