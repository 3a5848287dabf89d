//! Development mode: what a program does in addition while `yue dev` supervises it.
//!
//! ```text
//!   yue dev, the supervisor  ◀── a pipe of reports ──  the program, its child
//!                                                       └── /_yue/dev.js, /_yue/dev  (../../lua/development.lua)
//! ```
//!
//! The program reports the addresses at which it serves HTTP, and the error that has ended it. It serves a script to
//! its pages (`../../lua/development.js`), which reloads them and shows errors. A process is in this mode or not; it is
//! decided before the first VM starts. `development/failures.rs` has the failures of the running program.

pub(crate) mod failures;

use super::host::errors::ErrorObject;
use super::native::{native, register};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use yue_luajit::mlua;
use yue_luajit::{Stack, Vm};

/// The script that pages load in development mode.
pub const PAGE_SCRIPT: &str = include_str!("../../lua/development.js");

/// Up to this size a write into a pipe is atomic (`PIPE_BUF`).
const REPORT_BYTES_MAX: usize = 4096;

/// The pipe to the supervisor, if there is one.
static REPORTS: OnceLock<File> = OnceLock::new();

/// A message from a program in development mode to its supervisor.
///
/// ```
/// use yue::lua::development::Report;
///
/// let report = Report::Serves("http://127.0.0.1:8080".to_owned());
/// assert_eq!(Report::decode(b"serves http://127.0.0.1:8080"), Some(report));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The program serves HTTP at this URL.
    Serves(String),
    /// This error has ended the program.
    Failed(String),
}

impl Report {
    /// Decodes a record: what stands between two zero bytes in the pipe. `None` for an unknown one.
    pub fn decode(record: &[u8]) -> Option<Report> {
        let text = String::from_utf8_lossy(record);
        match text.split_once(' ')? {
            ("serves", url) => Some(Report::Serves(url.to_owned())),
            ("failed", error) => Some(Report::Failed(error.to_owned())),
            _ => None,
        }
    }

    /// The record of this report, with the zero byte at its end.
    fn encode(&self) -> Vec<u8> {
        let (word, text) = match self {
            Report::Serves(url) => ("serves", url),
            Report::Failed(error) => ("failed", error),
        };
        let room = REPORT_BYTES_MAX - word.len() - 2;
        let text = &text[..text.floor_char_boundary(room)];
        let mut record = format!("{word} {}", text.replace('\0', " ")).into_bytes();
        record.push(0);
        record
    }
}

/// Turns development mode on for this process: programs that start afterwards write reports into the pipe.
///
/// # Errors
/// If the descriptor cannot be made non-blocking.
///
/// ```no_run
/// let (_reader, writer) = std::io::pipe()?;
/// yue::lua::development::begin(writer.into())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn begin(reports: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and no memory is passed.
    let set = unsafe { libc::fcntl(reports.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // The first one stays.
    let _ = REPORTS.set(File::from(reports));
    Ok(())
}

/// Whether the process is in development mode.
pub(crate) fn is_on() -> bool {
    REPORTS.get().is_some()
}

/// Sends a report. A supervisor that has gone, or that does not read, misses it.
fn send(report: &Report) {
    if let Some(mut pipe) = REPORTS.get() {
        let _ = pipe.write(&report.encode());
    }
}

/// Reports the error that ends the program.
pub(crate) fn report_failure(failure: &ErrorObject) {
    if is_on() {
        send(&Report::Failed(failure.report()));
    }
}

/// Compiles a script without running it.
///
/// # Errors
/// LuaJIT's message, with file and line; or the reason why the file cannot be read.
///
/// ```
/// let path = std::env::temp_dir().join(format!("yue-syntax-{}.lua", std::process::id()));
/// std::fs::write(&path, "local x =")?;
/// let message = yue::lua::development::check_syntax(&path).unwrap_err();
/// assert!(message.contains(":1: unexpected symbol"), "{message}");
/// std::fs::remove_file(path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_syntax(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let source = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let vm = Vm::new().map_err(|error| error.to_string())?;
    let name = format!("@{shown}");
    let source = super::program::without_first_comment(&source);
    let compiled = vm.with_mlua(|lua| lua.load(source).set_name(name).into_function().map(drop));
    compiled.map_err(|error: mlua::Error| match error {
        mlua::Error::SyntaxError { message, .. } => message,
        other => other.to_string(),
    })
}

native! {
    /// `development_serves(url)`: reports an address of an HTTP server.
    Serves = "development_serves", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(url) -> () {
        send(&Report::Serves(String::from_utf8_lossy(url).into_owned()));
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; Serves);
    failures::register_all(stack);
}

#[cfg(test)]
mod tests {
    use super::{REPORT_BYTES_MAX, Report};

    #[test]
    fn a_long_report_is_cut_at_a_character_and_stays_one_record() {
        let text = "ä\0".repeat(REPORT_BYTES_MAX);
        let record = Report::Failed(text).encode();
        assert!(record.len() <= REPORT_BYTES_MAX);
        let (last, rest) = record.split_last().expect("it is not empty");
        assert!(*last == 0 && !rest.contains(&0));
        let Some(Report::Failed(text)) = Report::decode(rest) else {
            panic!("it is not decoded");
        };
        assert!(text.starts_with("ä ä ") && !text.contains('\u{fffd}'));
    }

    #[test]
    fn an_unknown_record_is_no_report() {
        for record in [&b""[..], b"serves", b"other http://127.0.0.1"] {
            assert_eq!(Report::decode(record), None);
        }
    }
}
