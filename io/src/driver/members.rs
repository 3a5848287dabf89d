//! State that both drivers keep for owned operations: deferred work and open members.
//!
//! A call into a connection (`send`, `close`) may come from anywhere on the loop, including one of the connection's own
//! callbacks. The call only records the request and defers it. The driver's turn alone does the work and makes the
//! callbacks. So no callback runs inside a call, and a caller may hold any borrow.

use slab::Slab;
use std::cell::RefCell;
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
    members: RefCell<Slab<Rc<dyn Member>>>,
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
        // A member that defers itself again runs in the next turn. Otherwise two connections that answer each other
        // would keep the loop here.
        let count = self.deferred.borrow().len();
        for _ in 0..count {
            let Some(member) = self.deferred.borrow_mut().pop_front() else {
                break;
            };
            run_callback(|| called |= member.on_turn());
        }
        called
    }

    /// Adds a member. The returned key is for [`Members::remove`].
    pub(crate) fn add(&self, member: Rc<dyn Member>) -> usize {
        self.members.borrow_mut().insert(member)
    }

    /// Removes a member. Does nothing if the driver has dropped its members already.
    pub(crate) fn remove(&self, key: usize) {
        // The borrow ends first: the member's destructor may call back.
        let member = self.members.borrow_mut().try_remove(key);
        drop(member);
    }

    /// Returns the number of members.
    pub(crate) fn count(&self) -> usize {
        self.members.borrow().len()
    }

    pub(crate) fn shut_down_all(&self) {
        let members: Vec<_> = self
            .members
            .borrow()
            .iter()
            .map(|(_, member)| member.clone())
            .collect();
        for member in members {
            run_callback(|| member.on_shutdown());
        }
    }

    /// Drops all members and deferred work when the driver is dropped. Breaks the cycle between members and driver.
    pub(crate) fn clear(&self) {
        let members = self.members.take();
        let deferred = self.deferred.take();
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
