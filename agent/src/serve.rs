//! Connections -> HTTP requests -> answers, bounded, on a thread of its own with no rights at all.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

/// Connections at once.
const CONNECTIONS: usize = 32;
/// Of them, those of one user of a Unix socket who is not root: nobody keeps others out.
const OF_ONE_USER: usize = 8;
/// How long a request's head may take, and its body.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last that is for one request.
const LIFETIME: Duration = Duration::from_secs(30);
/// Longest body.
const BODY: usize = 64 << 10;

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// Who asks.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Somebody at an address.
    Address(SocketAddr),
    /// A process on this host.
    Process {
        /// Its user.
        uid: u32,
        /// Its primary group.
        gid: u32,
        /// Itself, where the kernel says so.
        pid: Option<i32>,
    },
}

/// Where connections come in.
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Takes over a socket that listens; inside of a runtime.
    pub fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    /// The same for a Unix socket.
    pub fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self::Unix)
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Box::new(stream), Peer::Address(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let who = stream.peer_cred()?;
                Ok((Box::new(stream), Peer::Process { uid: who.uid(), gid: who.gid(), pid: who.pid() }))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Whether connections are kept for the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// As long as the other side wants.
    Alive,
    /// One request each.
    Once,
}

/// Answers until it is stopped.
pub async fn serve<H, F>(listener: Listener, keep: Keep, handle: H, mut stopped: watch::Receiver<bool>)
where
    H: Fn(Request<Incoming>, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let users: Users = Arc::default();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = tokio::select! {
            () = end(&mut stopped) => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(seat) = Seat::take(&users, &peer) else { continue };
        let (handle, mut ends) = (handle.clone(), stopped.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handle(request, peer.clone());
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(keep == Keep::Alive);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            let lifetime = if keep == Keep::Once { LIFETIME } else { Duration::MAX };
            tokio::select! {
                _ = served => {}
                () = tokio::time::sleep(lifetime) => {}
                () = end(&mut ends) => {}
            }
            drop((place, seat));
        });
    }
}

/// Waits until all is to end.
pub async fn end(stopped: &mut watch::Receiver<bool>) {
    // Whoever could say so being gone is the end too. What is lent meanwhile would not go between threads.
    let _ = stopped.wait_for(|stop| *stop).await.map(drop);
}

/// Connections by user.
type Users = Arc<Mutex<HashMap<u32, usize>>>;

/// A connection's place among those of its user.
struct Seat(Option<(Users, u32)>);

impl Seat {
    fn take(users: &Users, peer: &Peer) -> Option<Self> {
        let Peer::Process { uid, .. } = *peer else { return Some(Self(None)) };
        if uid == 0 {
            return Some(Self(None));
        }
        let mut all = users.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(uid).or_default();
        if *own >= OF_ONE_USER {
            return None;
        }
        *own += 1;
        Some(Self(Some((Arc::clone(users), uid))))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((users, uid)) = &self.0 else { return };
        let mut all = users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(uid) {
            *own -= 1;
            if *own == 0 {
                all.remove(uid);
            }
        }
    }
}

/// An answer with a body of that type.
pub fn told(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A request's body; none where it is too long or too slow.
pub async fn body(request: Request<Incoming>) -> Option<Bytes> {
    let read = Limited::new(request.into_body(), BODY).collect();
    Some(tokio::time::timeout(PATIENCE, read).await.ok()?.ok()?.to_bytes())
}

/// A thread with a runtime of its own and no capabilities. It is told to end, and waited for, when this is dropped.
pub struct Thread {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts it. What it runs ends soon after it is told so.
    pub fn start<F>(
        name: &'static str,
        run: impl FnOnce(watch::Receiver<bool>) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>>,
    {
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            if let Err(error) = crate::privileges::keep(&[]) {
                tracing::warn!(%error, thread = name, "this thread keeps the agent's capabilities");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = runtime.and_then(|runtime| {
                let ended = runtime.block_on(run(stopped));
                // A directory service that does not answer is not waited for.
                runtime.shutdown_background();
                ended
            });
            if let Err(error) = ended {
                tracing::error!(%error, thread = name, "this thread has ended");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
