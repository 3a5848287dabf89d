//! The wait queue: the one algorithm behind everything in [`sync`](super).
//!
//! ```text
//!   queue of A:  head ─▶ node ─▶ node ─▶ …        waiter 1's frame:  [ wait | node in A ]
//!                          │
//!                          ▼ wait, number          waiter 2's frame:  [ wait | node in A (1) | node in B (2) ]
//!   queue of B:  head ─▶ node                                           ▲ claim: open, 1, 2, or given up
//! ```
//!
//! A **wait** lies on the waiter's stack. It has the claim, and the signal that wakes the waiter. A **node** is its
//! entry in one queue, on the same stack, with a **slot** through which things change hands (a number of permits, a
//! message). A granter removes the first node, *claims* its wait with the node's number, fills the slot, and wakes the
//! waiter. If the claim fails, another queue was faster, or the waiter has given up; the granter then drops the node
//! and tries the next one. A waiter that is cancelled, or whose deadline passes, claims its own wait. If that fails, it
//! has been granted something after all, and takes it. So a single word decides, and nothing is granted to a waiter
//! that has left.
//!
//! [Locking in WebKit](https://webkit.org/blog/6161/locking-in-webkit/) describes queues of nodes on waiters' stacks.
//! [Go's select](https://go.dev/src/runtime/select.go) has the same single word for all branches (`selectDone`).
//!
//! # Invariants
//!
//! 1. A queue, and the links and the slot of a node in it, are touched only under the lock of the queue's primitive.
//!    That includes filling the slot and taking the signal after a claim.
//! 2. A node is in a queue only while its waiter is inside the call that put it there, on whose frame it lies. Before
//!    that call returns *or unwinds* it takes the lock once for every node, and removes the node or finds it removed.
//!    The granter did all of its work under that lock, so nobody touches the node or the wait after that.
//! 3. A wait is claimed once. Only the claimer fills a slot, and it fills one.
//! 4. Between threads a signal is raised after the lock is released, by value: the waiter's frame may be gone by then.
//!
//! Tests that would catch a violation: `tests/loom_sync.rs` (1, 3 and 4: loom checks each access to a slot or a signal
//! against all others), `tests/sync_threads.rs` under AddressSanitizer, which looks for uses after return (`ci/asan`;
//! 2: a node that outlives its frame), and `tests/sync_races.rs` (3: all orders of a grant, a cancellation and a
//! deadline; nothing is lost and nothing is granted twice).

use super::policy::{Lock, Policy};
use super::suspend::{assert_may_wait, suspend, suspend_uninterruptibly};
use crate::atomic::{AtomicU32, Ordering, SharedCell};
use crate::fiber::{Signal, Stopped, check_stopped, refuse_call};
use crate::time::Instant;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::ptr;

/// Nobody has claimed the wait.
const OPEN: u32 = 0;
/// The waiter itself has claimed it: it was stopped, or starts over.
const GIVEN_UP: u32 = u32::MAX;

/// One wait of one fiber or thread.
pub struct Wait {
    claim: AtomicU32,
    /// Whether more than one thread, or lock, may claim it.
    contended: bool,
    signal: SharedCell<Option<Signal>>,
}

impl Wait {
    pub fn new(contended: bool, signal: Signal) -> Self {
        Wait {
            claim: AtomicU32::new(OPEN),
            contended,
            signal: SharedCell::new(Some(signal)),
        }
    }

    /// Claims the wait for the node with that number. Returns `false` if it is already claimed.
    pub fn claim(&self, number: u32) -> bool {
        debug_assert!(number != OPEN, "a claim must differ from no claim");
        if self.contended {
            // AcqRel: a claim that fails comes after the one that succeeded. Nothing is published through it; the locks
            // do that.
            self.claim
                .compare_exchange(OPEN, number, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        } else {
            // One thread: a plain load and a plain store.
            let open = self.claim.load(Ordering::Relaxed) == OPEN;
            if open {
                self.claim.store(number, Ordering::Relaxed);
            }
            open
        }
    }

    pub fn give_up(&self) -> bool {
        self.claim(GIVEN_UP)
    }

    /// Returns the number of the node for which it was claimed.
    pub fn claimed_by(&self) -> Option<u32> {
        // Acquire: pairs with the claim; see there.
        let claim = self.claim.load(Ordering::Acquire);
        (claim != OPEN && claim != GIVEN_UP).then_some(claim)
    }
}

/// A waiter's entry in one queue.
pub struct Node<S> {
    previous: Cell<*const Node<S>>,
    next: Cell<*const Node<S>>,
    linked: Cell<bool>,
    wait: Cell<*const Wait>,
    number: Cell<u32>,
    slot: SharedCell<S>,
}

impl<S> Node<S> {
    pub fn new(slot: S) -> Self {
        Node {
            previous: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            linked: Cell::new(false),
            wait: Cell::new(ptr::null()),
            number: Cell::new(0),
            slot: SharedCell::new(slot),
        }
    }

    /// Sets the wait that the node belongs to.
    ///
    /// # Safety
    /// The node is in no queue, and `wait` does not move and lives until the node is in no queue again.
    pub unsafe fn attach(&self, wait: &Wait, number: u32) {
        debug_assert!(
            !self.linked.get(),
            "a node was attached to another wait while it was in a queue"
        );
        debug_assert!(
            number != OPEN && number != GIVEN_UP,
            "a node's number is neither of the special claims"
        );
        self.wait.set(wait);
        self.number.set(number);
    }

    /// Claims the wait for this node. Called by the waiter itself, when what it wants is available.
    pub fn claim(&self) -> bool {
        debug_assert!(!self.wait.get().is_null(), "the node is not attached");
        // SAFETY: attached, because callers call `attach` before `Source::enlist`.
        unsafe { (*self.wait.get()).claim(self.number.get()) }
    }

    /// Returns whether the wait was claimed for this node.
    ///
    /// # Safety
    /// The node is attached, and its wait is still alive.
    pub unsafe fn is_served(&self) -> bool {
        let wait = self.wait.get();
        // SAFETY: null, or alive as the caller promises.
        unsafe { wait.as_ref() }.is_some_and(|wait| wait.claimed_by() == Some(self.number.get()))
    }

    /// Passes the slot to `f`.
    ///
    /// # Safety
    /// The caller holds the queue's lock, or the node is in no queue; and no other reference to the slot is live.
    #[inline(always)]
    pub unsafe fn with_slot<R>(&self, f: impl FnOnce(&mut S) -> R) -> R {
        // SAFETY: as the caller promises.
        self.slot.with_mut(|slot| f(unsafe { &mut *slot }))
    }

    pub fn into_slot(self) -> S {
        debug_assert!(
            !self.linked.get(),
            "a node is taken apart while a granter may fill its slot"
        );
        self.slot.into_inner()
    }
}

/// Waiters in the order in which they came. It lies inside the lock of its primitive.
pub struct WaitQueue<S> {
    head: *const Node<S>,
    tail: *const Node<S>,
}

// SAFETY: the nodes are touched only under the lock that contains the queue (invariant 1); slots are handed from thread
// to thread.
unsafe impl<S: Send> Send for WaitQueue<S> {}

impl<S> WaitQueue<S> {
    pub const fn new() -> Self {
        WaitQueue {
            head: ptr::null(),
            tail: ptr::null(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Appends a node.
    ///
    /// # Safety
    /// The node is attached, is in no queue, and does not move until it is removed (invariant 2).
    pub unsafe fn push(&mut self, node: &Node<S>) {
        debug_assert!(
            !node.linked.get(),
            "a node was queued twice: its owner must refuse a second wait first"
        );
        debug_assert!(!node.wait.get().is_null(), "the node is not attached");
        self.assert_ends();
        node.linked.set(true);
        node.next.set(ptr::null());
        node.previous.set(self.tail);
        // SAFETY: a node in the queue is alive (invariant 2).
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.next.set(node),
            None => self.head = node,
        }
        self.tail = node;
    }

    /// Asserts that the queue has both ends or neither, and that they are the ends.
    fn assert_ends(&self) {
        debug_assert!(
            self.head.is_null() == self.tail.is_null(),
            "a queue has both ends or neither"
        );
        // SAFETY: a node in the queue is alive (invariant 2).
        debug_assert!(unsafe {
            self.head
                .as_ref()
                .is_none_or(|head| head.previous.get().is_null())
                && self
                    .tail
                    .as_ref()
                    .is_none_or(|tail| tail.next.get().is_null())
        });
    }

    /// Returns whether all waiters are other nodes of the same wait: a select can be at both ends of a channel, but
    /// does not serve itself.
    pub fn is_empty_except(&self, node: &Node<impl Sized>) -> bool {
        let mut at = self.head;
        // SAFETY: nodes in the queue are alive, and the caller holds the lock (invariants 1 and 2).
        while let Some(other) = unsafe { at.as_ref() } {
            if other.wait.get() != node.wait.get() {
                return false;
            }
            at = other.next.get();
        }
        true
    }

    /// Removes a node. Returns whether it was in the queue.
    pub fn remove(&mut self, node: &Node<S>) -> bool {
        if !node.linked.replace(false) {
            return false;
        }
        let (previous, next) = (node.previous.get(), node.next.get());
        // SAFETY: neighbours in the queue are alive (invariant 2).
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.next.set(next),
            None => self.head = next,
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.previous.set(previous),
            None => self.tail = previous,
        }
        self.assert_ends();
        true
    }

    /// Passes the slot of the first waiter to `f`.
    pub fn first<R>(&self, f: impl FnOnce(&S) -> R) -> Option<R> {
        // SAFETY: a node in the queue is alive, and the caller holds the lock (invariants 1 and 2).
        unsafe {
            let node = self.head.as_ref()?;
            Some(node.slot.with(|slot| f(&*slot)))
        }
    }

    /// Removes the first waiter. If its wait can be claimed, fills its slot, has it woken, and returns `true`.
    pub fn grant_first<P: Policy>(
        &mut self,
        wakes: &mut Wakes<P>,
        fill: &mut impl FnMut(&mut S),
    ) -> bool {
        // SAFETY: a node in the queue is alive, and so is the wait it is attached to, and the caller holds the lock
        // (invariants 1 and 2); after the claim, slot and signal are ours (3).
        unsafe {
            let node = &*self.head;
            // Also if the claim fails: its waiter has been served elsewhere or has given up, and would only be in the
            // way.
            self.remove(node);
            if !node.claim() {
                return false;
            }
            // Claimed, so the waiter stays until this lock is released: it takes the lock before it leaves.
            node.with_slot(|slot| fill(slot));
            let signal = (*node.wait.get())
                .signal
                .with_mut(|signal| (*signal).take());
            if let Some(signal) = signal {
                wakes.push(signal);
            }
        }
        true
    }

    /// Grants something to the first waiter that still wants it. Returns whether there was one.
    pub fn grant<P: Policy>(&mut self, wakes: &mut Wakes<P>, mut fill: impl FnMut(&mut S)) -> bool {
        while !self.head.is_null() {
            if self.grant_first(wakes, &mut fill) {
                return true;
            }
        }
        false
    }

    /// Grants something to every waiter. Returns how many there were.
    pub fn grant_all<P: Policy>(
        &mut self,
        wakes: &mut Wakes<P>,
        mut fill: impl FnMut(&mut S),
    ) -> usize {
        let mut count = 0;
        while self.grant(wakes, &mut fill) {
            count += 1;
        }
        count
    }
}

/// The signals of waiters that were served. On one thread they are raised at once, between threads after the lock.
pub struct Wakes<P: Policy> {
    first: Option<Signal>,
    /// Allocates only when one operation wakes several.
    more: Vec<Signal>,
    _policy: PhantomData<P>,
}

impl<P: Policy> Wakes<P> {
    #[inline]
    pub fn new() -> Self {
        Wakes {
            first: None,
            more: Vec::new(),
            _policy: PhantomData,
        }
    }

    fn push(&mut self, signal: Signal) {
        if !P::BETWEEN_THREADS {
            signal.raise();
        } else if self.first.is_none() {
            self.first = Some(signal);
        } else {
            self.more.push(signal);
        }
    }
}

impl<P: Policy> Drop for Wakes<P> {
    #[inline]
    fn drop(&mut self) {
        if let Some(signal) = self.first.take() {
            signal.raise();
            self.more.drain(..).for_each(|signal| signal.raise());
        }
    }
}

/// The result of an attempt to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enlisted {
    /// The node is in the queue.
    Waiting,
    /// The request was granted at once: the wait is claimed, the slot filled.
    Done,
    /// Another branch of the same select has been served.
    Lost,
    /// The wait is claimed, but the grant is no longer possible: give up, and start over.
    Again,
}

/// An operation that can be waited for: one end of a primitive (receiving from a channel, acquiring permits, …).
///
/// The methods that get the state run under its lock: they must not suspend and must not run the program's code.
pub trait Source {
    type Policy: Policy;
    type State;
    /// The value that a waiter brings, and the one that it gets.
    type Slot;
    type Output;
    /// The reason that listings show for a fiber that waits here.
    const REASON: &'static str;

    fn state(&self) -> &<Self::Policy as Policy>::Lock<Self::State>;

    /// Fills the slot without waiting, if the request can be granted and nobody came before.
    fn try_now(&self, slot: &mut Self::Slot) -> bool;

    /// Grants the request now (claiming the node's wait first), or queues the node. Called under the lock.
    fn enlist(
        &self,
        state: &mut Self::State,
        node: &Node<Self::Slot>,
        wakes: &mut Wakes<Self::Policy>,
    ) -> Enlisted;

    /// Called after the lock was released, when the node is in the queue.
    fn enlisted(&self) {}

    fn queue(state: &mut Self::State) -> &mut WaitQueue<Self::Slot>;

    /// Called under the lock, when a waiter has left the queue with nothing: waiters behind it may be served.
    fn withdrawn(&self, _state: &mut Self::State, _wakes: &mut Wakes<Self::Policy>) {}

    /// Hands a grant on that the waiter cannot take.
    fn hand_on(&self, slot: &mut Self::Slot);

    /// Called for a branch that was dropped without an outcome.
    fn unused(&self, _slot: &mut Self::Slot) {}

    /// Converts a filled slot into the caller's result.
    fn finish(&self, slot: Self::Slot) -> Self::Output;
}

/// Runs `f` on the source's state, then wakes the waiters that it served.
pub fn locked<S: Source, R>(
    source: &S,
    f: impl FnOnce(&mut S::State, &mut Wakes<S::Policy>) -> R,
) -> R {
    let mut wakes = Wakes::new();
    source.state().with(|state| f(state, &mut wakes))
}

/// Waits for a source. This is the whole of a suspending call; a call that was refused returns the slot.
#[inline]
#[track_caller]
pub fn wait_for<S: Source>(source: &S, mut slot: S::Slot) -> Result<S::Output, (Stopped, S::Slot)> {
    if let Err(stopped) = check_stopped() {
        return Err((stopped, slot));
    }
    if !source.try_now(&mut slot) {
        slot = wait_in_queue(source, slot, false)?;
    }
    Ok(source.finish(slot))
}

/// Like [`wait_for`], but uninterruptible.
#[track_caller]
pub fn wait_uninterruptibly_for<S: Source>(source: &S, mut slot: S::Slot) -> S::Output {
    if !source.try_now(&mut slot) {
        slot = match wait_in_queue(source, slot, true) {
            Ok(slot) => slot,
            Err(_) => unreachable!("a wait that cannot be interrupted"),
        };
    }
    source.finish(slot)
}

/// A node that leaves its queue when the call ends, even by unwinding.
struct Queued<'a, S: Source> {
    source: &'a S,
    wait: &'a Wait,
    node: Node<S::Slot>,
}

impl<S: Source> Queued<'_, S> {
    /// Ends the wait. Returns `true` if it was granted something.
    fn leave(&self, give_up: bool) -> bool {
        locked(self.source, |state, wakes| {
            // Under the lock, so that a primitive that counts waiters (a barrier) sees the waiter leave before, or not
            // at all.
            let left = give_up && self.wait.give_up();
            if S::queue(state).remove(&self.node) && left {
                self.source.withdrawn(state, wakes);
            }
            !left
        })
    }
}

/// The end of a wait in a queue.
enum End<T> {
    Given(T),
    Stopped(Stopped, T),
    /// The grant was no longer possible; nothing was taken, and the node has left the queue.
    Again(T),
}

#[cold]
#[inline(never)]
#[track_caller]
fn wait_in_queue<S: Source>(
    source: &S,
    mut slot: S::Slot,
    uninterruptible: bool,
) -> Result<S::Slot, (Stopped, S::Slot)> {
    assert_may_wait(S::Policy::BETWEEN_THREADS);
    loop {
        match wait_once(source, slot, uninterruptible) {
            End::Given(slot) => return Ok(slot),
            End::Stopped(stopped, slot) => return Err((stopped, slot)),
            End::Again(before) => slot = before,
        }
    }
}

// Inlined for the processor's return-address prediction: a switch invalidates it for every open call.
#[inline(always)]
#[track_caller]
fn wait_once<S: Source>(source: &S, slot: S::Slot, uninterruptible: bool) -> End<S::Slot> {
    let wait = Wait::new(S::Policy::BETWEEN_THREADS, Signal::new());
    let queued = Queued {
        source,
        wait: &wait,
        node: Node::new(slot),
    };
    let unwinding = Unwinding(&queued);
    // SAFETY: `wait` and the node do not move until `leave` below, or the one in `unwinding`, has returned.
    unsafe { queued.node.attach(&wait, 1) };
    let enlisted = locked(source, |state, wakes| {
        source.enlist(state, &queued.node, wakes)
    });
    let mut stopped = None;
    if enlisted == Enlisted::Waiting {
        source.enlisted();
        let end = suspend_until_claimed::<S>(&wait, uninterruptible).err();
        let given = queued.leave(end.is_some());
        // A grant that came at the same time as the stop wins. The next call fails.
        stopped = end.filter(|_| !given);
    }
    debug_assert!(
        !queued.node.linked.get(),
        "the call returns while its node is in a queue"
    );
    debug_assert!(
        stopped.is_some() || wait.claimed_by().is_some() || enlisted == Enlisted::Again,
        "the call returns with nothing, and was not stopped"
    );
    mem::forget(unwinding);
    let slot = queued.node.into_slot();
    match stopped {
        Some(stopped) => End::Stopped(refuse_call(stopped), slot),
        None if enlisted == Enlisted::Again => End::Again(slot),
        None => End::Given(slot),
    }
}

#[inline(always)]
#[track_caller]
fn suspend_until_claimed<S: Source>(wait: &Wait, uninterruptible: bool) -> Result<(), Stopped> {
    // A plain thread may wake spuriously: its token also stands for unparks of earlier waits.
    while wait.claimed_by().is_none() {
        if uninterruptible {
            suspend_uninterruptibly(S::REASON);
        } else {
            suspend(S::REASON, Instant::NEVER)?;
        }
    }
    Ok(())
}

/// Removes the node when the suspension panics (it is forbidden there, or a switch hook refuses). A grant made at that
/// moment goes to another waiter.
struct Unwinding<'a, 'b, S: Source>(&'a Queued<'b, S>);

impl<S: Source> Drop for Unwinding<'_, '_, S> {
    fn drop(&mut self) {
        let queued = self.0;
        if queued.leave(true) {
            // SAFETY: the node is in no queue any more.
            unsafe { queued.node.with_slot(|slot| queued.source.hand_on(slot)) };
        }
    }
}
