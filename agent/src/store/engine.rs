//! libchdb's C interface -> safe calls: whole answers, streamed answers, streamed inserts.
//!
//! The library is the real ClickHouse engine (`@chdb/lib-*` on npm). It is loaded at run time, so the agent
//! itself stays small and needs neither the library nor its header to build. Declarations follow `chdb.h`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the engine cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No library where one is looked for.
    #[error(
        "libchdb.so is not in {places}: `cargo xtask demo` fetches it, or name it with --library or WEIR_LIBCHDB"
    )]
    Missing {
        /// Where was looked, for people.
        places: String,
    },
    /// The file is not a library that can be used.
    #[error("cannot load {path}: {reason}; `cargo xtask demo` fetches it anew where it is missing")]
    Load {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The engine does not open the data directory.
    #[error("the engine cannot open {path}: is another `weir clickhouse` using it, and is it writable?")]
    Open {
        /// The data directory.
        path: PathBuf,
    },
}

/// What ClickHouse itself says about a query that failed: `Code: 60. DB::Exception: ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Exception {
    /// ClickHouse's error code; 1002 (unknown exception) where the text has none.
    pub code: u32,
    /// The whole text.
    pub text: String,
}

impl Exception {
    /// From the engine's text.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let code = text
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split('.').next())
            .and_then(|code| code.parse().ok())
            .unwrap_or(1002);
        Self { code, text }
    }
}

/// What a finished query read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Rows read from storage.
    pub read_rows: u64,
    /// Bytes read from storage.
    pub read_bytes: u64,
    /// Rows written, those of materialized views included.
    pub written_rows: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Rows of the answer.
    pub result_rows: u64,
    /// Seconds.
    pub elapsed: f64,
}

type Handle = *mut c_void;

/// The functions of `chdb.h` that are used.
struct Api {
    signals: unsafe extern "C" fn(c_int),
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    query: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize) -> Handle,
    stream: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize) -> Handle,
    fetch: unsafe extern "C" fn(Handle, Handle) -> Handle,
    cancel: unsafe extern "C" fn(Handle, Handle),
    destroy: unsafe extern "C" fn(Handle),
    insert: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize) -> Handle,
    append: unsafe extern "C" fn(Handle, *const c_void, usize) -> c_int,
    done: unsafe extern "C" fn(Handle) -> Handle,
    insert_error: unsafe extern "C" fn(Handle) -> *const c_char,
    cancel_insert: unsafe extern "C" fn(Handle),
    destroy_insert: unsafe extern "C" fn(Handle),
    buffer: unsafe extern "C" fn(Handle) -> *const c_char,
    length: unsafe extern "C" fn(Handle) -> usize,
    error: unsafe extern "C" fn(Handle) -> *const c_char,
    elapsed: unsafe extern "C" fn(Handle) -> f64,
    rows: unsafe extern "C" fn(Handle) -> u64,
    storage_rows: unsafe extern "C" fn(Handle) -> u64,
    storage_bytes: unsafe extern "C" fn(Handle) -> u64,
    rows_written: unsafe extern "C" fn(Handle) -> u64,
    bytes_written: unsafe extern "C" fn(Handle) -> u64,
}

impl Api {
    fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the file is the engine that the operator installed or named; its initializers are its own.
        let library = unsafe { libloading::Library::new(path) }?;
        // The engine's threads live until the process ends: the library is never unloaded.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the field's type is the declaration of this symbol in chdb.h.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }?
            };
        }
        Ok(Self {
            signals: symbol!("chdb_set_signal_handlers_enabled"),
            connect: symbol!("chdb_connect"),
            close: symbol!("chdb_close_conn"),
            query: symbol!("chdb_query_n"),
            stream: symbol!("chdb_stream_query_n"),
            fetch: symbol!("chdb_stream_fetch_result"),
            cancel: symbol!("chdb_stream_cancel_query"),
            destroy: symbol!("chdb_destroy_query_result"),
            insert: symbol!("chdb_stream_insert_n"),
            append: symbol!("chdb_stream_append"),
            done: symbol!("chdb_stream_done"),
            insert_error: symbol!("chdb_stream_insert_error"),
            cancel_insert: symbol!("chdb_stream_cancel_insert"),
            destroy_insert: symbol!("chdb_destroy_insert_stream"),
            buffer: symbol!("chdb_result_buffer"),
            length: symbol!("chdb_result_length"),
            error: symbol!("chdb_result_error"),
            elapsed: symbol!("chdb_result_elapsed"),
            rows: symbol!("chdb_result_rows_read"),
            storage_rows: symbol!("chdb_result_storage_rows_read"),
            storage_bytes: symbol!("chdb_result_storage_bytes_read"),
            rows_written: symbol!("chdb_result_rows_written"),
            bytes_written: symbol!("chdb_result_bytes_written"),
        })
    }
}

/// The places where the library is looked for when none is named, best first.
pub fn library_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(exe) = std::env::current_exe()
        && let Some(dir) = exe.parent()
    {
        places.push(dir.join("libchdb.so"));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    places.extend(cache.map(|dir| dir.join("weir/libchdb.so")));
    places.extend(["/usr/lib/weir/libchdb.so", "/usr/local/lib/libchdb.so"].map(PathBuf::from));
    places
}

/// The library to load: the named one, `WEIR_LIBCHDB`, or the first of [`library_places`] that is there.
pub fn find_library(named: Option<&Path>) -> Result<PathBuf, EngineError> {
    let named = named.map(Path::to_path_buf).or_else(|| std::env::var_os("WEIR_LIBCHDB").map(PathBuf::from));
    let places = named.map_or_else(library_places, |path| vec![path]);
    places.iter().find(|place| place.is_file()).cloned().ok_or_else(|| EngineError::Missing {
        places: places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// The engine over one data directory. One to a process; it lives until the last connection is dropped.
pub struct Engine {
    api: Arc<Api>,
    path: PathBuf,
    /// Keeps the engine up between requests: closing the last connection would shut it down.
    _keeper: Connection,
}

impl Engine {
    /// Loads the library and opens the data directory, which is created where it is missing.
    pub fn open(library: &Path, data: &Path) -> Result<Self, EngineError> {
        let api = Api::load(library)
            .map_err(|e| EngineError::Load { path: library.to_path_buf(), reason: e.to_string() })?;
        // SAFETY: takes a flag. The agent keeps its own signal handling.
        unsafe { (api.signals)(0) };
        let (api, path) = (Arc::new(api), data.to_path_buf());
        let keeper = Connection::open(&api, &path)?;
        Ok(Self { api, path, _keeper: keeper })
    }

    /// A connection of its own: its settings, parameters and current database end with it. Connections run
    /// in parallel; one connection runs one statement at a time, which `&mut` enforces.
    pub fn connect(&self) -> Result<Connection, EngineError> {
        Connection::open(&self.api, &self.path)
    }
}

/// One connection to the engine.
pub struct Connection {
    api: Arc<Api>,
    raw: *mut Handle,
}

// SAFETY: chdb.h: connections may be used from any thread, by one at a time; `&mut self` sees to the latter.
unsafe impl Send for Connection {}
// SAFETY: no method takes `&self`.
unsafe impl Sync for Connection {}

impl Connection {
    fn open(api: &Arc<Api>, data: &Path) -> Result<Self, EngineError> {
        let failed = || EngineError::Open { path: data.to_path_buf() };
        let path = CString::new(format!("--path={}", data.display())).map_err(|_| failed())?;
        let mut arguments = [c"clickhouse".as_ptr().cast_mut(), path.as_ptr().cast_mut()];
        // SAFETY: argc and argv match and outlive the call, which copies them.
        let raw = unsafe { (api.connect)(arguments.len() as c_int, arguments.as_mut_ptr()) };
        // SAFETY: a non-null answer points to the connection.
        if raw.is_null() || unsafe { (*raw).is_null() } {
            return Err(failed());
        }
        Ok(Self { api: Arc::clone(api), raw })
    }

    fn handle(&self) -> Handle {
        // SAFETY: checked to be non-null when it was opened, closed only on drop.
        unsafe { *self.raw }
    }

    /// Runs a query and hands its whole answer over.
    pub fn query(&mut self, sql: &[u8], format: &str) -> Result<(Vec<u8>, Stats), Exception> {
        // SAFETY: both texts outlive the call; it takes their lengths.
        let raw = unsafe {
            (self.api.query)(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        let answer = Answer { api: &self.api, raw };
        answer.check()?;
        Ok((answer.bytes().to_vec(), answer.stats()))
    }

    /// Runs a SELECT and hands its answer over in pieces, each formatted on its own. `piece` returns false
    /// to stop early.
    pub fn stream(
        &mut self,
        sql: &[u8],
        format: &str,
        mut piece: impl FnMut(&[u8]) -> bool,
    ) -> Result<Stats, Exception> {
        // SAFETY: as in `query`.
        let raw = unsafe {
            (self.api.stream)(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        let stream = Answer { api: &self.api, raw };
        stream.check()?;
        let mut stats = Stats::default();
        loop {
            // SAFETY: both handles are alive.
            let chunk =
                Answer { api: &self.api, raw: unsafe { (self.api.fetch)(self.handle(), stream.raw) } };
            chunk.check()?;
            let bytes = chunk.bytes();
            if bytes.is_empty() {
                return Ok(stats);
            }
            let part = chunk.stats();
            stats.result_rows += part.result_rows;
            stats.read_rows += part.read_rows;
            stats.read_bytes += part.read_bytes;
            stats.elapsed += part.elapsed;
            if !piece(bytes) {
                // SAFETY: both handles are alive.
                unsafe { (self.api.cancel)(self.handle(), stream.raw) };
                return Ok(stats);
            }
        }
    }

    /// Begins an insert whose data follows in `format`. `sql` ends before its FORMAT clause.
    pub fn insert(&mut self, sql: &[u8], format: &str) -> Result<Insert<'_>, Exception> {
        // SAFETY: as in `query`.
        let raw = unsafe {
            (self.api.insert)(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        let insert = Insert { connection: self, raw };
        insert.check()?;
        Ok(insert)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once.
        unsafe { (self.api.close)(self.raw) };
    }
}

/// An insert under way. Dropped before `finish`, it is cancelled: nothing of it is kept.
pub struct Insert<'a> {
    connection: &'a mut Connection,
    raw: Handle,
}

impl Insert<'_> {
    fn check(&self) -> Result<(), Exception> {
        // SAFETY: the handle is alive; the text is the engine's until it is destroyed, and copied here.
        match unsafe { text((self.connection.api.insert_error)(self.raw)) } {
            Some(error) => Err(Exception::new(error)),
            None => Ok(()),
        }
    }

    /// Adds data, cut anywhere. Blocks while the engine is behind.
    pub fn append(&mut self, data: &[u8]) -> Result<(), Exception> {
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: the data outlives the call, which copies it.
        if unsafe { (self.connection.api.append)(self.raw, data.as_ptr().cast(), data.len()) } == 0 {
            return Ok(());
        }
        self.check()?;
        Err(Exception::new("the engine refused the insert's data without saying why"))
    }

    /// Ends the data and commits.
    pub fn finish(self) -> Result<Stats, Exception> {
        // SAFETY: the handle is alive; the answer is destroyed with `Answer`.
        let answer =
            Answer { api: &self.connection.api, raw: unsafe { (self.connection.api.done)(self.raw) } };
        answer.check()?;
        Ok(answer.stats())
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: cancelling a finished insert does nothing; destroyed once.
        unsafe {
            (self.connection.api.cancel_insert)(self.raw);
            (self.connection.api.destroy_insert)(self.raw);
        }
    }
}

/// A result handle, destroyed on drop.
struct Answer<'a> {
    api: &'a Api,
    raw: Handle,
}

impl Answer<'_> {
    fn check(&self) -> Result<(), Exception> {
        if self.raw.is_null() {
            return Err(Exception::new("the engine gave no answer"));
        }
        // SAFETY: the handle is alive; the text is copied.
        match unsafe { text((self.api.error)(self.raw)) } {
            Some(error) => Err(Exception::new(error)),
            None => Ok(()),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer belongs to the handle and has that length.
        unsafe {
            let (start, length) = ((self.api.buffer)(self.raw), (self.api.length)(self.raw));
            if start.is_null() || length == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(start.cast(), length)
            }
        }
    }

    fn stats(&self) -> Stats {
        // SAFETY: the handle is alive.
        unsafe {
            Stats {
                read_rows: (self.api.storage_rows)(self.raw),
                read_bytes: (self.api.storage_bytes)(self.raw),
                written_rows: (self.api.rows_written)(self.raw),
                written_bytes: (self.api.bytes_written)(self.raw),
                result_rows: (self.api.rows)(self.raw),
                elapsed: (self.api.elapsed)(self.raw),
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: destroyed once.
            unsafe { (self.api.destroy)(self.raw) };
        }
    }
}

/// A C string of the engine's, copied; none where there is none or it is empty.
unsafe fn text(raw: *const c_char) -> Option<String> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: the caller hands over a NUL-terminated string.
    let text = unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_says_how_to_get_it() {
        let error = find_library(Some(Path::new("/nowhere/libchdb.so"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libchdb.so") && error.contains("cargo xtask demo"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn exceptions_carry_their_code() {
        assert_eq!(Exception::new("Code: 60. DB::Exception: Table x does not exist.").code, 60);
        assert_eq!(Exception::new("out of luck").code, 1002);
    }
}
