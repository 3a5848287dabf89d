//! The fuzz target of `yue_fuzz::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yue_fuzz::address::check(data));
