//! A process that was started here.

use super::orphans;
use super::{ChildStderr, ChildStdin, ChildStdout, ExitStatus, Output};
use crate::descriptor::Descriptor;
use crate::readiness::Direction;
use crate::signal::Signal;
use crate::sys;
use std::fmt;
use std::io::{self, Read};
use std::thread;
use yue_scheduler::{FiberId, JoinError, cancel, in_fiber, spawn};

/// A process that was started here, as [`std::process::Child`].
///
/// Dropped before it is over, it goes on by itself, unless [`Command::kill_on_drop`](super::Command::kill_on_drop) was
/// asked for.
///
/// ```
/// use std::io::{Read, Write};
/// use yue::process::{Command, Stdio};
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let mut child = Command::new("tr")
///         .args(["a-z", "A-Z"])
///         .stdin(Stdio::piped())
///         .stdout(Stdio::piped())
///         .spawn()?;
///     child.stdin.take().unwrap().write_all(b"shout")?;
///     let mut answer = String::new();
///     child.stdout.take().unwrap().read_to_string(&mut answer)?;
///     assert_eq!(answer, "SHOUT");
///     assert!(child.wait()?.success());
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Child {
    /// What it reads, if that is a pipe. Dropping it is the end of its input.
    pub stdin: Option<ChildStdin>,
    /// What it writes, if that is a pipe.
    pub stdout: Option<ChildStdout>,
    /// What it writes on standard error, if that is a pipe.
    pub stderr: Option<ChildStderr>,
    /// There until the child is dropped.
    process: Option<Process>,
    kill_on_drop: bool,
}

/// A process, and the descriptor that becomes readable when it is over.
pub(super) struct Process {
    pub(super) child: std::process::Child,
    pub(super) pidfd: Descriptor,
}

impl Child {
    pub(super) fn new(mut child: std::process::Child, kill_on_drop: bool) -> io::Result<Child> {
        // The number is the child's own until it is reaped, which only we do.
        let pidfd = match sys::pid_fd(child.id()) {
            Ok(pidfd) => Descriptor::from(pidfd),
            Err(error) => {
                // It cannot be waited for without blocking: undo the start. It dies at once.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Child {
            stdin: child.stdin.take().map(ChildStdin::from_child),
            stdout: child.stdout.take().map(ChildStdout::from_child),
            stderr: child.stderr.take().map(ChildStderr::from_child),
            process: Some(Process { child, pidfd }),
            kill_on_drop,
        })
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.process {
            Some(process) => process,
            None => unreachable!("a child has its process until it is dropped"),
        }
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.process
            .as_ref()
            .map_or(0, |process| process.child.id())
    }

    /// Ends its input, and waits until it is over.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop: it can be called again.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        let Process { child, pidfd } = self.process();
        pidfd.by_readiness(Direction::Read, "wait for a child process", || {
            child.try_wait()?.ok_or(io::ErrorKind::WouldBlock.into())
        })
    }

    /// How it ended, if it is over. Does not wait.
    ///
    /// # Errors
    /// The system's.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process().child.try_wait()
    }

    /// Kills it. It is to be waited for all the same. Of one that is over, nothing happens.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process().child.kill()
    }

    /// Sends it a signal; of one that is over, nothing happens.
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        let Process { child, pidfd } = self.process();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        sys::signal_process(pidfd.raw(), signal.number())
    }

    /// Ends its input, reads all that it writes into pipes, and waits until it is over.
    ///
    /// # Errors
    /// As [`Child::wait`]; what was read is lost then, and the child as if dropped.
    pub fn wait_with_output(mut self) -> io::Result<Output> {
        drop(self.stdin.take());
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr) = match (stdout, stderr) {
            (Some(stdout), Some(stderr)) => read_both(stdout, stderr)?,
            (stdout, stderr) => (read_all(stdout)?, read_all(stderr)?),
        };
        let status = self.wait()?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }
}

fn read_all(stream: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream {
        Some(mut stream) => stream.read_to_end(&mut bytes).map(|_| bytes),
        None => Ok(bytes),
    }
}

/// Reads both at once: a child that finds the one pipe full does not go on with the other.
fn read_both(stdout: ChildStdout, stderr: ChildStderr) -> io::Result<(Vec<u8>, Vec<u8>)> {
    if !in_fiber() {
        return thread::scope(|scope| {
            let other = scope.spawn(|| read_all(Some(stderr)));
            let bytes = read_all(Some(stdout))?;
            let other = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((bytes, other?))
        });
    }
    if thread::panicking() {
        // A fiber that unwinds cannot wait for another; what would have to wait is an error.
        return Ok((read_all(Some(stdout))?, read_all(Some(stderr))?));
    }
    let other = spawn(move || read_all(Some(stderr)));
    // It ends with us: it owns all that it uses, so that nobody need wait for it.
    let _stop = CancelOnDrop(other.id());
    let bytes = read_all(Some(stdout))?;
    match other.join() {
        Ok(other) => Ok((bytes, other?)),
        Err(JoinError::Stopped(stopped)) => Err(stopped.into()),
        Err(JoinError::Panicked(panic)) => std::panic::resume_unwind(panic),
        Err(error @ JoinError::LoopGone) => Err(io::Error::other(error.to_string())),
    }
}

struct CancelOnDrop(FiberId);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        cancel(self.0);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        if self.kill_on_drop {
            // Of one that is over already, nothing happens.
            let _ = process.child.kill();
        }
        // An error means that somebody else has reaped it.
        if matches!(process.child.try_wait(), Ok(None)) {
            orphans::adopt(process);
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("id", &self.id())
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .finish_non_exhaustive()
    }
}
