//! A long stream of pipelined messages, cut anywhere -> whether each was answered as it should be, in order.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::postgres::Postgres;

use crate::wire::{self, Wire};

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What was answered as it should be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Groups of messages.
    pub groups: u64,
    /// Those of them that were refused.
    pub refused: u64,
}

/// Groups that are written before their answers are read: what lies between them is bounded.
const AT_ONCE: u64 = 10_000;

/// Sends groups of messages until there were this many messages; an error names the first wrong answer.
pub fn cut_anywhere(server: &Postgres, messages: u64, seed: u64) -> Result<Outcome> {
    let mut wire = Wire::login(("127.0.0.1", server.port))?;
    wire.stream.set_read_timeout(Some(Duration::from_mins(2)))?;
    wire.send(&wire::query("create table if not exists cut_anywhere (id int)"))?;
    wire.until_ready()?;
    wire.send(&[wire::extended("known", "select 'prepared'::text"), wire::sync()].concat())?;
    wire.until_ready()?;
    let (mut dice, mut sent, mut outcome) = (Dice(seed), 0, Outcome::default());
    while sent < messages {
        let (mut stream, mut wanted) = (Vec::new(), Vec::new());
        while (wanted.len() as u64) < AT_ONCE && sent < messages {
            let (bytes, count, answer) = group(&mut dice, outcome.groups + wanted.len() as u64);
            stream.extend(bytes);
            wanted.push(answer);
            sent += count;
        }
        let mut writing = wire.stream.try_clone()?;
        let mut cuts = Dice(dice.roll(u64::MAX));
        let writer = std::thread::spawn(move || -> Result<()> {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let most = if cuts.roll(4) == 0 { 4000 } else { 40 };
                let (now, later) = rest.split_at(rest.len().min(1 + cuts.roll(most) as usize));
                writing.write_all(now)?;
                rest = later;
            }
            Ok(())
        });
        for wanted in wanted {
            let number = outcome.groups;
            let said = wire.said().with_context(|| format!("group {number}"))?;
            ensure!(said.contains(&wanted), "group {number}: wanted {wanted}, got {said:?}");
            outcome.groups += 1;
            outcome.refused += u64::from(wanted == REFUSED);
        }
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    }
    Ok(outcome)
}

const REFUSED: &str = "blocked by policy";

/// One group: its bytes, how many messages they are, what its answer has to contain.
fn group(dice: &mut Dice, number: u64) -> (Vec<u8>, u64, String) {
    match dice.roll(7) {
        0 | 1 => (wire::query(&format!("select 'n{number}'::text")), 1, format!("n{number}")),
        2 => (wire::query("/* forbidden */ drop table cut_anywhere"), 1, REFUSED.to_owned()),
        3 => {
            let group = wire::extended("", &format!("select 'x{number}'::text"));
            ([group, wire::sync()].concat(), 4, format!("x{number}"))
        }
        4 => {
            let group = wire::extended("", "/* forbidden */ delete from cut_anywhere");
            ([group, wire::sync()].concat(), 4, REFUSED.to_owned())
        }
        5 => ([wire::execute("known"), wire::sync()].concat(), 3, "prepared".to_owned()),
        _ => {
            // Odd texts are held each time; long ones too.
            let text = format!("select /* {} */ 'o{number}'::text", "x".repeat(dice.roll(3000) as usize));
            (wire::query(&text), 1, format!("o{number}"))
        }
    }
}
