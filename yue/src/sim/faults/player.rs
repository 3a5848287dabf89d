//! The player, which makes a schedule happen. It has a thread of its own on the scenario's host.
//!
//! Faults may overlap: two partitions of the same hosts, a crash during a freeze. What a fault had changed is undone
//! when the last one that changes it has ended.

use super::{Fault, Schedule};
use crate::sim::Control;
use yue_io::simulation::PlannedCrash;
use yue_scheduler::{Instant, sleep_until};

/// Lets the faults begin and end at their times after `began`, until all have ended or the simulation ends.
pub(in crate::sim) fn play(control: &Control, schedule: &Schedule, began: Instant) {
    let mut player = Player {
        control,
        active: Vec::new(),
        before: Vec::new(),
        planned: Vec::new(),
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
    /// The settings as they were before faults changed them, as faults that restore them.
    before: Vec<Fault>,
    /// The crashes at operations that have been planned, by their faults.
    planned: Vec<(&'a Fault, PlannedCrash)>,
}

impl<'a> Player<'a> {
    fn begin(&mut self, fault: &'a Fault) {
        if let Some(before) = self.control.setting(fault)
            && !self.before.iter().any(|known| known.is_about_same(fault))
        {
            self.before.push(before);
        }
        match fault {
            Fault::CrashAtOperation(host, nth) => {
                let planned = self.control.plan_crash(host, *nth);
                self.planned.push((fault, planned));
            }
            _ => self.control.inject(fault),
        }
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
                let is_same = |active: &&&Fault| match active {
                    Fault::Partition(a, b) | Fault::PartitionOneWay(a, b) => {
                        pair(a, b) == pair(one, other)
                    }
                    _ => false,
                };
                let others = self.active.iter().filter(is_same);
                others.for_each(|active| control.inject(active));
            }
            Fault::Crash(host) => self.end_crash(host),
            Fault::CrashAtOperation(host, _) => {
                if let Some(index) = self.planned.iter().position(|(one, _)| *one == fault) {
                    self.planned.swap_remove(index).1.cancel();
                }
                self.end_crash(host);
            }
            Fault::Freeze(_) | Fault::FreezeDisk(_) | Fault::DiskFull(_)
                if self.active.contains(&fault) => {}
            Fault::Freeze(host) => control.thaw(host),
            Fault::FreezeDisk(host) => control.thaw_disk(host),
            Fault::DiskFull(host) => control.set_disk_full(host, false),
            _ => self.restore(fault),
        }
    }

    /// Starts a host again that has crashed, unless another fault keeps it down.
    fn end_crash(&self, host: &str) {
        let is_reached = |planned: &(&Fault, PlannedCrash)| {
            planned.0.hosts() == [host] && planned.1.is_reached()
        };
        let is_crash = |active: &&Fault| matches!(active, Fault::Crash(other) if other == host);
        if self.active.iter().any(is_crash) || self.planned.iter().any(is_reached) {
            return;
        }
        let control = self.control;
        if control.is_down(host) {
            // At the instant of a crash at an operation, its process has not been ended yet.
            if control.is_running(host) {
                control.crash(host);
            }
            control.restart(host);
        }
    }

    /// Restores a setting to that of the latest fault that still changes it, or to the one before all faults.
    fn restore(&mut self, fault: &Fault) {
        let mut active = self.active.iter().rev();
        if let Some(active) = active.find(|active| active.is_about_same(fault)) {
            return self.control.inject(active);
        }
        let before = self.before.iter().position(|one| one.is_about_same(fault));
        if let Some(before) = before {
            self.control.inject(&self.before.swap_remove(before));
        }
    }
}

/// Orders two hosts, since a link has no direction.
fn pair<'a>(one: &'a str, other: &'a str) -> (&'a str, &'a str) {
    (one.min(other), one.max(other))
}
