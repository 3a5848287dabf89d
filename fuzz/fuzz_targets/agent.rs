//! The fuzz target of `yue_fuzz::agent`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yue_fuzz::agent::check(data));
