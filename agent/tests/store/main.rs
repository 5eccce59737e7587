//! The store against the real engine: HTTP, exactly once, verify, dashboards.

mod dashboards;
mod http;
mod support;
mod verify;
mod writer;
