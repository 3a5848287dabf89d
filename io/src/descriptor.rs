//! A descriptor, and the operations that every kind of descriptor has, on whichever driver the caller's loop has.
//!
//! Every operation borrows the descriptor and its memory until it is over: dropping one is a plain close. It may
//! be used from any loop, from several at once, and from threads without a loop, which it blocks.
//!
//! A descriptor's mode (blocking or not) belongs to the open file, which other handles, threads and processes may share
//! and may change at any time; so nothing is remembered about it here. io_uring waits by itself on a blocking one only;
//! on a non-blocking one it answers `EAGAIN`, and we poll and try again. What mio tries must not block: either the call
//! says so itself (`MSG_DONTWAIT`), or the mode is set before every try.

use crate::driver::{Backend, Here, backend_here, here};
use crate::errors::cannot_wait;
use crate::readiness::{Direction, Identity};
use crate::taken::Taken;
use crate::{sys, uring};
use io_uring::{opcode, squeue, types};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_scheduler::{
    deadline_after, in_fiber, is_cancelled, park, prepare_park, with_deadline, yield_if_allowed,
};

/// Says to io_uring: at the file's own position, or it has none.
const NO_OFFSET: u64 = u64::MAX;

/// A descriptor that its loops know by a number that is never reused.
#[derive(Debug)]
pub(crate) struct Descriptor {
    // Before `fd`: fields are dropped in order, and the loop must let go of the file first.
    known: Known,
    fd: OwnedFd,
    /// A listener's connections that were taken from the system before somebody asked for them.
    pub(crate) ahead: Option<Arc<Taken>>,
    pub(crate) read_limit: Limit,
    pub(crate) write_limit: Limit,
}

/// The name under which this thread's loop may know the descriptor. Dropped, it is forgotten there.
#[derive(Debug)]
struct Known(Identity);

impl Drop for Known {
    fn drop(&mut self) {
        match backend_here() {
            Some(Backend::Mio(core)) => core.forget(self.0),
            Some(Backend::Uring(core)) => core.settle(self.0.id),
            None => {}
        }
    }
}

/// How long an operation may take, as `set_read_timeout` has it.
#[derive(Debug, Default)]
pub(crate) struct Limit(AtomicU64);

impl Limit {
    /// Relaxed here and below: the number stands alone; it pairs with nothing.
    pub(crate) fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Sets a limit, or takes it away.
    ///
    /// # Errors
    /// For a limit of zero, as the standard library has it.
    pub(crate) fn set(&self, limit: Option<Duration>) -> io::Result<()> {
        let nanos = match limit {
            None => 0,
            Some(Duration::ZERO) => {
                let text = "a timeout of zero is none; use None to wait without an end";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Some(limit) => u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
        };
        self.0.store(nanos, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `call` under the limit. Not by `timeout`, which would drop bytes that came at the last moment.
    #[inline]
    pub(crate) fn enforce<T>(&self, call: impl FnOnce() -> T) -> T {
        match self.get() {
            Some(limit) if in_fiber() => with_deadline(deadline_after(limit), call),
            _ => call(),
        }
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only the numbers' being different matters; it pairs with nothing.
        let identity = Identity {
            fd: fd.as_raw_fd(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        };
        Descriptor {
            known: Known(identity),
            fd,
            ahead: None,
            read_limit: Limit::default(),
            write_limit: Limit::default(),
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An operation's turn, unless its fiber has been told to stop: it does not begin another then.
#[inline]
pub(crate) fn not_stopped(reason: &'static str) -> io::Result<()> {
    if is_cancelled() {
        prepare_park();
        park(reason)?;
    }
    Ok(())
}

/// Lets the other fibers run first, if this one's loop has tried many system calls since its last turn: a fiber whose
/// calls all succeed at once would never park.
#[inline]
pub(crate) fn let_others_run(here: &Here) -> io::Result<()> {
    let had_its_share = match here {
        Here::Mio(core) => core.had_its_share(),
        Here::Uring(core) => core.had_its_share(),
        Here::Thread | Here::Callback | Here::Unwinding => false,
    };
    if had_its_share {
        // Where the fiber may not be suspended, the call is made without it: as a rule it need not wait.
        yield_if_allowed()?;
    }
    Ok(())
}

impl Descriptor {
    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.known.0
    }

    /// The descriptor, in blocking mode as the standard library expects it, and registered nowhere on this loop.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.set_blocking()?;
        if let Some(Backend::Mio(core)) = backend_here() {
            core.deregister(self.identity());
        }
        Ok(self.fd)
    }

    /// Sets the non-blocking mode, unless it is set already.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        sys::set_nonblocking(self.raw(), true)
    }

    /// Sets the blocking mode, on which the ring's multishot operations wait by themselves.
    pub(crate) fn set_blocking(&self) -> io::Result<()> {
        sys::set_nonblocking(self.raw(), false)
    }

    pub(crate) fn entry_fd(&self) -> types::Fd {
        types::Fd(self.raw())
    }

    /// Sees to it that a call which is tried does not block a loop. A thread without one may be blocked.
    fn set_mode_for(&self, here: &Here) -> io::Result<()> {
        match here {
            Here::Mio(_) | Here::Callback | Here::Unwinding => self.set_nonblocking(),
            Here::Uring(_) | Here::Thread => Ok(()),
        }
    }

    /// Tries `call`, and again whenever the descriptor is ready, until it says something else than WouldBlock.
    pub(crate) fn when_ready<T>(
        &self,
        here: &Here,
        direction: Direction,
        reason: &'static str,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let_others_run(here)?;
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.wait_until_ready(here, direction, reason)?;
        }
    }

    /// Waits until the descriptor may be ready. The caller's call has just said WouldBlock.
    pub(crate) fn wait_until_ready(
        &self,
        here: &Here,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        match here {
            Here::Callback => Err(io::ErrorKind::WouldBlock.into()),
            Here::Unwinding => Err(cannot_wait()),
            _ if self.ahead.is_some() => self.wait_for_connection(here, reason),
            Here::Thread => self.block_thread(direction),
            Here::Mio(core) => core.wait(self.identity(), direction, reason),
            Here::Uring(core) => self.poll_ring(core, direction, reason),
        }
    }

    /// As [`Descriptor::when_ready`], wherever the caller is: for what io_uring has no operation for.
    pub(crate) fn by_readiness<T>(
        &self,
        direction: Direction,
        reason: &'static str,
        call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        not_stopped(reason)?;
        self.when_ready(&here()?, direction, reason, call)
    }

    fn block_thread(&self, direction: Direction) -> io::Result<()> {
        let limit = match direction {
            Direction::Read => self.read_limit.get(),
            Direction::Write => self.write_limit.get(),
        };
        sys::block_until_ready(self.raw(), poll_events(direction), limit)
    }

    /// Waits for readiness through the ring.
    fn poll_ring(
        &self,
        core: &uring::Core,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        let entry = opcode::PollAdd::new(self.entry_fd(), poll_events(direction) as u32).build();
        // SAFETY: the entry points to no memory.
        unsafe { core.run(entry, reason) }.map(drop)
    }

    /// Does an operation through the ring; if the descriptor is non-blocking, polls and tries again.
    ///
    /// # Safety
    /// What the entries point to is valid for as long as this call runs.
    pub(crate) unsafe fn ring_operation(
        &self,
        core: &uring::Core,
        direction: Direction,
        reason: &'static str,
        mut entry: impl FnMut() -> squeue::Entry,
    ) -> io::Result<usize> {
        loop {
            // SAFETY: passed on to the caller.
            match unsafe { core.run(entry(), reason) } {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll_ring(core, direction, reason)?
                }
                other => return other.map(|count| count as usize),
            }
        }
    }

    /// Reads as `read(2)` does, from what is no socket and can be polled. On mio its open file becomes non-blocking.
    pub(crate) fn read(&self, buffer: &mut [u8], reason: &'static str) -> io::Result<usize> {
        not_stopped(reason)?;
        if buffer.is_empty() {
            return Ok(0);
        }
        match here()? {
            Here::Uring(core) => {
                let (start, length) = (buffer.as_mut_ptr(), clamp(buffer.len()));
                let entry = || {
                    let read = opcode::Read::new(self.entry_fd(), start, length);
                    read.offset(NO_OFFSET).build()
                };
                // SAFETY: `buffer` is borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Read, reason, entry) }
            }
            other => self.when_ready(&other, Direction::Read, reason, || {
                self.set_mode_for(&other)?;
                sys::read(self.raw(), buffer)
            }),
        }
    }

    /// Writes as `write(2)` does; as [`Descriptor::read`].
    pub(crate) fn write(&self, bytes: &[u8], reason: &'static str) -> io::Result<usize> {
        not_stopped(reason)?;
        match here()? {
            Here::Uring(core) => {
                let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
                let entry = || {
                    let write = opcode::Write::new(self.entry_fd(), start, length);
                    write.offset(NO_OFFSET).build()
                };
                // SAFETY: `bytes` is borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Write, reason, entry) }
            }
            other => self.when_ready(&other, Direction::Write, reason, || {
                self.set_mode_for(&other)?;
                sys::write(self.raw(), bytes)
            }),
        }
    }

    /// Reads into several buffers; as [`Descriptor::read`].
    pub(crate) fn read_vectored(
        &self,
        slices: &mut [IoSliceMut<'_>],
        reason: &'static str,
    ) -> io::Result<usize> {
        not_stopped(reason)?;
        match here()? {
            Here::Uring(core) => {
                // `IoSliceMut` is guaranteed to have the layout of `iovec`.
                let start = slices.as_mut_ptr().cast_const().cast::<libc::iovec>();
                let count = slices.len().min(sys::SLICES_MAX) as u32;
                let entry = || {
                    let read = opcode::Readv::new(self.entry_fd(), start, count);
                    read.offset(NO_OFFSET).build()
                };
                // SAFETY: the slices and what they name are borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Read, reason, entry) }
            }
            other => self.when_ready(&other, Direction::Read, reason, || {
                self.set_mode_for(&other)?;
                sys::read_vectored(self.raw(), slices)
            }),
        }
    }

    /// Writes several buffers; as [`Descriptor::read`].
    pub(crate) fn write_vectored(
        &self,
        slices: &[IoSlice<'_>],
        reason: &'static str,
    ) -> io::Result<usize> {
        not_stopped(reason)?;
        match here()? {
            Here::Uring(core) => {
                let start = slices.as_ptr().cast::<libc::iovec>();
                let count = slices.len().min(sys::SLICES_MAX) as u32;
                let entry = || {
                    let write = opcode::Writev::new(self.entry_fd(), start, count);
                    write.offset(NO_OFFSET).build()
                };
                // SAFETY: the slices and what they name are borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Write, reason, entry) }
            }
            other => self.when_ready(&other, Direction::Write, reason, || {
                self.set_mode_for(&other)?;
                sys::write_vectored(self.raw(), slices)
            }),
        }
    }
}

pub(crate) fn poll_events(direction: Direction) -> i16 {
    match direction {
        Direction::Read => libc::POLLIN,
        Direction::Write => libc::POLLOUT,
    }
}

/// The ring counts bytes in 32 bits, and answers in 31; what is more takes another call, as a short read would.
pub(crate) fn clamp(length: usize) -> u32 {
    length.min(1 << 30) as u32
}
