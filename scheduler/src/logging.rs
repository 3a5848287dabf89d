//! Log lines, from any layer and any thread: to standard error, or to the hook that the embedder has set.
//!
//! ```text
//!   log(level, text) ──▶ a hook is set? ── yes ──▶ hook(level, text)
//!                                       └─ no ───▶ "yue: text" on standard error
//! ```
//!
//! `eprintln!` panics if standard error is full, or is a pipe whose reader is gone: a log line could then crash the
//! server. It also writes a line piece by piece, so that the lines of two threads mix, and it waits for as long as the
//! reader pleases. [`write_line`] does none of that: a line that standard error does not take within [`PATIENCE`] is
//! lost, and the next line that it takes is preceded by the number of lost lines.
//!
//! Lines below the [minimum level](set_log_level) get no further than `log`, except that errors always do.
//!
//! A hook that logs a line itself, or panics, gets no further line in that call: the line goes to standard error.

use crate::lock::lock;
use crate::panics::drop_payload;
use crate::time::Instant;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use std::time::Duration;

/// The importance of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Something failed, and the program lost work by it.
    Error,
    /// Something is not as it should be. The program continues, perhaps with less.
    Warn,
    /// A fact that an operator may want to know.
    Info,
    /// A detail for finding a fault.
    Debug,
}

/// The levels, most important first.
const LEVELS: [LogLevel; 4] = [
    LogLevel::Error,
    LogLevel::Warn,
    LogLevel::Info,
    LogLevel::Debug,
];

/// The number of levels that are logged.
static LOGGED: AtomicU8 = AtomicU8::new(3);

/// Sets the minimum level of the process's log: less important lines are dropped. `None` drops all lines of programs.
/// The runtime's own errors are always logged. The default is [`LogLevel::Info`].
///
/// ```
/// use yue_scheduler::{LogLevel, is_logged, log_level, set_log_level};
///
/// assert_eq!(log_level(), Some(LogLevel::Info));
/// set_log_level(Some(LogLevel::Warn));
/// assert!(is_logged(LogLevel::Error) && !is_logged(LogLevel::Info));
/// # set_log_level(Some(LogLevel::Info));
/// ```
pub fn set_log_level(minimum: Option<LogLevel>) {
    let logged = minimum.map_or(0, |minimum| minimum as u8 + 1);
    // Relaxed, here and below: nothing else depends on it.
    LOGGED.store(logged, Ordering::Relaxed);
}

/// Returns the minimum level of the log; see [`set_log_level`].
pub fn log_level() -> Option<LogLevel> {
    let logged = LOGGED.load(Ordering::Relaxed);
    LEVELS.into_iter().take(logged.into()).next_back()
}

/// Returns whether lines of that level are logged; see [`set_log_level`].
pub fn is_logged(level: LogLevel) -> bool {
    (level as u8) < LOGGED.load(Ordering::Relaxed)
}

impl LogLevel {
    /// Returns the level of that name.
    pub fn from_name(name: &str) -> Option<LogLevel> {
        LEVELS.into_iter().find(|level| level.as_str() == name)
    }

    /// Returns the level's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A receiver of log lines; see [`set_log_hook`](crate::set_log_hook). The text has no newline at its end.
pub type LogHook = fn(LogLevel, &str);

/// A hook, and the function that calls it. A layer above provides that function, because the hook may not suspend the
/// fiber that logs, and this file knows no fibers.
struct Installed {
    hook: LogHook,
    call: fn(LogHook, LogLevel, &str),
}

/// Null, or a leaked box: another thread may be calling the hook that is being replaced.
static HOOK: AtomicPtr<Installed> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// Whether this thread is inside the hook. A hook that logs would otherwise recurse forever.
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
}

/// Passes all further lines to `hook`, by way of `call`.
pub(crate) fn install(hook: LogHook, call: fn(LogHook, LogLevel, &str)) {
    let installed = Box::into_raw(Box::new(Installed { hook, call }));
    // Release: pairs with the Acquire in `pass_to_hook`.
    HOOK.store(installed, Ordering::Release);
}

/// Logs a line. The text may have several lines, and must not end with a newline.
///
/// ```
/// use yue_scheduler::{LogLevel, log};
///
/// log(LogLevel::Warn, format_args!("{} connections are left", 3));
/// ```
pub fn log(level: LogLevel, text: fmt::Arguments<'_>) {
    if level != LogLevel::Error && !is_logged(level) {
        return;
    }
    let text = text.to_string();
    log_line(level, &text, || format!("yue: {text}\n"));
}

/// Like [`log`], for a layer that has its own form of a line on standard error: `line` returns it, with a newline at
/// its end. The caller has checked the level.
#[doc(hidden)]
pub fn log_line(level: LogLevel, text: &str, line: impl FnOnce() -> String) {
    if !pass_to_hook(level, text) {
        write_line(&line());
    }
}

/// Returns whether a hook has taken the line.
fn pass_to_hook(level: LogLevel, text: &str) -> bool {
    // Acquire: pairs with the Release in `install`.
    // SAFETY: null, or a box that was leaked.
    let Some(installed) = (unsafe { HOOK.load(Ordering::Acquire).as_ref() }) else {
        return false;
    };
    if IN_HOOK.replace(true) {
        return false;
    }
    let call = || (installed.call)(installed.hook, level, text);
    let result = catch_unwind(AssertUnwindSafe(call));
    IN_HOOK.set(false);
    result.map_err(drop_payload).is_ok()
}

/// The time that a line waits for standard error. A reader that is merely slow, such as a terminal, keeps up within it.
/// Nobody notices a loop that is held for so long once; after that, lines do not wait until one has been written.
const PATIENCE: Duration = Duration::from_millis(100);

/// The number of bytes that a pipe takes without blocking once it is writable, and in one piece: see `PIPE_BUF` in
/// [pipe(7)](https://man7.org/linux/man-pages/man7/pipe.7.html).
const PIECE: usize = libc::PIPE_BUF;

/// The state of standard error, behind a lock that keeps the lines of threads apart.
struct Stderr {
    /// Lines that could not be written since the last one that could.
    lost: u64,
    /// Whether the last line was cut off in its middle.
    torn: bool,
}

static STDERR: Mutex<Stderr> = Mutex::new(Stderr {
    lost: 0,
    torn: false,
});

/// Writes a line to standard error, in one piece as far as other calls of this function can tell. Never panics, and
/// waits for [`PATIENCE`] at most.
fn write_line(line: &str) {
    let mut stderr = lock(&STDERR);
    if stderr.lost > 0 {
        let note = stderr.loss_note();
        if stderr.write(&note, Duration::ZERO) {
            stderr.lost = 0;
        }
    }
    if stderr.lost > 0 || !stderr.write(line, PATIENCE) {
        stderr.lost += 1;
    }
}

impl Stderr {
    fn loss_note(&self) -> String {
        format!(
            "{}yue: {} log lines were lost, because standard error was blocked\n",
            if self.torn { "\n" } else { "" },
            self.lost
        )
    }

    /// Returns whether all of it was written.
    fn write(&mut self, text: &str, patience: Duration) -> bool {
        let until = Instant::system().saturating_add(patience);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let Some(count) = write_piece(&rest[..rest.len().min(PIECE)], until) else {
                self.torn |= rest.len() < text.len();
                return false;
            };
            rest = &rest[count..];
        }
        self.torn = false;
        true
    }
}

/// Writes a part of a text. Returns how much of it, or `None` if standard error takes nothing until `until`.
fn write_piece(piece: &[u8], until: Instant) -> Option<usize> {
    loop {
        let mut entry = libc::pollfd {
            fd: libc::STDERR_FILENO,
            events: libc::POLLOUT,
            revents: 0,
        };
        let left = until.saturating_since(Instant::system());
        // SAFETY: one entry, which the call fills in.
        let ready = unsafe { libc::poll(&mut entry, 1, left.as_millis() as libc::c_int) };
        if ready == 0 {
            return None;
        }
        // Without a reader, or without a standard error, it fails at once: the write then tells why.
        let written = if ready < 0 {
            -1
        } else {
            // SAFETY: the bytes are readable.
            unsafe { libc::write(libc::STDERR_FILENO, piece.as_ptr().cast(), piece.len()) }
        };
        if let Ok(count) = usize::try_from(written) {
            return Some(count);
        }
        let kind = io::Error::last_os_error().kind();
        // Another process may have filled the pipe since the poll.
        let transient = matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
        if !transient || Instant::system() >= until {
            return None;
        }
    }
}
