//! Sockets, files, pipes, processes, signals and drivers for yue's fibers.
//!
//! Each loop of [`yue_scheduler`] owns a driver that waits for the kernel. [`driver`] makes one: **io_uring** where the
//! kernel allows it, otherwise **mio** (epoll). Both perform the same operations with the same results.
//!
//! Two kinds of operation:
//! - **borrowed** ([`net`], [`fs`], [`pipe`], [`process`], [`stdio`]): the calling fiber parks, and the buffer belongs
//!   to the caller. Any library over [`std::io::Read`] and [`std::io::Write`] runs on fibers unchanged.
//! - **owned** ([`owned`]): no fiber. Received bytes go to a sink, and outgoing bytes are queued. Meant for servers
//!   with many connections, most of them idle.
//!
//! ```text
//!   driver.rs     chooses a driver; finds the current loop's driver
//!   uring/        the io_uring driver            readiness/   the mio driver
//!   descriptor.rs operations of all descriptors  sys.rs       system calls
//!   poll.rs       waits for readiness, alone and in `select!`
//!   net/          sockets                        owned/       connections without a fiber
//!   fs/           files and directories          process/     child processes
//!   pipe.rs       pipes                          stdio.rs     the process's standard streams
//!   signal/       Unix signals                   watch.rs     inotify: watches files for changes
//!   errors.rs     maps the kernel's results to errors
//!   tls/          TLS (feature `tls`)
//!   offload.rs    blocking calls, on a pool      bell.rs      wakes a loop
//!   backoff.rs    pauses between retries
//! ```
//!
//! Programs reach this crate through `yue`, which re-exports its modules under the same names. The examples do the
//! same.
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
