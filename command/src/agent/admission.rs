//! Connections that have not shown an authorized key yet: so many at once, and each for a short time.
//!
//! When there are too many, the one that has been silent for longest is closed for a new one. So strangers that only
//! connect cannot keep an owner out, whose handshake takes milliseconds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use yue::{CancelScope, LogLevel};

/// The most connections without a proven key.
const STRANGERS_MAX: usize = 64;

/// A line about failed handshakes is logged once in this time; it counts the others.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// The connections.
#[derive(Default)]
pub(super) struct Admission {
    strangers: RefCell<VecDeque<(u64, CancelScope)>>,
    last: Cell<u64>,
    /// The time of the last line in the log, and the failures since then.
    logged: Cell<Option<(Instant, u64)>>,
}

impl Admission {
    /// Runs a handshake, which is cancelled if it is the oldest of too many. Returns its result, and whether it was.
    pub(super) fn admit<R>(self: &Rc<Self>, handshake: impl FnOnce() -> R) -> (R, bool) {
        let number = self.last.get() + 1;
        self.last.set(number);
        let scope = CancelScope::new();
        let oldest = {
            let mut strangers = self.strangers.borrow_mut();
            strangers.push_back((number, scope.clone()));
            (strangers.len() > STRANGERS_MAX)
                .then(|| strangers.pop_front())
                .flatten()
        };
        if let Some((_, oldest)) = oldest {
            oldest.cancel();
        }
        let _leave = Leave(self.clone(), number);
        let result = scope.enter(handshake);
        (result, scope.is_cancelled())
    }

    /// Logs that a handshake failed.
    pub(super) fn note_failure(&self, peer: &str, reason: &str) {
        let unlogged = match self.logged.get() {
            Some((at, unlogged)) if at.elapsed() < LOG_PAUSE => {
                self.logged.set(Some((at, unlogged + 1)));
                return;
            }
            Some((_, unlogged)) => unlogged,
            None => 0,
        };
        self.logged.set(Some((Instant::now(), 0)));
        let others = match unlogged {
            0 => String::new(),
            count => format!(" (and {count} others since the last such line)"),
        };
        let text = format_args!("{peer} was refused: {reason}{others}");
        yue_scheduler::log(LogLevel::Warn, text);
    }
}

/// Leaves the list at the end of a handshake.
struct Leave(Rc<Admission>, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        let mut strangers = self.0.strangers.borrow_mut();
        strangers.retain(|(number, _)| *number != self.1);
    }
}
