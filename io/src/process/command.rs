//! The program to start, and its settings.

use super::child::Child;
use crate::offload::{is_unwinding, offload};
use crate::signal;
use crate::sys;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use yue_scheduler::{in_fiber, may_suspend};

/// The program to start and its settings, like [`std::process::Command`]. For settings without a method here, see
/// [`Command::as_std_mut`].
///
/// ```
/// use yue_io::process::Command;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let output = Command::new("sh")
///         .args(["-c", "echo $GREETING; pwd >&2; exit 3"])
///         .env("GREETING", "hello")
///         .current_dir("/")
///         .output()?;
///     assert_eq!(output.status.code(), Some(3));
///     assert_eq!(output.stdout, b"hello\n");
///     assert_eq!(output.stderr, b"/\n");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    kill_on_drop: bool,
    /// The streams that the caller has set. The others get the defaults of each call.
    chosen: Chosen,
    /// Whether [`Command::output`] has set its defaults for the other streams.
    defaulted: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Chosen {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Command {
    /// Creates a command for a program, given by its path or by a name that is looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command::from(std::process::Command::new(program))
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.inner.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.inner.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env(name, value);
        self
    }

    /// Sets environment variables.
    pub fn envs(
        &mut self,
        variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> &mut Self {
        self.inner.envs(variables);
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env_remove(name);
        self
    }

    /// Clears the environment.
    pub fn env_clear(&mut self) -> &mut Self {
        self.inner.env_clear();
        self
    }

    /// Sets the working directory.
    pub fn current_dir(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.inner.current_dir(path);
        self
    }

    /// Sets the child's standard input. By default it is inherited, and empty with [`Command::output`].
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.chosen.stdin = true;
        self.inner.stdin(stdin);
        self
    }

    /// Sets the child's standard output. By default it is inherited, and a pipe with [`Command::output`].
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.chosen.stdout = true;
        self.inner.stdout(stdout);
        self
    }

    /// Sets the child's standard error; see [`Command::stdout`].
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.chosen.stderr = true;
        self.inner.stderr(stderr);
        self
    }

    /// Sets the user.
    pub fn uid(&mut self, id: u32) -> &mut Self {
        self.inner.uid(id);
        self
    }

    /// Sets the group.
    pub fn gid(&mut self, id: u32) -> &mut Self {
        self.inner.gid(id);
        self
    }

    /// Sets the process group; 0 creates a group for the child.
    pub fn process_group(&mut self, group: i32) -> &mut Self {
        self.inner.process_group(group);
        self
    }

    /// Starts the program in a session of its own: it leads a process group, has no terminal, and receives none of the
    /// terminal's signals.
    pub fn new_session(&mut self) -> &mut Self {
        // SAFETY: between fork and exec only an async-signal-safe call is made, and nothing is allocated.
        unsafe { self.inner.pre_exec(sys::new_session) };
        self
    }

    /// Passes a descriptor to the program, under the number that it has here. The command keeps the descriptor open;
    /// other programs do not inherit it.
    pub fn inherit(&mut self, descriptor: OwnedFd) -> &mut Self {
        let keep = move || sys::keep_at_exec(descriptor.as_fd());
        // SAFETY: between fork and exec only an async-signal-safe call is made, and nothing is allocated. It changes
        // the child's copy of the table of descriptors.
        unsafe { self.inner.pre_exec(keep) };
        self
    }

    /// Sets the child's `argv[0]`.
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.inner.arg0(name);
        self
    }

    /// Sets whether the child is killed when its [`Child`] is dropped before the child ends. By default it is not.
    ///
    /// ```
    /// # yue_io::run(|| -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use yue_io::process::Command;
    ///
    /// // A command with a time limit: after it, the child is killed and reaped.
    /// let late = yue_scheduler::timeout(Duration::from_millis(10), || {
    ///     Command::new("sleep").arg("1000").kill_on_drop(true).status()
    /// });
    /// assert_eq!(late.err(), Some(yue_scheduler::Elapsed));
    /// #     Ok(())
    /// # })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// The system's error, such as a missing program.
    pub fn spawn(&mut self) -> io::Result<Child> {
        if std::mem::take(&mut self.defaulted) {
            self.default_streams(Stdio::inherit, Stdio::inherit);
        }
        self.start()
    }

    /// Sets the streams that the caller has not set.
    fn default_streams(&mut self, input: fn() -> Stdio, output: fn() -> Stdio) {
        if !self.chosen.stdin {
            self.inner.stdin(input());
        }
        if !self.chosen.stdout {
            self.inner.stdout(output());
        }
        if !self.chosen.stderr {
            self.inner.stderr(output());
        }
    }

    fn start(&mut self) -> io::Result<Child> {
        let inner = &mut self.inner;
        // The copy of a large process's page tables takes tens of milliseconds, and the call waits until the program
        // has been loaded: not on a loop's thread, if the fiber may wait.
        let child = if in_fiber() && may_suspend().is_ok() && !is_unwinding() {
            offload("start a program", || inner.spawn())?
        } else {
            inner.spawn()?
        };
        Child::new(child, self.kill_on_drop)
    }

    /// Starts the program and waits until it ends.
    ///
    /// # Errors
    /// The errors of [`Command::spawn`]; or when the fiber is cancelled or its deadline passes.
    pub fn status(&mut self) -> io::Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Starts the program, waits until it ends, and returns its output.
    ///
    /// # Errors
    /// See [`Command::status`].
    pub fn output(&mut self) -> io::Result<Output> {
        self.default_streams(Stdio::null, Stdio::piped);
        self.defaulted = true;
        self.start()?.wait_with_output()
    }

    /// Returns the standard library's command, for settings without a method here.
    pub fn as_std_mut(&mut self) -> &mut std::process::Command {
        &mut self.inner
    }
}

/// Streams set on the original command are unknown here: [`Command::output`] applies its defaults to them.
impl From<std::process::Command> for Command {
    fn from(mut inner: std::process::Command) -> Self {
        signal::unblocked(&mut inner);
        Command {
            inner,
            kill_on_drop: false,
            chosen: Chosen::default(),
            defaulted: false,
        }
    }
}
