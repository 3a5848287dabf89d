//! Statics of the process, of which each simulated host has its own.
//!
//! A program's process-wide state (a registry of names, the next number of something) belongs to one host in a
//! simulation, and to one *incarnation* of it: a host that restarts begins anew. Outside simulations a [`PerHost`] is a
//! static.
//!
//! ```text
//!   PerHost<T> ── outside: T                                     the process
//!              └─ by thread: Process { values by static: T }     one per incarnation of a host
//! ```
//!
//! Threads find their process through a pointer that stays set while their thread-locals are dropped, unlike the rest
//! of their part in the simulation: destructors, too, must find the values of their own host.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};

use super::RUNNING;
use crate::lock::lock;

/// The values of one incarnation of a host, by the addresses of their statics.
#[derive(Default)]
pub(super) struct Process {
    values: Mutex<HashMap<usize, Arc<dyn Any + Send + Sync>>>,
}

thread_local! {
    /// The process of a simulated thread; null on others. The room keeps a process until the real end of its threads.
    static PROCESS: Cell<*const Process> = const { Cell::new(ptr::null()) };
}

/// Makes the calling thread one of the process, until its real end: the caller keeps the process for that long.
pub(super) fn enter(process: &Arc<Process>) {
    PROCESS.set(Arc::as_ptr(process));
}

/// A static of which each incarnation of a simulated host has its own; elsewhere a static. Outside simulations it costs
/// one relaxed load more than that.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use yue_scheduler::simulation::{self, PerHost};
///
/// static CALLS: PerHost<AtomicU32> = PerHost::new(AtomicU32::default);
///
/// CALLS.get().fetch_add(10, Ordering::Relaxed);
/// let (counts, _) = simulation::run(1, || {
///     [1, 1, 2].map(|host| {
///         let call = || CALLS.get().fetch_add(1, Ordering::Relaxed);
///         simulation::spawn_thread(host, "caller", call).unwrap().join().unwrap()
///     })
/// })
/// .unwrap();
/// assert_eq!(counts, [0, 1, 0]);
/// assert_eq!(CALLS.get().load(Ordering::Relaxed), 10);
/// ```
pub struct PerHost<T: 'static> {
    outside: LazyLock<T>,
    make: fn() -> T,
}

impl<T: Send + Sync + 'static> PerHost<T> {
    /// A static whose values are made by `make` when they are first used. `make` must use no other `PerHost`.
    pub const fn new(make: fn() -> T) -> Self {
        PerHost {
            outside: LazyLock::new(make),
            make,
        }
    }

    /// The calling thread's value.
    #[inline]
    pub fn get(&'static self) -> HostValue<T> {
        // Relaxed: see `RUNNING`.
        if RUNNING.load(Ordering::Relaxed) == 0 {
            return HostValue(Value::Outside(&self.outside));
        }
        self.find()
    }

    #[cold]
    fn find(&'static self) -> HostValue<T> {
        let process = PROCESS.get();
        if process.is_null() {
            return HostValue(Value::Outside(&self.outside));
        }
        // SAFETY: it lives as long as the thread; see `enter`.
        let process = unsafe { &*process };
        let key = ptr::from_ref(self).addr();
        let value = lock(&process.values)
            .entry(key)
            .or_insert_with(|| Arc::new((self.make)()))
            .clone();
        match value.downcast() {
            Ok(value) => HostValue(Value::OfHost(value)),
            Err(_) => unreachable!("a value is found by its static"),
        }
    }
}

impl<T> fmt::Debug for PerHost<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerHost").finish_non_exhaustive()
    }
}

/// The value of a [`PerHost`] for the calling thread's host.
pub struct HostValue<T: 'static>(Value<T>);

enum Value<T: 'static> {
    Outside(&'static T),
    OfHost(Arc<T>),
}

impl<T> Deref for HostValue<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Value::Outside(value) => value,
            Value::OfHost(value) => value,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for HostValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::PerHost;
    use crate::simulation::{begin_process, run, spawn_thread};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    static NUMBERS: PerHost<AtomicU32> = PerHost::new(AtomicU32::default);

    fn next_on(host: u32) -> u32 {
        let next = || NUMBERS.get().fetch_add(1, Ordering::Relaxed);
        spawn_thread(host, "one", next).unwrap().join().unwrap()
    }

    #[test]
    fn a_new_process_of_a_host_begins_anew() {
        let (numbers, _) = run(1, || {
            let before = [next_on(1), next_on(1), next_on(2)];
            begin_process(1);
            (before, [next_on(1), next_on(2)])
        })
        .unwrap();
        assert_eq!(numbers, ([0, 1, 0], [0, 1]));
        assert_eq!(NUMBERS.get().load(Ordering::Relaxed), 0);
    }

    static SEEN: PerHost<Mutex<Vec<&'static str>>> = PerHost::new(Mutex::default);

    #[test]
    fn destructors_of_thread_locals_find_their_own_host() {
        struct Note(Arc<Mutex<usize>>);
        impl Drop for Note {
            fn drop(&mut self) {
                let seen = SEEN.get();
                let mut seen = seen.lock().unwrap();
                seen.push("destructor");
                *self.0.lock().unwrap() = seen.len();
            }
        }
        thread_local! {
            static NOTE: std::cell::RefCell<Option<Note>> = const { std::cell::RefCell::new(None) };
        }
        let count = Arc::new(Mutex::new(0));
        let in_thread = count.clone();
        run(1, move || {
            let body = move || {
                SEEN.get().lock().unwrap().push("body");
                NOTE.set(Some(Note(in_thread)));
            };
            spawn_thread(1, "one", body).unwrap().join().unwrap();
        })
        .unwrap();
        assert_eq!(*count.lock().unwrap(), 2);
        assert!(SEEN.get().lock().unwrap().is_empty());
    }
}
