//! Log lines, from any layer and any thread: to standard error, or to the hook that the embedder has set.
//!
//! ```text
//!   log(level, text) ──▶ a hook is set? ── yes ──▶ hook(level, text)
//!                                       └─ no ───▶ "2026-…Z yue warn: text" on standard error, or a JSON object
//!   of a simulated host ─────────────────────────▶ "yue warn: text" to the simulation, which knows the time
//!
//!   mod.rs   levels, the hook     entry.rs   the form of an entry     stderr.rs   the writer
//! ```
//!
//! `eprintln!` panics if standard error is full, or is a pipe whose reader is gone: a log line could then crash the
//! server. It also writes a line piece by piece, so that the lines of two threads mix, and it waits for as long as the
//! reader pleases. [`stderr::write_line`] does none of that.
//!
//! Lines below the [minimum level](set_log_level) get no further than `log`, except that errors always do.
//!
//! A hook that logs a line itself, or panics, gets no further line in that call: the line goes to standard error.

mod entry;
mod stderr;

pub use entry::{
    LogEntry, LogField, LogFormat, LogValue, log_format, set_log_format, set_log_name,
};

use crate::panics::drop_payload;
use crate::simulation::{self, PerHost};
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

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

/// The same, of a simulated host: a program that changes it must not change the log of others.
static LOGGED_BY_HOST: PerHost<AtomicU8> =
    PerHost::new(|| AtomicU8::new(LOGGED.load(Ordering::Relaxed)));

fn logged() -> u8 {
    // Relaxed, here and below: nothing else depends on it.
    match simulation::is_on() {
        false => LOGGED.load(Ordering::Relaxed),
        true => LOGGED_BY_HOST.get().load(Ordering::Relaxed),
    }
}

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
    match simulation::is_on() {
        false => LOGGED.store(logged, Ordering::Relaxed),
        true => LOGGED_BY_HOST.get().store(logged, Ordering::Relaxed),
    }
}

/// Returns the minimum level of the log; see [`set_log_level`].
pub fn log_level() -> Option<LogLevel> {
    LEVELS.into_iter().take(logged().into()).next_back()
}

/// Returns whether lines of that level are logged; see [`set_log_level`].
pub fn is_logged(level: LogLevel) -> bool {
    (level as u8) < logged()
}

/// The names that [`change_log_level`] takes, for messages.
#[doc(hidden)]
pub const LOG_LEVELS: &str = "'debug', 'info', 'warn', 'error' or 'off'";

/// Returns the name of the minimum level; `off` if there is none.
#[doc(hidden)]
pub fn log_level_name() -> &'static str {
    log_level().map_or("off", LogLevel::as_str)
}

/// Sets the minimum level to that of this name; returns the previous one's name.
///
/// # Errors
/// A text that names the levels.
#[doc(hidden)]
pub fn change_log_level(name: &str) -> Result<&'static str, String> {
    let level = LogLevel::from_name(name);
    if level.is_none() && name != "off" {
        return Err(format!("a level is needed: {LOG_LEVELS}"));
    }
    let before = log_level_name();
    set_log_level(level);
    Ok(before)
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
    if level == LogLevel::Error || is_logged(level) {
        log_entry(&LogEntry::new(level, text.to_string().as_bytes()));
    }
}

/// Logs an entry, whatever its level: the caller has checked that.
///
/// ```
/// use yue_scheduler::{LogEntry, LogField, LogLevel, LogValue, is_logged, log_entry};
///
/// let room = LogField { name: b"room", value: LogValue::Text(b"north"), in_text: true };
/// if is_logged(LogLevel::Info) {
///     log_entry(&LogEntry { fields: &[room], ..LogEntry::new(LogLevel::Info, b"opened") });
/// }
/// ```
pub fn log_entry(entry: &LogEntry<'_>) {
    write(entry, true);
}

/// Reports on standard error why a command ends: `yue: text`, or a JSON object, as [`set_log_format`] says. It is an
/// error, and so always logged.
#[doc(hidden)]
pub fn log_outcome(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    log_outcome_entry(&LogEntry::new(LogLevel::Error, text.as_bytes()));
}

/// Like [`log_outcome`], with the parts of an entry.
#[doc(hidden)]
pub fn log_outcome_entry(entry: &LogEntry<'_>) {
    write(entry, false);
}

fn write(entry: &LogEntry<'_>, with_time: bool) {
    let shown = entry.shown(with_time);
    if let Some(output) = simulation::output() {
        return output(entry.simulated_line(&shown, with_time).as_bytes());
    }
    if !pass_to_hook(entry.level, &shown) {
        stderr::write_line(&entry.line(&shown, with_time));
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
