//! `weir`: arguments in, one command out. Exit status: 0 done, 1 found or failed something, 2 wrong usage.

use std::process::ExitCode;

use agent::command::Cli;
use clap::Parser;

fn main() -> ExitCode {
    log();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The agent's own log: to standard error, `WEIR_LOG` says how much (`info`, `agent::gate=debug`).
fn log() {
    use std::io::IsTerminal as _;

    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = tracing_subscriber::EnvFilter::try_from_env("WEIR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    // Whatever `WEIR_LOG` asks for: the parser would tell every literal that it meets.
    let discreet = filter_fn(|record| !record.target().starts_with("sqlparser"));
    tracing_subscriber::registry().with(filter).with(discreet).with(lines).init();
}
