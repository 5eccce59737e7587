//! Dangerous statements by every driver and route, by the thousand -> how many the server executed, and whether all else
//! was as without a guard. Usage: prevent STATEMENTS MESSAGES, each driver's by each route, and those of the stream that
//! is cut anywhere. Progress on standard error; the last line is a JSON object.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::client::Route;
use tests::guarded::{POLICIES, executed, guarding};
use tests::netns::NetNs;
use tests::prevent::{Driver, compare};
use tests::server::talkative;
use tests::stream;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u32>());
    let mut next = || numbers.next().context("Usage: prevent STATEMENTS MESSAGES")?.context("a number");
    let (statements, messages) = (next()?, next()?);
    let (server, plain, namespace) = (talkative()?, talkative()?, NetNs::new()?);
    let (mut agent, _clickhouse) = guarding(&server, POLICIES, "")?;
    let routes = [
        Route::loopback4(),
        Route::loopback6(),
        Route::veth4(&namespace),
        Route::veth6(&namespace),
        Route::unix(&server),
    ];
    let (mut answers, mut refused, mut different) = (0, 0, Vec::new());
    for (number, route) in routes.iter().enumerate() {
        for driver in Driver::ALL.into_iter().filter(|driver| driver.goes(route)) {
            let what = format!("{} by {}", driver.name(), route.host);
            match compare(&server, &plain, driver, route, statements, 100 + number as u64) {
                Ok(outcome) => {
                    eprintln!(
                        "{what}: {} answers as without weir, {} refused",
                        outcome.answers, outcome.refused
                    );
                    answers += outcome.answers;
                    refused += outcome.refused;
                }
                Err(error) => {
                    eprintln!("{what}: {error:#}");
                    different.push(what);
                }
            }
        }
    }
    ensure!(agent.running(), "weir has ended: {}", agent.said());
    let stream = stream::cut_anywhere(&server, messages.into(), 4711)?;
    eprintln!("a stream of {messages} messages, cut anywhere: {} refused", stream.refused);
    let executed = executed(&server)?;
    for line in executed.iter().take(3) {
        eprintln!("executed: {line}");
    }
    println!(
        "{}",
        json!({
            "dangerous": refused as u64 + stream.refused, "executed": executed.len(), "answers": answers,
            "different": different, "stream": messages, "wrong": 0,
        })
    );
    ensure!(agent.stop()?.success(), "{}", agent.said());
    Ok(())
}
