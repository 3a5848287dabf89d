//! The observable side of a tick: the heartbeat, the published counters, and run times when timing is on.
//!
//! While timing is on, a tick runs its fibers in a separate function, so that the usual one pays nothing for it.

use super::shared::Shared;
use super::state::Inner;
use super::vitals::{Counted, Vitals};
use crate::fiber::{FiberId, Header};
use crate::time::wheel::Node;
use crate::time::{Clock, Instant, TickTime};
use std::time::Duration;

/// The interval at which the pool of stacks is trimmed. A stack that was unused for that long returns its memory.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// The pause before the next round, when there is more to return than one round does.
const TRIM_AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Inner {
    #[cold]
    pub(super) fn trim_stacks(&self) {
        let pause = if self.stacks.trim_unused() {
            TRIM_AGAIN_AFTER
        } else {
            TRIM_INTERVAL
        };
        self.trim_at.set(self.clock.read().saturating_add(pause));
    }

    /// The time at which an idle loop should wake up to trim its stacks. Virtual time stands still meanwhile, so with a
    /// manual clock it never does.
    pub(super) fn next_trimming(&self) -> Instant {
        if matches!(self.clock, Clock::System) && self.stacks.needs_trimming() {
            self.trim_at.get()
        } else {
            Instant::NEVER
        }
    }

    fn vitals(&self) -> &Vitals {
        Shared::vitals(&self.inbox.shared)
    }

    /// Marks the beginning of work in the heartbeat: from here on the loop is expected to make progress.
    #[inline]
    pub(super) fn begin_work(&self) {
        self.vitals().beat(self.ticks.get(), true);
    }

    /// Marks the end of work in the heartbeat: the loop waits, or is left.
    #[inline]
    pub(super) fn end_work(&self) {
        self.vitals().beat(self.ticks.get(), false);
    }

    /// Makes the beginning of the tick visible to other threads. Virtual time would tell them nothing.
    #[inline]
    pub(super) fn publish_clock(&self, now: TickTime) {
        if matches!(self.clock, Clock::System) {
            self.vitals().read_clock(self.ticks.get(), now);
        }
    }

    /// Makes the counters visible to other threads.
    pub(super) fn publish(&self) {
        let (stacks_small, stacks_deep) = self.stacks.counted();
        self.vitals().publish(&Counted {
            live: self.slab.live() as u64,
            parked: self.parked.get() as u64,
            timers: self.wheel.armed() as u64,
            operations: self.driver.in_flight() as u64,
            spawned: self.spawned.get(),
            panics: self.panics.get(),
            ticks: self.ticks.get(),
            switches: self.switches.get(),
            wakes_local: self.wakes_local.get(),
            wakes_remote: self.wakes_remote.get(),
            messages: self.messages.get(),
            stacks_small,
            stacks_deep,
        });
    }

    /// Like [`Inner::fire`], but also records how late the timer is.
    pub(super) fn fire_late(&self, node: *const Node) {
        // SAFETY: as in `fire`.
        let at = unsafe { (*node).at() };
        let lateness = self.tick_time().past(at);
        self.vitals().timer_lateness.record(lateness);
        self.fire(node);
    }

    /// Like [`Inner::run_fibers`], but also records how long each fiber waited for its turn, and how long it ran.
    pub(super) fn run_fibers_timed(&self, start: TickTime) {
        if !self.queue.is_empty() {
            self.idle_since.set(None);
        }
        let mut began = self.clock.read();
        for count in 1..=self.fibers_per_tick {
            let Some(header) = self.next_fiber() else {
                break;
            };
            let waited = TickTime::new(began).since(header.since.get());
            self.vitals().run_latency.record(waited);
            let fiber = header.id(self.id());
            self.switches.set(self.switches.get() + 1);
            self.resume(header);
            let ended = self.clock.read();
            self.add_run_time(fiber, ended.saturating_since(began));
            self.start_turn(header, fiber, TickTime::new(ended));
            began = ended;
            if self.check_between_fibers(count, start) {
                break;
            }
        }
    }

    /// Starts the wait for the next turn of a fiber that yielded.
    fn start_turn(&self, header: &Header, fiber: FiberId, now: TickTime) {
        if header.id(self.id()) == fiber && header.state.get() == crate::fiber::State::Ready {
            header.since.set(now);
        }
    }

    fn add_run_time(&self, fiber: FiberId, ran: Duration) {
        let mut times = self.run_times.borrow_mut();
        let index = fiber.index as usize;
        if times.len() <= index {
            times.resize(index + 1, (0, 0));
        }
        let (generation, ns) = &mut times[index];
        if *generation != fiber.generation {
            (*generation, *ns) = (fiber.generation, 0);
        }
        *ns += ran.as_nanos() as u64;
    }

    /// Returns how long a fiber ran while timing was on, if it did.
    pub(crate) fn run_time(&self, fiber: FiberId) -> Option<Duration> {
        let times = self.run_times.borrow();
        let (generation, ns) = *times.get(fiber.index as usize)?;
        (generation == fiber.generation && ns > 0).then(|| Duration::from_nanos(ns))
    }

    pub(super) fn record_tick(&self, start: TickTime) {
        let took = TickTime::new(self.clock.read()).since(start);
        self.vitals().tick_duration.record(took);
    }
}
