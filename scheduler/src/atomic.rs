//! Shared-memory primitives of `sync/`: std's atomics, mutex and thread parking, or loom's with `--cfg loom`.
//!
//! Nothing in `sync/` names `std::sync`, so that a loom model runs the code that ships. The cell has loom's
//! closure interface in both builds: loom then sees where each access begins and ends.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, AtomicUsize},
};
#[cfg(loom)]
pub(crate) use model::{Thread, current_thread, park_thread};

#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize},
    },
    thread::{Thread, current as current_thread, park as park_thread},
};

pub(crate) use std::sync::atomic::Ordering;

use crate::time::Instant;

/// Blocks the thread until it is unparked, spuriously wakes, or reaches `at`.
#[cfg(not(loom))]
pub(crate) fn park_thread_until(at: Instant) {
    let left = at.saturating_since(Instant::system());
    if !left.is_zero() {
        std::thread::park_timeout(left);
    }
}

/// In a model the time is up as soon as the thread runs again, which is any time, so every race with it is tried.
#[cfg(loom)]
pub(crate) fn park_thread_until(_at: Instant) {
    loom::thread::yield_now();
}

/// Returns whether `at` has passed for a plain thread that blocked until then.
pub(crate) fn thread_time_is_up(at: Instant) -> bool {
    at != Instant::NEVER && (cfg!(loom) || at <= Instant::system())
}

/// `std::cell::UnsafeCell` with loom's interface.
#[cfg(not(loom))]
pub(crate) struct SharedCell<T>(std::cell::UnsafeCell<T>);

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell as SharedCell;

#[cfg(not(loom))]
impl<T> SharedCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// Thread parking, built from loom's mutex and condition variable. Loom's own is not used: its `unpark` also wakes a
/// thread that is blocked in a mutex, which may well be our thread when a late signal arrives. Here each wait has its
/// own token.
#[cfg(loom)]
mod model {
    use loom::sync::{Arc, Condvar, Mutex};
    use std::cell::RefCell;

    #[derive(Clone)]
    pub(crate) struct Thread(Arc<(Mutex<bool>, Condvar)>);

    loom::thread_local! {
        static CURRENT: RefCell<Option<Thread>> = RefCell::new(None);
    }

    /// Returns the calling thread's token for one wait.
    pub(crate) fn current_thread() -> Thread {
        let thread = Thread(Arc::new((Mutex::new(false), Condvar::new())));
        CURRENT.with(|current| *current.borrow_mut() = Some(thread.clone()));
        thread
    }

    /// Blocks until the thread of the last `current_thread` is unparked.
    pub(crate) fn park_thread() {
        let thread = CURRENT.with(|current| current.borrow().clone()).unwrap();
        let (unparked, changed) = &*thread.0;
        let mut unparked = unparked.lock().unwrap();
        while !*unparked {
            unparked = changed.wait(unparked).unwrap();
        }
        *unparked = false;
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }
    }
}
