//! The process's standard input, output and error, for fibers.
//!
//! A stream may be anything (a terminal, a pipe, a file) and may be shared with other processes, so its mode must not
//! change. io_uring works in any mode. On mio a stream is called only after a poll says that it is ready. A file is
//! called on the blocking pool on either driver: its position is shared as well, and ring operations do not take the
//! kernel's lock on it, so they could overwrite each other and other processes. Two limits remain on mio. If another
//! process takes the input between the poll and the call, the call blocks the loop until more arrives. A terminal that
//! is stopped in the middle of a write blocks it too.
//!
//! Unlike the standard library's streams, these have no buffer and no lock: wrap one in a [`std::io::BufReader`] or
//! [`std::io::LineWriter`], or use [`shared_output`], which has a buffer for the whole process. `println!` uses none of
//! them, and blocks the loop while it waits.
//!
//! ```
//! use std::io::{LineWriter, Write};
//! use yue_io::stdio::stdout;
//!
//! yue_io::run(|| -> std::io::Result<()> {
//!     let mut out = LineWriter::new(stdout());
//!     for line in 1..=3 {
//!         writeln!(out, "line {line}")?;
//!     }
//!     out.flush()
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

mod shared_output;

pub use shared_output::{Buffering, SharedOutput, shared_error, shared_output};

use crate::descriptor::{Descriptor, check_not_stopped};
use crate::driver::{Caller, caller};
use crate::identity::Direction;
use crate::offload::{WRITE_BYTES_MAX, offload_transfer};
use crate::readiness::ReadinessBranch;
use crate::sys;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use yue_scheduler::simulation;

unsafe extern "C" {
    /// The C library's own stream, which is there from the start; nobody assigns to the variable.
    #[link_name = "stdout"]
    static C_STDOUT: *mut libc::FILE;
}

/// Makes the C library's standard output, which C modules of Lua may use, line-buffered, even where it is a pipe or a
/// file. Call this before anything is written and before threads are started.
pub fn buffer_output_by_lines() {
    // SAFETY: the stream is the C library's, which makes the buffer itself; nobody uses the stream yet.
    unsafe { libc::setvbuf(C_STDOUT, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

/// Flushes the buffers of standard output and error: those of [`shared_output`] and [`shared_error`], that of Rust's
/// standard library, and the C library's. Blocks the thread until the reader has taken the bytes, and while another
/// thread is in the middle of a write.
pub fn flush_buffers() {
    shared_output().flush_blocking();
    shared_error().flush_blocking();
    // SAFETY: the C library's stream exists from the start of the process.
    unsafe { libc::fflush(C_STDOUT) };
    // An error cannot be reported anywhere.
    let _ = io::stdout().flush();
}

/// Reopens standard output and standard error in blocking mode, where they are pipes or terminals that were made
/// non-blocking. Without this, C's and Rust's buffered streams lose what they cannot write at once. Other holders of
/// the descriptor keep it as it is.
///
/// A stream that cannot be reopened (a socket, a pipe of another user) stays as it is. Call this before starting
/// threads.
pub fn make_outputs_blocking() {
    for number in [1, 2] {
        // A closed descriptor has no flags.
        let flags = sys::status_flags(number).unwrap_or(0);
        let kind = sys::file_type(number);
        if flags & libc::O_NONBLOCK == 0 || !matches!(kind, Some(libc::S_IFIFO | libc::S_IFCHR)) {
            continue;
        }
        let flags = flags & (libc::O_ACCMODE | libc::O_APPEND);
        let reopened = std::fs::OpenOptions::new()
            .read(flags & libc::O_ACCMODE != libc::O_WRONLY)
            .write(flags & libc::O_ACCMODE != libc::O_RDONLY)
            .custom_flags(flags & libc::O_APPEND | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{number}"));
        if let Ok(reopened) = reopened {
            // SAFETY: both descriptors are open; `dup2` replaces the old one atomically, and the new one is closed.
            unsafe { libc::dup2(reopened.as_raw_fd(), number) };
        }
    }
}

struct Standard {
    descriptor: Descriptor,
    is_file: bool,
}

/// Returns the standard stream with that number. Its descriptor is never closed here.
fn standard(number: RawFd) -> &'static Standard {
    static ALL: [OnceLock<Standard>; 3] = [const { OnceLock::new() }; 3];
    ALL[number as usize].get_or_init(|| {
        // SAFETY: the standard library opens these three before `main` and leaves them to the process. The owner is in
        // a static, so it is never dropped.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Standard {
            is_file: sys::is_regular_file(number),
            descriptor: Descriptor::from(fd),
        }
    })
}

/// Takes standard input and output for a protocol that the process speaks over them. From then on descriptor 0 reads
/// nothing, and what the program prints goes to standard error instead of into the protocol.
///
/// ```
/// use std::io::{Read, Write};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (mut input, mut output) = yue_io::stdio::take()?;
///     println!("This goes to standard error.");
///     output.write_all(b"ready\n")?;
///     # return Ok(()); // The test's own input may never end.
///     std::io::copy(&mut input, &mut output)?;
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// `AlreadyExists` if they were taken before; the system's error if the process is out of descriptors.
pub fn take() -> io::Result<(TakenInput, TakenOutput)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if simulation::is_on() {
        let text = "the standard streams are outside of the simulation";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        let text = "standard input and output are taken already";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let taken = try_take();
    TAKEN.store(taken.is_ok(), Ordering::SeqCst);
    taken
}

fn try_take() -> io::Result<(TakenInput, TakenOutput)> {
    // What was printed before belongs to whoever reads standard output now.
    flush_buffers();
    let nothing = std::fs::File::open("/dev/null")?;
    let duplicate = |number| {
        // SAFETY: the standard library opens these before `main` and leaves them to the process.
        let fd = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
        Ok::<_, io::Error>(Standard {
            is_file: sys::is_regular_file(number),
            descriptor: Descriptor::from(fd),
        })
    };
    let (input, output) = (duplicate(0)?, duplicate(1)?);
    // SAFETY: all four descriptors are open; `dup2` replaces the second one atomically.
    unsafe {
        libc::dup2(nothing.as_raw_fd(), 0);
        libc::dup2(2, 1);
    }
    Ok((TakenInput(input), TakenOutput(output)))
}

/// Standard input, [taken](take) from the rest of the process. Reading parks the calling fiber.
pub struct TakenInput(Standard);

/// Standard output, [taken](take) from the rest of the process. Writing parks the calling fiber. Not buffered.
pub struct TakenOutput(Standard);

impl Read for TakenInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for TakenOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes, "write to the taken standard output")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TakenInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TakenInput").finish()
    }
}

impl fmt::Debug for TakenOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TakenOutput").finish()
    }
}

impl Standard {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        const REASON: &str = "read from standard input";
        let fd = self.descriptor.raw();
        match caller()? {
            Caller::Thread => sys::read(fd, buffer),
            _ if self.is_file => {
                offload_transfer(REASON, fd, libc::POLLIN, || sys::read(fd, buffer))
            }
            Caller::Uring(_) => self.descriptor.read(buffer, REASON),
            other => {
                check_not_stopped(REASON)?;
                self.descriptor
                    .when_ready(&other, Direction::Read, REASON, || {
                        sys::check_ready(fd, libc::POLLIN)?;
                        sys::read(fd, buffer)
                    })
            }
        }
    }

    fn write(&self, bytes: &[u8], reason: &'static str) -> io::Result<usize> {
        let fd = self.descriptor.raw();
        match caller()? {
            Caller::Thread => sys::write(fd, bytes),
            _ if self.is_file => {
                offload_transfer(reason, fd, libc::POLLOUT, || sys::write(fd, bytes))
            }
            Caller::Uring(_) => self.descriptor.write(bytes, reason),
            other => {
                check_not_stopped(reason)?;
                let prefix = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
                self.descriptor
                    .when_ready(&other, Direction::Write, reason, || {
                        sys::check_ready(fd, libc::POLLOUT)?;
                        sys::write(fd, prefix)
                    })
            }
        }
    }
}

macro_rules! standard_stream {
    ($(#[$doc:meta])* $stream:ident, $function:ident, $number:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $stream(());

        $(#[$doc])*
        pub fn $function() -> $stream {
            $stream(())
        }

        impl AsFd for $stream {
            fn as_fd(&self) -> BorrowedFd<'_> {
                standard($number).descriptor.as_fd()
            }
        }

        impl AsRawFd for $stream {
            fn as_raw_fd(&self) -> RawFd {
                $number
            }
        }
    };
}

macro_rules! writes {
    ($($stream:ty, $number:expr, $reason:expr;)+) => {$(
        impl Write for $stream {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                standard($number).write(bytes, $reason)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    )+};
}

standard_stream! {
    /// The process's standard input; reading parks the calling fiber.
    ///
    /// ```no_run
    /// use std::io::{BufRead, BufReader};
    ///
    /// yue_io::run(|| -> std::io::Result<()> {
    ///     for line in BufReader::new(yue_io::stdio::stdin()).lines() {
    ///         println!("{} characters", line?.chars().count());
    ///     }
    ///     Ok(())
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    Stdin, stdin, 0
}
standard_stream! {
    /// The process's standard output; writing parks the calling fiber. Not buffered.
    Stdout, stdout, 1
}
standard_stream! {
    /// The process's standard error; writing parks the calling fiber. Not buffered.
    Stderr, stderr, 2
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        standard(0).read(buffer)
    }
}

impl Read for &Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        standard(0).read(buffer)
    }
}

impl Stdin {
    /// Waits until a read would not wait: there is input, or input has ended. Takes nothing.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn readable(&self) -> io::Result<()> {
        standard(0).descriptor.wait_ready(Direction::Read)
    }

    /// `readable` as a branch of `select!`, written `readable(…)` there.
    ///
    /// ```
    /// use std::time::Duration;
    /// use yue_io::stdio::stdin;
    ///
    /// yue_io::run(|| {
    ///     let input = stdin();
    ///     let what = yue_scheduler::select! {
    ///         _ = readable(input) => "input",
    ///         _ = after(Duration::from_millis(1)) => "no input",
    ///     };
    ///     println!("{}", what.unwrap());
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn readable_branch(&self) -> ReadinessBranch<'static> {
        standard(0).descriptor.ready_branch(Direction::Read)
    }
}

writes! {
    Stdout, 1, "write to standard output";
    &Stdout, 1, "write to standard output";
    Stderr, 2, "write to standard error";
    &Stderr, 2, "write to standard error";
}
