//! The fuzz target of `yue_fuzz::http`.
#![no_main]

use yue_fuzz::rig::Rig;

thread_local! {
    static RIG: Rig = Rig::new(yue_scheduler::Config::default().driver);
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| RIG.with(|rig| yue_fuzz::http::check(rig, data)));
