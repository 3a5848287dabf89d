//! Futures in fibers: a fiber polls, and parks until the future's waker is used.
//!
//! ```text
//!   fiber                                     any thread, at any time, also after the end
//!   state = POLLING, poll
//!   pending: POLLING ──▶ number of the wait   wake: state ──▶ WOKEN; if it was a wait's number, wake that wait
//!   park                                                             if it was POLLING, the fiber sees WOKEN
//! ```
//!
//! One word holds what the two sides must agree on. The fiber's step from `POLLING` to the number of its wait fails if
//! a wake came during the poll; a wake that comes later finds the number. Each is one read-modify-write on that word,
//! so of the two one comes first, and no wake is lost. Of a storm of wakes only the first sends anything.
//!
//! The cell is counted: wakers may be cloned, kept for ever, and used when the fiber, or its loop, is long gone. A
//! wait's number is never used again, so a late wake meets nobody.

use super::Stopped;
use super::hook::OnDrop;
use super::park::{RemoteWaker, park, prepare_park, yield_now};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// The fiber runs, and nobody has woken it since it began to poll. Waits are numbered from 1.
const POLLING: u64 = 0;
/// The fiber has been woken, or the call is over.
const WOKEN: u64 = u64::MAX;

/// Waits for a future in the calling fiber, while the loop goes on: so that async libraries which bring no reactor of
/// their own (channels, caches, clients over them) can be used from fibers.
///
/// The future's waker may be used from any thread, and after the end. A future that needs a certain runtime around it
/// (tokio's sockets and timers) finds none here.
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
/// [`Stopped`] when the fiber is told to stop first; the future is dropped then, as async code expects of a cancel.
///
/// # Panics
/// With the panic of the future; outside a fiber, or where suspension is forbidden.
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
            // Woken during the poll. A future that wakes itself all the time keeps nobody waiting.
            yield_now()?;
        }
    }
}

/// What the wakers of one call hold.
struct WakeCell {
    /// The fiber; the number of the wait is in `state`.
    fiber: RemoteWaker,
    /// `POLLING`, `WOKEN`, or the number of the fiber's wait.
    state: AtomicU64,
}

impl WakeCell {
    fn begin_poll(&self) {
        // Acquire: pairs with the Release of `wake`: the poll sees what the waker's owner did before.
        self.state.swap(POLLING, Ordering::AcqRel);
    }

    /// Says which wait a wake has to end. Returns false if one has come already.
    fn arm(&self, wait: RemoteWaker) -> bool {
        self.state
            // Release: who finds the number also finds the wait begun. On failure the next `begin_poll` acquires.
            .compare_exchange(
                POLLING,
                wait.sequence(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    fn end(&self) {
        // Relaxed: wakes that read this do nothing.
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
