//! The store against the real engine: HTTP, exactly once, verify, dashboards.

mod dashboards;
mod http;
mod proofs;
mod report;
mod support;
mod tamper;
mod verify;
mod writer;
