//! Invariants: promises of a scenario about its system, checked at every choice of the simulation.

use super::Failure;
use std::sync::Mutex;
use yue_scheduler::{Instant, lock, simulation};

pub(super) type Holds = Box<dyn Fn() -> bool + Send + Sync>;

struct Invariant {
    name: String,
    /// The time by which it must have held once; `None` if it must always hold.
    until: Option<Instant>,
    holds: Holds,
}

#[derive(Default)]
pub(super) struct Invariants {
    began: Mutex<Option<Instant>>,
    all: Mutex<Vec<Invariant>>,
    failure: Mutex<Option<Failure>>,
}

impl Invariants {
    pub(super) fn begin(&self, at: Instant) {
        *lock(&self.began) = Some(at);
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
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
        self.check_at(now, |until| until < now);
    }

    /// Checks what had to happen before the end of the scenario, which has come.
    pub(super) fn check_at_end(&self) {
        self.check_at(simulation::now(), |_| true);
    }

    fn check_at(&self, now: Instant, is_late: impl Fn(Instant) -> bool) {
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
        let began = lock(&self.began).unwrap_or(now);
        let at = now.saturating_since(began);
        lock(&self.failure).get_or_insert(Failure::Invariant { name, at });
    }
}
