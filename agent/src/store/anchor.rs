//! Keys and checkpoints -> a place outside of ClickHouse: a file that is appended to, an address that is posted to.
//!
//! Whoever can rewrite the store can rewrite its checkpoints with it, but not what was said elsewhere. One thread,
//! a bounded queue: a place that is away delays nothing, and what finds no room is told by the checkpoints after it.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_core::receipt::Proof;

use crate::signals::http::{Blocking, shown};

/// Lines that wait at most.
const QUEUE: usize = 1024;
/// Pause before the first repetition, and the longest.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_mins(1);
/// How long the end may take.
const CLOSING: Duration = Duration::from_secs(5);

/// Where lines go.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A file: each line is on the disk before it counts.
    File(PathBuf),
    /// An address: each line is one POST.
    Url(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            // Whatever is secret in an address stands before its host or behind its path.
            Self::Url(url) => f.write_str(shown(url)),
        }
    }
}

#[derive(Default)]
struct Inner {
    /// Each under its number.
    lines: VecDeque<(u64, String)>,
    sent: u64,
    dropped: u64,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// One place and the thread that tells it.
pub(super) struct Anchor {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Anchor {
    pub(super) fn start(place: Place) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let theirs = Arc::clone(&queue);
        let thread =
            std::thread::Builder::new().name("weir-anchor".into()).spawn(move || tell(&place, &theirs))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Hands a line over; never waits.
    pub(super) fn send(&self, proof: &Proof) {
        let Ok(mut line) = serde_json::to_string(proof) else { return };
        line.push('\n');
        let mut inner = self.queue.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.lines.len() >= QUEUE {
            // The newest checkpoint vouches for all before it.
            inner.lines.pop_front();
            inner.dropped += 1;
        }
        inner.sent += 1;
        let number = inner.sent;
        inner.lines.push_back((number, line));
        self.queue.changed.notify_all();
    }
}

impl Drop for Anchor {
    /// Lets it tell what is left, for a while; the next start tells the last checkpoint again.
    fn drop(&mut self) {
        let mut inner = self.queue.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        self.queue.changed.notify_all();
        let begun = Instant::now();
        while !inner.lines.is_empty() {
            let Some(left) = CLOSING.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                break;
            };
            inner = self.queue.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let done = inner.lines.is_empty();
        inner.lines.clear();
        drop(inner);
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take().filter(|_| done) {
            let _ = thread.join();
        }
    }
}

fn tell(place: &Place, queue: &Queue) {
    let mut failures = 0u32;
    let mut poster = None;
    let mut inner = queue.inner.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // A file takes all that waits at once.
        let most = if matches!(place, Place::File(_)) { usize::MAX } else { 1 };
        let Some(number) = inner.lines.iter().take(most).next_back().map(|(number, _)| *number) else {
            if inner.closed {
                return;
            }
            inner = queue.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let lines: String = inner.lines.iter().take(most).map(|(_, line)| line.as_str()).collect();
        let dropped = std::mem::take(&mut inner.dropped);
        drop(inner);
        if dropped > 0 {
            tracing::warn!(%place, dropped, "checkpoints were not anchored: the place was away too long");
        }
        let told = match place {
            Place::File(path) => append(path, &lines),
            Place::Url(url) => post(&mut poster, url, lines.trim_end()),
        };
        inner = queue.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Ok(()) => {
                failures = 0;
                // Some may have found no room meanwhile.
                while inner.lines.front().is_some_and(|(told, _)| *told <= number) {
                    inner.lines.pop_front();
                }
                queue.changed.notify_all();
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%place, %error, "cannot anchor a checkpoint: it is tried again");
                }
                failures += 1;
                let pause = SOON.saturating_mul(1 << failures.min(10)).min(LATE);
                let begun = Instant::now();
                // In the end it is tried in quick succession, until whoever waits for it gives up.
                while !inner.lines.is_empty() {
                    let pause = if inner.closed { SOON } else { pause };
                    let Some(left) = pause.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                        break;
                    };
                    inner = queue.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

/// Keeps its connection.
fn post(poster: &mut Option<Blocking>, url: &str, line: &str) -> std::io::Result<()> {
    let made = match poster.take() {
        Some(made) => made,
        None => Blocking::new(url)?,
    };
    poster.insert(made).send(line.to_owned())
}

fn append(path: &Path, lines: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).read(true).create(true).open(path)?;
    // A line that a full disk or a lost machine has cut off stands alone.
    let mut last = [b'\n'];
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::receipt::{Chain, Checkpoint, Proofs, SigningKey};

    fn proof(sequence: u64) -> Proof {
        let key = SigningKey::from_seed(&[1; 32]);
        Proof::Checkpoint(Checkpoint::new("a", &key, &Chain { sequence, head: [2; 32] }, 0, 5))
    }

    #[test]
    fn lines_are_appended_once_the_place_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/anchor.jsonl");
        let anchor = Anchor::start(Place::File(path.clone())).unwrap();
        anchor.send(&proof(1));
        anchor.send(&proof(2));
        std::fs::create_dir(dir.path().join("later")).unwrap();
        drop(anchor);
        let mut proofs = Proofs::default();
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().for_each(|line| proofs.read_line(line).unwrap());
        assert_eq!(proofs.checkpoints.iter().map(|c| c.sequence).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_line_that_was_cut_off_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor.jsonl");
        std::fs::write(&path, "{\"proof\":\"check").unwrap();
        append(&path, "one\n").unwrap();
        append(&path, "two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"proof\":\"check\none\ntwo\n");
    }

    #[test]
    fn the_newest_lines_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/anchor.jsonl");
        let anchor = Anchor::start(Place::File(path.clone())).unwrap();
        (1..=2 * QUEUE as u64).for_each(|sequence| anchor.send(&proof(sequence)));
        std::fs::create_dir(dir.path().join("later")).unwrap();
        drop(anchor);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= QUEUE);
        assert!(text.lines().next_back().unwrap().contains(&format!("\"sequence\":{},", 2 * QUEUE)));
    }

    #[test]
    fn lines_are_posted_until_they_are_taken() {
        use std::io::{BufRead as _, BufReader, Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://secret@{}/checkpoints?token=secret", listener.local_addr().unwrap());
        assert!(!Place::Url(url.clone()).to_string().contains("secret"));
        let anchor = Anchor::start(Place::Url(url)).unwrap();
        anchor.send(&proof(7));
        let mut taken = String::new();
        // Refused first, taken then.
        for answer in ["503 Busy", "204 No Content"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            taken = String::from_utf8(body).unwrap();
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        }
        Proofs::default().read_line(&taken).unwrap();
        drop(anchor);
    }
}
