//! Failures of the running program, in development mode.
//!
//! ```text
//!   a handler, a timer, a fiber fails ──▶ note ──▶ new: the log, in full
//!                                          │       known: counted; a line of the log a second has the count
//!                                          └──▶ pages show the failures and their counts
//! ```
//!
//! A timer that fails at each frame would otherwise fill the terminal. Two failures are the same if error and traceback
//! are, whoever has called the program. The process has one list, which all of its loops use. A reload empties it. A
//! page that is closed hides what is in it: a failure that keeps happening stays hidden, and one that happens again
//! later is shown again.

use crate::lua::host::log;
use crate::lua::native::{Results, native, register};
use std::ffi::c_int;
use std::sync::Mutex;
use std::time::Duration;
use yue_luajit::{Stack, ffi};
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{Instant, LogLevel, lock, now};

/// The number of different failures that are kept: more do not fit on a page.
const FAILURES_MAX: usize = 20;

/// The bytes of a text that are kept and compared.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// A hidden failure is shown again if it has not happened for this time.
const HIDDEN: Duration = Duration::from_secs(3);

/// A failure to be noted.
pub(crate) struct Failure<'a> {
    /// The level of its entry in the log.
    pub(crate) level: LogLevel,
    /// Error and traceback, which identify it.
    pub(crate) report: &'a str,
    /// Everything about it, with the circumstances.
    pub(crate) text: &'a str,
    /// The same without the traceback.
    pub(crate) message: &'a str,
    /// The number of times that it happened.
    pub(crate) times: u64,
}

/// A failure that was noted.
struct Noted {
    level: LogLevel,
    report: String,
    text: String,
    /// The first line of the latest message.
    line: String,
    count: u64,
    /// The part of the count that the log does not show yet.
    unlogged: u64,
    /// The time of the latest one.
    latest: Instant,
    is_hidden: bool,
}

struct Failures {
    list: Vec<Noted>,
    /// The number of times that the failures on the pages became others.
    changes: u64,
    /// The number of times that a failure was noted.
    noted: u64,
}

static FAILURES: PerHost<Mutex<Failures>> = PerHost::new(|| Mutex::new(Failures::new()));

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

impl Failures {
    const fn new() -> Failures {
        Failures {
            list: Vec::new(),
            changes: 0,
            noted: 0,
        }
    }

    /// Notes a failure. Returns whether it is a new one.
    fn note(&mut self, failure: &Failure<'_>, now: Instant) -> bool {
        self.noted += 1;
        let report = cut(failure.report);
        let line = cut(failure.message.lines().next().unwrap_or_default()).to_owned();
        if let Some(known) = self.list.iter_mut().find(|known| known.report == report) {
            known.count += failure.times;
            known.unlogged += failure.times;
            known.line = line;
            let pause = now.saturating_since(known.latest);
            known.latest = now;
            if known.is_hidden && pause >= HIDDEN {
                known.is_hidden = false;
                known.count = failure.times;
                self.changes += 1;
            }
            return false;
        }
        if self.list.len() >= FAILURES_MAX {
            let oldest = (0..self.list.len()).min_by_key(|index| self.list[*index].latest);
            self.list.remove(oldest.unwrap_or_default());
        }
        self.changes += 1;
        self.list.push(Noted {
            level: failure.level,
            report: report.to_owned(),
            text: cut(failure.text).to_owned(),
            line,
            count: failure.times,
            unlogged: 0,
            latest: now,
            is_hidden: false,
        });
        true
    }

    /// The lines that tell how often known failures were repeated since the last call.
    fn take_repeats(&mut self) -> Vec<(LogLevel, String)> {
        let repeated = self.list.iter_mut().filter(|known| known.unlogged > 0);
        repeated
            .map(|known| {
                let line = match std::mem::take(&mut known.unlogged) {
                    1 => format!("once more: {}", known.line),
                    count => format!("{count} times more: {}", known.line),
                };
                (known.level, line)
            })
            .collect()
    }

    fn hide(&mut self) {
        self.list
            .iter_mut()
            .for_each(|known| known.is_hidden = true);
        self.changes += 1;
    }

    fn forget(&mut self) {
        if !self.list.is_empty() {
            self.list.clear();
            self.changes += 1;
        }
    }
}

/// Notes a failure, in development mode. Returns whether it is to be logged in full.
pub(crate) fn note(failure: &Failure<'_>) -> bool {
    !super::is_on() || lock(&FAILURES.get()).note(failure, now())
}

/// Logs how often known failures were repeated since the last call.
pub(crate) fn log_repeats() {
    let lines = lock(&FAILURES.get()).take_repeats();
    for (level, line) in lines {
        log::write(level, line.as_bytes());
    }
}

/// Texts and counts, as a Lua list of tables.
pub(crate) struct Shown(Vec<(String, u64)>);

impl Results for Shown {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(stack.raw(), self.0.len() as c_int, 0);
            for (index, (text, count)) in self.0.iter().enumerate() {
                ffi::lua_createtable(stack.raw(), 0, 2);
                stack.push_bytes(text.as_bytes());
                ffi::lua_setfield(stack.raw(), -2, c"text".as_ptr());
                stack.push_number(*count as f64);
                ffi::lua_setfield(stack.raw(), -2, c"count".as_ptr());
                ffi::lua_rawseti(stack.raw(), -2, index as i64 + 1);
            }
        }
        1
    }
}

native! {
    /// `development_note(report, text, message)`: notes a failure; whether it is to be logged in full.
    Note = "development_note", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2), stack.bytes(3)) }
    run((report, text, message)) -> bool {
        let [report, text, message] = [report, text, message].map(String::from_utf8_lossy);
        let failure = Failure {
            level: LogLevel::Error, report: &report, text: &text, message: &message, times: 1,
        };
        Ok(note(&failure))
    }
}

native! {
    /// `development_changes()`: the number of changes of what is shown, and that of failures that were noted.
    Changes = "development_changes", suspends: false;
    read(_stack) -> () {}
    run(()) -> (f64, f64) {
        let all = FAILURES.get();
        let failures = lock(&all);
        Ok((failures.changes as f64, failures.noted as f64))
    }
}

native! {
    /// `development_failures()`: those to be shown, as a list of `{ text, count }`, the newest last.
    List = "development_failures", suspends: false;
    read(_stack) -> () {}
    run(()) -> Shown {
        let all = FAILURES.get();
        let failures = lock(&all);
        let shown = failures.list.iter().filter(|known| !known.is_hidden);
        let shown = shown.map(|known| (known.text.clone(), known.count));
        Ok(Shown(shown.collect()))
    }
}

native! {
    /// `development_hide()`: hides the failures of the list from pages.
    Hide = "development_hide", suspends: false;
    read(_stack) -> () {}
    run(()) -> () {
        lock(&FAILURES.get()).hide();
        Ok(())
    }
}

native! {
    /// `development_forget()`: empties the list.
    Forget = "development_forget", suspends: false;
    read(_stack) -> () {}
    run(()) -> () {
        log_repeats();
        lock(&FAILURES.get()).forget();
        Ok(())
    }
}

native! {
    /// `development_log_repeats()`: logs how often known failures were repeated since the last call.
    LogRepeats = "development_log_repeats", suspends: false;
    read(_stack) -> () {}
    run(()) -> () {
        log_repeats();
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; Note, Changes, List, Hide, Forget, LogRepeats);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<'a>(report: &'a str, message: &'a str) -> Failure<'a> {
        Failure {
            level: LogLevel::Error,
            report,
            text: report,
            message,
            times: 1,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_repeated_failure_is_counted_and_reported_once() {
        let mut failures = Failures::new();
        let mut note = |report, message| failures.note(&failure(report, message), at(0));
        assert!(note("a", "GET /a failed, asked by one: a"));
        assert!(!note("a", "GET /a failed, asked by two: a\nsecond line"));
        assert!(note("b", "b"));
        let line = "once more: GET /a failed, asked by two: a".to_owned();
        assert_eq!(failures.take_repeats(), [(LogLevel::Error, line)]);
        for _ in 0..1000 {
            assert!(!failures.note(&failure("a", "a"), at(0)));
        }
        let line = "1000 times more: a".to_owned();
        assert_eq!(failures.take_repeats(), [(LogLevel::Error, line)]);
        assert!(failures.take_repeats().is_empty());
        assert_eq!((failures.list[0].count, failures.changes), (1002, 2));
        failures.forget();
        assert!(failures.note(&failure("a", "a"), at(0)), "it is new again");
    }

    #[test]
    fn a_hidden_failure_is_shown_again_after_a_pause() {
        let mut failures = Failures::new();
        failures.note(&failure("a", "a"), at(0));
        failures.hide();
        for second in 1..10 {
            failures.note(&failure("a", "a"), at(second));
            assert!(failures.list[0].is_hidden);
        }
        failures.note(&failure("a", "a"), at(20));
        assert!(!failures.list[0].is_hidden);
        assert_eq!((failures.list[0].count, failures.changes), (1, 3));
    }

    #[test]
    fn only_the_latest_failures_are_kept() {
        let mut failures = Failures::new();
        for n in 0..3 * FAILURES_MAX as u64 {
            assert!(failures.note(&failure(&n.to_string(), ""), at(n)));
            // This one is repeated all the time.
            failures.note(&failure("0", ""), at(n));
        }
        assert_eq!(failures.list.len(), FAILURES_MAX);
        assert_eq!(failures.list[0].report, "0");
        let long = "ä".repeat(TEXT_BYTES_MAX);
        assert!(failures.note(&failure(&long, &long), at(100)));
        assert!(!failures.note(&failure(&long, &long), at(100)));
    }
}
