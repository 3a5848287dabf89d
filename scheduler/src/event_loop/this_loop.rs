//! The loop that the calling thread runs.
//!
//! All of these panic on a thread that runs no loop, except where they say otherwise.

use super::{Counters, LoopGroup, LoopHandle, TickEnd, try_with_loop, with_loop};
use crate::driver::Driver;
use crate::fiber::{FiberId, Stopped, park, prepare_park};
use crate::inspect::{self, Backtrace, FiberInfo};
use std::rc::Rc;

/// Whether the calling thread runs a loop.
pub fn exists() -> bool {
    try_with_loop(|_| ()).is_some()
}

/// The loop's number: never given to another loop of this process.
pub fn id() -> u32 {
    with_loop(|l| l.id())
}

/// A handle by which other threads reach this loop.
pub fn handle() -> LoopHandle {
    with_loop(|l| l.handle())
}

/// The group of loops with which this one shares work, if it has one.
pub fn group() -> Option<LoopGroup> {
    with_loop(|l| l.inbox.group.borrow().as_ref().map(|place| place.group()))
}

/// What the loop has now, and has done.
pub fn counters() -> Counters {
    with_loop(|l| l.counters())
}

/// All fibers of the loop that are not over, the calling one included, in no order that matters.
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
pub fn fibers() -> Vec<FiberInfo> {
    inspect::here()
}

/// One fiber of the loop, if it is not over.
pub fn fiber(id: FiberId) -> Option<FiberInfo> {
    inspect::one(id)
}

/// The calls that a fiber of the loop is in. `None` for one that is over, has not run yet, or is the calling one.
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
pub fn backtrace(id: FiberId) -> Option<Backtrace> {
    inspect::of_fiber(id)
}

/// What the layers above say of a fiber of the loop that does not run, in lines: the traceback of its Lua. See
/// [`SwitchHook::describe`](crate::SwitchHook::describe).
pub fn describe(id: FiberId) -> Vec<String> {
    inspect::notes(id)
}

/// Hands the loop's driver to `f`, which must not suspend.
pub fn with_driver<R>(f: impl FnOnce(&dyn Driver) -> R) -> R {
    with_loop(|l| f(&*l.driver))
}

/// Has `callback` called once, at the end of this tick, before the driver submits.
pub fn at_tick_end(callback: Rc<dyn TickEnd>) {
    with_loop(|l| l.at_tick_end(callback));
}

/// Sets what is called when the loop has nothing to run and is about to wait; `true` means that there is more to do and
/// it wants to be called again soon. For background work in small steps, such as a garbage collector's.
pub fn set_idle_hook(hook: impl Fn() -> bool + 'static) {
    let before = with_loop(|l| l.idle_hook.replace(Some(Rc::new(hook))));
    drop(before);
}

/// Takes the idle hook away.
pub fn clear_idle_hook() {
    let before = with_loop(|l| l.idle_hook.take());
    drop(before);
}

/// Whether the loop has been asked to shut down.
pub fn shutdown_requested() -> bool {
    with_loop(|l| l.shutdown.get())
}

/// Asks this loop to shut down, as [`LoopHandle::shutdown`] does from outside.
pub fn request_shutdown() {
    with_loop(|l| l.handle()).shutdown();
}

/// Waits until the loop is asked to shut down: the body of a worker loop's main fiber.
///
/// # Errors
/// [`Stopped`] when the calling fiber is told to stop first.
///
/// # Panics
/// Outside a fiber.
pub fn wait_for_shutdown() -> Result<(), Stopped> {
    while !shutdown_requested() {
        let waker = prepare_park();
        with_loop(|l| l.shutdown_waiters.borrow_mut().push(waker));
        if let Err(stopped) = park("shutdown") {
            with_loop(|l| {
                let mut waiters = l.shutdown_waiters.borrow_mut();
                waiters.retain(|other| !other.is_same(waker));
            });
            return Err(stopped);
        }
    }
    Ok(())
}
