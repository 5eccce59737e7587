//! A query -> rows, over ClickHouse's HTTP interface, with the `curl` that a user would type.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// One ClickHouse: a server or the embedded engine.
#[derive(Clone, Debug)]
pub struct ClickHouse {
    /// `http://127.0.0.1:8123`.
    pub url: String,
}

impl ClickHouse {
    /// The answer to a query, as text in the format that the query asks for.
    pub fn query(&self, sql: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "120",
            "--data-binary",
            sql,
            &self.url,
        ]);
        let out = curl.output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            bail!("ClickHouse refused {sql:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(text)
    }

    /// A query with one number as its answer.
    pub fn number(&self, sql: &str) -> Result<u64> {
        let text = self.query(sql)?;
        text.trim().parse().map_err(|_| anyhow::anyhow!("{sql:?} answered {text:?}, not a number"))
    }

    /// The command line that runs a query, for a person to try.
    pub fn example(&self, sql: &str) -> String {
        shell::show(Command::new("curl").args([self.url.as_str(), "--data-binary", sql]))
    }
}
