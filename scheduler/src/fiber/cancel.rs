//! Cancellation and deadlines. Both are cooperative and sticky, and reported as errors.
//!
//! A fiber is *stopped* by [`cancel`], by cancelling a [`CancelScope`] it runs in, or by a deadline that passes. From
//! then on every suspending call returns [`Stopped`], until the fiber leaves the scope or the deadline. The program
//! passes the error up with `?` and cleans up on the way. Clean-up that must wait runs inside [`shield`].
//!
//! A fiber that waits for an operation in the kernel does not return at once. It requests the cancellation of the
//! operation and continues to wait for its terminal completion, with
//! [`park_uninterruptible`](super::park_uninterruptible).
//!
//! Scopes form a list on the fiber's stack. The header points to the innermost one, and holds the earliest deadline
//! with the frame that set it. A shield hides all of them, and the fiber's own cancellation, until the shield ends.
//! [Timeouts and cancellation for humans](https://vorpus.org/blog/timeouts-and-cancellation-for-humans/) by N. J. Smith
//! gives the reasons for scopes and shields.

use super::frames::{DeadlineFrame, ScopeFrame, ScopeState};
use super::header::{CANCELLED, Header, INTERRUPTIBLE, State};
use super::hook::OnDrop;
use super::id::FiberId;
use crate::event_loop::seam::{
    Inner, Message, current_fiber, deadline_after, registry, try_with_loop, with_loop,
};
use crate::time::Instant;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

/// The reason why a suspending call returned early.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, now, sleep, spawn, with_deadline};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| sleep(Duration::from_secs(3600)));
///     assert_eq!(fiber.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
///
///     let late = with_deadline(now(), || sleep(Duration::from_secs(3600)));
///     assert_eq!(late, Err(Stopped::Deadline));
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stopped {
    /// The fiber, or the scope it runs in, was cancelled.
    #[error("the fiber was cancelled")]
    Cancelled,
    /// A deadline in force has passed.
    #[error("the deadline has passed")]
    Deadline,
}

impl From<Stopped> for io::Error {
    /// `TimedOut` for a deadline, `Other` for a cancellation; never `Interrupted`, which `read_exact` would retry.
    fn from(stopped: Stopped) -> io::Error {
        let kind = match stopped {
            Stopped::Cancelled => io::ErrorKind::Other,
            Stopped::Deadline => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, stopped)
    }
}

/// The error of [`timeout`] when the time passed before its closure returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the timeout has passed")]
pub struct Elapsed;

impl From<Elapsed> for io::Error {
    /// An error of the kind `TimedOut`.
    fn from(elapsed: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}

/// A part of a fiber's work that can be cancelled separately, such as one of many requests that a fiber serves.
///
/// Clones refer to the same scope. It may be entered again after [`CancelScope::reset`].
///
/// ```
/// use yue_scheduler::{CancelScope, Config, Loop, Stopped, is_cancelled, sleep, spawn};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let request = CancelScope::new();
///     let hang_up = request.clone();
///     let _ = spawn(move || hang_up.cancel());
///
///     let result = request.enter(|| sleep(Duration::from_secs(3600)));
///     assert_eq!(result, Err(Stopped::Cancelled));
///     assert!(!is_cancelled()); // the fiber itself continues
///
///     request.reset();
///     assert_eq!(request.enter(|| sleep(Duration::from_millis(1))), Ok(()));
/// });
/// ```
#[derive(Clone, Default)]
pub struct CancelScope {
    shared: Rc<ScopeState>,
}

impl CancelScope {
    /// Creates a scope that no fiber has entered.
    pub fn new() -> Self {
        CancelScope::default()
    }

    /// Runs `f` in the scope, on the calling fiber.
    ///
    /// # Panics
    /// When called outside a fiber, or while another fiber is in the scope.
    #[track_caller]
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the running fiber's header lives as long as the fiber.
        let header = unsafe { &*current_fiber() };
        assert!(
            self.shared.fiber.get().is_none(),
            "a cancel scope can be entered by one fiber at a time"
        );
        let fiber = with_loop(|l| header.id(l.id()));
        self.shared.fiber.set(Some(fiber));
        let frame = ScopeFrame {
            scope: Rc::as_ptr(&self.shared),
            outer: header.scopes(),
        };
        header.set_scopes(&frame);
        let _leave = OnDrop(|| {
            debug_assert!(
                ptr::eq(header.scopes(), &frame),
                "scopes are left in the reverse order of their entries"
            );
            header.set_scopes(frame.outer);
            self.shared.fiber.set(None);
        });
        f()
    }

    /// Cancels the work in the scope, current or future.
    pub fn cancel(&self) {
        self.shared.cancelled.set(true);
        if let Some(fiber) = self.shared.fiber.get() {
            run_on_loop(fiber.loop_id, move |l| {
                if let Some(header) = l.slab.find(fiber) {
                    interrupt(l, header);
                }
            });
        }
    }

    /// Returns whether the scope has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.get()
    }

    /// Clears a cancellation, so that the scope can be used for other work.
    pub fn reset(&self) {
        self.shared.cancelled.set(false);
    }
}

impl fmt::Debug for CancelScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelScope")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// Runs `work` in that loop: at once if this thread is in the loop, else by a message.
fn run_on_loop(loop_id: u32, work: impl FnOnce(&Inner) + Send + Copy + 'static) {
    let here = try_with_loop(|l| l.id() == loop_id && (work(l), true).1).unwrap_or(false);
    if !here {
        let work = Box::new(move || with_loop(work));
        registry::send(loop_id, Message::Run(work));
    }
}

/// Makes a stopped fiber runnable, if its wait is interruptible.
fn interrupt(l: &Inner, header: &Header) {
    // A running or ready fiber finds out by itself, at its next suspending call. An uninterruptible wait is for the
    // kernel, which may be writing into the fiber's memory: its completion wakes the fiber.
    if header.state.get() == State::Parked
        && header.has(INTERRUPTIBLE)
        && stopped(l, header).is_some()
    {
        l.unpark(header);
    }
}

/// Cancels the fiber with that header.
pub(crate) fn cancel_header(l: &Inner, header: &Header) {
    debug_assert!(
        header.state.get() != State::Free,
        "the next fiber of this header would start cancelled"
    );
    header.set(CANCELLED);
    interrupt(l, header);
}

/// Returns why the fiber is stopped, if it is. A cancellation takes precedence over a deadline.
#[inline]
pub(super) fn stopped(l: &Inner, header: &Header) -> Option<Stopped> {
    if header.may_be_stopped() {
        stopped_by(l, header)
    } else {
        None
    }
}

#[inline(never)]
fn stopped_by(l: &Inner, header: &Header) -> Option<Stopped> {
    // A hard stop is the loop's last resort, so it looks through shields.
    if header.has(CANCELLED) && (header.shields().get() == 0 || l.hard_stop()) {
        return Some(Stopped::Cancelled);
    }
    let mut frame = header.scopes();
    while !frame.is_null() {
        // SAFETY: frames lie on the fiber's stack and are popped before they end. Each keeps its scope alive, because
        // `enter` borrows it.
        let (scope, outer) = unsafe { (&*(*frame).scope, (*frame).outer) };
        if scope.cancelled.get() {
            return Some(Stopped::Cancelled);
        }
        frame = outer;
    }
    let deadline = header.deadline();
    (deadline != Instant::NEVER && l.clock().is_past(deadline)).then_some(Stopped::Deadline)
}

/// Cancels a fiber on its own loop, from any thread or loop.
pub(crate) fn cancel_on(fiber: FiberId) {
    run_on_loop(fiber.loop_id, move |l| {
        if let Some(header) = l.slab.find(fiber) {
            cancel_header(l, header);
        }
    });
}

/// Cancels a fiber of this loop. Returns whether the fiber exists. Returns `false` outside a loop, and for a fiber of
/// another loop, which only its handles can cancel.
///
/// A cancelled fiber that has not run yet still runs; its first suspending call fails.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, cancel, sleep, spawn};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| sleep(Duration::from_secs(3600)));
///     let id = fiber.id();
///     assert!(cancel(id));
///     assert_eq!(fiber.join().unwrap(), Err(Stopped::Cancelled));
///     assert!(!cancel(id)); // it has ended
/// });
/// ```
pub fn cancel(fiber: FiberId) -> bool {
    try_with_loop(|l| match l.slab.find(fiber) {
        Some(header) => {
            cancel_header(l, header);
            true
        }
        None => false,
    })
    .unwrap_or(false)
}

/// Returns whether the calling fiber is stopped, that is, whether its next suspending call would fail: it was
/// cancelled, or a deadline has passed. `false` outside a fiber.
///
/// ```
/// use yue_scheduler::{Config, Loop, is_cancelled, spawn, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| {
///         let mut rounds = 0;
///         while !is_cancelled() {
///             rounds += 1;
///             let _ = yield_now();
///         }
///         rounds
///     });
///     yield_now().unwrap();
///     assert!(fiber.cancel_and_join().unwrap() > 0);
/// });
/// ```
pub fn is_cancelled() -> bool {
    try_with_loop(|l| {
        let header = l.running();
        // SAFETY: the running fiber's header lives as long as the fiber.
        !header.is_null() && unsafe { stopped(l, &*header) }.is_some()
    })
    .unwrap_or(false)
}

/// Runs `f` shielded from the fiber's cancellation and from the scopes and deadlines that it is in. For clean-up that
/// must wait. Scopes and deadlines that `f` itself enters do apply. A shield ends at the loop's hard stop.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, shield, sleep, spawn};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| {
///         let work = sleep(Duration::from_secs(3600));
///         let farewell = shield(|| sleep(Duration::from_millis(1)));
///         (work, farewell)
///     });
///     assert_eq!(fiber.cancel_and_join().unwrap(), (Err(Stopped::Cancelled), Ok(())));
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn shield<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the running fiber's header lives as long as the fiber.
    let header = unsafe { &*current_fiber() };
    let shields = header.shields();
    shields.set(shields.get() + 1);
    let (scopes, deadline) = (header.scopes(), header.deadline());
    header.set_scopes(ptr::null());
    header.set_deadline(Instant::NEVER);
    let _unshield = OnDrop(|| {
        debug_assert!(shields.get() > 0, "a shield ended twice");
        debug_assert!(
            header.scopes().is_null() && header.deadline() == Instant::NEVER,
            "a scope or a deadline that was entered inside a shield was not left"
        );
        shields.set(shields.get() - 1);
        header.set_scopes(scopes);
        header.set_deadline(deadline);
    });
    f()
}

/// Runs `f` under a deadline: from `at` on, suspending calls in `f` fail with [`Stopped::Deadline`]. The earliest of
/// nested deadlines applies.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, now, sleep, with_deadline};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let soon = now().saturating_add(Duration::from_millis(1));
///     let result = with_deadline(soon, || sleep(Duration::from_secs(3600)));
///     assert_eq!(result, Err(Stopped::Deadline));
///     sleep(Duration::from_millis(1)).unwrap(); // the deadline is no longer in force
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn with_deadline<R>(at: Instant, f: impl FnOnce() -> R) -> R {
    under_deadline(at, f).0
}

/// Returns the earliest deadline that the calling fiber is under, for code that tells another program about it.
/// `Instant::NEVER` if there is none, and outside a fiber.
///
/// ```
/// use yue_scheduler::{Config, Instant, Loop, current_deadline, now, shield, with_deadline};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert_eq!(current_deadline(), Instant::NEVER);
///     let soon = now().saturating_add(Duration::from_secs(1));
///     with_deadline(soon, || {
///         assert_eq!(current_deadline(), soon);
///         assert_eq!(shield(current_deadline), Instant::NEVER);
///     });
/// });
/// ```
#[inline]
pub fn current_deadline() -> Instant {
    let header = try_with_loop(Inner::running).unwrap_or(ptr::null());
    // SAFETY: the running fiber's header lives as long as the fiber.
    unsafe { header.as_ref() }.map_or(Instant::NEVER, Header::deadline)
}

/// Runs `f` under a deadline. Also returns whether this deadline refused a call.
#[track_caller]
fn under_deadline<R>(at: Instant, f: impl FnOnce() -> R) -> (R, bool) {
    // SAFETY: the running fiber's header lives as long as the fiber.
    let header = unsafe { &*current_fiber() };
    let frame = DeadlineFrame {
        refused: Cell::new(false),
    };
    let (deadline, earliest) = (header.deadline(), header.earliest.get());
    // Of two equal deadlines the outer one is in force, and its `timeout` is the one that elapses.
    if at < deadline {
        header.set_deadline(at);
        header.earliest.set(&frame);
    }
    let _restore = OnDrop(|| {
        debug_assert!(
            header.deadline() == at.min(deadline),
            "deadlines are left in the reverse order of their entries"
        );
        header.set_deadline(deadline);
        header.earliest.set(earliest);
    });
    (f(), frame.refused.get())
}

/// Runs a part of a call whose failure does not make the call fail: a deadline that stops a wait in `f` does not count
/// as having refused the call.
///
/// [`timeout`] drops a result if its deadline refused a call. A call that returns a result, and also pauses or cleans
/// up, does the latter inside this function, so that the result is not lost. Like [`refuse_call`](crate::refuse_call),
/// it is for code that implements such calls. Outside a fiber it only calls `f`.
///
/// ```
/// use yue_scheduler::{Config, Elapsed, Loop, sleep, timeout, unrefused};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (short, nap) = (Duration::from_millis(1), || sleep(Duration::from_secs(3600)).is_ok());
///     assert_eq!(timeout(short, || ("bytes", nap())), Err(Elapsed));
///     assert_eq!(timeout(short, || ("bytes", unrefused(nap))), Ok(("bytes", false)));
/// });
/// ```
pub fn unrefused<R>(f: impl FnOnce() -> R) -> R {
    let header = try_with_loop(Inner::running).unwrap_or(ptr::null());
    // SAFETY: the running fiber's header lives as long as the fiber.
    let frame = unsafe { header.as_ref() }.map_or(ptr::null(), |header| header.earliest.get());
    // SAFETY: frames lie on the fiber's stack and are popped before they end; this one is below the caller's.
    let refused = unsafe { frame.as_ref() }.map(|frame| &frame.refused);
    let before = refused.is_some_and(Cell::get);
    let result = f();
    if let Some(refused) = refused {
        refused.set(before);
    }
    result
}

/// Runs `f` under a deadline `duration` from now.
///
/// ```
/// use yue_scheduler::{Config, Elapsed, Loop, sleep, timeout};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert_eq!(timeout(Duration::from_secs(3600), || 42), Ok(42));
///     let late = timeout(Duration::from_millis(1), || sleep(Duration::from_secs(3600)));
///     assert_eq!(late, Err(Elapsed));
/// });
/// ```
///
/// # Errors
/// [`Elapsed`] if this very deadline refused a suspending call in `f` (the outer one, if two deadlines are equal). The
/// result of `f` is then dropped.
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn timeout<R>(duration: Duration, f: impl FnOnce() -> R) -> Result<R, Elapsed> {
    let at = deadline_after(duration);
    match under_deadline(at, f) {
        (_, true) => Err(Elapsed),
        (result, false) => Ok(result),
    }
}
