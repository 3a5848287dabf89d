//! The run queue: first in, first out, linked through the fibers' headers, plus one slot that goes first.
//!
//! The slot holds the fiber that a running fiber has just woken: the two are about to talk to each other (a reply, a
//! hand-over), their data is in the cache, and behind a thousand others the answer would come late. So that such a
//! pair cannot keep the queue waiting for ever, the slot is served at most [`NEXT_RUNS_MAX`] times in a row.

use crate::fiber::Header;
use std::cell::Cell;
use std::ptr;

/// Enough for a conversation of a few turns, few enough to be invisible to those who wait.
const NEXT_RUNS_MAX: u32 = 16;

pub(super) struct RunQueue {
    head: Cell<*const Header>,
    tail: Cell<*const Header>,
    next: Cell<*const Header>,
    next_runs: Cell<u32>,
}

impl RunQueue {
    pub(super) fn new() -> Self {
        RunQueue {
            head: Cell::new(ptr::null()),
            tail: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            next_runs: Cell::new(0),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.get().is_null() && self.next.get().is_null()
    }

    /// Forgets who is in it: for the end of the loop.
    pub(super) fn clear(&self) {
        self.head.set(ptr::null());
        self.tail.set(ptr::null());
        self.next.set(ptr::null());
    }

    /// Appends a fiber that is not in the queue.
    #[inline]
    pub(super) fn push(&self, header: &Header) {
        header.next.set(ptr::null());
        let tail = self.tail.replace(header);
        if tail.is_null() {
            self.head.set(header);
        } else {
            // SAFETY: headers live as long as the loop; one in the queue belongs to a living fiber.
            unsafe { (*tail).next.set(header) };
        }
    }

    /// Puts a fiber into the slot if that is free, else at the end.
    #[inline]
    pub(super) fn push_next(&self, header: &Header) {
        if self.next.get().is_null() {
            self.next.set(header);
        } else {
            self.push(header);
        }
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<&Header> {
        let next = self.next.get();
        if !next.is_null() && (self.next_runs.get() < NEXT_RUNS_MAX || self.head.get().is_null()) {
            self.next.set(ptr::null());
            self.next_runs.set(self.next_runs.get().saturating_add(1));
            // SAFETY: headers live as long as the loop.
            return Some(unsafe { &*next });
        }
        self.next_runs.set(0);
        let head = self.head.get();
        if head.is_null() {
            return None;
        }
        // SAFETY: as above.
        let header = unsafe { &*head };
        let second = header.next.get();
        self.head.set(second);
        if second.is_null() {
            self.tail.set(ptr::null());
        }
        Some(header)
    }
}
