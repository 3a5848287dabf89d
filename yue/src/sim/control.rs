//! The scenario's hands: hosts that crash and restart, links that break.

use super::invariants::Invariants;
use super::output::Transcript;
use super::process::{Main, Process};
use super::recorder::{MarkKind, Recorder};
#[cfg(feature = "lua")]
use super::{Cause, beside::Files};
use super::{Fault, Link};
#[cfg(feature = "lua")]
use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "lua")]
use std::io;
use std::net::IpAddr;
#[cfg(feature = "lua")]
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::simulation as network;
use yue_scheduler::{Instant, lock, simulation};

/// The means of a scenario to act on its system. Hosts are named; `scenario` is the scenario's own.
#[derive(Clone)]
pub struct Control {
    pub(super) hosts: Arc<Hosts>,
    invariants: Arc<Invariants>,
    /// Whether the user has chosen the faults, so that chaos makes none.
    has_replaced_faults: bool,
}

/// The hosts of a simulation.
pub(super) struct Hosts {
    all: Mutex<Vec<Host>>,
    /// The link of hosts that have none of their own.
    link: Mutex<Link>,
    recorder: Arc<Recorder>,
    transcript: Arc<Transcript>,
    began: Instant,
    /// The loops of a host that does not say how many it has.
    loops: usize,
    /// The calls of Lua programs out of the simulation that are let through.
    #[cfg(feature = "lua")]
    allowed: Mutex<Vec<String>>,
    /// The folders whose files the scenario has put on disks: many hosts may have the same.
    #[cfg(feature = "lua")]
    folders: Mutex<BTreeMap<PathBuf, Arc<Files>>>,
}

struct Host {
    name: String,
    number: u32,
    main: Main,
    process: Option<Process>,
}

impl Hosts {
    pub(super) fn new(
        link: Link,
        loops: usize,
        recorder: Arc<Recorder>,
        transcript: Arc<Transcript>,
    ) -> Hosts {
        recorder.add_host("scenario");
        Hosts {
            all: Mutex::default(),
            link: Mutex::new(link),
            recorder,
            transcript,
            began: simulation::now(),
            loops,
            #[cfg(feature = "lua")]
            allowed: Mutex::default(),
            #[cfg(feature = "lua")]
            folders: Mutex::default(),
        }
    }

    /// Lets programs that are added from now on make a call out of the simulation.
    #[cfg(feature = "lua")]
    pub(super) fn allow(&self, name: &str) {
        lock(&self.allowed).push(name.to_owned());
    }

    #[cfg(feature = "lua")]
    fn allowed(&self) -> Arc<[String]> {
        lock(&self.allowed).as_slice().into()
    }

    /// Adds a host that does not run yet.
    pub(super) fn add(&self, name: String, main: Main) {
        let address = super::address(lock(&self.all).len() as u32 + 1);
        let number = network::add_host(address);
        network::add_name(&name, address);
        self.recorder.add_host(&name);
        let main = match main {
            Main::Function(main, _) => Main::Function(main, self.loops),
            #[cfg(feature = "lua")]
            Main::Program(script, _) => {
                self.transcript.collect(number, &name, self.began);
                Main::Program(script, self.allowed())
            }
        };
        lock(&self.all).push(Host {
            name,
            number,
            main,
            process: None,
        });
    }

    pub(super) fn start_all(&self) {
        for host in &mut *lock(&self.all) {
            host.start(&self.recorder);
        }
    }

    /// Ends all hosts, as a crash does: the scenario has ended.
    pub(super) fn end_all(&self) {
        let processes: Vec<_> = {
            let mut all = lock(&self.all);
            all.iter_mut()
                .map(|host| (host.number, host.process.take()))
                .collect()
        };
        for (number, process) in processes {
            end(number, process);
        }
    }

    pub(super) fn number(&self, name: &str) -> u32 {
        self.find(name)
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Returns the number of a host, or a text about the names that there are.
    fn find(&self, name: &str) -> Result<u32, String> {
        if name == "scenario" {
            return Ok(0);
        }
        let all = lock(&self.all);
        match all.iter().find(|host| host.name == name) {
            Some(host) => Ok(host.number),
            None => {
                let names = all.iter().map(|host| host.name.as_str());
                let names: Vec<_> = std::iter::once("scenario").chain(names).collect();
                let names = names.join(", ");
                Err(format!("there is no host named {name}; there are {names}"))
            }
        }
    }

    fn with<R>(&self, name: &str, f: impl FnOnce(&mut Host) -> R) -> R {
        let number = self.number(name);
        assert_ne!(
            number, 0,
            "the scenario's own host runs as long as the scenario"
        );
        let mut all = lock(&self.all);
        let host = all.iter_mut().find(|host| host.number == number);
        f(host.unwrap_or_else(|| unreachable!("a number is that of a host")))
    }
}

impl Host {
    fn start(&mut self, recorder: &Arc<Recorder>) {
        simulation::begin_process(self.number);
        match Process::start(self.number, &self.name, &self.main, recorder.clone()) {
            Ok(process) => self.process = Some(process),
            Err(error) => panic!("cannot start a thread for the host {}: {error}", self.name),
        }
    }
}

/// Ends a host's process without a word to anybody.
fn end(number: u32, process: Option<Process>) {
    network::crash(number);
    let Some(process) = process else { return };
    if process.is_finished() {
        return;
    }
    process.switch_off();
    // It fails when the simulation has ended. Then all threads end anyway.
    let _ = simulation::drain(number);
}

impl Control {
    pub(super) fn new(
        hosts: Arc<Hosts>,
        invariants: Arc<Invariants>,
        has_replaced_faults: bool,
    ) -> Control {
        Control {
            hosts,
            invariants,
            has_replaced_faults,
        }
    }

    /// The address of a host.
    ///
    /// # Panics
    /// If there is no such host; like all methods with a host's name.
    pub fn address(&self, host: &str) -> IpAddr {
        super::address(self.hosts.number(host))
    }

    /// Lets no packet through between two hosts, until [`Control::heal`]. Connections stay, and continue afterwards.
    pub fn partition(&self, one: &str, other: &str) {
        let hosts @ [a, b] = [one, other].map(|host| self.hosts.number(host));
        self.begin("partition", &hosts, format!("partition {one} {other}"));
        network::partition(a, b);
    }

    /// Lets no packet through from one host to another. The way back is open.
    pub fn partition_one_way(&self, from: &str, to: &str) {
        let hosts @ [a, b] = [from, to].map(|host| self.hosts.number(host));
        self.begin("partition", &hosts, format!("partition {from} -> {to}"));
        network::partition_one_way(a, b);
    }

    /// Ends the partition of two hosts.
    pub fn heal(&self, one: &str, other: &str) {
        let hosts @ [a, b] = [one, other].map(|host| self.hosts.number(host));
        self.end("partition", &hosts, format!("heal {one} {other}"));
        network::heal(a, b);
    }

    /// Resets the connections between two hosts, like a firewall that has lost its state.
    pub fn reset_connections(&self, one: &str, other: &str) {
        let hosts @ [a, b] = [one, other].map(|host| self.hosts.number(host));
        self.mark(
            MarkKind::Instant,
            "reset",
            &hosts,
            format!("reset {one} {other}"),
        );
        network::reset_connections(a, b);
    }

    /// Sets the link between two hosts.
    pub fn set_link(&self, one: &str, other: &str, link: Link) {
        let hosts @ [a, b] = [one, other].map(|host| self.hosts.number(host));
        let text = Fault::Link(one.to_owned(), other.to_owned(), link).to_string();
        match link == *lock(&self.hosts.link) {
            true => self.end("link", &hosts, text),
            false => self.begin("link", &hosts, text),
        }
        network::set_link(a, b, link);
    }

    /// Sets the link between all hosts that have no link of their own, like [`Sim::link`](super::Sim::link).
    pub fn set_default_link(&self, link: Link) {
        *lock(&self.hosts.link) = link;
        network::set_default_link(link);
    }

    /// Returns the link between two hosts.
    pub fn link(&self, one: &str, other: &str) -> Link {
        network::link(self.hosts.number(one), self.hosts.number(other))
    }

    /// Sets the probabilities that a read or a write of a host's stream transfers fewer bytes than it could.
    pub fn set_short_transfers(&self, host: &str, read: f64, write: f64) {
        let number = self.hosts.number(host);
        let text = Fault::ShortTransfers(host.to_owned(), read, write).to_string();
        match read == 0.0 && write == 0.0 {
            true => self.end("short-transfers", &[number], text),
            false => self.begin("short-transfers", &[number], text),
        }
        network::set_short_transfers(number, read, write);
    }

    /// Switches a host off at this instant. Its peers are not notified. Its fibers are cancelled, and what they do
    /// about it has no effect on other hosts, and none on its disk, and takes no time. The disk keeps what was synced,
    /// and any part of what was not.
    pub fn crash(&self, host: &str) {
        let (number, process) = self
            .hosts
            .with(host, |host| (host.number, host.process.take()));
        self.begin("crash", &[number], format!("crash {host}"));
        end(number, process);
    }

    /// Starts a host again after a crash, or after its main function has returned.
    ///
    /// # Panics
    /// If the host runs.
    pub fn restart(&self, host: &str) {
        let runs = |host: &Host| host.process.as_ref().is_some_and(|one| !one.is_finished());
        self.hosts.with(host, |one| {
            assert!(
                !runs(one),
                "the host {host} runs; crash it before it restarts"
            );
            self.end("crash", &[one.number], format!("restart {host}"));
            network::restart(one.number);
            one.start(&self.hosts.recorder);
        });
    }

    /// Whether a host has crashed and was not restarted.
    pub(super) fn is_down(&self, host: &str) -> bool {
        network::is_down(self.hosts.number(host))
    }

    /// Whether a host's main function runs.
    pub fn is_running(&self, host: &str) -> bool {
        self.hosts.with(host, |host| {
            host.process.as_ref().is_some_and(|one| !one.is_finished())
        })
    }

    /// Pauses a host, like a virtual machine that is moved: its timers pass, its packets wait.
    pub fn freeze(&self, host: &str) {
        let number = self.hosts.number(host);
        self.begin("freeze", &[number], format!("freeze {host}"));
        network::freeze(number);
        simulation::freeze(number);
    }

    /// Lets a frozen host continue.
    pub fn thaw(&self, host: &str) {
        let number = self.hosts.number(host);
        self.end("freeze", &[number], format!("thaw {host}"));
        network::thaw(number);
        simulation::thaw(number);
    }

    /// Lets a host's clock run faster, or slower if `ppm` is negative, by that many millionths.
    pub fn set_clock_drift(&self, host: &str, ppm: i64) {
        let number = self.hosts.number(host);
        let text = format!("drift {host} {ppm}ppm");
        match ppm {
            0 => self.end("drift", &[number], text),
            _ => self.begin("drift", &[number], text),
        }
        simulation::set_clock_drift(number, ppm);
    }

    /// Returns the next number of the seed's sequence, for a scenario's own choices.
    pub fn random(&self) -> u64 {
        simulation::random()
    }

    /// Returns a number below `bound`; zero if `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(simulation::random()) * u128::from(bound)) >> 64) as u64
    }

    /// Checks, whenever another thread of the system could continue, that `holds` returns true. Otherwise the run ends
    /// with [`Cause::Invariant`](super::Cause::Invariant). `holds` must not wait.
    pub fn always(&self, name: &str, holds: impl Fn() -> bool + Send + Sync + 'static) {
        self.invariants.always(name, Box::new(holds));
    }

    /// Checks that `holds` returns true at some time within `within` from now.
    pub fn eventually(
        &self,
        name: &str,
        within: Duration,
        holds: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let until = simulation::now().saturating_add(within);
        self.invariants.eventually(name, until, Box::new(holds));
    }

    pub(super) fn begin(&self, subject: &'static str, hosts: &[u32], text: String) {
        self.mark(MarkKind::FaultBegins, subject, hosts, text);
    }

    pub(super) fn end(&self, subject: &'static str, hosts: &[u32], text: String) {
        self.mark(MarkKind::FaultEnds, subject, hosts, text);
    }

    pub(super) fn mark(&self, kind: MarkKind, subject: &'static str, hosts: &[u32], text: String) {
        self.hosts.recorder.mark(kind, subject, hosts, text);
    }

    /// Allows the program of a host to fail: it ends then, and the run continues. The trace says that it failed.
    pub fn allow_failure(&self, host: &str) {
        self.hosts.number(host);
        self.hosts.recorder.allow_failure(host);
    }

    /// The names of the hosts that there are, but for the scenario's.
    pub(super) fn host_names(&self) -> Vec<String> {
        let all = lock(&self.hosts.all);
        all.iter().map(|host| host.name.clone()).collect()
    }

    /// Whether the user has chosen the faults, so that chaos makes none.
    pub(super) fn has_replaced_faults(&self) -> bool {
        self.has_replaced_faults
    }

    /// Checks the name of a host.
    ///
    /// # Errors
    /// A text about the names that there are.
    pub(crate) fn check_host(&self, name: &str) -> Result<(), String> {
        self.hosts.find(name).map(drop)
    }

    /// The virtual time at which the run began.
    pub(super) fn began(&self) -> Instant {
        self.hosts.began
    }

    /// The virtual time since the beginning of the run.
    pub fn elapsed(&self) -> Duration {
        simulation::now().saturating_since(self.hosts.began)
    }

    /// Lets Lua programs that are added from now on make a call out of the simulation; see
    /// [`Sim::allow`](super::Sim::allow).
    #[cfg(feature = "lua")]
    pub fn allow(&self, name: &str) {
        self.hosts.allow(name);
    }

    /// The calls that are let through.
    #[cfg(feature = "lua")]
    pub(super) fn allowed(&self) -> Arc<[String]> {
        self.hosts.allowed()
    }

    /// Collects what the scenario prints.
    #[cfg(feature = "lua")]
    pub(super) fn collect_output(&self) {
        let hosts = &self.hosts;
        hosts.transcript.collect(0, "scenario", hosts.began);
    }

    /// Adds a host that does not run yet.
    ///
    /// # Errors
    /// A text about the problem, if there is a host of this name.
    #[cfg(feature = "lua")]
    pub(crate) fn add_program(&self, name: &str, script: crate::lua::Script) -> Result<(), String> {
        if self.hosts.find(name).is_ok() {
            return Err(format!("there is a host named {name} already"));
        }
        self.hosts.add(
            name.to_owned(),
            Main::Program(Arc::new(script), Arc::default()),
        );
        Ok(())
    }

    /// Starts a host that was added.
    #[cfg(feature = "lua")]
    pub(crate) fn start(&self, name: &str) {
        self.hosts
            .with(name, |host| host.start(&self.hosts.recorder));
    }

    /// Puts the files of a folder of the machine on a host's disk.
    ///
    /// # Errors
    /// When there is something else at the path of one.
    #[cfg(feature = "lua")]
    pub(crate) fn add_folder(&self, host: &str, folder: &Path) -> io::Result<()> {
        let files = {
            let mut folders = lock(&self.hosts.folders);
            let read = || Arc::new(super::files_of_folder(folder));
            folders
                .entry(folder.to_owned())
                .or_insert_with(read)
                .clone()
        };
        files
            .iter()
            .try_for_each(|(path, bytes)| self.write_file(host, path, bytes))
    }

    #[cfg(feature = "lua")]
    pub(crate) fn fail_invariant(&self, name: &str) {
        simulation::stop(&format!("an invariant does not hold: {name}"));
        let cause = |at| Cause::Invariant {
            name: name.to_owned(),
            at,
        };
        self.hosts.recorder.fail(cause, super::recorder::NO_HOST);
    }

    #[cfg(feature = "lua")]
    pub(crate) fn fail_scenario(&self, text: String) {
        self.hosts.recorder.fail_scenario(text);
    }

    /// Restores the link that hosts have from the beginning.
    pub fn reset_link(&self, one: &str, other: &str) {
        let link = *lock(&self.hosts.link);
        self.set_link(one, other, link);
    }

    pub(super) fn recorder(&self) -> &Arc<Recorder> {
        &self.hosts.recorder
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = lock(&self.hosts.all);
        let names: Vec<_> = all.iter().map(|host| &host.name).collect();
        f.debug_struct("Control").field("hosts", &names).finish()
    }
}
