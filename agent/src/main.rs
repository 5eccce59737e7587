//! `weir`: arguments in, one command out. Exit status: 0 done, 1 found or failed something, 2 wrong usage.

use std::process::ExitCode;

use agent::command::Cli;
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}
