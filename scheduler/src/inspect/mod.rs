//! Seeing inside a running program: its fibers and what they wait for, its counters, what holds a loop.
//!
//! | question | answer |
//! |---|---|
//! | Which fibers are there, and what do they wait for? | [`this_loop::fibers`], [`LoopHandle::fibers`] |
//! | How busy are the loops? | [`metrics_text`], [`set_timing`] |
//!
//! [`this_loop::fibers`]: crate::this_loop::fibers
//! [`LoopHandle::fibers`]: crate::LoopHandle::fibers

mod fibers;
mod histogram;
mod metrics;
pub(crate) mod vitals;

pub use fibers::{FiberInfo, FiberState};
pub(crate) use fibers::{here, one};
pub use metrics::{add_metrics, metrics_text};
pub use vitals::{set_timing, timing};
