//! Futures in fibers: the fiber polls, and parks until the future's waker is used.
//!
//! ```text
//!   fiber                                     any thread, at any time, even after the end
//!   state = POLLING, poll
//!   pending: POLLING ──▶ number of the wait   wake: state ──▶ WOKEN; if it was a wait's number, wake that wait
//!   park                                                             if it was POLLING, the fiber sees WOKEN
//! ```
//!
//! One word holds the state that fiber and wakers share. The fiber's step from `POLLING` to the number of its wait
//! fails if a wake came during the poll; a later wake finds the number. Each is one read-modify-write on that word, so
//! one of the two comes first, and no wake is lost. Of many wakes only the first sends a message.
//!
//! The cell is reference-counted: wakers may be cloned, kept forever, and used after the fiber, or its loop, has ended.
//! The number of a wait is never reused, so a late wake matches no wait.

use super::cancel::Stopped;
use super::hook::OnDrop;
use super::park::{park, prepare_park, yield_now};
use super::waker::RemoteWaker;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// The fiber runs, and no waker was used since it began to poll. Waits are numbered from 1.
const POLLING: u64 = 0;
/// The fiber has been woken, or the call has ended.
const WOKEN: u64 = u64::MAX;

/// Waits for a future in the calling fiber while the loop continues. With it, fibers can use async libraries that need
/// no reactor (channels, caches, clients built on them).
///
/// The future's waker may be used from any thread, and after the call has ended. A future that needs a certain runtime
/// (tokio's sockets and timers) does not find it here.
///
/// ```
/// use yue_scheduler::{Config, Loop, block_on, spawn};
/// use futures::channel::oneshot;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (sender, receiver) = oneshot::channel();
///     drop(spawn(move || sender.send(42).unwrap()));
///     assert_eq!(block_on(receiver).unwrap(), Ok(42));
/// });
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber is cancelled or a deadline passes first. The future is then dropped, as async code
/// expects of a cancellation.
///
/// # Panics
/// With the panic of the future; when called outside a fiber, or where suspension is forbidden.
#[track_caller]
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Stopped> {
    let cell = Arc::new(WakeCell {
        fiber: prepare_park().remote(),
        state: AtomicU64::new(POLLING),
    });
    let waker = Waker::from(cell.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let _over = OnDrop(|| cell.end());
    loop {
        cell.begin_poll();
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        let wait = prepare_park().remote();
        if cell.arm(wait) {
            park("a future")?;
        } else {
            // Woken during the poll. Yields, so that a future that keeps waking itself does not block other fibers.
            yield_now()?;
        }
    }
}

/// The state that the wakers of one call share.
struct WakeCell {
    /// The fiber. The number of the wait is in `state`.
    fiber: RemoteWaker,
    /// `POLLING`, `WOKEN`, or the number of the fiber's wait.
    state: AtomicU64,
}

impl WakeCell {
    fn begin_poll(&self) {
        // Acquire: pairs with the Release of `wake`, so the poll sees what the waker's owner did before.
        self.state.swap(POLLING, Ordering::AcqRel);
    }

    /// Stores the number of the wait that a wake must end. Returns false if a wake has already come.
    fn arm(&self, wait: RemoteWaker) -> bool {
        self.state
            // Release: a thread that finds the number also sees that the wait has begun. On failure the next
            // `begin_poll` acquires.
            .compare_exchange(
                POLLING,
                wait.sequence(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    fn end(&self) {
        // Relaxed: a wake that reads this does nothing.
        self.state.store(WOKEN, Ordering::Relaxed);
    }
}

impl Wake for WakeCell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: pairs with `begin_poll`. Acquire: pairs with `arm`.
        let before = self.state.swap(WOKEN, Ordering::AcqRel);
        if before != POLLING && before != WOKEN {
            self.fiber.of_wait(before).wake_from_here();
        }
    }
}
