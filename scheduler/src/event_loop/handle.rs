//! Access to a loop from other threads: spawn, run, shut down, and wait for a result.

use super::group::LoopGroup;
use super::shared::{Message, Shared};
use super::state::Inner;
use super::this_loop;
use crate::fiber::{
    Builder, FiberId, JoinError, Signal, Stopped, cancel, cancel_on, current_id, in_fiber, park,
    park_uninterruptible, record_panic,
};
use crate::lock::lock;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A handle to a loop, usable from any thread. Cheap to clone. Everything sent to a loop that has ended is dropped.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// let l = Loop::new(Config::default()).unwrap();
/// let handle = l.handle();
/// let other_thread = std::thread::spawn(move || {
///     let sum = handle.spawn(|| (1..=4).sum::<u32>()).join().unwrap();
///     handle.shutdown();
///     sum
/// });
/// l.run(|| this_loop::wait_for_shutdown().unwrap());
/// assert_eq!(other_thread.join().unwrap(), 10);
/// ```
#[derive(Clone)]
pub struct LoopHandle {
    shared: Arc<Shared>,
}

impl LoopHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        LoopHandle { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The loop's number.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// Spawns a fiber on the loop.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> RemoteJoin<T> {
        let (start, join) = remote_fiber(Location::caller(), f);
        self.run(start);
        join
    }

    /// Runs `work` on the loop, outside any fiber. It must be short and cannot suspend.
    ///
    /// ```
    /// use std::sync::mpsc::channel;
    /// use yue_scheduler::{Config, Loop, in_fiber, this_loop, yield_now};
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let (sender, receiver) = channel();
    ///     this_loop::handle().run(move || sender.send(in_fiber()).unwrap());
    ///     let mut answer = receiver.try_recv();
    ///     while answer.is_err() {
    ///         yield_now().unwrap();
    ///         answer = receiver.try_recv();
    ///     }
    ///     assert_eq!(answer, Ok(false));
    /// });
    /// ```
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.shared.send(Message::Run(Box::new(work)));
    }

    /// Asks the loop to shut down: [`wait_for_shutdown`](super::this_loop::wait_for_shutdown) returns there.
    pub fn shutdown(&self) {
        self.shared.send(Message::Shutdown);
    }
}

impl Inner {
    /// Returns a handle by which other threads reach this loop.
    pub(super) fn handle(&self) -> LoopHandle {
        LoopHandle::new(self.inbox.shared.clone())
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle")
            .field("id", &self.id())
            .finish()
    }
}

impl LoopGroup {
    /// Starts a fiber on one of the group's loops. Before any loop has joined, the fiber waits for the first.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> RemoteJoin<T> {
        let (start, join) = remote_fiber(Location::caller(), f);
        self.shared.push(Box::new(start));
        join
    }
}

/// Returns a closure that starts a fiber on the loop that calls it, and the join handle of that fiber.
fn remote_fiber<T: Send + 'static>(
    location: &'static Location<'static>,
    f: impl FnOnce() -> T + Send + 'static,
) -> (impl FnOnce() + Send + 'static, RemoteJoin<T>) {
    let cell = Arc::new(RemoteCell {
        slot: Mutex::new(Slot::default()),
        done: Condvar::new(),
    });
    let completion = RemoteCompletion { cell: cell.clone() };
    let start = move || {
        let cell = completion.cell.clone();
        let abandoned = Arc::downgrade(&cell);
        let builder = Builder::new().on_abandon(move || {
            if let Some(cell) = abandoned.upgrade() {
                cell.finish(Err(JoinError::LoopGone));
            }
        });
        let body = move || completion.complete(catch_unwind(AssertUnwindSafe(f)));
        match builder.spawn_from(location, body) {
            Ok(fiber) => cell.started(fiber.id()),
            Err(error) => crate::log(
                crate::LogLevel::Error,
                format_args!("cannot spawn a fiber for another thread: {error}"),
            ),
        }
    };
    (start, RemoteJoin { cell })
}

struct Slot<T> {
    /// The fiber, once it has started.
    fiber: Option<FiberId>,
    cancelled: bool,
    result: Option<Result<T, JoinError>>,
    done: bool,
    waiter: Option<Signal>,
    /// A plain thread waits on `RemoteCell::done`. Without this flag every result would cost a system call, even if no
    /// thread waits.
    blocked: bool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot {
            fiber: None,
            cancelled: false,
            result: None,
            done: false,
            waiter: None,
            blocked: false,
        }
    }
}

struct RemoteCell<T> {
    slot: Mutex<Slot<T>>,
    done: Condvar,
}

impl<T> RemoteCell<T> {
    /// Locks the slot. None of the program's code runs under the lock, so even a poisoned slot is consistent.
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        lock(&self.slot)
    }

    /// Records the fiber. Called on the fiber's loop, before the fiber runs.
    fn started(&self, fiber: FiberId) {
        let cancelled = {
            let mut slot = self.lock();
            slot.fiber = Some(fiber);
            slot.cancelled
        };
        if cancelled {
            cancel(fiber);
        }
    }

    /// Stores the outcome and wakes the waiter. Only the first outcome counts: a fiber that has returned its result may
    /// still be abandoned while one of its fiber-locals is dropped.
    fn finish(&self, result: Result<T, JoinError>) {
        let (waiter, blocked) = {
            let mut slot = self.lock();
            if slot.done {
                return;
            }
            slot.result = Some(result);
            slot.done = true;
            (slot.waiter.take(), slot.blocked)
        };
        if blocked {
            self.done.notify_all();
        }
        if let Some(waiter) = waiter {
            waiter.raise();
        }
    }
}

/// The fiber's half of the cell. If it is dropped without a result (its loop ended first), it reports that.
struct RemoteCompletion<T> {
    cell: Arc<RemoteCell<T>>,
}

impl<T> RemoteCompletion<T> {
    fn complete(self, result: Result<T, Box<dyn Any + Send>>) {
        if let Err(payload) = &result {
            // When the join handle has been dropped, this is the only half left.
            let detached = Arc::strong_count(&self.cell) == 1;
            record_panic(current_id(), detached, &**payload);
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

/// A join handle for a fiber on another loop, usable from a fiber or a plain thread. Dropping it detaches the fiber.
///
/// ```
/// use yue_scheduler::{Config, Loop, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let mut answer = this_loop::handle().spawn(|| 6 * 7);
///     answer.wait().unwrap();
///     assert!(answer.is_done());
///     assert_eq!(answer.join().unwrap(), 42);
/// });
/// ```
pub struct RemoteJoin<T> {
    cell: Arc<RemoteCell<T>>,
}

impl<T> RemoteJoin<T> {
    /// Waits until the fiber has ended and returns its result. A calling fiber parks; a plain thread blocks.
    ///
    /// # Errors
    /// See [`JoinHandle::join`](crate::JoinHandle::join).
    ///
    /// # Panics
    /// In a callback of a loop, unless the fiber has already ended: a callback cannot wait.
    #[track_caller]
    pub fn join(mut self) -> Result<T, JoinError> {
        self.wait()?;
        self.take()
    }

    /// Waits until the fiber has ended. The result stays for [`RemoteJoin::join`].
    ///
    /// # Errors
    /// When the calling fiber is cancelled or a deadline passes first. The other fiber continues.
    ///
    /// # Panics
    /// See [`RemoteJoin::join`].
    #[track_caller]
    pub fn wait(&mut self) -> Result<(), Stopped> {
        if !in_fiber() {
            self.block();
            return Ok(());
        }
        while self.begin_wait() {
            park("join on another loop")?;
        }
        Ok(())
    }

    /// Cancels the fiber: its suspending calls fail from now on.
    pub fn cancel(&self) {
        let fiber = {
            let mut slot = self.cell.lock();
            slot.cancelled = true;
            slot.fiber.filter(|_| !slot.done)
        };
        if let Some(fiber) = fiber {
            cancel_on(fiber);
        }
    }

    /// Cancels the fiber and waits until it has ended, even if the caller is cancelled in the meantime.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, sleep, this_loop};
    /// use std::time::Duration;
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let here = this_loop::handle();
    ///     let fiber = here.spawn(|| sleep(Duration::from_secs(3600)));
    ///     assert!(fiber.cancel_and_join().unwrap().is_err());
    /// });
    /// ```
    ///
    /// # Errors
    /// [`JoinError::Panicked`] and [`JoinError::LoopGone`], as [`RemoteJoin::join`].
    ///
    /// # Panics
    /// See [`RemoteJoin::join`].
    #[track_caller]
    pub fn cancel_and_join(self) -> Result<T, JoinError> {
        self.cancel();
        if in_fiber() {
            while self.begin_wait() {
                park_uninterruptible("join of a cancelled fiber on another loop");
            }
        } else {
            self.block();
        }
        self.take()
    }

    /// Begins a wait of the calling fiber. Returns whether there is something to wait for.
    #[track_caller]
    fn begin_wait(&self) -> bool {
        let signal = Signal::new();
        let mut slot = self.cell.lock();
        slot.waiter = Some(signal);
        !slot.done
    }

    /// Returns the result if the fiber has ended. For `select!`.
    pub(crate) fn poll(&mut self) -> Option<Result<T, JoinError>> {
        let mut slot = self.cell.lock();
        let result = slot.result.take();
        slot.done
            .then(|| result.unwrap_or(Err(JoinError::LoopGone)))
    }

    /// Registers `signal`, which is raised when the fiber ends.
    pub(crate) fn watch(&mut self, signal: Option<Signal>) {
        let mut slot = self.cell.lock();
        let ended = slot.done;
        slot.waiter = signal.clone();
        drop(slot);
        if let Some(signal) = signal.filter(|_| ended) {
            signal.raise();
        }
    }

    /// Blocks a plain thread until the fiber has ended.
    #[track_caller]
    fn block(&self) {
        let mut slot = self.cell.lock();
        if slot.done {
            return;
        }
        this_loop::assert_not_in_callback();
        slot.blocked = true;
        let over = self.cell.done.wait_while(slot, |slot| !slot.done);
        drop(over.unwrap_or_else(PoisonError::into_inner));
    }

    fn take(self) -> Result<T, JoinError> {
        let result = self.cell.lock().result.take();
        result.unwrap_or(Err(JoinError::LoopGone))
    }

    /// Returns whether the fiber has ended.
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
