//! What both drivers keep for owned operations: work to do at the next turn, and who is still open.
//!
//! A call into a connection (`send`, `close`) may come from anywhere on the loop, also from inside one of its own
//! callbacks. It only notes what is wanted and defers; the work is done, and callbacks are made, from the driver's turn
//! alone. So no callback is ever made from inside a call, and a caller may hold whatever it likes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Something that lives on a driver beyond one call.
pub(crate) trait Member {
    /// Does what was deferred. Returns whether callbacks were made, so that the loop looks for work before it waits.
    fn deferred(self: Rc<Self>) -> bool;

    /// Ends it: the loop is being shut down.
    fn abort(self: Rc<Self>);
}

#[derive(Default)]
pub(crate) struct Shared {
    deferred: RefCell<VecDeque<Rc<dyn Member>>>,
    members: RefCell<Vec<Option<Rc<dyn Member>>>>,
    /// Places of `members` that are free, so that none has to be looked for.
    free: RefCell<Vec<usize>>,
    open: Cell<usize>,
}

impl Shared {
    /// Has `member` told at the next turn, or later in the current one.
    pub(crate) fn defer(&self, member: Rc<dyn Member>) {
        self.deferred.borrow_mut().push_back(member);
    }

    /// Whether work is waiting for the next turn.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.borrow().is_empty()
    }

    /// Runs what was deferred by now; what that defers in turn waits. Returns whether callbacks were made.
    pub(crate) fn run_deferred(&self) -> bool {
        let mut called = false;
        let count = self.deferred.borrow().len();
        for _ in 0..count {
            let Some(member) = self.deferred.borrow_mut().pop_front() else {
                break;
            };
            guarded(|| called |= member.deferred());
        }
        called
    }

    /// Enters a member; the number is for [`Shared::leave`].
    pub(crate) fn enter(&self, member: Rc<dyn Member>) -> usize {
        let mut members = self.members.borrow_mut();
        self.open.set(self.open.get() + 1);
        match self.free.borrow_mut().pop() {
            Some(place) => {
                members[place] = Some(member);
                place
            }
            None => {
                members.push(Some(member));
                members.len() - 1
            }
        }
    }

    pub(crate) fn leave(&self, place: usize) {
        let member = self
            .members
            .borrow_mut()
            .get_mut(place)
            .and_then(Option::take);
        if member.is_some() {
            self.free.borrow_mut().push(place);
            self.open.set(self.open.get() - 1);
        }
    }

    /// Members that have not left.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    pub(crate) fn abort_all(&self) {
        let members: Vec<_> = self.members.borrow().iter().flatten().cloned().collect();
        for member in members {
            guarded(|| member.abort());
        }
    }

    /// Forgets everybody: the driver goes away. Breaks the cycle between members and driver.
    pub(crate) fn clear(&self) {
        let members = self.members.take();
        let deferred = self.deferred.take();
        self.free.take();
        self.open.set(0);
        drop((members, deferred));
    }
}

/// Runs a callback of the program's; its panic is reported, and the loop goes on. Returns whether there was none.
pub(crate) fn guarded(callback: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(callback)) else {
        return true;
    };
    yue_scheduler::say(format_args!(
        "an I/O callback panicked (the message is above); the loop goes on"
    ));
    // What a panic carries may panic in its own destructor; what that one carries is leaked.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
    false
}
