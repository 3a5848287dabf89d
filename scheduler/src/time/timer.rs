//! A bare timer: a callback on the loop at an instant, without a fiber.

use super::Instant;
use super::wheel::{Node, Owner};
use crate::event_loop::{try_with_loop, with_loop};
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

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
    entry: Rc<Entry>,
}

/// What the wheel links. `node` is the first field, so that a pointer to it is one to the entry. While it is armed the
/// wheel owns one count of the `Rc`, so that no order of drops can leave a dead node in it.
#[repr(C)]
pub(crate) struct Entry {
    node: Node,
    loop_id: Cell<u32>,
    cancelled: Cell<bool>,
    callback: Box<dyn Fn()>,
}

impl Entry {
    /// Takes over the count that the wheel owned.
    ///
    /// # Safety
    /// `node` has just been taken out of the wheel, and a [`Timer`] armed it.
    pub(crate) unsafe fn from_wheel(node: *const Node) -> Rc<Entry> {
        // SAFETY: `arm` made this count with `into_raw`; `node` is the first field of a `repr(C)` struct.
        unsafe { Rc::from_raw(node.cast::<Entry>()) }
    }

    pub(crate) fn fire(&self) {
        if !self.cancelled.get() {
            (self.callback)();
        }
    }
}

impl Timer {
    /// A timer that is not armed yet.
    pub fn new(callback: impl Fn() + 'static) -> Self {
        Timer {
            entry: Rc::new(Entry {
                node: Node::new(Owner::Bare),
                loop_id: Cell::new(0),
                cancelled: Cell::new(false),
                callback: Box::new(callback),
            }),
        }
    }

    /// Arms the timer for `at`, or moves it there. An instant that has passed fires in the next tick.
    ///
    /// # Panics
    /// Outside a loop, or on another loop than the one it is armed on.
    pub fn arm(&self, at: Instant) {
        with_loop(|l| {
            let id = l.id();
            let armed = self.entry.node.is_armed();
            assert!(
                !armed || self.entry.loop_id.get() == id,
                "the timer is armed on another loop"
            );
            self.entry.loop_id.set(id);
            self.entry.cancelled.set(false);
            let entry = if armed {
                Rc::as_ptr(&self.entry)
            } else {
                Rc::into_raw(self.entry.clone())
            };
            // SAFETY: the count just made, or the one made when it was first armed, keeps the node where it is.
            unsafe { l.wheel.arm(&(*entry).node, at) };
        });
    }

    /// Cancels the timer; nothing happens if it is not armed.
    pub fn cancel(&self) {
        if !self.entry.node.is_armed() {
            return;
        }
        self.entry.cancelled.set(true);
        // Outside its loop (between two ticks, or when the loop is gone) the node stays linked and fires into nothing.
        try_with_loop(|l| {
            if l.id() == self.entry.loop_id.get() {
                l.wheel.cancel(&self.entry.node);
                // SAFETY: the node was armed and has just been taken out.
                drop(unsafe { Entry::from_wheel(&raw const self.entry.node) });
            }
        });
    }

    /// Whether the timer is armed and has not fired.
    pub fn is_armed(&self) -> bool {
        self.entry.node.is_armed() && !self.entry.cancelled.get()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("armed", &self.is_armed())
            .finish_non_exhaustive()
    }
}
