//! Runs the target `event_type_pattern`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::event_type_pattern(data));
