//! Readiness: waits until a descriptor is readable or writable without reading or writing, alone or in a select.
//!
//! Invariants:
//! - Only the kernel is asked (`poll(2)` without waiting). So a branch that was taken was ready during that call.
//!   Nothing is taken from the descriptor: a waiter that leaves leaves all bytes where they were. A descriptor may also
//!   have a [`ReadySource`] outside the kernel: what it holds counts as well.
//! - Between two polls a [`KernelWait`] is registered: on io_uring a poll in the ring, which checks the descriptor when
//!   it is submitted; on mio an entry in the list of its edge-triggered registration. Both begin after the kernel has
//!   answered "not ready" and before the next turn, so no change is missed. An event only means "poll again".
//! - That wait ends with the round of the select that began it. Later completions of the ring are ignored. Closing the
//!   descriptor waits for them, because the kernel holds the file until then (see `uring/polls.rs`).
//! - A descriptor is borrowed for the wait, so it cannot be closed meanwhile. The wait belongs to the loop of the
//!   waiting fiber, whichever other loops use the descriptor.

use crate::descriptor::Descriptor;
use crate::driver::{Backend, backend};
use crate::identity::Direction;
use crate::sys;
use crate::{mio, uring};
use std::fmt;
use std::io;
use std::rc::Rc;
use yue_scheduler::sync::select::{Readiness, Ready, Signal, ready};
use yue_scheduler::{LocalWaker, RemoteWaker};

/// Readiness as a branch of `select!`. The methods `readable_branch` and `writable_branch` of sockets, listeners and
/// pipes make one; in the macro, write `readable(…)` and `writable(…)`.
///
/// ```
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use yue_io::ReadinessBranch;
/// use yue_io::net::UnixStream;
/// use yue_scheduler::sync::select::{self, Branch};
///
/// yue_io::run(|| -> std::io::Result<()> {
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
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub type ReadinessBranch<'a> = Ready<DescriptorReadiness<'a>>;

/// The readable or writable state of a descriptor; inside a [`ReadinessBranch`].
pub struct DescriptorReadiness<'a> {
    descriptor: &'a Descriptor,
    direction: Direction,
    source: Option<&'a dyn ReadySource>,
    kernel_wait: Option<KernelWait>,
    source_wait: Option<SourceWait<'a>>,
    /// The error of a wait that could not start; the next poll returns it.
    failed: Option<io::Error>,
}

/// Something outside the kernel that makes a descriptor ready, such as a queue of connections accepted in advance.
pub(crate) trait ReadySource {
    fn is_ready(&self) -> bool;

    /// Registers `waker` to be woken when the source may be ready. Returns a ticket for [`ReadySource::remove_waiter`],
    /// or `None` if the source is ready already.
    fn add_waiter(&self, waker: RemoteWaker) -> Option<u64>;

    fn remove_waiter(&self, ticket: u64);
}

/// A waiter of a [`ReadySource`]. It leaves the source when dropped.
struct SourceWait<'a> {
    source: &'a dyn ReadySource,
    ticket: u64,
}

impl Drop for SourceWait<'_> {
    fn drop(&mut self) {
        self.source.remove_waiter(self.ticket);
    }
}

/// A registration with the kernel, through the loop's driver. It ends when dropped.
pub(crate) enum KernelWait {
    Uring(Rc<uring::Poll>),
    Mio(#[allow(dead_code)] mio::EventWait),
}

impl Descriptor {
    /// Waits until the descriptor is ready, or broken.
    pub(crate) fn wait_ready(&self, direction: Direction) -> io::Result<()> {
        let (reason, limit) = match direction {
            Direction::Read => ("wait until readable", &self.read_limit),
            Direction::Write => ("wait until writable", &self.write_limit),
        };
        limit.enforce(|| {
            self.by_readiness(direction, reason, || {
                sys::check_ready(self.raw(), direction.poll_events())
            })
        })
    }

    /// Registers `waker` to be woken when the descriptor may be ready, until the result is dropped.
    pub(crate) fn start_kernel_wait(
        &self,
        backend: &Backend,
        direction: Direction,
        waker: LocalWaker,
    ) -> io::Result<KernelWait> {
        Ok(match backend {
            Backend::Uring(core) => {
                let events = direction.poll_events();
                KernelWait::Uring(core.start_poll(self.identity(), events, waker))
            }
            Backend::Mio(core) => {
                KernelWait::Mio(core.add_waiter(self.identity(), direction, waker)?)
            }
        })
    }

    pub(crate) fn ready_branch(&self, direction: Direction) -> ReadinessBranch<'_> {
        self.ready_branch_with(direction, None)
    }

    /// Like [`Descriptor::ready_branch`]. What `source` holds makes the descriptor ready as well.
    pub(crate) fn ready_branch_with<'a>(
        &'a self,
        direction: Direction,
        source: Option<&'a dyn ReadySource>,
    ) -> ReadinessBranch<'a> {
        let readiness = DescriptorReadiness {
            descriptor: self,
            direction,
            source,
            kernel_wait: None,
            source_wait: None,
            failed: None,
        };
        ready(readiness).on_this_loop()
    }
}

impl KernelWait {
    /// Ends the wait. Returns the error if the kernel could not wait.
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
        if self.source.is_some_and(ReadySource::is_ready) {
            return Some(Ok(()));
        }
        match sys::check_ready(self.descriptor.raw(), self.direction.poll_events()) {
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
        if let Some(source) = self.source {
            let Some(ticket) = source.add_waiter(waker.remote()) else {
                // The source became ready since the last poll.
                return signal.raise();
            };
            self.source_wait = Some(SourceWait { source, ticket });
        }
        let begun = backend().and_then(|backend| {
            self.descriptor
                .start_kernel_wait(&backend, self.direction, waker)
        });
        match begun {
            Ok(wait) => self.kernel_wait = Some(wait),
            Err(error) => {
                self.failed = Some(error);
                signal.raise();
            }
        }
    }

    fn unwatch(&mut self) {
        self.source_wait = None;
        if let Some(mut wait) = self.kernel_wait.take() {
            self.failed = wait.end();
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

/// Implements waiting for one direction, for a type with its descriptor in the field `$field`.
macro_rules! waits_until {
    (readable, $type:ty, $field:ident, $when:literal) => {
        waits_until! {
            $type, $field, readable, readable_branch, Read,
            concat!("Waits until ", $when, ". Takes nothing."),
            "This holds for the moment: if several fibers read, another may be quicker.",
            "`readable` as a branch of `select!`, written `readable(…)` there."
        }
    };
    (writable, $type:ty, $field:ident, $when:literal) => {
        waits_until! {
            $type, $field, writable, writable_branch, Write,
            concat!("Waits until ", $when, ". Writes nothing."),
            "This holds for the moment, and for a small write: a large write may still wait.",
            "`writable` as a branch of `select!`, written `writable(…)` there."
        }
    };
    (
        $type:ty, $field:ident, $wait:ident, $branch:ident, $direction:ident,
        $what:expr, $holds:expr, $as_branch:expr
    ) => {
        impl $type {
            #[doc = $what]
            ///
            #[doc = $holds]
            ///
            /// # Errors
            /// The system's error; or when the fiber is cancelled or its deadline passes.
            pub fn $wait(&self) -> std::io::Result<()> {
                self.$field
                    .wait_ready(crate::identity::Direction::$direction)
            }

            #[doc = $as_branch]
            /// Ignores timeouts set on the descriptor. Only fibers can wait for it.
            pub fn $branch(&self) -> crate::readiness::ReadinessBranch<'_> {
                self.$field
                    .ready_branch(crate::identity::Direction::$direction)
            }
        }
    };
}

pub(crate) use waits_until;
