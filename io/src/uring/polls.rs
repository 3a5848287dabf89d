//! Polls for a select: one-shot polls in the ring whose completion wakes the fiber.
//!
//! ```text
//!   start ──▶ in the kernel ──▶ completion: wake, finished
//!                  └─ end: waker dropped, cancel submitted ──▶ ending ──▶ completion: finished
//! ```
//!
//! A poll points to no memory, so nothing needs to wait for its end: the select that began it returns at once.
//! But the poll holds the file open until then. So it counts as in flight until its terminal completion, and closing
//! the descriptor earlier first makes the kernel release the file. That way a listener's address is free when the
//! listener is dropped, and a peer reads end of input.

use super::core::Core;
use super::ring::WaitLimit;
use super::slots::{CompletionOwner, OperationId};
use crate::errors::was_cancelled;
use crate::identity::Identity;
use io_uring::{opcode, types};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::LocalWaker;

/// The maximum attempts to reap a cancelled poll before its descriptor is closed. Normally one is enough.
const TRIES: u32 = 10;

/// The polls of one ring.
#[derive(Default)]
pub(super) struct Polls {
    in_kernel: Cell<usize>,
    /// The cancelled polls, by the id of their descriptor. Empty after a turn, and so usually short.
    ending: RefCell<Vec<(u64, OperationId)>>,
}

impl Polls {
    /// Returns the number of polls without a terminal completion yet.
    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel.get()
    }
}

/// A poll started for a fiber.
pub(crate) struct Poll {
    core: Rc<Core>,
    descriptor: u64,
    /// `None` once the poll has ended.
    operation: Cell<Option<OperationId>>,
    waker: Cell<Option<LocalWaker>>,
    /// The error code, if the poll failed.
    error: Cell<Option<i32>>,
}

impl Core {
    /// Wakes `waker` once, when the descriptor is ready or broken; at the next turn if it is already.
    pub(crate) fn start_poll(
        self: &Rc<Core>,
        of: Identity,
        events: i16,
        waker: LocalWaker,
    ) -> Rc<Poll> {
        let poll = Rc::new(Poll {
            core: self.clone(),
            descriptor: of.id,
            operation: Cell::new(None),
            waker: Cell::new(Some(waker)),
            error: Cell::new(None),
        });
        // The kernel checks the descriptor when it takes the entry: a change since the caller's own check is reported
        // too.
        let entry = opcode::PollAdd::new(types::Fd(of.fd), events as u32).build();
        // SAFETY: the entry points to no memory.
        let id = unsafe { self.start_operation(entry, poll.clone(), 0) };
        poll.operation.set(Some(id));
        self.polls.in_kernel.set(self.polls.in_kernel.get() + 1);
        poll
    }

    /// Waits, blocking the thread for a moment, until the kernel has released a descriptor that is about to be closed.
    #[inline]
    pub(crate) fn await_polls(&self, descriptor: u64) {
        if !self.polls.ending.borrow().is_empty() {
            self.reap_polls(descriptor);
        }
    }

    #[cold]
    fn reap_polls(&self, descriptor: u64) {
        for (of, id) in self.polls.ending.borrow().iter() {
            if *of != descriptor {
                continue;
            }
            // Completions are only moved here; the next turn handles them.
            let mut ring = self.ring.borrow_mut();
            for _ in 0..TRIES {
                ring.reap();
                if ring.has_reaped(id.user_data()) {
                    break;
                }
                // Submits the cancel, and waits for the poll's end. The next turn meets an error again and reports it.
                let _ = ring.enter(WaitLimit::For(Duration::from_millis(1)));
            }
        }
    }
}

impl Poll {
    /// Ends the poll, so that it no longer wakes the fiber. Returns the error if it could not poll.
    pub(crate) fn end(&self) -> Option<io::Error> {
        // Without the waker a late completion wakes nobody: the fiber may be in another wait by then.
        self.waker.take();
        if let Some(id) = self.operation.get() {
            // The descriptor is remembered until the kernel has released the file; see `await_polls`.
            self.core.cancel(id);
            let mut ending = self.core.polls.ending.borrow_mut();
            ending.push((self.descriptor, id));
        }
        self.error.take().map(io::Error::from_raw_os_error)
    }
}

impl CompletionOwner for Poll {
    fn on_completion(self: Rc<Self>, _tag: u8, result: i32, _flags: u32, last: bool) {
        if result < 0 && !was_cancelled(-result) {
            self.error.set(Some(-result));
        }
        if last && let Some(id) = self.operation.take() {
            let polls = &self.core.polls;
            debug_assert!(polls.in_kernel.get() > 0, "a poll ended twice");
            polls.in_kernel.set(polls.in_kernel.get() - 1);
            polls
                .ending
                .borrow_mut()
                .retain(|(_, ending)| *ending != id);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
