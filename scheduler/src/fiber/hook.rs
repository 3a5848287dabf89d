//! Rules for suspension: code in which a fiber may not suspend, and hooks that run when it does.
//!
//! Some code keeps state outside its stack in last-in-first-out order (an epoch pin, a scoped thread-local, the
//! bookkeeping of a binding). It breaks if another fiber runs in between. Such code runs inside [`no_suspend`], where a
//! suspension panics with an explanation. Other code must be notified of a switch (an interpreter must know which stack
//! is running). It runs inside [`with_switch_hook`].
//!
//! Frames form a list on the fiber's own stack; the header points to the innermost one.

use super::header::{Header, State};
use super::switch_hook::{HookFrame, Never, SwitchHook};
use crate::event_loop::seam::{Inner, current_fiber, try_with_loop};
use std::ptr;

/// Collects the descriptions by the hooks of a fiber that is not running, innermost first.
///
/// # Safety
/// The fiber has started, has not ended, and is not the running one.
pub(crate) unsafe fn descriptions(header: &Header) -> Vec<String> {
    let mut all = Vec::new();
    let mut frame = header.hook.get();
    while !frame.is_null() {
        // SAFETY: frames lie on the fiber's stack, which does not change meanwhile, and are popped before they end.
        let (hook, outer) = unsafe { (&*(*frame).hook, (*frame).outer) };
        all.extend(hook.describe());
        frame = outer;
    }
    all
}

/// Returns what a fiber that is not running was started to do, according to the outermost hook that knows.
///
/// # Safety
/// As for [`descriptions`].
unsafe fn origin(header: &Header) -> Option<Box<str>> {
    let mut found = None;
    let mut frame = header.hook.get();
    while !frame.is_null() {
        // SAFETY: as in `descriptions`.
        let (hook, outer) = unsafe { (&*(*frame).hook, (*frame).outer) };
        found = hook.origin().or(found);
        frame = outer;
    }
    found
}

/// Returns what a suspended fiber runs, if its hook can tell.
pub(crate) fn origin_of(header: &Header) -> Option<Box<str>> {
    let off = matches!(header.state.get(), State::Parked | State::Ready);
    if !off || !header.switch.started() || header.hook.get().is_null() {
        return None;
    }
    // SAFETY: the fiber has started, is not running and has not ended.
    unsafe { origin(header) }
}

/// The record of the innermost hook that has one, of a fiber that has left the processor.
///
/// # Safety
/// See [`descriptions`].
pub(crate) unsafe fn record(header: &Header) -> *const () {
    let mut frame = header.hook.get();
    while !frame.is_null() {
        // SAFETY: as in `descriptions`.
        let (hook, outer) = unsafe { (&*(*frame).hook, (*frame).outer) };
        if !hook.record().is_null() {
            return hook.record();
        }
        frame = outer;
    }
    ptr::null()
}

/// A frame with its hook right behind it. Each switch reads both; they share a cache line if the hook's first fields
/// are the ones it needs.
#[repr(C, align(64))]
struct Hooked<H> {
    frame: HookFrame,
    hook: H,
}

/// Runs `f` and calls `hook` at every switch of the calling fiber. Of nested hooks only the innermost is called.
///
/// ```
/// use yue_scheduler::{Config, Loop, SwitchHook, spawn, with_switch_hook, yield_now};
///
/// struct Stay;
///
/// impl SwitchHook for Stay {
///     fn leave(&self) -> Result<(), &'static str> {
///         Err("not now")
///     }
///
///     fn enter(&self) {}
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| with_switch_hook(Stay, |_| yield_now()));
///     let error = fiber.join().unwrap_err(); // the hook made it panic
///     assert!(error.to_string().contains("not now"));
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
#[inline]
#[track_caller]
pub fn with_switch_hook<H: SwitchHook, R>(hook: H, f: impl FnOnce(&H) -> R) -> R {
    // SAFETY: the running fiber's header lives as long as the fiber.
    let header = unsafe { &*current_fiber() };
    let outer = header.hook.get();
    let mut hooked = Hooked {
        frame: HookFrame {
            hook: ptr::null::<Never>(),
            outer,
        },
        hook,
    };
    let target: *const (dyn SwitchHook + '_) = &raw const hooked.hook;
    // SAFETY: only the lifetime changes; the frame is popped before `hooked` ends.
    hooked.frame.hook = unsafe {
        std::mem::transmute::<*const (dyn SwitchHook + '_), *const (dyn SwitchHook + 'static)>(
            target,
        )
    };
    header.hook.set(&raw const hooked.frame);
    let _pop = OnDrop(|| {
        debug_assert!(
            ptr::eq(header.hook.get(), &raw const hooked.frame),
            "hooks are popped in the reverse order of their pushes"
        );
        header.hook.set(outer);
    });
    f(&hooked.hook)
}

/// Runs `f`, and panics if `f` tries to suspend the calling fiber. Outside a fiber it only calls `f`.
///
/// ```
/// use yue_scheduler::{Config, Loop, no_suspend, spawn, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert_eq!(no_suspend(|| 6 * 7), 42);
///     let fiber = spawn(|| no_suspend(|| yield_now()));
///     assert!(fiber.join().is_err()); // it panicked
/// });
/// ```
pub fn no_suspend<R>(f: impl FnOnce() -> R) -> R {
    let header = running_header();
    if header.is_null() {
        return f();
    }
    // SAFETY: the running fiber's header lives as long as the fiber.
    ban_suspension(unsafe { &*header }, f)
}

fn ban_suspension<R>(header: &Header, f: impl FnOnce() -> R) -> R {
    let bans = header.suspension_bans.get();
    assert!(
        bans & !IN_SWITCH < IN_SWITCH - 1,
        "no_suspend is nested too deep"
    );
    header.suspension_bans.set(bans + 1);
    let _allow = OnDrop(|| header.suspension_bans.set(header.suspension_bans.get() - 1));
    f()
}

/// The bit of a fiber's suspension bans that is set while code runs inside a switch: hooks, and a tracing subscriber.
/// The other bits count the open calls of `no_suspend`.
const IN_SWITCH: u16 = 1 << 15;

/// Runs foreign code inside the fiber's switch. The code can neither suspend the fiber nor begin a wait of it.
#[inline]
pub(super) fn during_switch<R>(header: &Header, f: impl FnOnce() -> R) -> R {
    // A switch begins only while no ban is set.
    debug_assert_eq!(header.suspension_bans.get(), 0);
    header.suspension_bans.set(IN_SWITCH);
    let _allow = OnDrop(|| header.suspension_bans.set(0));
    f()
}

/// Returns whether code runs inside a switch of this fiber.
#[inline]
pub(super) fn is_in_switch(header: &Header) -> bool {
    header.suspension_bans.get() & IN_SWITCH != 0
}

fn running_header() -> *const Header {
    try_with_loop(|l| l.running()).unwrap_or(ptr::null())
}

/// Returns whether the calling code may suspend here; if not, the error says why.
///
/// ```
/// use yue_scheduler::{Config, Loop, may_suspend, no_suspend};
///
/// assert!(may_suspend().is_err()); // not in a fiber
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert!(may_suspend().is_ok());
///     assert!(no_suspend(|| may_suspend()).is_err());
/// });
/// ```
///
/// # Errors
/// The reason, with the text of the panic that a suspending call would raise.
pub fn may_suspend() -> Result<(), &'static str> {
    match try_with_loop(Inner::running) {
        None => Err("not in a fiber: call this inside `Runtime::run` or `Loop::run`"),
        Some(header) if header.is_null() => Err(
            "not in a fiber: a callback of a loop cannot wait; call this in a fiber, with `spawn`",
        ),
        // SAFETY: the running fiber's header lives as long as the fiber.
        Some(header) => check(unsafe { &*header }),
    }
}

#[inline]
fn check(header: &Header) -> Result<(), &'static str> {
    if header.suspension_bans.get() != 0 {
        return Err(if is_in_switch(header) {
            "a fiber cannot suspend in a switch hook"
        } else {
            "a fiber cannot suspend inside no_suspend"
        });
    }
    if std::thread::panicking() {
        return Err(
            "a fiber cannot suspend while it unwinds (a blocking call in a Drop during a panic)",
        );
    }
    // Not checked in release builds: each switch would pay for it, and the harm is only a slow leak.
    if cfg!(debug_assertions) && crossbeam_epoch::is_pinned() {
        return Err(
            "a fiber cannot suspend under an epoch pin of crossbeam-epoch: no garbage would be freed until it resumes",
        );
    }
    Ok(())
}

/// The only point at which a fiber leaves the processor. `commit` records its new state (parked, or back in the run
/// queue). It runs when nothing can refuse the switch any more, so a refusal leaves the fiber unchanged.
///
/// # Panics
/// Where suspension is forbidden.
#[inline(always)]
#[track_caller]
pub(super) fn switch_out(header: &Header, commit: impl FnOnce()) {
    let departure = depart(header);
    commit();
    departure.suspend();
}

/// Like [`switch_out`], but returns the reason and does nothing where suspension is forbidden.
#[inline(always)]
pub(super) fn try_switch_out(header: &Header, commit: impl FnOnce()) -> Result<(), &'static str> {
    let departure = try_depart(header)?;
    commit();
    departure.suspend();
    Ok(())
}

/// A switch that nothing can refuse any more. The code between [`depart`] and [`Departure::suspend`] records the
/// fiber's new state. [`switch_out`] does the same with a closure, which the compiler does not always inline.
#[must_use]
pub(super) struct Departure<'a> {
    header: &'a Header,
    frame: *const HookFrame,
    #[cfg(feature = "tracing")]
    _spans: super::spans::SuspendedSpans<'a>,
}

/// # Panics
/// Where suspension is forbidden.
#[inline(always)]
#[track_caller]
pub(super) fn depart(header: &Header) -> Departure<'_> {
    match try_depart(header) {
        Ok(departure) => departure,
        Err(reason) => refuse(header, reason),
    }
}

#[inline(always)]
fn try_depart(header: &Header) -> Result<Departure<'_>, &'static str> {
    check(header)?;
    #[cfg(feature = "tracing")]
    let _spans = super::spans::leave(header);
    let frame = header.hook.get();
    if !frame.is_null() {
        // SAFETY: frames lie on the fiber's stack, below this call, and are popped before they end.
        during_switch(header, || unsafe { (*(*frame).hook).leave() })?;
    }
    Ok(Departure {
        header,
        frame,
        #[cfg(feature = "tracing")]
        _spans,
    })
}

impl Departure<'_> {
    #[inline(always)]
    pub(super) fn suspend(self) {
        debug_assert!(
            matches!(self.header.state.get(), State::Parked | State::Ready),
            "a fiber records its new state before it leaves the processor"
        );
        // SAFETY: `header` belongs to the running fiber: the callers take it from the loop.
        unsafe { self.header.switch.suspend() };
        debug_assert!(
            self.header.state.get() == State::Running,
            "only the loop's `resume` brings a fiber back, and marks it as running"
        );
        if !self.frame.is_null() {
            // SAFETY: as in `try_depart`; the stack, and with it the frame, has not changed during the switch.
            during_switch(self.header, || unsafe { (*(*self.frame).hook).enter() });
        }
    }
}

#[cold]
#[track_caller]
fn refuse(header: &Header, reason: &'static str) -> ! {
    let id = header.index.get();
    if std::thread::panicking() {
        // A second panic during unwinding ends the process without our message, so it is logged first.
        crate::log(crate::LogLevel::Error, format_args!("fiber {id}: {reason}"));
    }
    panic!("{reason}");
}

pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
