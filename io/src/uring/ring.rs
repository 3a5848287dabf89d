//! The ring: submits entries, collects completions, and copes with either queue being full.
//!
//! ```text
//!   push ──▶ submission queue ──enter──▶ kernel ──▶ completion queue ──▶ pop
//!      └─ full: enter at once; still full: ▶ waiting          full, and the kernel returns EBUSY: ▶ reaped
//! ```
//!
//! A push never fails. Completions are only moved here, never handled, so a push is safe wherever a fiber is. Entries
//! hold pointers. The caller of a push guarantees that their memory stays valid until the terminal completion.

use super::enter::RingHandle;
use io_uring::{IoUring, cqueue, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

pub(super) struct Ring {
    io: IoUring,
    handle: RingHandle,
    /// Entries that did not fit into the submission queue, oldest first.
    waiting: VecDeque<squeue::Entry>,
    /// Completions taken from the queue to make room, oldest first.
    reaped: VecDeque<cqueue::Entry>,
    submissions_full: u64,
    completions_full: u64,
}

/// The time that [`Ring::enter`] may wait for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitLimit {
    Zero,
    For(Duration),
    Unlimited,
}

impl Ring {
    /// Creates a ring. For `register` and `no_iowait` see [`RingHandle`].
    pub(super) fn new(io: IoUring, register: bool, no_iowait: bool) -> Self {
        Ring {
            handle: RingHandle::new(io.as_raw_fd(), register, no_iowait),
            io,
            waiting: VecDeque::new(),
            reaped: VecDeque::new(),
            submissions_full: 0,
            completions_full: 0,
        }
    }

    /// Returns how often the submission queue and the completion queue were found full.
    pub(super) fn times_full(&self) -> (u64, u64) {
        (self.submissions_full, self.completions_full)
    }

    pub(super) fn io(&self) -> &IoUring {
        &self.io
    }

    /// Whether the ring is entered by a registered number.
    pub(super) fn is_registered(&self) -> bool {
        self.handle.is_registered()
    }

    /// Queues an entry for the next [`Ring::enter`].
    ///
    /// # Safety
    /// The memory that the entry points to stays valid, and unmoved, until the entry's terminal completion.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // Entries leave in the order of their pushes: a cancel must not overtake its operation.
        // SAFETY: the caller upholds the contract.
        if !self.waiting.is_empty() || unsafe { self.io.submission().push(&entry) }.is_err() {
            self.push_full(entry);
        }
    }

    #[cold]
    fn push_full(&mut self, entry: squeue::Entry) {
        self.waiting.push_back(entry);
        self.submissions_full += 1;
        // Submitting makes room. Nothing is handled here: the caller may be a fiber with any borrow.
        // The next turn meets the error again and reports it.
        let _ = self.enter(WaitLimit::Zero);
        self.refill();
    }

    /// Moves entries that did not fit into the submission queue.
    fn refill(&mut self) {
        let mut queue = self.io.submission();
        while let Some(entry) = self.waiting.front() {
            // SAFETY: the caller that pushed the entry guarantees its memory.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Whether no completion is available.
    pub(super) fn has_no_completion(&mut self) -> bool {
        self.reaped.is_empty() && self.io.completion().is_empty()
    }

    /// Takes completions, oldest first: user data, result, flags. Returns their number.
    #[inline]
    pub(super) fn pop_many(&mut self, into: &mut [(u64, i32, u32)]) -> usize {
        let mut count = 0;
        // Reaped completions are older than those in the queue, and the completions of one operation must stay in
        // order.
        while count < into.len()
            && let Some(entry) = self.reaped.pop_front()
        {
            into[count] = (entry.user_data(), entry.result(), entry.flags());
            count += 1;
        }
        let mut queue = self.io.completion();
        while count < into.len()
            && let Some(entry) = queue.next()
        {
            into[count] = (entry.user_data(), entry.result(), entry.flags());
            count += 1;
        }
        count
    }

    /// Submits queued entries and waits for as long as `limit` allows. Makes no system call if there is nothing to
    /// submit, no completion for the kernel to deliver and nothing to wait for.
    ///
    /// # Errors
    /// Only errors that leave the ring unusable.
    pub(super) fn enter(&mut self, mut limit: WaitLimit) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.refill();
            if !self.waiting.is_empty() {
                // Do not wait for earlier entries while later ones are not submitted yet.
                limit = WaitLimit::Zero;
            }
        }
        let queue = self.io.submission();
        let (count, overflow) = (queue.len() as u32, queue.cq_overflow());
        // `IORING_SQ_CQ_OVERFLOW`: the kernel keeps completions in a list until we ask for events. `IORING_SQ_TASKRUN`:
        // completions are ready but for work on our thread, which with `IORING_SETUP_DEFER_TASKRUN` runs only then. See
        // `io_uring_setup(2)`.
        let events = overflow || queue.taskrun();
        drop(queue);
        self.completions_full += u64::from(overflow);
        let result = match limit {
            WaitLimit::Zero if count == 0 && !events => return Ok(()),
            WaitLimit::Zero => self.handle.submit(count, events),
            WaitLimit::Unlimited => self.handle.submit_and_wait(count, None),
            WaitLimit::For(limit) => self.handle.submit_and_wait(count, Some(limit)),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The time passed, or a signal came: the loop handles what is available and returns.
                Some(libc::ETIME | libc::EINTR) => Ok(()),
                // `EBUSY`: the completion queue must be emptied first. `EAGAIN`: the kernel is temporarily short of
                // memory. See `io_uring_enter(2)`. Entries that the kernel did not take stay in the queue for the next
                // call.
                Some(libc::EBUSY | libc::EAGAIN) => {
                    self.reap();
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Empties the completion queue without handling its entries.
    #[cold]
    pub(super) fn reap(&mut self) {
        self.reaped.extend(self.io.completion());
    }

    /// Whether a reaped completion carries `user_data`.
    #[cold]
    pub(super) fn has_reaped(&self, user_data: u64) -> bool {
        let mut reaped = self.reaped.iter();
        reaped.any(|entry| entry.user_data() == user_data)
    }

    /// Removes a reaped completion with `user_data`, and returns its result and flags, if there is one.
    #[cold]
    pub(super) fn take_reaped(&mut self, user_data: u64) -> Option<(i32, u32)> {
        let index = self
            .reaped
            .iter()
            .position(|entry| entry.user_data() == user_data)?;
        self.reaped
            .remove(index)
            .map(|entry| (entry.result(), entry.flags()))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.handle.close();
    }
}
