//! Child processes of a measurement: servers, Lua programs, and the measurement itself.
//!
//! Two invariants: a child never outlives its parent (the kernel kills it when the parent's thread ends), and a
//! dropped handle ends the child it stands for, and only that one.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::model::Problem;
use super::processors::{Processors, Side};

/// A child that is killed and reaped on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Where it leaves files; removed with it.
    folder: Option<PathBuf>,
}

impl Running {
    /// Starts `command` with its standard output in our hands.
    pub fn start(mut command: Command) -> Result<Running, Problem> {
        die_with_parent(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Problem::failed(format!("{program}: {error}")))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| Problem::failed("a child without a standard output"))?;
        Ok(Running {
            child,
            output: BufReader::new(output),
            folder: None,
        })
    }

    /// Removes this folder, with all in it, when the child has ended.
    pub fn with_folder(mut self, folder: PathBuf) -> Running {
        self.folder = Some(folder);
        self
    }

    /// Starts `command` as a side of a measurement, on that side's processor.
    pub fn start_bound(
        mut command: Command,
        processors: Processors,
        side: Side,
    ) -> Result<Running, Problem> {
        processors.bind_command(&mut command, side);
        Running::start(command)
    }

    /// The next line that the child prints, without its end; an error when it ended instead.
    pub fn line(&mut self) -> Result<String, Problem> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(Problem::failed(format!("the child ended early ({status})")));
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads lines until one begins with `word`; gives the rest of that line.
    pub fn line_after(&mut self, word: &str) -> Result<String, Problem> {
        loop {
            if let Some(rest) = self.line()?.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// Where the child listens, as it says when it is `ready`.
    pub fn port(&mut self) -> Result<u16, Problem> {
        let port = self.line_after("ready")?;
        port.parse()
            .map_err(|_| Problem::failed(format!("not a port: {port:?}")))
    }

    /// CPU time that the child used so far, user and system, all threads.
    pub fn cpu(&self) -> Result<Duration, Problem> {
        cpu_of(self.child.id() as libc::pid_t)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then both fail and there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            // Left-over temporary files are no reason to fail a measurement.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Asks the kernel to end the child when the thread that started it ends.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure runs in the child between fork and exec and makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// CPU time that a process used so far; `pid` 0 means this one.
pub fn cpu_of(pid: libc::pid_t) -> Result<Duration, Problem> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls only write to the two locals that they are given.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0
    };
    if failed {
        return Err(Problem::failed("no CPU clock for the child"));
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// This program again, with other arguments.
pub fn own_program(arguments: &[&str]) -> Result<Command, Problem> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

/// Where a program is on the PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Where the `yue` command is: `YUE_BIN`, else beside this program (or above `deps/`), else on the PATH.
pub fn yue_program() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("YUE_BIN") {
        return Some(PathBuf::from(given));
    }
    let own = std::env::current_exe().ok()?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("yue"))
        .find(|file| file.is_file());
    beside.or_else(|| on_path("yue"))
}

/// A script of `benches/lua`.
pub fn script(name: impl AsRef<OsStr>) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/lua")).join(name.as_ref())
}
