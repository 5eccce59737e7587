//! `weir explain`: statement text in, what it does out.

use std::io::Read as _;
use std::process::ExitCode;
use std::sync::Arc;

use agent_core::event::DataClass;
use agent_core::policy::nearest;
use agent_core::sensitive::Catalog;
use agent_core::sql::{Dialect, Effect, Relation, Text, Texts};
use serde::{Deserialize, Serialize};

use super::values;

/// Say what a statement does: operation, effects, relations, whether it is bounded, its fingerprint.
#[derive(clap::Args)]
#[command(after_help = r#"Examples:
  weir explain 'DELETE FROM orders'
  psql -c '\d' -E | weir explain --dialect postgresql
  echo '{"dialect":"postgresql","text":"TRUNCATE t"}' | weir explain --jsonl

With --jsonl each line of standard input, {"dialect": ..., "text": ...}, gives one line of JSON, in order. A line that
is no such object gives {"error": ...}, and the exit status is 1 at the end."#)]
pub struct Args {
    /// How the statements are written: postgresql, mysql, microsoft.sql_server, clickhouse, redis or mongodb
    #[arg(long, value_name = "PROTOCOL", default_value = "postgresql", value_parser = dialect)]
    dialect: Dialect,
    /// Read lines of JSON, write lines of JSON
    #[arg(long, conflicts_with = "text")]
    jsonl: bool,
    /// Which columns hold sensitive data, beyond what names and values tell: see `weir catalog`
    #[arg(long, value_name = "FILE", value_parser = values::catalog)]
    catalog: Option<Arc<Catalog>>,
    /// The statements; without any, standard input is one text
    #[arg(value_name = "STATEMENT")]
    text: Vec<String>,
}

const DIALECTS: &[&str] =
    &["postgresql", "mysql", "mariadb", "microsoft.sql_server", "clickhouse", "redis", "mongodb"];

pub(super) fn dialect(name: &str) -> Result<Dialect, String> {
    Dialect::of_system(name).ok_or_else(|| match nearest(name, DIALECTS) {
        Some(near) => format!("no dialect is called '{name}'; did you mean '{near}'?"),
        None => format!("no dialect is called '{name}'; known: {}", DIALECTS.join(", ")),
    })
}

/// One line of input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    dialect: Option<String>,
    text: String,
}

/// One line of output; fields as in the event.
#[derive(Serialize)]
struct Answer<'a> {
    statement_effects: &'a [Effect],
    statement_relations: &'a [Relation],
    statement_unbounded: bool,
    statement_complete: bool,
    db_operation_name: &'a str,
    db_query_summary: &'a str,
    db_query_fingerprint: &'a str,
    data_classes: &'a [DataClass],
}

impl<'a> Answer<'a> {
    fn new(text: &'a Text, catalog: &Catalog) -> Self {
        let analysis = text.analysis();
        Answer {
            statement_effects: &analysis.statement_effects,
            statement_relations: &analysis.statement_relations,
            statement_unbounded: analysis.statement_unbounded,
            statement_complete: analysis.statement_complete,
            db_operation_name: &analysis.db_operation_name,
            db_query_summary: &analysis.db_query_summary,
            db_query_fingerprint: &analysis.db_query_fingerprint,
            data_classes: text.data_classes(catalog),
        }
    }
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let catalog = self.catalog.unwrap_or_default();
        let mut out = std::io::stdout().lock();
        let done = if self.jsonl {
            lines(self.dialect, &catalog, std::io::stdin().lock(), &mut out)
        } else {
            let mut texts = self.text;
            if texts.is_empty() {
                let mut text = Vec::new();
                std::io::stdin().lock().read_to_end(&mut text)?;
                texts.push(String::from_utf8_lossy(&text).into_owned());
            }
            let mut known = Texts::default();
            texts
                .iter()
                .flat_map(|text| known.intern(self.dialect, text.as_bytes()).parts().to_vec())
                .try_for_each(|part| describe(&part, &catalog, &mut out))
                .map(|()| ExitCode::SUCCESS)
        };
        match done {
            // Whoever read our output has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            other => Ok(other?),
        }
    }
}

/// One line in, one line out.
fn lines(
    default: Dialect,
    catalog: &Catalog,
    input: impl std::io::BufRead,
    out: &mut impl std::io::Write,
) -> std::io::Result<ExitCode> {
    let mut texts = Texts::default();
    let mut code = ExitCode::SUCCESS;
    for line in input.split(b'\n') {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let question = serde_json::from_slice::<Question>(&line).map_err(|error| error.to_string());
        let asked = question.and_then(|question| {
            let dialect = question.dialect.as_deref().map_or(Ok(default), dialect)?;
            Ok(texts.intern(dialect, question.text.as_bytes()))
        });
        match asked {
            Ok(text) => serde_json::to_writer(&mut *out, &Answer::new(&text, catalog))?,
            Err(error) => {
                code = ExitCode::FAILURE;
                let error =
                    format!("{error}; each line is {{\"dialect\": \"postgresql\", \"text\": \"SELECT 1\"}}");
                serde_json::to_writer(&mut *out, &serde_json::json!({ "error": error }))?;
            }
        }
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(code)
}

/// For people.
fn describe(text: &Text, catalog: &Catalog, out: &mut impl std::io::Write) -> std::io::Result<()> {
    let analysis = text.analysis();
    let effects: Vec<&str> = analysis.statement_effects.iter().map(|effect| effect.name()).collect();
    writeln!(out, "{}", analysis.redacted)?;
    writeln!(out, "  summary      {}", analysis.db_query_summary)?;
    writeln!(out, "  effects      {}", if effects.is_empty() { "none".into() } else { effects.join(", ") })?;
    for (i, relation) in analysis.statement_relations.iter().enumerate() {
        let label = if i == 0 { "relations" } else { "" };
        let access = format!("{:?}", relation.access).to_lowercase();
        writeln!(out, "  {label:<12} {} ({access})", relation.name)?;
    }
    for (i, data) in text.data_classes(catalog).iter().enumerate() {
        let label = if i == 0 { "data" } else { "" };
        writeln!(out, "  {label:<12} {} ({})", data.column, data.class)?;
    }
    if analysis.statement_unbounded {
        writeln!(out, "  unbounded    its condition keeps no row out")?;
    }
    if !analysis.statement_complete {
        writeln!(out, "  incomplete   not every part of it was understood: it may do more")?;
    }
    writeln!(out, "  fingerprint  {}", analysis.db_query_fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_lines_out() {
        let input = br#"{"dialect":"postgresql","text":"DELETE FROM public.t"}

{"text":"SELECT 1"}
{"dialect":"postgresq","text":"SELECT 1"}
nonsense
{"dialect":"mysql","text":"TRUNCATE `t`"}"#;
        let mut out = Vec::new();
        let code = lines(Dialect::Postgresql, &Catalog::default(), &input[..], &mut out).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        let out: Vec<serde_json::Value> = out
            .split(|&b| b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(out.len(), 5);
        assert_eq!(
            out[0],
            serde_json::json!({
                "statement_effects": ["delete"],
                "statement_relations": [{"name": "public.t", "access": "write"}],
                "statement_unbounded": true,
                "statement_complete": true,
                "db_operation_name": "DELETE",
                "db_query_summary": "DELETE public.t",
                "db_query_fingerprint": out[0]["db_query_fingerprint"],
                "data_classes": [],
            })
        );
        assert_eq!(out[1]["statement_effects"], serde_json::json!(["read"]));
        assert!(out[2]["error"].as_str().unwrap().contains("did you mean 'postgresql'?"));
        assert!(out[3]["error"].is_string());
        assert_eq!(out[4]["statement_relations"], serde_json::json!([{"name": "t", "access": "write"}]));
    }

    /// Every row of the risk table, as a program would ask.
    #[test]
    fn the_risk_table() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-core/testdata/risk");
        for (file, dialect) in [
            ("postgresql", "postgresql"),
            ("mysql", "mariadb"),
            ("tsql", "mssql"),
            ("clickhouse", "clickhouse"),
        ] {
            let cases = std::fs::read_to_string(format!("{folder}/{file}.jsonl")).unwrap();
            let cases: Vec<serde_json::Value> =
                cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let questions: Vec<String> = cases
                .iter()
                .map(|case| serde_json::json!({"dialect": dialect, "text": case["text"]}).to_string())
                .collect();
            let mut out = Vec::new();
            lines(Dialect::Postgresql, &Catalog::default(), questions.join("\n").as_bytes(), &mut out)
                .unwrap();
            let answers: Vec<serde_json::Value> = out
                .split(|&b| b == b'\n')
                .filter(|l| !l.is_empty())
                .map(|l| serde_json::from_slice(l).unwrap())
                .collect();
            assert_eq!(answers.len(), cases.len());
            for (case, answer) in cases.iter().zip(&answers) {
                let mut effects: Vec<&str> = answer["statement_effects"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|e| e.as_str())
                    .collect();
                effects.sort_unstable();
                assert_eq!(serde_json::json!(effects), case["effects"], "{case}");
                assert_eq!(
                    answer["statement_unbounded"],
                    case["unbounded"].as_bool().unwrap_or(false),
                    "{case}"
                );
            }
        }
    }
}
