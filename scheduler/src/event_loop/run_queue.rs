//! The run queue: a FIFO linked through the fibers' headers, one slot for the fiber that runs next, and a queue for
//! each of the two priorities other than normal.
//!
//! The slot holds the fiber that a running fiber has just woken. The two are about to talk to each other (a reply, a
//! hand-over) and their data is in the cache; behind a thousand other fibers the reply would come late. The slot is
//! served at most [`NEXT_RUNS_MAX`] times in a row, so that such a pair cannot block the queue forever. Go's scheduler
//! has the same slot ([`runnext`](https://go.dev/src/runtime/proc.go)), and so has
//! [tokio's](https://tokio.rs/blog/2019-10-scheduler).
//!
//! ```text
//!   high    ──▶ up to 16 runs ┐
//!   normal  ──▶ up to 4 runs  ├─▶ then all budgets are reset
//!   low     ──▶ 1 run         ┘
//! ```
//!
//! A higher class runs first until its budget is used up; then the next class runs. So no fiber starves: with all three
//! classes always ready, a low fiber runs once in 21 runs. While only normal fibers are ready, which most programs have
//! all the time, the classes cost a push one comparison and a pop nothing extra: a pop tests one counter of all fibers
//! outside the normal queue, which includes the slot.

use crate::fiber::{HIGH, Header, LOW, State};
use crate::simulation;
use std::cell::Cell;
use std::ptr;

/// Enough for an exchange of a few messages, and too few for waiting fibers to notice.
const NEXT_RUNS_MAX: u32 = 16;

/// Runs of high, normal and low fibers before the budgets are reset. A factor of four is enough to tell the classes
/// apart under load, and small enough for a low fiber to make visible progress.
const BUDGETS: [u32; 3] = [16, 4, 1];

/// Fibers in order, linked through their headers.
struct Fifo {
    head: Cell<*const Header>,
    tail: Cell<*const Header>,
    /// Number of fibers behind the first whose memory has been prefetched.
    prefetched: Cell<u32>,
}

/// The number of fibers with deep frames that are prefetched together. Each has its stack on a separate page, for which
/// the processor must walk the page tables. It has several walkers, which work in parallel on requests issued together;
/// requests issued one by one are waited for one by one. With 1 000 fibers that run an interpreter and call through one
/// connection, prefetching together made 1.42 M calls/s, one by one 1.28; with 1 000 that echo over TCP it is 7 % more
/// messages.
/// Fibers that only yield are better prefetched one by one: with 1 000 of them a yield takes 8.0 ns, and 9.2 ns when
/// six are prefetched together.
const PREFETCH_BATCH: u32 = 6;

impl Fifo {
    const fn new() -> Self {
        Fifo {
            head: Cell::new(ptr::null()),
            tail: Cell::new(ptr::null()),
            prefetched: Cell::new(0),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.head.get().is_null()
    }

    fn clear(&self) {
        self.head.set(ptr::null());
        self.tail.set(ptr::null());
        self.prefetched.set(0);
    }

    #[inline]
    fn push(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Ready,
            "only a ready fiber is in the run queue"
        );
        debug_assert!(
            !ptr::eq(self.tail.get(), header),
            "a fiber was queued twice"
        );
        header.next.set(ptr::null());
        let tail = self.tail.replace(header);
        debug_assert!(
            tail.is_null() == self.head.get().is_null(),
            "a queue has both ends or neither"
        );
        if tail.is_null() {
            self.head.set(header);
        } else {
            // SAFETY: headers live as long as the loop, and a header in the queue belongs to a living fiber.
            unsafe { (*tail).next.set(header) };
        }
    }

    #[inline]
    fn pop(&self) -> Option<&Header> {
        // SAFETY: as above.
        let header = unsafe { self.head.get().as_ref()? };
        let second = header.next.get();
        self.head.set(second);
        if second.is_null() {
            debug_assert!(
                ptr::eq(self.tail.get(), header),
                "the last fiber of a queue is its tail"
            );
            self.tail.set(ptr::null());
        }
        debug_assert!(
            header.state.get() == State::Ready,
            "a fiber in the run queue has run or ended"
        );
        match self.prefetched.get() {
            // The front now: it is the fiber that runs after the one that is about to run.
            0 => self.prefetch_front(),
            prefetched => self.prefetched.set(prefetched - 1),
        }
        Some(header)
    }

    /// Prefetches what the next fiber needs to resume, while the current one runs. If the next fiber has deep frames,
    /// it also prefetches for the fibers behind it.
    #[inline]
    fn prefetch_front(&self) {
        // SAFETY: headers live as long as the loop, and a header in the queue belongs to a living fiber.
        let Some(first) = (unsafe { self.head.get().as_ref() }) else {
            return;
        };
        if first.resumes_deep_frames() {
            self.prefetch_batch();
        } else {
            // SAFETY: only the loop removes fibers, outside any fiber, and this one is in the queue.
            unsafe { first.prefetch_run() };
        }
    }

    #[inline(never)]
    fn prefetch_batch(&self) {
        let mut next = self.head.get();
        for prefetched in 0..PREFETCH_BATCH {
            // SAFETY: headers live as long as the loop, and a header in the queue belongs to a living fiber.
            let Some(header) = (unsafe { next.as_ref() }) else {
                break;
            };
            // SAFETY: only the loop removes fibers, outside any fiber, and this one is in the queue.
            unsafe { header.prefetch_run() };
            self.prefetched.set(prefetched);
            next = header.next.get();
        }
    }
}

pub(super) struct RunQueue {
    /// In a simulation, any of the first fibers may run next.
    shuffled: bool,
    normal: Fifo,
    next: Cell<*const Header>,
    next_runs: Cell<u32>,
    /// Fibers in `high` and `low`.
    prioritized: Cell<usize>,
    /// Number of fibers outside `normal`: `prioritized`, and the one in the slot. One more in a simulation, so that the
    /// short way to the next fiber is never taken.
    outside_normal: Cell<usize>,
    high: Fifo,
    low: Fifo,
    /// The rest of each class's budget.
    budgets: Cell<[u32; 3]>,
}

impl RunQueue {
    pub(super) fn new() -> Self {
        let shuffled = simulation::is_on();
        RunQueue {
            shuffled,
            normal: Fifo::new(),
            next: Cell::new(ptr::null()),
            next_runs: Cell::new(0),
            prioritized: Cell::new(0),
            outside_normal: Cell::new(usize::from(shuffled)),
            high: Fifo::new(),
            low: Fifo::new(),
            budgets: Cell::new(BUDGETS),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.normal.is_empty() && self.outside_normal.get() == usize::from(self.shuffled)
    }

    /// Drops all entries. Called at shutdown.
    pub(super) fn clear(&self) {
        self.normal.clear();
        self.next.set(ptr::null());
        self.high.clear();
        self.low.clear();
        self.prioritized.set(0);
        self.outside_normal.set(usize::from(self.shuffled));
    }

    /// Appends a fiber, which must not be in the queue.
    #[inline]
    pub(super) fn push(&self, header: &Header) {
        if header.flags.get() < HIGH {
            self.normal.push(header);
        } else {
            self.push_by_class(header);
        }
    }

    /// Puts a fiber into the slot, or at the end of the queue if the slot is taken.
    #[inline]
    pub(super) fn push_next(&self, header: &Header) {
        debug_assert!(
            header.state.get() == State::Ready && !ptr::eq(self.next.get(), header),
            "a fiber was queued twice, or is not ready"
        );
        // A fiber with a priority goes to its own queue. In the slot it would escape its class's budget.
        if header.flags.get() < HIGH && self.next.get().is_null() {
            self.next.set(header);
            self.outside_normal.set(self.outside_normal.get() + 1);
        } else {
            self.push(header);
        }
    }

    #[cold]
    fn push_by_class(&self, header: &Header) {
        debug_assert!(header.has(HIGH) != header.has(LOW), "a fiber has one class");
        // Budgets that were used up while no class competed must not count against a fiber that comes later.
        if self.prioritized.get() == 0 {
            self.budgets.set(BUDGETS);
        }
        self.prioritized.set(self.prioritized.get() + 1);
        self.outside_normal.set(self.outside_normal.get() + 1);
        if header.has(HIGH) {
            self.high.push(header);
        } else {
            self.low.push(header);
        }
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<&Header> {
        debug_assert!(
            self.outside_normal.get()
                == self.prioritized.get()
                    + usize::from(!self.next.get().is_null())
                    + usize::from(self.shuffled),
            "`outside_normal` counts the slot and the prioritized fibers"
        );
        if self.outside_normal.get() == 0 {
            self.next_runs.set(0);
            return self.normal.pop();
        }
        if self.shuffled {
            self.shuffle();
        }
        if self.prioritized.get() == 0 {
            self.pop_normal()
        } else {
            self.pop_by_class()
        }
    }

    /// Moves fibers from the front of the normal queue to its end: up to seven, by the simulation's seed. Empties the
    /// slot as often as not. Any order is one that a program must expect.
    #[cold]
    fn shuffle(&self) {
        let choice = simulation::random();
        let next = self.next.get();
        if choice & 8 != 0 && !next.is_null() {
            self.next.set(ptr::null());
            self.outside_normal.set(self.outside_normal.get() - 1);
            // SAFETY: headers live as long as the loop.
            self.normal.push(unsafe { &*next });
        }
        for _ in 0..choice & 7 {
            if let Some(first) = self.normal.pop() {
                self.normal.push(first);
            }
        }
    }

    #[inline]
    fn pop_normal(&self) -> Option<&Header> {
        let next = self.next.get();
        if !next.is_null() && (self.next_runs.get() < NEXT_RUNS_MAX || self.normal.is_empty()) {
            self.next.set(ptr::null());
            self.outside_normal.set(self.outside_normal.get() - 1);
            self.next_runs.set(self.next_runs.get().saturating_add(1));
            // SAFETY: headers live as long as the loop.
            return Some(unsafe { &*next });
        }
        self.next_runs.set(0);
        self.normal.pop()
    }

    /// Returns the next fiber: the first of the highest class that has a fiber and a budget.
    #[cold]
    fn pop_by_class(&self) -> Option<&Header> {
        let ready = [
            !self.high.is_empty(),
            !self.normal.is_empty() || !self.next.get().is_null(),
            !self.low.is_empty(),
        ];
        let mut budgets = self.budgets.get();
        let with_budget = |budgets: &[u32; 3]| (0..3).find(|&c| ready[c] && budgets[c] > 0);
        let class = with_budget(&budgets).or_else(|| {
            budgets = BUDGETS;
            with_budget(&budgets)
        })?;
        debug_assert!(
            ready[class] && budgets[class] > 0,
            "only a class with a fiber and a budget runs"
        );
        budgets[class] -= 1;
        self.budgets.set(budgets);
        if class == 1 {
            return self.pop_normal();
        }
        self.prioritized.set(self.prioritized.get() - 1);
        self.outside_normal.set(self.outside_normal.get() - 1);
        let queue = if class == 0 { &self.high } else { &self.low };
        queue.pop()
    }
}
