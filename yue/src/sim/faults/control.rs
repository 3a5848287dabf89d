//! The scenario's hands on faults as data.

use super::{Chaos, Fault, Schedule, play};
use crate::Runtime;
use crate::sim::Control;
use yue_io::simulation as system;
use yue_scheduler::simulation;

impl Control {
    /// Lets a fault begin.
    ///
    /// # Panics
    /// If it names a host that does not exist; see [`Control::check`].
    pub fn inject(&self, fault: &Fault) {
        match fault {
            Fault::Partition(one, other) => self.partition(one, other),
            Fault::PartitionOneWay(from, to) => self.partition_one_way(from, to),
            Fault::ResetConnections(one, other) => self.reset_connections(one, other),
            Fault::Crash(host) => self.crash(host),
            // A host that is down would be frozen when it starts again, and then thawed by nobody.
            Fault::Freeze(host) if !self.is_running(host) => {}
            Fault::Freeze(host) => self.freeze(host),
            Fault::Link(one, other, link) => self.set_link(one, other, *link),
            Fault::ShortTransfers(host, read, write) => {
                self.set_short_transfers(host, *read, *write)
            }
            Fault::ClockDrift(host, ppm) => self.set_clock_drift(host, *ppm),
            Fault::ClockJump(host, by_ms) => self.jump_clock(host, *by_ms),
            Fault::NetworkFaults(host, faults) => self.set_network_faults(host, *faults),
            Fault::DiskFaults(host, faults) => self.set_disk_faults(host, *faults),
            Fault::DiskLatency(host, latency) => self.set_disk_latency(host, *latency),
            Fault::DiskFull(host) => self.set_disk_full(host, true),
            Fault::FreezeDisk(host) => self.freeze_disk(host),
            Fault::CrashAtOperation(host, nth) => self.crash_at_operation(host, *nth),
        }
    }

    /// Returns a fault that restores what the given one would change, for the kinds that change a setting.
    pub(in crate::sim) fn setting(&self, fault: &Fault) -> Option<Fault> {
        let number = |host: &str| self.hosts.number(host);
        let setting = match fault.clone() {
            Fault::Link(one, other, _) => {
                let link = self.link(&one, &other);
                Fault::Link(one, other, link)
            }
            Fault::ShortTransfers(host, ..) => {
                let (read, write) = system::short_transfers(number(&host));
                Fault::ShortTransfers(host, read, write)
            }
            Fault::ClockDrift(host, _) => {
                let ppm = simulation::clock_drift(number(&host));
                Fault::ClockDrift(host, ppm)
            }
            Fault::NetworkFaults(host, _) => {
                let faults = system::network_faults(number(&host));
                Fault::NetworkFaults(host, faults)
            }
            Fault::DiskFaults(host, _) => {
                let faults = system::disk_faults(number(&host));
                Fault::DiskFaults(host, faults)
            }
            Fault::DiskLatency(host, _) => {
                let latency = system::disk_latency(number(&host));
                Fault::DiskLatency(host, latency)
            }
            _ => return None,
        };
        Some(setting)
    }

    /// Checks that a fault names only hosts of this system, and does not stop the scenario's own.
    ///
    /// # Errors
    /// A text about the problem.
    pub fn check(&self, fault: &Fault) -> Result<(), String> {
        for host in fault.hosts() {
            self.check_host(host)?;
        }
        match fault.stops_host() && fault.hosts() == ["scenario"] {
            true => Err(format!(
                "'{fault}' is impossible: the scenario's own host runs as long as the scenario"
            )),
            false => Ok(()),
        }
    }

    /// Starts a thread that lets the faults of a schedule happen, at their times since the beginning of the run.
    pub(in crate::sim) fn play(&self, schedule: Schedule) {
        if schedule.is_empty() {
            return;
        }
        self.recorder().add_faults(schedule.faults());
        let control = self.clone();
        let body = move || match Runtime::new() {
            // It ends when its faults have happened, or with the simulation.
            Ok(runtime) => {
                let began = control.began();
                runtime.run(move || play(&control, &schedule, began));
            }
            Err(error) => {
                let text = format!("cannot start a loop for the faults: {error}");
                control.recorder().fail_scenario(text);
            }
        };
        if let Err(error) = simulation::spawn_thread(0, "faults", body) {
            let text = format!("cannot start a thread for the faults: {error}");
            self.recorder().fail_scenario(text);
        }
    }

    /// Adds the faults of a schedule, at their times since the beginning of the run; those of the past happen at once.
    /// If the faults of the run are replaced (`YUE_SIM_FAULTS`), it does nothing.
    ///
    /// # Errors
    /// A text about the problem, if a fault names a host that does not exist.
    pub fn schedule(&self, schedule: Schedule) -> Result<(), String> {
        for one in schedule.faults() {
            self.check(&one.fault)?;
        }
        if !self.has_replaced_faults() {
            self.play(schedule);
        }
        Ok(())
    }

    /// Adds random faults to the hosts that there are. They begin and end within the time that `chaos` says, counted
    /// from now. If the faults of the run are replaced (`YUE_SIM_FAULTS`), it does nothing.
    pub fn chaos(&self, chaos: impl Into<Chaos>) {
        // Taken in any case, so that a run with replaced faults makes the same choices otherwise.
        let seed = simulation::random();
        if self.has_replaced_faults() {
            return;
        }
        let offset = self.elapsed();
        let made = chaos.into().schedule(seed, &self.host_names());
        let later = made.faults().iter().cloned().map(|mut one| {
            one.at += offset;
            one.until = one.until.map(|until| until + offset);
            one
        });
        self.play(later.collect());
    }
}
