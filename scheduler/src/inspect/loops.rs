//! The list of the process's loops, from what each has published.
//!
//! No loop is asked, so a loop that is held is listed like the others. The counters are those of its last tick.

use super::watchdog::cpu_time;
use crate::event_loop::{Counters, LoopHandle, Shared, registry};
use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A loop as other threads see it.
///
/// ```
/// use yue_scheduler::{Config, Loop, inspect, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     yield_now().unwrap(); // the first tick has published nothing yet
///     let all = std::thread::spawn(inspect::loops).join().unwrap();
///     let this = all.iter().find(|one| one.handle.id() == this_loop::id()).unwrap();
///     assert!(this.working_for.is_some()); // in the tick that this fiber runs in
///     assert_eq!(this.driver, "sleep");
///     assert!(this.busy <= this.age);
/// });
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoopInfo {
    /// The loop's handle, which has its number.
    pub handle: LoopHandle,
    /// The name of its thread.
    pub thread: Box<str>,
    /// The kernel's number of that thread.
    pub thread_id: i32,
    /// The name of its driver.
    pub driver: &'static str,
    /// The time since it was created.
    pub age: Duration,
    /// The processor time that its thread has used since then. The rest of `age` it was idle, or had to wait for a
    /// processor.
    pub busy: Duration,
    /// The time since its last tick began. `None` before the first one, and on a loop with virtual time.
    pub last_tick: Option<Duration>,
    /// The time that it has been working on its present tick, if it is; zero if that is not known. It does not look at
    /// messages and timers before the tick has ended.
    pub working_for: Option<Duration>,
    /// The number of times that the watchdog found it held.
    pub held: u64,
    /// Its counters.
    pub counters: Counters,
    /// Waiting fibers.
    pub parked: usize,
    /// Switches from the loop to a fiber.
    pub switches: u64,
    /// Messages from other threads.
    pub messages: u64,
}

/// Returns all loops of the process that have not ended, in the order of their numbers. It may be called on any thread,
/// and waits for none of them.
///
/// ```
/// use yue_scheduler::{Config, Loop, inspect};
///
/// let l = Loop::new(Config::default()).unwrap();
/// assert!(inspect::loops().iter().any(|one| one.handle.id() == l.handle().id()));
/// ```
pub fn loops() -> Vec<LoopInfo> {
    registry::all().into_iter().map(LoopInfo::of).collect()
}

impl LoopInfo {
    fn of(shared: Arc<Shared>) -> LoopInfo {
        let now = Instant::system();
        let vitals = shared.vitals();
        let counted = vitals.counted();
        let (began, began_tick) = vitals.last_tick();
        let last_tick = (began_tick > 0).then(|| now.saturating_since(began));
        let working_for = vitals.working_on().map(|tick| match last_tick {
            Some(age) if tick == began_tick => age,
            // It has not read its clock in this tick yet.
            _ => Duration::ZERO,
        });
        LoopInfo {
            thread: vitals.thread.name.clone(),
            thread_id: vitals.thread.number,
            driver: vitals.driver,
            age: now.saturating_since(vitals.created),
            busy: busy(&shared),
            last_tick,
            working_for,
            // Relaxed: a counter that only the watchdog writes.
            held: vitals.held.load(Ordering::Relaxed),
            counters: Counters {
                fibers: counted.live as usize,
                timers: counted.timers as usize,
                operations: counted.operations as usize,
                spawned: counted.spawned,
                panics: counted.panics,
                ticks: counted.ticks,
            },
            parked: counted.parked as usize,
            switches: counted.switches,
            messages: counted.messages,
            handle: LoopHandle::new(shared),
        }
    }
}

/// Returns the processor time that the loop's thread has used since the loop was created.
pub(super) fn busy(shared: &Shared) -> Duration {
    let vitals = shared.vitals();
    cpu_time(vitals.thread.number).saturating_sub(vitals.cpu_before)
}
