//! An embedded ClickHouse that died -> one that serves again, at the same address. Receipts wait in the spool meanwhile.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::embedded::{Config, Embedded, EmbeddedError};

/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Pause before the first new start, and the longest: an engine that cannot live must not eat the host.
const SOON: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(30);
/// Whoever lived this long has earned a quick start again.
const STEADY: Duration = Duration::from_mins(5);
/// News that wait to be asked for.
const NEWS: usize = 64;

/// What became of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The process ended by itself.
    Ended,
    /// It serves again.
    Restarted,
}

/// The embedded ClickHouse and the thread that looks after it. Both end when it is dropped.
#[derive(Debug)]
pub struct Supervisor {
    address: SocketAddr,
    news: Receiver<News>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the engine, waits until it answers, and looks after it from then on.
    pub fn start(config: Config) -> Result<Self, EmbeddedError> {
        let engine = Embedded::start(&config)?;
        let address = engine.address();
        let config = Config { listen: Some(address), ..config };
        let (stop, stopped) = mpsc::channel();
        let (teller, news) = mpsc::sync_channel(NEWS);
        let thread = std::thread::Builder::new()
            .name("supervise".into())
            .spawn(move || watch(engine, &config, &stopped, &teller))?;
        Ok(Self { address, news, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, whichever process it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its HTTP interface.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What happened since this was asked last. Does not wait.
    pub fn news(&self) -> impl Iterator<Item = News> {
        self.news.try_iter()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks after it until the other end of `stop` is gone.
fn watch(mut engine: Embedded, config: &Config, stop: &Receiver<()>, news: &SyncSender<News>) {
    let tell = |what| {
        if news.try_send(what).is_err() {
            tracing::warn!(?what, "nobody asks what becomes of the embedded ClickHouse");
        }
    };
    let (mut began, mut pause) = (Instant::now(), SOON);
    while goes_on(stop, LOOK) {
        let Some(status) = engine.ended() else { continue };
        tracing::error!(%status, "the embedded ClickHouse ended and is started again: receipts wait in the spool");
        tell(News::Ended);
        if began.elapsed() > STEADY {
            pause = SOON;
        }
        loop {
            if !goes_on(stop, pause) {
                return;
            }
            pause = (pause * 2).min(LATE);
            match Embedded::start(config) {
                Ok(started) => {
                    engine = started;
                    break;
                }
                Err(error) => tracing::error!(%error, "the embedded ClickHouse does not start again"),
            }
        }
        began = Instant::now();
        tell(News::Restarted);
    }
}

fn goes_on(stop: &Receiver<()>, pause: Duration) -> bool {
    matches!(stop.recv_timeout(pause), Err(RecvTimeoutError::Timeout))
}
