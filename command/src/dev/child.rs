//! The program as a child process, and what it reports.
//!
//! The child gets `YUE_DEV=PARENT:DESCRIPTOR` and inherits the writing end of a pipe under that number. It enters
//! development mode only if its parent is the named process, so that programs that it starts in turn are none.

use super::Program;
use std::cell::Cell;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;
use yue::lua::development::{self, Report};
use yue::pipe::PipeReader;
use yue::process::{Child, Command};
use yue::{JoinHandle, spawn, timeout};
use yue_scheduler::no_suspend;

/// The variable that makes a child enter development mode.
const VARIABLE: &str = "YUE_DEV";

/// A longer record is not a report.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// After the end of the process, a process that it has started may still hold the pipe open.
const LAST_REPORTS: Duration = Duration::from_millis(200);

/// An event in the life of a child.
pub(super) enum Event {
    Reported(Report),
    Ended(io::Result<ExitStatus>),
}

/// A child that has been started.
pub(super) struct Running {
    pid: libc::pid_t,
    /// Whether it has been reaped: its number may then belong to another process.
    has_ended: Rc<Cell<bool>>,
}

impl Running {
    /// Starts the program. `on_event` hears of it until its end, which is the last event.
    pub(super) fn start(
        program: &Program,
        on_event: impl Fn(Event) + 'static,
    ) -> io::Result<Running> {
        let (reader, writer) = io::pipe()?;
        let descriptor = writer.as_raw_fd();
        // The file of the running command, even if it has been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("yue").args(&program.words);
        command.env(VARIABLE, format!("{}:{descriptor}", std::process::id()));
        if let Some(address) = &program.page {
            command.env("YUE_PAGE", address);
        }
        // SAFETY: the closure makes one system call, which is allowed between fork and exec.
        unsafe {
            command.as_std_mut().pre_exec(move || {
                match libc::fcntl(descriptor, libc::F_SETFD, 0) {
                    0.. => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        // On this thread, which lives as long as the process: the child is killed when the thread that started it ends.
        let mut child = no_suspend(|| command.spawn())?;
        drop(writer);
        let has_ended = Rc::new(Cell::new(false));
        let running = Running {
            pid: child.id().cast_signed(),
            has_ended: has_ended.clone(),
        };
        drop(spawn(move || {
            let on_event = Rc::new(on_event);
            let told = on_event.clone();
            let reports =
                spawn(move || read_reports(&mut PipeReader::from(OwnedFd::from(reader)), &*told));
            let status = wait_for(&mut child, &has_ended);
            finish(reports);
            on_event(Event::Ended(status));
        }));
        Ok(running)
    }

    /// Sends a signal, unless the child has ended.
    pub(super) fn signal(&self, number: libc::c_int) {
        if !self.has_ended.get() {
            // SAFETY: the process has not been reaped, so the number is its own.
            unsafe { libc::kill(self.pid, number) };
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

fn wait_for(child: &mut Child, has_ended: &Cell<bool>) -> io::Result<ExitStatus> {
    let status = child.wait();
    has_ended.set(true);
    status
}

/// Waits until all reports have been read.
fn finish(reports: JoinHandle<()>) {
    let mut reports = reports;
    let _ = timeout(LAST_REPORTS, || reports.wait());
    reports.cancel();
}

fn read_reports(pipe: &mut impl Read, on_event: &impl Fn(Event)) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.iter().position(|byte| *byte == 0) {
            if let Some(report) = Report::decode(&pending[..end]) {
                on_event(Event::Reported(report));
            }
            pending.drain(..=end);
        }
        if pending.len() > RECORD_BYTES_MAX {
            pending.clear();
        }
    }
}

/// In a child of `yue dev`: enters development mode, and makes the process end with its parent. The process still has
/// only one thread.
pub(crate) fn begin_if_supervised() {
    let Some((parent, descriptor)) = std::env::var(VARIABLE).ok().and_then(|text| parse(&text))
    else {
        return;
    };
    // SAFETY: no other thread reads or writes the environment.
    unsafe { std::env::remove_var(VARIABLE) };
    // SAFETY: plain calls. The parent is asked for afterwards, since it may have ended before the first one.
    let is_ours = unsafe {
        libc::getppid() == parent
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid() == parent
            && libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) == 0
    };
    if !is_ours {
        return;
    }
    // SAFETY: the parent passed it on for this, and nothing else in this process uses it.
    let pipe = unsafe { OwnedFd::from_raw_fd(descriptor) };
    if let Err(error) = development::begin(pipe) {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!("no development mode: {error}"),
        );
    }
}

/// The parent and the descriptor that the variable names.
fn parse(text: &str) -> Option<(libc::pid_t, RawFd)> {
    let (parent, descriptor) = text.split_once(':')?;
    let descriptor = descriptor.parse().ok().filter(|number| *number > 2)?;
    Some((parent.parse().ok()?, descriptor))
}

#[cfg(test)]
mod tests {
    use super::{Event, Report, parse, read_reports};
    use std::cell::RefCell;

    #[test]
    fn the_variable_names_a_parent_and_a_descriptor() {
        assert_eq!(parse("4711:5"), Some((4711, 5)));
        for text in ["", "1", "4711:", ":5", "4711:1", "4711:-3", "x:5"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn reports_are_read_from_any_pieces() {
        let seen = RefCell::new(Vec::new());
        let collect = |event| match event {
            Event::Reported(report) => seen.borrow_mut().push(report),
            Event::Ended(_) => {}
        };
        read_reports(
            &mut &b"serves http://a\0nonsense\0failed one\ntwo\0serves cut"[..],
            &collect,
        );
        let failed = Report::Failed("one\ntwo".to_owned());
        assert_eq!(
            *seen.borrow(),
            [Report::Serves("http://a".to_owned()), failed]
        );
    }
}
