//! Stackful fibers, event loops, time and cancellation.
//!
//! A **loop** is one thread's scheduler: a run queue, a timer wheel, an inbox for what other threads send, and a
//! [`Driver`] that waits for I/O. A **fiber** is a closure on a stack of its own that belongs to one loop from birth
//! to end. It runs until it *parks*; whoever holds its waker makes it runnable again. All else (sleep, join, sockets,
//! remote calls) is built from these two verbs.
//!
//! ```
//! use yue_scheduler::{Config, Loop, spawn, sleep};
//! use std::time::Duration;
//!
//! let total = Loop::new(Config::default()).unwrap().run(|| {
//!     let fibers: Vec<_> = (1..=3u64)
//!         .map(|n| {
//!             spawn(move || {
//!                 sleep(Duration::from_millis(n)).unwrap();
//!                 n
//!             })
//!         })
//!         .collect();
//!     fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum::<u64>()
//! });
//! assert_eq!(total, 6);
//! ```
//!
//! How the parts fit, from the bottom:
//!
//! ```text
//!   stack/       address space for stacks: arenas, guard pages, the overflow report
//!   fiber/       the switch, the header of a fiber, park and wake, spawn and join, cancellation
//!   time/        the clock, the timer wheel, sleep, deadlines
//!   event_loop/  the tick, the inbox, handles for other threads, shutdown
//!   sync/        locks, permits, channels, select, fiber-locals
//!   inspect/     seeing inside: the list of fibers, counters
//!   driver.rs    what a loop asks of I/O
//!   say.rs       lines on standard error
//!   signals.rs   threads that take no signals
//! ```
//!
//! # `tracing`
//!
//! With the feature `tracing` (off by default), the spans that a fiber has entered follow it: it exits them when it
//! leaves the processor, and enters them again when it comes back, so that a span may be entered by a guard over any
//! suspension. The spans that the thread itself is in around its loop stay, and surround those of every fiber; a span
//! left open by a fiber that ends is exited. A new fiber inherits no span, as a new task of tokio does not; let it
//! enter the one that it works for:
//!
//! ```ignore
//! let span = tracing::Span::current();
//! spawn(move || span.in_scope(|| serve(connection)));
//! ```
//!
//! The subscriber must tell the current span, as the registry of `tracing-subscriber` does. A subscriber that is set
//! for a scope (`with_default`) belongs to the thread and does not follow a fiber: set one outside the loop. If a fiber
//! enters once more a span that the thread is in around its loop, that entry is left in place during switches.

#![deny(missing_docs)]

mod blocking;
mod driver;
mod event_loop;
mod fiber;
pub mod inspect;
mod prefetch;
mod say;
mod signals;
mod stack;
pub mod sync;
mod time;

pub use blocking::{
    BlockingCounters, BlockingError, BlockingLimits, blocking, blocking_borrowed,
    blocking_counters, set_blocking_limits, wait_for_blocking,
};
pub use driver::{Bell, Driver, SleepDriver, Wait};
pub use event_loop::this_loop;
pub use event_loop::{
    Config, Counters, Loop, LoopGroup, LoopHandle, PanicHook, RemoteJoin, Spin, StopReport, Tick,
    TickEnd,
};
pub use fiber::{
    Builder, CancelScope, Elapsed, FiberId, JoinError, JoinHandle, JoinSet, LocalWaker, Priority,
    RemoteWaker, Scope, ScopedJoinHandle, Stopped, SwitchHook, TryJoinHandle, TryScope, Wakeup,
    block_on, cancel, context, current_id, current_name, in_fiber, is_cancelled, may_suspend,
    no_suspend, park, park_uninterruptible, park_unrefused, park_until, prepare_park, refuse_call,
    scope, set_context, set_priority, shield, spawn, stack_limit, timeout, try_scope, unrefused,
    with_deadline, with_switch_hook, yield_if_allowed, yield_now,
};
pub use say::say;
pub use signals::{FAULT_SIGNALS, spawn_with_signals_blocked};
pub use stack::{StackClass, StackConfig, guard_kind};
pub use time::{
    Clock, Instant, Timer, deadline_after, is_past, now, sleep, sleep_until, time_left,
};
