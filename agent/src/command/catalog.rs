//! `weir catalog`: a database's list of columns -> a catalogue of those that hold sensitive data.
//!
//! weir asks no database: it prints the query, the operator's own client runs it read-only, weir reads what it exports.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use agent_core::sensitive::Catalog;
use agent_core::sql::Dialect;
use anyhow::{Context, bail};

use super::explain::dialect;

/// Make a catalogue of sensitive columns from a database's own list of columns.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  psql shop --csv -c \"$(weir catalog query)\" | weir catalog import > /etc/weir/catalog.yaml
  mysql -B -e \"$(weir catalog query --dialect mysql)\" | weir catalog import
  weir explain --catalog /etc/weir/catalog.yaml 'SELECT fon FROM users'

Look through it, correct it, and name it in the config: `catalog: /etc/weir/catalog.yaml`.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Print the query that lists a database's columns; it only reads
    Query {
        /// For which database: postgresql, mysql, microsoft.sql_server or clickhouse
        #[arg(long, value_name = "PROTOCOL", default_value = "postgresql", value_parser = dialect)]
        dialect: Dialect,
    },
    /// Read the list, with commas or tabs and a line of heads, and print the catalogue
    Import {
        /// The list; standard input where it is left out
        file: Option<PathBuf>,
        /// Also print the columns that have no class, as comments
        #[arg(long)]
        all: bool,
    },
}

/// Columns that the list must have, in any order, among others.
const HEADS: [&str; 3] = ["table_schema", "table_name", "column_name"];

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Query { dialect } => println!("{}", query(dialect)?),
            What::Import { file, all } => {
                let mut text = String::new();
                match &file {
                    Some(path) => {
                        text = std::fs::read_to_string(path)
                            .with_context(|| format!("cannot read {}", path.display()))?;
                    }
                    None => {
                        std::io::stdin().lock().read_to_string(&mut text).context("the list is no UTF-8")?;
                    }
                }
                std::io::stdout().write_all(import(&text, all)?.as_bytes())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn query(dialect: Dialect) -> anyhow::Result<String> {
    let own = match dialect {
        Dialect::Postgresql => "'pg_catalog', 'information_schema'",
        Dialect::Mysql => "'mysql', 'sys', 'information_schema', 'performance_schema'",
        Dialect::Tsql => "'sys', 'INFORMATION_SCHEMA'",
        Dialect::Clickhouse => "'system', 'information_schema', 'INFORMATION_SCHEMA'",
        Dialect::Redis | Dialect::Mongodb => {
            bail!("this database has no list of columns: write the catalogue by hand")
        }
    };
    Ok(format!(
        "SELECT table_schema AS table_schema, table_name AS table_name, column_name AS column_name \
         FROM information_schema.columns WHERE table_schema NOT IN ({own}) ORDER BY 1, 2, ordinal_position"
    ))
}

/// A list of columns -> YAML.
fn import(list: &str, all: bool) -> anyhow::Result<String> {
    let first = list.lines().next().unwrap_or_default();
    let delimiter = if first.contains('\t') { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(list.as_bytes());
    let heads = reader.headers().context("cannot read the line of heads")?.clone();
    let place = |name: &str| heads.iter().position(|head| head.trim().eq_ignore_ascii_case(name));
    let [Some(schema), Some(table), Some(column)] = HEADS.map(place) else {
        bail!(
            "the first line must name {}: run the query that `weir catalog query` prints, with a client that \
             exports heads (psql --csv, mysql -B, clickhouse-client --format CSVWithNames)",
            HEADS.join(", ")
        );
    };
    let known = Catalog::default();
    let mut relations: BTreeMap<String, Vec<(String, Option<String>)>> = BTreeMap::new();
    let mut columns = 0;
    for row in reader.records() {
        let row = row.context("the list is torn")?;
        let get = |at: usize| row.get(at).unwrap_or_default();
        let relation = format!("{}.{}", get(schema), get(table));
        let class = known.column(&std::iter::once(relation.as_str()), get(column));
        columns += 1;
        relations.entry(relation).or_default().push((get(column).to_owned(), class.map(|c| c.to_string())));
    }
    if columns == 0 {
        bail!("the list has no columns: may the user who made it see the tables?");
    }
    let found = relations.values().flatten().filter(|(_, class)| class.is_some()).count();
    let mut out = format!(
        "# {found} of {columns} columns in {} tables, by their names alone: add what names do not tell, and put\n\
         # under `except` what is no such thing.\nrelations:\n",
        relations.len()
    );
    for (relation, columns) in &relations {
        if !all && columns.iter().all(|(_, class)| class.is_none()) {
            continue;
        }
        let comment = if columns.iter().all(|(_, class)| class.is_none()) { "# " } else { "" };
        out.push_str(&format!("  {comment}{}:\n", quoted(relation)));
        for (column, class) in columns {
            match class {
                Some(class) => out.push_str(&format!("    {}: {class}\n", quoted(column))),
                None if all => out.push_str(&format!("    # {}:\n", quoted(column))),
                None => {}
            }
        }
    }
    if found == 0 {
        out = out.replace("relations:\n", "relations: {}\n");
    }
    Ok(out)
}

/// A name as a YAML key.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain && !word.contains(&&*name.to_ascii_lowercase()) {
        name.to_owned()
    } else {
        serde_json::to_string(name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_imported_is_a_catalogue() {
        let comma = "table_schema,table_name,column_name\npublic,users,id\npublic,users,email\n\
                     public,\"odd \"\"name\",card_number\npublic,plain,note\n";
        let tab = comma
            .replace("\"odd \"\"name\"", "odd \"name")
            .replace(',', "\t")
            .replace("odd \"name", "odd name");
        for (list, odd) in [(comma.to_owned(), "public.odd \"name"), (tab, "public.odd name")] {
            for all in [false, true] {
                let yaml = import(&list, all).unwrap();
                let catalog = Catalog::read("made.yaml", &yaml)
                    .unwrap_or_else(|problems| panic!("{problems:?}: {yaml}"));
                assert_eq!(catalog.declared("public.users").count(), 1, "{yaml}");
                assert_eq!(catalog.declared(odd).count(), 1, "{yaml}");
                assert_eq!(yaml.contains("note"), all, "{yaml}");
                assert!(yaml.starts_with("# 2 of 4 columns in 3 tables"), "{yaml}");
            }
        }
    }

    #[test]
    fn what_is_no_list_is_an_error_that_says_what_to_do() {
        for list in ["", "id,name\n1,2\n", "table_schema,table_name,column_name\n"] {
            assert!(import(list, false).is_err(), "{list}");
        }
        let error = import("a,b\n", false).unwrap_err().to_string();
        assert!(error.contains("weir catalog query"), "{error}");
        assert!(
            query(Dialect::Redis).is_err() && query(Dialect::Mysql).unwrap().contains("'performance_schema'")
        );
    }
}
