//! A PostgreSQL whose log is the oracle: every statement, its session and its parameters; pgaudit adds rows.

use std::path::PathBuf;

use anyhow::Result;
use xtask::postgres::{self, Postgres};

/// Settings that make the server log everything as JSON (PostgreSQL 15 and later).
const TALKATIVE: &[(&str, &str)] = &[
    ("logging_collector", "on"),
    ("log_destination", "jsonlog"),
    ("log_directory", "log"),
    ("log_filename", "server"),
    ("log_rotation_size", "0"),
    ("log_rotation_age", "0"),
    ("log_statement", "all"),
    ("log_connections", "on"),
    ("log_disconnections", "on"),
    ("log_replication_commands", "on"),
    ("log_parameter_max_length", "-1"),
    ("log_parameter_max_length_on_error", "-1"),
    ("shared_preload_libraries", "pgaudit"),
    ("pgaudit.log", "read,write"),
    ("pgaudit.log_rows", "on"),
    ("wal_level", "logical"),
];

/// Starts a server that logs everything.
pub fn talkative() -> Result<Postgres> {
    Postgres::start(TALKATIVE)
}

/// The same, and it takes TLS, with a certificate of its own making.
pub fn talkative_tls() -> Result<Postgres> {
    let server = talkative()?;
    server.offer_tls()?;
    Ok(server)
}

/// The same, and its log says what it executes, by the line `AUDIT:`: what it was only asked for is in there too.
pub fn audited_tls() -> Result<Postgres> {
    let settings: Vec<_> = TALKATIVE.iter().copied().filter(|(name, _)| *name != "pgaudit.log").collect();
    let server = Postgres::start(&[&settings[..], &[("pgaudit.log", "all")]].concat())?;
    server.offer_tls()?;
    Ok(server)
}

/// Where such a server writes its log.
pub fn log_file(server: &Postgres) -> PathBuf {
    server.data().join("log/server.json")
}

/// True where the server's programs are of this major version or later.
pub fn at_least(version: u32) -> Result<bool> {
    Ok(postgres::version(&postgres::directory()?)? >= version)
}
