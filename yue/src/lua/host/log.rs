//! The program's log, as [`yue_scheduler::log_entry`] writes it, and the settings of the environment.
//!
//! `YUE_LOG` (`debug`, `info`, `warn`, `error`, `off`) sets the minimum level, `info` by default; `YUE_LOG_FORMAT`
//! (`text`, `json`) the form.
//!
//! Entries that strangers can cause at will are limited in number ([`write_limited`]). Finalizers must not write at
//! all: they leave remarks ([`warn_later`]), which the loop writes when it is idle.

use crate::lua::development::{self, failures};
use crate::lua::host;
use crate::lua::host::errors::{ErrorObject, error as lua_error};
use crate::lua::native::{native, register};
use std::cell::{Cell, RefCell};
use std::sync::Once;
use std::time::Duration;
use yue_luajit::Stack;
use yue_rpc::ErrorKind;
use yue_scheduler::{
    Instant, LOG_LEVELS, LogEntry, LogField, LogFormat, LogLevel, LogValue, change_log_level,
    is_logged, log_entry, log_format, log_level_name, log_outcome_entry, now, set_log_format,
};

/// The limit on entries that strangers cause: this many at once, and then this many a second.
const LIMITED_BURST: u32 = 20;
const LIMITED_EACH: Duration = Duration::from_millis(100);

/// The names of the forms, for messages.
const FORMATS: &str = "'text' or 'json'";

/// Parses the name of a level.
fn parse_level(text: &[u8]) -> Option<LogLevel> {
    LogLevel::from_name(std::str::from_utf8(text).ok()?)
}

/// Sets the minimum level and the form of the log that the variables `YUE_LOG` and `YUE_LOG_FORMAT` name. A value that
/// they do not have is reported, and changes nothing. It happens once in a process:
/// [`Script::run`](crate::lua::Script::run) calls this, too.
pub fn read_log_level() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let format = setting("YUE_LOG_FORMAT");
        let unknown_format = format.filter(|name| change_format(name).is_err());
        let unknown_level = setting("YUE_LOG").filter(|name| change_log_level(name).is_err());
        for (variable, value, values) in [
            ("YUE_LOG_FORMAT", unknown_format, FORMATS),
            ("YUE_LOG", unknown_level, LOG_LEVELS),
        ] {
            if let Some(value) = value {
                let text = format!("{variable} is ignored: it is {values}, not '{value}'");
                write(LogLevel::Warn, text.as_bytes());
            }
        }
    });
}

/// A variable of the environment that is set, and not empty.
fn setting(variable: &str) -> Option<String> {
    let value = std::env::var_os(variable)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

/// Sets the form of that name; returns the previous one.
fn change_format(name: &str) -> Result<&'static str, String> {
    let before = log_format().as_str();
    let format = LogFormat::from_name(name);
    set_log_format(format.ok_or_else(|| format!("a format is needed: {FORMATS}"))?);
    Ok(before)
}

/// Whether lines of that level are logged.
fn is_shown(level: LogLevel) -> bool {
    read_log_level();
    is_logged(level)
}

/// Writes one line, if its level is shown.
pub(crate) fn write(level: LogLevel, text: &[u8]) {
    if is_logged(level) {
        log_entry(&LogEntry::new(level, text));
    }
}

/// A fact about a failure, which its text contains already.
fn fact<'a>(name: &'a str, value: &'a str) -> LogField<'a> {
    LogField {
        name: name.as_bytes(),
        value: LogValue::Text(value.as_bytes()),
        in_text: false,
    }
}

/// Passes the entry of a failure to `write`: `what` failed, and the facts about it, which `what` contains already.
fn with_failure(
    level: LogLevel,
    what: &str,
    facts: &[(&str, &str)],
    failure: &ErrorObject,
    write: impl FnOnce(&LogEntry<'_>),
) {
    let before = if what.is_empty() { "" } else { ": " };
    let text = format!("{what}{before}{}", failure.report());
    let message = format!("{what}{before}{}: {}", failure.type_name, failure.message);
    let mut fields: Vec<LogField<'_>> = facts
        .iter()
        .map(|(name, value)| fact(name, value))
        .collect();
    fields.push(fact("error", &failure.type_name));
    if let Some(traceback) = &failure.traceback {
        fields.push(fact("traceback", traceback.trim()));
    }
    write(&LogEntry {
        message: Some(message.as_bytes()),
        fields: &fields,
        ..LogEntry::new(level, text.as_bytes())
    });
}

/// Reports the error that ends the program.
pub(crate) fn write_outcome(failure: &ErrorObject) {
    with_failure(LogLevel::Error, "", &[], failure, log_outcome_entry);
}

/// Whether the failure is to be logged: in development mode repeated ones are counted.
fn is_new(level: LogLevel, what: &str, failure: &ErrorObject) -> bool {
    if level != LogLevel::Error || !development::is_on() {
        return true;
    }
    let report = failure.report();
    failures::note(&failures::Failure {
        level,
        report: &report,
        text: &format!("{what}: {report}"),
        message: &format!("{what}: {}: {}", failure.type_name, failure.message),
        times: 1,
    })
}

/// Writes an entry about a failure.
pub(crate) fn write_failure(what: &str, failure: &ErrorObject) {
    if is_new(LogLevel::Error, what, failure) && is_shown(LogLevel::Error) {
        with_failure(LogLevel::Error, what, &[], failure, log_entry);
    }
}

/// Writes an entry about a failure that strangers can cause as often as they like; see [`write_limited`].
pub(crate) fn write_failure_limited(
    level: LogLevel,
    what: &str,
    facts: &[(&str, &str)],
    failure: &ErrorObject,
) {
    if is_new(level, what, failure) && is_granted(level) {
        with_failure(level, what, facts, failure, log_entry);
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
    if is_granted(level) {
        write(level, text().as_bytes());
    }
}

/// Whether an entry that strangers cause is to be written now. If not, it is counted.
fn is_granted(level: LogLevel) -> bool {
    if !is_shown(level) {
        return false;
    }
    let mut allowance = Allowance::current();
    if allowance.left == 0 {
        allowance.left_out += 1;
        ALLOWANCE.set(Some(allowance));
        return false;
    }
    allowance.left -= 1;
    let left_out = std::mem::take(&mut allowance.left_out);
    ALLOWANCE.set(Some(allowance));
    write_left_out(left_out);
    true
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
        let remark = failures::Failure {
            level: LogLevel::Warn,
            report: &text,
            text: &text,
            message: &text,
            times: times as u64,
        };
        if !failures::note(&remark) {
            continue;
        }
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

/// The entry's fields, as the prelude encodes them: `kind`, then the parts of the field, each as its length, a colon
/// and its bytes. The kind is `t` (name, text), `j` (name, text, JSON) or `d` (name, text: a detail that the entry's
/// text contains). Reads as far as they are well formed.
fn parse_fields(mut rest: &[u8]) -> Vec<LogField<'_>> {
    fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let length: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
        let (part, after) = rest[colon + 1..].split_at_checked(length)?;
        *rest = after;
        Some(part)
    }
    let mut field = || {
        let (kind, after) = rest.split_first()?;
        rest = after;
        let (name, text) = (part(&mut rest)?, part(&mut rest)?);
        let value = match kind {
            b'j' => LogValue::Json(text, part(&mut rest)?),
            _ => LogValue::Text(text),
        };
        let in_text = *kind != b'd';
        Some(LogField {
            name,
            value,
            in_text,
        })
    };
    std::iter::from_fn(&mut field).collect()
}

/// Level, text, fields and message of an entry.
type LogInput<'a> = (&'a [u8], &'a [u8], &'a [u8], &'a [u8]);

/// May raise.
fn read_entry(stack: Stack<'_>) -> LogInput<'_> {
    (
        stack.bytes(1),
        stack.bytes(2),
        stack.bytes(3),
        stack.bytes(4),
    )
}

fn write_entry(level: LogLevel, text: &[u8], fields: &[u8], message: &[u8]) {
    log_entry(&LogEntry {
        message: (!message.is_empty()).then_some(message),
        fields: &parse_fields(fields),
        ..LogEntry::new(level, text)
    });
}

native! {
    /// `log(level, text, fields, message)`: see `parse_fields`; an empty message is the text.
    Log = "log", suspends: false;
    read(stack) -> LogInput<'a> { read_entry(stack) }
    run((level, text, fields, message)) -> () {
        let level = parse_level(level).unwrap_or(LogLevel::Info);
        if is_shown(level) {
            write_entry(level, text, fields, message);
        }
        Ok(())
    }
}

native! {
    /// `is_logged(level)`: whether entries of the level are written.
    IsLogged = "is_logged", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(level) -> bool { Ok(is_shown(parse_level(level).unwrap_or(LogLevel::Info))) }
}

native! {
    /// `log_level(name)`: sets the minimum level, unless the name is empty. Returns the previous one.
    ChangeLevel = "log_level", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> String { changed(name, log_level_name(), change_log_level) }
}

native! {
    /// `log_format(name)`: sets the form, unless the name is empty. Returns the previous one.
    ChangeFormat = "log_format", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> String { changed(name, log_format().as_str(), change_format) }
}

fn changed(
    name: &[u8],
    present: &str,
    change: fn(&str) -> Result<&'static str, String>,
) -> Result<String, yue_luajit::Error> {
    read_log_level();
    if name.is_empty() {
        return Ok(present.to_owned());
    }
    let before = change(&String::from_utf8_lossy(name));
    before
        .map(str::to_owned)
        .map_err(|text| lua_error(ErrorKind::Argument, text))
}

native! {
    /// `log_limited(level, text, fields, message)`: like `log`, but above some a second entries are only counted.
    LogLimited = "log_limited", suspends: false;
    read(stack) -> LogInput<'a> { read_entry(stack) }
    run((level, text, fields, message)) -> () {
        let level = parse_level(level).unwrap_or(LogLevel::Info);
        if is_granted(level) {
            write_entry(level, text, fields, message);
        }
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
    register!(stack; Log, IsLogged, ChangeLevel, ChangeFormat, LogLimited, WarnLater, WarnOfFinalizer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_far_as_they_are_well_formed() {
        let fields = parse_fields(b"t4:name3:a:bj1:n1:21:2d1:x0:t9:cut");
        let field = |name, value, in_text| LogField {
            name,
            value,
            in_text,
        };
        assert_eq!(
            fields,
            [
                field(&b"name"[..], LogValue::Text(b"a:b"), true),
                field(b"n", LogValue::Json(b"2", b"2"), true),
                field(b"x", LogValue::Text(b""), false),
            ]
        );
        assert!(parse_fields(b"t99999999999999999999:").is_empty());
    }
}
