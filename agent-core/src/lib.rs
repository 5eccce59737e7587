//! Turns captured bytes into judged, provable statements. Pure: no I/O, no clock, no threads.
//!
//! The modules stand in the order in which a statement flows through them.
#![forbid(unsafe_code)]

pub mod approval; // what is held + who says so -> whether it goes on
pub mod connection; // both directions of one connection -> protocol -> sink
pub mod event; // everything known about it, as one flat record
pub mod exchange; // request + answer -> one statement with its outcome
pub mod identity; // claims -> who
pub mod judge; // (policy, statement, identity) -> verdict
pub mod mask; // both directions of a session -> answers with sensitive values masked
pub mod policy; // files -> typed rules
pub mod protocol; // the trait, the table of databases, detection
pub mod reader; // a cursor that cannot see past its frame
pub mod receipt;
pub mod segment; // one captured piece of a connection
pub mod sensitive; // names and values -> classes of data
pub mod sql; // text -> what it does
pub mod stream; // segments -> ordered bytes and explicit gaps // event -> canonical bytes -> hash chain
pub mod tie; // writes and records of TLS -> which session is on which socket

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz; // arbitrary bytes -> the invariants that must hold
#[cfg(test)]
mod testing; // recorded bytes -> what they must yield
