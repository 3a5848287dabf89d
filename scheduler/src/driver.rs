//! The interface between a loop and I/O, and a driver without I/O.
//!
//! A loop calls [`Driver::turn`] once a tick, on its own thread, outside any fiber. Completions that the turn finds
//! wake fibers through their [`LocalWaker`](crate::LocalWaker)s; a turn never runs a fiber itself. Other threads reach
//! a sleeping loop through its [`Bell`]. The loop's sleep flag ensures that they ring it only if the loop is asleep or
//! about to sleep, and once per sleep.

use crate::simulation;
use crate::time::Instant;
use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

/// The time that a [`Driver::turn`] may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Do not block: fibers can run.
    Poll,
    /// Block until something completes, the bell rings, or the instant (if any) is reached.
    Block(Option<Instant>),
}

/// The part of a loop that waits for the kernel.
///
/// ```
/// use std::{any::Any, cell::Cell, io, rc::Rc, sync::Arc};
/// use yue_scheduler::{Bell, Config, Driver, Loop, SleepDriver, Wait, yield_now};
///
/// /// Counts the turns of the driver inside it.
/// struct Counting { inner: SleepDriver, turns: Rc<Cell<u32>> }
///
/// impl Driver for Counting {
///     fn turn(&self, wait: Wait) -> io::Result<()> {
///         self.turns.set(self.turns.get() + 1);
///         self.inner.turn(wait)
///     }
///     fn bell(&self) -> Arc<dyn Bell> {
///         self.inner.bell()
///     }
///     fn in_flight(&self) -> usize {
///         self.inner.in_flight()
///     }
///     fn cancel_all(&self) {
///         self.inner.cancel_all();
///     }
///     fn name(&self) -> &'static str {
///         "counting"
///     }
///     fn as_any(&self) -> &dyn Any {
///         self
///     }
/// }
///
/// let turns = Rc::new(Cell::new(0));
/// let driver = Counting { inner: SleepDriver::new(), turns: turns.clone() };
/// let config = Config { driver: Box::new(driver), ..Config::default() };
/// Loop::new(config).unwrap().run(|| yue_scheduler::sleep(std::time::Duration::from_millis(1)).unwrap());
/// assert!(turns.get() > 0);
/// ```
pub trait Driver {
    /// Submits what is queued, blocks as `wait` allows, and wakes the fibers whose operations completed.
    ///
    /// # Errors
    /// Only if the driver has become unusable; the loop then stops. The error of an operation goes to its fiber.
    fn turn(&self, wait: Wait) -> io::Result<()>;

    /// The bell that ends a blocking turn from any thread. A ring before the turn blocks is not lost.
    fn bell(&self) -> Arc<dyn Bell>;

    /// Number of operations whose terminal completion has not arrived yet.
    fn in_flight(&self) -> usize;

    /// Number of those through which the kernel reads or writes memory that a waiting fiber lent. If a loop has
    /// abandoned such fibers, its thread does not end before these operations have completed.
    ///
    /// By default all operations in flight.
    fn lent(&self) -> usize {
        self.in_flight()
    }

    /// Asks the kernel to cancel every operation in flight. Their terminal completions still arrive, through `turn`.
    fn cancel_all(&self);

    /// A short name for logs: `uring`, `mio`, `sleep`.
    fn name(&self) -> &'static str;

    /// Lets the crate that owns the concrete type downcast to it.
    fn as_any(&self) -> &dyn Any;
}

/// Ends a blocking turn of one driver. Usable from any thread, even after the loop has ended.
pub trait Bell: Send + Sync {
    /// Rings the bell. Never blocks.
    fn ring(&self);
}

/// A driver without I/O: it only sleeps. The loop must run on the thread that created the driver. In a
/// [simulation](crate::simulation) it sleeps in virtual time.
pub struct SleepDriver {
    sleeper: Sleeper,
}

enum Sleeper {
    Thread(Arc<ThreadBell>),
    Simulated(simulation::Bell),
}

struct ThreadBell(Thread);

impl Bell for ThreadBell {
    fn ring(&self) {
        self.0.unpark();
    }
}

impl SleepDriver {
    /// Creates a driver that parks the calling thread.
    pub fn new() -> Self {
        let sleeper = match simulation::is_on() {
            true => Sleeper::Simulated(simulation::Bell::new()),
            false => Sleeper::Thread(Arc::new(ThreadBell(thread::current()))),
        };
        SleepDriver { sleeper }
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
        if let Sleeper::Simulated(bell) = &self.sleeper {
            return simulation::turn(bell, wait);
        }
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
        match &self.sleeper {
            Sleeper::Thread(bell) => bell.clone(),
            Sleeper::Simulated(bell) => Arc::new(bell.clone()),
        }
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
