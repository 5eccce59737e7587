//! Encoded blocks -> files that survive the agent, one for each batch, until ClickHouse has confirmed them.
//!
//! Every batch goes through here, also when ClickHouse answers at once: what is on disk is neither lost nor
//! sent under two tokens when the agent is killed. A file is a head and records; a record is its head, checksum and
//! one Native block. A record that was cut off by the agent's or the machine's end is left out and counted.
//!
//! Written data survives the end of the process at once. It is forced to the disk when a batch has to wait.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use agent_core::receipt::{Chain, Hash};
use bytes::Bytes;

use super::row::Row;

const MAGIC: &[u8; 8] = b"weirspl1";
const EXTENSION: &str = "batch";
/// length, checksum, rows, first sequence, hash of the last receipt, time of the last event, packed flag,
/// plain length.
const RECORD: usize = 4 + 4 + 4 + 8 + 32 + 8 + 1 + 4;
/// Largest record that is believed.
const LARGEST: usize = 512 << 20;

/// A batch on disk that is complete and waits to be sent, or is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    path: PathBuf,
    number: u64,
    /// Where its blocks go: `table (column, column)`.
    pub(super) target: String,
    /// Names it for good: sent twice, it is stored once.
    pub(super) token: String,
    /// Its rows.
    pub(super) rows: u64,
    /// Its bytes on disk.
    pub(super) bytes: u64,
    /// Sequence of its first receipt.
    first: u64,
    /// The chain after its last receipt.
    pub(super) chain: Chain,
    /// Time of the last event.
    pub(super) time: u64,
}

/// What was found on disk at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Batches to send, oldest first.
    pub(super) batches: VecDeque<Batch>,
    /// Files whose last record was cut off.
    pub(super) torn: u64,
}

/// The directory of batches.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
    agent: String,
    target: String,
    next: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    batch: Batch,
    begun: std::time::Instant,
}

impl Spool {
    /// Opens the directory and reads what an earlier agent left.
    pub(super) fn open(directory: &Path, agent: &str, target: &str) -> io::Result<(Self, Found)> {
        std::fs::create_dir_all(directory)?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<u64>().ok());
            if let (Some(number), true) = (number, path.extension().is_some_and(|e| e == EXTENSION)) {
                numbers.push((number, path));
            }
        }
        numbers.sort();
        let mut found = Found::default();
        let mut next = 1;
        for (number, path) in numbers {
            next = number + 1;
            let (batch, torn) = recover(&path, number, agent)?;
            found.torn += u64::from(torn);
            match batch {
                Some(batch) => found.batches.push_back(batch),
                None => std::fs::remove_file(&path)?,
            }
        }
        let spool = Self {
            directory: directory.to_path_buf(),
            agent: agent.into(),
            target: target.into(),
            next,
            open: None,
        };
        Ok((spool, found))
    }

    /// Adds a block to the batch being written; answers by how much the spool grew. On an error nothing of it
    /// remains.
    pub(super) fn append(&mut self, block: &Block<'_>, pack: bool) -> io::Result<u64> {
        let before = self.open.as_ref().map_or(0, |open| open.batch.bytes);
        if self.open.is_none() {
            self.open = Some(self.begin(self.target.clone())?);
        }
        let Some(open) = &mut self.open else { return Ok(0) };
        let record = block.record(pack);
        if let Err(error) = open.file.write_all_at(&record, open.batch.bytes) {
            // A full disk may have taken a part of it.
            let _ = open.file.set_len(open.batch.bytes);
            if open.batch.rows == 0 {
                let _ = std::fs::remove_file(&open.batch.path);
                self.open = None;
            }
            return Err(error);
        }
        let batch = &mut open.batch;
        if batch.rows == 0 {
            batch.first = block.first;
        }
        batch.rows += block.rows;
        batch.bytes += record.len() as u64;
        batch.chain = Chain { sequence: block.first + block.rows - 1, head: block.head };
        batch.time = block.time;
        Ok(batch.bytes - before)
    }

    /// Writes a batch of one row for another table, to be sent in its turn. `force`: to the disk, because it has to wait.
    pub(super) fn note(&mut self, row: &Row, chain: &Chain, time: u64, force: bool) -> io::Result<Batch> {
        let Open { file, mut batch, .. } = self.begin(row.target.clone())?;
        let block = Block { first: chain.sequence, rows: 1, head: chain.head, time, bytes: &row.block };
        let record = block.record(false);
        let written = file.write_all_at(&record, batch.bytes);
        if let Err(error) = written.and_then(|()| if force { file.sync_data() } else { Ok(()) }) {
            let _ = std::fs::remove_file(&batch.path);
            return Err(error);
        }
        (batch.rows, batch.first, batch.time) = (1, chain.sequence, time);
        batch.chain = chain.clone();
        batch.bytes += record.len() as u64;
        batch.token = token(&self.agent, &batch, &record);
        Ok(batch)
    }

    fn begin(&mut self, target: String) -> io::Result<Open> {
        let number = self.next;
        let path = self.directory.join(format!("{number:020}.{EXTENSION}"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&(target.len() as u32).to_le_bytes());
        head.extend_from_slice(target.as_bytes());
        head.extend_from_slice(&crc32fast::hash(target.as_bytes()).to_le_bytes());
        if let Err(error) = file.write_all(&head) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.next += 1;
        let batch = Batch {
            path,
            number,
            target,
            token: String::new(),
            rows: 0,
            bytes: head.len() as u64,
            first: 0,
            chain: Chain::default(),
            time: 0,
        };
        Ok(Open { file, batch, begun: std::time::Instant::now() })
    }

    /// Rows and age of the batch being written.
    pub(super) fn pending(&self) -> Option<(u64, std::time::Duration)> {
        self.open.as_ref().map(|open| (open.batch.rows, open.begun.elapsed()))
    }

    /// Ends the batch being written. `force`: to the disk, because it has to wait.
    pub(super) fn seal(&mut self, force: bool) -> Option<Batch> {
        let Open { file, mut batch, .. } = self.open.take()?;
        if force && let Err(error) = file.sync_data() {
            tracing::warn!(%error, "cannot force a spooled batch to the disk");
        }
        batch.token = token(&self.agent, &batch, &[]);
        Some(batch)
    }
}

/// The same batch always has the same name; no other has.
fn token(agent: &str, batch: &Batch, record: &[u8]) -> String {
    let Batch { first, chain, .. } = batch;
    let [a, b, c, d, e, f, g, h, ..] = chain.head;
    let head = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let receipts = format!("{agent}/{first}-{}/{head:016x}", chain.sequence);
    if batch.is_receipts() {
        return receipts;
    }
    // Several rows of other tables may belong to one place in the chain.
    format!("{receipts}/{:08x}", crc32fast::hash(record))
}

/// The table of receipts, as a target begins.
const RECEIPTS: &str = "events (";

impl Batch {
    fn is_receipts(&self) -> bool {
        self.target.starts_with(RECEIPTS)
    }

    /// Its rows that are receipts.
    pub(super) fn receipts(&self) -> u64 {
        if self.is_receipts() { self.rows } else { 0 }
    }

    /// Its blocks, unpacked, as they are sent.
    pub(super) fn blocks(&self) -> io::Result<Vec<Bytes>> {
        let bytes = Bytes::from(std::fs::read(&self.path)?);
        let mut blocks = Vec::new();
        let mut records = Records::open(&bytes).ok_or_else(|| garbled(&self.path))?;
        while let Some(record) = records.next() {
            blocks.push(if record.packed {
                Bytes::from(
                    lz4_flex::block::decompress(record.payload, record.plain)
                        .map_err(|_| garbled(&self.path))?,
                )
            } else {
                bytes.slice_ref(record.payload)
            });
        }
        Ok(blocks)
    }

    /// ClickHouse has it: the file goes.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Puts a file aside that cannot be read any more, for people to look at.
    pub(super) fn put_aside(&self) -> io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension("garbled"))
    }
}

fn garbled(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is garbled", path.display()))
}

/// One encoded block on its way to a file.
pub(super) struct Block<'a> {
    /// Sequence of its first receipt.
    pub(super) first: u64,
    /// Its rows, at least one.
    pub(super) rows: u64,
    /// Hash of its last receipt.
    pub(super) head: Hash,
    /// Time of its last event.
    pub(super) time: u64,
    /// The Native block.
    pub(super) bytes: &'a [u8],
}

impl Block<'_> {
    fn record(&self, pack: bool) -> Vec<u8> {
        let packed = pack.then(|| lz4_flex::block::compress(self.bytes));
        let payload = packed.as_deref().unwrap_or(self.bytes);
        let mut record = Vec::with_capacity(RECORD + payload.len());
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&(self.rows as u32).to_le_bytes());
        record.extend_from_slice(&self.first.to_le_bytes());
        record.extend_from_slice(&self.head);
        record.extend_from_slice(&self.time.to_le_bytes());
        record.push(u8::from(pack));
        record.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        record.extend_from_slice(payload);
        let checksum = crc32fast::hash(&record[8..]);
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
        record
    }
}

/// A record as it is read back.
struct Record<'a> {
    rows: u64,
    first: u64,
    head: Hash,
    time: u64,
    packed: bool,
    plain: usize,
    payload: &'a [u8],
}

/// The records of a file, up to the first that is not whole.
struct Records<'a> {
    target: &'a str,
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (target, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(target) != u32::from_le_bytes(*checksum) {
            return None;
        }
        Some(Self { target: std::str::from_utf8(target).ok()?, rest })
    }

    fn next(&mut self) -> Option<Record<'a>> {
        let head = self.rest.get(..RECORD)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        let length = number(0) as usize;
        let plain = number(61) as usize;
        let record = self.rest.get(..RECORD.checked_add(length)?)?;
        if crc32fast::hash(&record[8..]) != number(4) || plain > LARGEST || number(8) == 0 {
            return None;
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&head[20..52]);
        self.rest = &self.rest[record.len()..];
        Some(Record {
            rows: u64::from(number(8)),
            first: long(12),
            head: hash,
            time: long(52),
            packed: head[60] != 0,
            plain,
            payload: &record[RECORD..],
        })
    }
}

/// Reads a file that an earlier agent left; cuts off what is not whole. None where nothing is.
fn recover(path: &Path, number: u64, agent: &str) -> io::Result<(Option<Batch>, bool)> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let Some(mut records) = Records::open(&bytes) else { return Ok((None, true)) };
    let mut batch: Option<Batch> = None;
    let target = records.target;
    let start = bytes.len() - records.rest.len();
    while let Some(record) = records.next() {
        let chain = Chain { sequence: record.first + record.rows - 1, head: record.head };
        let batch = batch.get_or_insert_with(|| Batch {
            path: path.to_path_buf(),
            number,
            // An agent of an earlier version named the columns only.
            target: if target.contains('(') { target.into() } else { format!("{RECEIPTS}{target})") },
            token: String::new(),
            rows: 0,
            bytes: 0,
            first: record.first,
            chain: Chain::default(),
            time: 0,
        });
        batch.rows += record.rows;
        batch.chain = chain;
        batch.time = record.time;
    }
    let whole = (bytes.len() - records.rest.len()) as u64;
    let torn = !records.rest.is_empty();
    if torn && batch.is_some() {
        OpenOptions::new().write(true).open(path)?.set_len(whole)?;
    }
    if let Some(batch) = &mut batch {
        batch.bytes = whole;
        batch.token = token(agent, batch, bytes.get(start..whole as usize).unwrap_or_default());
    }
    Ok((batch, torn))
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
