//! Maps completions to waiting operations.
//!
//! `user_data` is a slot's index and generation, never a pointer. A completion for a slot that is free, or that serves
//! another operation by now, is ignored.
//!
//! ```text
//!   user_data   63 ······ 32  31   30 ····· 0
//!               generation    0    index         an operation
//!               generation    1    index         the cancel of that operation
//!               reason        1    all ones      no operation
//! ```

use std::rc::Rc;
use yue_scheduler::LocalWaker;

/// Set in the index of a cancel.
const CANCEL: u64 = 1 << 31;

/// A completion that is ignored.
pub(super) const NOBODY: u64 = 0xffff_ffff;
/// The bell's poll.
pub(super) const BELL: u64 = (1 << 32) | 0xffff_ffff;

/// An operation whose terminal completion has not arrived yet, or has not been picked up by its fiber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OperationId(u64);

impl OperationId {
    fn new(index: u32, generation: u32) -> Self {
        OperationId((u64::from(generation) << 32) | u64::from(index))
    }

    pub(super) fn user_data(self) -> u64 {
        self.0
    }

    /// Returns the user data of the operation's cancel.
    pub(super) fn cancel_data(self) -> u64 {
        self.0 | CANCEL
    }

    /// Returns the operation whose cancel has this user data.
    pub(super) fn of_cancel(user_data: u64) -> Option<OperationId> {
        let is_cancel = user_data & CANCEL != 0 && user_data as u32 != NOBODY as u32;
        is_cancel.then_some(OperationId(user_data & !CANCEL))
    }
}

/// The owner of an operation that no fiber waits for. It is notified of completions.
pub(crate) trait CompletionOwner {
    /// Handles one completion. `tag` is the tag given at the start, `flags` are those of the queue entry, and `last`
    /// means that no more will follow. Called by the loop outside fibers.
    fn on_completion(self: Rc<Self>, tag: u8, result: i32, flags: u32, last: bool);
}

pub(super) enum Slot {
    Free { next: u32 },
    Fiber(LocalWaker),
    Done(i32),
    Owned(Rc<dyn CompletionOwner>, u8),
}

/// The recipient of a completion.
pub(super) enum Found {
    Nobody,
    Fiber(LocalWaker),
    Owned(Rc<dyn CompletionOwner>, u8),
}

pub(super) struct Slots {
    slots: Vec<(u32, Slot)>,
    free: u32,
    pending: usize,
    /// The number of pending operations that fibers wait for.
    fibers: usize,
}

const END: u32 = u32::MAX;

/// The maximum number of operations in flight: an index has 31 bits, and all ones is reserved.
const OPERATIONS_MAX: usize = (1 << 31) - 1;

impl Slots {
    pub(super) fn new() -> Self {
        Slots {
            slots: Vec::new(),
            free: END,
            pending: 0,
            fibers: 0,
        }
    }

    /// Returns the number of operations without a terminal completion yet.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// Returns the number of pending operations that fibers wait for.
    pub(super) fn fibers(&self) -> usize {
        self.fibers
    }

    #[inline]
    pub(super) fn insert(&mut self, slot: Slot) -> OperationId {
        debug_assert!(
            matches!(slot, Slot::Fiber(_) | Slot::Owned(..)),
            "a new operation waits for its completion"
        );
        self.pending += 1;
        self.fibers += usize::from(matches!(slot, Slot::Fiber(_)));
        let index = self.free;
        if index == END {
            assert!(
                self.slots.len() < OPERATIONS_MAX,
                "more than two billion operations in flight"
            );
            let index = self.slots.len() as u32;
            self.slots.push((0, slot));
            return OperationId::new(index, 0);
        }
        let (generation, slot_here) = &mut self.slots[index as usize];
        debug_assert!(
            matches!(slot_here, Slot::Free { .. }),
            "the free list leads to a slot in use"
        );
        if let Slot::Free { next } = *slot_here {
            self.free = next;
        }
        *slot_here = slot;
        OperationId::new(index, *generation)
    }

    fn find(&mut self, user_data: u64) -> Option<(u32, &mut (u32, Slot))> {
        let index = user_data as u32;
        let generation = (user_data >> 32) as u32;
        self.slots
            .get_mut(index as usize)
            .filter(|entry| entry.0 == generation)
            .map(|entry| (index, entry))
    }

    /// Whether the operation's terminal completion has not arrived yet.
    pub(super) fn is_pending(&mut self, id: OperationId) -> bool {
        let entry = self.find(id.0);
        matches!(entry, Some((_, (_, Slot::Fiber(_) | Slot::Owned(..)))))
    }

    /// Records a completion, and returns its recipient.
    #[inline]
    pub(super) fn complete(&mut self, user_data: u64, result: i32, last: bool) -> Found {
        // A cancel is not found: the highest bit of its index is set.
        let Some((_, entry)) = self.find(user_data) else {
            return Found::Nobody;
        };
        match &entry.1 {
            Slot::Free { .. } | Slot::Done(_) => Found::Nobody,
            Slot::Fiber(waker) => {
                let waker = *waker;
                debug_assert!(last, "a fiber's operation has one completion");
                // The slot stays taken until the fiber has read the result: the id must not be reused before.
                entry.1 = Slot::Done(result);
                self.pending -= 1;
                self.fibers -= 1;
                debug_assert!(self.fibers <= self.pending);
                Found::Fiber(waker)
            }
            Slot::Owned(owner, tag) => {
                let found = Found::Owned(owner.clone(), *tag);
                if last {
                    debug_assert!(
                        self.pending > self.fibers,
                        "an owned operation is not counted as a fiber's"
                    );
                    self.pending -= 1;
                    self.free(user_data);
                }
                found
            }
        }
    }

    /// Replaces the waker of a fiber's operation.
    pub(super) fn set_waker(&mut self, id: OperationId, new: LocalWaker) {
        let found = self.find(id.0);
        debug_assert!(
            matches!(found, Some((_, (_, Slot::Fiber(_))))),
            "only a pending operation of a fiber has a waker"
        );
        if let Some((_, (_, Slot::Fiber(waker)))) = found {
            *waker = new;
        }
    }

    /// Returns the result of a fiber's operation once it has arrived, and then frees the slot.
    #[inline]
    pub(super) fn take_result(&mut self, id: OperationId) -> Option<i32> {
        let result = match self.find(id.0) {
            Some((_, (_, Slot::Done(result)))) => *result,
            _ => return None,
        };
        debug_assert!(!self.is_pending(id), "an operation with a result has ended");
        self.free(id.0);
        debug_assert!(self.find(id.0).is_none(), "the id of a freed slot is stale");
        Some(result)
    }

    fn free(&mut self, user_data: u64) {
        let next = self.free;
        let Some((index, entry)) = self.find(user_data) else {
            return;
        };
        debug_assert!(
            !matches!(entry.1, Slot::Free { .. } | Slot::Fiber(_)),
            "a slot is freed once, and not before its completion"
        );
        // A completion of the earlier use no longer matches.
        entry.0 = entry.0.wrapping_add(1);
        entry.1 = Slot::Free { next };
        self.free = index;
    }

    /// Returns all operations in flight.
    pub(super) fn in_flight(&self) -> Vec<OperationId> {
        let pending = |slot: &Slot| matches!(slot, Slot::Fiber(_) | Slot::Owned(..));
        let numbered = (0u32..).zip(&self.slots);
        let all: Vec<_> = numbered
            .filter(|(_, entry)| pending(&entry.1))
            .map(|(index, entry)| OperationId::new(index, entry.0))
            .collect();
        debug_assert_eq!(all.len(), self.pending, "the count of pending operations");
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl CompletionOwner for Nothing {
        fn on_completion(self: Rc<Self>, _: u8, _: i32, _: u32, _: bool) {}
    }

    #[test]
    fn a_completion_for_an_earlier_use_of_a_slot_is_ignored() {
        let mut slots = Slots::new();
        let first = slots.insert(Slot::Owned(Rc::new(Nothing), 1));
        assert!(matches!(
            slots.complete(first.user_data(), 0, true),
            Found::Owned(_, 1)
        ));
        let second = slots.insert(Slot::Owned(Rc::new(Nothing), 2));
        assert_eq!(first.user_data() as u32, second.user_data() as u32);
        assert!(matches!(
            slots.complete(first.user_data(), 0, true),
            Found::Nobody
        ));
        assert!(matches!(
            slots.complete(second.user_data(), 0, false),
            Found::Owned(_, 2)
        ));
        assert_eq!(slots.pending(), 1);
        assert!(matches!(
            slots.complete(second.user_data(), 0, true),
            Found::Owned(_, 2)
        ));
        assert_eq!(slots.pending(), 0);
        assert!(matches!(slots.complete(NOBODY, 0, true), Found::Nobody));
        assert!(matches!(slots.complete(BELL, 0, true), Found::Nobody));
    }

    #[test]
    fn a_cancel_identifies_its_operation_and_no_other() {
        let mut slots = Slots::new();
        let first = slots.insert(Slot::Owned(Rc::new(Nothing), 1));
        slots.complete(first.user_data(), 0, true);
        let second = slots.insert(Slot::Owned(Rc::new(Nothing), 2));
        for id in [first, second] {
            assert_eq!(OperationId::of_cancel(id.cancel_data()), Some(id));
            assert_eq!(OperationId::of_cancel(id.user_data()), None);
            // The completion of a cancel does not complete the operation.
            let found = slots.complete(id.cancel_data(), 0, true);
            assert!(matches!(found, Found::Nobody));
        }
        assert!(!slots.is_pending(first) && slots.is_pending(second));
        for nobody in [NOBODY, BELL] {
            assert_eq!(OperationId::of_cancel(nobody), None);
        }
    }
}
