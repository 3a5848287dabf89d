//! Time: instants, the clock of a loop, and the timer wheel.
//!
//! The clock is injected into the loop, so that a simulation can control it; nothing else in the workspace reads the
//! system's clock. [`now`](crate::now) reads it at each call. For its own bookkeeping a loop keeps its last reading in
//! a separate type ([`TickTime`]) that cannot become a deadline.

mod instant;
mod tick_time;
pub(crate) mod wheel;

pub use instant::{Clock, Instant};
pub(crate) use tick_time::TickTime;
