//! What is held -> somebody who decides: by command, by signed link, or by nobody in time.
//!
//! The ledger stands behind a lock; a thread of its own, without any capability, answers the control socket and signed
//! links, ends what nobody decided about, and tells a chat. The gate asks, is woken when an answer is there, and
//! fetches it: none of it waits for people.

mod client; // a command -> the control socket -> its answer
mod control; // the control socket -> decisions and orders
mod link; // a decision that somebody may make <-> a signed link
mod order; // what is not about an approval -> the agent's main loop
mod page; // a request -> a page for a browser
mod peer; // credentials of the control socket -> somebody who may decide
pub mod settings; // `approvals` of the configuration -> where people are asked
mod slack; // a request and what became of it -> messages in a chat
mod socket; // a path -> a socket that everybody may connect to
mod view; // a request -> what people and programs are shown
mod web; // signed links -> pages and decisions

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use agent_core::approval::{Answer, Asked, Counts, Decision, Ledger, Limits, Refusal, Request};
use agent_core::policy::Policies;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use client::Client;
pub use order::{Command, Order, Reply, Switch};
pub use settings::{Opened, Settings};
pub use view::View;

use crate::serve::{self, Keep, Listener, Thread};
use crate::signals::Told;

/// Orders that wait for the agent.
const ORDERS: usize = 64;
/// Messages that wait for the chat.
const NOTICES: usize = 256;
/// How long a look at the clock may be late.
const TICK: Duration = Duration::from_secs(1);
/// The longest reason that is kept, in bytes.
const REASON: usize = 500;

/// Is called, from any thread, when answers or orders wait to be fetched.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// What the chat is told.
enum Notice {
    /// Somebody is to decide.
    Asked(Request),
    /// Somebody has, or nobody did.
    Settled(Request, Answer),
}

/// What all threads know.
struct Shared {
    ledger: Mutex<Ledger>,
    orders: Mutex<VecDeque<Order>>,
    wake: Waker,
    /// A request was taken: there may be an earlier end to wait for.
    taken: Notify,
    chat: Option<(mpsc::Sender<Notice>, Told)>,
    links: Option<Links>,
    refused: Mutex<Vec<(&'static str, u64)>>,
}

/// How links are made.
struct Links {
    key: link::Key,
    /// What they begin with.
    url: String,
}

/// The system's time in nanoseconds since the epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Shared {
    /// Does something with the ledger, and tells whom it concerns what came of it.
    fn with<T>(&self, act: impl FnOnce(&mut Ledger, u64) -> T) -> T {
        let now = now();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let out = act(&mut ledger, now);
        let news = if self.chat.is_some() { ledger.news() } else { Vec::new() };
        let answers = ledger.has_answers();
        drop(ledger);
        for (request, answer) in news {
            self.tell(Notice::Settled(request, answer));
        }
        if answers {
            (self.wake)();
        }
        out
    }

    fn tell(&self, notice: Notice) {
        if let Some((chat, told)) = &self.chat
            && chat.try_send(notice).is_err()
        {
            told.tally.dropped_outbox.fetch_add(1, Relaxed);
        }
    }

    /// Takes a decision; what was decided about, as it is now.
    fn decide(&self, decision: &Decision<'_>) -> Result<View, Refusal> {
        let actor = &decision.actor.name;
        let end = decision.reason.floor_char_boundary(REASON);
        let decision = Decision { reason: &decision.reason[..end], ..decision.clone() };
        let decided: Result<View, Refusal> = self.with(|ledger, now| {
            let id = ledger.decide(&decision, now)?.id;
            let (request, state) = ledger.get(id).ok_or(Refusal::Unknown)?;
            Ok(View::new(request, state, actor))
        });
        match &decided {
            Ok(view) => tracing::info!(
                id = view.approval_id,
                rule = view.policy_rule,
                state = view.approval_state,
                actor = &**actor,
                "somebody decided about a held statement"
            ),
            Err(refusal) => self.refuse(refusal.code(), actor),
        }
        decided
    }

    /// Counts a decision that does not count, or an order that is not taken.
    fn refuse(&self, code: &'static str, actor: &str) {
        tracing::warn!(actor, reason = code, "a decision or an order was refused");
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refused.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => refused.push((code, 1)),
        }
    }

    /// Puts an order where the agent fetches it; none where too many wait.
    fn order(&self, command: Command, actor: &Arc<str>) -> Option<oneshot::Receiver<Reply>> {
        let (reply, answer) = oneshot::channel();
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.len() >= ORDERS {
            self.refuse("too_many_orders", actor);
            return None;
        }
        orders.push_back(Order::new(command, actor, reply));
        drop(orders);
        (self.wake)();
        Some(answer)
    }
}

/// What approvals count, for metrics.
#[derive(Clone)]
pub struct Counted(Arc<Shared>);

impl Counted {
    /// How many wait, what became of requests, and decisions that did not count, by reason.
    pub fn read(&self) -> (usize, Counts, Vec<(&'static str, u64)>) {
        let ledger = self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, counts) = (ledger.waiting(), ledger.counts());
        drop(ledger);
        (waiting, counts, self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The gate's side: it asks, and fetches answers and orders.
pub struct Approvals {
    shared: Arc<Shared>,
    control: Option<socket::Socket>,
    web: Option<SocketAddr>,
    /// Ends before its socket is taken away.
    thread: Option<Thread>,
}

impl Approvals {
    /// Listens where the settings say, and starts the thread. An address that is taken is no reason not to watch
    /// databases: it is said, and people decide in the other ways.
    pub fn start(settings: Opened, wake: Waker) -> io::Result<Self> {
        let Opened { control, listen, links, chat, host } = settings;
        let control = control.and_then(|path| {
            let listening = socket::listen(&path);
            let told = |error: &io::Error| {
                tracing::warn!(%error, path = %path.display(), "no control socket: choose another `listen.control`, or \"\" for none");
            };
            listening.inspect_err(told).ok()
        });
        let web = listen.and_then(|address| {
            let told = |error: &io::Error| {
                tracing::warn!(%error, %address, "no approvals by link: choose another `approvals.listen`, or \"\" for none");
            };
            TcpListener::bind(address).inspect_err(told).ok()
        });
        let address = web.as_ref().and_then(|web| web.local_addr().ok());
        let links = links.filter(|_| web.is_some()).map(|(key, url)| {
            let url = if url.is_empty() {
                format!("http://{}", address.map_or_else(String::new, |a| a.to_string()))
            } else {
                url
            };
            if url.starts_with("http://") && address.is_some_and(|address| !address.ip().is_loopback()) {
                tracing::warn!(%url, "links travel in plain text, and whoever has one can decide: put a TLS proxy before them");
            }
            Links { key, url }
        });
        let (chat, talk) = match chat {
            None => (None, None),
            Some((post, told)) => {
                let (send, notices) = mpsc::channel(NOTICES);
                (Some((send, told.clone())), Some(slack::Talk { post, told, notices, host }))
            }
        };
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger::new(Limits::default())),
            orders: Mutex::default(),
            wake,
            taken: Notify::new(),
            chat,
            links,
            refused: Mutex::default(),
        });
        let (control, socket) =
            control.map_or((None, None), |(listener, socket)| (Some(listener), Some(socket)));
        let known = Arc::clone(&shared);
        let thread = Thread::start("weir-approvals", move |stopped| run(known, control, web, talk, stopped))?;
        Ok(Self { shared, control: socket, web: address, thread: Some(thread) })
    }

    /// Warns of groups in rules that this host does not have: nobody but root could decide. Does not wait for a
    /// directory service.
    pub fn rules(&self, policies: &Policies) {
        let terms = policies.iter().filter_map(|policy| Some((&policy.name, policy.approval.as_ref()?)));
        let groups = terms
            .flat_map(|(rule, terms)| terms.groups.iter().map(|group| (Arc::clone(rule), Arc::clone(group))));
        let groups: Vec<_> = groups.collect();
        if groups.is_empty() {
            return;
        }
        let look = move || {
            for (rule, group) in groups.iter().filter(|(_, group)| !peer::may_be_group(group)) {
                tracing::warn!(%rule, %group, "this host has no such group: only root, and others that the rule names, can approve");
            }
        };
        let begun = std::thread::Builder::new().name("weir-groups".into()).spawn(move || {
            let _ = crate::privileges::keep(&[]);
            look();
        });
        if let Err(error) = begun {
            tracing::warn!(%error, "the groups in rules are not checked");
        }
    }

    /// Asks for approval of a statement that the gate holds. Never waits.
    pub fn ask(&self, request: Request) -> Asked {
        let told = self.shared.chat.is_some().then(|| request.clone());
        let asked = self.shared.with(|ledger, now| ledger.ask(request, now));
        if asked == Asked::Waits {
            self.shared.taken.notify_one();
            if let Some(request) = told {
                self.shared.tell(Notice::Asked(request));
            }
        }
        asked
    }

    /// The client does not wait any more, or is gone. False where the answer was fetched before.
    pub fn withdraw(&self, id: u128) -> bool {
        self.shared.with(|ledger, now| ledger.withdraw(id, now))
    }

    /// The answers since the last time. Each is told once: the gate acts on it.
    pub fn answers(&self) -> Vec<Answer> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).answers()
    }

    /// The orders since the last time. One that is dropped without an answer is told as not carried out.
    pub fn orders(&self) -> Vec<Order> {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// What is counted.
    pub fn counted(&self) -> Counted {
        Counted(Arc::clone(&self.shared))
    }

    /// What became of messages to the chat, where there is one.
    pub fn told(&self) -> Option<Told> {
        self.shared.chat.as_ref().map(|(_, told)| told.clone())
    }

    /// Where the control socket is, where there is one.
    pub fn control(&self) -> Option<&Path> {
        self.control.as_ref().map(socket::Socket::path)
    }

    /// Where signed links are answered, where they are.
    pub fn address(&self) -> Option<SocketAddr> {
        self.web
    }
}

impl Drop for Approvals {
    fn drop(&mut self) {
        self.thread = None;
    }
}

/// All that happens on the thread, until it is stopped.
async fn run(
    shared: Arc<Shared>,
    control: Option<UnixListener>,
    web: Option<TcpListener>,
    talk: Option<slack::Talk>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    if let Some(control) = control {
        let known = Arc::clone(&shared);
        let handle = move |request, peer| control::answer(Arc::clone(&known), request, peer);
        tokio::spawn(serve::serve(Listener::unix(control)?, Keep::Once, handle, stopped.clone()));
    }
    if let Some(web) = web {
        let known = Arc::clone(&shared);
        let handle = move |request, _| web::answer(Arc::clone(&known), request);
        tokio::spawn(serve::serve(Listener::tcp(web)?, Keep::Once, handle, stopped.clone()));
    }
    let talking = talk.map(|talk| tokio::spawn(talk.run(Arc::clone(&shared), stopped.clone())));
    loop {
        let next = shared.with(|ledger, now| {
            ledger.expire(now);
            ledger.next_expiry().map(|at| Duration::from_nanos(at.saturating_sub(now)).min(TICK))
        });
        tokio::select! {
            () = tokio::time::sleep(next.unwrap_or(Duration::MAX)) => {}
            () = shared.taken.notified() => {}
            () = serve::end(&mut stopped) => break,
        }
    }
    if let Some(talking) = talking {
        let _ = talking.await;
    }
    Ok(())
}
