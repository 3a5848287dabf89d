//! The fuzz target of `yue_fuzz::scanner`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yue_fuzz::scanner::check(data));
