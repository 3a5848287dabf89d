//! The loop: one thread's scheduler.
//!
//! ```text
//!        other threads ──▶ inbox ┐
//!                                ▼
//!   tick:  1 inbox   2 clock, timers   3 fibers, up to a budget   4 end of tick: flush   5 driver: submit, wait
//!             └────────────────┴── make fibers ready ◀────────────────────────────────────────┘
//! ```
//!
//! All state of a loop is in cells behind a shared reference ([`Inner`]). A fiber that runs inside a tick reaches the
//! same loop through a thread-local, so no unique borrow of it may be live across a switch.
//!
//! Invariants:
//! - A loop is only entered on the thread that created it; it is `!Send`.
//! - `running` is null exactly while no fiber is on the processor.
//! - Callbacks (timers, end of tick, driver sinks) run outside fibers and cannot suspend.

mod clock;
mod group;
mod handle;
mod histogram;
mod inbox;
mod loans;
mod loop_end;
pub(crate) mod registry;
mod run_queue;
mod shutdown_waiters;
mod stop;
pub(crate) mod this_loop;
mod tick;
mod timer;
mod timing;
mod vitals;

pub use clock::{deadline_after, is_past, now, time_left};
pub use group::LoopGroup;
pub use handle::{LoopHandle, RemoteJoin};
pub use stop::StopReport;
pub use tick::{Tick, TickEnd};
pub use timer::Timer;
pub(crate) use histogram::Histogram;
pub(crate) use vitals::{Counted, Vitals};
pub use vitals::{set_timing, timing};

use crate::driver::{Driver, SleepDriver};
use crate::fiber::{Extra, FiberId, Header, Slab, State};
use crate::stack::{RunningFiber, StackConfig, StackPool, install_overflow_report};
use crate::time::wheel::Wheel;
use crate::time::{Clock, Instant, TickTime};
use inbox::Inbox;
pub(crate) use inbox::{Message, Shared};
pub(crate) use loans::Loan;
pub(crate) use loop_end::wake_at_end_of;
use run_queue::RunQueue;
use shutdown_waiters::ShutdownWaiters;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

/// The action of a loop before it sleeps, when nothing can run.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, Spin, yield_now};
///
/// let config = Config { spin: Spin::For(Duration::from_micros(50)), ..Config::default() };
/// Loop::new(config).unwrap().run(|| yield_now().unwrap());
/// assert_eq!(Config::default().spin, Spin::Off);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Sleeps at once: waiting costs no processor time.
    #[default]
    Off,
    /// Polls for that long first. A message that arrives in that time saves a sleep and a wake-up (10 to 45 us).
    For(Duration),
    /// Never sleeps: the lowest latency, for a loop with a dedicated processor.
    BusyPoll,
}

/// A callback for the panic of a fiber that nobody joins. Its arguments are the fiber and the panic message.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use yue_scheduler::{Config, Loop, PanicHook, spawn, yield_now};
///
/// let messages = Rc::new(RefCell::new(Vec::new()));
/// let seen = messages.clone();
/// let hook: PanicHook = Box::new(move |_fiber, message| seen.borrow_mut().push(message.to_owned()));
/// let config = Config { on_panic: Some(hook), ..Config::default() };
/// Loop::new(config).unwrap().run(|| {
///     drop(spawn(|| None::<u32>.expect("no such player")));
///     yield_now().unwrap();
/// });
/// assert_eq!(*messages.borrow(), ["no such player"]);
/// ```
pub type PanicHook = Box<dyn Fn(FiberId, &str)>;

/// The configuration of a loop.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, spawn};
///
/// let config = Config {
///     fibers_per_tick: 128,
///     grace: Some(Duration::from_secs(5)),
///     ..Config::default()
/// };
/// let answer = Loop::new(config).unwrap().run(|| spawn(|| 42).join().unwrap());
/// assert_eq!(answer, 42);
/// ```
pub struct Config {
    /// The driver, which waits for I/O. Create it on the thread on which the loop will run.
    pub driver: Box<dyn Driver>,
    /// Sizes of the stacks.
    pub stacks: StackConfig,
    /// The source of time. With [`Clock::Manual`] the program ticks the loop by hand; drivers still wait in real time.
    pub clock: Clock,
    /// The action of the loop before it sleeps.
    pub spin: Spin,
    /// The number of fibers that run before the loop polls its driver again.
    pub fibers_per_tick: u32,
    /// The time that the main fiber may continue after a shutdown was requested, before everything is cancelled.
    /// `None`: without a limit.
    pub grace: Option<Duration>,
    /// The time that cancelled fibers have to end at shutdown; they get the same time again after their shields are
    /// removed. If fibers had to be abandoned and the kernel or the blocking pool still uses memory that they lent, the
    /// end of the loop's thread waits five times as long for that, and then aborts the process.
    pub stop_grace: Duration,
    /// The group of loops with which this one shares work.
    pub group: Option<LoopGroup>,
    /// Called when a fiber whose handle was dropped panics, with the fiber and the panic message. By default only the
    /// counter and the usual panic message report it.
    pub on_panic: Option<PanicHook>,
}

impl Default for Config {
    /// A loop that only sleeps and computes. `yue-io` has drivers that do I/O.
    fn default() -> Self {
        Config {
            driver: Box::new(SleepDriver::new()),
            stacks: StackConfig::default(),
            clock: Clock::System,
            spin: Spin::Off,
            // A tick of a few microseconds if runs are short: long compared with the cost of a turn, short compared
            // with a client's patience.
            fibers_per_tick: 1024,
            grace: None,
            stop_grace: Duration::from_secs(1),
            group: None,
            on_panic: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("driver", &self.driver.name())
            .field("stacks", &self.stacks)
            .field("spin", &self.spin)
            .finish_non_exhaustive()
    }
}

/// Counters of a loop: its current state, and totals since it began.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     spawn(|| ()).join().unwrap();
///     let counters = this_loop::counters();
///     assert_eq!((counters.fibers, counters.spawned), (1, 2)); // including the main fiber
///     assert_eq!(counters.panics, 0);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Fibers that have not ended.
    pub fibers: usize,
    /// Armed timers, including those of sleeping fibers.
    pub timers: usize,
    /// Operations whose terminal completion has not arrived yet.
    pub operations: usize,
    /// Fibers spawned since the loop began.
    pub spawned: u64,
    /// Fibers and callbacks that ended with a panic.
    pub panics: u64,
    /// Ticks since the loop began.
    pub ticks: u64,
}

/// A loop that has not run yet, or that runs on the calling thread.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn};
///
/// let greeting = Loop::new(Config::default()).unwrap().run(|| {
///     let name = spawn(|| {
///         sleep(Duration::from_millis(1)).unwrap();
///         "world"
///     });
///     format!("hello, {}", name.join().unwrap())
/// });
/// assert_eq!(greeting, "hello, world");
/// ```
pub struct Loop {
    inner: Box<Inner>,
}

/// The state of a loop, as its fibers and callbacks reach it.
pub(crate) struct Inner {
    id: u32,
    pub(crate) wheel: Wheel,
    pub(crate) slab: Slab,
    pub(crate) stacks: StackPool,
    queue: RunQueue,
    running: Cell<*const Header>,
    /// The time of the next trim of the pool of stacks.
    trim_at: Cell<Instant>,
    /// Fibers whose state is [`State::Parked`].
    parked: Cell<usize>,
    /// The clock reading of this tick. For bookkeeping only.
    tick_time: Cell<TickTime>,
    /// The time at which the last tick began. The driver cannot have polled for completions longer ago than this.
    began: Cell<TickTime>,
    clock: Clock,
    spin: Spin,
    fibers_per_tick: u32,
    driver: Box<dyn Driver>,
    inbox: Inbox,
    at_tick_end: RefCell<Vec<Rc<dyn TickEnd>>>,
    idle_hook: RefCell<Option<Rc<dyn Fn() -> bool>>>,
    idle_since: Cell<Option<TickTime>>,
    ticking: Cell<bool>,
    /// Between two manual ticks: the sleep flag is set, so that a message rings the bell.
    sleep_flag_armed: Cell<bool>,
    main_finished: Cell<bool>,
    stopping: Cell<bool>,
    hard_stop: Cell<bool>,
    /// The remaining fibers have been abandoned; no more can be spawned.
    ended: Cell<bool>,
    shutdown: Cell<bool>,
    /// The end of the main fiber's grace period. Set when a shutdown is requested.
    grace_ends: Cell<Instant>,
    grace: Option<Duration>,
    pub(crate) shutdown_waiters: ShutdownWaiters,
    stop_grace: Duration,
    on_panic: Option<PanicHook>,
    spawned: Cell<u64>,
    panics: Cell<u64>,
    ticks: Cell<u64>,
    switches: Cell<u64>,
    wakes_local: Cell<u64>,
    wakes_remote: Cell<u64>,
    messages: Cell<u64>,
    /// The run time of each fiber while timing was on, indexed by the number of its header. Each entry has the
    /// generation it belongs to.
    run_times: RefCell<Vec<(u32, u64)>>,
    _alternate_stack: Option<Rc<crate::stack::AlternateStack>>,
}

thread_local! {
    static CURRENT: Cell<*const Inner> = const { Cell::new(ptr::null()) };
}

impl Loop {
    /// Creates a loop for the calling thread.
    ///
    /// # Errors
    /// When the process has created more than a million loops, or the loop's group is full.
    pub fn new(config: Config) -> io::Result<Loop> {
        let id = registry::new_id()?;
        let group = config.group.map(|group| group.join(id)).transpose()?;
        crate::processors::record();
        let alternate_stack = install_overflow_report(current_fiber_for_signal);
        let now = config.clock.read();
        let inner = Box::new(Inner {
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
            _alternate_stack: alternate_stack,
        });
        registry::publish(&inner.inbox.shared);
        Ok(Loop { inner })
    }

    /// Returns a handle by which other threads reach this loop.
    pub fn handle(&self) -> LoopHandle {
        self.inner.handle()
    }

    /// Returns the loop's counters.
    pub fn counters(&self) -> Counters {
        self.inner.counters()
    }

    /// Runs `f` outside any fiber, with this loop as the calling thread's current one. Use it to spawn before the first
    /// tick.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, spawn};
    ///
    /// let l = Loop::new(Config::default()).unwrap();
    /// let early = l.enter(|| spawn(|| "I was here first"));
    /// assert_eq!(l.run(|| early.join().unwrap()), "I was here first");
    /// ```
    ///
    /// # Panics
    /// If this thread already runs another loop.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(&self.inner);
        f()
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("id", &self.inner.id())
            .field("counters", &self.counters())
            .finish()
    }
}

/// Makes the thread-local point to a loop while it lives.
struct Entered {
    before: *const Inner,
}

impl Entered {
    fn new(inner: &Inner) -> Entered {
        let before = CURRENT.replace(inner);
        if !before.is_null() && !ptr::eq(before, inner) {
            CURRENT.set(before);
            panic!("this thread already runs a loop; use another thread for another loop");
        }
        Entered { before }
    }

    /// Enters the loop even while the thread is in another one. For work that does not run fibers.
    fn nested(inner: &Inner) -> Entered {
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
#[inline]
pub(crate) fn with_loop<R>(f: impl FnOnce(&Inner) -> R) -> R {
    match try_with_loop(f) {
        Some(result) => result,
        None => {
            panic!("there is no loop on this thread; call this from a fiber, or inside Loop::run")
        }
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
pub(crate) fn current_fiber() -> *const Header {
    let header = try_with_loop(Inner::running).unwrap_or(ptr::null());
    assert!(
        !header.is_null(),
        "not in a fiber: only a fiber can wait; use spawn, or Loop::run"
    );
    header
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
        header.state.set(State::Ready);
        self.queue.push(header);
    }

    /// Marks a fiber as parked: it begins to wait.
    #[inline]
    pub(crate) fn park(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Running,
            "only a running fiber parks"
        );
        header.state.set(State::Parked);
        header.since.set(self.tick_time());
        self.parked.set(self.parked.get() + 1);
    }

    /// Puts a parked fiber at the end of the run queue.
    #[inline]
    pub(crate) fn unpark(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Parked,
            "only a parked fiber is woken"
        );
        self.parked.set(self.parked.get() - 1);
        self.make_ready(header);
    }

    /// Like [`Inner::unpark`], but a fiber woken by a running fiber may run right after it.
    #[inline]
    pub(crate) fn unpark_soon(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Parked,
            "only a parked fiber is woken"
        );
        self.parked.set(self.parked.get() - 1);
        header.since.set(self.tick_time());
        header.state.set(State::Ready);
        if self.running.get().is_null() {
            self.queue.push(header);
        } else {
            self.queue.push_next(header);
        }
    }

    /// Removes an abandoned fiber from the count of parked ones, if it was parked.
    fn leave_parked(&self, header: &Header) {
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

    fn handle(&self) -> LoopHandle {
        LoopHandle::new(self.inbox.shared.clone())
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            fibers: self.slab.live(),
            timers: self.wheel.armed(),
            operations: self.driver.in_flight(),
            spawned: self.spawned.get(),
            panics: self.panics.get(),
            ticks: self.ticks.get(),
        }
    }
}
