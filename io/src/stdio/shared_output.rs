//! Standard output and error with one buffer for all fibers, loops and threads.
//!
//! ```text
//!   write ──▶ pending bytes ──▶ write(2), as long as the descriptor is ready
//!                  │ not ready
//!                  ▼
//!             the drain: a fiber that waits until the descriptor is ready, and then writes
//! ```
//!
//! Invariants:
//! - Bytes stay in `pending` until the kernel has taken them, and all writes run under the lock. So a fiber that is
//!   cancelled while it waits loses nothing and repeats nothing, and [`SharedOutput::flush_blocking`] may take over at
//!   any time.
//! - The lock is held during calls that do not wait: each is preceded by a poll, and a pipe that polls as ready takes
//!   [`PIECE`] bytes at once (`pipe(7)`: `PIPE_BUF`).
//! - At most one drain exists. It ends when `pending` is empty, or with its loop; the next write starts another one.
//! - Memory is bounded: a writer waits while more than [`PENDING_HIGH`] bytes are pending.

use super::standard;
use crate::identity::Direction;
use crate::sys;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::Once;
use yue_scheduler::sync::Notify;
use yue_scheduler::{Builder, Stopped, lock, may_suspend, simulation};

/// A pipe that polls as writable has room for at least this much, so a write of it does not wait.
const PIECE: usize = libc::PIPE_BUF;

/// A regular file takes any amount; this is what a full buffer writes.
const FILE_PIECE: usize = 64 << 10;

/// Pending bytes above which a writer waits.
const PENDING_HIGH: usize = 256 << 10;

/// Pending bytes at which a fully buffered stream is written.
const FULL: usize = 64 << 10;

/// The rule by which bytes leave the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffering {
    /// Every write leaves at once.
    None,
    /// A write that contains the end of a line leaves at once, with everything before it.
    Line,
    /// Bytes leave in blocks, upon a flush, and at the end of the process.
    Full,
}

struct State {
    pending: VecDeque<u8>,
    buffering: Buffering,
    /// Pending bytes are to leave.
    due: bool,
    /// A fiber waits until the descriptor is ready.
    has_drain: bool,
    /// The error that the drain met, for the next caller.
    failure: Option<io::Error>,
}

/// Standard output or standard error, with a buffer that the whole process shares. See [`shared_output`].
pub struct SharedOutput {
    fd: RawFd,
    state: Mutex<State>,
    /// Notified when pending bytes have left, and by each waiter that needs the notification no more.
    progress: Notify,
}

impl fmt::Debug for SharedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedOutput")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

const fn new(fd: RawFd, buffering: Buffering) -> SharedOutput {
    SharedOutput {
        fd,
        state: Mutex::new(State {
            pending: VecDeque::new(),
            buffering,
            due: false,
            has_drain: false,
            failure: None,
        }),
        progress: Notify::new(),
    }
}

static OUTPUT: SharedOutput = new(1, Buffering::Line);
static ERROR: SharedOutput = new(2, Buffering::None);

/// Returns standard output with the buffer of the process, by lines unless [`SharedOutput::set_buffering`] changes it.
/// Lua's `print` and `io.write` use it. The buffer is flushed at the end of the process.
///
/// ```
/// use yue_io::stdio::shared_output;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     // Waits, in this fiber alone, if many bytes are pending because the reader is slow.
///     shared_output().write(b"one line, never cut by another fiber's\n")
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn shared_output() -> &'static SharedOutput {
    static AT_EXIT: Once = Once::new();
    extern "C" fn flush_at_exit() {
        OUTPUT.flush_blocking();
    }
    AT_EXIT.call_once(|| {
        // SAFETY: registers a function without arguments, which does not unwind.
        unsafe { libc::atexit(flush_at_exit) };
    });
    &OUTPUT
}

/// Returns standard error with the buffer of the process. Every write leaves at once, or as soon as the reader permits.
pub fn shared_error() -> &'static SharedOutput {
    &ERROR
}

/// Whether the calling thread's output goes to a simulation, which keeps nothing back.
fn is_simulated() -> bool {
    simulation::write_output(b"")
}

impl SharedOutput {
    /// Writes bytes; those of other writers do not come between them. First waits while too many bytes are pending: in
    /// the calling fiber, or, outside a fiber and where a fiber must not be suspended, in the thread.
    ///
    /// # Errors
    /// The system's error, such as `BrokenPipe`: all pending bytes are then dropped. If the fiber is cancelled or its
    /// deadline passes while it waits; then nothing is written.
    pub fn write(&'static self, bytes: &[u8]) -> io::Result<()> {
        while !self.try_write(bytes)? {
            self.wait_until(|state| state.pending.len() <= PENDING_HIGH)?;
        }
        Ok(())
    }

    /// Like [`write`](Self::write), but returns `false`, and writes nothing, instead of waiting.
    ///
    /// # Errors
    /// The system's error, as for [`write`](Self::write).
    pub fn try_write(&'static self, bytes: &[u8]) -> io::Result<bool> {
        if simulation::write_output(bytes) {
            return Ok(true);
        }
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if state.pending.len() > PENDING_HIGH {
            self.start_drain(state);
            return Ok(false);
        }
        let is_due = match state.buffering {
            Buffering::None => true,
            Buffering::Line => bytes.contains(&b'\n') || state.pending.len() + bytes.len() >= FULL,
            Buffering::Full => state.pending.len() + bytes.len() >= FULL,
        };
        state.due |= is_due;
        let mut rest = bytes;
        if state.due && state.pending.is_empty() {
            // The usual case: nothing is copied.
            rest = self.put(bytes)?;
        }
        state.pending.extend(rest);
        if state.due {
            self.drain_ready(state)?;
        }
        self.start_drain(state);
        Ok(true)
    }

    /// Waits until all that was written has left.
    ///
    /// # Errors
    /// As for [`write`](Self::write); and when the fiber is cancelled or its deadline passes.
    pub fn flush(&'static self) -> io::Result<()> {
        if is_simulated() {
            return Ok(());
        }
        {
            let mut state = lock(&self.state);
            state.due = true;
            self.drain_ready(&mut state)?;
            self.start_drain(&mut state);
        }
        self.wait_until(|state| state.pending.is_empty())
    }

    /// Writes all that is pending, and blocks the thread while the reader takes it.
    pub fn flush_blocking(&self) {
        loop {
            let mut state = lock(&self.state);
            state.due = true;
            if self.drain_ready(&mut state).is_err() || state.pending.is_empty() {
                return;
            }
            drop(state);
            if sys::block_until_ready(self.fd, libc::POLLOUT, None).is_err() {
                return;
            }
        }
    }

    /// Sets when bytes leave. Pending ones follow the new rule with the next write.
    pub fn set_buffering(&self, buffering: Buffering) {
        if is_simulated() {
            return;
        }
        lock(&self.state).buffering = buffering;
    }

    /// Writes what the descriptor takes without waiting. Returns the rest.
    fn put<'a>(&self, mut bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        // Asked each time: the program may have put another file in the descriptor's place.
        let piece = match bytes.len() {
            0..=PIECE => PIECE,
            _ if sys::is_regular_file(self.fd) => FILE_PIECE,
            _ => PIECE,
        };
        while !bytes.is_empty() {
            let written = sys::check_ready(self.fd, libc::POLLOUT)
                .and_then(|()| sys::write(self.fd, &bytes[..bytes.len().min(piece)]));
            match written {
                Ok(count) => bytes = &bytes[count..],
                // Also a socket or a non-blocking pipe without room for the whole piece.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Writes pending bytes that the descriptor takes without waiting.
    fn drain_ready(&self, state: &mut State) -> io::Result<()> {
        let before = state.pending.len();
        let drained = loop {
            let (first, _) = state.pending.as_slices();
            if first.is_empty() {
                break Ok(());
            }
            let count = first.len();
            match self.put(first) {
                Ok([]) => drop(state.pending.drain(..count)),
                Ok(rest) => {
                    let taken = count - rest.len();
                    state.pending.drain(..taken);
                    break Ok(());
                }
                Err(error) => {
                    // Nobody reads any more, or the disk is full: the next write tries anew.
                    state.pending.clear();
                    break Err(error);
                }
            }
        };
        if state.pending.is_empty() {
            state.due = false;
            if state.pending.capacity() > FULL {
                state.pending = VecDeque::new();
            }
        }
        if state.pending.len() < before {
            self.progress.notify_one();
        }
        drained
    }

    /// Starts the drain if bytes that are due had to stay.
    fn start_drain(&'static self, state: &mut State) {
        if !state.due || state.pending.is_empty() || state.has_drain {
            return;
        }
        // Without a loop or without memory, the next write or the final flush continues.
        let drain = Drain(self);
        let spawned = Builder::new().name("output").spawn(move || drain.run());
        state.has_drain = spawned.is_ok();
    }

    /// Waits until `done`, in the fiber if that is allowed.
    ///
    /// Notifications are passed on from waiter to waiter. So it does not matter which of them takes one, nor whether it
    /// comes between the check and the wait: it is then stored.
    fn wait_until(&'static self, done: impl Fn(&State) -> bool) -> io::Result<()> {
        loop {
            let mut state = lock(&self.state);
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            if done(&state) {
                self.progress.notify_one();
                return Ok(());
            }
            // The one that was there may have ended with its loop.
            self.start_drain(&mut state);
            drop(state);
            if may_suspend().is_ok() {
                let waited = self.progress.notified();
                waited.inspect_err(|_| self.progress.notify_one())?;
                continue;
            }
            sys::block_until_ready(self.fd, libc::POLLOUT, None)?;
            self.drain_ready(&mut lock(&self.state))?;
        }
    }
}

/// The fiber that waits until the descriptor is ready.
struct Drain(&'static SharedOutput);

impl Drain {
    fn run(self) {
        let output = self.0;
        loop {
            // A descriptor that cannot be waited for (closed, or a file) is always ready: the write tells the error.
            match standard(output.fd).descriptor.wait_ready(Direction::Write) {
                Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) => return,
                _ => {}
            }
            let mut state = lock(&output.state);
            if let Err(failure) = output.drain_ready(&mut state) {
                state.failure = Some(failure);
            }
            if state.pending.is_empty() {
                return;
            }
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        lock(&self.0.state).has_drain = false;
        self.0.progress.notify_one();
    }
}
