//! pgbench -> transactions and how many a second.

use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// What one run of pgbench counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Transactions done.
    pub(super) transactions: u64,
    /// A second, without the time to connect.
    pub(super) tps: f64,
}

/// Runs pgbench to its end.
pub(super) fn run(pgbench: &mut Command) -> Result<Run> {
    let said = shell::output(pgbench)?;
    parse(&said).with_context(|| format!("pgbench counted nothing: {said}"))
}

fn parse(said: &str) -> Option<Run> {
    let after = |head: &str| said.lines().find_map(|l| l.strip_prefix(head));
    let transactions =
        after("number of transactions actually processed: ")?.split('/').next()?.trim().parse().ok()?;
    let tps = after("tps = ")?.split(' ').next()?.parse().ok()?;
    Some(Run { transactions, tps })
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_what_pgbench_counts() {
        let said = "number of transactions actually processed: 800/800\nlatency average = 0.1 ms\n\
                    tps = 22318.353 (without initial connection time)\n";
        let run = super::parse(said).unwrap();
        assert_eq!(run.transactions, 800);
        assert!((run.tps - 22_318.353).abs() < 1e-6);
    }
}
