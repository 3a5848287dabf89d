//! The end of a loop: every fiber gets the time to end by itself; none is torn down from outside.
//!
//! 1. Cancel all fibers; wait for the grace period. Shielded clean-up goes on meanwhile.
//! 2. Hard stop: shields end, operations in the kernel are cancelled; wait once more.
//! 3. A fiber that is still there is abandoned: its stack may hold frames of the kernel's or of Lua's, so it is neither
//!    unwound nor unmapped, but named, counted and leaked.

use super::{Inner, Loop, registry};
use crate::driver::Wait;
use crate::fiber::{Header, STARTED, State, cancel_header};
use crate::time::wheel::Owner;
use crate::time::{Instant, TimerEntry};
use std::time::Duration;

/// What a loop's shutdown had to leave behind; all zero for a program whose fibers co-operate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StopReport {
    /// Fibers that ignored the hard stop; their stacks are leaked.
    pub fibers_abandoned: usize,
    /// Operations that the kernel had not ended.
    pub operations_left: usize,
}

impl Inner {
    pub(super) fn stop(&self) -> StopReport {
        self.stopping.set(true);
        self.begin_shutdown();
        self.cancel_all();
        self.tick_while_live();
        if self.slab.live() > 0 || self.driver.in_flight() > 0 {
            self.hard_stop.set(true);
            self.cancel_all();
            self.driver.cancel_all();
            self.tick_while_live();
        }
        let report = StopReport {
            fibers_abandoned: self.abandon_rest(),
            operations_left: self.drain_driver(),
        };
        self.end_tick();
        report
    }

    fn cancel_all(&self) {
        self.slab.each(|header| cancel_header(self, header));
    }

    fn tick_while_live(&self) {
        // The system's clock: a virtual one stands still while nobody moves it.
        let until = Instant::system().saturating_add(self.stop_grace);
        while self.slab.live() > 0 && Instant::system() < until {
            let pause = Instant::system()
                .saturating_add(Duration::from_millis(20))
                .min(until);
            if self.tick(Some(pause)).is_err() {
                return;
            }
        }
    }

    fn drain_driver(&self) -> usize {
        let until = Instant::system().saturating_add(self.stop_grace);
        while self.driver.in_flight() > 0 && Instant::system() < until {
            self.driver.cancel_all();
            let pause = Instant::system().saturating_add(Duration::from_millis(5));
            if self.driver.turn(Wait::Block(Some(pause))).is_err() {
                break;
            }
        }
        self.driver.in_flight()
    }

    fn abandon_rest(&self) -> usize {
        // Whoever is in the run queue stays there; the queue is not run again.
        let mut abandoned = 0;
        self.slab.each(|header| {
            if header.has(STARTED) {
                self.abandon(header);
                abandoned += 1;
            } else {
                // SAFETY: the fiber never ran; dropping its closure is all there is to undo.
                if let Some(stack) = unsafe { header.switch.discard() } {
                    self.stacks.give_back(stack);
                }
                self.retire(header);
            }
        });
        abandoned
    }

    fn abandon(&self, header: &Header) {
        if header.state.get() == State::Abandoned {
            return;
        }
        header.with_name(|name| {
            eprintln!(
                "yue: fiber {} '{}' (spawned at {}) ignored the shutdown, last waiting for: {}; it is abandoned",
                header.id(),
                name.unwrap_or("unnamed"),
                header.location.get(),
                header.reason.get(),
            );
        });
        self.wheel.cancel(&header.timer);
        header.state.set(State::Abandoned);
        header.switch.abandon();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A loop that was stopped has nothing left here; one that was never run, or only ticked, is cleaned up.
        if self.inner.slab.live() > 0 {
            self.enter(|| self.inner.abandon_rest());
        }
        registry::withdraw(self.inner.id());
        self.inner.wheel.drain(|node| {
            // SAFETY: the wheel has just taken the node out, and it is alive by the contract of `arm`.
            if unsafe { (*node).owner() } == Owner::Bare {
                // SAFETY: as above; a bare node is a timer's.
                drop(unsafe { TimerEntry::from_wheel(node) });
            }
        });
        yue_queue::flush();
    }
}
