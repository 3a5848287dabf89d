//! Child processes for fibers, like `std::process`. Waiting for a child, and using its streams, parks the fiber.
//!
//! A child is waited for through a pidfd, without a signal handler. It starts with no signal blocked, whatever the
//! loops have blocked. A child that is dropped before it ends keeps running (or is killed, see
//! [`Command::kill_on_drop`]) and is reaped in the background, so no zombie remains. Needs Linux 5.3.
//!
//! Starting a program copies the process's page tables and waits for the program to be loaded, on the calling thread.
//! That takes some hundred microseconds, and more in a process with much memory.
//!
//! ```
//! use yue_io::process::Command;
//!
//! yue_io::run(|| -> std::io::Result<()> {
//!     let output = Command::new("echo").arg("hello").output()?;
//!     assert!(output.status.success());
//!     assert_eq!(output.stdout, b"hello\n");
//!     Ok(())
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

mod child;
mod command;
mod reaper;

pub use child::{Child, ChildStderr, ChildStdin, ChildStdout};
pub use command::Command;
pub use std::process::{ExitCode, ExitStatus, Output, Stdio, abort, exit, id};
