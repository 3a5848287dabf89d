//! The scenario's hands: hosts that crash and restart, links that break.

use super::faults::link_text;
use super::invariants::Invariants;
use super::process::{Main, Process};
use super::recorder::{MarkKind, Recorder};
use super::{Fault, Link};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::simulation as network;
use yue_scheduler::{lock, simulation};

/// The means of a scenario to act on its system. Hosts are named; `scenario` is the scenario's own.
#[derive(Clone)]
pub struct Control {
    hosts: Arc<Hosts>,
    invariants: Arc<Invariants>,
}

/// The hosts of a simulation.
pub(super) struct Hosts {
    all: Mutex<Vec<Host>>,
    /// The link of hosts that have none of their own.
    link: Link,
    recorder: Arc<Recorder>,
}

struct Host {
    name: String,
    number: u32,
    main: Main,
    process: Option<Process>,
}

impl Hosts {
    pub(super) fn new(link: Link, recorder: Arc<Recorder>) -> Hosts {
        Hosts {
            all: Mutex::default(),
            link,
            recorder,
        }
    }

    pub(super) fn add(&self, name: String, number: u32, main: Main) {
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

    fn number(&self, name: &str) -> u32 {
        if name == "scenario" {
            return 0;
        }
        let all = lock(&self.all);
        match all.iter().find(|host| host.name == name) {
            Some(host) => host.number,
            None => {
                let names: Vec<_> = all.iter().map(|host| host.name.as_str()).collect();
                let names = names.join(", ");
                drop(all);
                panic!("there is no host named {name}; there are scenario, {names}")
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
    pub(super) fn new(hosts: Arc<Hosts>, invariants: Arc<Invariants>) -> Control {
        Control { hosts, invariants }
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
        let text = format!("link {one} {other} {}", link_text(&link));
        match link == self.hosts.link {
            true => self.end("link", &hosts, text),
            false => self.begin("link", &hosts, text),
        }
        network::set_link(a, b, link);
    }

    /// Returns the link between two hosts.
    pub fn link(&self, one: &str, other: &str) -> Link {
        network::link(self.hosts.number(one), self.hosts.number(other))
    }

    /// Sets the probabilities that a read or a write of a host's stream transfers fewer bytes than it could.
    pub fn set_short_transfers(&self, host: &str, read: f64, write: f64) {
        let number = self.hosts.number(host);
        let text = format!("short-transfers {host} read={read} write={write}");
        match read == 0.0 && write == 0.0 {
            true => self.end("short-transfers", &[number], text),
            false => self.begin("short-transfers", &[number], text),
        }
        network::set_short_transfers(number, read, write);
    }

    /// Switches a host off at this instant. Its peers are not notified. Its fibers are cancelled, and what they do
    /// about it has no effect on other hosts and takes no time.
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
    /// with [`Failure::Invariant`]. `holds` must not wait.
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

    fn begin(&self, subject: &'static str, hosts: &[u32], text: String) {
        self.mark(MarkKind::FaultBegins, subject, hosts, text);
    }

    fn end(&self, subject: &'static str, hosts: &[u32], text: String) {
        self.mark(MarkKind::FaultEnds, subject, hosts, text);
    }

    fn mark(&self, kind: MarkKind, subject: &'static str, hosts: &[u32], text: String) {
        self.hosts.recorder.mark(kind, subject, hosts, text);
    }

    /// Checks that a schedule names only hosts of this system.
    ///
    /// # Panics
    /// If it does not, with the names that there are.
    pub(super) fn check_names(&self, faults: &[super::Scheduled]) {
        let names = faults.iter().flat_map(|one| one.fault.hosts());
        names.for_each(|name| {
            self.hosts.number(name);
        });
        let scenario_stops =
            |fault: &Fault| matches!(fault, Fault::Crash(h) | Fault::Freeze(h) if h == "scenario");
        let stops = faults.iter().find(|one| scenario_stops(&one.fault));
        if let Some(one) = stops {
            panic!(
                "the scenario's own host runs as long as the scenario, so '{one}' is impossible"
            );
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = lock(&self.hosts.all);
        let names: Vec<_> = all.iter().map(|host| &host.name).collect();
        f.debug_struct("Control").field("hosts", &names).finish()
    }
}
