//! HTTP requests -> the embedded engine -> HTTP answers: the part of ClickHouse's HTTP interface that the
//! `clickhouse` crate, `curl` and Grafana's ClickHouse data source use.
//!
//! Each request gets an engine connection of its own, so settings, parameters and the current database never
//! leak from one to another. Reads and inserts have separate permits: long reads never keep an insert waiting.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::engine::{Connection, Engine, EngineError, Exception, Stats};
use super::frame::{self, FrameError, Unpacker};
use super::{form, statement};

/// Most bytes of a query's own text; an insert's data beside it is not limited.
const QUERY_BYTES: usize = 64 << 20;
/// Reads and inserts that run at once.
const READS: usize = 8;
const INSERTS: usize = 8;
/// How long running requests may take to end once the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory cannot be made.
    #[error("cannot use {path}: {source}")]
    Path {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The engine behind its address.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    timezone: String,
    reads: Semaphore,
    inserts: Semaphore,
}

impl Server {
    /// Loads the library, opens the data directory and the address.
    pub async fn open(library: &Path, data: &Path, listen: SocketAddr) -> Result<Self, ServeError> {
        std::fs::create_dir_all(data)
            .map_err(|source| ServeError::Path { path: data.to_path_buf(), source })?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| ServeError::Listen { address: listen, source })?;
        let engine = Engine::open(library, data)?;
        let timezone = engine
            .connect()?
            .query(b"SELECT timezone()", "TSVRaw")
            .map_or_else(|_| "UTC".into(), |(text, _)| String::from_utf8_lossy(&text).trim().to_owned());
        let (reads, inserts) = (Semaphore::new(READS), Semaphore::new(INSERTS));
        Ok(Self { listener, shared: Arc::new(Shared { engine, timezone, reads, inserts }) })
    }

    /// Where it listens, with the port that the system chose where 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until `stop` is ready, then lets the running ones end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let graceful = hyper_util::server::graceful::GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors: wait for some to come back instead of spinning.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = &mut stop => break,
            };
            let _ = stream.set_nodelay(true);
            let shared = Arc::clone(&self.shared);
            let service = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    }
}

/// What the URL and the headers ask for.
struct Asked {
    query: String,
    database: Option<String>,
    /// `name = value` for SET, `param_x` included, in order.
    settings: Vec<(String, String)>,
    format: Option<String>,
    query_id: String,
    /// The answer goes out in ClickHouse's compressed frames.
    compress: bool,
    /// The body came in them.
    decompress: bool,
    read_only: bool,
}

/// URL parameters that are no settings.
const NOT_SETTINGS: [&str; 12] = [
    "user",
    "password",
    "quota_key",
    "session_id",
    "session_timeout",
    "session_check",
    "query_cache",
    "buffer_size",
    "wait_end_of_query",
    "client_protocol_version",
    "role",
    "stacktrace",
];

impl Asked {
    fn read(request: &Request<Incoming>) -> Self {
        let header = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
                .filter(|v| !v.is_empty())
        };
        let mut asked = Self {
            query: String::new(),
            database: header("X-ClickHouse-Database"),
            settings: Vec::new(),
            format: None,
            query_id: String::new(),
            compress: false,
            decompress: false,
            read_only: request.method() != Method::POST,
        };
        let on = |value: &str| matches!(value, "1" | "true");
        let mut default_format = header("X-ClickHouse-Format");
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "query" => asked.query.push_str(&value),
                "database" if !value.is_empty() => asked.database = Some(value.into_owned()),
                "default_format" if !value.is_empty() => default_format = Some(value.into_owned()),
                "query_id" => asked.query_id = value.into_owned(),
                "compress" => asked.compress = on(&value),
                "decompress" => asked.decompress = on(&value),
                // Compression by Accept-Encoding is the client's wish, not its need: answered plainly.
                "database" | "default_format" | "enable_http_compression" => {}
                name if NOT_SETTINGS.contains(&name) => {}
                name => asked.settings.push((name.to_owned(), value.into_owned())),
            }
        }
        asked.format = default_format;
        asked
    }

    /// Takes what a form says: the query, its parameters, settings.
    fn add_form(&mut self, body: &[u8], boundary: &str) -> Result<(), Failure> {
        let wrong = || Failure::Http(StatusCode::BAD_REQUEST, "the form is not whole\n".to_owned());
        for (name, value) in form::fields(body, boundary).ok_or_else(wrong)? {
            let value = String::from_utf8(value).map_err(|_| wrong())?;
            match name.as_str() {
                "query" => self.query.push_str(&value),
                "database" => self.database = Some(value),
                name if NOT_SETTINGS.contains(&name) => {}
                _ => self.settings.push((name, value)),
            }
        }
        Ok(())
    }

    /// A connection set up as the request asks.
    fn connection(&self, engine: &Engine) -> Result<Connection, Exception> {
        let mut connection = engine.connect().map_err(|e| Exception::new(e.to_string()))?;
        if let Some(database) = &self.database {
            connection.query(format!("USE {}", quoted(database, '`')).as_bytes(), "Null")?;
        }
        for (name, value) in &self.settings {
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(Exception::new(format!(
                    "Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)"
                )));
            }
            connection.query(format!("SET {name} = {}", quoted(value, '\'')).as_bytes(), "Null")?;
        }
        if self.read_only && !self.settings.iter().any(|(name, _)| name == "readonly") {
            // As the server does: a GET never changes data.
            connection.query(b"SET readonly = 2", "Null")?;
        }
        Ok(connection)
    }
}

fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
    out
}

/// What ends a request early.
enum Failure {
    Exception(Exception),
    Http(StatusCode, String),
}

impl From<Exception> for Failure {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        Self::Exception(Exception::new(format!("Code: 271. DB::Exception: {error}. (CANNOT_DECOMPRESS)")))
    }
}

/// The whole of a body that holds a query.
async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    let collected = Limited::new(body, QUERY_BYTES).collect().await.map_err(|error| {
        Failure::Http(StatusCode::PAYLOAD_TOO_LARGE, format!("cannot read the query: {error}\n"))
    })?;
    Ok(collected.to_bytes())
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match (request.method().as_str(), request.uri().path()) {
            ("GET" | "HEAD", "/ping" | "/replicas_status") => plain(StatusCode::OK, "Ok.\n"),
            ("GET" | "HEAD", "/") if request.uri().query().is_none() => plain(StatusCode::OK, "Ok.\n"),
            ("GET" | "HEAD" | "POST", "/") => match self.query(request).await {
                Ok(response) => response,
                Err(Failure::Http(status, text)) => plain(status, text),
                Err(Failure::Exception(exception)) => failed(&exception),
            },
            (_, "/") => plain(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST\n"),
            (_, path) => plain(StatusCode::NOT_FOUND, format!("There is no handle {path}\n")),
        }
    }

    async fn query(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let mut asked = Asked::read(&request);
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let boundary = content_type.and_then(form::boundary);
        let body = request.into_body();
        if let Some(boundary) = boundary {
            asked.add_form(&whole(body).await?, &boundary)?;
            return self.text(Arc::new(asked), Vec::new()).await;
        }
        let asked = Arc::new(asked);
        if let Some(insert) = statement::insert(asked.query.as_bytes()) {
            let (head, inline) = (insert.head.to_vec(), Bytes::copy_from_slice(insert.inline));
            let format = insert.format.or(asked.format.as_deref()).unwrap_or("Values").to_owned();
            return self.insert(asked, head, format, inline, Some(body)).await;
        }
        let body = whole(body).await?;
        let mut text = Vec::new();
        if asked.decompress {
            let mut unpacker = Unpacker::default();
            unpacker.push(&body, |data| {
                text.extend_from_slice(data);
                Ok::<(), Failure>(())
            })?;
            unpacker.finish()?;
        } else {
            text.extend_from_slice(&body);
        }
        self.text(asked, text).await
    }

    /// A request whose text is at hand: what the address says of it, then what the body says.
    async fn text(self: Arc<Self>, asked: Arc<Asked>, body: Vec<u8>) -> Result<Response<Body>, Failure> {
        let mut text = asked.query.clone().into_bytes();
        if !text.is_empty() && !body.is_empty() {
            text.push(b'\n');
        }
        text.extend_from_slice(&body);
        if let Some(insert) = statement::insert(&text) {
            let (head, inline) = (insert.head.to_vec(), Bytes::copy_from_slice(insert.inline));
            let format = insert.format.or(asked.format.as_deref()).unwrap_or("Values").to_owned();
            return self.insert(asked, head, format, inline, None).await;
        }
        if text.trim_ascii().is_empty() {
            return Err(Exception::new("Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)").into());
        }
        self.read(asked, text).await
    }

    /// An insert: the data goes to the engine as it arrives; a body that breaks off is not committed.
    async fn insert(
        self: Arc<Self>,
        asked: Arc<Asked>,
        head: Vec<u8>,
        format: String,
        inline: Bytes,
        body: Option<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        if asked.read_only {
            return Err(Exception::new(
                "Code: 164. DB::Exception: Cannot execute query in readonly mode: use POST to insert. (READONLY)",
            )
            .into());
        }
        let _permit = self.inserts.acquire().await;
        let (send, mut pieces) = mpsc::channel::<Result<Option<Bytes>, Failure>>(8);
        let (shared, request) = (Arc::clone(&self), Arc::clone(&asked));
        let worker = tokio::task::spawn_blocking(move || -> Result<Stats, Failure> {
            let mut connection = request.connection(&shared.engine)?;
            let mut insert = connection.insert(&head, &format)?;
            insert.append(&inline)?;
            let mut unpacker = Unpacker::default();
            loop {
                // No piece and no end: the request was dropped with its client, and so is the insert.
                let Some(piece) = pieces.blocking_recv() else {
                    return Err(Exception::new("the data broke off, nothing was inserted").into());
                };
                let Some(piece) = piece? else { break };
                if request.decompress {
                    unpacker.push(&piece, |data| insert.append(data).map_err(Failure::from))?;
                } else {
                    insert.append(&piece)?;
                }
            }
            unpacker.finish()?;
            Ok(insert.finish()?)
        });
        if let Some(mut body) = body {
            while let Some(next) = body.frame().await {
                let piece = match next {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => Ok(Some(data)),
                        Err(_) => continue,
                    },
                    Err(error) => Err(Failure::Http(
                        StatusCode::BAD_REQUEST,
                        format!("the data broke off, nothing was inserted: {error}\n"),
                    )),
                };
                // A worker that failed takes no more; the rest is read so that the client gets the reason.
                let _ = send.send(piece).await;
            }
        }
        let _ = send.send(Ok(None)).await;
        let stats = worker.await.map_err(|_| Exception::new("the insert's thread ended early"))??;
        let mut response = Response::new(full(Bytes::new()));
        self.headers(&mut response, &asked, None, Some(&stats));
        Ok(response)
    }

    async fn read(self: Arc<Self>, asked: Arc<Asked>, text: Vec<u8>) -> Result<Response<Body>, Failure> {
        let permit = Arc::clone(&self);
        let permit = async move { permit.reads.acquire().await.map(tokio::sync::SemaphorePermit::forget) };
        let _ = permit.await;
        let release = Release(Arc::clone(&self));
        let format =
            statement::answer_format(&text).or(asked.format.as_deref()).unwrap_or("TabSeparated").to_owned();
        let streamed = statement::is_select(&text) && Pieces::new(&format).is_some();
        let (send, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        let (first, begun) = oneshot::channel::<Result<Option<Stats>, Exception>>();
        let (shared, request, named) = (Arc::clone(&self), Arc::clone(&asked), format.clone());
        tokio::task::spawn_blocking(move || {
            let _release = release;
            let mut outcome = Outcome { first: Some(first), send, compress: request.compress };
            let result = request.connection(&shared.engine).and_then(|mut connection| {
                let whole = if streamed {
                    match Pieces::new(&named) {
                        Some(mut pieces) => connection
                            .stream(&text, &named, |piece| outcome.piece(None, pieces.strip(piece)))
                            .map(|stats| (Vec::new(), stats)),
                        None => connection.query(&text, &named),
                    }
                } else {
                    connection.query(&text, &named)
                };
                // The engine streams fewer kinds of SELECT than it answers.
                match whole {
                    Err(e)
                        if streamed
                            && outcome.first.is_some()
                            && e.text.contains("Streaming query is not") =>
                    {
                        connection.query(&text, &named)
                    }
                    other => other,
                }
            });
            outcome.end(result);
        });
        match begun.await {
            Ok(Ok(stats)) => {
                let pieces =
                    stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
                let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
                let mut response = Response::new(body.boxed_unsync());
                self.headers(&mut response, &asked, Some(&format), stats.as_ref());
                Ok(response)
            }
            Ok(Err(exception)) => Err(exception.into()),
            Err(_) => Err(Exception::new("the query's thread ended early").into()),
        }
    }

    fn headers(
        &self,
        response: &mut Response<Body>,
        asked: &Asked,
        format: Option<&str>,
        stats: Option<&Stats>,
    ) {
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set("x-clickhouse-server-display-name", "weir");
        set("x-clickhouse-timezone", &self.timezone);
        set("x-clickhouse-query-id", &asked.query_id);
        if let Some(format) = format {
            set("x-clickhouse-format", format);
            set("content-type", content_type(format));
        }
        if let Some(s) = stats {
            set(
                "x-clickhouse-summary",
                &format!(
                    r#"{{"read_rows":"{}","read_bytes":"{}","written_rows":"{}","written_bytes":"{}","total_rows_to_read":"0","result_rows":"{}","result_bytes":"0","elapsed_ns":"{}"}}"#,
                    s.read_rows,
                    s.read_bytes,
                    s.written_rows,
                    s.written_bytes,
                    s.result_rows,
                    (s.elapsed * 1e9) as u64,
                ),
            );
        }
    }
}

/// Gives a read's permit back when its thread ends, not when its request is forgotten.
struct Release(Arc<Shared>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.reads.add_permits(1);
    }
}

/// Where a read's answer goes: the first word decides the status, the rest is the body.
struct Outcome {
    first: Option<oneshot::Sender<Result<Option<Stats>, Exception>>>,
    send: mpsc::Sender<Result<Bytes, std::io::Error>>,
    compress: bool,
}

impl Outcome {
    /// Sends a piece; false where nobody listens any more.
    fn piece(&mut self, stats: Option<Stats>, piece: &[u8]) -> bool {
        if let Some(first) = self.first.take()
            && first.send(Ok(stats)).is_err()
        {
            return false;
        }
        let bytes =
            if self.compress { Bytes::from(frame::pack(piece)) } else { Bytes::copy_from_slice(piece) };
        self.send.blocking_send(Ok(bytes)).is_ok()
    }

    fn end(mut self, result: Result<(Vec<u8>, Stats), Exception>) {
        match (result, self.first.is_some()) {
            (Ok((whole, stats)), true) => {
                self.piece(Some(stats), &whole);
            }
            (Ok(_), false) => {}
            (Err(exception), true) => {
                let _ = self.first.take().map(|first| first.send(Err(exception)));
            }
            // The status is out already: the body breaks off, so the client cannot take it for whole.
            (Err(exception), false) => {
                let _ = self.send.blocking_send(Err(std::io::Error::other(exception)));
            }
        }
    }
}

/// Formats whose pieces can be joined: all but the first lose their repeated header.
struct Pieces {
    named: bool,
    header: Option<Vec<u8>>,
}

impl Pieces {
    fn new(format: &str) -> Option<Self> {
        match format {
            "TabSeparated" | "TSV" | "TabSeparatedRaw" | "TSVRaw" | "CSV" | "JSONEachRow" | "RowBinary"
            | "Native" => Some(Self { named: false, header: None }),
            "RowBinaryWithNamesAndTypes" => Some(Self { named: true, header: None }),
            _ => None,
        }
    }

    fn strip<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        if !self.named {
            return piece;
        }
        if let Some(header) = &self.header {
            return piece.strip_prefix(header.as_slice()).unwrap_or(piece);
        }
        self.header = names_and_types(piece).map(|length| piece[..length].to_vec());
        piece
    }
}

/// Length of the header of RowBinaryWithNamesAndTypes.
fn names_and_types(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let number = |at: &mut usize| {
        let (mut value, mut shift) = (0usize, 0);
        loop {
            let b = *bytes.get(*at)?;
            *at += 1;
            value |= usize::from(b & 0x7f) << shift;
            shift += 7;
            if b < 0x80 || shift > 28 {
                return Some(value);
            }
        }
    };
    let columns = number(&mut at)?;
    for _ in 0..columns * 2 {
        let length = number(&mut at)?;
        at = at.checked_add(length)?;
    }
    (at <= bytes.len()).then_some(at)
}

fn content_type(format: &str) -> &'static str {
    match format {
        f if f.starts_with("JSONEachRow") || f.contains("JSONLines") || f == "NDJSON" => {
            "application/x-ndjson; charset=UTF-8"
        }
        f if f.starts_with("JSON") => "application/json; charset=UTF-8",
        f if f.starts_with("CSV") => "text/csv; charset=UTF-8; header=absent",
        f if f.starts_with("TabSeparated") || f.starts_with("TSV") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        "Native" | "Parquet" | "Arrow" | "ArrowStream" => "application/octet-stream",
        f if f.starts_with("RowBinary") => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}

/// The status that the server gives to an error code (ClickHouse's `exceptionCodeToHTTPStatus`).
fn status(code: u32) -> StatusCode {
    match code {
        // Not parsed, wrong types, wrong arguments.
        6 | 7 | 8 | 10 | 15 | 16 | 20 | 25 | 26 | 27 | 33 | 36 | 38 | 41 | 42 | 43 | 44 | 52 | 53 | 62
        | 69 | 70 | 72 | 117 | 131 | 246 | 271 | 395 | 456 | 457 => StatusCode::BAD_REQUEST,
        46 | 47 | 48 | 50 | 56 | 60 | 63 | 73 | 81 | 115 => StatusCode::NOT_FOUND,
        159 => StatusCode::REQUEST_TIMEOUT,
        160 | 202 | 252 => StatusCode::SERVICE_UNAVAILABLE,
        192 | 193 | 194 | 516 => StatusCode::UNAUTHORIZED,
        164 | 291 | 497 => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failed(exception: &Exception) -> Response<Body> {
    let mut response = plain(status(exception.code), format!("{}\n", exception.text.trim_end()));
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert("x-clickhouse-exception-code", exception.code.into());
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
