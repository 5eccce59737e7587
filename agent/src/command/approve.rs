//! `weir pending`, `weir approve`, `weir deny`: somebody decides about a held statement.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use agent_core::event::parse_rfc3339;

use crate::approve::{Client, View};
use crate::show::Format;
use crate::show::grid::{cell, grid};

/// Where the agent is asked.
#[derive(clap::Args)]
pub(super) struct Socket {
    /// The agent's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/weir/weir.sock", env = "WEIR_LISTEN_CONTROL")]
    socket: PathBuf,
}

impl Socket {
    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// List the held statements that wait for approval and that you may decide about.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir pending                            as a table, oldest first
  weir pending --format jsonl | jq -r .approval_id
  weir pending --socket /run/weir/weir.sock

Root sees all; others see what asks for a group that they are in. Texts are shown as `redaction` allows.")]
pub struct Pending {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

/// Let a held statement go on.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir approve 019aa8f2-6c1e              the beginning of the id is enough where it is the only one
  weir approve 019aa8f2-6c1e --reason 'ticket 4711'
  weir approve 019aa8f2-6c1e --digest 9f86d0...   only if these are the bytes that are held

An approval is for the exact bytes that are held. You must be root or in one of the rule's groups, and it must not be
your own statement. Exit status 1: refused, and why.")]
pub struct Approve {
    #[command(flatten)]
    decision: Decision,
}

/// Refuse a held statement: its client gets an error.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir deny 019aa8f2-6c1e
  weir deny 019aa8f2-6c1e --reason 'use the archive job'

You must be root or in one of the rule's groups. Exit status 1: refused, and why.")]
pub struct Deny {
    #[command(flatten)]
    decision: Decision,
}

#[derive(clap::Args)]
struct Decision {
    /// The request, by its id or the beginning of it (8 characters or more)
    #[arg(value_name = "ID")]
    id: String,
    /// Why; it stands on the receipt
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// SHA-256 of the bytes that you mean, as `weir pending --format jsonl` has it
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    #[command(flatten)]
    socket: Socket,
}

impl Decision {
    fn make(self, approve: bool) -> anyhow::Result<ExitCode> {
        let view = self.socket.client().decide(&self.id, approve, self.digest, self.reason)?;
        let done = if approve { "approved" } else { "denied" };
        println!(
            "{done} {}: {} on {}, rule {}: {}",
            view.approval_id,
            cell(&view.who()),
            cell(&view.where_to()),
            cell(&view.policy_rule),
            cell(&view.db_query_text)
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl Approve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.decision.make(true)
    }
}

impl Deny {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.decision.make(false)
    }
}

impl Pending {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (views, actor) = self.socket.client().pending()?;
        if views.is_empty() {
            eprintln!("weir: nothing waits for {actor}");
            return Ok(ExitCode::SUCCESS);
        }
        let text = match self.format {
            Format::Jsonl => {
                let lines = views.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
                lines.join("\n") + "\n"
            }
            Format::Table => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                table(&views, now)
            }
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            // `weir pending | head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One line for each, oldest first.
fn table(views: &[View], now: Duration) -> String {
    let heads = ["ID", "WAITS", "LEFT", "RULE", "WHO", "DATABASE", "STATEMENT"].map(str::to_owned);
    let row = |view: &View| {
        let time = |text: &str| Duration::from_nanos(parse_rfc3339(text).unwrap_or_default());
        vec![
            cell(&view.approval_id),
            span(now.saturating_sub(time(&view.time))),
            span(time(&view.expires).saturating_sub(now)),
            cell(&view.policy_rule),
            cell(&view.who()),
            cell(&view.where_to()),
            cell(&view.db_query_text),
        ]
    };
    let rows: Vec<_> = views.iter().map(row).collect();
    grid(&heads, &rows, &[false, true, true])
}

/// A time span in its two largest units: `29m41s`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_whatever_it_says() {
        let view = View {
            approval_id: "019aa8f2-6c1e-7000-8000-000000000001".into(),
            time: "1970-01-01T00:00:00.000000000Z".into(),
            expires: "1970-01-01T00:30:00.000000000Z".into(),
            policy_rule: "no-drop".into(),
            db_user: "app".into(),
            db_system_name: "postgresql".into(),
            db_namespace: "shop".into(),
            db_query_text: "DROP\nTABLE \u{1b}[2Jt".into(),
            ..View::default()
        };
        assert_eq!(
            table(&[view], Duration::from_secs(61)),
            "ID                                    WAITS    LEFT  RULE     WHO  DATABASE         STATEMENT\n\
             019aa8f2-6c1e-7000-8000-000000000001  1m01s  28m59s  no-drop  app  postgresql/shop  \
             DROP\\nTABLE \\u{1b}[2Jt\n"
        );
        assert_eq!(span(Duration::from_secs(90_061)), "1d01h");
        assert_eq!(span(Duration::from_secs(3_661)), "1h01m");
    }
}
