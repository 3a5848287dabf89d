//! The fuzz target of `yue_fuzz::upgrade`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yue_fuzz::upgrade::check(data));
