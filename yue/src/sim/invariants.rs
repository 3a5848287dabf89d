//! Invariants: promises of a scenario about its system, checked at every choice of the simulation.

use super::Cause;
use super::recorder::{NO_HOST, Recorder};
use std::sync::{Arc, Mutex};
use yue_scheduler::{Instant, lock, simulation};

pub(super) type Holds = Box<dyn Fn() -> bool + Send + Sync>;

struct Invariant {
    name: String,
    /// The time by which it must have held once; `None` if it must always hold.
    until: Option<Instant>,
    holds: Holds,
}

pub(super) struct Invariants {
    all: Mutex<Vec<Invariant>>,
    recorder: Arc<Recorder>,
}

impl Invariants {
    pub(super) fn new(recorder: Arc<Recorder>) -> Invariants {
        Invariants {
            all: Mutex::default(),
            recorder,
        }
    }

    pub(super) fn always(&self, name: &str, holds: Holds) {
        self.add(name, None, holds);
    }

    pub(super) fn eventually(&self, name: &str, until: Instant, holds: Holds) {
        self.add(name, Some(until), holds);
    }

    fn add(&self, name: &str, until: Option<Instant>, holds: Holds) {
        lock(&self.all).push(Invariant {
            name: name.to_owned(),
            until,
            holds,
        });
    }

    /// Checks all invariants at the present instant, and forgets those that have been fulfilled.
    pub(super) fn check(&self) {
        let now = simulation::now();
        self.check_whether(|until| until < now);
    }

    /// Checks what had to happen before the end of the scenario, which has come.
    pub(super) fn check_at_end(&self) {
        self.check_whether(|_| true);
    }

    fn check_whether(&self, is_late: impl Fn(Instant) -> bool) {
        let mut all = lock(&self.all);
        if all.is_empty() {
            return;
        }
        let mut broken = None;
        all.retain(|one| match (one.until, (one.holds)()) {
            (None, true) => true,
            (Some(_), true) => false,
            (Some(until), false) if !is_late(until) => true,
            (_, false) => {
                broken.get_or_insert_with(|| one.name.clone());
                true
            }
        });
        drop(all);
        let Some(name) = broken else { return };
        simulation::stop(&format!("an invariant does not hold: {name}"));
        let cause = |at| Cause::Invariant { name, at };
        self.recorder.fail(cause, NO_HOST);
    }
}
