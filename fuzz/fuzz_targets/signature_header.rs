//! Runs the target `signature_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::signature_header(data));
