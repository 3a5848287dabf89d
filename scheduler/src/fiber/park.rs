//! Park and wake, the two verbs that everything else is built from.
//!
//! ```text
//!   let waker = prepare_park();      a new wait begins: sequence + 1
//!   hand the waker to another fiber, a thread or a driver
//!   park("why")                      suspends, unless the waker was already used
//! ```
//!
//! The waker names the wait by its number (see `waker.rs`), so a late waker does nothing.
//!
//! The flag `WOKEN` is what closes the gap between "nothing is there yet" and "suspended", in which a wake-up could get
//! lost. J. H. Saltzer described it as the *wakeup waiting switch* (Traffic Control in a Multiplexed Computer System,
//! MIT, 1966).

use super::cancel::{Stopped, stopped};
use super::current::here;
use super::header::{Header, INTERRUPTIBLE, PackedStr, State, WOKEN};
use super::hook::{OnDrop, depart, is_in_switch, switch_out, try_switch_out};
use super::waker::LocalWaker;
use crate::event_loop::seam::{Inner, try_with_loop};
use crate::time::Instant;

/// The end of a wait with a time limit.
///
/// ```
/// use yue_scheduler::{Config, Loop, Wakeup, now, park_until, prepare_park};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     prepare_park().wake();
///     assert_eq!(park_until("nap", None).unwrap(), Wakeup::Woken);
///     prepare_park(); // the waker is dropped
///     let soon = now().saturating_add(Duration::from_millis(1));
///     assert_eq!(park_until("nap", Some(soon)).unwrap(), Wakeup::TimedOut);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// The waker was used.
    Woken,
    /// The time limit passed first.
    TimedOut,
}

/// Begins a wait of the calling fiber. Wakers of earlier waits are void from here on.
///
/// ```
/// use yue_scheduler::{Config, Loop, park, prepare_park};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let stale = prepare_park();
///     let waker = prepare_park();
///     assert!(!stale.wake());
///     assert!(waker.wake());
///     park("an early wake-up").unwrap(); // returns at once
/// });
/// ```
///
/// # Panics
/// When called outside a fiber, or in a [`SwitchHook`](crate::SwitchHook), whose fiber is about to wait with the waker
/// that it already has.
#[inline]
#[track_caller]
pub fn prepare_park() -> LocalWaker {
    let (l, header) = here();
    if is_in_switch(header) {
        refuse_wait();
    }
    debug_assert!(
        header.state.get() == State::Running,
        "only the running fiber begins a wait"
    );
    debug_assert!(
        !header.timer.is_armed(),
        "a timer of an earlier wait is still armed"
    );
    // The number first, then the flag: from here on a waker of an earlier wait does not match, so it cannot set the
    // flag of this one.
    header.sequence.set(header.sequence.get() + 1);
    header.clear(WOKEN);
    LocalWaker::of_current_wait(l, header)
}

#[cold]
#[track_caller]
fn refuse_wait() -> ! {
    panic!(
        "a switch hook cannot begin a wait: the waker that its fiber is about to wait for would become void"
    );
}

/// Waits until the waker of the last [`prepare_park`] is used. Listings show `reason`.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, park, prepare_park, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let waker = prepare_park();
///     let _ = spawn(move || waker.wake());
///     park("the other fiber").unwrap();
///
///     let fiber = spawn(|| {
///         prepare_park();
///         park("nothing")
///     });
///     assert_eq!(fiber.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
/// });
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber is cancelled or a deadline passes first. The waker is then void, or the next
/// `prepare_park` makes it so.
///
/// # Panics
/// When called outside a fiber, or where suspension is forbidden. A stopped fiber gets the error even there.
#[inline]
#[track_caller]
pub fn park(reason: &'static str) -> Result<(), Stopped> {
    park_until(reason, None).map(|_| ())
}

/// Like [`park`], but returns at `at` at the latest.
///
/// # Errors
/// See [`park`].
///
/// # Panics
/// See [`park`].
#[track_caller]
pub fn park_until(reason: &'static str, at: Option<Instant>) -> Result<Wakeup, Stopped> {
    park_unrefused(reason, at.unwrap_or(Instant::NEVER)).map_err(refuse_call)
}

/// Like [`park_until`], for a caller that may find that its operation completed after all. An error does not count as a
/// refusal yet; the caller reports it with [`refuse_call`] when it returns the error.
///
/// [`timeout`](crate::timeout) drops a result only if its deadline refused a call. An operation that is cancelled and
/// then waited for uses this function: if it completed anyway, nothing was refused.
///
/// ```
/// use yue_scheduler::{
///     Config, Elapsed, Instant, Loop, Stopped, park_unrefused, prepare_park, refuse_call, timeout,
/// };
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let wait = || {
///         prepare_park(); // the waker is dropped
///         park_unrefused("nothing", Instant::NEVER)
///     };
///     let short = Duration::from_millis(1);
///     assert_eq!(timeout(short, || wait().is_err()), Ok(true));
///     assert_eq!(timeout(short, || wait().map_err(refuse_call)), Err(Elapsed));
/// });
/// ```
///
/// # Errors
/// See [`park`].
///
/// # Panics
/// See [`park`].
#[inline(always)]
#[track_caller]
pub fn park_unrefused(reason: &'static str, limit: Instant) -> Result<Wakeup, Stopped> {
    let (l, header) = here();
    // Before the check for a stop: what was granted must not be lost to a cancellation that came with it.
    if header.has(WOKEN) {
        return Ok(Wakeup::Woken);
    }
    if let Some(reason) = stopped(l, header) {
        // Once through the run queue, so that a loop that ignores the error cannot starve the other fibers. Where
        // suspension is forbidden (for example in a destructor that runs during a panic) the result is the same.
        let _ = try_switch_out(header, || l.requeue(header));
        // The waker may have been used while the other fibers ran.
        return if header.has(WOKEN) {
            Ok(Wakeup::Woken)
        } else {
            Err(reason)
        };
    }
    // One timer for both. Which of them has passed is found out below, by the clock.
    let alarm = limit.min(header.deadline());
    loop {
        suspend_parked(l, header, reason, alarm, INTERRUPTIBLE);
        if header.has(WOKEN) {
            return Ok(Wakeup::Woken);
        }
        if let Some(reason) = stopped(l, header) {
            return Err(reason);
        }
        if l.clock().is_past(limit) {
            return Ok(Wakeup::TimedOut);
        }
        // Woken for nothing: a scope was cancelled and reset before the fiber ran. The wait continues under its number.
    }
}

/// Waits until the waker of the last [`prepare_park`] is used, even if the fiber is cancelled or a deadline passes. For
/// operations in the kernel, which must not be left behind.
///
/// ```
/// use yue_scheduler::{Config, Loop, is_cancelled, park_uninterruptible, prepare_park, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| {
///         let waker = prepare_park();
///         let _ = spawn(move || waker.wake());
///         park_uninterruptible("the kernel");
///         is_cancelled()
///     });
///     fiber.cancel(); // it finds out when its wait ends
///     assert!(fiber.join().unwrap());
/// });
/// ```
///
/// # Panics
/// When called outside a fiber, or where suspension is forbidden.
#[track_caller]
pub fn park_uninterruptible(reason: &'static str) {
    let (l, header) = here();
    // A loop, so that no resume, whatever its reason, leaves an operation of the kernel behind.
    while !header.has(WOKEN) {
        suspend_parked(l, header, reason, Instant::NEVER, 0);
        debug_assert!(
            header.has(WOKEN),
            "only its waker ends an uninterruptible wait"
        );
    }
}

// Inlined for the same reason as `yield_now`.
#[inline(always)]
#[track_caller]
fn suspend_parked(
    l: &Inner,
    header: &Header,
    reason: &'static str,
    alarm: Instant,
    interruptible: u8,
) {
    // First, because it may panic. Everything below only writes to cells.
    let departure = depart(header);
    debug_assert!(
        !header.timer.is_armed(),
        "a parked fiber has one timer, and a running one none"
    );
    header.reason.set(PackedStr::new(reason));
    header.clear(INTERRUPTIBLE);
    header.set(interruptible);
    // Also when a switch hook panics on the way back, because the timer may be armed only while the fiber is parked.
    let _disarm = OnDrop(|| l.wheel.cancel(&header.timer));
    if header.has(WOKEN) {
        // A switch hook woke it after the caller had checked.
        l.requeue(header);
    } else {
        if alarm != Instant::NEVER {
            // SAFETY: headers do not move; `_disarm` cancels the timer before the fiber resumes.
            unsafe { l.wheel.arm(&header.timer, alarm) };
        }
        l.park(header);
    }
    departure.suspend();
}

/// Lets the other runnable fibers run first.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| 42);
///     yield_now().unwrap();
///     assert!(fiber.is_done());
///     assert_eq!(fiber.join().unwrap(), 42);
/// });
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber was cancelled or a deadline has passed. It has yielded anyway.
///
/// # Panics
/// When called outside a fiber, or where suspension is forbidden.
// Inlined for the processor's return-address prediction: a call and a return around the switch would each be
// mispredicted (measured: a yield takes 12 ns inlined, 50 ns otherwise).
#[inline(always)]
#[track_caller]
pub fn yield_now() -> Result<(), Stopped> {
    let (l, header) = here();
    switch_out(header, || l.requeue(header));
    match stopped(l, header) {
        None => Ok(()),
        Some(reason) => Err(refuse(header, reason)),
    }
}

/// Like [`yield_now`] where the fiber may be suspended. Elsewhere (in [`no_suspend`](crate::no_suspend), or in a
/// destructor that runs during a panic) it does not yield. For calls that yield only to be fair to other fibers.
///
/// ```
/// use yue_scheduler::{Config, Loop, no_suspend, spawn, yield_if_allowed};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| ());
///     no_suspend(yield_if_allowed).unwrap();
///     assert!(!fiber.is_done());
///     yield_if_allowed().unwrap();
///     assert!(fiber.is_done());
/// });
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber was cancelled or a deadline has passed.
///
/// # Panics
/// When called outside a fiber.
#[inline(always)]
#[track_caller]
pub fn yield_if_allowed() -> Result<(), Stopped> {
    let (l, header) = here();
    let _ = try_switch_out(header, || l.requeue(header));
    match stopped(l, header) {
        None => Ok(()),
        Some(reason) => Err(refuse(header, reason)),
    }
}

/// Begins a wait, like [`prepare_park`], and returns its number, which differs from fiber to fiber and from wait to
/// wait, and is the same in a repeated run.
#[track_caller]
pub(crate) fn begin_wait_number() -> u64 {
    let waker = prepare_park();
    let index = u64::from(waker.fiber().index);
    waker.remote().sequence().wrapping_add(index << 32)
}

/// The first step of a suspending call. A stopped fiber goes through the run queue once, where it may be suspended, and
/// the call fails. Outside fibers nothing is ever stopped.
///
/// # Errors
/// [`Stopped`], which the call returns.
#[inline]
pub(crate) fn check_stopped() -> Result<(), Stopped> {
    let reason = try_with_loop(|l| {
        // SAFETY: the running fiber's header lives as long as the fiber.
        let header = unsafe { l.running().as_ref()? };
        stopped(l, header)
    });
    match reason.flatten() {
        None => Ok(()),
        Some(reason) => Err(yield_and_refuse(reason)),
    }
}

#[cold]
#[track_caller]
fn yield_and_refuse(reason: Stopped) -> Stopped {
    let (l, header) = here();
    let _ = try_switch_out(header, || l.make_ready(header));
    refuse(header, reason)
}

/// Records that a call of the calling fiber is refused for `reason`, and returns `reason`: see [`park_unrefused`].
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn refuse_call(reason: Stopped) -> Stopped {
    refuse(here().1, reason)
}

/// Records in the earliest deadline that it refused a call, for the `timeout` that set it.
#[cold]
fn refuse(header: &Header, reason: Stopped) -> Stopped {
    let frame = header.earliest.get();
    if reason == Stopped::Deadline && !frame.is_null() {
        // SAFETY: frames lie on the fiber's stack and are popped before they end.
        unsafe { (*frame).refused.set(true) };
    }
    reason
}
