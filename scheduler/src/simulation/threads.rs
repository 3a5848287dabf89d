//! Threads, events and the state of other layers in a simulation.

use super::baton::wait_until;
use super::with_me;
use crate::lock::lock;
use crate::time::Instant;
use std::any::{Any, TypeId};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::thread;

/// The number of choices of the next thread that a join waits for after the simulation's end.
const CHOICES_AFTER_THE_END: u32 = 100_000;

/// A thread of a simulation, started by [`spawn_thread`].
#[derive(Debug)]
pub struct Thread<T> {
    outcome: Arc<Mutex<Option<thread::Result<T>>>>,
}

impl<T: Send + 'static> Thread<T> {
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        lock(&self.outcome).is_some()
    }

    /// Waits for its end, and returns its result, or the payload of its panic. When the simulation has ended, threads
    /// end because their waits fail; one that does not end even so is left behind, with the reason as payload.
    ///
    /// # Panics
    /// On a thread that belongs to no simulation.
    pub fn join(self) -> thread::Result<T> {
        let mut left = Err(String::new());
        for _ in 0..CHOICES_AFTER_THE_END {
            let ended = self.outcome.clone();
            let waited = wait_until("the end of a thread", move || lock(&ended).is_some());
            if let Some(outcome) = lock(&self.outcome).take() {
                return outcome;
            }
            left = waited.map_err(|error| error.to_string());
        }
        Err(Box::new(left.err().unwrap_or_default()))
    }
}

/// Starts a thread on a host. It runs when it first gets the baton.
///
/// # Errors
/// When the system refuses the thread.
///
/// # Panics
/// On a thread that belongs to no simulation.
///
/// ```
/// use yue_scheduler::simulation;
///
/// let (sum, _) = simulation::run(1, || {
///     let one = simulation::spawn_thread(1, "one", || 1).unwrap();
///     let two = simulation::spawn_thread(2, "two", || simulation::host()).unwrap();
///     one.join().unwrap() + two.join().unwrap()
/// })
/// .unwrap();
/// assert_eq!(sum, 3);
/// ```
pub fn spawn_thread<T: Send + 'static>(
    host: u32,
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    let outcome = Arc::new(Mutex::new(None));
    let store = outcome.clone();
    let body = move || {
        let result = catch_unwind(AssertUnwindSafe(body));
        *lock(&store) = Some(result);
    };
    with_me(|me| {
        let room = &me.room;
        let (number, handle) = room.start(name.to_owned(), host, false, Box::new(body))?;
        // This thread has the baton, so the new one cannot have ended, or be waiting for anything but its first turn.
        if let Some(member) = lock(&room.state).members.get_mut(&number) {
            member.thread = Some(handle.thread().clone());
            member.handle = Some(handle);
        }
        Ok::<(), io::Error>(())
    })?;
    Ok(Thread { outcome })
}

/// Runs `event` at an instant of the simulation's time, on whichever thread holds the baton then, outside fibers'
/// control: it must not wait. Events of one instant run in an order that the seed determines. One for an instant that
/// has passed runs at the next choice.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn at(at: Instant, event: impl FnOnce() + Send + 'static) {
    with_me(|me| {
        let mut state = lock(&me.room.state);
        let tie = state.random.number();
        state.last_event += 1;
        let key = (at.as_nanos(), tie, state.last_event);
        state.events.insert(key, Box::new(event));
    });
}

/// Calls `observer` before each choice of the next thread, outside fibers: it sees every state in which another thread
/// could continue. It must not wait.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn observe(observer: impl Fn() + Send + Sync + 'static) {
    with_me(|me| lock(&me.room.state).observers.push(Arc::new(observer)));
}

/// Ends the simulation: from now on every wait fails with `reason`, so that all threads end. A second reason is
/// ignored.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn stop(reason: &str) {
    with_me(|me| {
        let mut state = lock(&me.room.state);
        state.over.get_or_insert_with(|| reason.to_owned());
    });
}

/// The reason for which the simulation has ended; `None` while it runs, and outside simulations.
pub fn stopped() -> Option<String> {
    if !super::is_on() {
        return None;
    }
    with_me(|me| lock(&me.room.state).over.clone())
}

/// Passes `f` the state that a layer keeps for the simulation, by its type; it is created when it is first needed.
///
/// # Panics
/// On a thread that belongs to no simulation; when `f` asks for the same state.
pub fn layer<T: Default + Send + 'static, R>(f: impl FnOnce(&mut T) -> R) -> R {
    let state = with_me(|me| {
        let mut layers = lock(&me.room.layers);
        let new = || Arc::new(Mutex::new(T::default())) as Arc<Mutex<dyn Any + Send>>;
        layers.entry(TypeId::of::<T>()).or_insert_with(new).clone()
    });
    let outcome = {
        let Ok(mut state) = state.try_lock() else {
            panic!("a layer's state was requested by code that already has it");
        };
        let Some(state) = state.downcast_mut::<T>() else {
            unreachable!("a layer's state is found by its type");
        };
        // A panic must not poison the state for the threads that clean up.
        catch_unwind(AssertUnwindSafe(|| f(state)))
    };
    outcome.unwrap_or_else(|payload| resume_unwind(payload))
}
