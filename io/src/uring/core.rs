//! The driver of a loop on io_uring: submits operations, waits, and hands each completion to its operation.
//!
//! ```text
//!   fiber:  push an entry, park ─────────────┐                       (no system call)
//!   turn:   one io_uring_enter: submits all, ▼ waits if nothing is runnable
//!           completions ──▶ slot ──▶ wake the fiber, or call the owner
//! ```
//!
//! Invariants:
//! - Only the terminal completion of an operation ends a fiber's wait for it. So the memory borrowed for the operation
//!   stays valid for as long as the kernel uses it. A cancel requests that completion; it does not replace it.
//! - No borrow of the ring or of the slots is live while a callback or another fiber runs.
//! - Only the thread that made the driver uses it (`SINGLE_ISSUER`). Other threads only ring the bell.

use super::buffers::BufferRing;
use super::features::{Feature, Features};
use super::polls::Polls;
use super::ring::{Ring, WaitLimit};
use super::setup::{self, Unavailable};
use super::slots::{BELL, CompletionOwner, Found, OperationId, Slot, Slots};
use crate::bell::EventBell;
use crate::driver::members::{Members, run_callback};
use crate::errors;
use io_uring::{cqueue, opcode, squeue, types};
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::{
    Bell, Instant, Stopped, Wait, may_suspend, park_uninterruptible, park_unrefused, prepare_park,
    refuse_call,
};

/// The maximum number of completions that are taken out of the ring at once.
const BATCH: usize = 64;

/// The number of completions per turn up to which a loop counts as quiet. Measured with TCP echo, in processor time per
/// message: with one connection a direct send saves 4 to 10 %, with ten connections it costs 12 %.
const QUIET: usize = 2;

/// The maximum number of direct sends in a turn.
const DIRECT_CALLS: u32 = 64;

pub(crate) struct Core {
    // Before `buffers`: fields are dropped in order, and the kernel must let go of the memory first.
    pub(super) ring: RefCell<Ring>,
    buffers: OnceCell<Option<BufferRing>>,
    features: Features,
    slots: RefCell<Slots>,
    pub(super) polls: Polls,
    bell: Arc<EventBell>,
    pub(crate) members: Members,
    /// Cleared when the kernel turns out to lack multishot receives.
    pub(crate) multishot: Cell<bool>,
    pub(crate) buffers_exhausted: Cell<u64>,
    /// The number of completions in the last turn that had any.
    last_batch: Cell<usize>,
    direct_calls: Cell<u32>,
}

impl Core {
    pub(crate) fn new() -> Result<Rc<Core>, Unavailable> {
        let (ring, features) = setup::create_ring()?;
        let core = Core {
            ring: RefCell::new(ring),
            buffers: OnceCell::new(),
            slots: RefCell::new(Slots::new()),
            polls: Polls::default(),
            bell: Arc::new(EventBell::new().map_err(Unavailable::Other)?),
            members: Members::default(),
            multishot: Cell::new(features.allow(Feature::Multishot)),
            features,
            buffers_exhausted: Cell::new(0),
            last_batch: Cell::new(0),
            direct_calls: Cell::new(0),
        };
        core.arm_bell();
        Ok(Rc::new(core))
    }

    /// Polls the bell: one entry serves all of its rings. If the kernel ends the poll by itself, `handle_completion`
    /// arms the bell again.
    fn arm_bell(&self) {
        let poll =
            opcode::PollAdd::new(types::Fd(self.bell.raw()), libc::POLLIN as u32).multi(true);
        self.push_plain(poll.build().user_data(BELL));
    }

    /// Pushes an entry that points to no memory.
    fn push_plain(&self, entry: squeue::Entry) {
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.borrow_mut().push(entry) };
    }

    pub(crate) fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
    }

    /// Returns the number of open members and operations in flight. An owned operation counts once, with its owner.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.borrow().fibers() + self.polls.in_kernel() + self.members.count()
    }

    /// Returns the number of operations that use memory of the fibers waiting for them.
    pub(crate) fn lent(&self) -> usize {
        self.slots.borrow().fibers()
    }

    /// Returns the number of operations that the kernel may still be working on.
    pub(crate) fn in_kernel(&self) -> usize {
        self.slots.borrow().pending()
    }

    pub(crate) fn cancel_all(&self) {
        self.members.shut_down_all();
        let pending = self.slots.borrow().in_flight();
        for id in pending {
            self.cancel(id);
        }
    }

    /// Whether the loop is so quiet that a system call for one operation costs less than a turn for it. Allowed a
    /// limited number of times per turn, because a fiber whose calls all succeed at once would never yield to others.
    pub(crate) fn may_call_directly(&self) -> bool {
        let calls = self.direct_calls.get();
        self.direct_calls.set(calls.saturating_add(1));
        let quiet = calls < DIRECT_CALLS && self.last_batch.get() <= QUIET;
        quiet && self.features.allow(Feature::Direct)
    }

    /// Whether the operation with that opcode may be used on files.
    pub(crate) fn supports_file_operation(&self, code: u8) -> bool {
        self.features.supports_file_operation(code)
    }

    /// Whether so many operations were tried by system calls since the last turn that a fiber must yield before its
    /// next.
    pub(crate) fn over_budget(&self) -> bool {
        let calls = self.direct_calls.get().saturating_add(1);
        self.direct_calls.set(calls);
        calls > DIRECT_CALLS
    }

    /// Returns how often the submission queue and the completion queue were full.
    pub(crate) fn times_full(&self) -> (u64, u64) {
        self.ring.borrow().times_full()
    }

    /// Asks the kernel to cancel an operation. The terminal completion still follows.
    pub(crate) fn cancel(&self, id: OperationId) {
        self.push_plain(
            opcode::AsyncCancel::new(id.user_data())
                .build()
                .user_data(id.cancel_data()),
        );
    }

    /// Handles the result of a cancel.
    ///
    /// The kernel does not find an operation that is about to be retried: one that was woken, by its poll or for a
    /// kernel worker thread, and finds that it has to wait after all. So an operation that is still pending is
    /// cancelled again; by then it has been retried. (Seen with a Unix connect at a full backlog, in its first tries.
    /// See also <https://github.com/axboe/liburing/issues/1375>, and `io_uring_prep_cancel(3)` for the other results:
    /// after them the terminal completion follows.)
    fn handle_cancel_result(&self, id: OperationId, result: i32) {
        if result == -libc::ENOENT && self.slots.borrow_mut().is_pending(id) {
            self.cancel(id);
        }
    }

    /// Like [`Core::handle_cancel_result`], for completions that were only moved out of the ring.
    #[cold]
    fn handle_reaped_cancel(&self, id: OperationId) {
        let answer = self.ring.borrow_mut().take_reaped(id.cancel_data());
        if let Some((result, _)) = answer {
            self.handle_cancel_result(id, result);
        }
    }

    /// Returns the ring of receive buffers, created on first use, or `None` if the kernel offers none.
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
    /// The memory that the entry points to stays valid and in place until the completion with `last` set.
    pub(crate) unsafe fn start_operation(
        &self,
        entry: squeue::Entry,
        owner: Rc<dyn CompletionOwner>,
        tag: u8,
    ) -> OperationId {
        let id = self.slots.borrow_mut().insert(Slot::Owned(owner, tag));
        // SAFETY: the caller upholds the contract.
        unsafe { self.ring.borrow_mut().push(entry.user_data(id.user_data())) };
        id
    }

    /// Performs an operation for the calling fiber, waits for its end, and returns the kernel's result.
    ///
    /// If the fiber is stopped meanwhile, the operation is cancelled and the wait continues. If the operation completed
    /// anyway, its result is returned.
    ///
    /// # Safety
    /// The memory that the entry points to stays valid for as long as this call runs. The call does not return before
    /// the operation has ended.
    ///
    /// # Errors
    /// The system's error; the reason why the fiber was stopped; or that the fiber is unwinding, in which case nothing
    /// was started.
    ///
    /// # Panics
    /// Where the calling code may not suspend, for a reason other than unwinding.
    pub(crate) unsafe fn run_operation(
        &self,
        entry: squeue::Entry,
        reason: &'static str,
    ) -> io::Result<u32> {
        check_may_suspend()?;
        let waker = prepare_park();
        let id = self.slots.borrow_mut().insert(Slot::Fiber(waker));
        let guard = OperationGuard { core: self, id };
        // SAFETY: the caller upholds the contract; `guard` keeps this frame, and so the caller's, alive until the
        // operation has ended, even if the park below panics.
        unsafe { self.ring.borrow_mut().push(entry.user_data(id.user_data())) };
        let mut stopped = park_unrefused(reason, Instant::NEVER).err();
        if stopped.is_some() {
            // The completion may be in the ring already. Then the kernel does not find the operation, and the cancel's
            // own completion says so; its user data differs from the operation's.
            self.cancel(id);
        }
        // Only the completion ends the operation. Until it arrives, the kernel may write to the caller's memory,
        // whatever woke the fiber.
        let result = loop {
            if let Some(result) = self.slots.borrow_mut().take_result(id) {
                break result;
            }
            if stopped.is_some() && yue_scheduler::planted!("early return on cancel") {
                break -libc::ECANCELED;
            }
            self.park_again(id, reason, &mut stopped);
        };
        debug_assert!(
            !self.slots.borrow_mut().is_pending(id),
            "a fiber leaves its operation only after its end"
        );
        // The operation has ended, so nothing is left to guard.
        std::mem::forget(guard);
        // The outcome decides: the call is refused only if its operation did nothing.
        let stopped = stopped.filter(|_| errors::was_cancelled(-result));
        errors::of_operation(result, stopped.map(refuse_call))
    }

    /// Waits again for an operation that has not ended: its cancel is in progress, or another wake arrived.
    #[cold]
    fn park_again(&self, id: OperationId, reason: &'static str, stopped: &mut Option<Stopped>) {
        // Each wait has its own waker: the earlier one names a wait that has ended, and would wake nobody.
        self.slots.borrow_mut().set_waker(id, prepare_park());
        if stopped.is_some() {
            // A second stop has nothing to add: the cancel is on its way.
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
        // Members push their entries first, so that they leave in this turn's system call.
        let mut busy = self.members.run_deferred();
        // Completions may be here without a system call: the kernel writes them to shared memory, and a push into a
        // full queue moves them aside.
        busy |= self.handle_completions();
        // What ran may have made fibers runnable: let the loop run them before it sleeps.
        let limit = match wait {
            _ if busy || self.members.has_deferred() => WaitLimit::Zero,
            Wait::Poll => WaitLimit::Zero,
            Wait::Block(None) => WaitLimit::Unlimited,
            Wait::Block(Some(at)) => match at.saturating_since(Instant::system()) {
                Duration::ZERO => WaitLimit::Zero,
                left => WaitLimit::For(left),
            },
        };
        self.ring.borrow_mut().enter(limit)?;
        // Members deferred from here on run in the next turn: their entries need a system call anyway.
        self.handle_completions();
        Ok(())
    }

    /// Dispatches the available completions to their fibers and owners. Returns whether there were any.
    fn handle_completions(&self) -> bool {
        if self.ring.borrow_mut().has_no_completion() {
            return false;
        }
        // Completions are copied out first: a callback may push, and a push into a full queue borrows the ring.
        let mut batch = [(0, 0, 0); BATCH];
        let mut total = 0;
        loop {
            let count = self.ring.borrow_mut().pop_many(&mut batch);
            for &(user_data, result, flags) in &batch[..count] {
                self.handle_completion(user_data, result, flags);
            }
            total += count;
            // After a full batch there may be more.
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
    fn handle_completion(&self, user_data: u64, result: i32, flags: u32) {
        let last = !cqueue::more(flags);
        let found = self.slots.borrow_mut().complete(user_data, result, last);
        match found {
            Found::Fiber(waker) => {
                waker.wake();
            }
            Found::Owned(owner, tag) => {
                run_callback(|| owner.on_completion(tag, result, flags, last));
            }
            Found::Nobody => {
                // The bell itself needs no handling: the loop looks into its inbox after every turn.
                if user_data == BELL && last {
                    // A multishot poll ends when its completion overflows (`IORING_CQE_F_MORE` is missing; see
                    // `io_uring_prep_poll_multishot(3)`). The new poll reports rings of the bell that fell in between.
                    self.arm_bell();
                }
                if let Some(id) = OperationId::of_cancel(user_data) {
                    self.handle_cancel_result(id, result);
                }
            }
        }
    }

    /// Ends an operation whose fiber can no longer wait for it. Blocks the thread until the kernel has released it.
    #[cold]
    fn finish_operation(&self, id: OperationId) {
        self.cancel(id);
        while self.slots.borrow_mut().take_result(id).is_none() {
            let taken = {
                let mut ring = self.ring.borrow_mut();
                // Keep waiting after an error: the kernel may still write to the frame that is about to be dropped.
                let _ = ring.enter(WaitLimit::For(Duration::from_millis(1)));
                ring.reap();
                ring.take_reaped(id.user_data())
            };
            self.handle_reaped_cancel(id);
            if let Some((result, _)) = taken {
                self.slots
                    .borrow_mut()
                    .complete(id.user_data(), result, true);
            }
        }
    }

    /// Ends an operation that has an owner and delivers all of its completions, without parking the calling fiber. Not
    /// for callbacks: it does not find completions that the turn has already taken out.
    pub(crate) fn finish_owned_operation(&self, id: OperationId) {
        self.cancel(id);
        loop {
            let taken = {
                let mut ring = self.ring.borrow_mut();
                // The next turn meets the error again; the kernel may still deliver the completion.
                let _ = ring.enter(WaitLimit::For(Duration::from_millis(1)));
                ring.reap();
                std::iter::from_fn(|| ring.take_reaped(id.user_data())).collect::<Vec<_>>()
            };
            self.handle_reaped_cancel(id);
            for (result, flags) in taken {
                self.handle_completion(id.user_data(), result, flags);
                if !cqueue::more(flags) {
                    return;
                }
            }
        }
    }
}

/// Fails where a ring operation could not be waited for.
///
/// # Panics
/// Where the calling code may not suspend, for a reason other than unwinding.
pub(super) fn check_may_suspend() -> io::Result<()> {
    match may_suspend() {
        Ok(()) => Ok(()),
        Err(_) if std::thread::panicking() => Err(errors::cannot_wait()),
        Err(why) => panic!("{why}"),
    }
}

/// An operation of a fiber, from its submission to its end. If it is dropped earlier (a panic refused the park), it
/// ends the operation itself: the frame that it guards must not be dropped while the kernel uses it.
struct OperationGuard<'a> {
    core: &'a Core,
    id: OperationId,
}

impl Drop for OperationGuard<'_> {
    fn drop(&mut self) {
        self.core.finish_operation(self.id);
    }
}
