//! The io_uring driver: operations go into a ring, and their completions come back through it.
//!
//! ```text
//!   fiber:  push an entry, park ─────────────┐                       (no system call)
//!   turn:   one io_uring_enter: submits all, ▼ waits if nothing can run
//!           completions ──▶ slot ──▶ wake the fiber, or call the owner
//! ```
//!
//! Invariants:
//! - An operation that a fiber waits for ends the wait by its terminal completion only; so memory that is borrowed for
//!   it stays valid for as long as the kernel uses it. A cancel asks for that completion; it does not replace it.
//! - No borrow of the ring or of the slots is live while a callback or another fiber runs.
//! - One thread: the one that made the driver (`SINGLE_ISSUER`). Other threads only ring the bell.

mod accept;
mod buffers;
mod enter;
mod features;
mod polls;
mod ring;
mod setup;
mod slots;

pub(crate) use accept::Accepting;
pub(crate) use buffers::{BufferRing, GROUP};
pub(crate) use features::check_settings;
pub(crate) use polls::Poll;
pub use setup::{Unavailable, probe_uring};
pub(crate) use slots::{Completed, OperationId};

use crate::bell::EventBell;
use crate::errors;
use crate::shared::{Shared, guarded};
use features::{Feature, Features};
use io_uring::{cqueue, opcode, squeue, types};
use polls::Polls;
use ring::{Patience, Ring};
use slots::{BELL, Found, Slot, Slots};
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::{
    Bell, Instant, Stopped, Wait, may_suspend, park_uninterruptible, park_unrefused, prepare_park,
    refuse_call,
};

/// Completions that are taken out of the ring at once.
const BATCH: usize = 64;

/// Completions in a turn up to which a loop counts as quiet. Measured with TCP echo, processor time for a message: with
/// one connection a send by itself saves 4 to 10 %, with ten it costs 12 %.
const QUIET: usize = 2;

/// Sends in a turn that may go by themselves.
const DIRECT_CALLS: u32 = 64;

pub(crate) struct Core {
    // Before `buffers`: fields are dropped in order, and the kernel must let go of the memory first.
    ring: RefCell<Ring>,
    buffers: OnceCell<Option<BufferRing>>,
    features: Features,
    slots: RefCell<Slots>,
    polls: Polls,
    bell: Arc<EventBell>,
    pub(crate) shared: Shared,
    /// Cleared when a multishot receive turns out to be unknown to the kernel.
    pub(crate) multishot: Cell<bool>,
    pub(crate) buffers_exhausted: Cell<u64>,
    /// Completions of the last turn that had any.
    last_batch: Cell<usize>,
    direct_calls: Cell<u32>,
}

impl Core {
    pub(crate) fn new() -> Result<Rc<Core>, Unavailable> {
        let (ring, features) = setup::make()?;
        let core = Core {
            ring: RefCell::new(ring),
            buffers: OnceCell::new(),
            slots: RefCell::new(Slots::new()),
            polls: Polls::default(),
            bell: Arc::new(EventBell::new().map_err(Unavailable::Other)?),
            shared: Shared::default(),
            multishot: Cell::new(features.allow(Feature::Multishot)),
            features,
            buffers_exhausted: Cell::new(0),
            last_batch: Cell::new(0),
            direct_calls: Cell::new(0),
        };
        core.arm_bell();
        Ok(Rc::new(core))
    }

    fn arm_bell(&self) {
        let poll =
            opcode::PollAdd::new(types::Fd(self.bell.raw()), libc::POLLIN as u32).multi(true);
        self.push_plain(poll.build().user_data(BELL));
    }

    /// Pushes an entry that points to nothing.
    fn push_plain(&self, entry: squeue::Entry) {
        // SAFETY: there is no memory that would have to stay valid.
        unsafe { self.ring.borrow_mut().push(entry) };
    }

    pub(crate) fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
    }

    /// What is open or in flight; an owned operation counts once, with its owner.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.borrow().fibers() + self.polls.in_kernel() + self.shared.open()
    }

    /// Operations that work on memory of the fibers that wait for them.
    pub(crate) fn lent(&self) -> usize {
        self.slots.borrow().fibers()
    }

    /// Operations that the kernel may still work on.
    pub(crate) fn in_kernel(&self) -> usize {
        self.slots.borrow().pending()
    }

    pub(crate) fn cancel_all(&self) {
        self.shared.abort_all();
        let pending = self.slots.borrow().in_flight();
        for id in pending {
            self.cancel(id);
        }
    }

    /// Whether so little goes on that a system call for one operation costs less than a turn for it. Not more than some
    /// times in a turn, since a fiber whose calls all succeed at once would never let others run.
    pub(crate) fn may_call_directly(&self) -> bool {
        let calls = self.direct_calls.get();
        self.direct_calls.set(calls.saturating_add(1));
        let quiet = calls < DIRECT_CALLS && self.last_batch.get() <= QUIET;
        quiet && self.features.allow(Feature::Direct)
    }

    /// Whether files may be worked on by the operation with that code.
    pub(crate) fn does_files(&self, code: u8) -> bool {
        self.features.does_files(code)
    }

    /// Whether so many operations were tried by system calls since the last turn that a fiber must let others run
    /// before its next.
    pub(crate) fn had_its_share(&self) -> bool {
        let calls = self.direct_calls.get().saturating_add(1);
        self.direct_calls.set(calls);
        calls > DIRECT_CALLS
    }

    /// How often the submission queue and the completion queue were full.
    pub(crate) fn times_full(&self) -> (u64, u64) {
        self.ring.borrow().times_full()
    }

    /// Asks the kernel to end an operation; its terminal completion still comes.
    pub(crate) fn cancel(&self, id: OperationId) {
        self.push_plain(
            opcode::AsyncCancel::new(id.user_data())
                .build()
                .user_data(id.cancel_data()),
        );
    }

    /// Takes note of what a cancel answers.
    ///
    /// The kernel does not find an operation that is just about to be tried again: one that was woken, by its poll or
    /// for a thread of the kernel's, and finds that it has to wait after all. So one that is still pending is cancelled
    /// once more; it has been tried by then. (Seen with a Unix connect at a full backlog, whose first tries are such.)
    fn cancelled(&self, id: OperationId, result: i32) {
        if result == -libc::ENOENT && self.slots.borrow_mut().is_pending(id) {
            self.cancel(id);
        }
    }

    /// As [`Core::cancelled`], for completions that were only taken out of the ring.
    #[cold]
    fn cancel_again(&self, id: OperationId) {
        let answer = self.ring.borrow_mut().take_reaped(id.cancel_data());
        if let Some((result, _)) = answer {
            self.cancelled(id, result);
        }
    }

    /// The ring of receive buffers, made when it is first asked for; `None` if the kernel offers none.
    pub(crate) fn buffers(&self) -> Option<&BufferRing> {
        self.buffers
            .get_or_init(|| {
                let allowed = self.features.allow(Feature::Buffers);
                allowed.then(|| BufferRing::new(self.ring.borrow().io()).ok())?
            })
            .as_ref()
    }

    /// Starts an operation whose completions go to `owner`.
    ///
    /// # Safety
    /// What the entry points to stays valid and in place until the completion that is told to be the last.
    pub(crate) unsafe fn start(
        &self,
        entry: squeue::Entry,
        owner: Rc<dyn Completed>,
        tag: u8,
    ) -> OperationId {
        let id = self.slots.borrow_mut().insert(Slot::Owned(owner, tag));
        // SAFETY: passed on to the caller.
        unsafe { self.ring.borrow_mut().push(entry.user_data(id.user_data())) };
        id
    }

    /// Does an operation for the calling fiber, which waits for its end, and returns the kernel's answer.
    ///
    /// A fiber that is told to stop meanwhile has the operation cancelled and waits on; if it completed all the same,
    /// that is the result.
    ///
    /// # Safety
    /// What the entry points to is valid for as long as this call runs; the call does not end before the operation.
    ///
    /// # Errors
    /// The system's; why the fiber is told to stop; or that it unwinds, and nothing has begun.
    ///
    /// # Panics
    /// Where the calling code may not suspend for another reason.
    pub(crate) unsafe fn run(&self, entry: squeue::Entry, reason: &'static str) -> io::Result<u32> {
        demand_suspension()?;
        let waker = prepare_park();
        let id = self.slots.borrow_mut().insert(Slot::Fiber(waker));
        let flight = Flight { core: self, id };
        // SAFETY: passed on to the caller; `flight` keeps this frame, and so the caller's, until the operation ended,
        // also if the park below panics.
        unsafe { self.ring.borrow_mut().push(entry.user_data(id.user_data())) };
        let mut stopped = park_unrefused(reason, Instant::NEVER).err();
        if stopped.is_some() {
            self.cancel(id);
        }
        // Only the completion ends the operation: until it is there, the kernel may write to the caller's memory, no
        // matter what woke the fiber.
        let result = loop {
            if let Some(result) = self.slots.borrow_mut().take_result(id) {
                break result;
            }
            self.wait_on(id, reason, &mut stopped);
        };
        std::mem::forget(flight);
        // What happened is what counts: the call is refused only if its operation did nothing.
        let stopped = stopped.filter(|_| errors::was_cancelled(-result));
        errors::of_operation(result, stopped.map(refuse_call))
    }

    /// Waits once more for an operation that is not over: its cancel is on its way, or another wake came.
    #[cold]
    fn wait_on(&self, id: OperationId, reason: &'static str, stopped: &mut Option<Stopped>) {
        self.slots.borrow_mut().set_waker(id, prepare_park());
        if stopped.is_some() {
            return park_uninterruptible(reason);
        }
        *stopped = park_unrefused(reason, Instant::NEVER).err();
        if stopped.is_some() {
            self.cancel(id);
        }
    }

    /// See [`yue_scheduler::Driver::turn`].
    pub(crate) fn turn(&self, wait: Wait) -> io::Result<()> {
        self.direct_calls.set(0);
        let mut busy = self.shared.run_deferred();
        busy |= self.dispatch();
        let patience = match wait {
            _ if busy || self.shared.has_deferred() => Patience::None,
            Wait::Poll => Patience::None,
            Wait::Block(None) => Patience::Forever,
            Wait::Block(Some(at)) => match at.saturating_since(Instant::system()) {
                Duration::ZERO => Patience::None,
                left => Patience::Until(left),
            },
        };
        self.ring.borrow_mut().enter(patience)?;
        self.dispatch();
        Ok(())
    }

    /// Hands the completions that are there to whom they concern. Returns whether there were any.
    fn dispatch(&self) -> bool {
        if self.ring.borrow_mut().has_none() {
            return false;
        }
        let mut batch = [(0, 0, 0); BATCH];
        let mut total = 0;
        loop {
            let count = self.ring.borrow_mut().pop_many(&mut batch);
            for &(user_data, result, flags) in &batch[..count] {
                self.complete(user_data, result, flags);
            }
            total += count;
            if count < BATCH {
                break;
            }
        }
        if total > 0 {
            self.last_batch.set(total);
        }
        total > 0
    }

    #[inline]
    fn complete(&self, user_data: u64, result: i32, flags: u32) {
        let last = !cqueue::more(flags);
        let found = self.slots.borrow_mut().complete(user_data, result, last);
        match found {
            Found::Fiber(waker) => {
                waker.wake();
            }
            Found::Owned(owner, tag) => {
                guarded(|| owner.completed(tag, result, flags, last));
            }
            Found::Nobody => {
                if user_data == BELL && last {
                    self.arm_bell();
                }
                if let Some(id) = OperationId::of_cancel(user_data) {
                    self.cancelled(id, result);
                }
            }
        }
    }

    /// Ends an operation whose fiber cannot wait for it any more, blocking the thread until the kernel let go.
    #[cold]
    fn finish(&self, id: OperationId) {
        self.cancel(id);
        while self.slots.borrow_mut().take_result(id).is_none() {
            let taken = {
                let mut ring = self.ring.borrow_mut();
                // An error is no way out: the kernel may still write to the frame that is about to go.
                let _ = ring.enter(Patience::Until(Duration::from_millis(1)));
                ring.reap();
                ring.take_reaped(id.user_data())
            };
            self.cancel_again(id);
            if let Some((result, _)) = taken {
                self.slots
                    .borrow_mut()
                    .complete(id.user_data(), result, true);
            }
        }
    }

    /// Ends an operation that has an owner, and tells it all that comes of it, without a wait of the calling fiber's.
    /// Not for callbacks: completions that the turn has in its hands are not found.
    pub(crate) fn finish_owned(&self, id: OperationId) {
        self.cancel(id);
        loop {
            let taken = {
                let mut ring = self.ring.borrow_mut();
                // An error is met again by the next turn; the kernel may still answer.
                let _ = ring.enter(Patience::Until(Duration::from_millis(1)));
                ring.reap();
                std::iter::from_fn(|| ring.take_reaped(id.user_data())).collect::<Vec<_>>()
            };
            self.cancel_again(id);
            for (result, flags) in taken {
                self.complete(id.user_data(), result, flags);
                if !cqueue::more(flags) {
                    return;
                }
            }
        }
    }
}

/// Fails where an operation of the ring could not be waited for.
///
/// # Panics
/// Where the calling code may not suspend, unless that is because it unwinds.
fn demand_suspension() -> io::Result<()> {
    match may_suspend() {
        Ok(()) => Ok(()),
        Err(_) if std::thread::panicking() => Err(errors::cannot_wait()),
        Err(why) => panic!("{why}"),
    }
}

/// An operation of a fiber, from its submission to its end. Dropped before (the park refused by a panic), it sees to
/// the end itself: the frame that it guards must not go while the kernel works on it.
struct Flight<'a> {
    core: &'a Core,
    id: OperationId,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.core.finish(self.id);
    }
}
