//! A bare timer: a callback on the loop at an instant, without a fiber.
//!
//! ```text
//!   Timer ──▶ +--------------------------+-------+----------+
//!             | node: the wheel's, and   | calls | callback |     one allocation
//!   wheel ──▶ | shares, loop in its gaps |       |          |
//!             +--------------------------+-------+----------+
//!             0                          32      40
//! ```
//!
//! Whoever cancels timers at random among a million pays for the cache lines that each takes, so there is no reference
//! count, no second allocation for the callback, and what a cancel touches is 32 bytes.
//!
//! Invariants:
//! - A timer is freed by whoever gives up the last share in it: its [`Timer`], the wheel in which it is armed, and the
//!   loop that runs its callback have one each. So no order of drops leaves a dead node in the wheel, and a callback
//!   may drop its own timer.
//! - One thread: a [`Timer`] is not `Send`, and neither is a loop.

use super::Instant;
use super::wheel::{Node, Owner};
use crate::event_loop::{try_with_loop, with_loop};
use std::fmt;
use std::ptr::NonNull;

/// The share of the [`Timer`].
const HANDLE: u8 = 1;
/// The share of the wheel.
const WHEEL: u8 = 2;
/// The share of the loop that has taken it out of the wheel and runs its callback.
const CALL: u8 = 4;
/// No share: it was cancelled where its wheel could not be reached, and is to fire into nothing.
const CANCELLED: u8 = 8;

/// Calls a closure on the loop, outside any fiber, when its instant has come. One shot: arm it again for the next.
///
/// The callback must be short and cannot suspend; to do more it wakes or spawns a fiber. Dropping the timer cancels it.
///
/// ```
/// use yue_scheduler::{Config, Loop, Timer, now, prepare_park, park};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let waker = prepare_park();
///     let timer = Timer::new(move || {
///         waker.wake();
///     });
///     timer.arm(now().saturating_add(Duration::from_millis(1)));
///     park("the timer").unwrap();
/// });
/// ```
pub struct Timer {
    head: NonNull<Head>,
}

/// The beginning of every timer, whatever its callback. `node` is the first field, so that a pointer to it is one to
/// the head; its spare fields are the loop on which it is armed, and the shares.
#[repr(C)]
struct Head {
    node: Node,
    calls: &'static Calls,
}

/// A timer with its callback.
#[repr(C)]
struct Whole<F> {
    head: Head,
    callback: F,
}

/// What is done with a callback whose type nobody knows any more. Each wants the head of a [`Whole`] that it was made
/// for, alive.
struct Calls {
    run: unsafe fn(NonNull<Head>),
    free: unsafe fn(NonNull<Head>),
}

impl<F: Fn() + 'static> Whole<F> {
    const CALLS: Calls = Calls {
        run: |head| {
            // SAFETY: `head` is the first field of a `Whole<F>` that is alive, which is `repr(C)`.
            let whole = unsafe { head.cast::<Whole<F>>().as_ref() };
            (whole.callback)();
        },
        free: |head| {
            // SAFETY: as above; `Timer::new` made it from a box, and nobody has a share in it any more.
            drop(unsafe { Box::from_raw(head.cast::<Whole<F>>().as_ptr()) });
        },
    };
}

impl Head {
    fn shares(&self) -> u8 {
        self.node.spare_byte.get()
    }

    fn set(&self, bits: u8) {
        self.node.spare_byte.set(self.shares() | bits);
    }

    fn clear(&self, bits: u8) {
        self.node.spare_byte.set(self.shares() & !bits);
    }
}

/// Gives up a share in a timer, which is freed with the last one.
///
/// # Safety
/// The caller has that share, and does not use the timer by right of it any more.
unsafe fn release(timer: NonNull<Head>, share: u8) {
    // SAFETY: the caller's share has kept it.
    let head = unsafe { timer.as_ref() };
    debug_assert!(head.shares() & share != 0, "a share given up twice");
    head.clear(share);
    if head.shares() & (HANDLE | WHEEL | CALL) == 0 {
        // SAFETY: no share is left.
        unsafe { (head.calls.free)(timer) };
    }
}

/// A timer that has been taken out of the wheel, and may be called.
pub(crate) struct Due(NonNull<Head>);

impl Due {
    /// Takes over the wheel's share.
    ///
    /// # Safety
    /// `node` has just been taken out of the wheel, and a [`Timer`] armed it.
    pub(crate) unsafe fn from_wheel(node: *const Node) -> Due {
        // SAFETY: `node` is the first field of a timer's head, and the wheel's share has kept it.
        let timer = unsafe { NonNull::new_unchecked(node.cast_mut()) }.cast::<Head>();
        // SAFETY: as above.
        let head = unsafe { timer.as_ref() };
        debug_assert!(head.shares() & CALL == 0, "a callback inside itself");
        head.clear(WHEEL);
        head.set(CALL);
        Due(timer)
    }

    pub(crate) fn fire(&self) {
        // SAFETY: the share of the call keeps it.
        unsafe {
            let head = self.0.as_ref();
            if head.shares() & CANCELLED == 0 {
                (head.calls.run)(self.0);
            }
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        // SAFETY: this value is the share.
        unsafe { release(self.0, CALL) };
    }
}

impl Timer {
    /// A timer that is not armed yet.
    pub fn new(callback: impl Fn() + 'static) -> Self {
        Timer {
            head: Whole::boxed(callback),
        }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: the share of the handle keeps it.
        unsafe { self.head.as_ref() }
    }

    /// Arms the timer for `at`, or moves it there. An instant that has passed fires in the next tick.
    ///
    /// # Panics
    /// Outside a loop, or on another loop than the one it is armed on.
    pub fn arm(&self, at: Instant) {
        with_loop(|l| {
            let head = self.head();
            let loop_id = &head.node.spare;
            assert!(
                !head.node.is_armed() || loop_id.get() == l.id(),
                "the timer is armed on another loop"
            );
            loop_id.set(l.id());
            head.clear(CANCELLED);
            head.set(WHEEL);
            // SAFETY: the share of the wheel keeps the node where it is.
            unsafe { l.wheel.arm(&head.node, at) };
        });
    }

    /// Cancels the timer; nothing happens if it is not armed.
    pub fn cancel(&self) {
        let head = self.head();
        if !head.node.is_armed() {
            return;
        }
        head.set(CANCELLED);
        // Outside its loop (between two ticks, or when the loop is gone) the node stays linked and fires into nothing.
        try_with_loop(|l| {
            if l.id() == head.node.spare.get() {
                l.wheel.cancel(&head.node);
                // The handle's share is left, so that nothing is freed.
                head.clear(WHEEL);
            }
        });
    }

    /// Whether the timer is armed and has not fired.
    pub fn is_armed(&self) -> bool {
        let head = self.head();
        head.node.is_armed() && head.shares() & CANCELLED == 0
    }
}

impl<F: Fn() + 'static> Whole<F> {
    /// A timer with the handle's share.
    fn boxed(callback: F) -> NonNull<Head> {
        let head = Head {
            node: Node::new(Owner::Bare),
            calls: &Self::CALLS,
        };
        head.set(HANDLE);
        NonNull::from(Box::leak(Box::new(Whole { head, callback }))).cast()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
        // SAFETY: this value is the share.
        unsafe { release(self.head, HANDLE) };
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("armed", &self.is_armed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Loop, now, sleep};
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    #[test]
    fn what_a_cancel_touches_is_half_a_cache_line() {
        assert_eq!(size_of::<Node>(), 32);
        assert_eq!(size_of::<Head>(), 40);
    }

    #[test]
    fn a_callback_may_drop_its_own_timer_armed_or_not() {
        for arms_itself in [false, true] {
            let value = Rc::new(());
            let seen = value.clone();
            Loop::new(Config::default()).unwrap().run(move || {
                let place: Rc<RefCell<Option<Timer>>> = Rc::default();
                let (kept, own) = (value.clone(), place.clone());
                let timer = Timer::new(move || {
                    let timer = own.take();
                    if let Some(timer) = timer.filter(|_| arms_itself) {
                        timer.arm(now().saturating_add(Duration::from_secs(3600)));
                    }
                    // Freed by now, if it had no share of its own in itself.
                    assert_eq!(Rc::strong_count(&kept), 3);
                });
                timer.arm(now());
                *place.borrow_mut() = Some(timer);
                while place.borrow().is_some() {
                    sleep(Duration::from_micros(100)).unwrap();
                }
                assert_eq!(Rc::strong_count(&value), 2, "the callback is freed");
            });
            assert_eq!(Rc::strong_count(&seen), 1);
        }
    }

    #[test]
    fn the_end_of_a_loop_frees_a_timer_that_was_dropped_outside_it() {
        let value = Rc::new(());
        let kept = value.clone();
        let event_loop = Loop::new(Config::default()).unwrap();
        let timer = Timer::new(move || {
            let _ = &kept;
        });
        event_loop.enter(|| timer.arm(now().saturating_add(Duration::from_secs(3600))));
        drop(timer);
        assert_eq!(Rc::strong_count(&value), 2, "the wheel has it");
        drop(event_loop);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
