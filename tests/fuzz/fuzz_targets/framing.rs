//! See `adit::testing::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| adit::testing::fuzz::run("framing", bytes));
