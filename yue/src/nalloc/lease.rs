//! The lease of a node on another machine, where the end of a connection proves nothing.
//!
//! ```text
//!   node    sends renew at t1, may live until t1 + lease          by its own clock
//!   owner   answers at t2, believes it alive until t2 + lease + 1 % by its own clock
//! ```
//!
//! The request is sent before it is answered, so the node is dead before its owner believes so, whatever the network
//! delays. Only the rates of the two clocks matter; the owner's hundredth covers their difference. Both clocks run
//! while the machine is suspended.
//!
//! Invariant of the owner: no other node of the allocation starts before [`OwnerLease::dead_at`], unless the node's end
//! is proven.

use std::cell::Cell;
use std::time::Duration;
use yue_scheduler::simulation;

/// The share of a lease by which two clocks may differ in it.
const CLOCK_DIFFERENCE: u32 = 100;

/// A node renews so many times in a lease.
pub(crate) const RENEWALS: u32 = 4;

/// The time of a clock that also runs while the machine is suspended, from an unspecified start.
pub(crate) fn clock() -> Duration {
    if simulation::is_on() {
        return Duration::from_nanos(yue_scheduler::now().as_nanos());
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the buffer outlives the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The owner's side of a lease.
pub(crate) struct OwnerLease {
    lease: Duration,
    /// The time at which the node is certainly dead, by [`clock`]; `None` if it has none, or its end is proven.
    dead_at: Cell<Option<Duration>>,
}

impl OwnerLease {
    pub(crate) fn new(lease: Duration) -> OwnerLease {
        OwnerLease {
            lease,
            dead_at: Cell::new(None),
        }
    }

    /// The owner answers a renewal now.
    pub(crate) fn renew(&self) {
        let margin = self.lease / CLOCK_DIFFERENCE;
        self.dead_at
            .set(Some(clock().saturating_add(self.lease + margin)));
    }

    /// The node's end is proven.
    pub(crate) fn end(&self) {
        self.dead_at.set(None);
    }

    /// The time at which the node is certainly dead; `None` if it is now.
    pub(crate) fn dead_at(&self) -> Option<Duration> {
        self.dead_at.get().filter(|at| *at > clock())
    }

    /// Whether a lease has run out without a proof of the node's end.
    pub(crate) fn has_run_out(&self) -> bool {
        self.dead_at.get().is_some_and(|at| at <= clock())
    }
}
