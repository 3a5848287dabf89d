//! Readiness: waits until a descriptor is readable or writable without reading or writing, alone or in a select.
//!
//! Invariants:
//! - Only the kernel is asked (`poll(2)` without waiting). So a branch that was taken was ready during that call.
//!   Nothing is taken from the descriptor: a waiter that leaves leaves all bytes where they were. The one exception is
//!   a listener: connections that it accepted in advance count as well.
//! - Between two polls something watches: on io_uring a poll in the ring, which checks the descriptor when it is
//!   submitted; on mio an entry in the list of its edge-triggered registration. Both begin after the kernel has
//!   answered "not ready" and before the next turn, so no change is missed. An event only means "poll again".
//! - A watch ends with the round of the select that began it. Later completions of the ring are ignored. Closing the
//!   descriptor waits for them, because the kernel holds the file until then (see `uring/polls.rs`).
//! - A descriptor is borrowed while it is watched, so it cannot be closed meanwhile. The watch belongs to the loop of
//!   the waiting fiber, whichever other loops use the descriptor.

use crate::accept_queue::QueueWait;
use crate::descriptor::{Descriptor, poll_events};
use crate::driver::{Backend, Caller, backend};
use crate::errors::cannot_wait;
use crate::mio::Direction;
use crate::sys;
use crate::uring::Poll;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use yue_scheduler::sync::select::{Readiness, Ready, Signal, ready};
use yue_scheduler::{LocalWaker, park, prepare_park};

/// Readiness as a branch of `select!`. The methods `readable_branch` and `writable_branch` of sockets, listeners and
/// pipes make one; in the macro, write `readable(…)` and `writable(…)`.
///
/// ```
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use yue::ReadinessBranch;
/// use yue::net::UnixStream;
/// use yue::scheduler::sync::select::{self, Branch};
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let pairs = [UnixStream::pair()?, UnixStream::pair()?];
///     (&pairs[1].0).write_all(b"here")?;
///     let branches: Vec<ReadinessBranch<'_>> =
///         pairs.iter().map(|(_, stream)| stream.readable_branch()).collect();
///     let first = select::wait(&[&branches[0], &branches[1], &select::after(Duration::from_secs(30))]);
///     assert_eq!(first, Ok(1));
///     branches[1].take().unwrap()?;
///     let mut bytes = [0; 4];
///     (&pairs[1].1).read_exact(&mut bytes)?;
///     assert_eq!(&bytes, b"here");
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub type ReadinessBranch<'a> = Ready<DescriptorReadiness<'a>>;

/// The readable or writable state of a descriptor; inside a [`ReadinessBranch`].
pub struct DescriptorReadiness<'a> {
    descriptor: &'a Descriptor,
    direction: Direction,
    watch: Option<KernelWait>,
    /// The registration with those who wait for a listener's accepted connections.
    ahead: Option<QueueWait<'a>>,
    /// The error of a watch that could not start; the next poll returns it.
    failed: Option<io::Error>,
}

enum KernelWait {
    Uring(Rc<Poll>),
    /// Ends the watch when dropped.
    Mio(#[allow(dead_code)] crate::mio::EventWait),
}

impl Descriptor {
    /// Waits until the descriptor is ready, or broken.
    pub(crate) fn wait_ready(&self, direction: Direction) -> io::Result<()> {
        let (reason, limit) = match direction {
            Direction::Read => ("wait until readable", &self.read_limit),
            Direction::Write => ("wait until writable", &self.write_limit),
        };
        limit.enforce(|| self.by_readiness(direction, reason, || self.check_ready(direction)))
    }

    /// Waits until a listener may have a connection: in the kernel, or among those that another fiber's operation has
    /// accepted.
    pub(crate) fn wait_for_connection(
        &self,
        caller: &Caller,
        reason: &'static str,
    ) -> io::Result<()> {
        let ahead = self.ahead.as_deref();
        let backend = match caller {
            Caller::Callback => return Err(io::ErrorKind::WouldBlock.into()),
            Caller::Unwinding => return Err(cannot_wait()),
            Caller::Thread => {
                let limit = self.read_limit.get();
                return ahead.map_or(Ok(()), |taken| taken.block_thread(&self.as_fd(), limit));
            }
            Caller::Uring(core) => Backend::Uring(core.clone()),
            Caller::Mio(core) => Backend::Mio(core.clone()),
        };
        let waker = prepare_park();
        let Some(_waiting) = ahead.and_then(|taken| taken.add_fiber(waker.remote())) else {
            return Ok(());
        };
        let _watch = self.start_kernel_wait(&backend, Direction::Read, waker)?;
        Ok(park(reason)?)
    }

    /// Registers `waker` to be woken when the descriptor may be ready, until the result is dropped.
    fn start_kernel_wait(
        &self,
        backend: &Backend,
        direction: Direction,
        waker: LocalWaker,
    ) -> io::Result<KernelWait> {
        Ok(match backend {
            Backend::Uring(core) => {
                let events = poll_events(direction);
                KernelWait::Uring(core.start_poll(self.identity(), events, waker))
            }
            Backend::Mio(core) => {
                KernelWait::Mio(core.add_waiter(self.identity(), direction, waker)?)
            }
        })
    }

    pub(crate) fn ready_branch(&self, direction: Direction) -> ReadinessBranch<'_> {
        let readiness = DescriptorReadiness {
            descriptor: self,
            direction,
            watch: None,
            ahead: None,
            failed: None,
        };
        ready(readiness).on_this_loop()
    }

    /// Returns `WouldBlock` if the descriptor is not ready now.
    fn check_ready(&self, direction: Direction) -> io::Result<()> {
        if direction == Direction::Read
            && self
                .ahead
                .as_ref()
                .is_some_and(|ahead| ahead.has_connection())
        {
            return Ok(());
        }
        sys::check_ready(self.raw(), poll_events(direction))
    }
}

impl KernelWait {
    /// Ends the watch. Returns the error if the kernel could not watch.
    fn end(&mut self) -> Option<io::Error> {
        match self {
            KernelWait::Uring(poll) => poll.end(),
            KernelWait::Mio(_) => None,
        }
    }
}

impl Drop for KernelWait {
    fn drop(&mut self) {
        // The next poll of the kernel meets the error again.
        let _ = self.end();
    }
}

impl Readiness for DescriptorReadiness<'_> {
    type Output = io::Result<()>;

    fn poll(&mut self) -> Option<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        match self.descriptor.check_ready(self.direction) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            answer => Some(answer),
        }
    }

    fn watch(&mut self, signal: Signal) {
        self.unwatch();
        let Some(waker) = signal.local_waker() else {
            self.failed = Some(io::ErrorKind::Unsupported.into());
            return signal.raise();
        };
        if let (Direction::Read, Some(ahead)) = (self.direction, &self.descriptor.ahead) {
            self.ahead = ahead.add_fiber(waker.remote());
            if self.ahead.is_none() {
                // A connection was accepted since the last poll.
                return signal.raise();
            }
        }
        let begun = backend().and_then(|backend| {
            self.descriptor
                .start_kernel_wait(&backend, self.direction, waker)
        });
        match begun {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => {
                self.failed = Some(error);
                signal.raise();
            }
        }
    }

    fn unwatch(&mut self) {
        self.ahead = None;
        if let Some(mut watch) = self.watch.take() {
            self.failed = watch.end();
        }
    }
}

impl Drop for DescriptorReadiness<'_> {
    fn drop(&mut self) {
        self.unwatch();
    }
}

impl fmt::Debug for DescriptorReadiness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DescriptorReadiness")
            .field("descriptor", self.descriptor)
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

/// Implements waiting for readability, for a type with its descriptor in the field `$field`.
macro_rules! readable {
    ($type:ty, $field:ident, $when:literal) => {
        impl $type {
            #[doc = concat!("Waits until ", $when, ". Takes nothing.")]
            ///
            /// This holds for the moment: if several fibers read, another may be quicker.
            ///
            /// # Errors
            /// The system's error; or when the fiber is cancelled or its deadline passes.
            pub fn readable(&self) -> std::io::Result<()> {
                self.$field.wait_ready(crate::mio::Direction::Read)
            }

            /// `readable` as a branch of `select!`, written `readable(…)` there. Ignores timeouts set on the
            /// descriptor. Only fibers can wait for it.
            pub fn readable_branch(&self) -> crate::ReadinessBranch<'_> {
                self.$field.ready_branch(crate::mio::Direction::Read)
            }
        }
    };
}

/// Implements waiting for writability.
macro_rules! writable {
    ($type:ty, $field:ident, $when:literal) => {
        impl $type {
            #[doc = concat!("Waits until ", $when, ". Writes nothing.")]
            ///
            /// This holds for the moment, and for a small write: a large write may still wait.
            ///
            /// # Errors
            /// The system's error; or when the fiber is cancelled or its deadline passes.
            pub fn writable(&self) -> std::io::Result<()> {
                self.$field.wait_ready(crate::mio::Direction::Write)
            }

            /// `writable` as a branch of `select!`, written `writable(…)` there. Ignores timeouts set on the
            /// descriptor. Only fibers can wait for it.
            pub fn writable_branch(&self) -> crate::ReadinessBranch<'_> {
                self.$field.ready_branch(crate::mio::Direction::Write)
            }
        }
    };
}

pub(crate) use {readable, writable};
