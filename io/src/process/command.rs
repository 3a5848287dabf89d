//! What program to start, and how.

use super::{Child, ExitStatus, Output, Stdio};
use crate::signal;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// What program to start, and how, as [`std::process::Command`]; see [`Command::as_std_mut`] for what has no method
/// here.
///
/// ```
/// use yue::process::Command;
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let output = Command::new("sh")
///         .args(["-c", "echo $GREETING; pwd >&2; exit 3"])
///         .env("GREETING", "hello")
///         .current_dir("/")
///         .output()?;
///     assert_eq!(output.status.code(), Some(3));
///     assert_eq!(output.stdout, b"hello\n");
///     assert_eq!(output.stderr, b"/\n");
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    kill_on_drop: bool,
    /// Which of the child's streams the caller has said something about: the others are as each call has it.
    chosen: Chosen,
    /// Whether [`Command::output`] has set its own defaults for the others.
    defaulted: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Chosen {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Command {
    /// A program by its name, looked for in `PATH`, or by its path.
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

    /// Sets a variable of the environment.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env(name, value);
        self
    }

    /// Sets variables of the environment.
    pub fn envs(
        &mut self,
        variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> &mut Self {
        self.inner.envs(variables);
        self
    }

    /// Takes a variable out of the environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env_remove(name);
        self
    }

    /// Starts with an empty environment.
    pub fn env_clear(&mut self) -> &mut Self {
        self.inner.env_clear();
        self
    }

    /// Sets the working directory.
    pub fn current_dir(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.inner.current_dir(path);
        self
    }

    /// What the child reads; by default this process's standard input, and nothing with [`Command::output`].
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.chosen.stdin = true;
        self.inner.stdin(stdin);
        self
    }

    /// Where the child's output goes; by default to this process's, and with [`Command::output`] into a pipe.
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.chosen.stdout = true;
        self.inner.stdout(stdout);
        self
    }

    /// Where the child's messages go; as [`Command::stdout`].
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

    /// Sets the process group; 0 makes one for the child.
    pub fn process_group(&mut self, group: i32) -> &mut Self {
        self.inner.process_group(group);
        self
    }

    /// Sets what the child is told that its program is called.
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.inner.arg0(name);
        self
    }

    /// Whether the child is killed when its [`Child`] is dropped before it is over; at the start it is not.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use yue::process::Command;
    ///
    /// // A command with a time limit: after it, the child is killed and reaped.
    /// let late = yue::timeout(Duration::from_millis(10), || {
    ///     Command::new("sleep").arg("1000").kill_on_drop(true).status()
    /// });
    /// assert_eq!(late.err(), Some(yue::Elapsed));
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// The system's, as when there is no such program.
    pub fn spawn(&mut self) -> io::Result<Child> {
        if std::mem::take(&mut self.defaulted) {
            self.default_streams(Stdio::inherit, Stdio::inherit);
        }
        self.start()
    }

    /// Sets the streams of which the caller has said nothing.
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
        Child::new(self.inner.spawn()?, self.kill_on_drop)
    }

    /// Starts the program and waits until it is over.
    ///
    /// # Errors
    /// As [`Command::spawn`]; or when the fiber is told to stop.
    pub fn status(&mut self) -> io::Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Starts the program, waits until it is over, and returns what it wrote.
    ///
    /// # Errors
    /// As [`Command::status`].
    pub fn output(&mut self) -> io::Result<Output> {
        self.default_streams(Stdio::null, Stdio::piped);
        self.defaulted = true;
        self.start()?.wait_with_output()
    }

    /// The standard library's command, for what has no method here.
    pub fn as_std_mut(&mut self) -> &mut std::process::Command {
        &mut self.inner
    }
}

/// What was said about the streams is not known of it: [`Command::output`] has its own defaults for them.
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
