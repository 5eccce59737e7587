//! A file of JSON lines -> chains: events as weir writes them, to the byte, of any agents in any mixture.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use agent_core::event::Event;
use agent_core::receipt::{self, Fault, Line, Link, Proofs, Receipt, canonical};
use anyhow::Context as _;

use super::{Chains, Court, Known, Report, workers};

/// Bytes that one thread takes at once.
const PIECE: u64 = 8 << 20;

/// Checks a file. `proofs`: what is signed about its receipts.
pub fn audit(path: &Path, proofs: Proofs, known: &Known) -> anyhow::Result<Report> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let court = match Court::new(proofs, known) {
        Ok(court) => court,
        Err(suspect) => return Ok(Report { suspects: vec![suspect], ..Report::default() }),
    };
    let mut chains = Chains::new(&court, known);
    let (mut reader, mut line) = (BufReader::with_capacity(1 << 20, file), 1);
    loop {
        let mut pieces = Vec::new();
        while pieces.len() < workers() {
            let mut piece = Vec::with_capacity(PIECE as usize + 4096);
            reader.by_ref().take(PIECE).read_to_end(&mut piece)?;
            reader.read_until(b'\n', &mut piece)?;
            if piece.is_empty() {
                break;
            }
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return Ok(chains.report());
        }
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = pieces.iter().map(|piece| scope.spawn(|| links(piece))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for piece in found {
            let piece = piece.map_err(|_| anyhow::anyhow!("a thread that hashed ended early"))?;
            let (links, lines) = piece.map_err(|(at, error)| {
                anyhow::anyhow!("{} line {}: not an event: {error}", path.display(), line + at)
            })?;
            line += lines;
            for (agent, link) in &links {
                chains.link(agent, link);
            }
        }
    }
}

/// What lines hold, and how many there are; or which of them, from 0, is no event.
pub(super) type Links = Result<(Vec<(Arc<str>, Link)>, usize), (usize, serde_json::Error)>;

/// Hashes the events of some whole lines.
pub fn links(lines: &[u8]) -> Links {
    let (mut found, mut bytes, mut written) = (Vec::new(), Vec::new(), Vec::new());
    let (mut number, mut agent) = (0, Arc::<str>::from(""));
    for line in lines.split_inclusive(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        number += 1;
        if line.is_empty() {
            continue;
        }
        bytes.clear();
        if let Some(read) = receipt::line(line, &mut bytes) {
            if *agent != *read.agent_id {
                agent = read.agent_id.into();
            }
            let Line { event_id, sequence, previous_hash, hash, .. } = read;
            let receipt = Receipt { sequence, previous_hash, hash, canonical: &bytes };
            found.push((Arc::clone(&agent), Link::of(&receipt, event_id)));
            continue;
        }
        // Not written as weir writes it: is it an event at all, and what does it say?
        let event: Event = serde_json::from_slice(line).map_err(|error| (number - 1, error))?;
        bytes.clear();
        canonical(&event, &mut bytes);
        let receipt = Receipt {
            sequence: event.sequence,
            previous_hash: event.previous_hash,
            hash: event.hash,
            canonical: &bytes,
        };
        let mut link = Link::of(&receipt, event.event_id);
        if link.fault.is_none() {
            // A name that nobody knows, a digit in capitals: whatever is not read is not hashed either.
            written.clear();
            serde_json::to_writer(&mut written, &event).map_err(|error| (number - 1, error))?;
            if written != line {
                link.fault = Some(Fault::Rewritten);
            }
        }
        found.push((event.agent_id, link));
    }
    Ok((found, number))
}
