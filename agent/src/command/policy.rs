//! `weir policy`: policy files -> their mistakes, or what they would have done to recorded events.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use agent_core::event::Event;
use agent_core::judge::{Look, Memory, Subject, Verdict, judge};
use agent_core::policy::{Action, Policies};
use agent_core::sql::Analysis;
use anyhow::Context as _;

use crate::rules::{self, RulesError};

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
                let Some(policies) = load(&paths)? else { return Ok(ExitCode::FAILURE) };
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

/// What is wrong with the files goes to standard error, one problem a line; a file that cannot be read is an error.
fn load(paths: &[PathBuf]) -> anyhow::Result<Option<Policies>> {
    match rules::load(paths) {
        Ok(policies) => Ok(Some(policies)),
        Err(wrong @ RulesError::Wrong(_)) => {
            eprintln!("{wrong}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn check(paths: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let Some(policies) = load(paths)? else { return Ok(ExitCode::FAILURE) };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    for (name, until) in policies.expired(now.as_nanos() as u64) {
        eprintln!("{name}: an exception is over since {}", agent_core::event::rfc3339(until));
    }
    for policy in policies.iter() {
        println!("{} {} {} {}", policy.name, policy.version, policy.mode.name(), policy.action.name());
    }
    Ok(ExitCode::SUCCESS)
}

/// Judges a recorded event by these policies, and by what happened before it: as it was asked for and as it was
/// answered, whichever is stricter. Schedules and rates go by the event's own time.
fn verdict(policies: &Policies, memory: &mut Memory, event: &Event) -> Verdict {
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
        ai_agent_name: &event.ai_agent_name,
        identity_principal: &event.identity_principal,
        data_classes: &event.data_classes,
        statement_complete: event.statement_complete,
        time: event.time,
        session_id: event.session_id,
        process: event.process_pid.zip(event.process_start_ns),
        ..Subject::new(&analysis)
    };
    let mut at = |look| {
        let held = memory.look(policies, &subject, look);
        judge(policies, &Subject { held: &held, ..subject })
    };
    let asked = at(Look::Request);
    let returned = event.db_response_returned_rows.unwrap_or(0);
    let rows = returned.max(event.db_response_affected_rows.unwrap_or(0));
    let answered = at(Look::Answer { before: &event.data_classes, rows });
    let verdict = if answered.outranks(&asked) { answered } else { asked };
    if verdict.action <= Action::Alert {
        memory.learn(policies, &subject);
    }
    verdict
}

/// Exit status 1 where a rule would have stopped a statement.
fn test(policies: &Policies, events: impl BufRead) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut rules: BTreeMap<String, u64> = BTreeMap::new();
    let (mut total, mut stopped) = (0u64, false);
    let mut memory = Memory::default();
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
        let verdict = verdict(policies, &mut memory, &event);
        if verdict.policy_rule.is_empty() {
            continue;
        }
        *rules.entry(format!("{} ({})", verdict.policy_rule, verdict.action.name())).or_default() += 1;
        stopped |= verdict.action > Action::Alert;
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
    use agent_core::policy::Source;

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
        let mut memory = Memory::default();
        assert!(verdict(&policies, &mut memory, &event).kills());
        let bounded = Event { statement_unbounded: false, ..event };
        assert_eq!(verdict(&policies, &mut memory, &bounded), Verdict::default());
    }

    #[test]
    fn recorded_rows_and_times_count() {
        let text = "kind: DatabasePolicy\nmetadata: {name: a}\nspec:\n  mode: enforce\n  match: {rate: {rows: 100, within: 1m}}\n  schedule: {days: [sat]}\n  action: kill\n";
        let policies = Policies::load(&[Source { file: "a", text }]).unwrap();
        let mut memory = Memory::default();
        let mut kills = |time: &str, rows: u64| {
            let event: Event = serde_json::from_str(&format!(
                r#"{{"time":"{time}","db_response_returned_rows":{rows},"statement_complete":true}}"#
            ))
            .unwrap();
            verdict(&policies, &mut memory, &event).kills()
        };
        assert!(!kills("2026-11-20T12:00:00Z", 1000), "a Friday");
        assert!(!kills("2026-11-21T12:00:00Z", 60));
        assert!(!kills("2026-11-21T12:01:00Z", 60), "a minute later");
        assert!(kills("2026-11-21T12:01:01Z", 40));
    }
}
