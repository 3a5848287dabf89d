//! Simulation: a whole system of hosts in one process, in virtual time, from a seed.
//!
//! A test describes its hosts, each with the function that a machine would run, and a *scenario* that lets things
//! happen: a link breaks, a host crashes and comes back, an hour passes. The hosts run unchanged code: fibers, sockets,
//! remote calls. A run depends on nothing but its seed, so one that fails can be run again and looked at:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::time::Duration;
//! use yue::net::{TcpListener, TcpStream};
//! use yue::sim::{Failure, Sim};
//!
//! fn echo() {
//!     let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
//!     for stream in listener.incoming() {
//!         drop(yue::spawn(move || -> std::io::Result<()> {
//!             let mut stream = stream?;
//!             let mut bytes = [0; 64];
//!             loop {
//!                 let count = stream.read(&mut bytes)?;
//!                 if count == 0 {
//!                     return Ok(());
//!                 }
//!                 stream.write_all(&bytes[..count])?;
//!             }
//!         }));
//!     }
//! }
//!
//! let report = Sim::new(42).host("server", echo).run(|sim| {
//!     let mut stream = TcpStream::connect("server:7000").unwrap();
//!     stream.write_all(b"hello").unwrap();
//!     let mut bytes = [0; 5];
//!     stream.read_exact(&mut bytes).unwrap();
//!     assert_eq!(&bytes, b"hello");
//!     sim.crash("server");
//!     yue::sleep(Duration::from_secs(3600)).unwrap(); // at once
//! })?;
//! assert!(report.elapsed >= Duration::from_secs(3600));
//! # Ok::<(), Failure>(())
//! ```
//!
//! The simulation has threads and fibers (any that can run may run next), the clocks, sockets of yue
//! ([`net`](crate::net)), names of hosts in addresses, files of yue ([`fs`](crate::fs)), blocking work, and yue's own
//! random numbers. It does not have child processes, signals, files and sockets of other libraries, and code that reads
//! the clock or random numbers of the system. A host that uses them still runs, but then a run is a function of more
//! than its seed; [`search`] checks that each seed has the same outcome twice.

mod beside;
mod control;
mod disks;
mod faults;
mod invariants;
mod output;
mod process;
mod recorder;
mod report;
mod resources;
mod scenario;
mod search;
mod settings;
mod shrink;
mod trace;

pub use beside::files_of_folder;
pub use control::Control;
pub use faults::{Chaos, Fault, Schedule, ScheduleError, Scheduled};
pub use output::Line;
pub use recorder::note;
#[cfg(feature = "lua")]
pub(crate) use recorder::{elapsed, fail_program, forget_unread, note_unread};
pub use report::{Cause, Failure, Report};
pub use search::{Found, Search, search, search_in_processes};
pub use shrink::{ShrinkLimits, Shrunk, shrink};
pub use yue_io::simulation::{DiskFaults, DiskLatency, Happened, Link, NetworkFaults, Record};

use control::Hosts;
use invariants::Invariants;
use output::{OnOutput, Transcript};
use process::Main;
use recorder::{Recorded, Recorder};
use scenario::Scenario;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use yue_scheduler::simulation;

/// A system to simulate; see the [module](self).
pub struct Sim {
    seed: u64,
    hosts: Vec<(String, Main)>,
    files: Vec<(String, PathBuf, Vec<u8>)>,
    loops: usize,
    link: Link,
    on_output: Option<OnOutput>,
    hash_seed: Option<u64>,
    #[cfg(feature = "lua")]
    allowed: Vec<String>,
    #[cfg(feature = "lua")]
    steps_max: u64,
    schedule: Schedule,
    chaos: Option<Chaos>,
}

impl Sim {
    /// A system without hosts.
    pub fn new(seed: u64) -> Sim {
        Sim {
            seed,
            hosts: Vec::new(),
            files: Vec::new(),
            loops: 1,
            link: Link::default(),
            on_output: None,
            hash_seed: hash_seed_of_environment(),
            #[cfg(feature = "lua")]
            allowed: Vec::new(),
            #[cfg(feature = "lua")]
            steps_max: crate::lua::simulation::steps::STEPS_MAX,
            schedule: Schedule::new(),
            chaos: None,
        }
    }

    /// Adds a host. `main` runs there as the main fiber of a [`Runtime`](crate::Runtime) from the beginning, and again
    /// after each restart. When it returns, the host's process ends. The host is reached by its name, as in
    /// `server:7000`.
    ///
    /// # Panics
    /// If there is a host of this name, or there are more than 60 000; if the name has other characters than letters,
    /// digits, `-`, `_` and `.`.
    pub fn host(self, name: &str, main: impl Fn() + Send + Sync + 'static) -> Sim {
        // The number of loops is known when the simulation runs.
        self.add(name, Main::Function(Arc::new(main), 0))
    }

    /// Adds a host that runs a Lua program, as the `yue` command does, from the beginning, and again after each
    /// restart. The program runs unchanged, with as many loops and worker threads as it has; its clock, its network and
    /// its random numbers are those of the simulation. An error that ends the script fails the run, with
    /// [`Cause::Raised`]. What the program prints and logs is in [`Report::output`].
    ///
    /// ```
    /// use yue::lua::{Chunk, Script};
    /// use yue::sim::{Failure, Sim};
    ///
    /// let server = "yue.listen('tcp://0.0.0.0:7000', { double = function(n) return 2 * n end })";
    /// let client = "print(yue.open('tcp://server:7000').double(21))";
    /// let script = |source: &str| Script {
    ///     chunks: vec![Chunk::text("=program", source)],
    ///     ..Script::new("/dev/null")
    /// };
    /// let report = Sim::new(1)
    ///     .lua("server", script(server))
    ///     .lua("client", script(client))
    ///     .run(|_| yue::sleep(std::time::Duration::from_secs(1)).unwrap())?;
    /// assert_eq!(report.output[0].text, "42");
    /// # Ok::<(), Failure>(())
    /// ```
    ///
    /// # Panics
    /// See [`Sim::host`].
    #[cfg(feature = "lua")]
    pub fn lua(self, name: &str, script: crate::lua::Script) -> Sim {
        self.add(name, Main::Program(Arc::new(script), Arc::default()))
    }

    fn add(mut self, name: &str, main: Main) -> Sim {
        let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        assert!(
            !name.is_empty() && name.chars().all(is_plain),
            "'{name}' cannot be a host's name: write letters, digits, '-', '_' and '.'"
        );
        assert!(
            self.hosts.iter().all(|(other, _)| other != name),
            "there is a host named {name} already"
        );
        assert!(
            self.hosts.len() < 60_000,
            "a simulation has at most 60 000 hosts"
        );
        self.hosts.push((name.to_owned(), main));
        self
    }

    /// Adds `count` hosts, named `name1`, `name2` and so on. `main` gets the number.
    ///
    /// # Panics
    /// See [`Sim::host`].
    pub fn hosts(
        mut self,
        name: &str,
        count: usize,
        main: impl Fn(usize) + Send + Sync + 'static,
    ) -> Sim {
        let main = Arc::new(main);
        for number in 1..=count {
            let main = main.clone();
            self = self.host(&format!("{name}{number}"), move || main(number));
        }
        self
    }

    /// Puts a file on a host's disk before the host starts, with the directories above it.
    ///
    /// The run panics if there is no such host, or something else at the path.
    pub fn file(mut self, host: &str, path: impl Into<PathBuf>, bytes: impl AsRef<[u8]>) -> Sim {
        let bytes = bytes.as_ref().to_vec();
        self.files.push((host.to_owned(), path.into(), bytes));
        self
    }

    /// Sets the number of loops of each host; one by default.
    pub fn loops(mut self, loops: usize) -> Sim {
        self.loops = loops.max(1);
        self
    }

    /// Lets the Lua programs make a call that leaves the simulation, such as `os.execute`, or all calls of a table,
    /// such as `yue.process`. Otherwise it raises an error: a run that depends on commands or C libraries depends on
    /// more than its seed.
    #[cfg(feature = "lua")]
    pub fn allow(mut self, name: impl Into<String>) -> Sim {
        self.allowed.push(name.into());
        self
    }

    /// Sets the number of steps that a fiber of a Lua program, or of a scenario in Lua, may make without waiting; 200
    /// million by default, about a second of work. With more, the run fails: code that never waits would hold the whole
    /// simulation, as it holds its loop on a real machine. A step is a bytecode; a call that fails counts as 2000.
    #[cfg(feature = "lua")]
    pub fn steps_max(mut self, steps: u64) -> Sim {
        self.steps_max = steps.max(1);
        self
    }

    /// Sets the number on which the order of a Lua table's keys depends; by default it is the seed, or that of the
    /// variable `YUE_SIM_HASH`. A run with another hash seed must hold the same invariants: a program that fails with
    /// some relies on an order that Lua does not promise.
    pub fn hash_seed(mut self, hash_seed: u64) -> Sim {
        self.hash_seed = Some(hash_seed);
        self
    }

    /// Calls `f` with each line that a host which runs a Lua program prints or logs, when it does. `f` must not wait.
    pub fn on_output(mut self, f: impl Fn(&Line) + Send + Sync + 'static) -> Sim {
        self.on_output = Some(Arc::new(f));
        self
    }

    /// Sets the link between all hosts that have no link of their own.
    pub fn link(mut self, link: Link) -> Sim {
        self.link = link;
        self
    }

    /// Adds faults, which happen at their times beside what the scenario does.
    pub fn schedule(mut self, schedule: Schedule) -> Sim {
        self.schedule.extend(schedule.faults().iter().cloned());
        self
    }

    /// Adds random faults: those of a level from 1 to 5, or of a [`Chaos`] with settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use yue::sim::{Chaos, Sim};
    ///
    /// let mild = Sim::new(7).host("server", || {}).chaos(1);
    /// let short = Sim::new(7).host("server", || {}).chaos(Chaos::level(5).within(Duration::from_secs(3)));
    /// # drop((mild, short));
    /// ```
    pub fn chaos(mut self, chaos: impl Into<Chaos>) -> Sim {
        self.chaos = Some(chaos.into());
        self
    }

    /// Runs the hosts, and the scenario in a fiber of its own host, which is named `scenario` and can reach all others.
    /// When the scenario returns, the hosts end.
    ///
    /// The variable `YUE_SIM_FAULTS` replaces all faults of [`Sim::schedule`] and [`Sim::chaos`] by those that it
    /// contains; see [`Schedule`]. `YUE_SIM_TRACE=FILE` writes the trace into a file, `YUE_SIM_TIMELINE=FILE.html` the
    /// timeline.
    ///
    /// # Errors
    /// When an invariant does not hold, or a host or the scenario panics.
    pub fn run(self, scenario: impl FnOnce(&Control) + Send + 'static) -> Result<Report, Failure> {
        self.run_scenario(Scenario::Function(Box::new(scenario)))
    }

    /// Runs the hosts, and a Lua program as the scenario, which acts on the system by `yue.sim`. It may add hosts. When
    /// its script has returned, and what it has planned has happened, the hosts end.
    ///
    /// # Errors
    /// As [`Sim::run`]; also when the script raises an error.
    #[cfg(feature = "lua")]
    pub fn run_lua(self, scenario: crate::lua::Script) -> Result<Report, Failure> {
        self.run_scenario(Scenario::Program(Box::new(scenario)))
    }

    fn run_scenario(mut self, scenario: Scenario) -> Result<Report, Failure> {
        let seed = self.seed;
        let names: Vec<String> = self.hosts.iter().map(|(name, _)| name.clone()).collect();
        if let Some(chaos) = &self.chaos {
            let made = chaos.schedule(seed, &names);
            self.schedule.extend(made.faults().iter().cloned());
        }
        let replaced = match settings::replaced_faults() {
            Ok(replaced) => replaced,
            Err(error) => {
                let cause = Cause::Scenario(format!("{}: {error}", settings::FAULTS));
                let report = Report::new(seed, Recorded::default());
                return Err(Failure::new(cause, report));
            }
        };
        let has_replaced = replaced.is_some();
        self.schedule = replaced.unwrap_or(self.schedule);
        let recorder = Arc::new(Recorder::default());
        let inside = recorder.clone();
        // Here, because what a simulated program sets is its host's alone.
        #[cfg(feature = "lua")]
        crate::lua::read_log_level();
        let main = move || self.run_inside(&inside, scenario, has_replaced);
        let outcome = simulation::run(seed, main);
        let (recorded, cause) = recorder.take();
        let mut report = Report::new(seed, recorded);
        let outcome = match (cause, outcome) {
            (Some(cause), _) => Err(Failure::new(cause, report)),
            (None, Ok(((), digest))) => {
                report.digest = digest;
                Ok(report)
            }
            (None, Err(simulation::Failure::Panicked(text))) => {
                Err(Failure::new(Cause::Scenario(text), report))
            }
            (None, Err(other)) => Err(Failure::new(Cause::Scenario(other.to_string()), report)),
        };
        settings::write_files_of_run(&outcome);
        outcome
    }

    fn run_inside(self, recorder: &Arc<Recorder>, scenario: Scenario, has_replaced_faults: bool) {
        if let Some(hash_seed) = self.hash_seed {
            simulation::set_hash_seed(hash_seed);
        }
        recorder.begin();
        let transcript = Transcript::new(self.on_output, recorder.clone());
        yue_io::simulation::set_default_link(self.link);
        yue_io::simulation::add_address(0, address(0));
        yue_io::simulation::add_name("scenario", address(0));
        let hosts = Hosts::new(self.link, self.loops, recorder.clone(), transcript);
        #[cfg(feature = "lua")]
        crate::lua::simulation::steps::set_max(self.steps_max);
        #[cfg(feature = "lua")]
        self.allowed.iter().for_each(|name| hosts.allow(name));
        let hosts = Arc::new(hosts);
        for (name, main) in self.hosts {
            hosts.add(name, main);
        }
        let invariants = Arc::new(Invariants::new(recorder.clone()));
        for (host, path, bytes) in self.files {
            let written = yue_io::simulation::write_file(hosts.number(&host), &path, &bytes);
            if let Err(error) = written {
                panic!("cannot put the file {path:?} on the disk of {host}: {error}");
            }
        }
        let seen = invariants.clone();
        simulation::observe(move || seen.check());
        hosts.start_all();
        let control = Control::new(hosts.clone(), invariants.clone(), has_replaced_faults);
        scenario.run(control, self.schedule);
        invariants.check_at_end();
        recorder.stop();
        hosts.end_all();
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.hosts.iter().map(|(name, _)| name).collect();
        f.debug_struct("Sim")
            .field("seed", &self.seed)
            .field("hosts", &names)
            .field("loops", &self.loops)
            .field("link", &self.link)
            .field("faults", &self.schedule.len())
            .field("chaos", &self.chaos)
            .finish()
    }
}

/// The hash seed that the environment sets. Another text than a number is ignored.
fn hash_seed_of_environment() -> Option<u64> {
    std::env::var("YUE_SIM_HASH").ok()?.trim().parse().ok()
}

/// The address of a host by its number: 10.0.0.1 is the scenario's.
fn address(number: u32) -> IpAddr {
    let number = number + 1;
    IpAddr::V4(Ipv4Addr::new(10, 0, (number >> 8) as u8, number as u8))
}
