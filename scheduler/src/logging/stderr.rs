//! The writer of log lines: standard error, whose reader may be slow, stopped or gone.
//!
//! A line that standard error does not take within [`PATIENCE`] is lost, and the next line that it takes is preceded by
//! the number of lost lines. Lines of several threads do not mix.

use super::{LogEntry, LogLevel};
use crate::lock::lock;
use crate::time::Instant;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

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
pub(super) fn write_line(line: &str) {
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
        let lost = self.lost;
        let text = format!("{lost} log lines were lost, because standard error was blocked");
        let entry = LogEntry::new(LogLevel::Warn, text.as_bytes());
        let line = entry.line(&text, true);
        if self.torn { format!("\n{line}") } else { line }
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
