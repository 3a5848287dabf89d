//! Stackful fibers, event loops, time and cancellation.
//!
//! A **loop** is one thread's scheduler: a run queue, a timer wheel, an inbox for messages from other threads, and a
//! [`Driver`] that waits for I/O. A **fiber** is a closure with its own stack. It belongs to one loop from birth to
//! end. It runs until it *parks*; a holder of its waker makes it runnable again. Everything else (sleep, join, sockets,
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
//! The parts, from the bottom up:
//!
//! ```text
//!   time/        instants, the clock, the timer wheel
//!   stack/       address space for stacks: arenas, guard pages, the overflow report
//!   fiber/       the switch, the header of a fiber, park and wake, spawn and join, cancellation, fiber-locals
//!   event_loop/  the tick, the inbox, timers, handles for other threads, counters, shutdown
//!   blocking/    the pool of threads for blocking calls
//!   sync/        locks, permits, channels, select
//!   inspect/     introspection: the list of fibers, backtraces, counters, the watchdog
//!   this_loop.rs the calling thread's loop
//!   atomic.rs    std's or loom's atomics, mutex and thread parking
//!   driver.rs    the interface between a loop and I/O
//!   lock.rs      locks that ignore poisoning
//!   logging/     log lines, to standard error or to the embedder's hook
//!   panics.rs    payloads of panics
//!   processors.rs the processors for threads of the blocking pool
//!   program_thread.rs threads of the system, or of a simulation
//!   signals.rs   signal masks and handlers
//!   simulation/  threads in virtual time, in the order of a seed
//! ```
//!
//! # `tracing`
//!
//! With the feature `tracing` (off by default), the spans that a fiber has entered follow it. The fiber exits them when
//! it is switched out and enters them again when it resumes, so a guard of an entered span may live across a
//! suspension. The spans that the thread itself has entered around its loop stay, and surround those of every fiber. A
//! span that a fiber leaves open when it ends is exited. A new fiber inherits no span, like a new task in tokio. It can
//! enter the span that it works for:
//!
//! ```ignore
//! let span = tracing::Span::current();
//! spawn(move || span.in_scope(|| serve(connection)));
//! ```
//!
//! The subscriber must report the current span, as the registry of `tracing-subscriber` does. A subscriber set for a
//! scope (`with_default`) belongs to the thread and does not follow a fiber: set one outside the loop. If a fiber
//! enters a span that the thread has already entered around its loop, that entry stays in place during switches.

#![deny(missing_docs)]

mod atomic;
mod blocking;
mod driver;
mod event_loop;
mod fiber;
pub mod inspect;
mod lock;
mod logging;
mod panics;
mod prefetch;
mod processors;
mod program_thread;
mod signals;
pub mod simulation;
mod stack;
pub mod sync;
pub mod this_loop;
mod thread_id;
mod time;

pub use blocking::{
    BlockingCounters, BlockingError, BlockingLimits, blocking, blocking_borrowed,
    blocking_counters, set_blocking_limits, wait_for_blocking,
};
pub use driver::{Bell, Driver, SleepDriver, Wait};
pub use event_loop::{
    Config, Counters, Loop, LoopGroup, LoopHandle, PanicHook, RemoteJoin, Spin, StopReport, Tick,
    TickEnd, Timer, deadline_after, is_past, now, time_left,
};
pub use fiber::{
    Builder, CancelScope, Elapsed, FiberId, JoinError, JoinHandle, JoinSet, LocalWaker, Priority,
    RemoteWaker, Scope, ScopedJoinHandle, Stopped, SwitchHook, TryJoinHandle, TryScope, Wakeup,
    block_on, cancel, context, current_deadline, current_id, current_name, in_fiber, is_cancelled,
    may_suspend, no_suspend, park, park_uninterruptible, park_unrefused, park_until, prepare_park,
    refuse_call, scope, set_context, set_log_hook, set_priority, shield, sleep, sleep_until, spawn,
    stack_limit, timeout, try_scope, unrefused, with_deadline, with_switch_hook, yield_if_allowed,
    yield_now,
};
#[doc(hidden)]
pub use lock::lock;
#[doc(hidden)]
pub use logging::{LOG_LEVELS, change_log_level, log_level_name, log_outcome, log_outcome_entry};
pub use logging::{
    LogEntry, LogField, LogFormat, LogHook, LogLevel, LogValue, is_logged, log, log_entry,
    log_format, log_level, set_log_format, set_log_level, set_log_name,
};
#[doc(hidden)]
pub use panics::{drop_payload, panic_text};
#[doc(hidden)]
pub use program_thread::{ProgramThread, receive, wait_in_simulation};
pub use signals::{FAULT_SIGNALS, SignalSet, set_signal_handler, spawn_with_signals_blocked};
pub use stack::{StackClass, StackConfig, guard_kind};
pub use thread_id::thread_id;
pub use time::{Clock, Instant};
#[doc(hidden)]
pub use yue_queue::planted;

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
