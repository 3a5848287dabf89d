//! Sockets, files, pipes, processes, signals and drivers for yue's fibers.
//!
//! A loop of [`yue_scheduler`] asks its driver to wait for the kernel; [`driver`] makes one: **io_uring** where the
//! kernel allows it, else **mio** (epoll). Both do the same operations with the same results.
//!
//! Two kinds of operation:
//! - **borrowed** ([`net`], [`fs`], [`pipe`], [`process`], [`stdio`]): the fiber that calls parks, and the buffer is
//!   the caller's own. Any library over [`std::io::Read`] and [`std::io::Write`] runs on fibers as it is.
//! - **owned** ([`owned`]): no fiber; what comes is handed to a sink, what goes is queued. For a server with many
//!   connections, most of which are idle.
//!
//! ```text
//!   driver.rs     the choice, and finding the driver of the loop that runs here
//!   uring/        the io_uring driver            readiness/   the mio driver
//!   descriptor.rs what every descriptor does     sys.rs       system calls
//!   poll.rs       waiting for readiness alone, and in `select!`
//!   net/          sockets                        owned/       connections without a fiber
//!   fs/           files and directories          process/     child processes
//!   pipe.rs       pipes                          stdio.rs     the process's own streams
//!   signal/       Unix signals                   watch.rs     what happens to files
//!   errors.rs     what the kernel's answers become
//!   tls/          TLS (feature `tls`)
//!   offload.rs    calls that block, on a pool    bell.rs      waking a loop
//!   backoff.rs    pauses between attempts
//! ```
//!
//! A program reaches this crate through `yue`, which has its modules under their names; so do the examples.
//!
//! ```
//! use std::io::{Read, Write};
//! use yue_io::net::UnixStream;
//!
//! let answer = yue_io::run(|| -> std::io::Result<String> {
//!     let (mut here, mut there) = UnixStream::pair()?;
//!     yue_scheduler::spawn(move || there.write_all(b"from another fiber"));
//!     std::io::read_to_string(here)
//! })??;
//! assert_eq!(answer, "from another fiber");
//! # Ok::<(), std::io::Error>(())
//! ```

#![deny(missing_docs)]

mod backoff;
mod bell;
mod descriptor;
mod driver;
pub mod errors;
pub mod fs;
pub mod net;
mod offload;
pub mod owned;
pub mod pipe;
mod poll;
pub mod process;
mod readiness;
mod shared;
pub mod signal;
pub mod stdio;
mod sys;
mod taken;
#[cfg(feature = "tls")]
pub mod tls;
mod uring;
pub mod watch;

pub use driver::{Choice, DriverCounters, UnknownDriver, counters, driver, run};
pub use poll::{DescriptorReadiness, ReadinessBranch};
pub use uring::{Unavailable, probe_uring};
