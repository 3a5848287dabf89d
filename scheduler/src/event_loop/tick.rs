//! One tick of a loop.

use super::config::Spin;
use super::shared::Message;
use super::state::Inner;
use super::tick_end::TickEnd;
use super::timer::Due;
use super::vitals::timing;
use crate::driver::Wait;
use crate::fiber::{Header, OnDrop, State, guarded, wake_in};
use crate::time::wheel::{Node, Owner};
use crate::time::{Instant, TickTime};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Messages that one tick takes from the inbox. The rest waits for the next tick, so that a flood of messages cannot
/// keep fibers and timers from running: see J. Mogul and K. Ramakrishnan, [Eliminating Receive Livelock in an
/// Interrupt-Driven Kernel](https://www.usenix.org/legacy/publications/library/proceedings/sd96/mogul.html).
const INBOX_PER_TICK: u32 = 1024;

/// The number of fibers between two readings of the clock, which keep the tick within its time.
const CHECK_CLOCK_EVERY: u32 = 64;

/// The number of fibers between two checks of the inbox; otherwise fibers that only yield could delay a caller on
/// another thread by a full tick. An empty check costs one load that hits the local cache.
const CHECK_INBOX_EVERY: u32 = 16;

/// Messages that each of these checks takes: no more than the fibers that ran since the last one.
const INBOX_PER_CHECK: u32 = CHECK_INBOX_EVERY;

/// The time that a tick runs fibers before it polls I/O and timers again.
const TICK_MAX: Duration = Duration::from_millis(1);

/// The lateness of a timer above which completions are processed first.
const LATE: Duration = Duration::from_millis(1);

/// The number of rounds of end-of-tick callbacks in one tick, when callbacks register callbacks.
const TICK_END_ROUNDS: u32 = 4;

/// The state that a tick leaves a loop in.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, Tick, sleep, spawn};
///
/// let l = Loop::new(Config::default()).unwrap();
/// assert_eq!(l.tick().unwrap(), Tick::Done);
/// let sleeper = l.enter(|| spawn(|| sleep(Duration::from_secs(3600))));
/// assert!(matches!(l.tick().unwrap(), Tick::IdleUntil(Some(_))));
/// l.enter(|| sleeper.cancel());
/// while l.tick().unwrap() != Tick::Done {}
/// assert!(sleeper.is_done());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// A fiber can run: tick again.
    Runnable,
    /// Nothing can run before the instant (if any), a completion, or a message from another thread. Such a message
    /// rings the driver's bell, as it does for a sleeping loop.
    IdleUntil(Option<Instant>),
    /// No fiber is left. A message from another thread may still start one.
    Done,
}

impl Inner {
    /// Runs one tick. With `block_until` it may block until that instant; with `None` it does not block.
    pub(super) fn tick(&self, block_until: Option<Instant>) -> io::Result<Tick> {
        assert!(
            !self.ticking.replace(true),
            "a loop cannot tick inside its own tick (from a fiber or a callback)"
        );
        debug_assert!(self.running().is_null(), "a tick begins between two fibers");
        // Also when a callback or the driver panics: the loop must not look busy to the watchdog forever.
        let _finished = OnDrop(|| {
            self.end_work();
            self.ticking.set(false);
        });
        self.ticks.set(self.ticks.get() + 1);
        self.begin_work();
        if self.sleep_flag_armed.replace(false) {
            self.inbox.disarm();
        }
        self.take_messages(INBOX_PER_TICK);
        // Even when the loop has enough to do: with all loops busy, the group's work would otherwise wait forever.
        self.take_work();
        let now = self.read_tick_time()?;
        // Timers before fibers: a fiber whose time limit has passed should see that in this tick.
        if timing() {
            self.wheel.advance(now, |node| self.fire_late(node));
            self.run_fibers_timed(now);
            self.end_tick();
            self.record_tick(now);
        } else {
            self.wheel.advance(now, |node| self.fire(node));
            self.run_fibers(now);
            self.end_tick();
        }
        if now.has_reached(self.trim_at.get()) {
            self.trim_stacks();
        }
        debug_assert!(
            self.running().is_null(),
            "a fiber is still running when its loop polls the driver"
        );
        self.publish();
        match block_until {
            // Checked after the end-of-tick callbacks, which may have made fibers ready.
            Some(limit) if !self.has_work() && self.may_wait() => self.idle(limit)?,
            _ => self.driver.turn(Wait::Poll)?,
        }
        Ok(
            if self.has_work() || (block_until.is_none() && !self.arm_sleep_flag()) {
                Tick::Runnable
            } else if self.slab.live() == 0 {
                Tick::Done
            } else {
                Tick::IdleUntil(self.wheel.next_deadline())
            },
        )
    }

    /// Reads the clock. If the loop is late for its timers, because a fiber computed for long or the process was
    /// stopped, it first takes the completions that have already arrived: a response that came in time must not lose to
    /// its own deadline.
    fn read_tick_time(&self) -> io::Result<TickTime> {
        let now = self.refresh_tick_time();
        self.publish_clock(now);
        let before = self.began.replace(now);
        if now.since(before) > LATE
            && let Some(due) = self.wheel.next_deadline()
            && now.past(due) > LATE
        {
            self.driver.turn(Wait::Poll)?;
            self.take_messages(INBOX_PER_TICK);
        }
        Ok(now)
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.at_tick_end.borrow().is_empty()
    }

    /// Returns whether there is anything to wait for.
    fn may_wait(&self) -> bool {
        !self.main_finished.get() && (self.slab.live() > 0 || self.driver.in_flight() > 0)
    }

    /// Arms the sleep flag, so that a message rings the bell. Returns whether no message has arrived already.
    fn arm_sleep_flag(&self) -> bool {
        self.sleep_flag_armed.set(self.inbox.arm());
        self.sleep_flag_armed.get()
    }

    pub(super) fn take_messages(&self, max: u32) {
        for _ in 0..max {
            let message = self.inbox.pop();
            self.messages
                .set(self.messages.get() + u64::from(message.is_some()));
            match message {
                None => break,
                Some(Message::Wake(waker)) => {
                    // `wake_in` counts a local wake-up. This one came from another thread, so the count is corrected.
                    let before = self.wakes_local.get();
                    if wake_in(self, waker) {
                        self.wakes_local.set(before);
                        self.wakes_remote.set(self.wakes_remote.get() + 1);
                    }
                }
                Some(Message::Run(work)) => guarded("a closure sent to the loop", work),
                Some(Message::Shutdown) => self.begin_shutdown(),
            }
            self.idle_since.set(None);
        }
    }

    pub(super) fn begin_shutdown(&self) {
        if !self.shutdown.replace(true)
            && let Some(grace) = self.grace
        {
            // The system's clock: a virtual clock stands still while nobody moves it.
            let ends = Instant::system().saturating_add(grace);
            self.grace_ends.set(ends);
        }
        self.shutdown_waiters.wake_all();
    }

    pub(super) fn fire(&self, node: *const Node) {
        // SAFETY: the wheel only returns nodes that were armed, which are alive by the contract of `Wheel::arm`.
        debug_assert!(!unsafe { (*node).is_armed() }, "a timer fires once");
        // SAFETY: as above.
        match unsafe { (*node).owner() } {
            Owner::Fiber => {
                // SAFETY: the node is the first field of a header, which is `repr(C)`.
                let header = unsafe { &*node.cast::<Header>() };
                debug_assert!(
                    matches!(header.state.get(), State::Parked | State::Ready),
                    "the timer of a running or ended fiber is armed"
                );
                // Ready: it was woken in this tick, and disarms its timer when it runs.
                if header.state.get() == State::Parked {
                    self.unpark(header);
                }
            }
            Owner::Bare => {
                // SAFETY: the wheel has just removed the node.
                let timer = unsafe { Due::from_wheel(node) };
                guarded("a timer's callback", move || timer.fire());
            }
        }
    }

    fn run_fibers(&self, start: TickTime) {
        if !self.queue.is_empty() {
            self.idle_since.set(None);
        }
        let mut count = 0;
        while count < self.fibers_per_tick
            && let Some(header) = self.next_fiber()
        {
            self.resume(header);
            count += 1;
            if self.check_between_fibers(count, start) {
                break;
            }
        }
        self.switches.set(self.switches.get() + u64::from(count));
    }

    /// Does the tick's checks between fibers, after `count` of them have run. Returns whether the tick's time is used
    /// up.
    #[inline]
    pub(super) fn check_between_fibers(&self, count: u32, start: TickTime) -> bool {
        if !count.is_multiple_of(CHECK_INBOX_EVERY) {
            return false;
        }
        if !self.inbox.is_empty() {
            self.take_messages(INBOX_PER_CHECK);
        }
        // The clock costs 17 ns, so it is read for every fourth of these checks only.
        count.is_multiple_of(CHECK_CLOCK_EVERY) && self.refresh_tick_time().since(start) > TICK_MAX
    }

    /// Returns the fiber that runs next. If the loop has none, it takes a piece of the group's work first.
    #[inline]
    pub(super) fn next_fiber(&self) -> Option<&Header> {
        match self.queue.pop() {
            Some(header) => Some(header),
            None if self.take_work() => self.queue.pop(),
            None => None,
        }
    }

    fn take_work(&self) -> bool {
        let taken = self.inbox.take_work();
        if taken {
            self.idle_since.set(None);
        }
        taken
    }

    #[inline]
    pub(super) fn resume(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Ready,
            "only a ready fiber is resumed"
        );
        debug_assert!(
            self.running.get().is_null(),
            "a fiber is resumed by the loop, not by a fiber"
        );
        self.running.set(header);
        header.state.set(State::Running);
        header.count_switch();
        #[cfg(feature = "tracing")]
        crate::fiber::spans::begin_turn();
        // SAFETY: a fiber in the run queue is prepared and has not ended, and we are on the loop's stack.
        let ended = unsafe { header.switch.resume() };
        debug_assert!(
            std::ptr::eq(self.running.get(), header),
            "the fiber that was resumed is the one that came back"
        );
        debug_assert!(
            ended.is_some() || matches!(header.state.get(), State::Parked | State::Ready),
            "a fiber records its new state before it leaves the processor"
        );
        self.running.set(std::ptr::null());
        if let Some(stack) = ended {
            #[cfg(feature = "tracing")]
            crate::fiber::spans::exit_leftover_spans();
            self.stacks.give_back(stack);
            self.retire(header);
        }
    }

    /// Frees the header of a fiber that has ended.
    #[inline]
    pub(super) fn retire(&self, header: &Header) {
        let (extra, context) = (header.extra.take(), header.context.replace(None));
        self.slab.give_back(header);
        // Last, because dropping these may run any code.
        if extra.is_some() {
            guarded("dropping a fiber's leftovers", || drop(extra));
        }
        if context.is_some() {
            guarded("dropping a fiber's context", || drop(context));
        }
    }

    pub(super) fn end_tick(&self) {
        for _ in 0..TICK_END_ROUNDS {
            if self.at_tick_end.borrow().is_empty() {
                return;
            }
            let mut callbacks = self.at_tick_end.take();
            for callback in callbacks.drain(..) {
                guarded("an end-of-tick callback", move || callback.tick_end());
            }
            // The emptied vector is put back, unless a callback was registered meanwhile: so the steady state allocates
            // nothing.
            let mut registered = self.at_tick_end.borrow_mut();
            if registered.is_empty() {
                *registered = callbacks;
            }
        }
    }

    pub(super) fn at_tick_end(&self, callback: Rc<dyn TickEnd>) {
        self.at_tick_end.borrow_mut().push(callback);
    }

    /// Waits, as the configuration demands.
    fn idle(&self, limit: Instant) -> io::Result<()> {
        debug_assert!(
            !self.ended() && self.running().is_null(),
            "a loop waits between two fibers, and not after its end"
        );
        let again = self.run_idle_hook();
        // In this order: the hook may have woken a fiber, and arming the inbox must come last, because it promises to
        // ring the bell for every message from then on. Whichever comes first, the loop sees the message, or its sender
        // sees the armed flag.
        if again || self.has_work() || self.keeps_spinning() || !self.inbox.arm() {
            return self.driver.turn(Wait::Poll);
        }
        let limit = limit.min(self.grace_ends.get());
        let wake_at = self.wheel.next_deadline().map_or(limit, |at| at.min(limit));
        let wake_at = wake_at.min(self.next_trimming());
        self.end_work();
        let result = self
            .driver
            .turn(Wait::Block((wake_at != Instant::NEVER).then_some(wake_at)));
        self.begin_work();
        self.inbox.disarm();
        result
    }

    fn run_idle_hook(&self) -> bool {
        let hook = self.idle_hook.borrow().clone();
        let mut again = false;
        if let Some(hook) = hook {
            let again = &mut again;
            guarded("the idle hook", move || *again = hook());
        }
        again
    }

    fn keeps_spinning(&self) -> bool {
        let limit = match self.spin {
            Spin::Off => return false,
            Spin::BusyPoll => return true,
            Spin::For(limit) => limit,
        };
        match self.idle_since.get() {
            None => {
                self.idle_since.set(Some(self.tick_time()));
                true
            }
            Some(since) if self.tick_time().since(since) < limit => true,
            Some(_) => {
                self.idle_since.set(None);
                false
            }
        }
    }
}
