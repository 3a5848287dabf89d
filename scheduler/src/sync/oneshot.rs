//! The oneshot: a channel for a single value.

use super::channel::{Closed, RecvError, TryRecvError};
use super::policy::{Lock, Policy};
use super::select::SourceBranch;
use super::wait::{Enlisted, Node, Source, WaitQueue, Wakes, locked, wait_for};
use std::fmt;

/// The value, or the news that none will come.
type Slot<T> = Option<Result<T, Closed>>;

/// The state of a oneshot.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct State<T> {
    value: Option<T>,
    /// The sender is gone; nothing more will come after `value`.
    sent: bool,
    receiver_gone: bool,
    queue: WaitQueue<Slot<T>>,
}

/// The shared part of the two ends.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Oneshot<P: Policy, T> {
    state: P::Lock<State<T>>,
}

pub(super) fn oneshot<P: Policy, T>() -> (Sender<P, T>, Receiver<P, T>) {
    let shared = P::share(Oneshot {
        state: P::Lock::new_lock(State {
            value: None,
            sent: false,
            receiver_gone: false,
            queue: WaitQueue::new(),
        }),
    });
    let other = shared.clone();
    (Sender { shared: other }, Receiver { shared })
}

/// The sending end of a oneshot. If it is dropped without sending, the receiver gets `Closed`.
///
/// ```
/// use yue_scheduler::sync::oneshot;
///
/// let (answer, question) = oneshot::<u32>();
/// drop(question);
/// assert!(answer.is_closed()); // nobody needs the answer any more
/// assert!(answer.send(42).is_err());
/// ```
pub struct Sender<P: Policy, T> {
    shared: P::Ref<Oneshot<P, T>>,
}

/// The receiving end of a oneshot.
///
/// ```
/// use yue_scheduler::sync::oneshot;
///
/// let (answer, question) = oneshot();
/// std::thread::spawn(move || answer.send(42).unwrap());
/// assert_eq!(question.recv(), Ok(42));
/// ```
pub struct Receiver<P: Policy, T> {
    shared: P::Ref<Oneshot<P, T>>,
}

impl<P: Policy, T> Sender<P, T> {
    /// Sends the value. Never waits.
    ///
    /// # Errors
    /// With the value, if the receiver was dropped.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        locked(&Receiving(&self.shared), |state, wakes| {
            state.sent = true;
            if state.receiver_gone {
                return;
            }
            let given = state
                .queue
                .grant(wakes, |slot| *slot = value.take().map(Ok));
            if !given {
                state.value = value.take();
            }
            // Several fibers may wait at one receiver. There is only one value, and no other will come.
            state
                .queue
                .grant_all(wakes, |slot| *slot = Some(Err(Closed)));
        });
        value.map_or(Ok(()), Err)
    }

    /// Returns whether the receiver was dropped, so that the value need not be produced.
    pub fn is_closed(&self) -> bool {
        self.shared.state.with(|state| state.receiver_gone)
    }
}

impl<P: Policy, T> Drop for Sender<P, T> {
    fn drop(&mut self) {
        locked(&Receiving(&self.shared), |state, wakes| {
            if !std::mem::replace(&mut state.sent, true) {
                state
                    .queue
                    .grant_all(wakes, |slot| *slot = Some(Err(Closed)));
            }
        });
    }
}

impl<P: Policy, T> Receiver<P, T> {
    /// Waits for the value. There is only one: a further call returns `Closed`. Of several waiting fibers the first
    /// gets it, and the others get `Closed`.
    ///
    /// # Errors
    /// [`RecvError::Closed`] if the sender was dropped, or another wait got the value; [`RecvError::Stopped`] when the
    /// fiber is cancelled or a deadline passes, before or during the wait.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    #[track_caller]
    pub fn recv(&self) -> Result<T, RecvError> {
        match wait_for(&Receiving(&self.shared), None) {
            Ok(received) => Ok(received?),
            Err((stopped, _)) => Err(RecvError::Stopped(stopped)),
        }
    }

    /// Takes the value, if it has arrived.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if it has not arrived, [`TryRecvError::Closed`] if it never will.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut slot = None;
        Receiving(&self.shared).try_now(&mut slot);
        match slot {
            Some(received) => Ok(received?),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Returns [`Receiver::recv`] as a branch of [`select!`](crate::select). Its outcome is `Result<T, Closed>`.
    ///
    /// ```
    /// use yue_scheduler::{select, sync::{Closed, oneshot}};
    ///
    /// let (sender, receiver) = oneshot::<u8>();
    /// drop(sender);
    /// let got = select! { value = recv(receiver) => value }.unwrap();
    /// assert_eq!(got, Err(Closed));
    /// ```
    pub fn recv_branch(&self) -> RecvBranch<'_, P, T> {
        SourceBranch::new(Receiving(&self.shared), None)
    }
}

impl<P: Policy, T> Drop for Receiver<P, T> {
    fn drop(&mut self) {
        let value = self.shared.state.with(|state| {
            state.receiver_gone = true;
            state.value.take()
        });
        // Outside the lock, because dropping it may run any code.
        drop(value);
    }
}

impl<P: Policy, T> fmt::Debug for Sender<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("oneshot::Sender").finish_non_exhaustive()
    }
}

impl<P: Policy, T> fmt::Debug for Receiver<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("oneshot::Receiver").finish_non_exhaustive()
    }
}

/// Receiving as a branch of a select; from [`Receiver::recv_branch`].
pub type RecvBranch<'a, P, T> = SourceBranch<Receiving<'a, P, T>>;

/// The operation of receiving the value of a oneshot.
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct Receiving<'a, P: Policy, T>(&'a Oneshot<P, T>);

impl<P: Policy, T> Source for Receiving<'_, P, T> {
    type Policy = P;
    type State = State<T>;
    type Slot = Slot<T>;
    type Output = Result<T, Closed>;
    const REASON: &'static str = "oneshot";

    fn state(&self) -> &P::Lock<State<T>> {
        &self.0.state
    }

    fn try_now(&self, slot: &mut Slot<T>) -> bool {
        *slot = self.0.state.with(State::take);
        slot.is_some()
    }

    fn enlist(
        &self,
        state: &mut State<T>,
        node: &Node<Slot<T>>,
        _wakes: &mut Wakes<P>,
    ) -> Enlisted {
        if state.sent {
            if !node.claim() {
                return Enlisted::Lost;
            }
            // SAFETY: we hold the lock. (The slot was empty, so nothing is dropped.)
            unsafe { node.with_slot(|slot| *slot = state.take()) };
            return Enlisted::Done;
        }
        // SAFETY: the caller attached the node, and does not move it until it is removed.
        unsafe { state.queue.push(node) };
        Enlisted::Waiting
    }

    fn queue(state: &mut State<T>) -> &mut WaitQueue<Slot<T>> {
        &mut state.queue
    }

    fn hand_on(&self, slot: &mut Slot<T>) {
        if let Some(Ok(value)) = slot.take() {
            let mut value = Some(value);
            locked(self, |state, wakes| {
                if !state
                    .queue
                    .grant(wakes, |slot| *slot = value.take().map(Ok))
                {
                    state.value = value.take();
                }
            });
        }
    }

    fn finish(&self, slot: Slot<T>) -> Result<T, Closed> {
        slot.unwrap_or(Err(Closed))
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Slot<T> {
        match self.value.take() {
            Some(value) => Some(Ok(value)),
            None => self.sent.then_some(Err(Closed)),
        }
    }
}
