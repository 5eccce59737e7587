//! `weir policy`: policy files -> their mistakes, or what they would have done to recorded events.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_core::event::Event;
use agent_core::judge::{Subject, Verdict, judge};
use agent_core::policy::{Policies, Problem, Source};
use agent_core::sql::Analysis;
use anyhow::Context as _;

/// Check policies, or try them on recorded events.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say everything that is wrong with policy files, with file, line and the nearest valid word
    #[command(after_help = "Example:
  weir policy check /etc/weir/policies deploy/policies/unbounded-writes.yaml")]
    Check {
        /// Files, or folders of *.yaml and *.yml
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Say whom the policies would have stopped, and by which rule; one JSON object for each event that a rule is about
    #[command(after_help = "Example:
  weir replay traffic.pcap --format jsonl | weir policy test deploy/policies")]
    Test {
        /// Files, or folders of *.yaml and *.yml
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Recorded events, one JSON object a line; standard input where it is left out
        #[arg(long, value_name = "FILE.jsonl")]
        events: Option<PathBuf>,
    },
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Check { paths } => check(&paths),
            Command::Test { paths, events } => {
                let policies = match load(&paths)? {
                    Ok(policies) => policies,
                    Err(problems) => return Ok(tell(&problems)),
                };
                match events {
                    Some(path) => {
                        let file = std::fs::File::open(&path)
                            .with_context(|| format!("cannot read {}", path.display()))?;
                        test(&policies, BufReader::new(file))
                    }
                    None => test(&policies, std::io::stdin().lock()),
                }
            }
        }
    }
}

/// Reads the policy files at these paths; a folder stands for its `*.yaml` and `*.yml`, by name.
/// The outer error is a file that cannot be read, the inner one what is wrong in those that can.
pub fn load(paths: &[PathBuf]) -> anyhow::Result<Result<Policies, Vec<Problem>>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(folder(path).with_context(|| format!("cannot read {}", path.display()))?);
        } else {
            files.push(path.clone());
        }
    }
    let mut texts = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        texts.push((file.display().to_string(), text));
    }
    let sources: Vec<Source<'_>> = texts.iter().map(|(file, text)| Source { file, text }).collect();
    Ok(Policies::load(&sources))
}

fn folder(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "yaml" || e == "yml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn tell(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::FAILURE
}

fn check(paths: &[PathBuf]) -> anyhow::Result<ExitCode> {
    match load(paths)? {
        Ok(policies) => {
            for policy in policies.iter() {
                println!(
                    "{} {} {} {}",
                    policy.name,
                    policy.version,
                    policy.mode.name(),
                    policy.action.name()
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => Ok(tell(&problems)),
    }
}

/// Judges a recorded event by these policies.
fn verdict(policies: &Policies, event: &Event) -> Verdict {
    let analysis = Analysis {
        db_query_summary: event.db_query_summary.clone(),
        db_operation_name: event.db_operation_name.clone(),
        db_collection_name: event.db_collection_name.clone(),
        db_query_fingerprint: event.db_query_fingerprint.clone(),
        statement_effects: event.statement_effects.clone(),
        statement_relations: event.statement_relations.clone(),
        statement_unbounded: event.statement_unbounded,
        statement_complete: event.statement_complete,
        redacted: event.db_query_text.clone(),
    };
    let subject = Subject {
        db_system_name: &event.db_system_name,
        db_namespace: &event.db_namespace,
        db_user: &event.db_user,
        search_path: "",
        ai_agent_name: &event.ai_agent_name,
        identity_principal: &event.identity_principal,
        analysis: &analysis,
        statement_complete: event.statement_complete,
    };
    judge(policies, &subject)
}

/// Exit status 1 where a rule would have stopped a statement.
fn test(policies: &Policies, events: impl BufRead) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut rules: BTreeMap<String, u64> = BTreeMap::new();
    let (mut total, mut stopped) = (0u64, false);
    for (number, line) in events.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let event: Event =
            serde_json::from_str(&line).with_context(|| format!("line {}: no event", number + 1))?;
        if event.event_kind != agent_core::event::EventKind::Statement {
            continue;
        }
        total += 1;
        let verdict = verdict(policies, &event);
        if verdict.policy_rule.is_empty() {
            continue;
        }
        *rules.entry(format!("{} ({})", verdict.policy_rule, verdict.action.name())).or_default() += 1;
        stopped |= verdict.action > agent_core::policy::Action::Alert;
        let line = serde_json::json!({
            "event_id": serde_json::to_value(&event)?.get("event_id"),
            "policy_rule": &*verdict.policy_rule,
            "policy_version": &*verdict.policy_version,
            "policy_mode": verdict.mode_name(),
            "disposition": verdict.disposition,
            "statement_complete": event.statement_complete,
            "db_namespace": &*event.db_namespace,
            "db_user": &*event.db_user,
            "db_query_summary": &*event.db_query_summary,
            "identity_principal": &*event.identity_principal,
            "ai_agent_name": &*event.ai_agent_name,
            "process_executable_path": &*event.process_executable_path,
        });
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    eprintln!("{total} statements; a rule is about {}", rules.values().sum::<u64>());
    for (rule, count) in rules {
        eprintln!("{count:>8}  {rule}");
    }
    Ok(if stopped { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_judged_by_its_fields() {
        let text = "kind: DatabasePolicy\nmetadata: {name: a}\nspec:\n  mode: enforce\n  match: {statement: {effects: [delete], unbounded: true}, relations: ['public.*']}\n  action: kill\n";
        let policies = Policies::load(&[Source { file: "a", text }]).unwrap();
        let event: Event = serde_json::from_str(
            r#"{"db_system_name":"postgresql","statement_effects":["delete"],"statement_unbounded":true,
                "statement_complete":true,"statement_relations":[{"name":"orders","access":"write"}]}"#,
        )
        .unwrap();
        assert!(verdict(&policies, &event).kills());
        let bounded = Event { statement_unbounded: false, ..event };
        assert_eq!(verdict(&policies, &bounded), Verdict::default());
    }
}
