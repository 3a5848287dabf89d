//! Loops that share work. Work given to the group starts on whichever of its loops has time.
//!
//! ```text
//!   any thread ──▶ injector ──▶ one of the group's loops: an idle loop takes work at once,
//!                                 a busy one takes one piece a tick
//! ```
//!
//! Work is a closure that starts a fiber. Once started, the fiber stays on its loop. Adding work wakes exactly one
//! sleeping loop, if there is one. A loop that takes work while more is waiting wakes the next, so a burst spreads, and
//! a single piece of work disturbs no other loop.
//!
//! Invariants:
//! - A slot belongs to one loop from `join` to `leave`. Only that loop sets the slot's bit (see `yue_queue::IdleSet`,
//!   which has the protocol and its proof).
//! - A loop that leaves re-checks the injector and forwards any wake-up it was given.
//! - When the last loop leaves, queued work is dropped, and so is later work; its joins report that the loop is gone. A
//!   loop that joins opens the group again.

use super::registry;
use crate::fiber::guarded;
use crate::lock::lock;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use yue_queue::{IdleSet, Injector};

pub(super) type Work = Box<dyn FnOnce() + Send>;

/// Loops that share work. Clones refer to the same group, and any thread may use it. Loops join through their
/// [`Config`](crate::Config).
///
/// ```
/// use yue_scheduler::{Config, Loop, LoopGroup, this_loop};
///
/// let group = LoopGroup::new(2);
/// let outside = group.spawn(|| this_loop::id());
/// let config = Config { group: Some(group.clone()), ..Config::default() };
/// let (id, result) = Loop::new(config).unwrap().run(move || {
///     (this_loop::id(), outside.join().unwrap())
/// });
/// assert_eq!(id, result);
/// ```
#[derive(Clone)]
pub struct LoopGroup {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    injector: Injector<Work>,
    idle: IdleSet,
    /// The number of the loop in each slot; 0 for a free slot.
    members: Box<[AtomicU32]>,
    /// Number of members. `closed` changes only under this lock, so that a loop that joins while the last one leaves
    /// does not end up in a closed group. Work is refused only under it too, so no work of an open group is refused.
    count: Mutex<usize>,
    closed: AtomicBool,
}

impl LoopGroup {
    /// Creates a group with room for that many loops.
    pub fn new(loops_max: usize) -> Self {
        let loops_max = loops_max.max(1);
        LoopGroup {
            shared: Arc::new(Shared {
                injector: Injector::new(),
                idle: IdleSet::new(loops_max),
                members: (0..loops_max).map(|_| AtomicU32::new(0)).collect(),
                count: Mutex::new(0),
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// Number of loops currently in the group.
    pub fn loops(&self) -> usize {
        *self.shared.lock()
    }

    /// Adds a loop to the group.
    ///
    /// # Errors
    /// When the group is full.
    pub(super) fn join(&self, loop_id: u32) -> io::Result<Membership> {
        let shared = &self.shared;
        for (slot, member) in shared.members.iter().enumerate() {
            // AcqRel: the slot changes hands. Pairs with the Release in `leave` and the Acquire in `wake_one`.
            let taken = member.compare_exchange(0, loop_id, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                let mut count = shared.lock();
                *count += 1;
                // SeqCst: see `push`.
                shared.closed.store(false, Ordering::SeqCst);
                drop(count);
                let group = self.clone();
                return Ok(Membership { group, slot });
            }
        }
        let text = format!(
            "the group has room for {} loops and is full",
            shared.members.len()
        );
        Err(io::Error::other(text))
    }
}

impl fmt::Debug for LoopGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopGroup")
            .field("loops", &self.loops())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Locks the member count. Nothing can panic while it is locked.
    fn lock(&self) -> MutexGuard<'_, usize> {
        lock(&self.count)
    }

    /// Adds a piece of work, and wakes a loop that sleeps.
    pub(super) fn push(&self, work: Work) {
        self.injector.push(work);
        // SeqCst, with the store in `leave`: either this thread sees that the group is closed, or `leave`, which
        // empties the injector after its store, sees the work.
        if self.closed.load(Ordering::SeqCst) && self.drop_work_if_closed() {
            return;
        }
        self.wake_one();
    }

    /// Wakes a sleeping loop, if there is one.
    fn wake_one(&self) {
        while let Some(slot) = self.idle.take_one() {
            // Acquire: pairs with `join`.
            let id = self.members[slot].load(Ordering::Acquire);
            if registry::ring(id) {
                return;
            }
            // That loop has ended in the meantime.
        }
    }

    /// Drops the work of a closed group. Returns `false` if a loop has joined in the meantime and will run it.
    #[cold]
    fn drop_work_if_closed(&self) -> bool {
        let count = self.lock();
        // Under the lock, so that no loop joins between the check and the last pop: work added for that loop must stay.
        if !self.closed.load(Ordering::SeqCst) {
            return false;
        }
        let refused: Vec<Work> = std::iter::from_fn(|| self.injector.pop()).collect();
        // Dropping work runs the program's code, which may use the group.
        drop(count);
        for work in refused {
            guarded("dropping work for a loop that is gone", || drop(work));
        }
        true
    }
}

/// A loop's slot in its group.
pub(super) struct Membership {
    group: LoopGroup,
    slot: usize,
}

impl Membership {
    pub(super) fn group(&self) -> LoopGroup {
        self.group.clone()
    }

    /// Announces that the loop is about to sleep. Returns whether there is still no work after that.
    pub(super) fn may_sleep(&self) -> bool {
        self.group.shared.idle.announce(self.slot);
        self.group.shared.injector.is_empty()
    }

    /// Marks the loop as awake again, after [`Membership::may_sleep`].
    pub(super) fn disarm(&self) {
        self.group.shared.idle.withdraw(self.slot);
    }

    /// Runs the oldest piece of work. Returns whether there was one.
    pub(super) fn take(&self) -> bool {
        let shared = &self.group.shared;
        let Some(work) = shared.injector.pop() else {
            return false;
        };
        if !shared.injector.is_empty() {
            shared.wake_one();
        }
        guarded("work for any loop", work);
        true
    }
}

impl Drop for Membership {
    /// Leaves the group: the loop takes no more work.
    fn drop(&mut self) {
        let shared = &self.group.shared;
        shared.idle.withdraw(self.slot);
        // Release: pairs with `join`.
        shared.members[self.slot].store(0, Ordering::Release);
        let mut count = shared.lock();
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            // SeqCst: see `push`.
            shared.closed.store(true, Ordering::SeqCst);
        }
        drop(count);
        if is_last && shared.drop_work_if_closed() {
            return;
        }
        if !shared.injector.is_empty() {
            shared.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    /// Blocks the thread that drops it.
    struct Slow {
        dropping: Sender<()>,
        go_on: Receiver<()>,
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            self.dropping.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
    }

    #[test]
    fn a_late_refusal_keeps_the_work_of_a_loop_that_joined() {
        let group = LoopGroup::new(1);
        drop(group.join(1).unwrap());
        let (dropping, is_dropping) = channel();
        let (tell, go_on) = channel();
        let (other, slow) = (group.clone(), Slow { dropping, go_on });
        let refused = thread::spawn(move || other.shared.push(Box::new(move || drop(slow))));
        is_dropping.recv().unwrap();
        let member = group.join(2).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let work = done.clone();
        group
            .shared
            .push(Box::new(move || work.store(true, Ordering::Relaxed)));
        tell.send(()).unwrap();
        refused.join().unwrap();
        assert!(member.take(), "it was dropped");
        assert!(done.load(Ordering::Relaxed));
    }
}
