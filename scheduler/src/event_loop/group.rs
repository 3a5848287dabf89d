//! Loops that share work: what is given to the group starts on whichever of its loops has time for it.
//!
//! ```text
//!   any thread ──▶ injector ──▶ one of the group's loops: at once if it has nothing else to run,
//!                                 else one piece a tick, so that busy loops come to it as well
//! ```
//!
//! Work is a closure that starts a fiber; once started, a fiber stays where it is. Adding work wakes exactly one loop
//! that sleeps, if there is one, and a loop that takes work while more is waiting wakes the next, so that a burst
//! spreads and a single piece disturbs nobody else.
//!
//! Invariants:
//! - A place belongs to one loop from `join` to `leave`. The bit of a place is set only by its loop (see
//!   `yue_queue::IdleSet`, where the protocol and its proof are).
//! - A loop that leaves looks at the injector once more and passes a wake on that was meant for it.
//! - When the last loop has left, the work that is still there is dropped, and so is what comes later: whoever joins
//!   it is told that its loop is gone. A loop that joins opens the group again.

use super::handle::{RemoteJoin, remote_fiber};
use super::registry;
use crate::fiber::guarded;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use yue_queue::{IdleSet, Injector};

type Work = Box<dyn FnOnce() + Send>;

/// Loops that share work. Clones are the same group; any thread may use it. Loops join by their
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
    shared: Arc<Shared>,
}

struct Shared {
    injector: Injector<Work>,
    idle: IdleSet,
    /// The loop at each place; 0 for none.
    members: Box<[AtomicU32]>,
    /// How many members there are. `closed` changes only under this lock, so that a loop that joins while the last one
    /// leaves cannot be in a closed group; and work is refused only under it, so that none of a loop's is.
    count: Mutex<usize>,
    closed: AtomicBool,
}

impl LoopGroup {
    /// A group with room for that many loops.
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

    /// Starts a fiber on one of the group's loops; before any has joined, it waits for the first.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> RemoteJoin<T> {
        let (start, join) = remote_fiber(Location::caller(), f);
        self.shared.push(Box::new(start));
        join
    }

    /// Loops that are in the group now.
    pub fn loops(&self) -> usize {
        *self.shared.lock()
    }

    /// Makes a loop a member.
    ///
    /// # Errors
    /// When the group is full.
    pub(super) fn join(&self, loop_id: u32) -> io::Result<Membership> {
        let shared = &self.shared;
        for (place, member) in shared.members.iter().enumerate() {
            // AcqRel: the place changes hands; pairs with the Release in `leave` and the Acquire in `wake_one`.
            let taken = member.compare_exchange(0, loop_id, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                let mut count = shared.lock();
                *count += 1;
                // SeqCst: see `push`.
                shared.closed.store(false, Ordering::SeqCst);
                drop(count);
                let group = self.clone();
                return Ok(Membership { group, place });
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
    /// Nothing can panic under the lock.
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, work: Work) {
        self.injector.push(work);
        // SeqCst, with the store in `leave`: either this sees that the group is closed, or `leave`, which empties the
        // injector after its store, sees the work.
        if self.closed.load(Ordering::SeqCst) && self.drop_work_if_closed() {
            return;
        }
        self.wake_one();
    }

    /// Wakes a loop that sleeps, if there is one.
    fn wake_one(&self) {
        while let Some(place) = self.idle.take_one() {
            // Acquire: pairs with `join`.
            let id = self.members[place].load(Ordering::Acquire);
            if registry::ring(id) {
                return;
            }
            // That loop has ended meanwhile.
        }
    }

    /// Drops what nobody will do. Returns `false` if a loop has joined meanwhile, and will do it.
    #[cold]
    fn drop_work_if_closed(&self) -> bool {
        let count = self.lock();
        // Under the lock, so that no loop joins between the look and the last piece that is taken out: what is added
        // for that loop must stay.
        if !self.closed.load(Ordering::SeqCst) {
            return false;
        }
        let refused: Vec<Work> = std::iter::from_fn(|| self.injector.pop()).collect();
        // Its drops are code of the program's, which may use the group.
        drop(count);
        for work in refused {
            guarded("dropping work for a loop that is gone", || drop(work));
        }
        true
    }
}

/// A loop's place in its group.
pub(super) struct Membership {
    group: LoopGroup,
    place: usize,
}

impl Membership {
    pub(super) fn group(&self) -> LoopGroup {
        self.group.clone()
    }

    /// Says that the loop is about to sleep. Returns whether there is no work, at a look after that.
    pub(super) fn may_sleep(&self) -> bool {
        self.group.shared.idle.announce(self.place);
        self.group.shared.injector.is_empty()
    }

    pub(super) fn awake(&self) {
        self.group.shared.idle.withdraw(self.place);
    }

    /// Runs the oldest piece of work, if there is one.
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
    /// The loop takes no more work.
    fn drop(&mut self) {
        let shared = &self.group.shared;
        shared.idle.withdraw(self.place);
        // Release: pairs with `join`.
        shared.members[self.place].store(0, Ordering::Release);
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

    /// Holds up who drops it.
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
    fn who_refuses_work_of_a_closed_group_leaves_that_of_a_loop_which_joins_meanwhile() {
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
