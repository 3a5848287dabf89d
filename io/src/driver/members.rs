//! State that both drivers keep for owned operations: deferred work and open members.
//!
//! A call into a connection (`send`, `close`) may come from anywhere on the loop, including one of the connection's own
//! callbacks. The call only records the request and defers it. The driver's turn alone does the work and makes the
//! callbacks. So no callback runs inside a call, and a caller may hold any borrow.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// An object that lives on a driver beyond one call.
pub(crate) trait Member {
    /// Does the deferred work. Returns whether callbacks were made, so that the loop looks for work before it waits.
    fn on_turn(self: Rc<Self>) -> bool;

    /// Ends the member: the loop is shutting down.
    fn on_shutdown(self: Rc<Self>);
}

#[derive(Default)]
pub(crate) struct Members {
    deferred: RefCell<VecDeque<Rc<dyn Member>>>,
    members: RefCell<Vec<Option<Rc<dyn Member>>>>,
    /// Free indices of `members`, so that `add` need not search.
    free: RefCell<Vec<usize>>,
    open: Cell<usize>,
}

impl Members {
    /// Schedules `member` for the current or next turn.
    pub(crate) fn defer(&self, member: Rc<dyn Member>) {
        self.deferred.borrow_mut().push_back(member);
    }

    /// Whether work is waiting for the next turn.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.borrow().is_empty()
    }

    /// Runs the work that is deferred now; work deferred meanwhile waits. Returns whether callbacks were made.
    pub(crate) fn run_deferred(&self) -> bool {
        let mut called = false;
        let count = self.deferred.borrow().len();
        for _ in 0..count {
            let Some(member) = self.deferred.borrow_mut().pop_front() else {
                break;
            };
            run_callback(|| called |= member.on_turn());
        }
        called
    }

    /// Adds a member. The returned index is for [`Members::remove`].
    pub(crate) fn add(&self, member: Rc<dyn Member>) -> usize {
        let mut members = self.members.borrow_mut();
        self.open.set(self.open.get() + 1);
        match self.free.borrow_mut().pop() {
            Some(index) => {
                debug_assert!(members[index].is_none(), "a free index is in use");
                members[index] = Some(member);
                index
            }
            None => {
                members.push(Some(member));
                members.len() - 1
            }
        }
    }

    pub(crate) fn remove(&self, index: usize) {
        let member = self
            .members
            .borrow_mut()
            .get_mut(index)
            .and_then(Option::take);
        if member.is_some() {
            self.free.borrow_mut().push(index);
            self.open.set(self.open.get() - 1);
            debug_assert!(
                self.open.get() + self.free.borrow().len() == self.members.borrow().len()
            );
        }
    }

    /// Members that have not left.
    pub(crate) fn count(&self) -> usize {
        self.open.get()
    }

    pub(crate) fn shut_down_all(&self) {
        let members: Vec<_> = self.members.borrow().iter().flatten().cloned().collect();
        for member in members {
            run_callback(|| member.on_shutdown());
        }
    }

    /// Drops all members and deferred work when the driver is dropped. Breaks the cycle between members and driver.
    pub(crate) fn clear(&self) {
        let members = self.members.take();
        let deferred = self.deferred.take();
        self.free.take();
        self.open.set(0);
        drop((members, deferred));
    }
}

/// Runs a callback of the program. A panic is reported, and the loop continues. Returns whether the callback returned.
pub(crate) fn run_callback(callback: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(callback)) else {
        return true;
    };
    yue_scheduler::log(
        yue_scheduler::LogLevel::Error,
        format_args!("an I/O callback panicked (the message is above); the loop continues"),
    );
    yue_scheduler::drop_payload(payload);
    false
}
