//! Mixed statements of every driver by every route, some forbidden -> how many of these were executed, and whether all
//! else was as with a server that nobody guards. The oracle is the server's own log.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xtask::postgres::Postgres;

use crate::client::{self, Route};
use crate::drivers;

/// A client library, or psql.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// psql, by a script.
    Psql,
    /// psycopg 3: plain, prepared, pipelines, COPY, cursors.
    Psycopg,
    /// asyncpg: prepared, binary COPY, cursors.
    Asyncpg,
    /// pgjdbc: batches, COPY.
    Jdbc,
    /// tokio-postgres: pipelined by being polled together.
    Tokio,
}

impl Driver {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Psql, Self::Psycopg, Self::Asyncpg, Self::Jdbc, Self::Tokio];

    /// As one writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Psql => "psql",
            Self::Psycopg => "psycopg",
            Self::Asyncpg => "asyncpg",
            Self::Jdbc => "pgjdbc",
            Self::Tokio => "tokio-postgres",
        }
    }

    /// Whether it can go this way: pgjdbc has no Unix sockets.
    pub fn goes(self, route: &Route<'_>) -> bool {
        self != Self::Jdbc || !route.host.starts_with('/')
    }

    /// Runs it: what came of each statement, a line each. `dry`: without what is forbidden.
    fn run(
        self,
        server: &Postgres,
        route: &Route<'_>,
        table: &str,
        statements: u32,
        seed: u64,
        dry: bool,
    ) -> Result<String> {
        let (statements, seed) = (statements.to_string(), seed.to_string());
        let mut arguments = vec![table, &statements, &seed];
        arguments.extend(dry.then_some("dry"));
        match self {
            Self::Jdbc => drivers::java(server, route, "Guarded.java", &arguments),
            Self::Tokio => {
                client::program(server, route, &beside("guarded-tokio")?.to_string_lossy(), &arguments)
            }
            _ => {
                arguments.insert(0, self.name());
                client::python(server, route, "guarded.py", &arguments)
            }
        }
    }
}

/// A program of this crate, built beside the one that runs.
fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut directory = own.parent().context("a program is in a directory")?;
    if directory.ends_with("deps") {
        directory = directory.parent().context("the target directory")?;
    }
    let program = directory.join(name);
    ensure!(program.is_file(), "{} is not built", program.display());
    Ok(program)
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Answers that were compared.
    pub answers: usize,
    /// Statements, or messages with several, that were refused.
    pub refused: usize,
}

/// Runs a driver at the guarded server, and without what is forbidden at one that nobody guards: both have to say the
/// same. It goes on in one session behind whatever is refused, so each session is usable afterwards.
pub fn compare(
    guarded: &Postgres,
    plain: &Postgres,
    driver: Driver,
    route: &Route<'_>,
    statements: u32,
    seed: u64,
) -> Result<Outcome> {
    let place: String = route.host.chars().filter(char::is_ascii_alphanumeric).collect();
    let tls = if route.tls { "tls" } else { "plain" };
    let table = format!("t_{}_{place}_{tls}_{seed}", driver.name().replace('-', "_"));
    let table = &table[..table.len().min(60)];
    for server in [guarded, plain] {
        server.quietly(&format!("create table {table} (id int, v text)"))?;
    }
    let by_itself = if route.host.starts_with('/') { Route::unix(plain) } else { Route::loopback4() };
    let without = driver.run(plain, &by_itself, table, statements, seed, true)?;
    let with = driver.run(guarded, route, table, statements, seed, false)?;
    for (number, (with, without)) in with.lines().zip(without.lines()).enumerate() {
        ensure!(with == without, "line {}: {with}\ninstead of: {without}", number + 1);
    }
    let (answers, wanted) = (with.lines().count(), without.lines().count());
    ensure!(answers == wanted, "{answers} answers instead of {wanted}");
    Ok(Outcome { answers, refused: with.lines().filter(|line| *line == "refused").count() })
}
