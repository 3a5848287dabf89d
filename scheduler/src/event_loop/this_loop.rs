//! The loop that the calling thread runs.
//!
//! All of these panic on a thread that runs no loop, except where they say otherwise.

use super::{Counters, LoopGroup, LoopHandle, TickEnd, try_with_loop, with_loop};
use crate::driver::Driver;
use crate::fiber::{FiberId, Stopped, in_fiber, park, prepare_park};
use crate::inspect::{self, Backtrace, FiberInfo};
use std::rc::Rc;

/// Whether the calling thread runs a loop.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// assert!(!this_loop::exists());
/// assert!(Loop::new(Config::default()).unwrap().run(this_loop::exists));
/// ```
pub fn exists() -> bool {
    try_with_loop(|_| ()).is_some()
}

/// For calls that wait, in a fiber or in a plain thread.
///
/// # Panics
/// On a thread that runs a loop, outside of fibers.
pub(crate) fn assert_not_in_callback() {
    assert!(
        in_fiber() || !exists(),
        "a wait in a loop's callback would hold up the whole loop, and never end if the loop is needed to end it; \
         spawn a fiber for it"
    );
}

/// The loop's number: never given to another loop of this process.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// let first = Loop::new(Config::default()).unwrap().run(this_loop::id);
/// let second = Loop::new(Config::default()).unwrap().run(this_loop::id);
/// assert_ne!(first, second);
/// ```
pub fn id() -> u32 {
    with_loop(|l| l.id())
}

/// A handle by which other threads reach this loop.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let handle = this_loop::handle();
///     std::thread::spawn(move || handle.shutdown());
///     this_loop::wait_for_shutdown().unwrap();
/// });
/// ```
pub fn handle() -> LoopHandle {
    with_loop(|l| l.handle())
}

/// The group of loops with which this one shares work, if it has one.
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
pub fn group() -> Option<LoopGroup> {
    with_loop(|l| l.inbox.group.borrow().as_ref().map(|place| place.group()))
}

/// What the loop has now, and has done.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fibers: Vec<_> = (0..3).map(|n| spawn(move || n)).collect();
///     assert_eq!(this_loop::counters().fibers, 4); // this one, too
///     assert_eq!(fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum::<u32>(), 3);
///     assert_eq!(this_loop::counters().fibers, 1);
/// });
/// ```
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
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let plain = spawn(yield_now);
///     yield_now().unwrap();
///     assert!(this_loop::describe(plain.id()).is_empty()); // Rust only: nobody has anything to add
/// });
/// ```
pub fn describe(id: FiberId) -> Vec<String> {
    inspect::notes(id)
}

/// What a switch hook of a fiber of the loop keeps for it, if the fiber does not run: see
/// [`SwitchHook::record`](crate::SwitchHook::record). Null if there is nothing. It is good until the loop gets on.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert!(this_loop::hook_record(current_id()).is_null()); // it runs, and has no hook
/// });
/// ```
pub fn hook_record(id: FiberId) -> *const () {
    inspect::hook_record(id)
}

/// Hands the loop's driver to `f`, which must not suspend.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert_eq!(this_loop::with_driver(|driver| driver.name()), "sleep");
/// });
/// ```
pub fn with_driver<R>(f: impl FnOnce(&dyn Driver) -> R) -> R {
    with_loop(|l| f(&*l.driver))
}

/// Has `callback` called once, at the end of this tick, before the driver submits.
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
pub fn at_tick_end(callback: Rc<dyn TickEnd>) {
    with_loop(|l| l.at_tick_end(callback));
}

/// Sets what is called when the loop has nothing to run and is about to wait; `true` means that there is more to do and
/// it wants to be called again soon. For background work in small steps, such as a garbage collector's.
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
pub fn set_idle_hook(hook: impl Fn() -> bool + 'static) {
    let before = with_loop(|l| l.idle_hook.replace(Some(Rc::new(hook))));
    drop(before);
}

/// Takes the idle hook away.
///
/// ```
/// use std::rc::Rc;
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let heap = Rc::new("what the hook works on");
///     let its = heap.clone();
///     this_loop::set_idle_hook(move || its.is_empty());
///     this_loop::clear_idle_hook();
///     assert_eq!(Rc::strong_count(&heap), 1);
/// });
/// ```
pub fn clear_idle_hook() {
    let before = with_loop(|l| l.idle_hook.take());
    drop(before);
}

/// Whether the loop has been asked to shut down.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert!(!this_loop::shutdown_requested());
///     this_loop::request_shutdown();
///     while !this_loop::shutdown_requested() {
///         yield_now().unwrap();
///     }
/// });
/// ```
pub fn shutdown_requested() -> bool {
    with_loop(|l| l.shutdown.get())
}

/// Asks this loop to shut down, as [`LoopHandle::shutdown`] does from outside.
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
pub fn request_shutdown() {
    with_loop(|l| l.handle()).shutdown();
}

/// Waits until the loop is asked to shut down: the body of a worker loop's main fiber.
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
/// [`Stopped`] when the calling fiber is told to stop first.
///
/// # Panics
/// Outside a fiber.
pub fn wait_for_shutdown() -> Result<(), Stopped> {
    while !shutdown_requested() {
        let waker = prepare_park();
        let place = with_loop(|l| l.shutdown_waiters.add(waker));
        let woken = park("shutdown");
        with_loop(|l| l.shutdown_waiters.remove(place));
        woken?;
    }
    Ok(())
}
