//! Shutdown of a loop: every fiber gets time to end by itself; none is torn down from outside.
//!
//! 1. Cancel all fibers and wait for the grace period. Shielded clean-up continues.
//! 2. Hard stop: remove shields, cancel operations in the kernel, and wait once more.
//! 3. Abandon the fibers that remain. Their stacks may hold buffers that the kernel uses, or frames of foreign code, so
//!    such a fiber is neither unwound nor unmapped. It is named, counted and leaked, with its fiber-locals. If it lent
//!    memory of the thread itself, the thread cannot end yet (see `loans.rs`).

use super::loop_end::wake_waiting_for;
use super::run::Loop;
use super::state::{Entered, Inner};
use super::timer::Due;
use super::{loans, registry};
use crate::driver::SleepDriver;
use crate::fiber::{Header, State, cancel_header, guarded, origin_of};
use crate::time::Instant;
use crate::time::wheel::Owner;
use std::cell::Cell;
use std::mem;
use std::time::Duration;

/// The time that a stopping loop waits in its driver before it reads the clock again.
const STOP_PAUSE: Duration = Duration::from_millis(10);

/// Fibers and operations that a loop left behind at shutdown. All zero for a program whose fibers cooperate.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, StopReport, sleep, spawn};
///
/// let (answer, report) = Loop::new(Config::default()).unwrap().run_reported(|| {
///     spawn(|| sleep(Duration::from_secs(3600))); // cancelled at the end, and ends
///     42
/// });
/// assert_eq!((answer, report), (42, StopReport::default()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StopReport {
    /// Fibers that ignored the hard stop; their stacks and fiber-locals are leaked.
    pub fibers_abandoned: usize,
    /// Operations that the kernel had not completed.
    pub operations_left: usize,
}

impl Inner {
    pub(super) fn stop(&self) -> StopReport {
        self.stopping.set(true);
        // No more work from the group; what is queued there is for the other loops.
        drop(self.inbox.group.take());
        self.begin_shutdown();
        self.grace_ends.set(Instant::NEVER);
        self.cancel_all();
        self.tick_while(|| self.slab.live() > 0);
        if self.slab.live() > 0 || self.driver.in_flight() > 0 {
            self.hard_stop.set(true);
            self.cancel_all();
            let next = Cell::new(Instant::system());
            self.tick_while(|| {
                // Repeatedly, because a fiber that ends may begin new operations.
                if Instant::system() >= next.get() {
                    self.driver.cancel_all();
                    next.set(Instant::system().saturating_add(STOP_PAUSE));
                }
                self.slab.live() > 0 || self.driver.in_flight() > 0
            });
        }
        StopReport {
            fibers_abandoned: self.abandon_rest(),
            operations_left: self.driver.in_flight(),
        }
    }

    fn cancel_all(&self) {
        self.slab.for_each(|header| cancel_header(self, header));
    }

    fn tick_while(&self, unfinished: impl Fn() -> bool) {
        // The system's clock: a virtual clock stands still while nobody moves it.
        let until = Instant::system().saturating_add(self.stop_grace);
        while unfinished() && Instant::system() < until {
            let pause = Instant::system().saturating_add(STOP_PAUSE).min(until);
            if self.tick(Some(pause)).is_err() {
                return;
            }
        }
    }

    fn abandon_rest(&self) -> usize {
        // From here on no fiber can be spawned, so one pass reaches them all.
        self.ended.set(true);
        let mut abandoned = 0;
        self.slab.for_each(|header| {
            if !header.switch.started() {
                // SAFETY: the fiber never ran; dropping its closure is all there is to undo.
                if let Some(stack) = unsafe { header.switch.discard() } {
                    self.stacks.give_back(stack);
                }
                self.retire(header);
            } else if header.state.get() != State::Abandoned {
                self.abandon(header);
                abandoned += 1;
            }
        });
        // The queue never runs again, and some headers in it are already free.
        self.queue.clear();
        abandoned
    }

    fn abandon(&self, header: &Header) {
        let origin = origin_of(header).map_or(String::new(), |origin| format!(" to run {origin}"));
        header.with_name(|name| {
            crate::log(crate::LogLevel::Warn, format_args!(
                "fiber {} '{}' (spawned at {}{origin}) ignored the shutdown, last waiting for: {}; it is abandoned",
                header.id(self.id()),
                name.unwrap_or("unnamed"),
                header.location.get(),
                header.reason.get().text(),
            ));
        });
        self.wheel.cancel(&header.timer);
        self.leave_parked(header);
        header.state.set(State::Abandoned);
        header.switch.abandon();
        let mut extra = header.extra.take();
        let callback = extra.as_mut().and_then(|extra| extra.on_abandon.take());
        header.extra.set(extra);
        let context = header.context.replace(None);
        guarded("dropping a fiber's context", || drop(context));
        if let Some(callback) = callback {
            guarded("a callback for the end of an abandoned fiber", callback);
        }
    }

    /// Drops the program's callbacks and messages while the loop is still the thread's current one.
    fn drop_callbacks(&self) {
        while let Some(message) = self.inbox.pop() {
            guarded("dropping a message", || drop(message));
        }
        guarded("dropping late messages", || self.inbox.close());
        let hook = self.idle_hook.take();
        guarded("dropping the idle hook", || drop(hook));
        for callback in self.at_tick_end.take() {
            guarded("dropping an end-of-tick callback", || drop(callback));
        }
        self.wheel.drain(|node| {
            // SAFETY: the wheel has just removed the node, and it is alive by the contract of `arm`.
            if unsafe { (*node).owner() } == Owner::Bare {
                // SAFETY: as above; a bare node is a timer's.
                let timer = unsafe { Due::from_wheel(node) };
                guarded("dropping a timer's callback", || drop(timer));
            }
        });
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Even inside a fiber of another loop: what is dropped here belongs to this one.
        let entered = Entered::nested(&self.inner);
        // A stopped loop has no fibers left. A loop that never ran, or only ticked, may have some.
        self.inner.abandon_rest();
        drop(self.inner.inbox.group.take());
        registry::withdraw(self.inner.id());
        wake_waiting_for(self.inner.id());
        self.inner.drop_callbacks();
        yue_queue::flush();
        drop(entered);
        // Before everything else of the loop: the kernel must have finished with it first.
        let driver = mem::replace(&mut self.inner.driver, Box::new(SleepDriver::new()));
        if self.inner.slab.live() > 0 {
            let shared = self.inner.inbox.shared.clone();
            loans::hold_thread_end(driver, shared, self.inner.stop_grace);
        }
    }
}
