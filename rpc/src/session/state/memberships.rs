//! The sets that a session belongs to until it ends.
//!
//! A set knows its members by slot, and a session knows its sets. So either side removes a membership at once: the
//! program by asking the set, the session by ending.

use std::cell::RefCell;
use std::rc::Rc;

/// A set of sessions of one loop.
pub(crate) trait SessionSet {
    /// The session in that slot has ended, or leaves all of its sets: it is removed.
    fn remove(&self, slot: u32);
}

/// The sets of one session, each with the session's slot in it.
#[derive(Default)]
pub(crate) struct Memberships(RefCell<Vec<(Rc<dyn SessionSet>, u32)>>);

impl Memberships {
    /// The session's slot in that set.
    pub(crate) fn slot_in(&self, set: &dyn SessionSet) -> Option<u32> {
        let sets = self.0.borrow();
        let found = sets.iter().find(|(other, _)| is_same(other, set));
        found.map(|(_, slot)| *slot)
    }

    /// Records a membership. The session must not be in the set yet.
    pub(crate) fn add(&self, set: Rc<dyn SessionSet>, slot: u32) {
        debug_assert_eq!(self.slot_in(&*set), None, "a session joins a set once");
        self.0.borrow_mut().push((set, slot));
    }

    /// Removes the record of a membership, for the set that removes the session. Returns the session's slot.
    pub(crate) fn forget(&self, set: &dyn SessionSet) -> Option<u32> {
        let removed = {
            let mut sets = self.0.borrow_mut();
            let at = sets.iter().position(|(other, _)| is_same(other, set))?;
            sets.swap_remove(at)
        };
        // Outside the borrow: this may be the last pointer to the set.
        Some(removed.1)
    }

    /// The set has moved the session to another slot.
    pub(crate) fn moved(&self, set: &dyn SessionSet, slot: u32) {
        let mut sets = self.0.borrow_mut();
        if let Some((_, known)) = sets.iter_mut().find(|(other, _)| is_same(other, set)) {
            *known = slot;
        }
    }

    /// Removes the session from all of its sets.
    pub(crate) fn leave_all(&self) {
        for (set, slot) in self.0.take() {
            set.remove(slot);
        }
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        self.leave_all();
    }
}

fn is_same(a: &Rc<dyn SessionSet>, b: &dyn SessionSet) -> bool {
    std::ptr::addr_eq(Rc::as_ptr(a), b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Removed(RefCell<Vec<u32>>);

    impl SessionSet for Removed {
        fn remove(&self, slot: u32) {
            self.0.borrow_mut().push(slot);
        }
    }

    #[test]
    fn an_ended_session_leaves_each_of_its_sets_once() {
        let (a, b) = (Rc::new(Removed::default()), Rc::new(Removed::default()));
        let memberships = Memberships::default();
        memberships.add(a.clone(), 3);
        memberships.add(b.clone(), 5);
        assert_eq!(memberships.slot_in(&*a), Some(3));
        assert_eq!(memberships.forget(&*b), Some(5));
        assert_eq!(memberships.forget(&*b), None);
        memberships.leave_all();
        drop(memberships);
        assert_eq!(*a.0.borrow(), [3]);
        assert!(b.0.borrow().is_empty());
    }
}
