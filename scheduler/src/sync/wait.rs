//! The wait queue: the one algorithm under everything in [`sync`](super).
//!
//! ```text
//!   queue of A:  head ─▶ node ─▶ node ─▶ …        waiter 1's frame:  [ wait | node in A ]
//!                          │
//!                          ▼ wait, number          waiter 2's frame:  [ wait | node in A (1) | node in B (2) ]
//!   queue of B:  head ─▶ node                                           ▲ claim: open, 1, 2, or given up
//! ```
//!
//! A **wait** lies on the waiter's stack: the claim, and the signal that wakes the waiter. A **node** is its place in
//! one queue, on the same stack, with a **slot** in which things change hands (a number of permits, a message). Whoever
//! has something to give takes the first node out, *claims* its wait with the node's number, fills the slot, and wakes.
//! If the claim fails, another queue was faster, or the waiter has given up: the node is forgotten and the next one
//! tried. The waiter that is cancelled, or whose deadline passes, claims its own wait; if that fails, it has been given
//! something after all, and takes it. So there is one word that decides, and nothing is given to somebody who left.
//!
//! # Invariants
//!
//! 1. A queue, the links and the slot of a node in it are touched under the lock of the queue's primitive only. That
//!    includes the filling of the slot and the taking of the signal after a claim.
//! 2. A node is in a queue only while its waiter is inside the call that put it there, on whose frame it lies. Before
//!    that call returns *or unwinds* it takes the lock once for every node: either it takes the node out, or finds it
//!    taken out; since the granter did all of its work under that lock, nobody touches the node or the wait after that.
//! 3. A wait is claimed once. Who claims it, and only who, fills one slot.
//! 4. A signal is raised after the lock is left (between threads), by value: the waiter's frame may be gone by then.
//!
//! What would catch a breach: `tests/loom_sync.rs` (1, 3 and 4: loom checks each access to a slot or a signal against
//! all others), `tests/sync_threads.rs` under AddressSanitizer, which looks for uses after return (`ci/asan`; 2: a node
//! that outlives its frame), and `tests/sync_races.rs` (3: all orders of a grant, a cancel and a deadline; nothing lost
//! and nothing twice).

use super::atomic::{AtomicU32, Ordering, SharedCell};
use super::policy::{Lock, Policy};
use super::waker::{Signal, assert_may_wait, suspend, suspend_hard};
use crate::fiber::{Stopped, check_stopped, refuse_call};
use crate::time::Instant;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::ptr;

/// Nobody has claimed the wait.
const OPEN: u32 = 0;
/// The waiter itself has: it was told to stop, or starts anew.
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

    /// Claims the wait for the node with that number; `false` if it is claimed already.
    pub fn claim(&self, number: u32) -> bool {
        if self.contended {
            // AcqRel: who fails comes after who succeeded; nothing is published through it, the locks do that.
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

    /// The number of the node for which it was claimed.
    pub fn claimed_by(&self) -> Option<u32> {
        // Acquire: pairs with the claim; see there.
        let claim = self.claim.load(Ordering::Acquire);
        (claim != OPEN && claim != GIVEN_UP).then_some(claim)
    }
}

/// A waiter's place in one queue.
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

    /// Says whose place it is.
    ///
    /// # Safety
    /// The node is in no queue, and `wait` lives at its address until it is in none again.
    pub unsafe fn attach(&self, wait: &Wait, number: u32) {
        self.wait.set(wait);
        self.number.set(number);
    }

    /// Claims the wait for this node by the waiter itself: what it wants is there.
    pub fn claim(&self) -> bool {
        // SAFETY: attached, by the callers' order: `attach`, then `Source::enlist`.
        unsafe { (*self.wait.get()).claim(self.number.get()) }
    }

    /// Whether the wait was claimed for this node.
    ///
    /// # Safety
    /// The node is attached, and its wait is still there.
    pub unsafe fn is_served(&self) -> bool {
        let wait = self.wait.get();
        // SAFETY: null, or alive as the caller promises.
        unsafe { wait.as_ref() }.is_some_and(|wait| wait.claimed_by() == Some(self.number.get()))
    }

    /// The slot, under the queue's lock or while the node is in no queue.
    ///
    /// # Safety
    /// That is so, and no other reference to the slot is live.
    #[inline(always)]
    pub unsafe fn with_slot<R>(&self, f: impl FnOnce(&mut S) -> R) -> R {
        // SAFETY: as the caller promises.
        self.slot.with_mut(|slot| f(unsafe { &mut *slot }))
    }

    pub fn into_slot(self) -> S {
        debug_assert!(!self.linked.get());
        self.slot.into_inner()
    }
}

/// Waiters in the order in which they came. Lives inside the lock of its primitive.
pub struct WaitQueue<S> {
    head: *const Node<S>,
    tail: *const Node<S>,
}

// SAFETY: the nodes are touched under the lock that the queue lies in (invariant 1); slots are handed from thread to
// thread.
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
    /// The node is attached, in no queue, and stays where it is until it is taken out (invariant 2).
    pub unsafe fn push(&mut self, node: &Node<S>) {
        debug_assert!(
            !node.linked.get(),
            "a node in two places: its owner must refuse a second wait before it comes here"
        );
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

    /// Whether there are no waiters but, perhaps, other nodes of the same wait: a select can be on both sides of a
    /// channel, but does not serve itself.
    pub fn is_empty_but_for(&self, node: &Node<impl Sized>) -> bool {
        let mut at = self.head;
        // SAFETY: nodes in the queue are alive, and the caller has the lock (invariants 1 and 2).
        while let Some(other) = unsafe { at.as_ref() } {
            if other.wait.get() != node.wait.get() {
                return false;
            }
            at = other.next.get();
        }
        true
    }

    /// Takes a node out, if it is in.
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
        true
    }

    /// What the first waiter brought.
    pub fn first<R>(&self, f: impl FnOnce(&S) -> R) -> Option<R> {
        // SAFETY: a node in the queue is alive, and the caller has the lock (invariants 1 and 2).
        unsafe {
            let node = self.head.as_ref()?;
            Some(node.slot.with(|slot| f(&*slot)))
        }
    }

    /// Takes the first waiter out. If its wait can be claimed, fills its slot, has it woken, and answers `true`.
    pub fn grant_first<P: Policy>(
        &mut self,
        wakes: &mut Wakes<P>,
        fill: &mut impl FnMut(&mut S),
    ) -> bool {
        // SAFETY: a node in the queue is alive, with the wait it is attached to, and the caller has the lock
        // (invariants 1 and 2); after the claim, slot and signal are ours (3).
        unsafe {
            let node = &*self.head;
            self.remove(node);
            if !node.claim() {
                return false;
            }
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

    /// Gives something to the first waiter that still wants it. Returns whether there was one.
    pub fn grant<P: Policy>(&mut self, wakes: &mut Wakes<P>, mut fill: impl FnMut(&mut S)) -> bool {
        while !self.head.is_null() {
            if self.grant_first(wakes, &mut fill) {
                return true;
            }
        }
        false
    }

    /// Gives something to every waiter. Returns how many there were.
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

/// The signals of those who were given something: raised at once on one thread, after the lock between threads.
pub struct Wakes<P: Policy> {
    first: Option<Signal>,
    /// Allocates only when one act wakes several.
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

/// What came of an attempt to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enlisted {
    /// The node is in the queue.
    Waiting,
    /// What is wanted was there; the wait is claimed, the slot filled.
    Done,
    /// Another branch of the same select has been served.
    Lost,
    /// The wait is claimed, but what was there has gone meanwhile: give up, and begin anew.
    Again,
}

/// What can be waited for: one side of a primitive (receiving from a channel, acquiring permits, …).
///
/// The methods that get the state run under its lock: they must not suspend and must not run code of the program's.
pub trait Source {
    type Policy: Policy;
    type State;
    /// What a waiter brings and gets.
    type Slot;
    type Output;
    /// What listings show of a fiber that waits here.
    const REASON: &'static str;

    fn state(&self) -> &<Self::Policy as Policy>::Lock<Self::State>;

    /// Without waiting: fills the slot if what is wanted is there and nobody came before.
    fn quick(&self, slot: &mut Self::Slot) -> bool;

    /// Under the lock: what is wanted now (claiming the node's wait first), or a place in the queue.
    fn enlist(
        &self,
        state: &mut Self::State,
        node: &Node<Self::Slot>,
        wakes: &mut Wakes<Self::Policy>,
    ) -> Enlisted;

    /// After the lock, when the node is in the queue.
    fn enlisted(&self) {}

    fn queue(state: &mut Self::State) -> &mut WaitQueue<Self::Slot>;

    /// Under the lock: a waiter has left its place with nothing; those behind it may go on.
    fn withdrawn(&self, _state: &mut Self::State, _wakes: &mut Wakes<Self::Policy>) {}

    /// What was given cannot be taken: hand it on.
    fn hand_on(&self, slot: &mut Self::Slot);

    /// A branch was dropped without an outcome.
    fn unused(&self, _slot: &mut Self::Slot) {}

    /// What the caller gets for a filled slot.
    fn finish(&self, slot: Self::Slot) -> Self::Output;
}

/// Runs `f` on the source's state, and wakes whom it served.
pub fn locked<S: Source, R>(
    source: &S,
    f: impl FnOnce(&mut S::State, &mut Wakes<S::Policy>) -> R,
) -> R {
    let mut wakes = Wakes::new();
    source.state().with(|state| f(state, &mut wakes))
}

/// Waits for a source: the whole of a suspending call. The slot comes back from a call that was refused.
#[inline]
pub fn wait_for<S: Source>(source: &S, mut slot: S::Slot) -> Result<S::Output, (Stopped, S::Slot)> {
    if let Err(stopped) = check_stopped() {
        return Err((stopped, slot));
    }
    if !source.quick(&mut slot) {
        slot = wait_in_queue(source, slot, false)?;
    }
    Ok(source.finish(slot))
}

/// As [`wait_for`], but whatever else happens to the fiber.
pub fn wait_hard_for<S: Source>(source: &S, mut slot: S::Slot) -> S::Output {
    if !source.quick(&mut slot) {
        slot = match wait_in_queue(source, slot, true) {
            Ok(slot) => slot,
            Err(_) => unreachable!("a wait that cannot be interrupted"),
        };
    }
    source.finish(slot)
}

/// A node whose place is given back when the call ends, however it ends.
struct Place<'a, S: Source> {
    source: &'a S,
    wait: &'a Wait,
    node: Node<S::Slot>,
}

impl<S: Source> Place<'_, S> {
    /// Ends the wait. Answers `true` if it was given something.
    fn leave(&self, give_up: bool) -> bool {
        locked(self.source, |state, wakes| {
            // Under the lock, so that who counts waiters (a barrier) sees them go before, or not at all.
            let left = give_up && self.wait.give_up();
            if S::queue(state).remove(&self.node) && left {
                self.source.withdrawn(state, wakes);
            }
            !left
        })
    }
}

/// How a wait in a queue ended.
enum End<T> {
    Given(T),
    Stopped(Stopped, T),
    /// What seemed to be there has gone; nothing was taken, and the place is given back.
    Again(T),
}

#[cold]
#[inline(never)]
fn wait_in_queue<S: Source>(
    source: &S,
    mut slot: S::Slot,
    hard: bool,
) -> Result<S::Slot, (Stopped, S::Slot)> {
    assert_may_wait(S::Policy::BETWEEN_THREADS);
    loop {
        match wait_once(source, slot, hard) {
            End::Given(slot) => return Ok(slot),
            End::Stopped(stopped, slot) => return Err((stopped, slot)),
            End::Again(before) => slot = before,
        }
    }
}

// Inlined for the processor's return-address prediction: a switch voids it for every call that is open then.
#[inline(always)]
fn wait_once<S: Source>(source: &S, slot: S::Slot, hard: bool) -> End<S::Slot> {
    let wait = Wait::new(S::Policy::BETWEEN_THREADS, Signal::new());
    let place = Place {
        source,
        wait: &wait,
        node: Node::new(slot),
    };
    let unwinding = Unwinding(&place);
    // SAFETY: `wait` and the node stay where they are until `leave` below, or the one in `unwinding`, is over.
    unsafe { place.node.attach(&wait, 1) };
    let enlisted = locked(source, |state, wakes| {
        source.enlist(state, &place.node, wakes)
    });
    let mut stopped = None;
    if enlisted == Enlisted::Waiting {
        source.enlisted();
        let end = until_claimed::<S>(&wait, hard).err();
        let given = place.leave(end.is_some());
        stopped = end.filter(|_| !given);
    }
    mem::forget(unwinding);
    let slot = place.node.into_slot();
    match stopped {
        Some(stopped) => End::Stopped(refuse_call(stopped), slot),
        None if enlisted == Enlisted::Again => End::Again(slot),
        None => End::Given(slot),
    }
}

#[inline(always)]
fn until_claimed<S: Source>(wait: &Wait, hard: bool) -> Result<(), Stopped> {
    while wait.claimed_by().is_none() {
        if hard {
            suspend_hard(S::REASON);
        } else {
            suspend(S::REASON, Instant::NEVER)?;
        }
    }
    Ok(())
}

/// Takes the node out when the suspension panics (it is forbidden there, a switch hook says); what the waiter was given
/// in that moment goes to another.
struct Unwinding<'a, 'b, S: Source>(&'a Place<'b, S>);

impl<S: Source> Drop for Unwinding<'_, '_, S> {
    fn drop(&mut self) {
        let place = self.0;
        if place.leave(true) {
            // SAFETY: the node is in no queue any more.
            unsafe { place.node.with_slot(|slot| place.source.hand_on(slot)) };
        }
    }
}
