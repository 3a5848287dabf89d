//! The fibers of the calling thread's loop.

use super::backtrace::{Backtrace, notes, of_suspended, record_of};
use super::fibers::{FiberInfo, find, list_fibers};
use crate::fiber::FiberId;

/// Returns all fibers of the loop that have not ended, including the calling one, in no particular order.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Builder, Config, Loop, sleep, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let _ = Builder::new().name("sleeper").spawn(|| sleep(Duration::from_secs(60)));
///     yield_now().unwrap();
///     for fiber in this_loop::fibers() {
///         println!("{fiber}"); // fiber 1.0 'sleeper' parked in 'sleep' for 0.1ms, spawned at src/main.rs:5:42, …
///     }
/// });
/// ```
#[track_caller]
pub fn fibers() -> Vec<FiberInfo> {
    list_fibers()
}

/// Returns one fiber of the loop, if it has not ended.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::inspect::FiberState;
/// use yue_scheduler::{Config, Loop, sleep, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let sleeper = spawn(|| sleep(Duration::from_secs(3600)));
///     yield_now().unwrap();
///     let info = this_loop::fiber(sleeper.id()).unwrap();
///     assert_eq!((info.state, info.reason), (FiberState::Parked, "sleep"));
/// });
/// ```
#[track_caller]
pub fn fiber(id: FiberId) -> Option<FiberInfo> {
    find(id)
}

/// Returns the call stack of a fiber of the loop. `None` if the fiber has ended, has not run yet, or is the calling
/// one.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn, this_loop, yield_now};
///
/// #[inline(never)]
/// fn wait_for_spring() {
///     let _ = sleep(Duration::from_secs(60));
///     std::hint::black_box(()); // not a tail call
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(wait_for_spring);
///     yield_now().unwrap();
///     let calls = this_loop::backtrace(fiber.id()).unwrap();
///     assert!(calls.to_string().contains("wait_for_spring"));
/// });
/// ```
#[track_caller]
pub fn backtrace(id: FiberId) -> Option<Backtrace> {
    of_suspended(id)
}

/// Returns the lines that the layers above add about a fiber of the loop that is not running, such as the traceback of
/// an interpreter. See [`SwitchHook::describe`](crate::SwitchHook::describe).
#[track_caller]
pub fn describe(id: FiberId) -> Vec<String> {
    notes(id)
}

/// The record that a switch hook keeps for a fiber of the loop that is not running: see
/// [`SwitchHook::record`](crate::SwitchHook::record). Null if there is none. Valid until the loop continues.
#[track_caller]
pub fn hook_record(id: FiberId) -> *const () {
    record_of(id)
}
