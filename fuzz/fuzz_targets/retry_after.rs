//! Runs the target `retry_after`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::retry_after(data));
