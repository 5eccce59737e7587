//! `weir verify`: checks the receipt chain, from ClickHouse or from a file, against what is signed about it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agent_core::receipt::{KeyId, Proofs};
use anyhow::Context;
use serde_json::json;

use super::database::Database;
use crate::audit::{self, Known, Report, bundle};

/// Check the receipt chain: whole, or the first receipt that was changed, removed, inserted, reordered or cut off.
///
/// Receipts are checked agent by agent, against the checkpoints that the agent has signed, its keys against each other.
/// What retention has removed is told by the stubs that it left. Whoever can write to the store can write all of it
/// anew, with a key of his own: that is found with `--anchor` or `--key`, which come from elsewhere.
/// Exit status 0: every chain is whole. 1: one is not, or it cannot be read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir verify --url http://127.0.0.1:8123
  weir verify --url http://127.0.0.1:8123 --anchor /mnt/worm/weir-anchor.jsonl
  weir verify --key 0f3c...                        the agent's first key, as `weir key show` printed it
  weir verify events.jsonl                         events of `weir run` as JSON lines
  weir verify events.jsonl --from 5001             ... of which the file holds a part
  weir verify evidence.tar                         a bundle of `weir report evidence`, packed or not")]
pub struct Args {
    /// Events as JSON lines, or an evidence bundle: a directory or a tar file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    database: Database,
    /// Keys and checkpoints that were told outside of the store (`anchor.file` of the agent)
    #[arg(long, value_name = "FILE")]
    anchor: Vec<PathBuf>,
    /// Key that is known to be genuine: then each agent's first key must be one of these
    #[arg(long, value_name = "KEY_ID")]
    key: Vec<KeyId>,
    /// First receipt of a file that holds a part of a chain
    #[arg(long, value_name = "SEQUENCE", requires = "file")]
    from: Option<u64>,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Sentences for people.
    #[default]
    Text,
    /// One JSON object for each agent.
    Jsonl,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut known = Known { keys: self.key.clone(), ..Known::default() };
        for path in &self.anchor {
            known.read_anchor(path)?;
        }
        if let Some(from) = self.from {
            known.from.insert(Arc::from(""), from);
        }
        let report = if let Some(path) = self.file.as_ref().filter(|path| bundle::is_bundle(path)) {
            let (manifest, report) = bundle::audit(path, &known)?;
            if self.format == Format::Text && report.is_whole() {
                println!("whole: {} files of the bundle made at {}", manifest.files.len(), manifest.made_at);
            }
            report
        } else if let Some(path) = &self.file {
            audit::lines(path, Proofs::default(), &known)?
        } else {
            let client = self.database.client()?;
            tokio::runtime::Runtime::new()?
                .block_on(audit::clickhouse(&client, &known))
                .with_context(|| format!("cannot read the receipts from {}", self.database.url))?
        };
        print(&report, self.format);
        Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(report: &Report, format: Format) {
    match format {
        Format::Text => {
            report.suspects.iter().for_each(|suspect| println!("broken: {suspect}"));
            // What is wrong comes first.
            let (broken, whole): (Vec<_>, Vec<_>) = report.chains.iter().partition(|chain| chain.faults > 0);
            broken.into_iter().chain(whole).for_each(|chain| println!("{chain}"));
            let (count, agents) = (report.count(), report.chains.len());
            if report.is_whole() {
                println!("whole: {count} receipts of {agents} agents");
            }
        }
        Format::Jsonl => {
            for suspect in &report.suspects {
                let (agent, what) = (&suspect.agent_id, suspect.to_string());
                println!("{}", json!({ "agent_id": agent, "whole": false, "fault": what }));
            }
            for chain in &report.chains {
                println!(
                    "{}",
                    json!({
                        "agent_id": chain.agent_id,
                        "whole": chain.faults == 0,
                        "receipts": chain.count,
                        "first_sequence": chain.range.0,
                        "last_sequence": chain.range.1,
                        "signed_sequence": chain.signed,
                        "key_id": chain.key_id,
                        "checkpoints": chain.checkpoints,
                        "stubs": chain.stubs,
                        "faults": chain.faults,
                        "fault": chain.broken.map(|broken| broken.fault.to_string()),
                        "fault_sequence": chain.broken.map(|broken| broken.sequence),
                    })
                );
            }
        }
    }
}
