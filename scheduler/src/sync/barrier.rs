//! The barrier: no fiber continues before all have arrived.

use super::policy::{Policy, constructors};
use super::wait::{Enlisted, Node, Source, WaitQueue, Wakes, wait_for};
use crate::fiber::Stopped;
use std::fmt;

struct State {
    /// Number of waiters in the current round.
    arrived: usize,
    queue: WaitQueue<bool>,
}

/// Lets a number of fibers continue together, round after round.
///
/// A fiber that is cancelled or past its deadline while it waits counts as not having arrived; the others keep waiting.
///
/// The type behind [`sync::Barrier`](crate::sync::Barrier) and [`sync::local::Barrier`](crate::sync::local::Barrier).
///
/// ```
/// use yue_scheduler::sync::Barrier;
/// use std::{sync::Arc, thread};
///
/// let barrier = Arc::new(Barrier::new(3));
/// let threads: Vec<_> = (0..3).map(|_| {
///     let barrier = barrier.clone();
///     thread::spawn(move || barrier.wait().unwrap())
/// }).collect();
/// let last = threads.into_iter().map(|thread| thread.join().unwrap());
/// assert_eq!(last.filter(|last| *last).count(), 1);
/// ```
pub struct Barrier<P: Policy> {
    count: usize,
    state: P::Lock<State>,
}

constructors! { impl[] Barrier<P>,
    /// Creates a barrier for `count` fibers. With 0 or 1 it never blocks.
    pub fn new(count: usize) {
        Barrier { count, state: <P as Policy>::Lock::new(State { arrived: 0, queue: WaitQueue::new() }) }
    }
}

impl<P: Policy> Barrier<P> {
    /// Waits until as many fibers wait as the barrier is for. Returns `true` to the one that came last.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is cancelled or a deadline passes, before or during the wait.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, spawn, sync::local::Barrier};
    /// use std::rc::Rc;
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let two = Rc::new(Barrier::new(2));
    ///     let other = two.clone();
    ///     let first = spawn(move || other.wait().unwrap());
    ///     let second = two.wait().unwrap();
    ///     assert_ne!(first.join().unwrap(), second);
    /// });
    /// ```
    #[track_caller]
    pub fn wait(&self) -> Result<bool, Stopped> {
        wait_for(&Arriving(self), false).map_err(|(stopped, _)| stopped)
    }
}

impl<P: Policy> fmt::Debug for Barrier<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// The operation of arriving at the barrier. The slot says whether the fiber was the last.
struct Arriving<'a, P: Policy>(&'a Barrier<P>);

impl<P: Policy> Source for Arriving<'_, P> {
    type Policy = P;
    type State = State;
    type Slot = bool;
    type Output = bool;
    const REASON: &'static str = "barrier";

    fn state(&self) -> &P::Lock<State> {
        &self.0.state
    }

    fn try_now(&self, last: &mut bool) -> bool {
        *last = self.0.count <= 1;
        *last
    }

    fn enlist(&self, state: &mut State, node: &Node<bool>, wakes: &mut Wakes<P>) -> Enlisted {
        if state.arrived + 1 < self.0.count {
            state.arrived += 1;
            // SAFETY: the caller attached the node, and does not move it until it is removed.
            unsafe { state.queue.push(node) };
            return Enlisted::Waiting;
        }
        // A barrier takes no part in a select, and a wait for it is given up under the lock. So every arrived fiber can
        // be released, and the caller's own wait can be claimed.
        let released = state.queue.grant_all(wakes, |_| ());
        debug_assert_eq!(released, state.arrived);
        state.arrived = 0;
        // SAFETY: we hold the lock.
        unsafe { node.with_slot(|last| *last = true) };
        let claimed = node.claim();
        debug_assert!(claimed);
        Enlisted::Done
    }

    fn queue(state: &mut State) -> &mut WaitQueue<bool> {
        &mut state.queue
    }

    fn withdrawn(&self, state: &mut State, _wakes: &mut Wakes<P>) {
        state.arrived -= 1;
    }

    /// The round has ended; there is nothing to hand on.
    fn hand_on(&self, _last: &mut bool) {}

    fn finish(&self, last: bool) -> bool {
        last
    }
}
