//! A child process.

use super::reaper;
use crate::descriptor::Descriptor;
use crate::identity::Direction;
use crate::pipe::{PipeReader, PipeWriter};
use crate::signal::Signal;
use crate::sys;
use std::fmt;
use std::io::{self, Read};
use std::process::{ExitStatus, Output};
use std::thread;
use yue_scheduler::{FiberId, JoinError, cancel, in_fiber, spawn};

/// The pipe to a child's standard input.
pub type ChildStdin = PipeWriter;

/// The pipe from a child's standard output.
pub type ChildStdout = PipeReader;

/// The pipe from a child's standard error.
pub type ChildStderr = PipeReader;

/// A child process, like [`std::process::Child`].
///
/// If it is dropped before the process ends, the process keeps running, unless
/// [`Command::kill_on_drop`](super::Command::kill_on_drop) was set.
///
/// ```
/// use std::io::{Read, Write};
/// use yue_io::process::{Command, Stdio};
///
/// yue_io::run(|| -> std::io::Result<()> {
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
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Child {
    /// The child's standard input, if it is a pipe. Dropping it ends the child's input.
    pub stdin: Option<ChildStdin>,
    /// The child's standard output, if it is a pipe.
    pub stdout: Option<ChildStdout>,
    /// The child's standard error, if it is a pipe.
    pub stderr: Option<ChildStderr>,
    /// `Some` until the child is dropped.
    process: Option<Process>,
    kill_on_drop: bool,
}

/// A process, and the descriptor that becomes readable when the process ends.
pub(super) struct Process {
    pub(super) child: std::process::Child,
    pub(super) pidfd: Descriptor,
}

impl Child {
    pub(super) fn new(mut child: std::process::Child, kill_on_drop: bool) -> io::Result<Child> {
        // The process id is not reused before the child is reaped, and only we reap it.
        let pidfd = match sys::pid_fd(child.id()) {
            Ok(pidfd) => Descriptor::from(pidfd),
            Err(error) => {
                // Without a pidfd, waiting would block: undo the start by killing the child.
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

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.process
            .as_ref()
            .map_or(0, |process| process.child.id())
    }

    /// Ends the child's input and waits until the child ends.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes. It can then be called again.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        let Process { child, pidfd } = self.process();
        pidfd.by_readiness(Direction::Read, "wait for a child process", || {
            child.try_wait()?.ok_or(io::ErrorKind::WouldBlock.into())
        })
    }

    /// Like [`Child::wait`], and kills the processes of the child's group that are left when the child ends. It must
    /// have been started as the leader of a group, by [`process_group(0)`](super::Command::process_group) or
    /// [`new_session`](super::Command::new_session).
    ///
    /// # Errors
    /// See [`Child::wait`].
    pub fn wait_and_kill_group(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        let Process { child, pidfd } = self.process();
        pidfd.by_readiness(Direction::Read, "wait for a child process", || {
            if !sys::has_exited(pidfd.raw())? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // It has not been waited for, so its number is not another's. It may have been the last of its group.
            let _ = sys::kill_group(child.id());
            child.try_wait()?.ok_or(io::ErrorKind::WouldBlock.into())
        })
    }

    /// Returns the exit status if the child has ended. Does not wait.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process().child.try_wait()
    }

    /// Kills the child, if it has not ended. It must still be waited for.
    ///
    /// # Errors
    /// The system's error.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process().child.kill()
    }

    /// Kills the child and all processes of its group, if the child has not ended. It must have been started as the
    /// leader of a group, by [`process_group(0)`](super::Command::process_group). It must still be waited for.
    ///
    /// # Errors
    /// The system's error; `ESRCH` if it leads no group.
    pub fn kill_group(&mut self) -> io::Result<()> {
        let child = &mut self.process().child;
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        // It has not been waited for, so its number is not another's.
        sys::kill_group(child.id())
    }

    /// Sends the child a signal, if it has not ended.
    ///
    /// # Errors
    /// The system's error.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        let Process { child, pidfd } = self.process();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        sys::signal_process(pidfd.raw(), signal.number())
    }

    /// Ends the child's input, reads all of its piped output, and waits until the child ends.
    ///
    /// # Errors
    /// See [`Child::wait`]. On an error the output is lost, and the child is treated as dropped.
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

/// Reads both streams at once: a child that finds one pipe full does not continue with the other.
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
        // An unwinding fiber cannot wait for another; a read that would have to wait fails.
        return Ok((read_all(Some(stdout))?, read_all(Some(stderr))?));
    }
    let other = spawn(move || read_all(Some(stderr)));
    // Cancel the fiber when this call ends. It owns all its data, so nobody needs to wait for it.
    let _stop = CancelOnDrop(other.id());
    let bytes = read_all(Some(stdout))?;
    match other.join() {
        Ok(other) => Ok((bytes, other?)),
        Err(JoinError::Panicked(panic)) => std::panic::resume_unwind(panic),
        Err(error) => Err(error.into()),
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
            // This does nothing if the child has ended.
            let _ = process.child.kill();
        }
        // An error means that other code has reaped the child.
        if matches!(process.child.try_wait(), Ok(None)) {
            reaper::reap_when_ended(process);
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
