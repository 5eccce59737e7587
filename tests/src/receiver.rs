//! A webhook's address -> what was sent there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// Takes every HTTP request and keeps its head and body. Its thread ends with the test's process.
#[derive(Clone)]
pub struct Receiver {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    got: Arc<Mutex<Vec<u8>>>,
}

impl Receiver {
    /// Listens on a free port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let receiver = Self { url: format!("http://{}", listener.local_addr()?), got: Arc::default() };
        let keeps = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let keeps = keeps.clone();
                std::thread::spawn(move || while keeps.take(&stream).is_some() {});
            }
        });
        Ok(receiver)
    }

    /// Takes one request; none where there is no other.
    fn take(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).ok()? > 2 {
            head += &std::mem::take(&mut line);
        }
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        body.push(b'\n');
        self.got.lock().unwrap_or_else(PoisonError::into_inner).extend([head.as_bytes(), &body].concat());
        let mut to = stream;
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()
    }

    /// All that was sent so far.
    pub fn got(&self) -> String {
        String::from_utf8_lossy(&self.got.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}
