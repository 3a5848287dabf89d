//! A set of fibers that are joined together, in the order in which they end.
//!
//! Each fiber holds the set's shared part and stores its result there. The set tracks the running fibers only to cancel
//! them. When the set is gone, results are dropped where they arise.

use super::cancel::{Stopped, cancel_on};
use super::current::current_id;
use super::guarded::guarded;
use super::id::FiberId;
use super::join::{JoinError, record_panic};
use super::park::{park, park_uninterruptible, prepare_park};
use super::spawn::Builder;
use super::waker::LocalWaker;
use crate::event_loop::seam::{registry, wake_at_end_of, with_loop};
use crate::panics::drop_payload;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;

/// A set of fibers of this loop that are joined in the order in which they end. Dropping the set cancels those that
/// run.
///
/// ```
/// use yue_scheduler::{Config, JoinSet, Loop, sleep};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let mut set = JoinSet::new();
///     for ms in [30, 1, 10] {
///         set.spawn(move || sleep(Duration::from_millis(ms)).map(|()| ms).unwrap());
///     }
///     let mut order = Vec::new();
///     while let Some(result) = set.join_next().unwrap() {
///         order.push(result.unwrap());
///     }
///     assert_eq!(order, [1, 10, 30]);
/// });
/// ```
#[must_use = "dropping a set cancels its fibers"]
pub struct JoinSet<T> {
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    /// The loop of the running fibers.
    loop_id: Cell<u32>,
    /// The running fibers, by their number in the set.
    running: RefCell<BTreeMap<u64, FiberId>>,
    next: Cell<u64>,
    done: RefCell<VecDeque<Result<T, JoinError>>>,
    waiter: Cell<Option<LocalWaker>>,
    /// The set was dropped, so nobody will take results.
    gone: Cell<bool>,
}

impl<T: 'static> JoinSet<T> {
    /// Creates an empty set.
    pub fn new() -> Self {
        JoinSet {
            shared: Rc::new(Shared {
                loop_id: Cell::new(0),
                running: RefCell::default(),
                next: Cell::new(0),
                done: RefCell::default(),
                waiter: Cell::new(None),
                gone: Cell::new(false),
            }),
        }
    }

    /// Starts a fiber in the set.
    ///
    /// # Panics
    /// Like [`spawn`](super::spawn), and also if the set has fibers of another loop.
    #[track_caller]
    pub fn spawn(&self, f: impl FnOnce() -> T + 'static) -> FiberId {
        self.spawn_from(Builder::new(), Location::caller(), f)
            .unwrap_or_else(|error| panic!("cannot spawn a fiber: {error}"))
    }

    /// Like [`JoinSet::spawn`], but with a name or another stack.
    ///
    /// # Errors
    /// See [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_with(
        &self,
        builder: Builder,
        f: impl FnOnce() -> T + 'static,
    ) -> io::Result<FiberId> {
        self.spawn_from(builder, Location::caller(), f)
    }

    #[track_caller]
    fn spawn_from(
        &self,
        builder: Builder,
        location: &'static Location<'static>,
        f: impl FnOnce() -> T + 'static,
    ) -> io::Result<FiberId> {
        self.shared.bind_to_loop(with_loop(|l| l.id()));
        let number = self.shared.next.get();
        self.shared.next.set(number + 1);
        let member = Membership {
            shared: self.shared.clone(),
            number,
        };
        let body = move || member.end(catch_unwind(AssertUnwindSafe(f)));
        let fiber = builder.spawn_from(location, body)?.id();
        let mut running = self.shared.running.borrow_mut();
        running.insert(number, fiber);
        Ok(fiber)
    }

    /// Waits for the next fiber to end and returns its result, or `None` when the set is empty.
    ///
    /// # Errors
    /// [`Stopped`] when the *caller* is cancelled or a deadline passes first. The inner result has the fiber's error.
    ///
    /// # Panics
    /// When called outside a fiber, unless a fiber of the set has already ended.
    #[track_caller]
    pub fn join_next(&mut self) -> Result<Option<Result<T, JoinError>>, Stopped> {
        loop {
            if let Some(result) = self.try_join_next() {
                return Ok(Some(result));
            }
            if self.is_empty() {
                return Ok(None);
            }
            self.watch(Some(prepare_park()));
            park("join of a set")?;
        }
    }

    /// Returns the result of a fiber that has ended, if one was not taken yet.
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        let done = self.shared.done.borrow_mut().pop_front();
        if done.is_none() {
            self.fail_abandoned();
            return self.shared.done.borrow_mut().pop_front();
        }
        done
    }

    /// Registers `waiter`, which is woken when a fiber of the set ends.
    pub(crate) fn watch(&mut self, waiter: Option<LocalWaker>) {
        self.shared.waiter.set(waiter);
        if let Some(waker) = waiter {
            wake_at_end_of(self.shared.loop_id.get(), waker);
        }
    }

    /// Stores a result for fibers that were abandoned with their loop; they will never store one themselves.
    fn fail_abandoned(&self) {
        if registry::is_gone(self.shared.loop_id.get()) {
            let lost = self.shared.running.take().into_iter();
            let lost = lost.map(|_| Err(JoinError::LoopGone));
            self.shared.done.borrow_mut().extend(lost);
        }
    }

    /// Cancels all fibers of the set. Their results still arrive.
    pub fn cancel_all(&self) {
        self.shared.cancel_all();
    }

    /// Cancels all fibers of the set, waits until they have ended, even if the caller is cancelled in the meantime, and
    /// drops their results.
    ///
    /// # Panics
    /// When called outside a fiber, unless all of them have already ended.
    #[track_caller]
    pub fn cancel_and_join(&mut self) {
        self.cancel_all();
        loop {
            while let Some(result) = self.try_join_next() {
                drop(result);
            }
            if self.is_empty() {
                return;
            }
            self.watch(Some(prepare_park()));
            park_uninterruptible("join of a cancelled set");
        }
    }

    /// Detaches the fibers of the set and leaves it empty.
    pub fn detach_all(&mut self) {
        let set = JoinSet::new();
        let left = std::mem::replace(self, set);
        left.shared.running.borrow_mut().clear();
    }

    /// Returns the number of fibers whose result was not taken yet, whether they run or have ended.
    pub fn len(&self) -> usize {
        self.shared.running.borrow().len() + self.shared.done.borrow().len()
    }

    /// Returns whether all results have been taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Shared<T> {
    /// Binds the set to that loop.
    fn bind_to_loop(&self, loop_id: u32) {
        let before = self.loop_id.replace(loop_id);
        assert!(
            before == loop_id || self.running.borrow().is_empty(),
            "a JoinSet has fibers of one loop only"
        );
    }

    fn cancel_all(&self) {
        for fiber in self.running.borrow().values() {
            cancel_on(*fiber);
        }
    }

    fn end(&self, number: u64, result: Result<T, JoinError>) {
        let is_member = self.running.borrow_mut().remove(&number).is_some();
        if is_member && !self.gone.get() {
            self.done.borrow_mut().push_back(result);
            if let Some(waiter) = self.waiter.take() {
                waiter.wake();
            }
            return;
        }
        match result {
            Ok(result) => guarded("dropping a fiber's result", || drop(result)),
            Err(JoinError::Panicked(payload)) => drop_payload(payload),
            Err(_) => {}
        }
    }
}

/// A fiber's membership in a set. If it is dropped without a result (the fiber never ran), it reports that.
struct Membership<T> {
    shared: Rc<Shared<T>>,
    number: u64,
}

impl<T> Membership<T> {
    /// Stores the outcome. Does not unwind.
    fn end(self, outcome: std::thread::Result<T>) {
        if let Err(payload) = &outcome {
            record_panic(current_id(), self.shared.gone.get(), &**payload);
        }
        let result = outcome.map_err(JoinError::Panicked);
        self.shared.end(self.number, result);
    }
}

impl<T> Drop for Membership<T> {
    fn drop(&mut self) {
        if self.shared.running.borrow().contains_key(&self.number) {
            self.shared.end(self.number, Err(JoinError::LoopGone));
        }
    }
}

impl<T: 'static> Default for JoinSet<T> {
    fn default() -> Self {
        JoinSet::new()
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.shared.gone.set(true);
        self.shared.waiter.set(None);
        self.shared.cancel_all();
        for result in self.shared.done.take() {
            drop(result);
        }
    }
}

impl<T: 'static> fmt::Debug for JoinSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinSet").field("len", &self.len()).finish()
    }
}
