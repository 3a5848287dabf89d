//! The program's log: lines on standard error.
//!
//! `YUE_LOG` (`debug`, `info`, `warn`, `error`, `off`) sets what is shown; `info` and up by default.

use super::host;
use super::native::{native, register};
use std::io::Write;
use std::sync::OnceLock;
use yue_luajit::Stack;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Off,
}

impl Level {
    fn parse(text: &[u8]) -> Option<Level> {
        Some(match text {
            b"debug" => Level::Debug,
            b"info" => Level::Info,
            b"warn" => Level::Warn,
            b"error" => Level::Error,
            b"off" => Level::Off,
            _ => return None,
        })
    }
}

fn threshold() -> Level {
    static THRESHOLD: OnceLock<Level> = OnceLock::new();
    *THRESHOLD.get_or_init(|| {
        let setting = std::env::var("YUE_LOG").unwrap_or_default();
        Level::parse(setting.as_bytes()).unwrap_or(Level::Info)
    })
}

/// Writes one line, if its level is shown.
pub(crate) fn write(level: Level, text: &[u8]) {
    if level < threshold() {
        return;
    }
    let (name, loop_name) = (
        format!("{level:?}").to_lowercase(),
        host::current().map(|host| host.name()),
    );
    let mut line = format!("yue {name}: ").into_bytes();
    if let Some(loop_name) = loop_name.filter(|name| !name.is_empty()) {
        line.extend_from_slice(format!("[{loop_name}] ").as_bytes());
    }
    line.extend_from_slice(text);
    line.push(b'\n');
    // A standard error that is closed is no reason to stop.
    let _ = std::io::stderr().write_all(&line);
}

/// Writes an error line.
pub(crate) fn error(text: &str) {
    write(Level::Error, text.as_bytes());
}

native! {
    /// `log(level, text)`.
    Log = "log", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((level, text)) -> () {
        write(Level::parse(level).unwrap_or(Level::Info), text);
        Ok(())
    }
}

native! {
    /// `tell_later(text)`: a warning that a finalizer has; it is logged when the loop comes round.
    TellLater = "tell_later", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        // At the very end nobody is left to be told: what failed unseen has been told before.
        if let Some(host) = host::current() {
            host.tell_later(String::from_utf8_lossy(text).into_owned());
        }
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Log, TellLater);
}
