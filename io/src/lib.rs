//! Sockets, signals and drivers for yue's fibers.
//!
//! A loop of [`yue_scheduler`] asks its driver to wait for the kernel; [`driver`] makes one: **io_uring** where the
//! kernel allows it, else **mio** (epoll). Both do the same operations with the same results.
//!
//! Two kinds of operation:
//! - **borrowed** ([`net`]): the fiber that calls parks, and the buffer is the caller's own. Any library over
//!   [`std::io::Read`] and [`std::io::Write`] runs on fibers as it is.
//! - **owned** ([`owned`]): no fiber; what comes is handed to a sink, what goes is queued. For a server with many
//!   connections, most of which are idle.
//!
//! ```text
//!   driver.rs     the choice, and finding the driver of the loop that runs here
//!   uring/        the io_uring driver            readiness/   the mio driver
//!   net/          borrowed operations            owned/       owned ones
//!   signal/       Unix signals                   sys.rs       system calls
//! ```

#![deny(missing_docs)]

mod bell;
mod driver;
pub mod net;
pub mod owned;
mod readiness;
mod shared;
pub mod signal;
mod sys;
mod uring;

pub use driver::{Choice, DriverCounters, UnknownDriver, counters, driver};
pub use uring::{Unavailable, probe_uring};
