//! Signals -> one receiver, in order, each until it is taken, refused for good, or too old.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::http::Post;
use super::settings::{Problem, Sink, Wanted};
use super::syslog::{self, Address};
use super::{Signal, Tally, Told, ocsf, otlp, webhook};

/// Pause before the first repetition, and the longest.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(30);
/// What nobody took for so long is no signal any more.
const OLD: Duration = Duration::from_mins(15);
/// Longest that one attempt at a socket takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a signal was not taken.
pub(crate) enum Failure {
    /// It may be another time, after so long where the receiver says so.
    Again(String, Option<Duration>),
    /// It never will.
    Refused(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Again(error.to_string(), None)
    }
}

/// One receiver.
pub(super) struct Receiver {
    pub(super) wanted: Wanted,
    pub(super) within: Duration,
    pub(super) told: Told,
    way: Way,
}

/// How it is told.
enum Way {
    Webhook(Post),
    Otlp(Post),
    Ocsf(Post),
    File(PathBuf),
    Syslog { address: Address, facility: String, line: Line },
}

/// A connection to a syslog, where there is one.
enum Line {
    None,
    Udp(UdpSocket),
    Tcp(TcpStream),
    Datagram(UnixDatagram),
    Stream(UnixStream),
}

impl Receiver {
    pub(super) fn new(sink: &Sink, number: usize) -> Result<Self, Problem> {
        let name = sink.label(number);
        let wrong = |problem: Problem| Problem(format!("signals[{number}] ({name}): {problem}"));
        let post = |url: &str, content| Post::new(url, sink.token()?.as_deref(), content);
        let way = match (sink.kind.as_str(), &sink.file) {
            ("webhook", _) => sink.url().and_then(|url| post(&url, "application/json")).map(Way::Webhook),
            ("otlp", _) => {
                sink.url().and_then(|url| post(&otlp::endpoint(&url), "application/json")).map(Way::Otlp)
            }
            ("ocsf", Some(file)) => Ok(Way::File(file.clone())),
            ("ocsf", None) => sink.url().and_then(|url| post(&url, "application/x-ndjson")).map(Way::Ocsf),
            _ => Address::read(&sink.address).map_err(Problem).map(|address| Way::Syslog {
                address,
                facility: sink.facility.clone(),
                line: Line::None,
            }),
        };
        let within = sink.window().unwrap_or_default();
        let told = Told { name: name.as_str().into(), tally: Arc::new(Tally::default()) };
        Ok(Self { wanted: sink.wanted(), within, told, way: way.map_err(wrong)? })
    }

    /// Tells signals until there are no more, or until the deadline that comes with the end.
    pub(super) async fn run(
        mut self,
        mut signals: mpsc::Receiver<Signal>,
        stopped: watch::Receiver<Duration>,
    ) {
        let mut deadline = stopped.clone();
        let ended = async move {
            let _ = deadline.wait_for(|left| *left < Duration::MAX).await;
            let left = *deadline.borrow();
            // The end without a word is one at once.
            tokio::time::sleep(if left == Duration::MAX { Duration::ZERO } else { left }).await;
        };
        let tally = Arc::clone(&self.told.tally);
        let under_way = AtomicU64::new(0);
        let told = async {
            while let Some(signal) = signals.recv().await {
                under_way.store(1, Relaxed);
                self.tell(&signal).await;
                under_way.store(0, Relaxed);
            }
        };
        tokio::select! {
            () = told => return,
            () = ended => {}
        }
        signals.close();
        let mut left = under_way.load(Relaxed);
        while signals.try_recv().is_ok() {
            left += 1;
        }
        tally.dropped_ended.fetch_add(left, Relaxed);
    }

    /// Tells one signal, however often it takes.
    async fn tell(&mut self, signal: &Signal) {
        let mut attempts = Attempts::new(&self.told);
        while attempts.again(self.way.send(signal).await).await {}
    }
}

/// What is sent until it is taken, refused for good, or too old.
pub(crate) struct Attempts<'a> {
    told: &'a Told,
    begun: Instant,
    pause: Duration,
    said: bool,
}

impl<'a> Attempts<'a> {
    /// Before the first one.
    pub(crate) fn new(told: &'a Told) -> Self {
        Self { told, begun: Instant::now(), pause: SOON, said: false }
    }

    /// Counts what came of an attempt. True, after a pause, where there is to be another.
    pub(crate) async fn again(&mut self, outcome: Result<(), Failure>) -> bool {
        let Told { name, tally } = self.told;
        let name = &**name;
        match outcome {
            Ok(()) => {
                tally.sent.fetch_add(1, Relaxed);
                if self.said {
                    tracing::info!(receiver = name, "takes signals again");
                }
                false
            }
            Err(Failure::Refused(reason)) => {
                tracing::error!(receiver = name, reason, "a signal was refused and is dropped");
                tally.dropped_refused.fetch_add(1, Relaxed);
                false
            }
            Err(Failure::Again(reason, _)) if self.begun.elapsed() > OLD => {
                tracing::error!(receiver = name, reason, "a signal was not taken in time and is dropped");
                tally.dropped_gave_up.fetch_add(1, Relaxed);
                false
            }
            Err(Failure::Again(reason, after)) => {
                if !self.said {
                    tracing::warn!(receiver = name, reason, "does not take signals: they are tried again");
                    self.said = true;
                }
                tally.retries.fetch_add(1, Relaxed);
                tokio::time::sleep(after.unwrap_or(self.pause).min(LATE)).await;
                self.pause = (self.pause * 2).min(LATE);
                true
            }
        }
    }
}

impl Way {
    async fn send(&mut self, signal: &Signal) -> Result<(), Failure> {
        match self {
            Way::Webhook(post) => post.send(webhook::body(signal).into()).await,
            Way::Otlp(post) => post.send(otlp::body(signal).into()).await,
            Way::Ocsf(post) => post.send(line(signal)).await,
            Way::File(path) => append(path, &line(signal)),
            Way::Syslog { address, facility, line } => {
                let message = syslog::message(signal, facility);
                let sent = tokio::time::timeout(PATIENCE, line.send(address, &message)).await;
                let sent = sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
                if sent.is_err() {
                    *line = Line::None;
                }
                Ok(sent?)
            }
        }
    }
}

fn line(signal: &Signal) -> Bytes {
    let mut line = ocsf::line(signal);
    line.push(b'\n');
    line.into()
}

/// Opened each time: whoever rotates it need not tell us.
fn append(path: &PathBuf, line: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(file.write_all(line)?)
}

impl Line {
    async fn send(&mut self, address: &Address, message: &[u8]) -> std::io::Result<()> {
        if matches!(self, Line::None) {
            *self = Line::open(address).await?;
        }
        match self {
            Line::None => Err(std::io::ErrorKind::NotConnected.into()),
            Line::Udp(socket) => socket.send(message).await.map(|_| ()),
            Line::Datagram(socket) => socket.send(message).await.map(|_| ()),
            Line::Tcp(stream) => {
                has_ended(stream)?;
                let mut framed = format!("{} ", message.len()).into_bytes();
                framed.extend_from_slice(message);
                stream.write_all(&framed).await
            }
            Line::Stream(stream) => {
                let mut framed = message.to_vec();
                framed.push(b'\n');
                stream.write_all(&framed).await
            }
        }
    }

    async fn open(address: &Address) -> std::io::Result<Self> {
        Ok(match address {
            Address::Udp(address) => {
                let to =
                    tokio::net::lookup_host(address).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
                let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(from).await?;
                socket.connect(to).await?;
                Line::Udp(socket)
            }
            Address::Tcp(address) => Line::Tcp(TcpStream::connect(address).await?),
            Address::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                match socket.connect(path) {
                    Ok(()) => Line::Datagram(socket),
                    // The wrong type of socket: it is a stream.
                    Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                        Line::Stream(UnixStream::connect(path).await?)
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

/// A receiver that has closed the connection would be noticed a message late.
fn has_ended(stream: &TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    match stream.try_read(&mut byte) {
        Ok(0) => Err(std::io::ErrorKind::ConnectionReset.into()),
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}
