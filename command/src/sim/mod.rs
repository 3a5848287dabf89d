//! `yue sim`: runs a system of programs in one process, in virtual time, from a seed.
//!
//! ```text
//!   mod.rs      the command line; one run, and what it prints     hosts.rs    the hosts that the command line names
//!   search.rs   many seeds, divided among processes               replay.rs   the command that repeats a run
//! ```

mod hosts;
mod replay;
mod search;

use crate::{check, seconds};
use hosts::{Fault, Host};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use yue::lua::Script;
use yue::sim::{Chaos, Failure, Line, Report, Schedule, Sim};

const EXAMPLES: &str = "\
Examples:
  yue sim --hosts 'server=server.lua, client=client.lua'
  yue sim --seed 7 --seconds 60 --hosts 'server=-c 2 server.lua port=80,
    bot*20=bots.lua ws://server:80/rpc 1'
  yue sim --runs 1000 --chaos 3 --hosts 'server=server.lua, bot*5=bots.lua'
  yue sim --runs 1000 scenario.lua

The programs run unchanged, each on a machine of its own, which the others reach
by its name. A host is NAME=SCRIPT with the script's arguments, and -c LOOPS
before the script; NAME*COUNT=… makes several, NAME1, NAME2 and so on. What
they print is shown with the virtual time and the host's name.

A scenario is a Lua program that adds hosts, lets faults happen and checks what
must hold, by yue.sim. Words after it are its arguments.

A seed determines the whole run: the times of packets, the order of fibers, the
random numbers of the programs. Each host has a disk of its own, in memory, with
the files beside its script: up to 1000 files, and 2 MiB. Commands and C
libraries are outside: a call of them raises an error, unless --allow names it.

With --runs, all processors search for a seed that fails. Of its faults, those
that do not matter are taken away, and the command is printed that runs it again.

Exit codes: 0 the runs ended well, 1 a program failed, 2 wrong usage.";

/// The steps that a fiber may make without waiting, if the command line does not say it: those of [`Sim::steps_max`].
const STEPS_MAX: u64 = 200_000_000;

/// Run several programs together, in virtual time and repeatably.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The hosts, separated by commas, and the program of each. May be given several times.
    #[arg(long, value_name = "HOSTS")]
    hosts: Vec<String>,

    /// The seed of the run; with --runs, the first one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// The number of seeds to run. The first one that fails is the last.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    runs: u64,

    /// The virtual time that a run takes. A scenario decides by itself.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds::parse_above_0)]
    #[arg(conflicts_with = "scenario")]
    seconds: f64,

    /// Let random faults happen, from 1 (slow links) to 5 (crashes and partitions without end), in the first two thirds
    /// of the time. A scenario calls yue.sim.chaos.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=5))]
    #[arg(conflicts_with = "scenario")]
    chaos: Option<u8>,

    /// Let the faults of this file happen, and no others: a line for each, as `1.5s crash server until 2s`.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    faults: Option<PathBuf>,

    /// Print the trace of a single run, or of the run that fails: a line for each message, fault and printed line.
    #[arg(long)]
    trace: bool,

    /// Draw a single run, or the run that fails: an HTML page with a lane for each host.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    timeline: Option<PathBuf>,

    /// Let the programs make this call, such as os.execute, or those of this table, such as ffi.C. May be given several
    /// times.
    #[arg(long, value_name = "CALL")]
    allow: Vec<String>,

    /// The steps that a fiber may make without waiting; with more, the run fails. A step is a bytecode of Lua.
    #[arg(long, value_name = "COUNT", default_value_t = STEPS_MAX)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,

    /// The seeds of one process of a search.
    #[arg(long, value_name = "SEEDS", hide = true)]
    part: Option<String>,

    /// The scenario, a Lua program, and its arguments.
    #[arg(value_names = ["SCENARIO", "ARGS"], value_hint = clap::ValueHint::FilePath)]
    scenario: Vec<OsString>,
}

/// Runs the hosts or the scenario; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    yue::lua::read_log_level();
    let outcome = System::of(arguments).and_then(|system| search::run(arguments, &system));
    match outcome {
        Ok(()) => 0,
        Err(fault) => {
            report(&fault.text);
            fault.code
        }
    }
}

/// The system that the command line describes.
struct System {
    hosts: Vec<Host>,
    scenario: Option<Script>,
    /// The faults that replace all others.
    faults: Option<Schedule>,
    allow: Vec<String>,
    chaos: Option<Chaos>,
    steps: u64,
    run_time: Duration,
}

impl System {
    fn of(arguments: &Arguments) -> Result<System, Fault> {
        if arguments.hosts.is_empty() && arguments.scenario.is_empty() {
            let text = "name a scenario, such as scenario.lua, or hosts, such as --hosts 'server=server.lua'; see yue \
                        sim --help";
            return Err(Fault {
                code: 2,
                text: text.to_owned(),
            });
        }
        let hosts = match arguments.hosts.is_empty() {
            true => Vec::new(),
            false => hosts::parse_all(&arguments.hosts)?,
        };
        let mut words = arguments.scenario.iter();
        let scenario = words.next().map(|path| {
            check(Path::new(path), None).map_err(|(code, text)| Fault { code, text })?;
            let args = words.map(|word| word.clone().into_encoded_bytes());
            Ok(Script {
                args: args.collect(),
                ..Script::new(Path::new(path))
            })
        });
        let faults = arguments.faults.as_deref().map(|path| {
            let faults = read_faults(path)?;
            // A scenario may add hosts at any time.
            if arguments.scenario.is_empty() {
                check_hosts(path, &faults, &hosts)?;
            }
            Ok(faults)
        });
        let run_time = Duration::from_secs_f64(arguments.seconds);
        // The last third is quiet, so that the system can recover.
        let within = run_time.mul_f64(2.0 / 3.0);
        Ok(System {
            hosts,
            scenario: scenario.transpose()?,
            faults: faults.transpose()?,
            allow: arguments.allow.clone(),
            chaos: arguments
                .chaos
                .map(|level| Chaos::level(level).within(within)),
            steps: arguments.steps,
            run_time,
        })
    }

    /// Runs a seed.
    fn run(&self, seed: u64, prints: bool) -> Result<Report, Failure> {
        let sim = Sim::new(seed).steps_max(self.steps);
        let sim = self.allow.iter().fold(sim, Sim::allow);
        let hosts = self.hosts.iter();
        let sim = hosts.fold(sim, |sim, host| {
            let sim = sim.lua(&host.name, host.script.clone());
            let files = host.files.iter();
            files.fold(sim, |sim, (path, bytes)| sim.file(&host.name, path, bytes))
        });
        let sim = match prints {
            true => sim.on_output(show),
            false => sim,
        };
        let sim = match &self.chaos {
            Some(chaos) => sim.chaos(chaos.clone()),
            None => sim,
        };
        let run_time = self.run_time;
        match &self.scenario {
            Some(script) => sim.run_lua(script.clone()),
            // It fails when the run has failed, which the result says.
            None => sim.run(move |_| {
                let _ = yue::sleep(run_time);
            }),
        }
    }
}

/// Describes a failure. Several lines stay as they are: they have columns, and a command to copy.
fn report(text: &str) {
    if text.contains('\n') {
        // A reader that has gone needs no description.
        let _ = std::io::stderr().write_all(format!("yue: {text}\n").as_bytes());
    } else {
        yue_scheduler::log_outcome(format_args!("{text}"));
    }
}

fn read_faults(path: &Path) -> Result<Schedule, Fault> {
    let shown = path.display();
    let fault = |text| Fault { code: 1, text };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| fault(format!("cannot read {shown}: {error}")))?;
    text.parse()
        .map_err(|error| fault(format!("{shown}: {error}")))
}

/// Checks that the faults concern hosts of the command line.
fn check_hosts(path: &Path, faults: &Schedule, hosts: &[Host]) -> Result<(), Fault> {
    let names: Vec<&str> = hosts.iter().map(|host| &*host.name).collect();
    let mut concerned = faults.faults().iter().flat_map(|one| one.fault.hosts());
    match concerned.find(|name| !names.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let (path, names) = (path.display(), names.join(", "));
            let text = format!("{path}: there is no host named {name}; the hosts are {names}");
            Err(Fault { code: 1, text })
        }
    }
}

/// Prints a line of a host.
fn show(line: &Line) {
    print(format_args!("{line}\n"));
}

fn print(text: std::fmt::Arguments<'_>) {
    // A reader that has gone needs no more lines.
    let _ = std::io::stdout().write_fmt(text);
}
