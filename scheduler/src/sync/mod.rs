//! Synchronization: locks, permits, notifications, channels, select, fiber-locals.
//!
//! # Two variants
//!
//! [`sync::local`] is for the fibers of one loop: no atomics, no locks, and the compiler keeps it on its thread. `sync`
//! itself is for fibers of any loops *and for plain threads*, which block where a fiber would park. Both are the same
//! code over two [lock policies](Policy), with the same methods and the same guarantees. A program that keeps related
//! work on one loop, which yue is designed for, mostly wants `local`.
//!
//! # Which primitive to use
//!
//! | I want to … | use |
//! |---|---|
//! | pass values from fiber to fiber | [`channel`] (bounded: a slow receiver slows its senders), [`unbounded`] |
//! | receive one result from elsewhere | [`oneshot`] |
//! | start work and get its result | no lock at all: [`spawn`](crate::spawn) and [`join`](crate::JoinHandle::join) |
//! | change a value across several suspensions, undisturbed | [`Mutex`], [`RwLock`] |
//! | change a value between two suspensions | `Cell`, `RefCell`: on one loop nothing runs in between |
//! | limit how many fibers do something at once | [`Semaphore`] |
//! | tell a fiber to check again | [`Notify`]; with a condition on a locked value: [`Condvar`] |
//! | begin a phase together | [`Barrier`] |
//! | make something once, on demand | [`OnceCell`], [`Once`] |
//! | have a separate value in each fiber | [`fiber_local!`](crate::fiber_local) |
//! | wait for whichever comes first | [`select!`](crate::select) |
//! | limit the time of a wait | any of these in [`timeout`](crate::timeout), [`with_deadline`](crate::with_deadline) |
//!
//! ```
//! use yue_scheduler::{Config, Loop, select, sleep, spawn};
//! use yue_scheduler::sync::local::channel;
//! use std::time::Duration;
//!
//! Loop::new(Config::default()).unwrap().run(|| {
//!     let (results, results_in) = channel(4);
//!     for n in 1..=3u64 {
//!         let results = results.clone();
//!         spawn(move || {
//!             sleep(Duration::from_millis(n)).unwrap();
//!             results.send(n * n).unwrap();
//!         });
//!     }
//!     drop(results);
//!     let mut sum = 0;
//!     loop {
//!         select! {
//!             result = recv(results_in) => match result {
//!                 Ok(square) => sum += square,
//!                 Err(_closed) => break,
//!             },
//!             _ = after(Duration::from_secs(30)) => panic!("too slow"),
//!         }.unwrap();
//!     }
//!     assert_eq!(sum, 14);
//! });
//! ```
//!
//! # Guarantees
//!
//! - **Fair.** Waiters are served in the order in which they came. A lock, a permit or a message is handed to the
//!   longest waiter; others cannot grab it first.
//! - **Cancellable.** Every call that may wait returns [`Stopped`](crate::Stopped) (by itself, or inside its own error)
//!   when the fiber is cancelled or a deadline passes. This is sticky: in a stopped fiber such a call fails even if it
//!   need not have waited, so that a fiber whose channel is never empty can be stopped too. Clean-up that must wait
//!   runs in [`shield`](crate::shield). The `try_` forms do not fail for that reason. Nor do unlocking, notifying, and
//!   sending to an unbounded channel, which never wait. Plain threads are never stopped.
//! - **Nothing lost.** When a cancellation meets a grant, the grant wins: the call returns with what it was granted,
//!   and the next one fails. A message, a permit or a notification reaches a waiter that takes it, or stays.
//! - **No allocation** by waiting: a waiter's queue node is on its own stack. Only two things allocate: an operation
//!   that wakes several waiters at once between threads, and a channel's buffer as it grows.
//! - **Not poisoned.** A panic ends its own fiber, and guards unlock on the way. See [`Mutex`].
//!
//! A fiber that is abandoned at its loop's shutdown (it ignored the hard stop) keeps what it holds, and its queue
//! positions.
//!
//! # Costs
//!
//! Measured on the development machine, release build, uncontended, in one fiber: a local mutex's lock and unlock take
//! 1.2 ns (33 instructions including the use of the value), a local channel's send and receive 4 to 5 ns (100
//! instructions; a bare `VecDeque` takes 1.5 ns), a ready select of two branches 25 ns. Between loops: lock and unlock
//! take 16 ns (std's mutex 14 ns), send and receive 25 ns (std's channel 27 ns). A call that waits costs a park and a
//! wake, plus about 50 ns for a channel's round trip.
//!
//! # Implementation
//!
//! `wait.rs` has the wait queue that all primitives are built on, `policy.rs` the two policies, `semaphore.rs` the
//! permits that mutex and read-write lock are built on. Each other file is one primitive.

mod barrier;
mod channel;
mod condvar;
mod mutex;
mod notify;
mod once;
mod oneshot;
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
mod policy;
mod rwlock;
pub mod select;
mod semaphore;
mod suspend;
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
mod wait;

pub use crate::fiber::{FiberLocal, NotInFiber};
pub use channel::{Closed, RecvError, SendError, TryRecvError, TrySendError};
pub use condvar::WaitStopped;
pub use policy::{Local, Policy, Shared};

/// The generic types, over either policy. For code that is written for both.
///
/// ```
/// use yue_scheduler::sync::{Policy, generic};
///
/// fn add<P: Policy>(total: &generic::Mutex<P, u32>, n: u32) {
///     *total.lock().unwrap() += n;
/// }
///
/// let total = yue_scheduler::sync::Mutex::new(1);
/// add(&total, 2);
/// assert_eq!(total.into_inner(), 3);
/// ```
pub mod generic {
    pub use super::barrier::Barrier;
    pub use super::channel::{Iter, Receiver, RecvBranch, SendBranch, Sender};
    pub use super::condvar::{Condvar, Waited};
    pub use super::mutex::{LockBranch, Mutex, MutexGuard};
    pub use super::notify::{NotifiedBranch, Notify};
    pub use super::once::{Once, OnceCell};
    pub use super::oneshot::{
        Receiver as OneshotReceiver, RecvBranch as OneshotBranch, Sender as OneshotSender,
    };
    pub use super::rwlock::{ReadGuard, RwLock, WriteGuard};
    pub use super::semaphore::{AcquireBranch, Permit, Semaphore};
}

/// Defines the type names of one policy.
macro_rules! names {
    ($policy:ty, $whose:literal, $path:literal) => {
        #[doc = concat!("A mutex ", $whose, ".")]
        pub type Mutex<T> = sync::generic::Mutex<$policy, T>;
        #[doc = concat!("The lock of a [`Mutex`] ", $whose, ".")]
        pub type MutexGuard<'a, T> = sync::generic::MutexGuard<'a, $policy, T>;
        #[doc = concat!("A read-write lock ", $whose, ".")]
        pub type RwLock<T> = sync::generic::RwLock<$policy, T>;
        #[doc = concat!("A condition variable ", $whose, ".")]
        pub type Condvar = sync::generic::Condvar<$policy>;
        #[doc = concat!("A semaphore ", $whose, ".")]
        pub type Semaphore = sync::generic::Semaphore<$policy>;
        #[doc = concat!("Permits of a [`Semaphore`] ", $whose, ".")]
        pub type Permit<'a> = sync::generic::Permit<'a, $policy>;
        #[doc = concat!("A barrier ", $whose, ".")]
        pub type Barrier = sync::generic::Barrier<$policy>;
        #[doc = concat!("Notifications ", $whose, ".")]
        pub type Notify = sync::generic::Notify<$policy>;
        #[doc = concat!("A value that is made once, ", $whose, ".")]
        pub type OnceCell<T> = sync::generic::OnceCell<$policy, T>;
        #[doc = concat!("Something that is done once, ", $whose, ".")]
        pub type Once = sync::generic::Once<$policy>;
        #[doc = concat!("The sending end of a channel ", $whose, ".")]
        pub type Sender<T> = sync::generic::Sender<$policy, T>;
        #[doc = concat!("The receiving end of a channel ", $whose, ".")]
        pub type Receiver<T> = sync::generic::Receiver<$policy, T>;
        #[doc = concat!("The sending end of a oneshot ", $whose, ".")]
        pub type OneshotSender<T> = sync::generic::OneshotSender<$policy, T>;
        #[doc = concat!("The receiving end of a oneshot ", $whose, ".")]
        pub type OneshotReceiver<T> = sync::generic::OneshotReceiver<$policy, T>;

        #[doc = concat!("A channel ", $whose, " with room for `capacity` values.")]
        ///
        /// Any number of senders and receivers (clone the ends); each value goes to one receiver. With capacity 0 a
        /// send waits for its receiver.
        ///
        /// ```
        #[doc = concat!("use ", $path, "::{TrySendError, channel};")]
        ///
        /// let (sender, receiver) = channel(1);
        /// sender.send(1).unwrap();
        /// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        /// assert_eq!(receiver.recv(), Ok(1));
        /// ```
        pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
            sync::channel::channel(Some(capacity))
        }

        #[doc = concat!("A channel ", $whose, " without a capacity limit: sends never wait.")]
        ///
        /// ```
        #[doc = concat!("use ", $path, "::unbounded;")]
        ///
        /// let (sender, receiver) = unbounded();
        /// (0..1000).for_each(|n| sender.send(n).unwrap());
        /// drop(sender);
        /// assert_eq!(receiver.iter().count(), 1000);
        /// ```
        pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
            sync::channel::channel(None)
        }

        #[doc = concat!("A channel ", $whose, " for one value.")]
        ///
        /// ```
        #[doc = concat!("use ", $path, "::oneshot;")]
        ///
        /// let (sender, receiver) = oneshot();
        /// sender.send("the answer").unwrap();
        /// assert_eq!(receiver.recv(), Ok("the answer"));
        /// ```
        pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
            sync::oneshot::oneshot()
        }
    };
}

// The names are defined here and one module down; both find the rest of this module under one path.
use super::sync;

names!(Shared, "between loops and threads", "yue_scheduler::sync");

/// Primitives for the fibers of one loop: no atomics, `!Send`. See [`sync`](super) for an overview.
///
/// A call that must wait panics outside a fiber. An operation that need not wait (sending to an unbounded channel,
/// unlocking, notifying, all `try_` forms) may be used anywhere on the thread, for example in a timer's callback.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, sync::local::channel};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (sender, receiver) = channel(1);
///     spawn(move || sender.send("from another fiber"));
///     assert_eq!(receiver.recv(), Ok("from another fiber"));
/// });
/// ```
pub mod local {
    pub use super::{Closed, RecvError, SendError, TryRecvError, TrySendError, WaitStopped};
    use super::{Local, sync};

    names!(Local, "of one loop", "yue_scheduler::sync::local");
}
