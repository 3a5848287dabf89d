//! The scenario's hands on the disks of its hosts.
//!
//! Each host has a disk of its own, empty but for `/tmp` at first. It outlives the host's processes and its crashes.
//!
//! ```
//! use std::io::Write;
//! use std::time::Duration;
//! use yue::fs::{File, rename};
//! use yue::sim::Sim;
//!
//! fn save() -> std::io::Result<()> {
//!     let mut file = File::create("/state.new")?;
//!     file.write_all(b"new")?;
//!     file.sync_all()?; // without this, the name may survive a crash and the text not
//!     rename("/state.new", "/state")?;
//!     File::open("/")?.sync_all()
//! }
//!
//! for seed in 0..20 {
//!     let main = || {
//!         let _ = save(); // it fails when the host crashes
//!     };
//!     Sim::new(seed).host("db", main).file("db", "/state", "old").run(|sim| {
//!         yue::sleep(Duration::from_micros(sim.below(5_000))).unwrap();
//!         sim.crash("db");
//!         let state = sim.read_file("db", "/state").unwrap();
//!         assert!(state == b"old" || state == b"new", "{state:?}");
//!     })?;
//! }
//! # Ok::<(), yue::sim::Failure>(())
//! ```

use super::control::Control;
use super::recorder::MarkKind;
use super::{DiskFaults, DiskLatency, Fault};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use yue_io::simulation::{self as disks, PlannedCrash};
use yue_scheduler::simulation;

impl Control {
    /// Sets the probabilities that operations of a host's disk fail, or transfer fewer bytes than they could.
    pub fn set_disk_faults(&self, host: &str, faults: DiskFaults) {
        let number = self.hosts.number(host);
        let text = Fault::DiskFaults(host.to_owned(), faults).to_string();
        match faults == DiskFaults::default() {
            true => self.end("disk-faults", &[number], format!("end {text}")),
            false => self.begin("disk-faults", &[number], text),
        }
        disks::set_disk_faults(number, faults);
    }

    /// Sets the time that operations of a host's disk take.
    pub fn set_disk_latency(&self, host: &str, latency: DiskLatency) {
        let number = self.hosts.number(host);
        let text = Fault::DiskLatency(host.to_owned(), latency).to_string();
        match latency == DiskLatency::default() {
            true => self.end("disk-latency", &[number], text),
            false => self.begin("disk-latency", &[number], text),
        }
        disks::set_disk_latency(number, latency);
    }

    /// Sets the space of a host's disk in bytes. When it is full, writes fail with `ENOSPC`. There is no limit at the
    /// beginning.
    pub fn set_disk_capacity(&self, host: &str, bytes: u64) {
        disks::set_disk_capacity(self.hosts.number(host), bytes);
    }

    /// Lets nothing more fit on a host's disk, whatever its capacity: writes that take space fail with `ENOSPC`. With
    /// false, there is as much space as before.
    pub fn set_disk_full(&self, host: &str, is_full: bool) {
        let number = self.hosts.number(host);
        let text = Fault::DiskFull(host.to_owned()).to_string();
        match is_full {
            true => self.begin("disk-full", &[number], text),
            false => self.end("disk-full", &[number], format!("end {text}")),
        }
        disks::set_disk_full(number, is_full);
    }

    /// Lets all operations of a host's disk hang until [`Control::thaw_disk`]. The host itself continues.
    pub fn freeze_disk(&self, host: &str) {
        let number = self.hosts.number(host);
        self.begin("freeze-disk", &[number], format!("freeze-disk {host}"));
        disks::freeze_disk(number);
    }

    /// Lets a frozen disk continue.
    pub fn thaw_disk(&self, host: &str) {
        let number = self.hosts.number(host);
        self.end("freeze-disk", &[number], format!("thaw-disk {host}"));
        disks::thaw_disk(number);
    }

    /// The number of operations that a host's disk has begun since the beginning of the simulation. With
    /// [`Control::crash_at_operation`] and [`Control::fail_at`], a test can try every one of them.
    pub fn disk_operations(&self, host: &str) -> u64 {
        disks::disk_operations(self.hosts.number(host))
    }

    /// Lets the `nth` operation from now on a host's disk fail with `EIO`; 1 is the next one.
    pub fn fail_at(&self, host: &str, nth: u64) {
        disks::fail_at_operation(self.hosts.number(host), nth);
    }

    /// Lets a host crash at the `nth` operation from now on its disk, as [`Control::crash`] would; 1 is the next one.
    /// The operation may have been done, but the program does not learn of it. [`Control::is_running`] tells when the
    /// host has crashed.
    ///
    /// # Panics
    /// For the scenario's own host; when the system refuses a thread.
    pub fn crash_at_operation(&self, host: &str, nth: u64) {
        self.plan_crash(host, nth);
    }

    /// Like [`Control::crash_at_operation`]; returns the crash, which can be cancelled.
    pub(super) fn plan_crash(&self, host: &str, nth: u64) -> PlannedCrash {
        let number = self.hosts.number(host);
        assert_ne!(
            number, 0,
            "the scenario's own host runs as long as the scenario"
        );
        let planned = disks::crash_at_operation(number, nth);
        let text = Fault::CrashAtOperation(host.to_owned(), nth).to_string();
        self.mark(MarkKind::Instant, "crash-at-operation", &[number], text);
        let (control, name, returned) = (self.clone(), host.to_owned(), planned.clone());
        // The host's own threads cannot end it.
        let end = move || {
            // It fails when the simulation has ended.
            if planned.wait().unwrap_or(false) {
                control.crash(&name);
            }
        };
        if let Err(error) = simulation::spawn_thread(0, "crash", end) {
            panic!("cannot start a thread for a planned crash: {error}");
        }
        returned
    }

    /// Creates a durable file on a host's disk, with the directories above it, or replaces its contents. For what a
    /// machine has on its disk when it starts.
    ///
    /// # Errors
    /// When there is something else at the path.
    pub fn write_file(
        &self,
        host: &str,
        path: impl AsRef<Path>,
        bytes: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        disks::write_file(self.hosts.number(host), path.as_ref(), bytes.as_ref())
    }

    /// Reads a file of a host's disk, as its processes would.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn read_file(&self, host: &str, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        disks::read_file(self.hosts.number(host), path.as_ref())
    }

    /// The files of a host's disk by their paths, with their contents, as its processes see them.
    pub fn files(&self, host: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        disks::files(self.hosts.number(host))
    }

    /// The files of a host's disk as a crash would leave them that loses everything which was not synced.
    pub fn durable_files(&self, host: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        disks::durable_files(self.hosts.number(host))
    }
}
