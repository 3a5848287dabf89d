//! Channels with any number of senders and receivers; each value goes to one receiver.

mod core;
mod error;

pub use self::core::{Receiving, SendSlot, Sending};
pub use error::{Closed, RecvError, SendError, TryRecvError, TrySendError};

use self::core::Channel;
use super::policy::Policy;
use super::select::SourceBranch;
use super::wait::wait_for;
use std::cell::Cell;
use std::fmt;

pub(super) fn channel<P: Policy, T>(capacity: Option<usize>) -> (Sender<P, T>, Receiver<P, T>) {
    let channel = P::share(Channel::new(capacity));
    let sender = Sender {
        channel: channel.clone(),
    };
    (sender, Receiver { channel })
}

/// The sending end of a channel. Clones are further senders. When the last one is dropped, receivers get the remaining
/// values and then `Closed`.
///
/// The type behind [`sync::Sender`](crate::sync::Sender) and [`sync::local::Sender`](crate::sync::local::Sender).
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, sync::local::channel};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (sender, receiver) = channel(2); // room for two
///     spawn(move || (0..100).for_each(|n| sender.send(n).unwrap()));
///     assert_eq!(receiver.iter().sum::<i32>(), 4950);
/// });
/// ```
pub struct Sender<P: Policy, T> {
    channel: P::Ref<Channel<P, T>>,
}

/// The receiving end of a channel. Clones are further receivers, and each value goes to one of them. When the last one
/// is dropped, the remaining values are dropped, and senders get theirs back with `Closed`.
///
/// The type behind [`sync::Receiver`](crate::sync::Receiver) and
/// [`sync::local::Receiver`](crate::sync::local::Receiver).
///
/// ```
/// use yue_scheduler::sync::unbounded;
/// use std::thread;
///
/// let (sender, receiver) = unbounded();
/// let workers: Vec<_> = (0..2).map(|_| {
///     let jobs = receiver.clone();
///     thread::spawn(move || jobs.iter().count())
/// }).collect();
/// (0..10).for_each(|job| sender.send(job).unwrap());
/// drop(sender);
/// assert_eq!(workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>(), 10);
/// ```
pub struct Receiver<P: Policy, T> {
    channel: P::Ref<Channel<P, T>>,
}

impl<P: Policy, T> Sender<P, T> {
    /// Sends a value, and waits while the channel is full. On an unbounded channel it never waits, so it can be used
    /// outside fibers and in stopped fibers.
    ///
    /// # Errors
    /// With the value: [`SendError::Closed`] if no receiver is left, [`SendError::Stopped`] when the fiber is cancelled
    /// or a deadline passes, before or during the wait.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    #[inline]
    #[track_caller]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.channel.unbounded {
            return send_result(self.channel.send_now(value));
        }
        let sending = Sending {
            channel: &self.channel,
            pending: Cell::new(None),
        };
        match wait_for(&sending, SendSlot::Waiting(value)) {
            Ok(slot) => send_result(slot),
            Err((stopped, SendSlot::Waiting(value))) => Err(SendError::Stopped(value, stopped)),
            Err((_, slot)) => send_result(slot),
        }
    }

    /// Sends a value if there is room.
    ///
    /// # Errors
    /// With the value: [`TrySendError::Full`], [`TrySendError::Closed`].
    ///
    /// ```
    /// use yue_scheduler::sync::{TrySendError, channel};
    ///
    /// let (sender, receiver) = channel(1);
    /// assert_eq!(sender.try_send(1), Ok(()));
    /// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    /// ```
    #[inline]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        match self.channel.send_now(value) {
            SendSlot::Waiting(value) => Err(TrySendError::Full(value)),
            SendSlot::Closed(value) => Err(TrySendError::Closed(value)),
            SendSlot::Sent | SendSlot::Nothing => Ok(()),
        }
    }

    /// Returns the sending of the value in `pending` as a branch of [`select!`](crate::select). The value is still
    /// there if another branch is taken. With an empty `pending` the branch never becomes ready. The outcome is
    /// `Result<(), SendError<T>>`.
    ///
    /// ```
    /// use yue_scheduler::{select, sync::channel};
    ///
    /// let (sender, receiver) = channel(1);
    /// sender.send(1).unwrap();
    /// let mut pending = Some(2);
    /// select! {
    ///     sent = send(sender, pending) => sent.unwrap(),
    ///     value = recv(receiver) => assert_eq!(value, Ok(1)),
    /// }.unwrap();
    /// assert_eq!(pending, Some(2)); // there was no room
    /// ```
    pub fn send_branch<'a>(&'a self, pending: &'a mut Option<T>) -> SendBranch<'a, P, T> {
        let slot = match pending.take() {
            Some(value) => SendSlot::Waiting(value),
            None => SendSlot::Nothing,
        };
        let enabled = matches!(slot, SendSlot::Waiting(_));
        let sending = Sending {
            channel: &self.channel,
            pending: Cell::new(Some(pending)),
        };
        SendBranch(SourceBranch::new(sending, slot).enabled_if(enabled))
    }

    /// Closes the channel: sends fail, and receivers get the remaining values and then `Closed`.
    ///
    /// ```
    /// use yue_scheduler::sync::{SendError, channel};
    ///
    /// let (sender, _receiver) = channel(1);
    /// sender.close();
    /// assert_eq!(sender.send(1), Err(SendError::Closed(1)));
    /// ```
    pub fn close(&self) {
        self.channel.close();
    }

    /// Returns whether sends will fail because the channel is closed.
    pub fn is_closed(&self) -> bool {
        self.channel.with(|state| state.is_closed())
    }

    /// Returns the number of values in the channel.
    pub fn len(&self) -> usize {
        self.channel.with(|state| state.len())
    }

    /// Returns whether the channel holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the capacity; `None` for an unbounded channel.
    pub fn capacity(&self) -> Option<usize> {
        (!self.channel.unbounded).then(|| self.channel.with(|state| state.capacity()))
    }
}

pub(super) fn send_result<T>(slot: SendSlot<T>) -> Result<(), SendError<T>> {
    match slot {
        SendSlot::Closed(value) => Err(SendError::Closed(value)),
        SendSlot::Sent | SendSlot::Nothing => Ok(()),
        SendSlot::Waiting(_) => unreachable!("a send that neither waited nor finished"),
    }
}

impl<P: Policy, T> Receiver<P, T> {
    /// Takes the next value, and waits while there is none.
    ///
    /// # Errors
    /// [`RecvError::Closed`] if there will be none, [`RecvError::Stopped`] when the fiber is cancelled or a deadline
    /// passes, before or during the wait. In a stopped fiber it takes nothing, even if there is a value.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    ///
    /// ```
    /// use yue_scheduler::sync::{RecvError, channel};
    ///
    /// let (sender, receiver) = channel(1);
    /// sender.send(1).unwrap();
    /// drop(sender);
    /// assert_eq!(receiver.recv(), Ok(1));
    /// assert_eq!(receiver.recv(), Err(RecvError::Closed));
    /// ```
    #[inline]
    #[track_caller]
    pub fn recv(&self) -> Result<T, RecvError> {
        match wait_for(&Receiving(&self.channel), None) {
            Ok(received) => Ok(received?),
            Err((stopped, _)) => Err(RecvError::Stopped(stopped)),
        }
    }

    /// Takes the next value, if there is one.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`], [`TryRecvError::Closed`].
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        match self.channel.receive_now() {
            Some(received) => Ok(received?),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Returns [`Receiver::recv`] as a branch of [`select!`](crate::select). Its outcome is `Result<T, Closed>`.
    ///
    /// ```
    /// use yue_scheduler::{select, sync::channel};
    ///
    /// let (numbers, numbers_in) = channel::<u8>(1);
    /// let (_words, words_in) = channel::<&str>(1);
    /// numbers.send(1).unwrap();
    /// select! {
    ///     number = recv(numbers_in) => assert_eq!(number, Ok(1)),
    ///     word = recv(words_in) => unreachable!("{word:?}"),
    /// }.unwrap();
    /// ```
    pub fn recv_branch(&self) -> RecvBranch<'_, P, T> {
        SourceBranch::new(Receiving(&self.channel), None)
    }

    /// Iterates over the values as they arrive, until the channel is closed or the fiber is stopped.
    ///
    /// ```
    /// use yue_scheduler::sync::unbounded;
    ///
    /// let (sender, receiver) = unbounded();
    /// (1..=3).for_each(|n| sender.send(n).unwrap());
    /// drop(sender);
    /// assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2, 3]);
    /// ```
    pub fn iter(&self) -> Iter<'_, P, T> {
        Iter(self)
    }

    /// Closes the channel, as [`Sender::close`] does. The values in it can still be received.
    pub fn close(&self) {
        self.channel.close();
    }

    /// Returns whether nothing more will be sent. There may be values left.
    pub fn is_closed(&self) -> bool {
        self.channel.with(|state| state.is_closed())
    }

    /// Returns the number of values in the channel.
    pub fn len(&self) -> usize {
        self.channel.with(|state| state.len())
    }

    /// Returns whether the channel holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The values of a channel as they arrive; from [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, P: Policy, T>(&'a Receiver<P, T>);

impl<P: Policy, T> Iterator for Iter<'_, P, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<'a, P: Policy, T> IntoIterator for &'a Receiver<P, T> {
    type Item = T;
    type IntoIter = Iter<'a, P, T>;

    fn into_iter(self) -> Iter<'a, P, T> {
        self.iter()
    }
}

impl<P: Policy, T> Clone for Sender<P, T> {
    fn clone(&self) -> Self {
        self.channel.add_sender();
        Sender {
            channel: self.channel.clone(),
        }
    }
}

impl<P: Policy, T> Clone for Receiver<P, T> {
    fn clone(&self) -> Self {
        self.channel.add_receiver();
        Receiver {
            channel: self.channel.clone(),
        }
    }
}

impl<P: Policy, T> Drop for Sender<P, T> {
    fn drop(&mut self) {
        self.channel.drop_sender();
    }
}

impl<P: Policy, T> Drop for Receiver<P, T> {
    fn drop(&mut self) {
        self.channel.drop_receiver();
    }
}

impl<P: Policy, T> fmt::Debug for Sender<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).finish()
    }
}

impl<P: Policy, T> fmt::Debug for Receiver<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("len", &self.len())
            .finish()
    }
}

/// Receiving as a branch of a select; from [`Receiver::recv_branch`].
pub type RecvBranch<'a, P, T> = SourceBranch<Receiving<'a, P, T>>;

/// Sending as a branch of a select; from [`Sender::send_branch`].
pub struct SendBranch<'a, P: Policy, T>(pub(super) SourceBranch<Sending<'a, P, T>>);

impl<P: Policy, T> fmt::Debug for SendBranch<'_, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendBranch").finish()
    }
}
