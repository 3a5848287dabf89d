//! The program's log: lines on standard error, each with the time (UTC) and its level: `2026-01-31T12:00:00.123Z yue
//! warn: text`.
//!
//! `YUE_LOG` (`debug`, `info`, `warn`, `error`, `off`) sets the minimum level; `info` by default. The runtime's writer
//! ([`yue_scheduler::log`]) writes the lines, or passes them to the hook of a Rust program that embeds this one.
//!
//! Logged text may come from strangers: an error's message, a method's name. So control characters are escaped, the
//! second and later lines of an entry are indented (nobody can forge a line that looks like a separate entry), and the
//! length of an entry is limited. Entries that strangers can cause at will are limited in number, too
//! ([`write_limited`]). Finalizers must not write at all: they leave remarks ([`warn_later`]), which the loop writes
//! when it is idle.

use crate::lua::host;
use crate::lua::native::{native, register};
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use yue_luajit::Stack;
use yue_scheduler::{Instant, LogLevel, is_logged, now, set_log_level};

/// The maximum bytes of an entry; the rest is left out. It is written synchronously, so it must not be large.
const ENTRY_BYTES_MAX: usize = 16 << 10;

/// The limit on entries that strangers cause: this many at once, and then this many a second.
const LIMITED_BURST: u32 = 20;
const LIMITED_EACH: Duration = Duration::from_millis(100);

/// Parses the name of a level.
fn parse_level(text: &[u8]) -> Option<LogLevel> {
    LogLevel::from_name(std::str::from_utf8(text).ok()?)
}

/// Sets the minimum level of the log that the variable `YUE_LOG` names, if it does. It happens once in a process:
/// [`Script::run`](crate::lua::Script::run) calls this, too.
pub fn read_log_level() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| match std::env::var("YUE_LOG") {
        Ok(setting) if setting == "off" => set_log_level(None),
        Ok(setting) => {
            if let Some(level) = LogLevel::from_name(&setting) {
                set_log_level(Some(level));
            }
        }
        Err(_) => {}
    });
}

/// Whether lines of that level are logged.
fn is_shown(level: LogLevel) -> bool {
    read_log_level();
    is_logged(level)
}

/// Writes one line, if its level is shown.
pub(crate) fn write(level: LogLevel, text: &[u8]) {
    if !is_shown(level) {
        return;
    }
    let mut shown = String::new();
    let loop_name = host::current().map(|host| host.name());
    if let Some(loop_name) = loop_name.filter(|name| !name.is_empty()) {
        shown.push_str(&format!("[{loop_name}] "));
    }
    append_printable(&mut shown, text);
    yue_scheduler::log_line(level, &shown, || {
        format!("{} yue {level}: {shown}\n", time_text(SystemTime::now()))
    });
}

/// Formats a time by RFC 3339, in UTC, with milliseconds.
fn time_text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() as libc::time_t;
    // SAFETY: zeros are a valid tm, which the call fills in.
    let parts = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::gmtime_r(&seconds, &mut parts);
        parts
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        parts.tm_year + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
        since.subsec_millis()
    )
}

/// Appends a text so that it can neither act on a terminal nor look like a separate entry.
fn append_printable(line: &mut String, text: &[u8]) {
    let text = text.trim_ascii_end();
    let shown = &text[..text.len().min(ENTRY_BYTES_MAX)];
    // Writing to a String cannot fail.
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => line.push_str("\n    "),
                '\t' => line.push('\t'),
                c if c.is_ascii_control() => drop(write!(line, "\\x{:02x}", c as u32)),
                c if c.is_control() => drop(write!(line, "\\u{{{:x}}}", c as u32)),
                c => line.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02x}");
        }
    }
    if shown.len() < text.len() {
        let _ = write!(line, " ... ({} bytes more)", text.len() - shown.len());
    }
}

/// The number of entries that strangers may still cause.
#[derive(Clone, Copy)]
struct Allowance {
    left: u32,
    /// The time when the last of them was granted.
    since: Instant,
    left_out: u32,
}

thread_local! {
    static ALLOWANCE: Cell<Option<Allowance>> = const { Cell::new(None) };
}

impl Allowance {
    /// This thread's allowance, with the elapsed time's addition.
    fn current() -> Allowance {
        let now = now();
        let full = Allowance {
            left: LIMITED_BURST,
            since: now,
            left_out: 0,
        };
        let Some(mut allowance) = ALLOWANCE.get() else {
            return full;
        };
        let more = now.saturating_since(allowance.since).as_nanos() / LIMITED_EACH.as_nanos();
        if more > 0 {
            allowance.left = (u128::from(allowance.left) + more).min(LIMITED_BURST.into()) as u32;
            allowance.since = now;
        }
        allowance
    }
}

/// Like [`write`], for entries that strangers can cause as often as they like: above a limit per second, they are only
/// counted.
pub(crate) fn write_limited(level: LogLevel, text: impl FnOnce() -> String) {
    if !is_shown(level) {
        return;
    }
    let mut allowance = Allowance::current();
    if allowance.left == 0 {
        allowance.left_out += 1;
        ALLOWANCE.set(Some(allowance));
        return;
    }
    allowance.left -= 1;
    let left_out = std::mem::take(&mut allowance.left_out);
    ALLOWANCE.set(Some(allowance));
    write_left_out(left_out);
    write(level, text().as_bytes());
}

/// Logs how many entries were left out, once that has ended. For the idle loop.
fn flush_limited() {
    let Some(allowance) = ALLOWANCE.get() else {
        return;
    };
    if allowance.left_out > 0 && Allowance::current().left > 0 {
        ALLOWANCE.set(Some(Allowance {
            left_out: 0,
            ..allowance
        }));
        write_left_out(allowance.left_out);
    }
}

fn write_left_out(count: u32) {
    if count > 0 {
        let text =
            format!("{count} more failures of handlers, callbacks and peers were not logged");
        write(LogLevel::Warn, text.as_bytes());
    }
}

/// The number of remarks that are compared: a thousand fibers with the same failure are one remark, even if a few kinds
/// of failures alternate.
const REMARKS_COMPARED: usize = 16;

/// A warning of finalizers, and the number of times that it was left.
struct Remark {
    text: String,
    times: usize,
}

thread_local! {
    static REMARKS: RefCell<Vec<Remark>> = const { RefCell::new(Vec::new()) };
}

/// Records a warning to be logged soon; usable in finalizers.
fn warn_later(text: String) {
    REMARKS.with_borrow_mut(|remarks| {
        let compared = remarks.len().saturating_sub(REMARKS_COMPARED);
        match remarks[compared..].iter_mut().find(|one| one.text == text) {
            Some(same) => same.times += 1,
            None => remarks.push(Remark { text, times: 1 }),
        }
    });
}

/// Logs the remarks of finalizers. The collector finds a thousand fibers with the same failure in many steps; logged
/// after the last of them, they are one line.
pub(crate) fn write_remarks() {
    for Remark { text, times } in REMARKS.take() {
        let line = match times {
            1 => text,
            _ => format!("{times} times: {text}"),
        };
        write(LogLevel::Warn, line.as_bytes());
    }
}

/// Logs what has waited for an idle phase of the loop.
pub(crate) fn write_idle() {
    write_remarks();
    flush_limited();
}

/// Writes an error line.
pub(crate) fn error(text: &str) {
    write(LogLevel::Error, text.as_bytes());
}

native! {
    /// `log(level, text)`.
    Log = "log", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((level, text)) -> () {
        write(parse_level(level).unwrap_or(LogLevel::Info), text);
        Ok(())
    }
}

native! {
    /// `log_limited(level, text)`: like `log`, but above some a second entries are only counted.
    LogLimited = "log_limited", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((level, text)) -> () {
        let level = parse_level(level).unwrap_or(LogLevel::Info);
        write_limited(level, || String::from_utf8_lossy(text).into_owned());
        Ok(())
    }
}

native! {
    /// `warn_later(text)`: a finalizer's warning; it is logged in the loop's next idle phase.
    WarnLater = "warn_later", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        // At the very end unread failures have been logged before.
        if host::current().is_some() {
            warn_later(String::from_utf8_lossy(text).into_owned());
        }
        Ok(())
    }
}

native! {
    /// `warn_of_finalizer(text)`: like `warn_later`; at the very end it is logged at once.
    WarnOfFinalizer = "warn_of_finalizer", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        match host::current() {
            Some(_) => warn_later(String::from_utf8_lossy(text).into_owned()),
            None => write(LogLevel::Warn, text),
        }
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Log, LogLimited, WarnLater, WarnOfFinalizer);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printable(text: &[u8]) -> String {
        let mut line = String::new();
        append_printable(&mut line, text);
        line
    }

    #[test]
    fn control_characters_are_escaped_and_later_lines_are_indented() {
        assert_eq!(
            printable(b"plain gr\xc3\xbcn\ttext\n"),
            "plain gr\u{fc}n\ttext"
        );
        assert_eq!(printable(b"a\nyue error: b"), "a\n    yue error: b");
        assert_eq!(printable(b"\x1b[2J\r\x07\x7f"), "\\x1b[2J\\x0d\\x07\\x7f");
        assert_eq!(printable("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(printable(b"\xff\xfe."), "\\xff\\xfe.");
    }

    #[test]
    fn the_time_is_in_utc_with_milliseconds() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(time_text(at(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_text(at(951_782_400_005)), "2000-02-29T00:00:00.005Z");
    }

    #[test]
    fn a_long_entry_is_cut() {
        let long = printable(&vec![b'x'; 10 << 20]);
        assert!(long.len() < ENTRY_BYTES_MAX + 100);
        assert!(long.ends_with("bytes more)"));
        // In the middle of a character, too.
        printable("\u{20ac}".repeat(ENTRY_BYTES_MAX).as_bytes());
    }
}
