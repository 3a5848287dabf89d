//! What the ends of a channel share: the buffer, those who wait to receive, those who wait to send.
//!
//! ```text
//!   senders that wait            buffer                receivers that wait
//!   (each with its value)  ──▶  [v v v v]  ──▶        (each with an empty slot)
//! ```
//!
//! Values keep the order in which the sends began. A value goes straight into the slot of a receiver that waits, and a
//! receive that makes room moves the first waiting sender's value into the buffer: whoever is woken has been served,
//! and need not try again, so nobody is overtaken and nobody wakes for nothing.
//!
//! Invariants, under the lock, counting only waits that are open:
//! - Receivers wait only while the buffer is empty and no sender waits.
//! - Senders wait only while the buffer is full. (A buffer for nothing is always both.)
//!
//! # Why the channel between threads is not a lock-free queue
//!
//! The queues of `yue-queue` know neither room nor receivers that wait nor an end, and a receiver that finds nothing
//! in one must look again after it has said that it will sleep: it is woken to *try*, and may be overtaken. Here one
//! short lock makes buffer, both queues and the closing one thing. What crosses between loops, the wake, does go
//! through the mailbox of the receiver's loop, and once a loop is awake the values of a batch cost no further wake.

use super::error::Closed;
use crate::sync::policy::{Lock, Policy};
use crate::sync::wait::{Enlisted, Node, Source, WaitQueue, Wakes, locked};
use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;

/// What a receiver that waits gets.
pub type RecvSlot<T> = Option<Result<T, Closed>>;

/// What a sender that waits brings, and what became of it.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub enum SendSlot<T> {
    Waiting(T),
    Sent,
    Closed(T),
    /// The value has been taken back, or there was none.
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
    /// Sends never wait.
    pub(super) unbounded: bool,
}

impl<P: Policy, T> Channel<P, T> {
    /// With one sender and one receiver.
    pub(super) fn new(capacity: Option<usize>) -> Self {
        Channel {
            state: P::Lock::new_lock(State {
                // Not more than a page ahead of need; a bounded one is grown by its own use.
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

    /// Sends without waiting. The value comes back if it cannot.
    #[inline]
    pub(super) fn send_now(&self, value: T) -> SendSlot<T> {
        match self.state.with(|state| state.send_quietly(value)) {
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
        match self.state.with(State::receive_quietly) {
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
        // Outside the lock: the values' drops may run anything.
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

    /// The short way: there is room, and nobody to wake. Else gives the value back.
    #[inline]
    fn send_quietly(&mut self, value: T) -> Option<T> {
        let room = self.buffer.len() < self.capacity;
        if !room || self.closed || !self.receivers.is_empty() {
            return Some(value);
        }
        self.buffer.push_back(value);
        None
    }

    /// The short way: there is a value, and nobody to wake.
    #[inline]
    fn receive_quietly(&mut self) -> Option<T> {
        if self.senders.is_empty() {
            self.buffer.pop_front()
        } else {
            None
        }
    }

    /// Sends what is in the slot if it need not wait. The slot says what became of it; `Waiting` is "not now".
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

    /// Gives a value to the first receiver that waits; else gives it back.
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

    /// The next value, or `Closed`; `None` is "not now".
    #[inline]
    fn receive<P: Policy>(&mut self, wakes: &mut Wakes<P>) -> RecvSlot<T> {
        let received = match self.buffer.pop_front() {
            Some(value) => {
                // Not if it is still full: a value that was handed on comes back beyond the capacity.
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

    /// The value of the first sender that waits, which is sent with that.
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

    /// No more is sent. What is in the buffer can still be received.
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

/// Waiting for a value.
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
    fn quick(&self, slot: &mut RecvSlot<T>) -> bool {
        *slot = self.0.receive_now();
        slot.is_some()
    }

    fn enlist(
        &self,
        state: &mut State<T>,
        node: &Node<RecvSlot<T>>,
        wakes: &mut Wakes<P>,
    ) -> Enlisted {
        if state.buffer.is_empty() && state.senders.is_empty_but_for(node) && !state.closed {
            // SAFETY: the caller attached the node and keeps it in place until it is taken out.
            unsafe { state.receivers.push(node) };
            return Enlisted::Waiting;
        }
        if !node.claim() {
            return Enlisted::Lost;
        }
        match state.receive(wakes) {
            // The senders that seemed to wait had all gone.
            None => Enlisted::Again,
            received => {
                // SAFETY: we have the lock. (The slot was empty: nothing is dropped.)
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

/// Waiting for room.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Sending<'a, P: Policy, T> {
    pub(super) channel: &'a Channel<P, T>,
    /// Where a value goes that a select did not send.
    pub(super) home: Cell<Option<&'a mut Option<T>>>,
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
    fn quick(&self, slot: &mut SendSlot<T>) -> bool {
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
        if full && state.receivers.is_empty_but_for(node) && !state.closed {
            // SAFETY: the caller attached the node and keeps it in place until it is taken out.
            unsafe { state.senders.push(node) };
            return Enlisted::Waiting;
        }
        if !node.claim() {
            return Enlisted::Lost;
        }
        // SAFETY: we have the lock.
        unsafe {
            node.with_slot(|slot| {
                state.send(slot, wakes);
                match slot {
                    // The receivers that seemed to wait had all gone.
                    SendSlot::Waiting(_) => Enlisted::Again,
                    _ => Enlisted::Done,
                }
            })
        }
    }

    fn queue(state: &mut State<T>) -> &mut WaitQueue<SendSlot<T>> {
        &mut state.senders
    }

    /// It is sent, or came back closed: there is nothing to hand on but the value.
    fn hand_on(&self, slot: &mut SendSlot<T>) {
        self.unused(slot);
    }

    fn unused(&self, slot: &mut SendSlot<T>) {
        let value = match mem::replace(slot, SendSlot::Nothing) {
            SendSlot::Waiting(value) | SendSlot::Closed(value) => Some(value),
            SendSlot::Sent | SendSlot::Nothing => None,
        };
        if let (Some(value), Some(home)) = (value, self.home.take()) {
            *home = Some(value);
        }
    }

    #[inline]
    fn finish(&self, slot: SendSlot<T>) -> SendSlot<T> {
        slot
    }
}
