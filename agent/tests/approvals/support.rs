//! A running `Approvals` and those around it: the gate, users, a chat, a browser.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use agent::approve::{Approvals, Settings};
use agent_core::approval::{Answer, Request};
use agent_core::event::Event;
use agent_core::policy::{Approval, OnTimeout};
use tempfile::TempDir;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// The agent's side.
pub(crate) struct House {
    pub(crate) home: TempDir,
    pub(crate) approvals: Approvals,
    woken: Arc<(Mutex<u64>, Condvar)>,
}

/// What the gate holds: a statement in words, its bytes by one number.
pub(crate) fn request(id: u128, digest: u8, groups: &[&str], ttl: Duration) -> Request {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let event = Event {
        event_id: id,
        time: since.as_nanos() as u64,
        session_id: 42,
        policy_rule: "no-drop".into(),
        policy_version: "0123456789ab".into(),
        identity_principal: "shop".into(),
        process_owner: "daemon".into(),
        db_system_name: "postgresql".into(),
        db_namespace: "shop".into(),
        db_user: "app".into(),
        client_address: "10.0.0.7".into(),
        client_port: 4711,
        db_query_text: format!("DROP TABLE t{digest} <b>").into(),
        ..Event::default()
    };
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    let terms = Approval { groups, ttl, single_use: true, on_timeout: OnTimeout::Deny };
    Request::new(&event, &"Ask in #dba.".into(), [digest; 32], terms)
}

/// Long enough for no test to see its end.
pub(crate) const LONG: Duration = Duration::from_secs(3_600);

impl House {
    pub(crate) fn open(settings: &Settings) -> Self {
        let home = tempfile::tempdir().unwrap();
        // Other users are to reach the socket.
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self::open_in(home, settings)
    }

    pub(crate) fn open_in(home: TempDir, settings: &Settings) -> Self {
        let woken = Arc::new((Mutex::new(0), Condvar::new()));
        let bell = Arc::clone(&woken);
        let wake = move || {
            *bell.0.lock().unwrap() += 1;
            bell.1.notify_all();
        };
        let opened = settings.open(&home.path().join("run/weir.sock"), home.path(), "db1").unwrap();
        let approvals = Approvals::start(opened, Box::new(wake)).unwrap();
        Self { home, approvals, woken }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("run/weir.sock")
    }

    /// Waits until the gate is woken for as long as `fetch` has nothing.
    pub(crate) fn fetched<T>(&self, mut fetch: impl FnMut(&Approvals) -> Vec<T>) -> Vec<T> {
        let began = Instant::now();
        let mut seen = 0;
        loop {
            let found = fetch(&self.approvals);
            if !found.is_empty() {
                return found;
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            let woken = self.woken.0.lock().unwrap();
            let (woken, waited) =
                self.woken.1.wait_timeout_while(woken, left, |woken| *woken == seen).unwrap();
            assert!(!waited.timed_out(), "nobody woke the gate");
            seen = *woken;
        }
    }

    /// The one answer that waits.
    pub(crate) fn answer(&self) -> Answer {
        let mut answers = self.fetched(Approvals::answers);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    /// Runs `weir`: exit status, standard output, standard error.
    pub(crate) fn weir(&self, arguments: &[&str]) -> (i32, String, String) {
        weir(&self.socket(), arguments)
    }
}

pub(crate) fn weir(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .arg("--socket")
        .arg(socket)
        .env_remove("WEIR_LOG")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

/// Asks over the control socket as another user: status and body. The kernel takes a thread's own word for who it is
/// only from root.
pub(crate) fn ask_as(uid: u32, socket: &Path, head: &str, body: &str) -> (u16, String) {
    let (socket, head, body) = (socket.to_owned(), head.to_owned(), body.to_owned());
    let asked = std::thread::spawn(move || {
        // SAFETY: no pointers; the system call, unlike the C function, is about this thread only, which ends soon.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        exchange(UnixStream::connect(socket).unwrap(), &head, &body)
    });
    asked.join().unwrap()
}

/// One request and its answer, by hand.
fn exchange(mut stream: impl Read + Write, head: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!("{head} HTTP/1.1\r\nhost: weir\r\ncontent-length: {length}\r\n\r\n{body}");
    // Who is sent too much answers and closes, read or not: what counts is the answer.
    let sent = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(!answer.is_empty(), "no answer: {sent:?}, {read:?}");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (status.unwrap_or_else(|| panic!("no answer: {answer}")), body.to_owned())
}

/// What a browser does with a link.
pub(crate) fn browse(method: &str, url: &str) -> (u16, String) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, &format!("{method} /{path}"), "")
}

/// A chat: what it was told, each message as JSON.
#[derive(Clone)]
pub(crate) struct Chat {
    pub(crate) url: String,
    told: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Chat {
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let chat =
            Self { url: format!("http://{}/secret", listener.local_addr().unwrap()), told: Arc::default() };
        let keeps = chat.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let keeps = keeps.clone();
                std::thread::spawn(move || while keeps.take(&stream).is_some() {});
            }
        });
        chat
    }

    fn take(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line).ok()? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().ok()?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if length > 0 {
            let message = serde_json::from_slice(&body).ok()?;
            self.told.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()
    }

    /// The message with that number, once it is there.
    pub(crate) fn message(&self, number: usize) -> serde_json::Value {
        let began = Instant::now();
        loop {
            if let Some(message) = self.told.lock().unwrap().get(number) {
                return message.clone();
            }
            assert!(began.elapsed() < PATIENCE, "the chat was not told");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The links of that message: to approve, to deny.
    pub(crate) fn links(&self, number: usize) -> (String, String) {
        let message = self.message(number);
        let blocks = message["blocks"].as_array().unwrap();
        let buttons = blocks.iter().find(|block| block["type"] == "actions").expect("no buttons");
        let url = |at: usize| buttons["elements"][at]["url"].as_str().unwrap().to_owned();
        (url(0), url(1))
    }
}

pub(crate) fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: needs root, not run");
    }
    root
}
