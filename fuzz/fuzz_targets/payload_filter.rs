//! Runs the target `payload_filter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::payload_filter(data));
