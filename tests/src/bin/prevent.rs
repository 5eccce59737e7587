//! Dangerous statements by every driver and route, by the thousand -> how many the server executed, and whether all else
//! was as without a guard. Usage: prevent STATEMENTS MESSAGES, each driver's by each route, and those of the stream that
//! is cut anywhere. Progress on standard error; the last line is a JSON object.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::client::Route;
use tests::guarded::{POLICIES, audited, executed, guarding};
use tests::netns::NetNs;
use tests::prevent::{Driver, compare};
use tests::server::{audited_tls, talkative};
use tests::stream;
use xtask::clickhouse::ClickHouse;
use xtask::postgres::Postgres;
use xtask::weir::Weir;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u32>());
    let mut next = || numbers.next().context("Usage: prevent STATEMENTS MESSAGES")?.context("a number");
    let (statements, messages) = (next()?, next()?);
    let (plain, namespace) = (talkative()?, NetNs::new()?);
    let mut count = Count::default();
    {
        let server = talkative()?;
        let (mut agent, clickhouse) = guarding(&server, POLICIES, "")?;
        let routes = [
            Route::loopback4(),
            Route::loopback6(),
            Route::veth4(&namespace),
            Route::veth6(&namespace),
            Route::unix(&server),
        ];
        count.drivers(&server, &plain, &routes, statements);
        count.stream(&server, messages);
        count.executed(&executed(&server)?, &agent);
        ensure!(agent.running(), "weir has ended: {}", agent.said());
        count.told(&clickhouse)?;
        ensure!(agent.stop()?.success(), "{}", agent.said());
    }
    let server = audited_tls()?;
    let (mut agent, clickhouse) = guarding(&server, POLICIES, "gate: {tls: true}")?;
    let routes = [Route::loopback4().over_tls(), Route::veth6(&namespace).over_tls()];
    count.drivers(&server, &plain, &routes, statements);
    count.executed(&audited(&server)?, &agent);
    ensure!(agent.running(), "weir has ended: {}", agent.said());
    count.told(&clickhouse)?;
    ensure!(agent.stop()?.success(), "{}", agent.said());
    let Count { dangerous, executed, reached, told, answers, different, stream, wrong } = count;
    println!(
        "{}",
        json!({
            "dangerous": dangerous, "executed": executed, "answers": answers, "different": different,
            "stream": stream, "wrong": wrong, "reached": reached, "told": told,
        })
    );
    Ok(())
}

/// What is counted, over all of it.
#[derive(Default)]
struct Count {
    /// Statements that were refused.
    dangerous: u64,
    /// Lines of the server's log about those that were executed all the same: two or three for each.
    executed: u64,
    /// The first of these, and what the agent has said by then.
    reached: Vec<String>,
    /// What the agent has told of a gate that did not do its work, and how often: it fails open.
    told: BTreeMap<String, u64>,
    /// Answers that were compared with a server that nobody guards.
    answers: u64,
    /// Drivers and routes with a different answer, and which.
    different: Vec<String>,
    /// Messages of the stream that were answered as they should be.
    stream: u64,
    /// The first of them that was not.
    wrong: Vec<String>,
}

impl Count {
    fn drivers(&mut self, server: &Postgres, plain: &Postgres, routes: &[Route<'_>], statements: u32) {
        for (number, route) in routes.iter().enumerate() {
            for driver in Driver::ALL.into_iter().filter(|driver| driver.goes(route)) {
                let tls = if route.tls { " over TLS" } else { "" };
                let what = format!("{} by {}{tls}", driver.name(), route.host);
                let began = Instant::now();
                match compare(server, plain, driver, route, statements, 100 + number as u64) {
                    Ok(outcome) => {
                        let (answers, refused) = (outcome.answers, outcome.refused);
                        let took = began.elapsed().as_secs();
                        eprintln!("{what}: {answers} answers as without weir, {refused} refused, {took} s");
                        self.answers += answers as u64;
                        self.dangerous += refused as u64;
                    }
                    Err(error) => {
                        self.different.push(format!("{what}: {error:#}"));
                    }
                }
            }
        }
    }

    fn stream(&mut self, server: &Postgres, messages: u32) {
        match stream::cut_anywhere(server, messages.into(), 4711) {
            Ok(outcome) => {
                eprintln!("a stream of {messages} messages, cut anywhere: {} refused", outcome.refused);
                self.stream += u64::from(messages);
                self.dangerous += outcome.refused;
            }
            Err(error) => {
                eprintln!("a stream of {messages} messages, cut anywhere: {error:#}");
                self.wrong.push(format!("{error:#}"));
            }
        }
    }

    fn executed(&mut self, lines: &[String], agent: &Weir) {
        self.reached.extend(lines.iter().take(3).cloned());
        if !lines.is_empty() {
            self.reached.push(agent.said());
        }
        self.executed += lines.len() as u64;
    }

    fn told(&mut self, clickhouse: &ClickHouse) -> Result<()> {
        // What was noted last is stored within a second.
        std::thread::sleep(Duration::from_secs(3));
        let causes = "SELECT error_type, count() FROM weir.events WHERE startsWith(error_type, 'gate_') GROUP BY 1 \
                      UNION ALL SELECT 'executed against a rule', count() FROM weir.events \
                      WHERE event_kind = 'statement' AND policy_mode = 'enforce' AND disposition = 'alerted' \
                      AND db_response_status_code = '' HAVING count() > 0";
        for line in clickhouse.query(causes)?.lines() {
            let (cause, count) = line.split_once('\t').context("a cause and a number")?;
            *self.told.entry(cause.to_owned()).or_default() += count.parse::<u64>()?;
        }
        Ok(())
    }
}
