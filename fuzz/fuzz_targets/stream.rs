//! One direction cut up at will -> the bytes that were sent, in order.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::fuzz::stream(data));
