//! The player, which makes a schedule happen. It has a thread of its own on the scenario's host.
//!
//! Faults may overlap: two partitions of the same hosts, a crash during a freeze. What a fault had changed is undone
//! when the last one that changes it has ended.

use super::{Fault, Schedule};
use crate::sim::{Control, Link};
use std::collections::BTreeMap;
use yue_scheduler::{Instant, sleep_until};

/// Lets the faults begin and end at their times after `began`, until all have ended or the simulation ends.
pub(in crate::sim) fn play(control: &Control, schedule: &Schedule, began: Instant) {
    let mut player = Player {
        control,
        active: Vec::new(),
        links: BTreeMap::new(),
    };
    let mut steps = Vec::new();
    for scheduled in schedule.faults() {
        steps.push((scheduled.at, true, &scheduled.fault));
        if let Some(until) = scheduled.until {
            steps.push((until, false, &scheduled.fault));
        }
    }
    steps.sort_by_key(|(at, ..)| *at);
    for (at, begins, fault) in steps {
        if sleep_until(began.saturating_add(at)).is_err() {
            return;
        }
        // A scenario may add hosts, so a name is known to be wrong only now.
        if let Err(problem) = control.check(fault) {
            return control.recorder().fail_scenario(problem);
        }
        match begins {
            true => player.begin(fault),
            false => player.end(fault),
        }
    }
}

struct Player<'a> {
    control: &'a Control,
    /// The faults that have begun and not ended, oldest first.
    active: Vec<&'a Fault>,
    /// The links as they were before faults changed them.
    links: BTreeMap<(&'a str, &'a str), Link>,
}

impl<'a> Player<'a> {
    fn begin(&mut self, fault: &'a Fault) {
        if let Fault::Link(one, other, _) = fault {
            let before = self.control.link(one, other);
            self.links.entry(pair(one, other)).or_insert(before);
        }
        self.control.inject(fault);
        if !fault.is_instant() {
            self.active.push(fault);
        }
    }

    fn end(&mut self, fault: &'a Fault) {
        // Equal faults are alike, so it does not matter which of them ends.
        let Some(index) = self.active.iter().position(|other| *other == fault) else {
            return;
        };
        self.active.remove(index);
        let control = self.control;
        match fault {
            Fault::Partition(one, other) | Fault::PartitionOneWay(one, other) => {
                control.heal(one, other);
                self.apply_all(|active| match active {
                    Fault::Partition(a, b) | Fault::PartitionOneWay(a, b) => {
                        pair(a, b) == pair(one, other)
                    }
                    _ => false,
                });
            }
            Fault::Crash(host) => {
                if !self.active.contains(&fault) && !control.is_running(host) {
                    control.restart(host);
                }
            }
            Fault::Freeze(host) => {
                if !self.active.contains(&fault) {
                    control.thaw(host);
                }
            }
            Fault::Link(one, other, _) => {
                let mut active = self.active.iter().rev();
                let same = |active: &Fault| match active {
                    Fault::Link(a, b, _) => pair(a, b) == pair(one, other),
                    _ => false,
                };
                match active.find(|active| same(active)) {
                    Some(active) => control.inject(active),
                    None => {
                        if let Some(link) = self.links.remove(&pair(one, other)) {
                            control.set_link(one, other, link);
                        }
                    }
                }
            }
            Fault::ShortTransfers(host, ..) => {
                control.set_short_transfers(host, 0.0, 0.0);
                let same = |active: &Fault| matches!(active, Fault::ShortTransfers(other, ..) if other == host);
                self.apply_all(same);
            }
            Fault::ClockDrift(host, _) => {
                control.set_clock_drift(host, 0);
                let same =
                    |active: &Fault| matches!(active, Fault::ClockDrift(other, _) if other == host);
                self.apply_all(same);
            }
            Fault::ResetConnections(..) => {}
        }
    }

    fn apply_all(&self, concerned: impl Fn(&Fault) -> bool) {
        let concerned = self.active.iter().filter(|active| concerned(active));
        concerned.for_each(|active| self.control.inject(active));
    }
}

/// Orders two hosts, since a link has no direction.
fn pair<'a>(one: &'a str, other: &'a str) -> (&'a str, &'a str) {
    (one.min(other), one.max(other))
}
