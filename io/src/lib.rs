//! Sockets, files, pipes, processes, signals and drivers for yue's fibers.
//!
//! Each loop of [`yue_scheduler`] owns a driver that waits for the kernel. [`driver`] makes one: **io_uring** where the
//! kernel allows it, otherwise **mio** (epoll). Both perform the same operations with the same results.
//!
//! Two kinds of operation:
//! - **borrowed** ([`net`], [`fs`], [`pipe`], [`process`], [`stdio`]): the calling fiber parks, and the buffer belongs
//!   to the caller. Any library over [`std::io::Read`] and [`std::io::Write`] runs on fibers unchanged.
//! - **owned** ([`connection`]): no fiber. Received bytes go to a sink, and outgoing bytes are queued. Meant for
//!   servers with many connections, most of them idle.
//!
//! ```text
//!   driver/       chooses a driver; finds the current loop's driver
//!   uring/        the io_uring driver            mio/         the mio driver (epoll)
//!   descriptor.rs operations of all descriptors  identity.rs  a descriptor's id; directions of readiness
//!   readiness.rs  waits for readiness, alone and in `select!`
//!   net/          sockets                        connection/  connections without a fiber
//!   fs/           files and directories          process/     child processes
//!   pipe.rs       pipes                          stdio.rs     the process's standard streams
//!   signal/       Unix signals                   inotify.rs   watches files for changes
//!   sys.rs        system calls                   errors.rs    maps the kernel's results to errors
//!   accept_queue.rs  a listener's connections that were accepted in advance
//!   tls/          TLS (feature `tls`)            bell.rs      wakes a loop
//!   offload.rs    blocking calls, on a pool      backoff.rs   pauses between retries
//! ```
//!
//! Programs reach this crate through `yue`, which re-exports its modules under the same names: `yue_io::net` is
//! `yue::net`.
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

mod accept_queue;
mod backoff;
mod bell;
pub mod connection;
mod descriptor;
mod driver;
pub mod errors;
pub mod fs;
mod identity;
pub mod inotify;
mod mio;
pub mod net;
mod offload;
pub mod pipe;
pub mod process;
mod readiness;
pub mod signal;
mod simulated;
pub mod simulation;
pub mod stdio;
mod sys;
#[cfg(feature = "tls")]
pub mod tls;
mod uring;

pub use driver::{Choice, DriverCounters, UnknownDriver, counters, driver, run};
pub use readiness::{DescriptorReadiness, ReadinessBranch};
pub use uring::{Unavailable, probe_uring};

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
