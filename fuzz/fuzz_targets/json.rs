//! The fuzz target of `yue_fuzz::json`.
#![no_main]

use yue_fuzz::json::Json;
use yue_fuzz::rig::Rig;

thread_local! {
    static JSON: Json = Json::new(Rig::new(yue_scheduler::Config::default().driver));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| JSON.with(|json| json.check(data)));
