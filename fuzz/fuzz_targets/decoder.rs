//! The fuzz target of `yue_fuzz::decoder`.
#![no_main]

use yue_fuzz::decoder::Decoder;
use yue_fuzz::rig::Rig;

thread_local! {
    static DECODER: Decoder = Decoder::new(Rig::new(yue_scheduler::Config::default().driver));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| DECODER.with(|decoder| decoder.check(data)));
