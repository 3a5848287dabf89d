//! The form of a log entry: a line for people, or one JSON object on a line.
//!
//! ```text
//!   2026-01-31T12:00:00.123Z yue info: [loop 2] joined player=7
//!   {"time":"2026-01-31T12:00:00.123Z","level":"info","loop":"loop 2","msg":"joined","player":7}
//! ```
//!
//! Logged text may come from strangers: an error's message, a method's name. So nobody can forge a line that looks like
//! a separate entry: control characters are escaped, later lines of a text are indented, and values of fields that
//! could be taken for another field are quoted. The length of an entry is limited, because it is written synchronously.

use super::LogLevel;
use crate::simulation::{self, PerHost};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The maximum bytes of a text; the rest is left out.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// The maximum bytes of a field's value, and of its name.
const VALUE_BYTES_MAX: usize = 4 << 10;
const NAME_BYTES_MAX: usize = 100;
/// The maximum number of fields; the rest is left out.
const FIELDS_MAX: usize = 64;

/// The names that the object of every entry may have: a field of such a name gets a `_` behind it.
const RESERVED: [&str; 4] = ["time", "level", "loop", "msg"];

/// The form of the entries on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// A line for people: time, level, text, fields.
    Text,
    /// A JSON object on one line.
    Json,
}

static FORMAT: AtomicU8 = AtomicU8::new(LogFormat::Text as u8);

/// The form of a simulated host's entries: a program that changes it must not change the log of others.
static FORMAT_OF_HOST: PerHost<AtomicU8> =
    PerHost::new(|| AtomicU8::new(FORMAT.load(Ordering::Relaxed)));

/// Sets the form of the entries that the process writes to standard error. The default is [`LogFormat::Text`].
///
/// ```
/// use yue_scheduler::{LogFormat, log_format, set_log_format};
///
/// assert_eq!(log_format(), LogFormat::Text);
/// set_log_format(LogFormat::from_name("json").unwrap());
/// assert_eq!(log_format().as_str(), "json");
/// # set_log_format(LogFormat::Text);
/// ```
pub fn set_log_format(format: LogFormat) {
    // Relaxed: nothing else depends on it.
    match simulation::is_on() {
        false => FORMAT.store(format as u8, Ordering::Relaxed),
        true => FORMAT_OF_HOST.get().store(format as u8, Ordering::Relaxed),
    }
}

/// Returns the form of the entries; see [`set_log_format`].
pub fn log_format() -> LogFormat {
    let format = match simulation::is_on() {
        false => FORMAT.load(Ordering::Relaxed),
        true => FORMAT_OF_HOST.get().load(Ordering::Relaxed),
    };
    match format == LogFormat::Json as u8 {
        true => LogFormat::Json,
        false => LogFormat::Text,
    }
}

impl LogFormat {
    /// Returns the form of that name.
    pub fn from_name(name: &str) -> Option<LogFormat> {
        [LogFormat::Text, LogFormat::Json]
            .into_iter()
            .find(|format| format.as_str() == name)
    }

    /// Returns the name of the form: `text` or `json`.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// The name of a thread's loop in entries, and whether the form for people shows it.
#[derive(Debug, Clone, Default)]
struct LoopName {
    name: String,
    in_text: bool,
}

thread_local! {
    static LOOP_NAME: RefCell<LoopName> = RefCell::default();
}

/// Names the calling thread's loop in its log entries. The form for people shows the name only if `in_text`. An empty
/// name is shown nowhere.
pub fn set_log_name(name: &str, in_text: bool) {
    // An entry may be logged while a thread's variables are destroyed.
    let _ = LOOP_NAME.try_with(|slot| {
        *slot.borrow_mut() = LoopName {
            name: name.to_owned(),
            in_text,
        }
    });
}

fn loop_name() -> LoopName {
    LOOP_NAME
        .try_with(|slot| slot.borrow().clone())
        .unwrap_or_default()
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LogValue<'a> {
    /// A text: bytes, which need not be UTF-8.
    Text(&'a [u8]),
    /// A number, `true`, `false`, `null`, an array or an object: its text for people, and its JSON, which must be
    /// valid.
    Json(&'a [u8], &'a [u8]),
}

/// A field of an entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogField<'a> {
    /// The field's name.
    pub name: &'a [u8],
    /// The field's value.
    pub value: LogValue<'a>,
    /// Whether the form for people shows the field. If not, the entry's text contains it already.
    pub in_text: bool,
}

/// A log entry: its text, and its fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogEntry<'a> {
    /// The importance.
    pub level: LogLevel,
    /// The text for people. It may have several lines, and need not be UTF-8.
    pub text: &'a [u8],
    /// The `msg` of the JSON object, if that is not the text.
    pub message: Option<&'a [u8]>,
    /// The fields.
    pub fields: &'a [LogField<'a>],
}

impl<'a> LogEntry<'a> {
    /// An entry without fields.
    pub fn new(level: LogLevel, text: &'a [u8]) -> LogEntry<'a> {
        LogEntry {
            level,
            text,
            message: None,
            fields: &[],
        }
    }

    /// The entry for people, without time and level; `with_loop`: with the loop's name, if it is shown at all.
    pub(super) fn shown(&self, with_loop: bool) -> String {
        let mut shown = String::new();
        let at = loop_name();
        if with_loop && at.in_text && !at.name.is_empty() {
            let _ = write!(shown, "[{}] ", at.name);
        }
        append_printable(&mut shown, self.text, TEXT_BYTES_MAX);
        for field in self.fields.iter().take(FIELDS_MAX) {
            if field.in_text {
                shown.push(' ');
                append_quoted(&mut shown, cut(field.name, NAME_BYTES_MAX));
                shown.push('=');
                match field.value {
                    LogValue::Text(text) => append_quoted(&mut shown, text),
                    LogValue::Json(text, _) => {
                        append_printable(&mut shown, one_line(text).as_bytes(), VALUE_BYTES_MAX);
                    }
                }
            }
        }
        shown
    }

    /// The line on standard error, in the present form, with a newline at its end. `shown` is the entry for people;
    /// `with_time`: with time and level.
    pub(super) fn line(&self, shown: &str, with_time: bool) -> String {
        let level = self.level;
        match (log_format(), with_time) {
            (LogFormat::Json, _) => self.json(),
            (LogFormat::Text, true) => {
                format!(
                    "{} yue {level}: {shown}\n",
                    time_text(simulation::wall_clock())
                )
            }
            (LogFormat::Text, false) => format!("yue: {shown}\n"),
        }
    }

    /// The line for whoever runs a simulation: like [`line`](Self::line), without the time.
    pub(super) fn simulated_line(&self, shown: &str, with_level: bool) -> String {
        match (log_format(), with_level) {
            (LogFormat::Text, true) => format!("yue {}: {shown}\n", self.level),
            _ => self.line(shown, false),
        }
    }

    fn json(&self) -> String {
        let time = time_text(simulation::wall_clock());
        let mut line = format!("{{\"time\":\"{time}\",\"level\":\"{}\"", self.level);
        let at = loop_name();
        if !at.name.is_empty() {
            line.push_str(",\"loop\":");
            append_json(&mut line, at.name.as_bytes(), NAME_BYTES_MAX);
        }
        line.push_str(",\"msg\":");
        let (message, traceback) = match self.message {
            Some(message) => (message, None),
            None => split_traceback(self.text),
        };
        append_json(&mut line, message.trim_ascii_end(), TEXT_BYTES_MAX);
        if let Some(traceback) = traceback {
            line.push_str(",\"traceback\":");
            append_json(&mut line, traceback.trim_ascii(), TEXT_BYTES_MAX);
        }
        for field in self.fields.iter().take(FIELDS_MAX) {
            line.push(',');
            let reserved = RESERVED.iter().any(|name| name.as_bytes() == field.name);
            let name = [field.name, if reserved { b"_" } else { b"" }].concat();
            append_json(&mut line, &name, NAME_BYTES_MAX);
            line.push(':');
            match field.value {
                LogValue::Json(_, json) if json.len() <= VALUE_BYTES_MAX => {
                    line.push_str(&String::from_utf8_lossy(json));
                }
                LogValue::Json(text, _) => append_json(&mut line, text, VALUE_BYTES_MAX),
                // A traceback is the one field that the text shows.
                LogValue::Text(text) if !field.in_text => {
                    append_json(&mut line, text, TEXT_BYTES_MAX);
                }
                LogValue::Text(text) => append_json(&mut line, text, VALUE_BYTES_MAX),
            }
        }
        line.push_str("}\n");
        line
    }
}

/// Splits a text that ends with a traceback of Lua.
fn split_traceback(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    const HEAD: &[u8] = b"\nstack traceback:";
    match text.windows(HEAD.len()).position(|part| part == HEAD) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    }
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

fn cut(text: &[u8], max: usize) -> &[u8] {
    &text[..text.len().min(max)]
}

fn append_rest(line: &mut String, all: usize, max: usize) {
    if all > max {
        let _ = write!(line, " ... ({} bytes more)", all - max);
    }
}

/// Appends a text so that it can neither act on a terminal nor look like a separate entry.
fn append_printable(line: &mut String, text: &[u8], max: usize) {
    let text = text.trim_ascii_end();
    append_escaped(line, cut(text, max), |line, c| match c {
        '\n' => line.push_str("\n    "),
        c => line.push(c),
    });
    append_rest(line, text.len(), max);
}

/// Appends the characters of a text; line ends and tabs, and characters that do no harm, by `push`.
fn append_escaped(line: &mut String, text: &[u8], push: impl Fn(&mut String, char)) {
    // Writing to a String cannot fail.
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' => push(line, c),
                c if c.is_ascii_control() => {
                    let _ = write!(line, "\\x{:02x}", c as u32);
                }
                // The line and paragraph separators end a line for some viewers.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    let _ = write!(line, "\\u{{{:x}}}", c as u32);
                }
                c => push(line, c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02x}");
        }
    }
}

/// Appends a name or a value: quoted, unless it is a word that cannot be taken for anything else.
fn append_quoted(line: &mut String, text: &[u8]) {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"=\\".contains(byte) || *byte >= 0x80;
    if !text.is_empty() && text.len() <= VALUE_BYTES_MAX && text.iter().all(is_plain) {
        return append_escaped(line, text, |line, c| line.push(c));
    }
    line.push('"');
    append_escaped(line, cut(text, VALUE_BYTES_MAX), |line, c| match c {
        '\n' => line.push_str("\\n"),
        '\t' => line.push_str("\\t"),
        '"' | '\\' => {
            line.push('\\');
            line.push(c);
        }
        c => line.push(c),
    });
    line.push('"');
    append_rest(line, text.len(), VALUE_BYTES_MAX);
}

fn one_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(['\n', '\t'], " ")
}

/// Appends a JSON string. Bytes that are not UTF-8 become U+FFFD.
fn append_json(line: &mut String, text: &[u8], max: usize) {
    line.push('"');
    for chunk in cut(text, max).utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => line.push_str("\\\""),
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\t' => line.push_str("\\t"),
                '\r' => line.push_str("\\r"),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    let _ = write!(line, "\\u{:04x}", c as u32);
                }
                c => line.push(c),
            }
        }
        if !chunk.invalid().is_empty() {
            line.push('\u{fffd}');
        }
    }
    append_rest(line, text.len(), max);
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn printable(text: &[u8]) -> String {
        let mut line = String::new();
        append_printable(&mut line, text, TEXT_BYTES_MAX);
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
        assert_eq!(printable("a\u{2028}b".as_bytes()), "a\\u{2028}b");
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
        assert!(long.len() < TEXT_BYTES_MAX + 100);
        assert!(long.ends_with("bytes more)"));
        // In the middle of a character, too.
        printable("\u{20ac}".repeat(TEXT_BYTES_MAX).as_bytes());
    }

    fn text(name: &'static str, value: &'static str) -> LogField<'static> {
        LogField {
            name: name.as_bytes(),
            value: LogValue::Text(value.as_bytes()),
            in_text: true,
        }
    }

    #[test]
    fn fields_follow_the_text_and_cannot_forge_others() {
        let fields = [
            text("player", "bob"),
            text("said", "a b=\"c\"\nyue error: \x1b"),
            text("empty", ""),
            text("a name", "v"),
            LogField {
                name: b"n",
                value: LogValue::Json(b"{ 1,\n2 }", b"[1,2]"),
                in_text: true,
            },
            LogField {
                in_text: false,
                ..text("hidden", "x")
            },
        ];
        let entry = LogEntry {
            fields: &fields,
            ..LogEntry::new(LogLevel::Info, b"joined")
        };
        assert_eq!(
            entry.shown(true),
            "joined player=bob said=\"a b=\\\"c\\\"\\nyue error: \\x1b\" empty=\"\" \"a name\"=v n={ 1, 2 }"
        );
    }

    #[test]
    fn an_object_has_the_fields_and_is_one_line() {
        let fields = [
            text("msg", "a \"b\"\n\u{2028}\u{7f}"),
            LogField {
                name: b"list",
                value: LogValue::Json(b"{ 1, 2 }", b"[1,2]"),
                in_text: true,
            },
            LogField {
                name: b"bad\xff",
                value: LogValue::Text(b"\xfe"),
                in_text: false,
            },
        ];
        let entry = LogEntry {
            message: Some(b"short"),
            fields: &fields,
            ..LogEntry::new(LogLevel::Warn, b"short\nand long")
        };
        let line = entry.json();
        let (head, rest) = line.split_at(line.find(",\"level\"").unwrap());
        assert!(
            head.starts_with("{\"time\":\"2") && head.ends_with("Z\""),
            "{line}"
        );
        assert_eq!(
            rest,
            ",\"level\":\"warn\",\"msg\":\"short\",\"msg_\":\"a \\\"b\\\"\\n\\u2028\\u007f\",\"list\":[1,2],\
             \"bad\u{fffd}\":\"\u{fffd}\"}\n"
        );
    }

    #[test]
    fn a_traceback_in_the_text_is_a_field_of_the_object() {
        let entry = LogEntry::new(
            LogLevel::Warn,
            b"it failed: x\nstack traceback:\n\ta.lua:1\n",
        );
        let line = entry.json();
        let wanted = r#""msg":"it failed: x","traceback":"stack traceback:\n\ta.lua:1"}"#;
        assert!(line.ends_with(&format!("{wanted}\n")), "{line}");
        let plain = LogEntry::new(LogLevel::Warn, b"stack traceback: none").json();
        assert!(
            plain.ends_with("\"msg\":\"stack traceback: none\"}\n"),
            "{plain}"
        );
    }

    #[test]
    fn long_values_and_many_fields_are_cut() {
        let long = "x".repeat(1 << 20);
        let field = LogField {
            name: long.as_bytes(),
            value: LogValue::Json(long.as_bytes(), long.as_bytes()),
            in_text: true,
        };
        let fields = vec![field; 1000];
        let entry = LogEntry {
            fields: &fields,
            ..LogEntry::new(LogLevel::Info, long.as_bytes())
        };
        let most = TEXT_BYTES_MAX + FIELDS_MAX * (VALUE_BYTES_MAX + NAME_BYTES_MAX + 200);
        assert!(entry.shown(true).len() < most && entry.json().len() < most);
    }
}
