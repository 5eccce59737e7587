//! End to end: real databases, real clients, a live kernel. What the tests in `tests/` share.

pub mod tap; // a running `weir tap` -> events
pub mod server; // a PostgreSQL whose log is the oracle
pub mod serverlog; // the server's log -> what it executed
pub mod captured; // events -> messages of sessions
pub mod oracle; // log and events -> differences
pub mod netns; // a network namespace of our own
pub mod client; // real clients, one call each
pub mod drivers; // clients of other languages
pub mod rustls; // TLS that is not OpenSSL's
pub mod sealed; // a server that nobody can look into
pub mod wire; // hand-made frontend messages
pub mod relay; // what clients get to see
pub mod operator; // commands against a running agent
pub mod guarded; // clients whose forbidden statements are refused
pub mod prevent; // every driver by every route -> what was executed of what is forbidden
pub mod stream; // a stream cut anywhere -> answers in order
pub mod kernel; // what a process holds in the kernel
pub mod stored; // what the agent has stored, once it has
pub mod pooler; // pgbouncer in front of a server
pub mod receiver; // what was sent to a webhook
pub mod load; // sessions at work in the background
