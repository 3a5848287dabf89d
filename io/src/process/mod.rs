//! Child processes, as in `std::process`, on fibers: waiting for one parks the fiber, and so do its streams.
//!
//! A child is waited for through a pidfd, which no signal handler is needed for. It starts with no signal blocked,
//! whatever the loops have blocked. One that is dropped before it is over goes on (or is killed, see
//! [`Command::kill_on_drop`]) and is reaped in the background: no zombie stays. Needs Linux 5.3.
//!
//! Starting a program copies the process's page tables and waits for the program to be loaded, on the calling thread:
//! some hundred microseconds, more in a process with much memory.
//!
//! ```
//! use yue::process::Command;
//!
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let output = Command::new("echo").arg("hello").output()?;
//!     assert!(output.status.success());
//!     assert_eq!(output.stdout, b"hello\n");
//!     Ok(())
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod child;
mod command;
mod orphans;

use crate::pipe::{PipeReader, PipeWriter};

pub use child::Child;
pub use command::Command;
pub use std::process::{ExitCode, ExitStatus, Output, Stdio, abort, exit, id};

/// What a child reads.
pub type ChildStdin = PipeWriter;

/// What a child writes.
pub type ChildStdout = PipeReader;

/// What a child writes on standard error.
pub type ChildStderr = PipeReader;
