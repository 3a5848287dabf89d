//! Permits: the semaphore, and the raw semaphore that mutexes and read-write locks are built on.
//!
//! ```text
//!   word:  permits × 2, plus 1 if a fiber waits
//! ```
//!
//! While nobody waits, permits are taken and released by an exchange of the word. When a fiber waits, the word is
//! *frozen*: only the holder of the lock changes it, so that a permit cannot be grabbed before the waiters. They are
//! served strictly in the order in which they came; a waiter that wants many permits is not overtaken by those that
//! want few.
//!
//! Invariant, under the lock: the word is frozen if and only if the queue is not empty.

use super::policy::{Lock, Policy, Word, constructors};
use super::select::SourceBranch;
use super::wait::{
    Enlisted, Node, Source, WaitQueue, Wakes, locked, wait_for, wait_uninterruptibly_for,
};
use crate::fiber::Stopped;
use std::fmt;

const FROZEN: usize = 1;
const PERMIT: usize = 2;

/// The largest number of permits, which a word can count with room to spare.
pub(super) const PERMITS_MAX: usize = usize::MAX >> 3;

/// A semaphore without guards.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct RawSemaphore<P: Policy> {
    word: P::Word,
    queue: P::Lock<WaitQueue<usize>>,
}

constructors! { impl[] RawSemaphore<P>,
    pub(super) fn new(permits: usize) {
        RawSemaphore {
            word: <P as Policy>::Word::new(permits * PERMIT),
            queue: <P as Policy>::Lock::new(WaitQueue::new()),
        }
    }
}

impl<P: Policy> RawSemaphore<P> {
    /// Like `new`, but for a policy that is not known.
    pub(super) fn with_permits(permits: usize) -> Self {
        RawSemaphore {
            word: P::Word::new_word(permits * PERMIT),
            queue: P::Lock::new_lock(WaitQueue::new()),
        }
    }

    #[inline]
    pub(super) fn try_acquire(&self, count: usize) -> bool {
        loop {
            let word = self.word.load();
            if word & FROZEN != 0 || word / PERMIT < count {
                return false;
            }
            if self.word.exchange(word, word - count * PERMIT) {
                return true;
            }
        }
    }

    #[inline]
    pub(super) fn release(&self, count: usize) {
        loop {
            let word = self.word.load();
            if word & FROZEN != 0 {
                return self.release_to_waiters(count);
            }
            if self.word.exchange(word, word + count * PERMIT) {
                return;
            }
        }
    }

    #[cold]
    fn release_to_waiters(&self, count: usize) {
        locked(&self.acquiring(()), |queue, wakes| {
            self.distribute(queue, count, wakes);
        });
    }

    #[inline]
    pub(super) fn acquiring<H>(&self, holder: H) -> Acquiring<'_, P, H> {
        Acquiring { raw: self, holder }
    }

    #[inline]
    pub(super) fn available(&self) -> usize {
        self.word.load() / PERMIT
    }

    #[inline]
    #[track_caller]
    pub(super) fn acquire(&self, count: usize) -> Result<(), Stopped> {
        wait_for(&self.acquiring(()), count).map_err(|(stopped, _)| stopped)
    }

    #[track_caller]
    pub(super) fn acquire_uninterruptibly(&self, count: usize) {
        wait_uninterruptibly_for(&self.acquiring(()), count);
    }

    /// Freezes the word. Called under the lock. Returns the number of permits.
    fn freeze(&self) -> usize {
        loop {
            let word = self.word.load();
            if word & FROZEN != 0 || self.word.exchange(word, word | FROZEN) {
                return word / PERMIT;
            }
        }
    }

    /// Stores the number of permits in the frozen word. Called under the lock.
    fn thaw(&self, queue: &WaitQueue<usize>, permits: usize) {
        debug_assert!(
            self.word.load() & FROZEN != 0,
            "only a frozen word is thawed"
        );
        debug_assert!(
            permits <= PERMITS_MAX,
            "more permits than the semaphore can have"
        );
        let waiting = if queue.is_empty() { 0 } else { FROZEN };
        self.word.store(permits * PERMIT + waiting);
    }

    /// Adds permits, and serves waiters in order while there are enough. Called under the lock.
    fn distribute(&self, queue: &mut WaitQueue<usize>, count: usize, wakes: &mut Wakes<P>) {
        let mut permits = self.freeze() + count;
        while let Some(wanted) = queue.first(|wanted| *wanted)
            && wanted <= permits
        {
            if queue.grant_first(wakes, &mut |_| ()) {
                permits -= wanted;
            }
        }
        self.thaw(queue, permits);
    }
}

/// The operation of acquiring permits. The slot holds their number.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Acquiring<'a, P: Policy, H> {
    raw: &'a RawSemaphore<P>,
    holder: H,
}

/// Turns acquired permits into what the caller gets: nothing, a permit, a guard.
pub trait Holder {
    type Guard;
    fn hold(&self, count: usize) -> Self::Guard;
}

impl Holder for () {
    type Guard = ();

    #[inline(always)]
    fn hold(&self, _count: usize) {}
}

impl<P: Policy, H: Holder> Source for Acquiring<'_, P, H> {
    type Policy = P;
    type State = WaitQueue<usize>;
    type Slot = usize;
    type Output = H::Guard;
    const REASON: &'static str = "permits, or a lock";

    fn state(&self) -> &P::Lock<WaitQueue<usize>> {
        &self.raw.queue
    }

    #[inline]
    fn try_now(&self, count: &mut usize) -> bool {
        self.raw.try_acquire(*count)
    }

    fn enlist(
        &self,
        queue: &mut WaitQueue<usize>,
        node: &Node<usize>,
        _wakes: &mut Wakes<P>,
    ) -> Enlisted {
        let permits = self.raw.freeze();
        // SAFETY: we hold the lock.
        let wanted = unsafe { node.with_slot(|wanted| *wanted) };
        if queue.is_empty() && wanted <= permits {
            let ours = node.claim();
            self.raw
                .thaw(queue, if ours { permits - wanted } else { permits });
            return if ours { Enlisted::Done } else { Enlisted::Lost };
        }
        // SAFETY: the caller attached the node, and does not move it until it is removed.
        unsafe { queue.push(node) };
        self.raw.thaw(queue, permits);
        Enlisted::Waiting
    }

    fn queue(state: &mut WaitQueue<usize>) -> &mut WaitQueue<usize> {
        state
    }

    /// Serves waiters that were queued behind the one that left: there may be enough permits for them.
    fn withdrawn(&self, queue: &mut WaitQueue<usize>, wakes: &mut Wakes<P>) {
        self.raw.distribute(queue, 0, wakes);
    }

    fn hand_on(&self, count: &mut usize) {
        if !crate::planted!("permit lost on cancel") {
            self.raw.release(*count);
        }
    }

    #[inline]
    fn finish(&self, count: usize) -> H::Guard {
        self.holder.hold(count)
    }
}

/// Permits that fibers take and release: a limit on how many do something at once.
///
/// Fair: waiters get permits in the order in which they came, and nobody overtakes them, even with a smaller request.
/// This is the type behind [`sync::Semaphore`](crate::sync::Semaphore) and
/// [`sync::local::Semaphore`](crate::sync::local::Semaphore).
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, sync::local::Semaphore, yield_now};
/// use std::{cell::Cell, rc::Rc};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (two, inside) = (Rc::new(Semaphore::new(2)), Rc::new(Cell::new(0)));
///     let fibers: Vec<_> = (0..10).map(|_| {
///         let (two, inside) = (two.clone(), inside.clone());
///         spawn(move || {
///             let _permit = two.acquire(1).unwrap();
///             inside.set(inside.get() + 1);
///             assert!(inside.get() <= 2);
///             yield_now().unwrap();
///             inside.set(inside.get() - 1);
///         })
///     }).collect();
///     fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
///     assert_eq!(two.available(), 2);
/// });
/// ```
pub struct Semaphore<P: Policy> {
    raw: RawSemaphore<P>,
}

constructors! { impl[] Semaphore<P>,
    /// Creates a semaphore with that many permits.
    ///
    /// # Panics
    /// If there are more than `usize::MAX / 8`.
    pub fn new(permits: usize) {
        assert!(permits <= PERMITS_MAX, "a semaphore cannot count that many permits");
        Semaphore { raw: <RawSemaphore<P>>::new(permits) }
    }
}

impl<P: Policy> Semaphore<P> {
    /// Takes `count` permits, and waits until there are enough. Dropping the [`Permit`] releases them.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is cancelled or a deadline passes first. It has then taken nothing.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    ///
    /// ```
    /// use yue_scheduler::sync::Semaphore;
    ///
    /// let tokens = Semaphore::new(3); // a plain thread blocks
    /// let two = tokens.acquire(2).unwrap();
    /// assert_eq!(tokens.available(), 1);
    /// drop(two);
    /// assert_eq!(tokens.available(), 3);
    /// ```
    #[inline]
    #[track_caller]
    pub fn acquire(&self, count: usize) -> Result<Permit<'_, P>, Stopped> {
        wait_for(&self.raw.acquiring(self), count).map_err(|(stopped, _)| stopped)
    }

    /// Takes `count` permits if they are available and nobody waits.
    #[inline]
    pub fn try_acquire(&self, count: usize) -> Option<Permit<'_, P>> {
        self.raw.try_acquire(count).then(|| self.hold(count))
    }

    /// Returns [`Semaphore::acquire`] as a branch of [`select!`](crate::select).
    ///
    /// ```
    /// use yue_scheduler::{select, sync::Semaphore};
    ///
    /// let tokens = Semaphore::new(1);
    /// let got = select! {
    ///     permit = acquire(tokens, 1) => permit.count(),
    ///     default => 0,
    /// };
    /// assert_eq!(got, Ok(1));
    /// ```
    pub fn acquire_branch(&self, count: usize) -> AcquireBranch<'_, P> {
        SourceBranch::new(self.raw.acquiring(self), count)
    }

    /// Adds new permits to the semaphore.
    ///
    /// # Panics
    /// If there would be more than `usize::MAX / 8`.
    ///
    /// ```
    /// use yue_scheduler::sync::Semaphore;
    ///
    /// let done = Semaphore::new(0);
    /// done.add(2);
    /// assert!(done.try_acquire(2).is_some());
    /// ```
    pub fn add(&self, count: usize) {
        let fits = count <= PERMITS_MAX && self.available() + count <= PERMITS_MAX;
        assert!(fits, "a semaphore cannot count that many permits");
        self.raw.release(count);
    }

    /// Returns the number of free permits.
    pub fn available(&self) -> usize {
        self.raw.available()
    }
}

impl<P: Policy> fmt::Debug for Semaphore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available())
            .finish()
    }
}

/// Acquired permits of a [`Semaphore`]; dropping it releases them.
///
/// ```
/// use yue_scheduler::sync::Semaphore;
///
/// let budget = Semaphore::new(10);
/// budget.acquire(4).unwrap().forget(); // spent for good
/// assert_eq!(budget.available(), 6);
/// ```
#[must_use = "dropping it releases the permits at once"]
pub struct Permit<'a, P: Policy> {
    semaphore: &'a Semaphore<P>,
    count: usize,
}

impl<P: Policy> Permit<'_, P> {
    /// Returns the number of permits.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Consumes the permits for good: the semaphore has fewer from now on.
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl<P: Policy> Drop for Permit<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.raw.release(self.count);
        }
    }
}

impl<P: Policy> fmt::Debug for Permit<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("count", &self.count)
            .finish()
    }
}

impl<'a, P: Policy> Holder for &'a Semaphore<P> {
    type Guard = Permit<'a, P>;

    #[inline]
    fn hold(&self, count: usize) -> Permit<'a, P> {
        Permit {
            semaphore: self,
            count,
        }
    }
}

/// Acquiring permits as a branch of a select; from [`Semaphore::acquire_branch`].
pub type AcquireBranch<'a, P> = SourceBranch<Acquiring<'a, P, &'a Semaphore<P>>>;
