//! Bare timers: a callback that the loop runs at an instant, without a fiber.
//!
//! ```text
//!   Timer ──▶ +--------------------------+-------+----------+
//!             | node: the wheel's data;  | calls | callback |     one allocation
//!   wheel ──▶ | refs, loop in its gaps   |       |          |
//!             +--------------------------+-------+----------+
//!             0                          32      40
//! ```
//!
//! A program that cancels timers at random among a million pays for the cache lines that each takes. So there is no
//! separate reference count and no second allocation for the callback, and a cancel touches only 32 bytes.
//!
//! Invariants:
//! - The holder of a timer's last reference frees it. Its [`Timer`], the wheel in which it is armed, and the loop that
//!   runs its callback hold one each. So no order of drops leaves a dead node in the wheel, and a callback may drop its
//!   own timer.
//! - One thread: neither a [`Timer`] nor a loop is `Send`.

use super::state::{try_with_loop, with_loop};
use crate::time::Instant;
use crate::time::wheel::{Node, Owner};
use std::fmt;
use std::ptr::NonNull;

/// The reference of the [`Timer`].
const HANDLE: u8 = 1;
/// The reference of the wheel.
const WHEEL: u8 = 2;
/// The reference of the loop that has removed it from the wheel and runs its callback.
const CALL: u8 = 4;
/// Not a reference: the timer was cancelled where its wheel could not be reached, so it must fire without effect.
const CANCELLED: u8 = 8;

/// A one-shot timer that calls a closure on the loop, outside any fiber, at an instant. It can be armed again.
///
/// The callback must be short and cannot suspend; for longer work it wakes or spawns a fiber. Dropping the timer
/// cancels it.
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

/// The common beginning of every timer, whatever the type of its callback. `node` is the first field, so that a pointer
/// to it is also a pointer to the head. Its spare fields hold the loop on which it is armed, and the references.
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

/// The operations on a callback whose type is erased. Each takes the head of a live [`Whole`] of the type it was made
/// for.
struct Calls {
    run: unsafe fn(NonNull<Head>),
    free: unsafe fn(NonNull<Head>),
}

impl<F: Fn() + 'static> Whole<F> {
    const CALLS: Calls = Calls {
        run: |head| {
            // SAFETY: `head` is the first field of a live `Whole<F>`, which is `repr(C)`.
            let whole = unsafe { head.cast::<Whole<F>>().as_ref() };
            (whole.callback)();
        },
        free: |head| {
            // SAFETY: as above; `Timer::new` made it from a box, and no reference to it is left.
            drop(unsafe { Box::from_raw(head.cast::<Whole<F>>().as_ptr()) });
        },
    };
}

impl Head {
    fn refs(&self) -> u8 {
        self.node.spare_byte.get()
    }

    fn set(&self, bits: u8) {
        self.node.spare_byte.set(self.refs() | bits);
    }

    fn clear(&self, bits: u8) {
        self.node.spare_byte.set(self.refs() & !bits);
    }
}

/// Drops a reference to a timer, and frees the timer with the last one.
///
/// # Safety
/// The caller holds that reference, and does not use the timer through it any more.
unsafe fn release(timer: NonNull<Head>, reference: u8) {
    // SAFETY: the caller's reference has kept it alive.
    let head = unsafe { timer.as_ref() };
    debug_assert!(
        head.refs() & reference != 0,
        "a reference was dropped twice"
    );
    head.clear(reference);
    if head.refs() & (HANDLE | WHEEL | CALL) == 0 {
        // SAFETY: no reference is left.
        unsafe { (head.calls.free)(timer) };
    }
}

/// A timer that has been removed from the wheel and may be called.
pub(crate) struct Due(NonNull<Head>);

impl Due {
    /// Takes over the wheel's reference.
    ///
    /// # Safety
    /// `node` has just been removed from the wheel, and a [`Timer`] armed it.
    pub(crate) unsafe fn from_wheel(node: *const Node) -> Due {
        // SAFETY: `node` is the first field of a timer's head, and the wheel's reference has kept it alive.
        let timer = unsafe { NonNull::new_unchecked(node.cast_mut()) }.cast::<Head>();
        // SAFETY: as above.
        let head = unsafe { timer.as_ref() };
        debug_assert!(
            head.refs() & CALL == 0,
            "a timer fired inside its own callback"
        );
        head.clear(WHEEL);
        head.set(CALL);
        Due(timer)
    }

    pub(crate) fn fire(&self) {
        // SAFETY: the call's reference keeps it alive.
        unsafe {
            let head = self.0.as_ref();
            if head.refs() & CANCELLED == 0 {
                (head.calls.run)(self.0);
            }
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        // SAFETY: this value is the reference.
        unsafe { release(self.0, CALL) };
    }
}

impl Timer {
    /// Creates a timer that is not armed.
    pub fn new(callback: impl Fn() + 'static) -> Self {
        Timer {
            head: Whole::boxed(callback),
        }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: the handle's reference keeps it alive.
        unsafe { self.head.as_ref() }
    }

    /// Arms the timer for `at`, or moves it there. If that instant has passed, the timer fires in the next tick.
    ///
    /// # Panics
    /// Outside a loop, or on another loop than the one it is armed on.
    #[track_caller]
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
            // SAFETY: the wheel's reference keeps the node alive, and it never moves.
            unsafe { l.wheel.arm(&head.node, at) };
        });
    }

    /// Cancels the timer. Does nothing if it is not armed.
    pub fn cancel(&self) {
        let head = self.head();
        if !head.node.is_armed() {
            return;
        }
        let on_a_loop = try_with_loop(|l| {
            if l.id() != head.node.spare.get() {
                return head.set(CANCELLED);
            }
            // The wheel's reference goes; the handle's is left, so nothing is freed.
            head.node.spare_byte.set(head.refs() & !WHEEL | CANCELLED);
            l.wheel.cancel(&head.node);
        });
        if on_a_loop.is_none() {
            // Outside its loop (between two ticks, or after the loop has ended) the node stays linked and fires without
            // effect.
            head.set(CANCELLED);
        }
    }

    /// Returns whether the timer is armed and has not fired.
    pub fn is_armed(&self) -> bool {
        let head = self.head();
        head.node.is_armed() && head.refs() & CANCELLED == 0
    }

    /// Returns when the timer fires, if it is armed.
    pub fn deadline(&self) -> Option<Instant> {
        self.is_armed().then(|| self.head().node.at())
    }
}

impl<F: Fn() + 'static> Whole<F> {
    /// Allocates a timer with the handle's reference.
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
        // SAFETY: this value is the reference.
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
    fn a_cancel_touches_half_a_cache_line() {
        assert_eq!(size_of::<Node>(), 32);
        assert_eq!(size_of::<Head>(), 40);
    }

    #[test]
    fn a_callback_may_drop_its_own_timer_armed_or_not() {
        for arms_itself in [false, true] {
            let value = Rc::new(());
            let seen = value.clone();
            Loop::new(Config::default()).unwrap().run(move || {
                let slot: Rc<RefCell<Option<Timer>>> = Rc::default();
                let (kept, own) = (value.clone(), slot.clone());
                let timer = Timer::new(move || {
                    let timer = own.take();
                    if let Some(timer) = timer.filter(|_| arms_itself) {
                        timer.arm(now().saturating_add(Duration::from_secs(3600)));
                    }
                    // Without its own reference to itself it would be freed by now.
                    assert_eq!(Rc::strong_count(&kept), 3);
                });
                timer.arm(now());
                *slot.borrow_mut() = Some(timer);
                while slot.borrow().is_some() {
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
