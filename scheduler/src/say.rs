//! Lines on standard error, from any layer and any thread.
//!
//! `eprintln!` panics where standard error is full, or a pipe whose reader is gone: a server would die of a remark. It
//! also writes a line piece by piece, so that the lines of two threads mix.

use std::fmt;
use std::io::Write;

/// Writes `yue: `, the text and a newline to standard error, in one piece. A line that cannot be written is lost.
///
/// ```
/// yue_scheduler::say(format_args!("{} connections are left", 3));
/// ```
pub fn say(text: fmt::Arguments<'_>) {
    let line = format!("yue: {text}\n");
    // Nobody is left to be told.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
