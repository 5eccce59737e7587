//! Segments with any numbers and flags -> no panic.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::fuzz::connection(data));
