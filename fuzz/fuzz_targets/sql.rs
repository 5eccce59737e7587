//! Statement texts of every dialect -> an analysis, and parts that are parts of the text.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_core::fuzz::sql(data));
