//! Priorities of ready fibers: three classes, each with a budget, so that no class starves.
//!
//! A class is two bits of the header's flags. The run queue does the rest.

use super::header::{HIGH, Header, LOW};
use crate::event_loop::seam::current_fiber;

/// The priority of a fiber among those that are ready.
///
/// A higher class runs first, up to a budget: of fibers that are always ready, 16 runs are high, 4 normal and 1 low. So
/// a class affects how long a fiber waits for its turn; it never waits forever. A priority does not limit how long a
/// *run* takes: a long computation should yield now and then.
///
/// ```
/// use yue_scheduler::{Builder, Config, Loop, Priority};
/// use std::{cell::RefCell, rc::Rc};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let order = Rc::new(RefCell::new(Vec::new()));
///     let fibers = [Priority::Low, Priority::Normal, Priority::High].map(|priority| {
///         let order = order.clone();
///         let fiber = Builder::new().priority(priority);
///         fiber.spawn(move || order.borrow_mut().push(priority)).unwrap()
///     });
///     fibers.map(|fiber| fiber.join().unwrap());
///     assert_eq!(order.take(), [Priority::High, Priority::Normal, Priority::Low]);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// For short work with someone waiting for it: heartbeats, input, control.
    High,
    /// For everything else.
    #[default]
    Normal,
    /// For work that can wait: statistics, caches, compaction.
    Low,
}

impl Priority {
    pub(crate) fn of(header: &Header) -> Self {
        match (header.has(HIGH), header.has(LOW)) {
            (true, _) => Priority::High,
            (_, true) => Priority::Low,
            _ => Priority::Normal,
        }
    }

    #[inline]
    pub(super) fn flag(self) -> u8 {
        match self {
            Priority::High => HIGH,
            Priority::Normal => 0,
            Priority::Low => LOW,
        }
    }
}

/// Changes the calling fiber's priority from its next turn on. Returns the previous priority.
///
/// ```
/// use yue_scheduler::{Config, Loop, Priority, set_priority};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     assert_eq!(set_priority(Priority::Low), Priority::Normal);
///     // Work that can wait.
///     assert_eq!(set_priority(Priority::Normal), Priority::Low);
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn set_priority(priority: Priority) -> Priority {
    // SAFETY: the running fiber's header lives as long as the fiber. It is in no queue while it runs.
    let header = unsafe { &*current_fiber() };
    let before = Priority::of(header);
    header.clear(HIGH | LOW);
    header.set(priority.flag());
    before
}
