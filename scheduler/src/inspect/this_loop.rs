//! The fibers of the calling thread's loop.

use super::backtrace;
use super::backtrace::{Backtrace, copy_stack, notes, of_suspended, record_of};
use super::fibers::{FiberInfo, find, list_fibers, list_ids, list_pages};
use crate::fiber::FiberId;
use std::any::Any;
use std::ops::Range;
use std::rc::Rc;

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

/// Returns the ids of all fibers of the loop, including the calling one, in the order of their slots: without the facts
/// that [`fibers`] collects, which take longer.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let other = spawn(yield_now);
///     let ids = this_loop::fiber_ids();
///     assert!(ids.len() == 2 && ids.contains(&current_id()) && ids.contains(&other.id()));
/// });
/// ```
#[track_caller]
pub fn fiber_ids() -> Vec<FiberId> {
    list_ids()
}

/// The number of slots of a page of [`fibers_of_pages`].
pub const PAGE_SLOTS: usize = crate::fiber::CHUNK;

/// Returns the fibers in some pages of the loop's table, in the order of their slots, and whether there are more pages.
/// A page has [`PAGE_SLOTS`] slots, and takes about 5 us; fibers of an interpreter take up to 100 us. A fiber keeps its
/// slot, so a list that is made page by page has each fiber that lived all the time once.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fibers: Vec<_> = (0..1000).map(|_| spawn(|| yield_now())).collect();
///     let (first, more) = this_loop::fibers_of_pages(0..1);
///     assert_eq!((first.len(), more), (256, true));
///     let (rest, more) = this_loop::fibers_of_pages(1..100);
///     assert_eq!((first.len() + rest.len(), more), (1001, false)); // including this one
///     drop(fibers);
/// });
/// ```
#[track_caller]
pub fn fibers_of_pages(pages: Range<usize>) -> (Vec<FiberInfo>, bool) {
    list_pages(pages)
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

/// Copies the stack of a fiber of the loop, which is cheap, and returns a function that walks the copy, on any thread.
/// `None` in the cases of [`backtrace()`].
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| sleep(Duration::from_secs(60)));
///     yield_now().unwrap();
///     let walk = this_loop::copied_stack(fiber.id()).unwrap();
///     let calls = std::thread::spawn(walk).join().unwrap();
///     assert!(!calls.addresses().is_empty());
/// });
/// ```
#[track_caller]
pub fn copied_stack(id: FiberId) -> Option<impl FnOnce() -> Backtrace + Send + 'static> {
    copy_stack(id).map(|copy| move || Backtrace::of(&copy))
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

/// The context of a fiber of the loop that is not running: see [`context`](crate::context). `None` if it has none, has
/// ended, or has not run yet.
///
/// ```
/// use std::rc::Rc;
/// use yue_scheduler::{Config, Loop, set_context, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| {
///         set_context(Some(Rc::new(7)));
///         let _ = yield_now();
///     });
///     yield_now().unwrap();
///     assert!(this_loop::context_of(fiber.id()).unwrap().is::<i32>());
/// });
/// ```
#[track_caller]
pub fn context_of(id: FiberId) -> Option<Rc<dyn Any>> {
    backtrace::context_of(id)
}
