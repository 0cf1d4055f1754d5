//! Runs the target `signing_secret`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::signing_secret(data));
