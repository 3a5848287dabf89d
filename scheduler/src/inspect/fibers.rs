//! The list of a loop's fibers.
//!
//! All data comes from the headers, so listing touches no stack: a million parked fibers are listed without making any
//! of their pages resident. Fibers with a switch hook are the one exception: the hook lies on their stack, in the page
//! in which they were suspended, and is asked for their origin. The list is taken on the loop's own thread, page by
//! page. For a request from another thread, the loop runs its other fibers between two pages.

use crate::event_loop::{Inner, LoopHandle, this_loop, with_loop};
use crate::fiber::{
    CANCELLED, FiberId, Header, JoinError, Priority, State, current_id, origin_of, yield_now,
};
use crate::stack::StackClass;
use crate::time::Instant;
use std::fmt;
use std::ops::Range;
use std::panic::Location;
use std::time::Duration;

/// Pages of 256 headers that a loop lists at once for another thread: about 100 us. For parked fibers with a hook that
/// looks up their origin, 2 ms.
pub(crate) const PAGES_AT_ONCE: usize = 16;

/// The state of a fiber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FiberState {
    /// The fiber has not run yet.
    New,
    /// The fiber can run, and waits for its turn.
    Ready,
    /// The fiber is on the processor.
    Running,
    /// The fiber waits for something.
    Parked,
    /// The fiber ignored its loop's shutdown and was abandoned.
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

/// A snapshot of one fiber.
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
    /// The number of the fiber's loop.
    pub loop_id: u32,
    /// The fiber's id.
    pub id: FiberId,
    /// The name of the fiber, if it has one.
    pub name: Option<Box<str>>,
    /// The fiber's state.
    pub state: FiberState,
    /// The reason of the wait or, if the fiber does not wait, of its last wait. Empty if it never waited.
    pub reason: &'static str,
    /// The time that the fiber has been waiting or, if it does not wait, has been runnable. As exact as a tick.
    pub duration: Duration,
    /// The location of the spawn.
    pub location: &'static Location<'static>,
    /// The function that the fiber runs, if the location does not show it: for a waiting fiber that runs an
    /// interpreter, its outermost function, as `file:line`. See [`SwitchHook::origin`](crate::SwitchHook::origin).
    pub origin: Option<Box<str>>,
    /// The number of switches to the fiber, modulo 2^32.
    pub switches: u32,
    /// The time that the fiber ran while [`set_timing`](super::set_timing) was on.
    pub run_time: Option<Duration>,
    /// The earliest deadline that the fiber is under.
    pub deadline: Option<Instant>,
    /// The time at which its wait ends by itself, if it has a limit: that of the wait, or a deadline that the fiber is
    /// under.
    pub wait_until: Option<Instant>,
    /// Whether the fiber was cancelled.
    pub cancelled: bool,
    /// Whether the fiber is inside a [`shield`](crate::shield).
    pub shielded: bool,
    /// The fiber's priority among ready fibers.
    pub priority: Priority,
    /// The class of the fiber's stack.
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
            wait_until: header.timer.is_armed().then(|| header.timer.at()),
            cancelled: header.has(CANCELLED),
            shielded: header.shields().get() > 0,
            priority: Priority::of(header),
            stack: header.bounds.get().class(),
        }
    }
}

impl Inner {
    /// Appends the fibers of some chunks to `list`. Returns whether there are more chunks.
    pub(crate) fn list(&self, chunks: Range<usize>, list: &mut Vec<FiberInfo>) -> bool {
        let end = chunks.end;
        self.slab
            .for_each_in(chunks, |header| list.push(FiberInfo::of(self, header)));
        end < self.slab.chunk_count()
    }
}

/// Returns all fibers of the calling thread's loop that have not ended, including the calling one, in no particular
/// order.
///
/// # Panics
/// Outside a loop.
#[track_caller]
pub(crate) fn list_fibers() -> Vec<FiberInfo> {
    with_loop(|l| {
        let mut list = Vec::with_capacity(l.counters().fibers);
        l.refresh_tick_time();
        l.list(0..usize::MAX, &mut list);
        list
    })
}

/// Returns the numbers of the fibers of the calling thread's loop.
#[track_caller]
pub(crate) fn list_ids() -> Vec<FiberId> {
    with_loop(|l| {
        let mut list = Vec::with_capacity(l.counters().fibers);
        let own = l.id();
        l.slab
            .for_each_in(0..usize::MAX, |header| list.push(header.id(own)));
        list
    })
}

/// Returns some pages of the list of the calling thread's loop, and whether there are more.
#[track_caller]
pub(crate) fn list_pages(pages: Range<usize>) -> (Vec<FiberInfo>, bool) {
    with_loop(|l| {
        let mut list = Vec::new();
        l.refresh_tick_time();
        let more = l.list(pages, &mut list);
        (list, more)
    })
}

/// Returns one fiber of the calling thread's loop.
#[track_caller]
pub(crate) fn find(fiber: FiberId) -> Option<FiberInfo> {
    with_loop(|l| {
        l.refresh_tick_time();
        l.slab.find(fiber).map(|header| FiberInfo::of(l, header))
    })
}

impl LoopHandle {
    /// Requests a list of all fibers of the loop, and waits for it: a calling fiber parks, a plain thread blocks. The
    /// loop runs its other fibers in between, so with a million fibers the first may have changed when the last is
    /// listed.
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
    /// [`JoinError::LoopGone`] when the loop ends first, or [`JoinError::Stopped`] when the calling fiber is cancelled
    /// or a deadline passes.
    ///
    /// # Panics
    /// In a callback of a loop, which cannot wait. [`this_loop::fibers`](crate::this_loop::fibers) needs no wait.
    #[track_caller]
    pub fn fibers(&self) -> Result<Vec<FiberInfo>, JoinError> {
        this_loop::assert_not_in_callback();
        self.spawn(|| {
            let mut list = Vec::with_capacity(this_loop::counters().fibers);
            let myself = current_id();
            let mut page = 0;
            while with_loop(|l| l.list(page..page + PAGES_AT_ONCE, &mut list)) {
                page += PAGES_AT_ONCE;
                // Also when the loop ends: the list then has the fibers that are left.
                let _ = yield_now();
            }
            list.retain(|fiber| fiber.id != myself);
            list
        })
        .join()
    }
}
