//! The loop: one thread's scheduler.
//!
//! ```text
//!        other threads ──▶ inbox ┐
//!                                ▼
//!   tick:  1 inbox   2 clock, timers   3 fibers, up to a budget   4 end of tick: flush   5 driver: submit, wait
//!             └────────────────┴── make fibers ready ◀────────────────────────────────────────┘
//! ```
//!
//! Everything a loop has is in cells behind a shared reference ([`Inner`]): a fiber that runs inside a tick reaches the
//! same loop, through a thread-local, and no unique borrow of it may be live across a switch.
//!
//! Invariants:
//! - A loop is entered on one thread only, the one that made it; it is `!Send`.
//! - `running` is null exactly while no fiber is on the processor.
//! - Callbacks (timers, end of tick, driver sinks) run outside fibers, and cannot suspend.

mod group;
mod handle;
mod inbox;
mod loans;
mod loop_end;
pub(crate) mod registry;
mod run_queue;
mod shutdown_waiters;
mod stop;
pub mod this_loop;
mod tick;
mod timing;

pub use group::LoopGroup;
pub use handle::{LoopHandle, RemoteJoin};
pub use stop::StopReport;
pub use tick::{Tick, TickEnd};

use crate::driver::{Driver, SleepDriver};
use crate::fiber::{Extra, FiberId, Header, Slab, State};
use crate::stack::{StackConfig, StackPool, install_overflow_report};
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
use std::panic::Location;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

/// What a loop does when nothing can run, before it sleeps.
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
    /// Sleeps at once: no processor time is spent on waiting.
    #[default]
    Off,
    /// Polls for that long first; a message that comes meanwhile costs no sleep and wake (10 to 45 us).
    For(Duration),
    /// Never sleeps: the lowest latency, for a processor of its own.
    BusyPoll,
}

/// Is told of the panic of a fiber that nobody joins: the fiber, and the panic's words.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use yue_scheduler::{Config, Loop, PanicHook, spawn, yield_now};
///
/// let words = Rc::new(RefCell::new(Vec::new()));
/// let heard = words.clone();
/// let hook: PanicHook = Box::new(move |_fiber, words| heard.borrow_mut().push(words.to_owned()));
/// let config = Config { on_panic: Some(hook), ..Config::default() };
/// Loop::new(config).unwrap().run(|| {
///     drop(spawn(|| None::<u32>.expect("no such player")));
///     yield_now().unwrap();
/// });
/// assert_eq!(*words.borrow(), ["no such player"]);
/// ```
pub type PanicHook = Box<dyn Fn(FiberId, &str)>;

/// How a loop is made.
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
    /// What waits for I/O. Made on the thread on which the loop will run.
    pub driver: Box<dyn Driver>,
    /// Sizes of the stacks.
    pub stacks: StackConfig,
    /// The source of time. A loop whose clock is [`Clock::Manual`] is ticked by hand; drivers wait in real time.
    pub clock: Clock,
    /// What to do before sleeping.
    pub spin: Spin,
    /// How many fibers run before the loop looks at its driver again.
    pub fibers_per_tick: u32,
    /// After a shutdown was asked for: how long the main fiber may go on before everything is cancelled. `None`: as
    /// long as it likes.
    pub grace: Option<Duration>,
    /// At shutdown: how long cancelled fibers may take to end, and after that, shields off, once more. If some had to
    /// be abandoned and the kernel or the blocking pool still uses memory that they lent, the end of the loop's thread
    /// waits five times as long for that, and then aborts the process.
    pub stop_grace: Duration,
    /// The loops with which this one shares work.
    pub group: Option<LoopGroup>,
    /// Called with the panic of a fiber whose handle was dropped: the fiber and the panic's words. By default only the
    /// counter and the usual panic message tell of it.
    pub on_panic: Option<PanicHook>,
}

impl Default for Config {
    /// A loop that only sleeps and computes; `yue-io` has drivers that do I/O.
    fn default() -> Self {
        Config {
            driver: Box::new(SleepDriver::new()),
            stacks: StackConfig::default(),
            clock: Clock::System,
            spin: Spin::Off,
            // A few microseconds of short runs: long against the cost of a turn, short against a client's patience.
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

/// What a loop has now, and has done.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     spawn(|| ()).join().unwrap();
///     let counters = this_loop::counters();
///     assert_eq!((counters.fibers, counters.spawned), (1, 2)); // the main fiber is one, too
///     assert_eq!(counters.panics, 0);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Fibers that are not over.
    pub fibers: usize,
    /// Timers that are armed, those of sleeping fibers included.
    pub timers: usize,
    /// Operations whose terminal completion is still to come.
    pub operations: usize,
    /// Fibers spawned since the loop began.
    pub spawned: u64,
    /// Fibers and callbacks that ended by a panic.
    pub panics: u64,
    /// Ticks.
    pub ticks: u64,
}

/// A loop that has not run yet, or runs on the calling thread.
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

/// The loop, as its fibers and callbacks reach it.
pub(crate) struct Inner {
    id: u32,
    pub(crate) wheel: Wheel,
    pub(crate) slab: Slab,
    pub(crate) stacks: StackPool,
    queue: RunQueue,
    running: Cell<*const Header>,
    /// When the pool of stacks is tended next.
    tend_at: Cell<Instant>,
    /// Fibers whose state is [`State::Parked`].
    parked: Cell<usize>,
    /// The clock as it was read last in this tick. For bookkeeping alone.
    tick_time: Cell<TickTime>,
    /// When the last tick began: how long the driver cannot have looked for completions, at the most.
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
    /// Between two ticks by hand: the sleep flag is set, so that a message rings the bell.
    resting: Cell<bool>,
    main_over: Cell<bool>,
    stopping: Cell<bool>,
    hard_stop: Cell<bool>,
    /// Fibers that are left have been given up; no more can be spawned.
    ended: Cell<bool>,
    shutdown: Cell<bool>,
    /// When the main fiber's grace is over; set when a shutdown is asked for.
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
    /// How long each fiber ran while timing was on, by the number of its header; with the generation it belongs to.
    run_times: RefCell<Vec<(u32, u64)>>,
    _alternate_stack: Option<Rc<crate::stack::AlternateStack>>,
}

thread_local! {
    static CURRENT: Cell<*const Inner> = const { Cell::new(ptr::null()) };
}

impl Loop {
    /// Makes a loop for the calling thread.
    ///
    /// # Errors
    /// When the process has made more than a million loops, or the loop's group is full.
    pub fn new(config: Config) -> io::Result<Loop> {
        let id = registry::new_id()?;
        let group = config.group.map(|group| group.join(id)).transpose()?;
        crate::blocking::note_processors();
        let alternate_stack = install_overflow_report();
        let now = config.clock.read();
        let inner = Box::new(Inner {
            id,
            wheel: Wheel::new(TickTime::new(now)),
            slab: Slab::new(id),
            stacks: StackPool::new(config.stacks),
            queue: RunQueue::new(),
            running: Cell::new(ptr::null()),
            parked: Cell::new(0),
            tend_at: Cell::new(now),
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
            resting: Cell::new(false),
            main_over: Cell::new(false),
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

    /// A handle by which other threads reach this loop.
    pub fn handle(&self) -> LoopHandle {
        self.inner.handle()
    }

    /// What the loop has now, and has done.
    pub fn counters(&self) -> Counters {
        self.inner.counters()
    }

    /// Runs `f` with this loop as the calling thread's current one, outside any fiber: to spawn before the first tick.
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
    /// If another loop is being run by this thread.
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

/// While it lives, the thread-local points to the loop.
struct Entered {
    before: *const Inner,
}

impl Entered {
    fn new(inner: &Inner) -> Entered {
        let before = CURRENT.replace(inner);
        if !before.is_null() && !ptr::eq(before, inner) {
            CURRENT.set(before);
            panic!("this thread runs a loop already; use another thread for another loop");
        }
        Entered { before }
    }

    /// Also while the thread is in another loop; for what does not run fibers.
    fn anyway(inner: &Inner) -> Entered {
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

/// Hands the thread's current loop to `f`.
#[inline]
pub(crate) fn with_loop<R>(f: impl FnOnce(&Inner) -> R) -> R {
    match try_with_loop(f) {
        Some(result) => result,
        None => {
            panic!("there is no loop on this thread; call this from a fiber, or inside Loop::run")
        }
    }
}

/// Hands the thread's current loop, if there is one, to `f`.
#[inline]
pub(crate) fn try_with_loop<R>(f: impl FnOnce(&Inner) -> R) -> Option<R> {
    let inner = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: the pointer is set only while the loop is entered, and a loop that is entered is borrowed.
    let inner = unsafe { inner.as_ref() };
    inner.map(f)
}

/// The header of the calling fiber.
///
/// # Panics
/// Outside a fiber.
#[inline]
pub(crate) fn current_fiber() -> *const Header {
    let header = try_with_loop(Inner::running).unwrap_or(ptr::null());
    assert!(
        !header.is_null(),
        "not in a fiber: only a fiber can wait; use spawn, or Loop::run"
    );
    header
}

/// What the overflow report says of a fiber.
pub(crate) struct SignalView {
    pub(crate) id: FiberId,
    pub(crate) name: Option<&'static str>,
    pub(crate) location: &'static Location<'static>,
    pub(crate) guard_start: usize,
    pub(crate) guard_end: usize,
    pub(crate) stack_bytes: usize,
}

/// The calling thread's running fiber, read from a signal handler: no allocation, no lock, no write.
pub(crate) fn current_fiber_for_signal() -> Option<SignalView> {
    let inner = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    if inner.is_null() {
        return None;
    }
    // SAFETY: as in `try_with_loop`; the handler runs on the loop's thread, which stands still meanwhile.
    let (loop_id, header) = unsafe { ((*inner).id, (*inner).running.get().as_ref()?) };
    let bounds = header.bounds.get();
    // SAFETY: the name is read in place, and only within the handler; the thread that could change it is the one that
    // was interrupted, and it frees the name after it has left the fiber.
    let extra: Option<&'static Box<Extra>> = unsafe { (*header.extra.as_ptr()).as_ref() };
    let name = extra.and_then(|extra| extra.name.as_deref());
    Some(SignalView {
        id: header.id(loop_id),
        name,
        location: header.location.get(),
        guard_start: bounds.lowest(),
        guard_end: bounds.limit_of_use(),
        stack_bytes: bounds.size(),
    })
}

/// The stack of the calling thread, if it runs a loop; read from a signal handler.
pub(crate) fn thread_stack_for_signal() -> Range<usize> {
    let inner = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    if inner.is_null() {
        return 0..0;
    }
    // SAFETY: as in `try_with_loop`; what is read is never changed.
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

    /// Reads the clock and makes that the tick's time.
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

    /// Puts a fiber that could go on running at the end of the run queue.
    #[inline]
    pub(crate) fn requeue(&self, header: &Header) {
        header.state.set(State::Ready);
        self.queue.push(header);
    }

    /// Takes a fiber that begins to wait off the processor.
    #[inline]
    pub(crate) fn park(&self, header: &Header) {
        header.state.set(State::Parked);
        header.since.set(self.tick_time());
        self.parked.set(self.parked.get() + 1);
    }

    /// Puts a parked fiber at the end of the run queue.
    #[inline]
    pub(crate) fn unpark(&self, header: &Header) {
        self.parked.set(self.parked.get() - 1);
        self.make_ready(header);
    }

    /// As [`Inner::unpark`], but a fiber that is woken by a running one may run right after it.
    #[inline]
    pub(crate) fn unpark_soon(&self, header: &Header) {
        self.parked.set(self.parked.get() - 1);
        header.since.set(self.tick_time());
        header.state.set(State::Ready);
        if self.running.get().is_null() {
            self.queue.push(header);
        } else {
            self.queue.push_next(header);
        }
    }

    /// Says of a fiber that is given up that it no longer waits, if it did.
    fn leave_parked(&self, header: &Header) {
        if header.state.get() == State::Parked {
            self.parked.set(self.parked.get() - 1);
        }
    }

    pub(crate) fn count_spawn(&self) {
        self.spawned.set(self.spawned.get() + 1);
    }

    /// Counts a wait that was ended by this thread.
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
