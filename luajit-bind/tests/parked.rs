//! A hundred thousand parked Lua fibers, and what each costs.
//!
//! The count is scaled down to a quarter of the free memory, and the test says so; `YUE_PARKED_LUA_FIBERS=n` insists on
//! n.

mod common;

use common::{eval, wake_all, with_vm};
use std::fs;
use std::time::Instant;
use yue_scheduler::yield_now;

const WANTED: usize = 100_000;
/// The goal of the design, and the limit of this test.
const BYTES_PER_FIBER_MAX: usize = 12 << 10;

fn field_kib(file: &str, name: &str) -> usize {
    let text = fs::read_to_string(file).expect("procfs");
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect("the field");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

fn resident_bytes() -> usize {
    field_kib("/proc/self/status", "VmRSS:") << 10
}

fn count() -> usize {
    if let Some(count) = std::env::var("YUE_PARKED_LUA_FIBERS")
        .ok()
        .and_then(|n| n.parse().ok())
    {
        return count;
    }
    let fits = (field_kib("/proc/meminfo", "MemAvailable:") << 10) / 4 / BYTES_PER_FIBER_MAX;
    if fits < WANTED {
        println!("{fits} fibers instead of {WANTED}: a quarter of the free memory holds no more");
    }
    fits.min(WANTED)
}

#[test]
fn parked_lua_fibers_are_small_and_all_wake() {
    let count = count();
    with_vm(move |vm| {
        eval(
            vm,
            "woken = 0 function wait(n) local t = {n} park() woken = woken + t[1] end",
        );
        eval(vm, "collectgarbage()");
        let before = resident_bytes();
        let source = format!(
            "for i = 1, {count} do spawn(wait, 1) if i % 1000 == 0 then yield() end end yield()"
        );
        eval(vm, &source);
        let each = (resident_bytes() - before) / count;
        let start = Instant::now();
        eval(vm, "collectgarbage()");
        let collection_ms = start.elapsed().as_millis();
        println!(
            "{count} parked Lua fibers: {each} bytes each; a whole collection took {collection_ms} ms"
        );
        assert_eq!(wake_all(), count);
        while eval(vm, "return woken").parse::<usize>().expect("a number") < count {
            yield_now().expect("not cancelled");
        }
        assert!(each <= BYTES_PER_FIBER_MAX, "{each} bytes each");
    });
}
