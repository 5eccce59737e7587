//! `weir report`: questions about the receipts, answered by ClickHouse, and an evidence bundle.

mod evidence; // a period -> files that can be verified elsewhere
mod query; // conditions with bound values -> rows -> table, JSON lines, CSV
mod questions; // the questions: what is asked of the table

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::database::Database;

/// Ask the receipts: who, what, which sensitive data left, who has access to what; and evidence for an auditor.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir report who --relation public.customers --since 7d
  weir report who --like \"delete from orders where id = 1\"
  weir report what --principal alice --format jsonl
  weir report export --since 2026-11-01 --until 2026-12-01 --format csv
  weir report access-review --namespace shop
  weir report evidence --since 90d --out evidence.tar && weir verify evidence.tar")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Who ran statements like this: by text, by fingerprint, or on a relation
    #[command(after_help = "Examples:
  weir report who --text 'drop table*' --since 24h
  weir report who --fingerprint 5f0c1c7de2a91b34
  weir report who --like \"select * from customers where id = 7\"    literals do not matter
  weir report who --relation customers --format csv                in any schema")]
    Who(questions::Who),
    /// What somebody touched: relations, how, how often, how many rows
    #[command(after_help = "Examples:
  weir report what --principal alice
  weir report what --db-user app --process psql --since 7d
  weir report what --ai-agent '*'")]
    What(questions::What),
    /// Which sensitive data was read, and by whom: classes and columns with rows
    #[command(after_help = "Examples:
  weir report export --since 30d
  weir report export --class card --format jsonl

request_bytes is the size of the requests: an event does not hold the size of the answer, only its rows.")]
    Export(questions::Export),
    /// Who has used which access to what: principals, relations and effects with first, last and count
    #[command(after_help = "Examples:
  weir report access-review --since 90d --format csv > review.csv
  weir report access-review --namespace shop --relation 'public.*'")]
    AccessReview(questions::AccessReview),
    /// Receipts, policies, keys and checkpoints of a period, with their hashes, as a directory or a tar file
    #[command(after_help = "Examples:
  weir report evidence --since 2026-07-01 --until 2026-10-01 --out q3
  weir report evidence --since 90d --out evidence.tar && weir verify evidence.tar

README.md in the bundle says which file answers which control of SOC 2, PCI DSS, HIPAA and FedRAMP.")]
    Evidence(evidence::Args),
}

/// What every question takes.
#[derive(clap::Args, Clone, Debug)]
struct Common {
    #[command(flatten)]
    database: Database,
    /// Not before: a time (2026-11-01, 2026-11-01T08:00:00Z) or so long ago (90m, 24h, 7d)
    #[arg(long, value_name = "TIME", value_parser = query::moment)]
    since: Option<u64>,
    /// Before: a time or so long ago
    #[arg(long, value_name = "TIME", value_parser = query::moment)]
    until: Option<u64>,
    /// Only this database of the observed servers (`db_namespace`)
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only this kind of database (`db_system_name`)
    #[arg(long, value_name = "NAME")]
    system: Option<String>,
    /// Only this agent's receipts
    #[arg(long, value_name = "AGENT_ID")]
    agent: Option<String>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    format: query::Format,
    /// Most rows
    #[arg(long, default_value_t = 1_000)]
    limit: u64,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            match self.what {
                What::Who(args) => args.run().await,
                What::What(args) => args.run().await,
                What::Export(args) => args.run().await,
                What::AccessReview(args) => args.run().await,
                What::Evidence(args) => args.run().await,
            }
        })
    }
}

/// A path that nothing stands at yet.
fn fresh(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!path.exists(), "{} is there already; choose another --out", path.display());
    Ok(())
}
