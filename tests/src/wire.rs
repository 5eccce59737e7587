//! Hand-made frontend messages, for what no driver does: bytes one by one, odd orders, no protocol at all.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A connection that sends what it is told, byte for byte.
pub struct Wire {
    /// The socket, with Nagle's algorithm off.
    pub stream: TcpStream,
}

impl Wire {
    /// Connects, logs in as `postgres` (trust) and waits until the server is ready.
    pub fn login(address: impl ToSocketAddrs) -> Result<Self> {
        Self::login_to(address, "postgres")
    }

    /// Connects and logs in to a database.
    pub fn login_to(address: impl ToSocketAddrs, database: &str) -> Result<Self> {
        Self::login_as(address, "postgres", database)
    }

    /// Connects and logs in to a database as somebody.
    pub fn login_as(address: impl ToSocketAddrs, user: &str, database: &str) -> Result<Self> {
        let mut wire = Self::connect(address)?;
        wire.send(&startup(&[("user", user), ("database", database), ("application_name", "wire")]))?;
        wire.until_ready()?;
        Ok(wire)
    }

    /// Connects and sends nothing.
    pub fn connect(address: impl ToSocketAddrs) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        Ok(Self { stream })
    }

    /// Sends bytes in one write.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends bytes one write each.
    pub fn send_one_by_one(&mut self, bytes: &[u8]) -> Result<()> {
        for byte in bytes {
            self.stream.write_all(std::slice::from_ref(byte))?;
        }
        Ok(())
    }

    /// Asks in one Query, and gives all that is answered, as text.
    pub fn ask(&mut self, text: &str) -> Result<String> {
        self.send(&query(text))?;
        self.said().with_context(|| format!("asked: {text:.200}"))
    }

    /// Reads messages until ReadyForQuery, and gives all that they say, as text.
    pub fn said(&mut self) -> Result<String> {
        Ok(self.messages()?.iter().map(|(_, body)| String::from_utf8_lossy(body)).collect())
    }

    /// Reads messages until ReadyForQuery; their type bytes in order.
    pub fn until_ready(&mut self) -> Result<Vec<u8>> {
        self.answer().map(|(types, _)| types)
    }

    /// Reads messages until ReadyForQuery; how many bytes they took.
    pub fn until_ready_bytes(&mut self) -> Result<u64> {
        self.answer().map(|(_, bytes)| bytes)
    }

    /// Reads messages until ReadyForQuery, with their bodies.
    pub fn messages(&mut self) -> Result<Vec<(u8, Vec<u8>)>> {
        let mut messages = Vec::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; length.saturating_sub(4) as usize];
            self.stream.read_exact(&mut body)?;
            messages.push((head[0], body));
            if head[0] == b'Z' {
                return Ok(messages);
            }
        }
    }

    fn answer(&mut self) -> Result<(Vec<u8>, u64)> {
        let (mut types, mut bytes) = (Vec::new(), 0);
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let body = u64::from(length.saturating_sub(4));
            let copied = std::io::copy(&mut (&self.stream).take(body), &mut std::io::sink())?;
            if copied != body {
                bail!("the server closed the connection within a message");
            }
            types.push(head[0]);
            bytes += 5 + body;
            if head[0] == b'Z' {
                return Ok((types, bytes));
            }
        }
    }
}

/// StartupMessage, protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (key, value) in parameters {
        body.extend([key.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

/// A typed message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// Query.
pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

/// Parse, Bind without parameters, Execute of all rows; no Sync.
pub fn extended(name: &str, text: &str) -> Vec<u8> {
    let parse = message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat());
    [parse, execute(name)].concat()
}

/// Bind and Execute of a prepared statement; no Sync.
pub fn execute(name: &str) -> Vec<u8> {
    let bind = message(b'B', &[b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"].concat());
    [bind, message(b'E', b"\0\0\0\0\0")].concat()
}

/// FunctionCall with arguments and result in binary.
pub fn function_call(id: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = [&id.to_be_bytes()[..], &[0, 1, 0, 1], &(arguments.len() as u16).to_be_bytes()].concat();
    for argument in arguments {
        body.extend([&(argument.len() as u32).to_be_bytes()[..], argument].concat());
    }
    message(b'F', &[&body[..], &[0, 1]].concat())
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}
