//! What a loop asks of I/O, and the driver that has none.
//!
//! A loop calls [`Driver::turn`] once a tick, on its own thread, outside any fiber. Completions that the turn finds
//! wake fibers through their [`LocalWaker`](crate::LocalWaker)s; a turn never runs a fiber itself. Other threads reach
//! a sleeping loop through its [`Bell`]; the loop's sleep flag sees to it that the bell is rung only if the loop is
//! asleep or about to be, and once a sleep.

use crate::Instant;
use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

/// How long a [`Driver::turn`] may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: fibers can run.
    Poll,
    /// Until something completes, the bell rings, or the instant (if there is one) has come.
    Block(Option<Instant>),
}

/// The side of a loop that waits for the kernel.
pub trait Driver {
    /// Submits what is queued, blocks as `wait` allows, and wakes whoever an operation's end concerns.
    ///
    /// # Errors
    /// Only what leaves the driver unusable; the loop stops with it. Errors of an operation go to its fiber.
    fn turn(&self, wait: Wait) -> io::Result<()>;

    /// The bell that ends a blocking turn from any thread. A ring before the turn blocks is not lost.
    fn bell(&self) -> Arc<dyn Bell>;

    /// Operations whose terminal completion is still to come.
    fn in_flight(&self) -> usize;

    /// Asks the kernel to cancel every operation in flight. Their terminal completions still come, through `turn`.
    fn cancel_all(&self);

    /// A short name for logs: `uring`, `mio`, `sleep`.
    fn name(&self) -> &'static str;

    /// For the crate that owns the concrete type.
    fn as_any(&self) -> &dyn Any;
}

/// Ends a blocking turn of one driver; usable from any thread, also after the loop is gone.
pub trait Bell: Send + Sync {
    /// Rings. Never blocks.
    fn ring(&self);
}

/// A driver without I/O: it only sleeps. The loop must run on the thread that made it.
pub struct SleepDriver {
    bell: Arc<ThreadBell>,
}

struct ThreadBell(Thread);

impl Bell for ThreadBell {
    fn ring(&self) {
        self.0.unpark();
    }
}

impl SleepDriver {
    /// A driver that parks the calling thread.
    pub fn new() -> Self {
        SleepDriver {
            bell: Arc::new(ThreadBell(thread::current())),
        }
    }
}

impl Default for SleepDriver {
    fn default() -> Self {
        SleepDriver::new()
    }
}

impl fmt::Debug for SleepDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SleepDriver").finish_non_exhaustive()
    }
}

impl Driver for SleepDriver {
    fn turn(&self, wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Poll => {}
            Wait::Block(None) => thread::park(),
            Wait::Block(Some(at)) => {
                let left = at.saturating_since(Instant::system());
                if left > Duration::ZERO {
                    thread::park_timeout(left);
                }
            }
        }
        Ok(())
    }

    fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn cancel_all(&self) {}

    fn name(&self) -> &'static str {
        "sleep"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
