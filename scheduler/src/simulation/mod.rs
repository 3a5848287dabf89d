//! Simulation: a program's threads in virtual time, in an order that a seed determines.
//!
//! ```text
//!   threads of the hosts      loop ── turn ──▶ gives the baton away ─┐
//!                             loop ── turn ──▶ …                     ├─▶ the next thread, by the seed
//!                             join, set-up, blocking work ───────────┘   nobody can run: time jumps to the next
//!                                                                        timer or event
//! ```
//!
//! Each loop keeps its own thread, so that thread-locals and Lua's VMs are what they always are. But only the thread
//! that holds *the baton* runs. A thread gives it away at the end of each tick of its loop, when it waits for another
//! thread, and when it ends. The thread that gives it away chooses the next one. If no thread can run, virtual time
//! jumps to the next timer or event. A run is therefore a function of its seed, as long as the program reads neither
//! the real clock nor other sources outside the simulation.
//!
//! Invariants:
//! - Between two choices exactly one thread of the simulation runs. The end of a thread counts from its real end, after
//!   its thread-locals were dropped: the next holder joins it first.
//! - A thread holds no lock while it gives the baton away. So whatever the holder locks is free.
//! - Time stands still while a thread computes, except that each reading of the clock and each choice takes a few
//!   nanoseconds. So a loop that only yields, and code that waits for the clock to advance, both come to an end.
//!
//! Nothing here is active in a program that simulates nothing: every door asks [`is_on`] first, one relaxed load.

mod baton;
mod clock;
mod hosts;
mod output;
mod per_host;
mod random;
mod threads;

pub use baton::{
    Bell, Failure, choices, digest, hash_seed, now, random, run, set_hash_seed, turn, wait_until,
};
pub use clock::{Hashing, fill_random, random_number, wall_clock};
pub use hosts::{
    begin_process, clock_drift, drain, freeze, host, is_draining, jump_wall_clock, set_clock_drift,
    set_wall_clock, thaw,
};
pub use output::{Output, set_output, write_output};
pub use per_host::{HostValue, PerHost};
pub use random::{Random, mix};
pub use threads::{Thread, at, layer, observe, spawn_thread, stop, stopped};

pub(crate) use clock::monotonic_ns;
pub(crate) use output::current as output;

use baton::Me;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of simulations that run in this process. Relaxed: a thread of a simulation has counted its own before it
/// starts, and other threads need not know.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The calling thread's part in a simulation.
    static ME: RefCell<Option<Me>> = const { RefCell::new(None) };
}

/// Whether the calling thread belongs to a simulation.
#[inline]
pub fn is_on() -> bool {
    RUNNING.load(Ordering::Relaxed) != 0 && is_simulated_thread()
}

#[cold]
fn is_simulated_thread() -> bool {
    // While the thread's locals are dropped, it no longer takes part.
    ME.try_with(|me| me.borrow().is_some()).unwrap_or(false)
}

/// Passes the calling thread's part to `f`. Calls may nest: the part is set before the thread's body and removed after.
///
/// # Panics
/// On a thread that belongs to no simulation.
#[track_caller]
fn with_me<R>(f: impl FnOnce(&Me) -> R) -> R {
    ME.with(|me| match &*me.borrow() {
        Some(me) => f(me),
        None => panic!("this thread belongs to no simulation; call it below `simulation::run`"),
    })
}

/// Counts a simulation while it lives.
struct Running;

impl Running {
    fn begin() -> Running {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}
