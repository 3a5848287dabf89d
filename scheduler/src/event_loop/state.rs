//! The state of a loop, and the calling thread's current loop.
//!
//! All state of a loop is in cells behind a shared reference ([`Inner`]). A fiber that runs inside a tick reaches the
//! same loop through a thread-local, so no unique borrow of it may be live across a switch.
//!
//! Invariants:
//! - A loop is only entered on the thread that created it; it is `!Send`.
//! - `running` is null exactly while no fiber is on the processor.
//! - `parked` is the number of fibers whose state is [`State::Parked`].

use super::config::{Config, PanicHook, Spin};
use super::group::Membership;
use super::inbox::Inbox;
use super::run_queue::RunQueue;
use super::shutdown_waiters::ShutdownWaiters;
use super::tick_end::TickEnd;
use crate::driver::Driver;
use crate::fiber::{Extra, Header, Slab, State, WOKEN};
use crate::stack::{AlternateStack, RunningFiber, StackPool, install_overflow_report};
use crate::time::wheel::Wheel;
use crate::time::{Clock, Instant, TickTime};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

/// The state of a loop, as its fibers and callbacks reach it.
pub(crate) struct Inner {
    pub(super) id: u32,
    pub(crate) wheel: Wheel,
    pub(crate) slab: Slab,
    pub(crate) stacks: StackPool,
    pub(super) queue: RunQueue,
    pub(super) running: Cell<*const Header>,
    /// The time of the next trim of the pool of stacks.
    pub(super) trim_at: Cell<Instant>,
    /// Fibers whose state is [`State::Parked`].
    pub(super) parked: Cell<usize>,
    /// The clock reading of this tick. For bookkeeping only.
    pub(super) tick_time: Cell<TickTime>,
    /// The time at which the last tick began. The driver cannot have polled for completions longer ago than this.
    pub(super) began: Cell<TickTime>,
    pub(super) clock: Clock,
    pub(super) spin: Spin,
    pub(super) fibers_per_tick: u32,
    pub(super) driver: Box<dyn Driver>,
    pub(super) inbox: Inbox,
    pub(super) at_tick_end: RefCell<Vec<Rc<dyn TickEnd>>>,
    pub(super) idle_hook: RefCell<Option<Rc<dyn Fn() -> bool>>>,
    pub(super) idle_since: Cell<Option<TickTime>>,
    pub(super) ticking: Cell<bool>,
    /// Between two manual ticks: the sleep flag is set, so that a message rings the bell.
    pub(super) sleep_flag_armed: Cell<bool>,
    pub(super) main_finished: Cell<bool>,
    pub(super) stopping: Cell<bool>,
    pub(super) hard_stop: Cell<bool>,
    /// The remaining fibers have been abandoned; no more can be spawned.
    pub(super) ended: Cell<bool>,
    pub(super) shutdown: Cell<bool>,
    /// The end of the main fiber's grace period. Set when a shutdown is requested.
    pub(super) grace_ends: Cell<Instant>,
    pub(super) grace: Option<Duration>,
    pub(crate) shutdown_waiters: ShutdownWaiters,
    pub(super) stop_grace: Duration,
    pub(super) on_panic: Option<PanicHook>,
    pub(super) spawned: Cell<u64>,
    pub(super) panics: Cell<u64>,
    pub(super) ticks: Cell<u64>,
    pub(super) switches: Cell<u64>,
    pub(super) wakes_local: Cell<u64>,
    pub(super) wakes_remote: Cell<u64>,
    pub(super) messages: Cell<u64>,
    /// The run time of each fiber while timing was on, indexed by the number of its header. Each entry has the
    /// generation it belongs to.
    pub(super) run_times: RefCell<Vec<(u32, u64)>>,
    pub(super) _alternate_stack: Option<Rc<AlternateStack>>,
}

thread_local! {
    static CURRENT: Cell<*const Inner> = const { Cell::new(ptr::null()) };
}

/// Makes the thread-local point to a loop while it lives.
pub(super) struct Entered {
    before: *const Inner,
}

impl Entered {
    pub(super) fn new(inner: &Inner) -> Entered {
        let before = CURRENT.replace(inner);
        if !before.is_null() && !ptr::eq(before, inner) {
            CURRENT.set(before);
            panic!("this thread already runs a loop; use another thread for another loop");
        }
        Entered { before }
    }

    /// Enters the loop even while the thread is in another one. For work that does not run fibers.
    pub(super) fn nested(inner: &Inner) -> Entered {
        Entered {
            before: CURRENT.replace(inner),
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Passes the thread's current loop to `f`.
///
/// # Panics
/// On a thread that runs no loop. The panic's location is that of the outermost caller with `#[track_caller]`, which is
/// the program's call.
#[inline]
#[track_caller]
pub(crate) fn with_loop<R>(f: impl FnOnce(&Inner) -> R) -> R {
    match try_with_loop(f) {
        Some(result) => result,
        None => refuse_outside_loop(),
    }
}

/// Passes the thread's current loop to `f`, if there is one.
#[inline]
pub(crate) fn try_with_loop<R>(f: impl FnOnce(&Inner) -> R) -> Option<R> {
    let inner = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: the pointer is set only while the loop is entered, and an entered loop is borrowed.
    let inner = unsafe { inner.as_ref() };
    inner.map(f)
}

/// Returns the header of the calling fiber.
///
/// # Panics
/// When called outside a fiber.
#[inline]
#[track_caller]
pub(crate) fn current_fiber() -> *const Header {
    let header = with_loop(Inner::running);
    if header.is_null() {
        refuse_outside_fiber();
    }
    header
}

#[cold]
#[track_caller]
fn refuse_outside_loop() -> ! {
    panic!("no loop runs on this thread: call this inside `Runtime::run` or `Loop::run`");
}

#[cold]
#[track_caller]
fn refuse_outside_fiber() -> ! {
    panic!("not in a fiber: a callback of a loop cannot wait; call this in a fiber, with `spawn`");
}

/// Returns the calling thread's running fiber. Called in a signal handler: no allocation, no lock, no write.
pub(crate) fn current_fiber_for_signal() -> Option<RunningFiber> {
    let inner = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    if inner.is_null() {
        return None;
    }
    // SAFETY: as in `try_with_loop`; the handler runs on the loop's thread, which is stopped meanwhile.
    let (loop_id, header) = unsafe { ((*inner).id, (*inner).running.get().as_ref()?) };
    // SAFETY: the name is read in place, and only within the handler. The interrupted thread is the only one that could
    // change it, and it frees the name after it has left the fiber.
    let extra: Option<&'static Box<Extra>> = unsafe { (*header.extra.as_ptr()).as_ref() };
    let name = extra.and_then(|extra| extra.name.as_deref());
    Some(RunningFiber {
        loop_id,
        index: header.index.get(),
        generation: header.generation.get(),
        name,
        location: header.location.get(),
        bounds: header.bounds.get(),
    })
}

/// Returns the stack of the calling thread, if it runs a loop. Called in a signal handler.
pub(crate) fn thread_stack_for_signal() -> Range<usize> {
    let inner = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    if inner.is_null() {
        return 0..0;
    }
    // SAFETY: as in `try_with_loop`; the range never changes.
    unsafe { (*inner).inbox.shared.vitals().thread.stack.clone() }
}

impl Inner {
    /// Creates the state of loop `id` for the calling thread.
    pub(super) fn new(id: u32, config: Config, group: Option<Membership>) -> Self {
        let now = config.clock.read();
        Inner {
            id,
            wheel: Wheel::new(TickTime::new(now)),
            slab: Slab::new(id),
            stacks: StackPool::new(config.stacks),
            queue: RunQueue::new(),
            running: Cell::new(ptr::null()),
            parked: Cell::new(0),
            trim_at: Cell::new(now),
            tick_time: Cell::new(TickTime::new(now)),
            began: Cell::new(TickTime::new(now)),
            clock: config.clock,
            spin: config.spin,
            fibers_per_tick: config.fibers_per_tick.max(1),
            inbox: Inbox::new(id, &*config.driver, group),
            driver: config.driver,
            at_tick_end: RefCell::new(Vec::new()),
            idle_hook: RefCell::new(None),
            idle_since: Cell::new(None),
            ticking: Cell::new(false),
            sleep_flag_armed: Cell::new(false),
            main_finished: Cell::new(false),
            stopping: Cell::new(false),
            hard_stop: Cell::new(false),
            ended: Cell::new(false),
            shutdown: Cell::new(false),
            grace_ends: Cell::new(Instant::NEVER),
            grace: config.grace,
            shutdown_waiters: ShutdownWaiters::default(),
            stop_grace: config.stop_grace,
            on_panic: config.on_panic,
            spawned: Cell::new(0),
            panics: Cell::new(0),
            ticks: Cell::new(0),
            switches: Cell::new(0),
            wakes_local: Cell::new(0),
            wakes_remote: Cell::new(0),
            messages: Cell::new(0),
            run_times: RefCell::new(Vec::new()),
            _alternate_stack: install_overflow_report(current_fiber_for_signal),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    #[inline]
    pub(crate) fn tick_time(&self) -> TickTime {
        self.tick_time.get()
    }

    /// Reads the clock and stores the result as the tick's time.
    #[inline]
    pub(crate) fn refresh_tick_time(&self) -> TickTime {
        let now = TickTime::new(self.clock.read());
        self.tick_time.set(now);
        now
    }

    #[inline]
    pub(crate) fn running(&self) -> *const Header {
        self.running.get()
    }

    pub(crate) fn hard_stop(&self) -> bool {
        self.hard_stop.get()
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Puts a new fiber at the end of the run queue.
    #[inline]
    pub(crate) fn make_ready(&self, header: &Header) {
        header.since.set(self.tick_time());
        self.requeue(header);
    }

    /// Puts a fiber that could continue to run at the end of the run queue.
    #[inline]
    pub(crate) fn requeue(&self, header: &Header) {
        debug_assert!(
            !matches!(header.state.get(), State::Ready | State::Abandoned),
            "a fiber enters the run queue once, and not after it was abandoned"
        );
        debug_assert!(
            header.bounds.get().size() > 0,
            "a fiber in the run queue has a stack"
        );
        header.state.set(State::Ready);
        self.queue.push(header);
    }

    /// Marks a fiber as parked: it begins to wait.
    #[inline]
    pub(crate) fn park(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Running && ptr::eq(self.running.get(), header),
            "only the running fiber parks"
        );
        debug_assert!(
            !header.has(WOKEN),
            "a fiber whose waker was used does not park: nothing would end its wait"
        );
        header.state.set(State::Parked);
        header.since.set(self.tick_time());
        self.parked.set(self.parked.get() + 1);
    }

    /// Puts a parked fiber at the end of the run queue.
    #[inline]
    pub(crate) fn unpark(&self, header: &Header) {
        self.leave_wait(header);
        self.make_ready(header);
    }

    /// Like [`Inner::unpark`], but a fiber woken by a running fiber may run right after it.
    #[inline]
    pub(crate) fn unpark_soon(&self, header: &Header) {
        self.leave_wait(header);
        header.since.set(self.tick_time());
        header.state.set(State::Ready);
        if self.running.get().is_null() {
            self.queue.push(header);
        } else {
            self.queue.push_next(header);
        }
    }

    /// Removes a fiber that is being woken from the count of parked ones.
    #[inline]
    fn leave_wait(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Parked,
            "only a parked fiber is woken"
        );
        debug_assert!(self.parked.get() > 0, "more fibers were woken than parked");
        debug_assert!(
            !ptr::eq(self.running.get(), header),
            "the running fiber is not parked"
        );
        self.parked.set(self.parked.get() - 1);
    }

    /// Removes an abandoned fiber from the count of parked ones, if it was parked.
    pub(super) fn leave_parked(&self, header: &Header) {
        if header.state.get() == State::Parked {
            self.parked.set(self.parked.get() - 1);
        }
    }

    pub(crate) fn count_spawn(&self) {
        self.spawned.set(self.spawned.get() + 1);
    }

    /// Counts a wait that this thread ended.
    #[inline]
    pub(crate) fn count_wake(&self) {
        self.wakes_local.set(self.wakes_local.get() + 1);
    }

    pub(crate) fn count_panic(&self) {
        self.panics.set(self.panics.get() + 1);
    }

    pub(crate) fn panic_hook(&self) -> Option<&PanicHook> {
        self.on_panic.as_ref()
    }
}
