//! Turns captured bytes into judged, provable statements. Pure: no I/O, no clock, no threads.
//!
//! The modules stand in the order in which a statement flows through them.
#![forbid(unsafe_code)]

pub mod segment; // one captured piece of a connection
pub mod stream; // segments -> ordered bytes and explicit gaps
pub mod reader; // a cursor that cannot see past its frame
pub mod protocol; // the trait, the table of databases, detection
pub mod connection; // both directions of one connection -> protocol -> sink
pub mod exchange; // request + answer -> one statement with its outcome
pub mod sql; // text -> what it does
pub mod identity; // claims -> who
pub mod policy; // files -> typed rules
pub mod judge; // (policy, statement, identity) -> verdict
pub mod event; // everything known about it, as one flat record
pub mod receipt; // event -> canonical bytes -> hash chain
