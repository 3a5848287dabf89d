//! Helpers of the whole-system tests.

#![deny(missing_docs)]

use std::fs;

/// Memory that the machine could give without swapping, in bytes.
pub fn memory_available() -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|word| word.parse::<usize>().ok());
    kib.unwrap_or(1 << 20) << 10
}

/// Memory that this process takes, in bytes: its resident pages and its page tables.
pub fn memory_taken() -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1))
            .and_then(|word| word.parse::<usize>().ok())
            .unwrap_or(0)
    };
    (kib("VmRSS:") + kib("VmPTE:")) << 10
}

/// How many of `wanted` things of `bytes` each to make: all if the variable says so or the memory is there, else as
/// many as fit into half of what is free, and says so.
pub fn scaled_to_memory(variable: &str, wanted: usize, bytes: usize) -> usize {
    if let Some(count) = std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return count;
    }
    let fits = memory_available() / 2 / bytes;
    // A debug build on a shared machine: a tenth shows the same as the whole, which ci/million runs.
    let count = (wanted / 10).min(fits);
    println!("{count} of {wanted}: scaled to this machine; {variable}={wanted} runs the whole");
    count
}

/// The README and pages of the book, whose Rust programs are compiled and run as tests.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../docs/src/cancellation.md")]
    struct Cancellation;
    #[doc = include_str!("../../docs/src/concurrency.md")]
    struct Concurrency;
    #[doc = include_str!("../../docs/src/from-tokio.md")]
    struct FromTokio;
    #[doc = include_str!("../../docs/src/rust-rpc.md")]
    struct RustRpc;
    #[doc = include_str!("../../docs/src/simulation.md")]
    struct Simulation;
    #[doc = include_str!("../../README.md")]
    struct Readme;
}
