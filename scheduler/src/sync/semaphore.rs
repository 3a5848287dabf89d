//! Permits: the semaphore, and the raw one that mutexes and read-write locks are made of.
//!
//! ```text
//!   word:  permits × 2 + 1 if somebody waits
//! ```
//!
//! While nobody waits, permits are taken and given back by an exchange of the word. When somebody waits, the word is
//! *frozen*: only who has the lock changes it, so that a permit cannot be snatched from those who wait. They are served
//! strictly in the order in which they came; one who wants many is not overtaken by those who want few.
//!
//! Invariant, under the lock: the word is frozen if and only if the queue is not empty.

use super::policy::{Lock, Policy, Word, constructors};
use super::select::SourceBranch;
use super::wait::{Enlisted, Node, Source, WaitQueue, Wakes, locked, wait_for, wait_hard_for};
use crate::fiber::Stopped;
use std::fmt;

const FROZEN: usize = 1;
const PERMIT: usize = 2;

/// What a word can count with room to spare.
pub(super) const PERMITS_MAX: usize = usize::MAX >> 3;

/// Permits without guards.
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
    /// As `new`, where the policy is not known.
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
    pub(super) fn acquire(&self, count: usize) -> Result<(), Stopped> {
        wait_for(&self.acquiring(()), count).map_err(|(stopped, _)| stopped)
    }

    pub(super) fn acquire_hard(&self, count: usize) {
        wait_hard_for(&self.acquiring(()), count);
    }

    /// Under the lock: makes the word ours. Returns the permits.
    fn freeze(&self) -> usize {
        loop {
            let word = self.word.load();
            if word & FROZEN != 0 || self.word.exchange(word, word | FROZEN) {
                return word / PERMIT;
            }
        }
    }

    /// Under the lock, the word frozen: says how many permits there are.
    fn thaw(&self, queue: &WaitQueue<usize>, permits: usize) {
        let waiting = if queue.is_empty() { 0 } else { FROZEN };
        self.word.store(permits * PERMIT + waiting);
    }

    /// Under the lock: adds permits, and serves those who wait, in order, for as long as there are enough.
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

/// Waiting for permits; the slot is how many.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Acquiring<'a, P: Policy, H> {
    raw: &'a RawSemaphore<P>,
    holder: H,
}

/// Makes of permits what the caller gets: nothing, a permit, a guard.
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
    fn quick(&self, count: &mut usize) -> bool {
        self.raw.try_acquire(*count)
    }

    fn enlist(
        &self,
        queue: &mut WaitQueue<usize>,
        node: &Node<usize>,
        _wakes: &mut Wakes<P>,
    ) -> Enlisted {
        let permits = self.raw.freeze();
        // SAFETY: we have the lock.
        let wanted = unsafe { node.with_slot(|wanted| *wanted) };
        if queue.is_empty() && wanted <= permits {
            let ours = node.claim();
            self.raw
                .thaw(queue, if ours { permits - wanted } else { permits });
            return if ours { Enlisted::Done } else { Enlisted::Lost };
        }
        // SAFETY: the caller attached the node and keeps it in place until it is taken out.
        unsafe { queue.push(node) };
        self.raw.thaw(queue, permits);
        Enlisted::Waiting
    }

    fn queue(state: &mut WaitQueue<usize>) -> &mut WaitQueue<usize> {
        state
    }

    /// Who stood behind somebody who wanted many may have enough.
    fn withdrawn(&self, queue: &mut WaitQueue<usize>, wakes: &mut Wakes<P>) {
        self.raw.distribute(queue, 0, wakes);
    }

    fn hand_on(&self, count: &mut usize) {
        self.raw.release(*count);
    }

    #[inline]
    fn finish(&self, count: usize) -> H::Guard {
        self.holder.hold(count)
    }
}

/// Permits that fibers take and give back: a limit on how many do something at once.
///
/// Fair: permits go to those who wait in the order in which they came, and nobody overtakes them, however few permits
/// it wants. This is the type behind [`sync::Semaphore`](crate::sync::Semaphore) and
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
    /// A semaphore with that many permits.
    ///
    /// # Panics
    /// If there are more than `usize::MAX / 8`.
    pub fn new(permits: usize) {
        assert!(permits <= PERMITS_MAX, "a semaphore cannot count that many permits");
        Semaphore { raw: <RawSemaphore<P>>::new(permits) }
    }
}

impl<P: Policy> Semaphore<P> {
    /// Takes `count` permits, waiting until there are as many. They come back when the [`Permit`] is dropped.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is told to stop first; it has taken nothing then.
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
    pub fn acquire(&self, count: usize) -> Result<Permit<'_, P>, Stopped> {
        wait_for(&self.raw.acquiring(self), count).map_err(|(stopped, _)| stopped)
    }

    /// Takes `count` permits if they are there and nobody waits.
    ///
    /// ```
    /// use yue_scheduler::sync::Semaphore;
    ///
    /// let tokens = Semaphore::new(1);
    /// let one = tokens.try_acquire(1);
    /// assert!(one.is_some());
    /// assert!(tokens.try_acquire(1).is_none());
    /// ```
    #[inline]
    pub fn try_acquire(&self, count: usize) -> Option<Permit<'_, P>> {
        self.raw.try_acquire(count).then(|| self.hold(count))
    }

    /// [`Semaphore::acquire`] as a branch of [`select!`](crate::select).
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

    /// Adds permits that were not there before.
    ///
    /// # Panics
    /// If there are more than `usize::MAX / 8` then.
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

    /// Permits that nobody has.
    ///
    /// ```
    /// use yue_scheduler::sync::Semaphore;
    ///
    /// assert_eq!(Semaphore::new(5).available(), 5);
    /// ```
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

/// Permits of a [`Semaphore`]; dropping it gives them back.
///
/// ```
/// use yue_scheduler::sync::Semaphore;
///
/// let budget = Semaphore::new(10);
/// budget.acquire(4).unwrap().forget(); // spent for good
/// assert_eq!(budget.available(), 6);
/// ```
#[must_use = "dropping it gives the permits back at once"]
pub struct Permit<'a, P: Policy> {
    semaphore: &'a Semaphore<P>,
    count: usize,
}

impl<P: Policy> Permit<'_, P> {
    /// How many they are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Does not give them back: the semaphore has fewer permits from now on.
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

/// Acquiring permits as a branch of a select.
///
/// ```
/// use yue_scheduler::sync::{Semaphore, select};
/// use yue_scheduler::sync::select::Branch;
///
/// let seats = Semaphore::new(3);
/// let branch = seats.acquire_branch(2);
/// assert_eq!(select::wait(&[&branch]), Ok(0));
/// let taken = branch.take().unwrap();
/// assert_eq!((taken.count(), seats.available()), (2, 1));
/// ```
pub type AcquireBranch<'a, P> = SourceBranch<Acquiring<'a, P, &'a Semaphore<P>>>;
