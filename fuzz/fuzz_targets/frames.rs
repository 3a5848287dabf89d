//! The fuzz target of `yue_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yue_fuzz::frames::check(data));
