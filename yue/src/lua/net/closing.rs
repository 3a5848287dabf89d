//! Ends the operations of a socket that another fiber closes.
//!
//! An operation runs in a cancel scope of its own. Closing cancels the scopes that are in use: their fibers get
//! [`Closed`], and continue. An operation that has succeeded in the same moment keeps its result.

use crate::lua::host::failure::Closed;
use std::cell::{Cell, RefCell};
use std::io;
use yue_scheduler::CancelScope;

/// The operations of a socket, and whether it is closed.
#[derive(Default)]
pub(super) struct Closing {
    is_closed: Cell<bool>,
    scopes: RefCell<Vec<Slot>>,
}

/// A scope, which operations use one after another.
struct Slot {
    scope: CancelScope,
    is_used: bool,
}

/// Frees the slot, however its operation ends.
struct Leave<'a>(&'a Closing, usize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.scopes.borrow_mut()[self.1].is_used = false;
    }
}

impl Closing {
    /// Whether the socket is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Runs an operation in the calling fiber.
    ///
    /// # Errors
    /// `Closed`, if the socket is closed or becomes so; the operation's error.
    pub(super) fn run<R>(&self, operation: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        if self.is_closed() {
            return Err(Closed.into());
        }
        let (scope, index) = self.take_slot();
        let _leave = Leave(self, index);
        match scope.enter(operation) {
            Err(_) if self.is_closed() => Err(Closed.into()),
            outcome => outcome,
        }
    }

    fn take_slot(&self) -> (CancelScope, usize) {
        let mut scopes = self.scopes.borrow_mut();
        let index = match scopes.iter().position(|slot| !slot.is_used) {
            Some(index) => index,
            None => {
                scopes.push(Slot {
                    scope: CancelScope::new(),
                    is_used: false,
                });
                scopes.len() - 1
            }
        };
        scopes[index].is_used = true;
        (scopes[index].scope.clone(), index)
    }

    /// Ends the operations that run, and refuses others. Returns whether it was open.
    pub(super) fn close(&self) -> bool {
        if self.is_closed.replace(true) {
            return false;
        }
        let used: Vec<_> = self
            .scopes
            .borrow()
            .iter()
            .filter(|slot| slot.is_used)
            .map(|slot| slot.scope.clone())
            .collect();
        used.iter().for_each(CancelScope::cancel);
        true
    }
}
