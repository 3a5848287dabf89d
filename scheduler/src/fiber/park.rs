//! Park and wake: the two verbs that everything else is built from.
//!
//! ```text
//!   let waker = prepare_park();      a new wait begins: sequence + 1
//!   give the waker to somebody
//!   park("why")                      suspends, unless the waker was used in between
//! ```
//!
//! A waker names its loop and its fiber's header by number, and its wait by the header's count of waits, which no other
//! wait of that header ever has (64 bits, not begun anew for the next fiber). One that comes late (the fiber went on
//! for another reason, or is over) does not match and does nothing; so wakers need no reference counts, are used at
//! most once, and may be dropped. A wake never runs its target: it puts it into the run queue.

use super::cancel::stopped;
use super::header::{Header, INTERRUPTIBLE, State, WOKEN, Words};
use super::hook::{OnDrop, depart, is_in_switch, switch_out, try_switch_out};
use super::{FiberId, Stopped};
use crate::event_loop::{Inner, Message, current_fiber, registry, try_with_loop, with_loop};
use crate::time::Instant;
use std::marker::PhantomData;

/// What ended a wait with a time limit.
///
/// ```
/// use yue_scheduler::{Config, Loop, Wakeup, now, park_until, prepare_park};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     prepare_park().wake();
///     assert_eq!(park_until("nap", None).unwrap(), Wakeup::Woken);
///     prepare_park(); // nobody has the waker
///     let soon = now().saturating_add(Duration::from_millis(1));
///     assert_eq!(park_until("nap", Some(soon)).unwrap(), Wakeup::TimedOut);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// The waker was used.
    Woken,
    /// The time came first.
    TimedOut,
}

/// Ends one wait of one fiber of this thread.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, park, prepare_park, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let waker = prepare_park();
///     assert_eq!(waker.fiber(), current_id());
///     let other = spawn(move || (waker.wake(), waker.wake()));
///     park("a friend").unwrap();
///     assert_eq!(other.join().unwrap(), (true, false)); // only one ends the wait
/// });
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LocalWaker {
    wait: RemoteWaker,
    generation: u32,
    _this_thread: PhantomData<*const ()>,
}

/// Ends one wait of one fiber, from any thread.
///
/// ```
/// use yue_scheduler::{Config, Loop, park, prepare_park};
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
/// use std::thread;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let answer = Arc::new(AtomicU32::new(0));
///     let (waker, place) = (prepare_park().remote(), answer.clone());
///     thread::spawn(move || {
///         place.store(42, Ordering::Release);
///         waker.wake();
///     });
///     park("the thread's answer").unwrap();
///     assert_eq!(answer.load(Ordering::Acquire), 42);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteWaker {
    loop_id: u32,
    index: u32,
    sequence: u64,
}

impl LocalWaker {
    /// Makes the fiber runnable if it is still in this wait. Returns whether it was this waker that ended the wait.
    ///
    /// While the thread is not in the fiber's loop (between two ticks, or in another loop) the wake is sent as
    /// [`RemoteWaker::wake`] would, and the answer is `false`.
    #[inline]
    pub fn wake(self) -> bool {
        self.wait.wake_from_here()
    }

    /// The same wait, for another thread.
    #[inline]
    pub fn remote(self) -> RemoteWaker {
        self.wait
    }

    /// The fiber that waits.
    pub fn fiber(self) -> FiberId {
        FiberId {
            loop_id: self.wait.loop_id,
            index: self.wait.index,
            generation: self.generation,
        }
    }

    /// The waker of the calling fiber's present wait, if `wait` is that.
    pub(crate) fn of_this_fiber(wait: RemoteWaker) -> Option<LocalWaker> {
        let (l, header) = here();
        let same = l.id() == wait.loop_id
            && header.index.get() == wait.index
            && header.sequence.get() == wait.sequence;
        same.then_some(LocalWaker {
            wait,
            generation: header.generation.get(),
            _this_thread: PhantomData,
        })
    }
}

impl RemoteWaker {
    /// Makes the fiber runnable if it is still in this wait. A loop that is gone is ignored. Never blocks.
    pub fn wake(self) {
        registry::send(self.loop_id, Message::Wake(self));
    }

    /// As [`LocalWaker::wake`], on any thread.
    #[inline]
    pub(super) fn wake_from_here(self) -> bool {
        match try_with_loop(|l| (l.id() == self.loop_id).then(|| wake_in(l, self))) {
            Some(Some(woken)) => woken,
            _ => {
                self.wake();
                false
            }
        }
    }

    /// The number of the wait among all waits of its fiber's header; never 0.
    pub(super) fn sequence(self) -> u64 {
        self.sequence
    }

    /// The waker of another wait of the same fiber.
    pub(super) fn of_wait(self, sequence: u64) -> RemoteWaker {
        RemoteWaker { sequence, ..self }
    }
}

const _: () = assert!(
    size_of::<RemoteWaker>() == 16,
    "a waker is passed in two registers"
);

/// Does what a waker asks, on the loop's thread.
#[inline]
pub(crate) fn wake_in(l: &Inner, wait: RemoteWaker) -> bool {
    let Some(header) = l.slab.at(wait.index) else {
        return false;
    };
    if header.sequence.get() != wait.sequence || header.has(WOKEN) {
        return false;
    }
    match header.state.get() {
        State::Parked => {
            header.set(WOKEN);
            l.unpark_soon(header);
            l.count_wake();
            true
        }
        // Not parked yet, or already on its way for another reason: the park that comes returns at once.
        State::Running | State::Ready => {
            header.set(WOKEN);
            l.count_wake();
            true
        }
        State::Free | State::Abandoned => false,
    }
}

/// Begins a wait of the calling fiber: wakers of earlier waits are void from here on.
///
/// ```
/// use yue_scheduler::{Config, Loop, park, prepare_park};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let stale = prepare_park();
///     let waker = prepare_park();
///     assert!(!stale.wake());
///     assert!(waker.wake());
///     park("what has come already").unwrap(); // returns at once
/// });
/// ```
///
/// # Panics
/// Outside a fiber; in a [`SwitchHook`](crate::SwitchHook), whose fiber is about to wait by the waker that it has.
#[inline]
pub fn prepare_park() -> LocalWaker {
    let (l, header) = here();
    if is_in_switch(header) {
        refuse_wait();
    }
    let sequence = header.sequence.get() + 1;
    header.sequence.set(sequence);
    header.clear(WOKEN);
    LocalWaker {
        wait: RemoteWaker {
            loop_id: l.id(),
            index: header.index.get(),
            sequence,
        },
        generation: header.generation.get(),
        _this_thread: PhantomData,
    }
}

#[cold]
fn refuse_wait() -> ! {
    panic!(
        "a switch hook cannot begin a wait: the waker that its fiber is about to wait for would become void"
    );
}

/// Waits until the waker of the last [`prepare_park`] is used. `reason` is what listings show.
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
///         park("what never comes")
///     });
///     assert_eq!(fiber.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
/// });
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber is cancelled or a deadline passes first; the waker is void then, or soon: the next
/// `prepare_park` sees to that.
///
/// # Panics
/// Outside a fiber, or where suspension is forbidden; but a fiber that has been told to stop gets the error there, too.
#[inline]
pub fn park(reason: &'static str) -> Result<(), Stopped> {
    park_until(reason, None).map(|_| ())
}

/// As [`park`], but waits no longer than to `at`.
///
/// ```
/// use yue_scheduler::{Config, Loop, Wakeup, now, park_until, prepare_park};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     prepare_park();
///     let soon = now().saturating_add(Duration::from_millis(1));
///     let wakeup = park_until("what never comes", Some(soon)).unwrap();
///     assert_eq!(wakeup, Wakeup::TimedOut);
/// });
/// ```
///
/// # Errors
/// As [`park`].
///
/// # Panics
/// As [`park`].
pub fn park_until(reason: &'static str, at: Option<Instant>) -> Result<Wakeup, Stopped> {
    park_unrefused(reason, at.unwrap_or(Instant::NEVER)).map_err(refuse_call)
}

/// As [`park_until`], for a caller that may find that it got what it waited for after all: an error is not a refusal
/// yet. The caller says so with [`refuse_call`] when it hands the error on.
///
/// [`timeout`](crate::timeout) drops a result only if its deadline refused a call. So an operation that is cancelled,
/// and then waited for, uses this: when it completed all the same, nothing was refused.
///
/// ```
/// use yue_scheduler::{
///     Config, Elapsed, Instant, Loop, Stopped, park_unrefused, prepare_park, refuse_call, timeout,
/// };
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let wait = || {
///         prepare_park(); // nobody has the waker
///         park_unrefused("what never comes", Instant::NEVER)
///     };
///     let short = Duration::from_millis(1);
///     assert_eq!(timeout(short, || wait().is_err()), Ok(true));
///     assert_eq!(timeout(short, || wait().map_err(refuse_call)), Err(Elapsed));
/// });
/// ```
///
/// # Errors
/// As [`park`].
///
/// # Panics
/// As [`park`].
#[inline(always)]
pub fn park_unrefused(reason: &'static str, limit: Instant) -> Result<Wakeup, Stopped> {
    let (l, header) = here();
    if header.has(WOKEN) {
        return Ok(Wakeup::Woken);
    }
    if let Some(reason) = stopped(l, header) {
        // Once through the run queue, so that a loop that ignores the error cannot starve the others. Where that is
        // forbidden (in a destructor that runs during a panic, say) the answer is the same.
        let _ = try_switch_out(header, || l.requeue(header));
        return if header.has(WOKEN) {
            Ok(Wakeup::Woken)
        } else {
            Err(reason)
        };
    }
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
    }
}

/// Waits until the waker of the last [`prepare_park`] is used, whatever else happens to the fiber. For what must not be
/// left behind: an operation that the kernel works on.
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
///     fiber.cancel(); // it learns of it when its wait is over
///     assert!(fiber.join().unwrap());
/// });
/// ```
///
/// # Panics
/// Outside a fiber, or where suspension is forbidden.
pub fn park_uninterruptible(reason: &'static str) {
    let (l, header) = here();
    while !header.has(WOKEN) {
        suspend_parked(l, header, reason, Instant::NEVER, 0);
    }
}

// Inlined for the same reason as `yield_now`.
#[inline(always)]
fn suspend_parked(
    l: &Inner,
    header: &Header,
    reason: &'static str,
    alarm: Instant,
    interruptible: u8,
) {
    let departure = depart(header);
    header.reason.set(Words::new(reason));
    header.clear(INTERRUPTIBLE);
    header.set(interruptible);
    // Also when a switch hook panics on the way back: the timer is armed only while the fiber is parked.
    let _disarm = OnDrop(|| l.wheel.cancel(&header.timer));
    if header.has(WOKEN) {
        // A switch hook woke it, after the caller looked.
        l.requeue(header);
    } else {
        if alarm != Instant::NEVER {
            // SAFETY: headers stay in place; `_disarm` cancels the timer before the fiber goes on.
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
/// [`Stopped`] when the fiber has been told to stop; it has yielded all the same.
///
/// # Panics
/// Outside a fiber, or where suspension is forbidden.
// Inlined for the processor's return-address prediction: a call and a return around the switch would each be
// mispredicted (seen: 12 ns a yield inlined, 50 ns not).
#[inline(always)]
pub fn yield_now() -> Result<(), Stopped> {
    let (l, header) = here();
    switch_out(header, || l.requeue(header));
    match stopped(l, header) {
        None => Ok(()),
        Some(reason) => Err(refuse(header, reason)),
    }
}

/// As [`yield_now`] where the fiber may be suspended. Elsewhere (in [`no_suspend`](crate::no_suspend), or in a
/// destructor that runs during a panic) it does not yield: for calls that yield only to be fair to other fibers.
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
/// [`Stopped`] when the fiber has been told to stop.
///
/// # Panics
/// Outside a fiber.
#[inline(always)]
pub fn yield_if_allowed() -> Result<(), Stopped> {
    let (l, header) = here();
    let _ = try_switch_out(header, || l.requeue(header));
    match stopped(l, header) {
        None => Ok(()),
        Some(reason) => Err(refuse(header, reason)),
    }
}

/// Begins a wait, as [`prepare_park`] does, for the sake of its number: differs from fiber to fiber and from wait to
/// wait, and is the same in a run that is repeated.
pub(crate) fn begin_wait_number() -> u64 {
    let wait = prepare_park().wait;
    wait.sequence.wrapping_add(u64::from(wait.index) << 32)
}

/// What a suspending call does first: in a fiber that has been told to stop it goes once through the run queue, where
/// the fiber may be suspended, and fails. Outside fibers nothing is ever told to stop.
///
/// # Errors
/// [`Stopped`], as the call's own.
#[inline]
pub(crate) fn check_stopped() -> Result<(), Stopped> {
    let told = try_with_loop(|l| {
        // SAFETY: the running fiber's header lives as long as the fiber.
        let header = unsafe { l.running().as_ref()? };
        stopped(l, header)
    });
    match told.flatten() {
        None => Ok(()),
        Some(reason) => Err(stop_here(reason)),
    }
}

#[cold]
fn stop_here(reason: Stopped) -> Stopped {
    let (l, header) = here();
    let _ = try_switch_out(header, || l.make_ready(header));
    refuse(header, reason)
}

/// Notes that a call of the calling fiber is refused for `reason`, and gives it back: see [`park_unrefused`].
///
/// # Panics
/// Outside a fiber.
pub fn refuse_call(reason: Stopped) -> Stopped {
    refuse(here().1, reason)
}

/// As [`RemoteWaker::wake`], but at once if this thread is in the fiber's loop.
pub(crate) fn wake_from_here(wait: RemoteWaker) {
    let woken = try_with_loop(|l| l.id() == wait.loop_id && (wake_in(l, wait), true).1);
    if woken != Some(true) {
        wait.wake();
    }
}

/// Notes which deadline refused a call, so that the `timeout` it belongs to knows.
#[cold]
fn refuse(header: &Header, reason: Stopped) -> Stopped {
    let frame = header.earliest.get();
    if reason == Stopped::Deadline && !frame.is_null() {
        // SAFETY: frames lie on the fiber's stack and are taken off before they end.
        unsafe { (*frame).refused.set(true) };
    }
    reason
}

/// The loop and the header of the calling fiber. Both stay where they are for as long as the fiber runs, and a fiber
/// never leaves its thread, so that the references may be held over a switch; all that is behind them is in cells.
#[inline]
fn here() -> (&'static Inner, &'static Header) {
    let header = current_fiber();
    // SAFETY: `current_fiber` panics outside a fiber; inside one, loop and header outlive the caller's frame, which is
    // on the fiber's stack. The `'static` never leaves this module's functions.
    with_loop(|l| unsafe { (&*std::ptr::from_ref(l), &*header) })
}
