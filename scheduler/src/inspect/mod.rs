//! Seeing inside a running program: its fibers and what they wait for, its counters, what holds a loop.
//!
//! | question | answer |
//! |---|---|
//! | Which fibers are there, and what do they wait for? | [`this_loop::fibers`], [`LoopHandle::fibers`] |
//! | Where in its code is a fiber that waits? | [`this_loop::backtrace`], [`LoopHandle::backtrace`] |
//! | Who keeps a loop from getting on? | [`watch_loops`] |
//! | Everything at once, from outside, of a program that hangs? | `kill -QUIT`, after [`report_on`]`(SIGQUIT)` |
//! | How busy are the loops? | [`metrics_text`], [`set_timing`] |
//!
//! [`this_loop::fibers`]: crate::this_loop::fibers
//! [`LoopHandle::fibers`]: crate::LoopHandle::fibers
//! [`this_loop::backtrace`]: crate::this_loop::backtrace
//! [`LoopHandle::backtrace`]: crate::LoopHandle::backtrace

mod backtrace;
mod capture;
mod fibers;
mod histogram;
mod interrupt;
mod metrics;
mod report;
mod unwind;
pub(crate) mod vitals;
mod watchdog;

pub use backtrace::Backtrace;
pub(crate) use backtrace::{hook_record, notes, of_fiber};
pub use capture::{Probe, set_probe};
pub(crate) use fibers::origin_of;
pub use fibers::{FiberInfo, FiberState};
pub(crate) use fibers::{find, here};
pub use interrupt::{Interruption, interrupt_threads, set_interruption};
pub use metrics::{add_metrics, metrics_text};
pub use report::{report, report_on, report_on_with};
pub(crate) use unwind::Registers;
pub use vitals::{set_timing, timing};
pub use watchdog::{HeldLoop, stop_watching, watch_loops, watch_loops_with};
