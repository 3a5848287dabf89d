//! The shared part of a channel: the buffer, the waiting receivers and the waiting senders.
//!
//! ```text
//!   waiting senders              buffer                waiting receivers
//!   (each with its value)  ──▶  [v v v v]  ──▶        (each with an empty slot)
//! ```
//!
//! Values keep the order in which their sends began. A value goes straight into the slot of a waiting receiver, and a
//! receive that frees a slot of the buffer moves the first waiting sender's value there. A woken waiter has therefore
//! been served and need not retry, so no waiter is overtaken and none wakes for nothing.
//!
//! Invariants, under the lock, counting only open waits:
//! - Receivers wait only while the buffer is empty and no sender waits.
//! - Senders wait only while the buffer is full. (A buffer of capacity 0 is always both empty and full.)
//!
//! # Why the channel between threads is not a lock-free queue
//!
//! The queues of `yue-queue` have no capacity, no waiting receivers and no end. A receiver that finds one empty must
//! announce its sleep and then check again: it is woken to *retry*, and may be overtaken. Here one short lock covers
//! the buffer, both queues and the closing. The wake, which does cross between loops, goes through the mailbox of the
//! receiver's loop, and once a loop is awake the values of a batch cost no further wake.

use super::error::Closed;
use crate::sync::policy::{Lock, Policy};
use crate::sync::wait::{Enlisted, Node, Source, WaitQueue, Wakes, locked};
use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;

/// The slot of a waiting receiver: its value, or `Closed`.
pub type RecvSlot<T> = Option<Result<T, Closed>>;

/// The slot of a waiting sender: its value, or the outcome.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub enum SendSlot<T> {
    Waiting(T),
    Sent,
    Closed(T),
    /// The value was taken back, or there was none.
    Nothing,
}

#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct State<T> {
    buffer: VecDeque<T>,
    receivers: WaitQueue<RecvSlot<T>>,
    senders: WaitQueue<SendSlot<T>>,
    capacity: usize,
    sender_count: usize,
    receiver_count: usize,
    closed: bool,
}

#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Channel<P: Policy, T> {
    state: P::Lock<State<T>>,
    /// Whether sends never wait.
    pub(super) unbounded: bool,
}

impl<P: Policy, T> Channel<P, T> {
    /// Creates a channel with one sender and one receiver.
    pub(super) fn new(capacity: Option<usize>) -> Self {
        Channel {
            state: P::Lock::new_lock(State {
                // Nothing is allocated ahead of need; the buffer grows with its use.
                buffer: VecDeque::new(),
                receivers: WaitQueue::new(),
                senders: WaitQueue::new(),
                capacity: capacity.unwrap_or(usize::MAX),
                sender_count: 1,
                receiver_count: 1,
                closed: false,
            }),
            unbounded: capacity.is_none(),
        }
    }

    fn locked<R>(&self, f: impl FnOnce(&mut State<T>, &mut Wakes<P>) -> R) -> R {
        locked(&Receiving(self), f)
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&State<T>) -> R) -> R {
        self.state.with(|state| f(state))
    }

    /// Sends without waiting. Returns the value in the slot if that is impossible.
    #[inline]
    pub(super) fn send_now(&self, value: T) -> SendSlot<T> {
        match self.state.with(|state| state.send_without_waking(value)) {
            None => SendSlot::Sent,
            Some(value) => self.send_to_waiters(value),
        }
    }

    #[cold]
    fn send_to_waiters(&self, value: T) -> SendSlot<T> {
        let mut slot = SendSlot::Waiting(value);
        self.locked(|state, wakes| state.send(&mut slot, wakes));
        slot
    }

    #[inline]
    pub(super) fn receive_now(&self) -> RecvSlot<T> {
        match self.state.with(State::receive_without_waking) {
            Some(value) => Some(Ok(value)),
            None => self.receive_from_waiters(),
        }
    }

    #[cold]
    fn receive_from_waiters(&self) -> RecvSlot<T> {
        self.locked(State::receive)
    }

    pub(super) fn close(&self) {
        self.locked(State::close);
    }

    pub(super) fn add_sender(&self) {
        self.state.with(|state| state.sender_count += 1);
    }

    pub(super) fn add_receiver(&self) {
        self.state.with(|state| state.receiver_count += 1);
    }

    pub(super) fn drop_sender(&self) {
        self.locked(|state, wakes| {
            state.sender_count -= 1;
            if state.sender_count == 0 {
                state.close(wakes);
            }
        });
    }

    pub(super) fn drop_receiver(&self) {
        let rest = self.locked(|state, wakes| {
            state.receiver_count -= 1;
            if state.receiver_count > 0 {
                return VecDeque::new();
            }
            state.close(wakes);
            mem::take(&mut state.buffer)
        });
        // Outside the lock, because dropping the values may run any code.
        drop(rest);
    }
}

impl<T> State<T> {
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The fast path: there is room, and no waiter to wake. Otherwise returns the value.
    #[inline]
    fn send_without_waking(&mut self, value: T) -> Option<T> {
        let room = self.buffer.len() < self.capacity;
        if !room || self.closed || !self.receivers.is_empty() {
            return Some(value);
        }
        self.buffer.push_back(value);
        None
    }

    /// The fast path: there is a value, and no waiter to wake.
    #[inline]
    fn receive_without_waking(&mut self) -> Option<T> {
        if self.senders.is_empty() {
            self.buffer.pop_front()
        } else {
            None
        }
    }

    /// Sends the value in the slot if it need not wait. The slot then holds the outcome; `Waiting` means "not now".
    #[inline]
    fn send<P: Policy>(&mut self, slot: &mut SendSlot<T>, wakes: &mut Wakes<P>) {
        let SendSlot::Waiting(value) = mem::replace(slot, SendSlot::Nothing) else {
            return;
        };
        *slot = if self.closed {
            SendSlot::Closed(value)
        } else {
            match self.give_to_receiver(value, wakes) {
                None => SendSlot::Sent,
                Some(value) if self.buffer.len() < self.capacity => {
                    self.buffer.push_back(value);
                    SendSlot::Sent
                }
                Some(value) => SendSlot::Waiting(value),
            }
        };
    }

    /// Hands a value to the first waiting receiver, or returns it if there is none.
    #[inline]
    fn give_to_receiver<P: Policy>(&mut self, value: T, wakes: &mut Wakes<P>) -> Option<T> {
        if self.receivers.is_empty() {
            return Some(value);
        }
        let mut value = Some(value);
        self.receivers
            .grant(wakes, |slot| *slot = value.take().map(Ok));
        value
    }

    /// Returns the next value, or `Closed`; `None` means "not now".
    #[inline]
    fn receive<P: Policy>(&mut self, wakes: &mut Wakes<P>) -> RecvSlot<T> {
        let received = match self.buffer.pop_front() {
            Some(value) => {
                // Not if the buffer is still full: a value that was handed on is put back beyond the capacity.
                if self.buffer.len() < self.capacity
                    && let Some(next) = self.take_from_sender(wakes)
                {
                    self.buffer.push_back(next);
                }
                Some(value)
            }
            None => self.take_from_sender(wakes),
        };
        match received {
            Some(value) => Some(Ok(value)),
            None => self.closed.then_some(Err(Closed)),
        }
    }

    /// Takes the value of the first waiting sender, whose send then succeeds.
    #[inline]
    fn take_from_sender<P: Policy>(&mut self, wakes: &mut Wakes<P>) -> Option<T> {
        if self.senders.is_empty() {
            return None;
        }
        let mut taken = SendSlot::Nothing;
        self.senders
            .grant(wakes, |slot| taken = mem::replace(slot, SendSlot::Sent));
        match taken {
            SendSlot::Waiting(value) => Some(value),
            _ => None,
        }
    }

    /// Closes the channel. Values in the buffer can still be received.
    fn close<P: Policy>(&mut self, wakes: &mut Wakes<P>) {
        self.closed = true;
        self.receivers
            .grant_all(wakes, |slot| *slot = Some(Err(Closed)));
        self.senders.grant_all(wakes, |slot| {
            if let SendSlot::Waiting(value) = mem::replace(slot, SendSlot::Nothing) {
                *slot = SendSlot::Closed(value);
            }
        });
    }
}

/// The operation of receiving a value.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Receiving<'a, P: Policy, T>(pub(super) &'a Channel<P, T>);

impl<P: Policy, T> Source for Receiving<'_, P, T> {
    type Policy = P;
    type State = State<T>;
    type Slot = RecvSlot<T>;
    type Output = Result<T, Closed>;
    const REASON: &'static str = "channel, receiving";

    fn state(&self) -> &P::Lock<State<T>> {
        &self.0.state
    }

    #[inline]
    fn try_now(&self, slot: &mut RecvSlot<T>) -> bool {
        *slot = self.0.receive_now();
        slot.is_some()
    }

    fn enlist(
        &self,
        state: &mut State<T>,
        node: &Node<RecvSlot<T>>,
        wakes: &mut Wakes<P>,
    ) -> Enlisted {
        if state.buffer.is_empty() && state.senders.is_empty_except(node) && !state.closed {
            // SAFETY: the caller attached the node, and does not move it until it is removed.
            unsafe { state.receivers.push(node) };
            return Enlisted::Waiting;
        }
        if !node.claim() {
            return Enlisted::Lost;
        }
        match state.receive(wakes) {
            // The senders that seemed to wait had all left.
            None => Enlisted::Again,
            received => {
                // SAFETY: we hold the lock. (The slot was empty, so nothing is dropped.)
                unsafe { node.with_slot(|slot| *slot = received) };
                Enlisted::Done
            }
        }
    }

    fn queue(state: &mut State<T>) -> &mut WaitQueue<RecvSlot<T>> {
        &mut state.receivers
    }

    fn hand_on(&self, slot: &mut RecvSlot<T>) {
        if let Some(Ok(value)) = slot.take() {
            self.0.locked(|state, wakes| {
                if let Some(value) = state.give_to_receiver(value, wakes) {
                    state.buffer.push_front(value);
                }
            });
        }
    }

    #[inline]
    fn finish(&self, slot: RecvSlot<T>) -> Result<T, Closed> {
        slot.unwrap_or(Err(Closed))
    }
}

/// The operation of sending a value.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Sending<'a, P: Policy, T> {
    pub(super) channel: &'a Channel<P, T>,
    /// The variable that gets the value back if a select did not send it.
    pub(super) pending: Cell<Option<&'a mut Option<T>>>,
}

impl<P: Policy, T> Source for Sending<'_, P, T> {
    type Policy = P;
    type State = State<T>;
    type Slot = SendSlot<T>;
    type Output = SendSlot<T>;
    const REASON: &'static str = "channel, sending";

    fn state(&self) -> &P::Lock<State<T>> {
        &self.channel.state
    }

    #[inline]
    fn try_now(&self, slot: &mut SendSlot<T>) -> bool {
        if let SendSlot::Waiting(value) = mem::replace(slot, SendSlot::Nothing) {
            *slot = self.channel.send_now(value);
        }
        !matches!(slot, SendSlot::Waiting(_) | SendSlot::Nothing)
    }

    fn enlist(
        &self,
        state: &mut State<T>,
        node: &Node<SendSlot<T>>,
        wakes: &mut Wakes<P>,
    ) -> Enlisted {
        let full = state.buffer.len() >= state.capacity;
        if full && state.receivers.is_empty_except(node) && !state.closed {
            // SAFETY: the caller attached the node, and does not move it until it is removed.
            unsafe { state.senders.push(node) };
            return Enlisted::Waiting;
        }
        if !node.claim() {
            return Enlisted::Lost;
        }
        // SAFETY: we hold the lock.
        unsafe {
            node.with_slot(|slot| {
                state.send(slot, wakes);
                match slot {
                    // The receivers that seemed to wait had all left.
                    SendSlot::Waiting(_) => Enlisted::Again,
                    _ => Enlisted::Done,
                }
            })
        }
    }

    fn queue(state: &mut State<T>) -> &mut WaitQueue<SendSlot<T>> {
        &mut state.senders
    }

    /// The value was sent, or came back because the channel is closed: only such a value needs to go somewhere.
    fn hand_on(&self, slot: &mut SendSlot<T>) {
        self.unused(slot);
    }

    fn unused(&self, slot: &mut SendSlot<T>) {
        let value = match mem::replace(slot, SendSlot::Nothing) {
            SendSlot::Waiting(value) | SendSlot::Closed(value) => Some(value),
            SendSlot::Sent | SendSlot::Nothing => None,
        };
        if let (Some(value), Some(pending)) = (value, self.pending.take()) {
            *pending = Some(value);
        }
    }

    #[inline]
    fn finish(&self, slot: SendSlot<T>) -> SendSlot<T> {
        slot
    }
}
