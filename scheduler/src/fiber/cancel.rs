//! Cancellation and deadlines: cooperative, by error, sticky.
//!
//! A fiber is told to stop by [`cancel`], by the [`CancelScope`] it runs in, or by a deadline that passes. From then on
//! every suspending call answers [`Stopped`], until the scope or the deadline is left. The program passes the error up
//! with `?` and cleans up on the way; clean-up that must wait runs inside [`shield`].
//!
//! Who waits for an operation that the kernel works on does not return at once: it asks for the operation's cancel and
//! goes on waiting for its terminal completion, with [`park_uninterruptible`](super::park_uninterruptible).
//!
//! Scopes lie in a list on the fiber's stack; the header points to the innermost one and holds the earliest deadline.

use super::header::{CANCELLED, Header, INTERRUPTIBLE, State};
use super::hook::OnDrop;
use crate::event_loop::{Inner, current_fiber, try_with_loop, with_loop};
use crate::time::Instant;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Why a suspending call came back without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The fiber, or the scope it runs in, was cancelled.
    #[error("the fiber was cancelled")]
    Cancelled,
    /// A deadline that was in force has passed.
    #[error("the deadline has passed")]
    Deadline,
}

impl From<Stopped> for io::Error {
    /// `TimedOut` for a deadline, `Other` for a cancel; never `Interrupted`, which `read_exact` would retry.
    fn from(stopped: Stopped) -> io::Error {
        let kind = match stopped {
            Stopped::Cancelled => io::ErrorKind::Other,
            Stopped::Deadline => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, stopped)
    }
}

/// A [`timeout`] passed before its closure was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the timeout has passed")]
pub struct Elapsed;

/// A part of a fiber's work that can be cancelled by itself, as one request of many that a fiber serves.
///
/// Clones are the same scope. It may be entered again after [`CancelScope::reset`].
#[derive(Clone, Default)]
pub struct CancelScope {
    shared: Rc<Scope>,
}

#[derive(Default)]
struct Scope {
    cancelled: Cell<bool>,
    /// The fiber that runs in the scope: (index, generation).
    fiber: Cell<Option<(u32, u32)>>,
}

pub(crate) struct ScopeFrame {
    scope: *const Scope,
    outer: *const ScopeFrame,
}

impl CancelScope {
    /// A scope that nobody has entered.
    pub fn new() -> Self {
        CancelScope::default()
    }

    /// Runs `f` in the scope, on the calling fiber.
    ///
    /// # Panics
    /// Outside a fiber, or while a fiber is in the scope.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the running fiber's header lives as long as the fiber.
        let header = unsafe { &*current_fiber() };
        let before = self
            .shared
            .fiber
            .replace(Some((header.index.get(), header.generation.get())));
        assert!(
            before.is_none(),
            "a cancel scope can be entered by one fiber at a time"
        );
        let frame = ScopeFrame {
            scope: Rc::as_ptr(&self.shared),
            outer: header.scopes.get(),
        };
        header.scopes.set(&frame);
        let _leave = OnDrop(|| {
            header.scopes.set(frame.outer);
            self.shared.fiber.set(None);
        });
        f()
    }

    /// Cancels what runs in the scope, or will.
    pub fn cancel(&self) {
        self.shared.cancelled.set(true);
        if let Some((index, generation)) = self.shared.fiber.get() {
            try_with_loop(|l| {
                l.slab
                    .find(index, generation)
                    .map(|header| interrupt(l, header))
            });
        }
    }

    /// Whether the scope has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.get()
    }

    /// Forgets a cancel, so that the scope can serve for other work.
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

/// Wakes a fiber whose wait may be interrupted; it looks by itself why.
fn interrupt(l: &Inner, header: &Header) {
    if header.state.get() == State::Parked && may_interrupt(l, header) {
        l.make_ready(header);
    }
}

fn may_interrupt(l: &Inner, header: &Header) -> bool {
    header.has(INTERRUPTIBLE) && (header.shields.get() == 0 || l.hard_stop())
}

/// Cancels the fiber with that header.
pub(crate) fn cancel_header(l: &Inner, header: &Header) {
    header.set(CANCELLED);
    interrupt(l, header);
}

/// Why the fiber must stop, if it must. A cancel wins over a deadline.
#[inline]
pub(super) fn stopped(l: &Inner, header: &Header) -> Option<Stopped> {
    if header.shields.get() != 0 && !l.hard_stop() {
        return None;
    }
    if header.has(CANCELLED) {
        return Some(Stopped::Cancelled);
    }
    let mut frame = header.scopes.get();
    while !frame.is_null() {
        // SAFETY: frames lie on the fiber's stack and are popped before they end; each keeps its scope alive, since
        // `enter` borrows it.
        let (scope, outer) = unsafe { (&*(*frame).scope, (*frame).outer) };
        if scope.cancelled.get() {
            return Some(Stopped::Cancelled);
        }
        frame = outer;
    }
    let deadline = header.deadline.get();
    (deadline != Instant::NEVER && deadline <= l.now()).then_some(Stopped::Deadline)
}

/// Cancels a fiber of this loop. Returns whether it was there to be cancelled.
pub fn cancel(fiber: super::FiberId) -> bool {
    try_with_loop(|l| match l.find(fiber) {
        Some(header) => {
            cancel_header(l, header);
            true
        }
        None => false,
    })
    .unwrap_or(false)
}

/// Whether the calling fiber has been told to stop. `false` outside a fiber and inside [`shield`].
pub fn is_cancelled() -> bool {
    try_with_loop(|l| {
        let header = l.running();
        // SAFETY: the running fiber's header lives as long as the fiber.
        !header.is_null() && unsafe { stopped(l, &*header) }.is_some()
    })
    .unwrap_or(false)
}

/// Runs `f` shielded from cancels and deadlines, for clean-up that must wait. A shield ends at the loop's hard stop.
///
/// # Panics
/// Outside a fiber.
pub fn shield<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the running fiber's header lives as long as the fiber.
    let header = unsafe { &*current_fiber() };
    header.shields.set(header.shields.get() + 1);
    let _unshield = OnDrop(|| header.shields.set(header.shields.get() - 1));
    f()
}

/// Runs `f` under a deadline: from `at` on, suspending calls in it fail with [`Stopped::Deadline`]. The earliest of
/// nested deadlines wins.
///
/// # Panics
/// Outside a fiber.
pub fn with_deadline<R>(at: Instant, f: impl FnOnce() -> R) -> R {
    // SAFETY: the running fiber's header lives as long as the fiber.
    let header = unsafe { &*current_fiber() };
    let outer = header.deadline.get();
    header.deadline.set(outer.min(at));
    let _restore = OnDrop(|| header.deadline.set(outer));
    f()
}

/// Runs `f` under a deadline `duration` from now.
///
/// # Errors
/// [`Elapsed`] if this very deadline refused a suspending call in `f`; what `f` returned is dropped then.
///
/// # Panics
/// Outside a fiber.
pub fn timeout<R>(duration: Duration, f: impl FnOnce() -> R) -> Result<R, Elapsed> {
    let at = with_loop(|l| l.refresh_clock()).saturating_add(duration);
    let result = with_deadline(at, f);
    // SAFETY: the running fiber's header lives as long as the fiber.
    let refused = unsafe { (*current_fiber()).refused.get() };
    if refused == at {
        Err(Elapsed)
    } else {
        Ok(result)
    }
}
