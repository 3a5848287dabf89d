//! A descriptor, and the operations common to every kind of descriptor, on either driver.
//!
//! Every operation borrows the descriptor and its memory until the operation has ended, so dropping a descriptor is a
//! plain close. A descriptor may be used from any loop, from several at once, and from threads without a loop, which
//! block.
//!
//! A descriptor's mode (blocking or not) belongs to the open file. Other handles, threads and processes may share that
//! file and change its mode at any time, so the mode is not cached here. io_uring waits by itself only on a blocking
//! descriptor; on a non-blocking one it returns `EAGAIN`, and we poll and retry. A call that mio tries must not block:
//! either the call itself asks for that (`MSG_DONTWAIT`), or the mode is set before every try.

use crate::driver::{Backend, Caller, backend_here, caller};
use crate::errors::cannot_wait;
use crate::identity::{Direction, Identity};
use crate::{simulated, sys, uring};
use io_uring::{opcode, squeue, types};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_scheduler::{
    deadline_after, in_fiber, is_cancelled, park, prepare_park, with_deadline, yield_if_allowed,
};

/// Tells io_uring to use the file's current position, or none if the file has no position.
const NO_OFFSET: u64 = u64::MAX;

/// An open descriptor, known to its loops by a number that is never reused.
#[derive(Debug)]
pub(crate) struct Descriptor {
    // Before `fd`: fields are dropped in order, and the loop must let go of the file first.
    known: Known,
    fd: OwnedFd,
    pub(crate) read_limit: Limit,
    pub(crate) write_limit: Limit,
}

/// The descriptor's registration with this thread's loop. Dropping it deregisters the descriptor there.
#[derive(Debug)]
struct Known(Identity);

impl Drop for Known {
    fn drop(&mut self) {
        if simulated::is_on() {
            simulated::close(self.0.fd);
        }
        match backend_here() {
            Some(Backend::Mio(core)) => core.forget(self.0),
            Some(Backend::Uring(core)) => core.await_polls(self.0.id),
            None => {}
        }
    }
}

/// The time limit of an operation, as set by `set_read_timeout`.
#[derive(Debug, Default)]
pub(crate) struct Limit(AtomicU64);

impl Limit {
    /// Returns the limit, if one is set. Relaxed here and below: the number stands alone and pairs with nothing.
    pub(crate) fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Sets or removes the limit.
    ///
    /// # Errors
    /// For a limit of zero, like the standard library.
    pub(crate) fn set(&self, limit: Option<Duration>) -> io::Result<()> {
        let nanos = match limit {
            None => 0,
            Some(Duration::ZERO) => {
                let text = "cannot set a timeout of zero; use None to wait without a limit";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Some(limit) => u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
        };
        self.0.store(nanos, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `call` under the limit. Does not use `timeout`, which would drop bytes that arrive at the last moment.
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
        // Relaxed: the numbers need only be distinct; it pairs with nothing.
        let identity = Identity {
            fd: fd.as_raw_fd(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        };
        Descriptor {
            known: Known(identity),
            fd,
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

/// Fails if the fiber has been stopped, so that it does not begin another operation.
#[inline]
pub(crate) fn check_not_stopped(reason: &'static str) -> io::Result<()> {
    if is_cancelled() {
        prepare_park();
        park(reason)?;
    }
    Ok(())
}

/// Yields to other fibers if this loop has tried many system calls since its last turn. Without it, a fiber whose calls
/// all succeed at once would never park.
#[inline]
pub(crate) fn yield_if_over_budget(caller: &Caller) -> io::Result<()> {
    let over_budget = match caller {
        Caller::Mio(core) => core.over_budget(),
        Caller::Uring(core) => core.over_budget(),
        Caller::Thread | Caller::Callback | Caller::Unwinding => false,
    };
    if over_budget {
        // A fiber that may not be suspended makes the call without yielding: the call rarely needs to wait.
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

    /// Returns the descriptor in blocking mode, as the standard library expects, deregistered from this loop.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        if simulated::is_on() {
            return Err(simulated::unsupported("taking a socket's descriptor"));
        }
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

    /// Ensures that a tried call does not block a loop. A thread without a loop may block.
    fn set_mode_for(&self, caller: &Caller) -> io::Result<()> {
        match caller {
            Caller::Mio(_) | Caller::Callback | Caller::Unwinding => self.set_nonblocking(),
            Caller::Uring(_) | Caller::Thread => Ok(()),
        }
    }

    /// Tries `call`, and retries it whenever the descriptor is ready, until it returns something other than
    /// `WouldBlock`.
    pub(crate) fn when_ready<T>(
        &self,
        caller: &Caller,
        direction: Direction,
        reason: &'static str,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        yield_if_over_budget(caller)?;
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.wait_until_ready(caller, direction, reason)?;
        }
    }

    /// Waits until the descriptor may be ready. The caller's call has just returned `WouldBlock`.
    pub(crate) fn wait_until_ready(
        &self,
        caller: &Caller,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        match caller {
            Caller::Callback => Err(io::ErrorKind::WouldBlock.into()),
            Caller::Unwinding => Err(cannot_wait()),
            Caller::Thread => self.block_thread(direction),
            Caller::Mio(core) => {
                let try_again = direction == Direction::Read
                    && core.met_urgent_data(self.identity())
                    && sys::has_input(self.raw());
                if try_again {
                    return yield_if_over_budget(caller);
                }
                core.park_until_ready(self.identity(), direction, reason)
            }
            Caller::Uring(core) => self.poll_ring(core, direction, reason),
        }
    }

    /// Like [`Descriptor::when_ready`], for any caller: for operations that io_uring does not support.
    pub(crate) fn by_readiness<T>(
        &self,
        direction: Direction,
        reason: &'static str,
        call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        check_not_stopped(reason)?;
        self.when_ready(&caller()?, direction, reason, call)
    }

    fn block_thread(&self, direction: Direction) -> io::Result<()> {
        let limit = match direction {
            Direction::Read => self.read_limit.get(),
            Direction::Write => self.write_limit.get(),
        };
        sys::block_until_ready(self.raw(), direction.poll_events(), limit)
    }

    /// Waits for readiness through the ring.
    fn poll_ring(
        &self,
        core: &uring::Core,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        let entry = opcode::PollAdd::new(self.entry_fd(), direction.poll_events() as u32).build();
        // SAFETY: the entry points to no memory.
        unsafe { core.run_operation(entry, reason) }.map(drop)
    }

    /// Performs an operation through the ring. If the descriptor is non-blocking, polls and retries.
    ///
    /// # Safety
    /// The memory that the entries point to stays valid for as long as this call runs.
    pub(crate) unsafe fn ring_operation(
        &self,
        core: &uring::Core,
        direction: Direction,
        reason: &'static str,
        mut entry: impl FnMut() -> squeue::Entry,
    ) -> io::Result<usize> {
        loop {
            // SAFETY: the caller upholds the contract.
            match unsafe { core.run_operation(entry(), reason) } {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll_ring(core, direction, reason)?
                }
                other => return other.map(|count| count as usize),
            }
        }
    }

    /// Transfers bytes in one direction: by the ring's `entry`, or by trying `call`. On mio the open file becomes
    /// non-blocking. For pollable descriptors other than sockets.
    ///
    /// # Safety
    /// The memory that the entries point to stays valid for as long as this call runs.
    unsafe fn transfer(
        &self,
        direction: Direction,
        reason: &'static str,
        entry: impl FnMut() -> squeue::Entry,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        check_not_stopped(reason)?;
        match caller()? {
            // SAFETY: the caller upholds the contract.
            Caller::Uring(core) => unsafe { self.ring_operation(&core, direction, reason, entry) },
            other => self.when_ready(&other, direction, reason, || {
                self.set_mode_for(&other)?;
                call()
            }),
        }
    }

    /// Reads like `read(2)`.
    pub(crate) fn read(&self, buffer: &mut [u8], reason: &'static str) -> io::Result<usize> {
        if buffer.is_empty() {
            return check_not_stopped(reason).map(|()| 0);
        }
        let (start, length) = (buffer.as_mut_ptr(), clamp(buffer.len()));
        let entry = || {
            let read = opcode::Read::new(self.entry_fd(), start, length);
            read.offset(NO_OFFSET).build()
        };
        let call = || sys::read(self.raw(), buffer);
        // SAFETY: `buffer` is borrowed until the call returns.
        unsafe { self.transfer(Direction::Read, reason, entry, call) }
    }

    /// Writes like `write(2)`.
    pub(crate) fn write(&self, bytes: &[u8], reason: &'static str) -> io::Result<usize> {
        let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
        let entry = || {
            let write = opcode::Write::new(self.entry_fd(), start, length);
            write.offset(NO_OFFSET).build()
        };
        let call = || sys::write(self.raw(), bytes);
        // SAFETY: `bytes` is borrowed until the call returns.
        unsafe { self.transfer(Direction::Write, reason, entry, call) }
    }

    /// Reads into several buffers.
    pub(crate) fn read_vectored(
        &self,
        slices: &mut [IoSliceMut<'_>],
        reason: &'static str,
    ) -> io::Result<usize> {
        // `IoSliceMut` is guaranteed to have the layout of `iovec`.
        let start = slices.as_mut_ptr().cast_const().cast::<libc::iovec>();
        let count = slices.len().min(sys::SLICES_MAX) as u32;
        let entry = || {
            let read = opcode::Readv::new(self.entry_fd(), start, count);
            read.offset(NO_OFFSET).build()
        };
        let call = || sys::read_vectored(self.raw(), slices);
        // SAFETY: the slices and their buffers are borrowed until the call returns.
        unsafe { self.transfer(Direction::Read, reason, entry, call) }
    }

    /// Writes several buffers.
    pub(crate) fn write_vectored(
        &self,
        slices: &[IoSlice<'_>],
        reason: &'static str,
    ) -> io::Result<usize> {
        // `IoSlice` is guaranteed to have the layout of `iovec`.
        let start = slices.as_ptr().cast::<libc::iovec>();
        let count = slices.len().min(sys::SLICES_MAX) as u32;
        let entry = || {
            let write = opcode::Writev::new(self.entry_fd(), start, count);
            write.offset(NO_OFFSET).build()
        };
        let call = || sys::write_vectored(self.raw(), slices);
        // SAFETY: the slices and their buffers are borrowed until the call returns.
        unsafe { self.transfer(Direction::Write, reason, entry, call) }
    }
}

/// Limits a length to what one ring operation can report: it takes 32 bits and returns 31. The rest takes another call,
/// as after a short read.
pub(crate) fn clamp(length: usize) -> u32 {
    length.min(1 << 30) as u32
}
