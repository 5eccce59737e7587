//! A relay between client and server that masks: a stand-in, for tests, for what holds a gated session's sockets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent_core::mask::{self, Flow, Mask, Plan, Unmaskable};
use agent_core::sql::{Dialect, Texts};
use anyhow::{Context, Result};

/// Odd, so that messages are torn.
const PIECE: usize = 1777;

/// What a relay saw.
#[derive(Default)]
struct Seen {
    /// Every byte that clients got.
    told: Vec<u8>,
    /// Rows masked, by class.
    masked: BTreeMap<String, u64>,
    /// Statements that were not forwarded, and what ended sessions.
    refused: Vec<Unmaskable>,
}

/// A listening relay. Gone when dropped, with its sessions.
pub struct Relay {
    /// Where it listens, on IPv4 loopback.
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Masks by the plan the answers to statements that touch this relation; of all statements where it is empty.
    pub fn start(server: u16, relation: &'static str, plan: Plan) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (seen, over) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (plan, into, stop) = (Arc::new(plan), Arc::clone(&seen), Arc::clone(&over));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let session = Session { relation, plan: Arc::clone(&plan), seen: Arc::clone(&into) };
                let _ = session.open(client, server);
            }
        });
        Ok(Self { port, seen, over })
    }

    /// Every byte that clients got so far.
    pub fn told(&self) -> Vec<u8> {
        lock(&self.seen).told.clone()
    }

    /// Rows masked so far, by class.
    pub fn masked(&self) -> BTreeMap<String, u64> {
        lock(&self.seen).masked.clone()
    }

    /// What was not forwarded, and what ended sessions.
    pub fn refused(&self) -> Vec<Unmaskable> {
        lock(&self.seen).refused.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Session {
    relation: &'static str,
    plan: Arc<Plan>,
    seen: Arc<Mutex<Seen>>,
}

impl Session {
    fn open(self, client: TcpStream, server: u16) -> Result<()> {
        let server = TcpStream::connect(("127.0.0.1", server))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let masker = Arc::new(Mutex::new(mask::open("postgresql").context("it has a masker")?));
        let (to_client, to_server) = (client.try_clone()?, server.try_clone()?);
        let (seen, other) = (Arc::clone(&self.seen), Arc::clone(&masker));
        std::thread::spawn(move || {
            let ends = [to_client.try_clone(), server.try_clone()];
            let _ = answers(server, to_client, &other, &seen);
            ends.into_iter().flatten().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        });
        std::thread::spawn(move || {
            let ends = [client.try_clone(), to_server.try_clone()];
            let _ = self.requests(client, to_server, &masker);
            ends.into_iter().flatten().for_each(|end| drop(end.shutdown(Shutdown::Write)));
        });
        Ok(())
    }

    fn requests(
        &self,
        mut client: TcpStream,
        mut server: TcpStream,
        masker: &Mutex<Box<dyn Mask>>,
    ) -> Result<()> {
        let mut texts = Texts::default();
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut startup = length.to_vec();
        startup.resize(u32::from_be_bytes(length) as usize, 0);
        client.read_exact(&mut startup[4..])?;
        server.write_all(&startup)?;
        loop {
            let mut message = vec![0; 5];
            client.read_exact(&mut message)?;
            let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]) as usize;
            message.resize(length + 1, 0);
            client.read_exact(&mut message[5..])?;
            let plan = self.plan_of(&message, &mut texts);
            {
                let mut masker = lock(masker);
                if let Some(plan) = plan
                    && let Err(why) = masker.check(&message, plan)
                {
                    lock(&self.seen).refused.push(why);
                    return Ok(());
                }
                for piece in message.chunks(PIECE / 100) {
                    masker.request(piece, plan)?;
                }
            }
            server.write_all(&message)?;
        }
    }

    fn plan_of(&self, message: &[u8], texts: &mut Texts) -> Option<&Arc<Plan>> {
        let body = message.get(5..)?;
        let text = match message[0] {
            b'Q' => body.split(|&b| b == 0).next()?,
            b'P' => body.split(|&b| b == 0).nth(1)?,
            _ => return None,
        };
        let text = texts.intern(Dialect::Postgresql, text);
        let touches = self.relation.is_empty()
            || text.analysis().statement_relations.iter().any(|r| *r.name == *self.relation);
        touches.then_some(&self.plan)
    }
}

fn answers(
    mut server: TcpStream,
    mut client: TcpStream,
    masker: &Mutex<Box<dyn Mask>>,
    seen: &Mutex<Seen>,
) -> Result<()> {
    let mut buffer = [0; PIECE];
    let mut out = Vec::new();
    loop {
        let length = server.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        out.clear();
        let mut masker = lock(masker);
        let flow = masker.answer(&buffer[..length], &mut out);
        let bytes = match flow {
            Ok(Flow::AsIs) => &buffer[..length],
            Ok(Flow::Rewritten) => &out[..],
            Err(why) => {
                lock(seen).refused.push(why);
                return Ok(());
            }
        };
        let mut seen = lock(seen);
        seen.told.extend_from_slice(bytes);
        for masked in masker.masked() {
            *seen.masked.entry(masked.class.to_string()).or_default() += masked.rows;
        }
        drop((seen, masker));
        client.write_all(bytes)?;
    }
}
