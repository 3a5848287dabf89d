//! Reaching a loop from other threads: spawn there, run there, shut it down; and waiting for the result.

use super::inbox::{Message, Shared};
use crate::fiber::{
    Builder, JoinError, RemoteWaker, current_id, in_fiber, note_panic, park, prepare_park,
};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A loop, for any thread. Cheap to clone. Whatever is sent to a loop that is gone is dropped.
#[derive(Clone)]
pub struct LoopHandle {
    shared: Arc<Shared>,
}

impl LoopHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        LoopHandle { shared }
    }

    /// The loop's number.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// Starts a fiber on the loop.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> RemoteJoin<T> {
        let cell = Arc::new(RemoteCell {
            slot: Mutex::new(Slot::default()),
            done: Condvar::new(),
        });
        let completion = RemoteCompletion { cell: cell.clone() };
        let location = Location::caller();
        self.run(move || {
            let abandoned = Arc::downgrade(&completion.cell);
            let builder = Builder::new().on_abandon(move || {
                if let Some(cell) = abandoned.upgrade() {
                    cell.finish(Err(JoinError::LoopGone));
                }
            });
            let body = move || completion.complete(catch_unwind(AssertUnwindSafe(f)));
            if let Err(error) = builder.spawn_from(location, body) {
                crate::say(format_args!(
                    "cannot spawn a fiber for another thread: {error}"
                ));
            }
        });
        RemoteJoin { cell }
    }

    /// Runs `work` on the loop, outside any fiber. It must be short and cannot suspend.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.shared.send(Message::Run(Box::new(work)));
    }

    /// Asks the loop to shut down: [`wait_for_shutdown`](super::this_loop::wait_for_shutdown) returns there.
    pub fn shutdown(&self) {
        self.shared.send(Message::Shutdown);
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle")
            .field("id", &self.id())
            .finish()
    }
}

struct Slot<T> {
    result: Option<Result<T, JoinError>>,
    done: bool,
    waiter: Option<RemoteWaker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot {
            result: None,
            done: false,
            waiter: None,
        }
    }
}

struct RemoteCell<T> {
    slot: Mutex<Slot<T>>,
    done: Condvar,
}

impl<T> RemoteCell<T> {
    /// No code of the program's runs under the lock, so a poisoned one still holds a whole value.
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, result: Result<T, JoinError>) {
        let waiter = {
            let mut slot = self.lock();
            slot.result = Some(result);
            slot.done = true;
            slot.waiter.take()
        };
        self.done.notify_all();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The fiber's side. Dropped without a result (its loop ended first), it says so.
struct RemoteCompletion<T> {
    cell: Arc<RemoteCell<T>>,
}

impl<T> RemoteCompletion<T> {
    fn complete(self, result: Result<T, Box<dyn Any + Send>>) {
        if let Err(payload) = &result {
            // Of the two sides of the cell only this one is left when the join was dropped.
            let detached = Arc::strong_count(&self.cell) == 1;
            note_panic(current_id(), detached, &**payload);
        }
        self.cell.finish(result.map_err(JoinError::Panicked));
    }
}

impl<T> Drop for RemoteCompletion<T> {
    fn drop(&mut self) {
        if !self.cell.lock().done {
            self.cell.finish(Err(JoinError::LoopGone));
        }
    }
}

/// Waits for a fiber on another loop, from a fiber or from a plain thread. Dropping it lets the fiber go on.
pub struct RemoteJoin<T> {
    cell: Arc<RemoteCell<T>>,
}

impl<T> RemoteJoin<T> {
    /// Waits until the fiber is over and takes its result. A calling fiber parks; a plain thread blocks.
    ///
    /// # Errors
    /// As [`JoinHandle::join`](crate::JoinHandle::join).
    pub fn join(self) -> Result<T, JoinError> {
        if in_fiber() {
            self.join_in_fiber()
        } else {
            self.join_in_thread()
        }
    }

    fn join_in_fiber(self) -> Result<T, JoinError> {
        loop {
            let waker = prepare_park().remote();
            {
                let mut slot = self.cell.lock();
                if slot.done {
                    return slot.result.take().unwrap_or(Err(JoinError::LoopGone));
                }
                slot.waiter = Some(waker);
            }
            park("join on another loop")?;
        }
    }

    fn join_in_thread(self) -> Result<T, JoinError> {
        let mut slot = self.cell.lock();
        while !slot.done {
            slot = self
                .cell
                .done
                .wait(slot)
                .unwrap_or_else(PoisonError::into_inner);
        }
        slot.result.take().unwrap_or(Err(JoinError::LoopGone))
    }

    /// Whether the fiber is over.
    pub fn is_done(&self) -> bool {
        self.cell.lock().done
    }
}

impl<T> fmt::Debug for RemoteJoin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteJoin")
            .field("done", &self.is_done())
            .finish()
    }
}
