//! `weir doctor`: what this host supports and what stays blind, with cause and cure.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

mod kernel; // kernel features -> findings
mod host; // rights, mounts, libraries -> findings
mod paths; // Unix sockets, poolers -> findings
mod blind; // what runs here and is not seen -> findings
mod connections; // connections to databases that cannot be read -> findings
mod lanes; // connections to databases -> how the gate can have them
mod fionread; // what a socket in the gate tells its process

use super::values::PortHint;

/// Say what this host supports and what stays blind.
///
/// Each line is a capability: whether it is there, since which kernel it exists, and where it is missing, why, what
/// helps and what weir does not see without it. Exit status 0 when the agent can run, 1 when something required is
/// missing. Run it as the agent runs: as root, in the same container.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sudo weir doctor\n  sudo weir doctor --format json | jq 'select(.status != \"ok\")'"
)]
pub struct Args {
    /// `table` for people, `json` for programs: one object a line.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// What a server port speaks, beside the usual ones: connections there are looked at too
    #[arg(long, value_name = "N=PROTOCOL")]
    port: Vec<PortHint>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Whether a capability is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// It is.
    Ok,
    /// It is not.
    Missing,
    /// Something here is out of sight.
    Blind,
    /// It could not be found out.
    Unknown,
}

/// Whether the agent runs without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Need {
    /// No.
    Required,
    /// Yes, and sees or does less.
    Optional,
}

/// A capability that weir uses: one row of the table below.
struct Capability {
    name: &'static str,
    need: Need,
    /// The first kernel that has it; empty where it does not hang on the kernel.
    since: &'static str,
    /// What helps where it is missing.
    cure: &'static str,
    /// What is not seen or done without it.
    blind: &'static str,
    probe: fn() -> Answer,
}

/// What a probe found: `Ok` with a detail worth showing, else why not.
struct Answer {
    status: Status,
    detail: String,
}

impl Answer {
    fn ok(detail: impl Into<String>) -> Self {
        Self { status: Status::Ok, detail: detail.into() }
    }
    fn missing(cause: impl Into<String>) -> Self {
        Self { status: Status::Missing, detail: cause.into() }
    }
    fn blind(cause: impl Into<String>) -> Self {
        Self { status: Status::Blind, detail: cause.into() }
    }
    fn unknown(cause: impl Into<String>) -> Self {
        Self { status: Status::Unknown, detail: cause.into() }
    }
}

/// A capability and what was found of it.
#[derive(serde::Serialize)]
struct Finding {
    name: &'static str,
    status: Status,
    need: Need,
    /// First kernel that has it; empty where it does not hang on the kernel.
    since: &'static str,
    /// What was found, or the cause.
    detail: String,
    /// Empty where nothing is amiss.
    cure: &'static str,
    /// Empty where nothing is amiss.
    blind: &'static str,
    /// Of connections to one server: how the gate can have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<lanes::Lane>,
}

impl Capability {
    fn examine(&self) -> Finding {
        let Answer { status, detail } = (self.probe)();
        // Where the kernel is too old for it, say so: no other cure helps.
        let old = status != Status::Ok && kernel::older_than(self.since);
        let detail = if old { format!("{detail} (needs Linux {})", self.since) } else { detail };
        let (cure, blind) = if status == Status::Ok { ("", "") } else { (self.cure, self.blind) };
        Finding {
            name: self.name,
            status,
            need: self.need,
            since: self.since,
            detail,
            cure,
            blind,
            lane: None,
        }
    }
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let tables = [kernel::CAPABILITIES, host::CAPABILITIES, paths::CAPABILITIES, blind::CAPABILITIES];
        let mut findings: Vec<Finding> = tables.into_iter().flatten().map(Capability::examine).collect();
        let ports = self.port.iter().map(|hint| (hint.port, hint.protocol)).collect();
        findings.extend(connections::examine(&ports));
        findings.extend(lanes::examine(&ports));
        let mut out = std::io::stdout().lock();
        let text = match self.format {
            Format::Json => {
                let lines =
                    findings.iter().map(|finding| serde_json::to_string(finding).map(|line| line + "\n"));
                lines.collect::<Result<String, _>>()?
            }
            Format::Table => {
                let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
                table(&findings, colour)
            }
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // `weir doctor | head` has read what it wanted.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written?,
        }
        Ok(if runs(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Whether the agent can run: nothing required is missing.
fn runs(findings: &[Finding]) -> bool {
    !findings.iter().any(|f| f.need == Need::Required && f.status == Status::Missing)
}

/// The findings for people: one line each, and under those that are amiss what helps and what is not seen.
fn table(findings: &[Finding], colour: bool) -> String {
    const WIDTH: usize = 100;
    let paint =
        |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() };
    let name_width = findings.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let (word, code) = match (finding.status, finding.need) {
            (Status::Ok, _) => ("ok", "32"),
            (Status::Missing, Need::Required) => ("MISSING", "1;31"),
            (Status::Missing, Need::Optional) => ("missing", "33"),
            (Status::Blind, _) => ("blind", "33"),
            (Status::Unknown, _) => ("unknown", "36"),
        };
        let indent = 9 + name_width + 2;
        let detail = wrap(&finding.detail, WIDTH, indent);
        let _ =
            writeln!(out, "{}  {:name_width$}  {detail}", paint(code, &format!("{word:7}")), finding.name);
        for (label, text) in [("cure", finding.cure), ("blind", finding.blind)] {
            if !text.is_empty() {
                let label = paint("2", &format!("{label:5}"));
                let _ = writeln!(out, "{:indent$}{label}  {}", "", wrap(text, WIDTH, indent + 7));
            }
        }
    }
    let count = |status, need| findings.iter().filter(|f| f.status == status && f.need == need).count();
    let missing = count(Status::Missing, Need::Required);
    out += "\n";
    out += &if missing > 0 {
        paint("1;31", &format!("weir cannot run here: {missing} required of {} missing.\n", findings.len()))
    } else {
        let amiss = findings.iter().filter(|f| f.status != Status::Ok).count();
        let rest = match amiss {
            0 => "nothing is blind".into(),
            1 => "one line above says what it does not see or do".into(),
            _ => format!("{amiss} lines above say what it does not see or do"),
        };
        paint("32", &format!("weir can run here; {rest}.\n"))
    };
    out
}

/// Breaks a text at spaces so that it ends before column `width` when it starts at column `indent`.
fn wrap(text: &str, width: usize, indent: usize) -> String {
    let room = width.saturating_sub(indent).max(30);
    let (mut out, mut line) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > room {
            let _ = write!(out, "\n{:indent$}", "");
            line = 0;
        } else if line > 0 {
            out.push(' ');
            line += 1;
        }
        out += word;
        line += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(status: Status, need: Need) -> Finding {
        let probe = match status {
            Status::Ok => || Answer::ok("fine"),
            Status::Missing => || Answer::missing("not there"),
            Status::Blind => || Answer::blind("3 of them"),
            Status::Unknown => || Answer::unknown("who knows"),
        };
        Capability { name: "thing", need, since: "99.0", cure: "buy one", blind: "all of it", probe }
            .examine()
    }

    #[test]
    fn only_what_is_required_and_missing_stops_the_agent() {
        for (status, need, expected) in [
            (Status::Ok, Need::Required, true),
            (Status::Missing, Need::Optional, true),
            (Status::Missing, Need::Required, false),
            (Status::Unknown, Need::Required, true),
            (Status::Blind, Need::Optional, true),
        ] {
            assert_eq!(runs(&[finding(Status::Ok, Need::Required), finding(status, need)]), expected);
        }
    }

    #[test]
    fn a_table_says_cause_cure_and_what_is_blind() {
        let text =
            table(&[finding(Status::Ok, Need::Required), finding(Status::Missing, Need::Optional)], false);
        let expected = "ok       thing  fine\n\
                        missing  thing  not there (needs Linux 99.0)\n\
                        \x20               cure   buy one\n\
                        \x20               blind  all of it\n\n\
                        weir can run here; one line above says what it does not see or do.\n";
        assert_eq!(text, expected);
        assert!(table(&[finding(Status::Missing, Need::Required)], true).contains("\x1b[1;31mMISSING"));
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(
            wrap("aaaa bbbb cccc dddd eeee ffff gggg", 40, 10),
            "aaaa bbbb cccc dddd eeee ffff\n          gggg"
        );
        assert_eq!(wrap("", 40, 10), "");
    }

    #[test]
    fn every_row_says_what_helps() {
        let rows = [kernel::CAPABILITIES, host::CAPABILITIES, blind::CAPABILITIES];
        let mut names = std::collections::HashSet::new();
        for row in rows.into_iter().flatten() {
            assert!(!row.cure.is_empty() && !row.blind.is_empty() && names.insert(row.name), "{}", row.name);
        }
    }
}
