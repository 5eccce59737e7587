//! A PostgreSQL whose log is the oracle: every statement, its session and its parameters; pgaudit adds rows.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use xtask::postgres::{self, Postgres};
use xtask::shell;

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
    let data = server.data();
    let owner = fs::metadata(&data)?;
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-x509", "-nodes", "-days", "2", "-subj", "/CN=weir-test"]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    shell::output(
        openssl.arg("-keyout").arg(data.join("server.key")).arg("-out").arg(data.join("server.crt")),
    )?;
    for name in ["server.key", "server.crt"] {
        chown(data.join(name), Some(owner.uid()), Some(owner.gid()))?;
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600))?;
    }
    server.quietly("alter system set ssl = on")?;
    server.quietly("select pg_reload_conf()")?;
    for _ in 0..100 {
        if server.quietly("show ssl")? == "on" {
            return Ok(server);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the server does not take TLS: {}", server.log())
}

/// Where such a server writes its log.
pub fn log_file(server: &Postgres) -> PathBuf {
    server.data().join("log/server.json")
}

/// True where the server's programs are of this major version or later.
pub fn at_least(version: u32) -> Result<bool> {
    Ok(postgres::version(&postgres::directory()?)? >= version)
}
