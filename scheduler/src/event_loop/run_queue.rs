//! The run queue: first in, first out, linked through the fibers' headers, plus one slot that goes first, plus a queue
//! for each of the two priorities that are not normal.
//!
//! The slot holds the fiber that a running fiber has just woken: the two are about to talk to each other (a reply, a
//! hand-over), their data is in the cache, and behind a thousand others the answer would come late. So that such a
//! pair cannot keep the queue waiting for ever, the slot is served at most [`NEXT_RUNS_MAX`] times in a row.
//!
//! ```text
//!   high    ──▶ up to 16 runs ┐
//!   normal  ──▶ up to 4 runs  ├─▶ then the budgets begin anew
//!   low     ──▶ 1 run         ┘
//! ```
//!
//! A higher class goes first until its budget is used up; then the next one has its turn. So nobody starves: with all
//! three always ready, a low fiber runs once in 21 runs. While only normal fibers are ready, which is what most
//! programs have all the time, the classes cost one comparison of a push, and nothing of a pop: that asks only whether
//! there is anything but the queue of normal fibers, the slot included.

use crate::fiber::{HIGH, Header};
use std::cell::Cell;
use std::ptr;

/// Enough for a conversation of a few turns, few enough to be invisible to those who wait.
const NEXT_RUNS_MAX: u32 = 16;

/// Runs of high, normal and low fibers before the budgets begin anew. A factor of four each is enough to tell the
/// classes apart under load, and small enough for a low fiber to be seen to move.
const BUDGETS: [u32; 3] = [16, 4, 1];

/// Fibers in order, linked through their headers.
struct Fifo {
    head: Cell<*const Header>,
    tail: Cell<*const Header>,
    /// So many fibers behind the first have been fetched.
    fetched: Cell<u32>,
}

/// How many fibers with deep frames are fetched at once. The stack of each is a page of its own, for which the
/// processor has to walk the page tables; it has several walkers, which work side by side on what it is asked at once,
/// and one by one it waits for each. 1 000 Lua fibers that call through one connection so made 1.42 M calls/s, and one
/// by one 1.28; 1 000 that echo over TCP do 7 % more messages. Fibers that only yield are better fetched one by one:
/// among a thousand a yield takes 8.0 ns so, and 9.2 with six at once.
const FETCHED_AT_ONCE: u32 = 6;

impl Fifo {
    const fn new() -> Self {
        Fifo {
            head: Cell::new(ptr::null()),
            tail: Cell::new(ptr::null()),
            fetched: Cell::new(0),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.head.get().is_null()
    }

    fn clear(&self) {
        self.head.set(ptr::null());
        self.tail.set(ptr::null());
        self.fetched.set(0);
    }

    #[inline]
    fn push(&self, header: &Header) {
        header.next.set(ptr::null());
        let tail = self.tail.replace(header);
        if tail.is_null() {
            self.head.set(header);
        } else {
            // SAFETY: headers live as long as the loop; one in the queue belongs to a living fiber.
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
            self.tail.set(ptr::null());
        }
        match self.fetched.get() {
            0 => self.fetch(),
            fetched => self.fetched.set(fetched - 1),
        }
        Some(header)
    }

    /// Fetches what the next fiber needs when it goes on, while the present one runs; before one with deep frames also
    /// what those behind it need.
    #[inline]
    fn fetch(&self) {
        // SAFETY: headers live as long as the loop; one in the queue belongs to a living fiber.
        let Some(first) = (unsafe { self.head.get().as_ref() }) else {
            return;
        };
        if first.goes_on_deep() {
            self.fetch_many();
        } else {
            // SAFETY: fibers are taken off by the loop, outside any fiber, and this one is in the queue.
            unsafe { first.prefetch_run() };
        }
    }

    #[inline(never)]
    fn fetch_many(&self) {
        let mut next = self.head.get();
        for fetched in 0..FETCHED_AT_ONCE {
            // SAFETY: headers live as long as the loop; one in the queue belongs to a living fiber.
            let Some(header) = (unsafe { next.as_ref() }) else {
                break;
            };
            // SAFETY: fibers are taken off by the loop, outside any fiber, and this one is in the queue.
            unsafe { header.prefetch_run() };
            self.fetched.set(fetched);
            next = header.next.get();
        }
    }
}

pub(super) struct RunQueue {
    normal: Fifo,
    next: Cell<*const Header>,
    next_runs: Cell<u32>,
    /// Fibers in `high` and `low`.
    others: Cell<usize>,
    /// Fibers anywhere but in `normal`: `others`, and the one in the slot.
    special: Cell<usize>,
    high: Fifo,
    low: Fifo,
    /// What is left of the classes' budgets.
    budgets: Cell<[u32; 3]>,
}

impl RunQueue {
    pub(super) fn new() -> Self {
        RunQueue {
            normal: Fifo::new(),
            next: Cell::new(ptr::null()),
            next_runs: Cell::new(0),
            others: Cell::new(0),
            special: Cell::new(0),
            high: Fifo::new(),
            low: Fifo::new(),
            budgets: Cell::new(BUDGETS),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.normal.is_empty() && self.special.get() == 0
    }

    /// Forgets who is in it: for the end of the loop.
    pub(super) fn clear(&self) {
        self.normal.clear();
        self.next.set(ptr::null());
        self.high.clear();
        self.low.clear();
        self.others.set(0);
        self.special.set(0);
    }

    /// Appends a fiber that is not in the queue.
    #[inline]
    pub(super) fn push(&self, header: &Header) {
        if header.flags.get() < HIGH {
            self.normal.push(header);
        } else {
            self.push_other(header);
        }
    }

    /// Puts a fiber into the slot if that is free, else at the end.
    #[inline]
    pub(super) fn push_next(&self, header: &Header) {
        if header.flags.get() < HIGH && self.next.get().is_null() {
            self.next.set(header);
            self.special.set(self.special.get() + 1);
        } else {
            self.push(header);
        }
    }

    #[cold]
    fn push_other(&self, header: &Header) {
        if self.others.get() == 0 {
            self.budgets.set(BUDGETS);
        }
        self.others.set(self.others.get() + 1);
        self.special.set(self.special.get() + 1);
        if header.has(HIGH) {
            self.high.push(header);
        } else {
            self.low.push(header);
        }
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<&Header> {
        if self.special.get() == 0 {
            self.next_runs.set(0);
            return self.normal.pop();
        }
        if self.others.get() == 0 {
            self.pop_normal()
        } else {
            self.pop_by_class()
        }
    }

    #[inline]
    fn pop_normal(&self) -> Option<&Header> {
        let next = self.next.get();
        if !next.is_null() && (self.next_runs.get() < NEXT_RUNS_MAX || self.normal.is_empty()) {
            self.next.set(ptr::null());
            self.special.set(self.special.get() - 1);
            self.next_runs.set(self.next_runs.get().saturating_add(1));
            // SAFETY: headers live as long as the loop.
            return Some(unsafe { &*next });
        }
        self.next_runs.set(0);
        self.normal.pop()
    }

    /// The next fiber, of the highest class that has one and a budget.
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
        budgets[class] -= 1;
        self.budgets.set(budgets);
        if class == 1 {
            return self.pop_normal();
        }
        self.others.set(self.others.get() - 1);
        self.special.set(self.special.get() - 1);
        let queue = if class == 0 { &self.high } else { &self.low };
        queue.pop()
    }
}
