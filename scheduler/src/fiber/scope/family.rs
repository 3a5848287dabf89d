//! The children of a scope, and how they end.

use crate::fiber::cancel::{CancelScope, cancel, shield};
use crate::fiber::current::current_id;
use crate::fiber::guarded::guarded;
use crate::fiber::id::FiberId;
use crate::fiber::join::record_panic;
use crate::fiber::park::{park, park_uninterruptible, prepare_park};
use crate::fiber::waker::LocalWaker;
use crate::panics::drop_payload;
use slab::Slab;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;
use std::rc::Rc;
use std::thread;

/// The state of a scope's children.
#[derive(Default)]
pub(super) struct Family {
    /// The children that may still touch what they borrow. A slot is reused after its child has ended, so that a scope
    /// may live as long as a server.
    children: RefCell<Slab<Member>>,
    waiter: Cell<Option<LocalWaker>>,
    cancelled: Cell<bool>,
    pub(super) shielded: bool,
    /// The first panic of a child that no join took.
    panic: Cell<Option<Box<dyn Any + Send>>>,
}

struct Member {
    /// `None` for a moment, while the child is being started.
    fiber: Option<FiberId>,
    /// For a shielded child, which ignores the cancellation of its fiber.
    cancel: Option<CancelScope>,
}

impl Family {
    pub(super) fn new(shielded: bool) -> Self {
        Family {
            shielded,
            ..Family::default()
        }
    }

    pub(super) fn enter(&self, cancel: Option<CancelScope>) -> usize {
        let member = Member {
            fiber: None,
            cancel,
        };
        self.children.borrow_mut().insert(member)
    }

    /// Returns the number of children that may still touch what they borrow.
    pub(super) fn live(&self) -> usize {
        self.children.borrow().len()
    }

    pub(super) fn entered(&self, slot: usize, fiber: FiberId) {
        if let Some(member) = self.children.borrow_mut().get_mut(slot) {
            member.fiber = Some(fiber);
            if self.cancelled.get() {
                member.cancel();
            }
        }
    }

    fn leave(&self, slot: usize) {
        self.children.borrow_mut().remove(slot);
        if self.live() == 0
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    pub(super) fn cancel(&self) {
        self.cancelled.set(true);
        let children = self.children.borrow();
        children.iter().for_each(|(_, member)| member.cancel());
    }

    /// Runs the body of a scope, then waits for the children.
    ///
    /// # Panics
    /// With the panic of the body, or of a child.
    pub(super) fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        let outcome = catch_unwind(AssertUnwindSafe(body));
        // From here until the wait ends none of the program's code runs, and nothing may unwind.
        let abort_on_unwind = AbortOnUnwind;
        if outcome.is_err() {
            self.cancel();
        }
        self.join();
        mem::forget(abort_on_unwind);
        let of_child = self.panic.take();
        match (outcome, of_child) {
            (Ok(result), None) => result,
            (Ok(_), Some(payload)) => resume_unwind(payload),
            (Err(payload), of_child) => {
                if let Some(of_child) = of_child {
                    drop_payload(of_child);
                }
                resume_unwind(payload)
            }
        }
    }

    /// Waits for the children. Cancels them if the caller is stopped in the meantime.
    fn join(&self) {
        while self.live() > 0 {
            self.waiter.set(Some(prepare_park()));
            if self.cancelled.get() {
                park_uninterruptible("the children of a scope");
            } else if park("the children of a scope").is_err() {
                self.cancel();
            }
        }
    }

    /// Stores the first panic for the end of the scope.
    pub(super) fn keep_panic(&self, payload: Box<dyn Any + Send>) {
        match self.panic.take() {
            None => self.panic.set(Some(payload)),
            Some(first) => {
                self.panic.set(Some(first));
                drop_payload(payload);
            }
        }
    }
}

impl Member {
    fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
        if let Some(fiber) = self.fiber {
            cancel(fiber);
        }
    }
}

/// Aborts the process. Dropped only if the wait of a scope panics.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        crate::log(
            crate::LogLevel::Error,
            format_args!(
                "a scope cannot wait for its children here, and cannot be left while they use its frame; aborting"
            ),
        );
        process::abort();
    }
}

/// A child that has not begun, or runs. Fields are dropped in declaration order: `_end` last.
pub(super) struct Child<T, F: FnOnce() -> T> {
    pub(super) work: Option<F>,
    pub(super) cancel: Option<CancelScope>,
    pub(super) packet: Rc<Packet<T>>,
    pub(super) _end: End,
}

impl<T, F: FnOnce() -> T> Child<T, F> {
    pub(super) fn run(mut self) {
        let Some(work) = self.work.take() else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| match &self.cancel {
            None => work(),
            Some(cancel) => shield(|| cancel.enter(work)),
        }));
        if let Err(payload) = &outcome {
            record_panic(current_id(), false, &**payload);
        }
        self.packet.finish(Some(outcome));
    }
}

/// Reports the end of a child when dropped.
pub(super) struct End {
    pub(super) family: Rc<Family>,
    pub(super) slot: usize,
}

impl Drop for End {
    fn drop(&mut self) {
        self.family.leave(self.slot);
    }
}

/// The slot for a child's result.
pub(super) struct Packet<T> {
    pub(super) family: Rc<Family>,
    pub(super) result: Cell<Option<thread::Result<T>>>,
    pub(super) waiter: Cell<Option<LocalWaker>>,
    pub(super) done: Cell<bool>,
}

impl<T> Packet<T> {
    pub(super) fn new(family: Rc<Family>) -> Self {
        Packet {
            family,
            result: Cell::new(None),
            waiter: Cell::new(None),
            done: Cell::new(false),
        }
    }

    fn finish(&self, outcome: Option<thread::Result<T>>) {
        self.result.set(outcome);
        self.done.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl<T> Drop for Packet<T> {
    /// Drops the result. Runs also on the child's stack, where nothing may unwind past `End` with a result half
    /// dropped.
    fn drop(&mut self) {
        match self.result.take() {
            Some(Ok(result)) if mem::needs_drop::<T>() => {
                guarded("dropping a fiber's result", || drop(result));
            }
            Some(Err(payload)) => self.family.keep_panic(payload),
            _ => {}
        }
    }
}
