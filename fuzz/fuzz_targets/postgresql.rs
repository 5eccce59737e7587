//! Both directions of a PostgreSQL connection, with holes -> no panic, no invention.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::fuzz::postgresql(data));
