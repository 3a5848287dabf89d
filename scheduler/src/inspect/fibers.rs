//! The list of a loop's fibers.
//!
//! Everything in it comes from the headers, so that listing touches no stack: a million parked fibers are listed
//! without making a page of theirs resident. The one exception are fibers with a switch hook, which Lua's have: the
//! hook lies on their stack, in the page that they were switched in, and is asked for their origin. The list is taken
//! on the loop's own thread, page by page; from elsewhere the loop is asked, and runs its other fibers between two
//! pages.

use crate::event_loop::{Inner, LoopHandle, this_loop, with_loop};
use crate::fiber::{
    CANCELLED, FiberId, Header, JoinError, Priority, State, current_id, origin, yield_now,
};
use crate::stack::StackClass;
use crate::time::Instant;
use std::fmt;
use std::ops::Range;
use std::panic::Location;
use std::time::Duration;

/// Pages of 256 headers that a loop lists at once, when it is asked by another: some 100 us; of parked Lua fibers,
/// whose origin is looked up, 2 ms.
pub(crate) const PAGES_AT_ONCE: usize = 16;

/// Where a fiber is in its life.
///
/// ```
/// use yue_scheduler::inspect::FiberState;
/// use yue_scheduler::{Config, Loop, current_id, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let state = |id| this_loop::fiber(id).map(|fiber| fiber.state);
///     let fiber = spawn(|| ());
///     assert_eq!(state(fiber.id()), Some(FiberState::New));
///     assert_eq!(state(current_id()), Some(FiberState::Running));
///     assert_eq!(FiberState::Parked.to_string(), "parked");
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FiberState {
    /// It has not run yet.
    New,
    /// It could run, and waits for its turn.
    Ready,
    /// It is on the processor.
    Running,
    /// It waits for something.
    Parked,
    /// It ignored its loop's end and was given up.
    Abandoned,
}

impl fmt::Display for FiberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FiberState::New => "new",
            FiberState::Ready => "ready",
            FiberState::Running => "running",
            FiberState::Parked => "parked",
            FiberState::Abandoned => "abandoned",
        })
    }
}

/// One fiber, as it was when it was listed.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let me = this_loop::fiber(current_id()).unwrap();
///     assert_eq!(me.name.as_deref(), Some("main"));
///     assert!(!me.cancelled && me.deadline.is_none());
///     assert!(me.to_string().contains("'main' running"));
/// });
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FiberInfo {
    /// The number of its loop.
    pub loop_id: u32,
    /// The fiber.
    pub id: FiberId,
    /// The name that it was given.
    pub name: Option<Box<str>>,
    /// What it does.
    pub state: FiberState,
    /// What it waits for; of a fiber that does not, what it waited for last. Empty if it never did.
    pub reason: &'static str,
    /// For how long it has been waiting; of a fiber that does not, for how long it could run. As exact as a tick.
    pub duration: Duration,
    /// Where it was spawned.
    pub location: &'static Location<'static>,
    /// What it runs, if that place does not tell: of a Lua fiber that waits, its outermost function of the program's,
    /// as `file.lua:line`. See [`SwitchHook::origin`](crate::SwitchHook::origin).
    pub origin: Option<Box<str>>,
    /// How often it got the processor, modulo 2^32.
    pub switches: u32,
    /// How long it had the processor while [`set_timing`](super::set_timing) was on.
    pub run_time: Option<Duration>,
    /// The earliest deadline that it is under.
    pub deadline: Option<Instant>,
    /// Whether it has been cancelled.
    pub cancelled: bool,
    /// Whether it is inside a [`shield`](crate::shield).
    pub shielded: bool,
    /// In which order it runs among those that are ready.
    pub priority: Priority,
    /// What its stack is for.
    pub stack: StackClass,
}

impl fmt::Display for FiberInfo {
    /// One line, for listings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fiber {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " '{name}'")?;
        }
        write!(f, " {}", self.state)?;
        if self.state == FiberState::Parked {
            write!(f, " in '{}'", self.reason)?;
        }
        write!(f, " for {:.1?}", self.duration)?;
        match self.priority {
            Priority::High => f.write_str(", high priority")?,
            Priority::Normal => {}
            Priority::Low => f.write_str(", low priority")?,
        }
        if self.cancelled {
            f.write_str(", cancelled")?;
        }
        if self.shielded {
            f.write_str(", shielded")?;
        }
        write!(f, ", spawned at {}", self.location)?;
        if let Some(origin) = &self.origin {
            write!(f, " to run {origin}")?;
        }
        write!(f, ", {} switches", self.switches)?;
        if let Some(run_time) = self.run_time {
            write!(f, ", ran {run_time:.1?}")?;
        }
        Ok(())
    }
}

impl FiberInfo {
    fn of(l: &Inner, header: &Header) -> FiberInfo {
        let deadline = header.deadline();
        FiberInfo {
            loop_id: l.id(),
            id: header.id(l.id()),
            name: header.with_name(|name| name.map(Into::into)),
            state: match header.state.get() {
                State::Ready if !header.switch.started() => FiberState::New,
                State::Ready | State::Free => FiberState::Ready,
                State::Running => FiberState::Running,
                State::Parked => FiberState::Parked,
                State::Abandoned => FiberState::Abandoned,
            },
            reason: header.reason.get().text(),
            duration: l.tick_time().since(header.since.get()),
            location: header.location.get(),
            origin: origin_of(header),
            switches: header.switches.get(),
            run_time: l.run_time(header.id(l.id())),
            deadline: (deadline != Instant::NEVER).then_some(deadline),
            cancelled: header.has(CANCELLED),
            shielded: header.shields().get() > 0,
            priority: Priority::of(header),
            stack: header.bounds.get().class(),
        }
    }
}

/// What a fiber runs, if it stands still on a stack of its own and its hook can tell.
pub(crate) fn origin_of(header: &Header) -> Option<Box<str>> {
    let off = matches!(header.state.get(), State::Parked | State::Ready);
    if !off || !header.switch.started() || header.hook.get().is_null() {
        return None;
    }
    // SAFETY: the fiber has started, and neither runs nor is over.
    unsafe { origin(header) }
}

impl Inner {
    /// Adds the fibers of some pages to `list`; whether there are pages behind them.
    pub(crate) fn list(&self, pages: Range<usize>, list: &mut Vec<FiberInfo>) -> bool {
        let end = pages.end;
        self.slab
            .each_in(pages, |header| list.push(FiberInfo::of(self, header)));
        end < self.slab.pages()
    }
}

/// All fibers of the calling thread's loop that are not over, the calling one included, in no order that matters.
///
/// # Panics
/// Outside a loop.
pub(crate) fn here() -> Vec<FiberInfo> {
    with_loop(|l| {
        let mut list = Vec::with_capacity(l.counters().fibers);
        l.refresh_tick_time();
        l.list(0..usize::MAX, &mut list);
        list
    })
}

/// One fiber of the calling thread's loop.
pub(crate) fn find(fiber: FiberId) -> Option<FiberInfo> {
    with_loop(|l| {
        l.refresh_tick_time();
        l.slab.find(fiber).map(|header| FiberInfo::of(l, header))
    })
}

impl LoopHandle {
    /// Asks the loop for all its fibers, and waits for the answer: a calling fiber parks, a plain thread blocks. The
    /// loop runs its other fibers meanwhile, so that of a million the first may have changed when the last is listed.
    ///
    /// ```
    /// use yue_scheduler::{Builder, Config, Loop, sleep};
    /// use std::time::Duration;
    ///
    /// let l = Loop::new(Config::default()).unwrap();
    /// let handle = l.handle();
    /// l.run(move || {
    ///     let _ = Builder::new().name("sleeper").spawn(|| sleep(Duration::from_secs(60)));
    ///     sleep(Duration::from_millis(1)).unwrap();
    ///     let other_thread = std::thread::spawn(move || handle.fibers().unwrap());
    ///     while !other_thread.is_finished() {
    ///         sleep(Duration::from_millis(1)).unwrap();
    ///     }
    ///     let fibers = other_thread.join().unwrap();
    ///     let sleeper = fibers.iter().find(|fiber| fiber.name.as_deref() == Some("sleeper"));
    ///     assert_eq!(sleeper.unwrap().reason, "sleep");
    /// });
    /// ```
    ///
    /// # Errors
    /// [`JoinError::LoopGone`] when the loop ends first, or [`JoinError::Stopped`] when the calling fiber is told to
    /// stop.
    ///
    /// # Panics
    /// In a callback of a loop: nothing can wait there. [`this_loop::fibers`] needs no wait.
    pub fn fibers(&self) -> Result<Vec<FiberInfo>, JoinError> {
        this_loop::assert_not_in_callback();
        self.spawn(|| {
            let mut list = Vec::with_capacity(this_loop::counters().fibers);
            let myself = current_id();
            let mut page = 0;
            while with_loop(|l| l.list(page..page + PAGES_AT_ONCE, &mut list)) {
                page += PAGES_AT_ONCE;
                // Also when the loop ends: what it has is what was asked for.
                let _ = yield_now();
            }
            list.retain(|fiber| fiber.id != myself);
            list
        })
        .join()
    }
}
