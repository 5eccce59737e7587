//! Clients of other languages, one call each: Node.js, Java, Go.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use xtask::postgres::Postgres;
use xtask::scratch::Scratch;
use xtask::setup::clients;
use xtask::shell;

use crate::client::{self, Route, Session};

/// Runs one of `tests/clients/*.js`.
pub fn node(server: &Postgres, route: &Route<'_>, script: &str, arguments: &[&str]) -> Result<String> {
    let mut node = Command::new("node");
    node.arg(client::clients().join(script)).args(arguments).env("NODE_PATH", clients::node_modules()?);
    run(server, route, node)
}

/// Runs one of `tests/clients/*.java`, which are one file each.
pub fn java(server: &Postgres, route: &Route<'_>, source: &str, arguments: &[&str]) -> Result<String> {
    run(server, route, jvm(source, arguments))
}

/// One of them that reads lines, as a client of what stands before the server at this port.
pub fn java_session_at(server: &Postgres, route: &Route<'_>, port: u16, source: &str) -> Result<Session> {
    let mut java = jvm(source, &[]);
    to(server, &mut java);
    java.env("PGPORT", port.to_string());
    Session::start(route.aim(java))
}

/// One of them, without a server of its own to talk to.
pub fn java_server(source: &str, arguments: &[&str]) -> Result<Session> {
    Session::start(jvm(source, arguments))
}

/// Builds a Go program of `tests/clients` and runs it.
pub fn go(server: &Postgres, route: &Route<'_>, program: &str, arguments: &[&str]) -> Result<String> {
    let scratch = Scratch::new("go")?;
    let built = scratch.path().join(program);
    clients::go_build(&client::clients().join(program).join("main.go"), &built, &[])?;
    let mut go = Command::new(built);
    go.args(arguments);
    run(server, route, go)
}

/// A Java program, without what a long run needs to be fast.
pub fn jvm(source: &str, arguments: &[&str]) -> Command {
    let mut java = Command::new("java");
    java.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", clients::JDBC]);
    java.arg(client::clients().join(Path::new(source))).args(arguments);
    java
}

fn to(server: &Postgres, command: &mut Command) {
    command.envs(server.client("psql").get_envs().filter_map(|(k, v)| Some((k, v?))));
}

fn run(server: &Postgres, route: &Route<'_>, mut command: Command) -> Result<String> {
    to(server, &mut command);
    shell::output(&mut route.aim(command))
}
