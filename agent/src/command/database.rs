//! Arguments that say where the receipts are -> a client.

use std::path::PathBuf;

use anyhow::Context as _;
use clickhouse::Client;

use crate::store::{self, Secret};

/// Where the receipts are.
#[derive(clap::Args, Clone, Debug)]
pub struct Database {
    /// ClickHouse's HTTP address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8123", env = "WEIR_STORE_URL")]
    pub url: String,
    /// Database that holds the events
    #[arg(long, default_value = "weir", env = "WEIR_STORE_DATABASE")]
    pub database: String,
    /// ClickHouse user
    #[arg(long, default_value = "", env = "WEIR_STORE_USER")]
    pub user: String,
    /// File with the user's password
    #[arg(long, value_name = "FILE", env = "WEIR_STORE_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
}

impl Database {
    /// A client for it.
    pub fn client(&self) -> anyhow::Result<Client> {
        let password = match &self.password_file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the password from {}", path.display()))?
                .trim_end()
                .to_owned(),
            None => String::new(),
        };
        Ok(store::clickhouse::client(&store::Config {
            url: self.url.clone(),
            database: self.database.clone(),
            user: self.user.clone(),
            password: Secret(password),
            ..store::Config::default()
        }))
    }
}
