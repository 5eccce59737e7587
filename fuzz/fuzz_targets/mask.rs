//! Both directions of a gated PostgreSQL session, cut at will -> the same answers however they are cut.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::fuzz::mask(data));
