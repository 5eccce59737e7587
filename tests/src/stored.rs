//! A query -> its answer, once the agent has stored what it asks for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use xtask::clickhouse::ClickHouse;

/// Waits until a query answers a number that is enough.
pub fn wait_for(clickhouse: &ClickHouse, sql: &str, enough: impl Fn(u64) -> bool) -> Result<u64> {
    let began = Instant::now();
    loop {
        // The tables are made with the first batch.
        let now = clickhouse.number(sql);
        if let Ok(now) = now
            && enough(now)
        {
            return Ok(now);
        }
        if began.elapsed() > Duration::from_mins(3) {
            bail!("not within three minutes: {sql}: {now:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
