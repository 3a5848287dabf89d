//! Child processes of a measurement: servers, Lua programs, and the measurement itself.
//!
//! Two invariants: a child never outlives its parent (the kernel kills it when the parent's thread ends), and dropping
//! a handle ends its child and no other.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::memory;
use super::model::Problem;
use super::processors::{Processors, Side};

/// A child that is killed and reaped on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The folder of its files; removed with the child.
    folder: Option<PathBuf>,
}

impl Running {
    /// Starts `command` with its standard output piped to us.
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

    /// Removes this folder, with its contents, when the child has ended.
    pub fn with_folder(mut self, folder: PathBuf) -> Running {
        self.folder = Some(folder);
        self
    }

    /// Starts `command` as one side of a measurement, on that side's processor.
    pub fn start_bound(
        mut command: Command,
        processors: Processors,
        side: Side,
    ) -> Result<Running, Problem> {
        processors.bind_command(&mut command, side);
        Running::start(command)
    }

    /// Reads the next line of the child's output, without the line end. Fails if the child has ended.
    pub fn line(&mut self) -> Result<String, Problem> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(Problem::failed(format!("the child ended early ({status})")));
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads lines until one begins with `word`. Returns the rest of that line.
    pub fn line_after(&mut self, word: &str) -> Result<String, Problem> {
        loop {
            if let Some(rest) = self.line()?.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// Reads the port that the child reports in its `ready` line.
    pub fn port(&mut self) -> Result<u16, Problem> {
        let port = self.line_after("ready")?;
        port.parse()
            .map_err(|_| Problem::failed(format!("not a port: {port:?}")))
    }

    /// Returns the memory that the child uses now.
    pub fn used_bytes(&self) -> Result<usize, Problem> {
        memory::used_bytes(&self.child.id().to_string())
    }

    /// Returns the CPU time that the child has used so far: user and system, all threads.
    pub fn cpu(&self) -> Result<Duration, Problem> {
        cpu_of(self.child.id() as libc::pid_t)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // If the child has ended already, both calls fail, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            // Leftover temporary files must not fail a measurement.
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

/// Returns the CPU time that a process has used so far; `pid` 0 means this process.
pub fn cpu_of(pid: libc::pid_t) -> Result<Duration, Problem> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls write only to the two locals passed to them.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0
    };
    if failed {
        return Err(Problem::failed("no CPU clock for the child"));
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Returns a command that runs this program with other arguments.
pub fn own_program(arguments: &[&str]) -> Result<Command, Problem> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

/// Finds a program on the PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Finds the `yue` command: `YUE_BIN`, otherwise beside this program (or above `deps/`), otherwise on the PATH.
pub fn yue_program() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("YUE_BIN") {
        return Some(PathBuf::from(given));
    }
    let program = std::env::current_exe().ok()?;
    let beside = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("yue"))
        .find(|file| file.is_file());
    beside.or_else(|| on_path("yue"))
}

/// Returns the path of a script in `benches/lua`.
pub fn script(name: impl AsRef<OsStr>) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/lua")).join(name.as_ref())
}
