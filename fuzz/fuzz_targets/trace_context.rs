//! Runs the target `trace_context`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::trace_context(data));
