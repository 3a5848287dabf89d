//! The calling thread's loop as its fibers and callbacks reach it.

use super::counters::Counters;
use super::group::LoopGroup;
use super::handle::LoopHandle;
use super::state::{try_with_loop, with_loop};
use super::tick_end::TickEnd;
use crate::driver::Driver;
use crate::fiber::{Stopped, in_fiber, park, prepare_park};
use std::rc::Rc;

/// Returns whether the calling thread runs a loop.
pub fn exists() -> bool {
    try_with_loop(|_| ()).is_some()
}

/// Checks that the caller may wait: it is in a fiber, or on a plain thread.
///
/// # Panics
/// On a thread that runs a loop, outside fibers.
#[track_caller]
pub(crate) fn assert_not_in_callback() {
    assert!(
        in_fiber() || !exists(),
        "waiting in a loop's callback would stall the whole loop, and never end if the loop is needed to end it; \
         spawn a fiber that waits"
    );
}

/// Returns the loop's number, which no other loop of this process will ever have.
#[track_caller]
pub fn id() -> u32 {
    with_loop(|l| l.id())
}

/// Returns a handle by which other threads reach this loop.
#[track_caller]
pub fn handle() -> LoopHandle {
    with_loop(|l| l.handle())
}

/// Returns the group of loops with which this one shares work, if any.
///
/// ```
/// use yue_scheduler::{Config, Loop, LoopGroup, this_loop};
///
/// let config = Config { group: Some(LoopGroup::new(4)), ..Config::default() };
/// Loop::new(config).unwrap().run(|| {
///     let group = this_loop::group().unwrap();
///     assert_eq!(group.loops(), 1);
///     assert_eq!(group.spawn(|| 6 * 7).join().unwrap(), 42);
/// });
/// ```
#[track_caller]
pub fn group() -> Option<LoopGroup> {
    with_loop(|l| {
        l.inbox
            .group
            .borrow()
            .as_ref()
            .map(|membership| membership.group())
    })
}

/// Returns the loop's counters.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fibers: Vec<_> = (0..3).map(|n| spawn(move || n)).collect();
///     assert_eq!(this_loop::counters().fibers, 4); // including this one
///     assert_eq!(fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum::<u32>(), 3);
///     assert_eq!(this_loop::counters().fibers, 1);
/// });
/// ```
#[track_caller]
pub fn counters() -> Counters {
    with_loop(|l| l.counters())
}

/// Passes the loop's driver to `f`, which must not suspend.
#[track_caller]
pub fn with_driver<R>(f: impl FnOnce(&dyn Driver) -> R) -> R {
    with_loop(|l| f(&*l.driver))
}

/// Registers `callback`, which is called once at the end of this tick, before the driver submits.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, TickEnd, sleep, this_loop};
///
/// #[derive(Default)]
/// struct Flush(Cell<u32>);
///
/// impl TickEnd for Flush {
///     fn tick_end(&self) {
///         self.0.set(self.0.get() + 1);
///     }
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let flush = Rc::new(Flush::default());
///     this_loop::at_tick_end(flush.clone());
///     assert_eq!(flush.0.get(), 0);
///     sleep(Duration::from_millis(1)).unwrap();
///     assert_eq!(flush.0.get(), 1);
/// });
/// ```
#[track_caller]
pub fn at_tick_end(callback: Rc<dyn TickEnd>) {
    with_loop(|l| l.at_tick_end(callback));
}

/// Sets the idle hook, which the loop calls when it has nothing to run and is about to wait. The hook returns `true` if
/// there is more to do and it should be called again soon. For background work in small steps, such as garbage
/// collection.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let garbage = Rc::new(Cell::new(3));
///     let left = garbage.clone();
///     this_loop::set_idle_hook(move || {
///         left.set(left.get() - 1);
///         left.get() > 0
///     });
///     while garbage.get() == 3 {
///         sleep(Duration::from_millis(1)).unwrap();
///     }
///     this_loop::clear_idle_hook();
///     assert!(garbage.get() < 3);
/// });
/// ```
#[track_caller]
pub fn set_idle_hook(hook: impl Fn() -> bool + 'static) {
    let before = with_loop(|l| l.idle_hook.replace(Some(Rc::new(hook))));
    drop(before);
}

/// Removes the idle hook.
#[track_caller]
pub fn clear_idle_hook() {
    let before = with_loop(|l| l.idle_hook.take());
    drop(before);
}

/// Returns whether a shutdown of the loop was requested.
#[track_caller]
pub fn shutdown_requested() -> bool {
    with_loop(|l| l.shutdown.get())
}

/// Requests the shutdown of this loop, as [`LoopHandle::shutdown`] does from outside.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     spawn(|| {
///         sleep(Duration::from_millis(1)).unwrap();
///         this_loop::request_shutdown();
///     });
///     this_loop::wait_for_shutdown().unwrap();
///     assert!(this_loop::shutdown_requested());
/// });
/// ```
#[track_caller]
pub fn request_shutdown() {
    with_loop(|l| l.handle()).shutdown();
}

/// Waits until a shutdown of the loop is requested. This is the body of a worker loop's main fiber.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// let l = Loop::new(Config::default()).unwrap();
/// let handle = l.handle();
/// let operator = std::thread::spawn(move || handle.shutdown());
/// let last_words = l.run(|| {
///     this_loop::wait_for_shutdown().unwrap();
///     "good night"
/// });
/// operator.join().unwrap();
/// assert_eq!(last_words, "good night");
/// ```
///
/// # Errors
/// [`Stopped`] when the calling fiber is cancelled first.
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn wait_for_shutdown() -> Result<(), Stopped> {
    while !shutdown_requested() {
        let waker = prepare_park();
        let slot = with_loop(|l| l.shutdown_waiters.add(waker));
        let woken = park("shutdown");
        with_loop(|l| l.shutdown_waiters.remove(slot));
        woken?;
    }
    Ok(())
}
