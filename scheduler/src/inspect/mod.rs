//! Introspection of a running program: its fibers and what they wait for, its counters, and what holds a loop.
//!
//! | question | answer |
//! |---|---|
//! | Which fibers exist, and what do they wait for? | [`this_loop::fibers`], [`LoopHandle::fibers`] |
//! | Where in its code does a fiber wait? | [`this_loop::backtrace`], [`LoopHandle::backtrace`] |
//! | What keeps a loop from making progress? | [`watch_loops`] |
//! | What does a hanging program do, seen from outside? | `kill -QUIT`, after [`report_on`]`(SIGQUIT)` |
//! | Which loops exist, and how busy are they? | [`loops`], [`metrics_text`], [`set_timing`] |
//!
//! [`this_loop::fibers`]: crate::this_loop::fibers
//! [`LoopHandle::fibers`]: crate::LoopHandle::fibers
//! [`this_loop::backtrace`]: crate::this_loop::backtrace
//! [`LoopHandle::backtrace`]: crate::LoopHandle::backtrace

mod backtrace;
mod capture;
mod fibers;
mod interrupt;
mod loops;
mod metrics;
mod report;
pub(crate) mod this_loop;
mod unwind;
mod watchdog;

pub use crate::event_loop::{set_timing, timing};
pub use backtrace::Backtrace;
pub use capture::{Probe, set_probe};
pub use fibers::{FiberInfo, FiberState};
pub use interrupt::{Interruption, interrupt_threads, set_interruption};
pub use loops::{LoopInfo, loops};
pub use metrics::{add_metrics, metrics_text};
pub use report::{report, report_on, report_on_with};
pub use watchdog::{HeldLoop, stop_watching, watch_loops, watch_loops_with};
