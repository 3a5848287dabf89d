//! Log lines on standard error, from any layer and any thread.
//!
//! `eprintln!` panics if standard error is full, or is a pipe whose reader is gone: a log line could then crash the
//! server. It also writes a line piece by piece, so that the lines of two threads mix.

use std::fmt;
use std::io::Write;

/// Writes `yue: `, the text and a newline to standard error in one piece. A line that cannot be written is lost.
///
/// ```
/// yue_scheduler::say(format_args!("{} connections are left", 3));
/// ```
pub fn say(text: fmt::Arguments<'_>) {
    let line = format!("yue: {text}\n");
    // If this fails, there is nowhere left to report it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
