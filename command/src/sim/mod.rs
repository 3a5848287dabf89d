//! `yue sim`: runs a system of programs in one process, in virtual time, from a seed.
//!
//! ```text
//!   mod.rs    the command line, one run, what it prints      hosts.rs    the hosts that the command line names
//! ```

mod hosts;

use crate::seconds;
use hosts::Host;
use std::io::Write;
use std::time::Duration;
use yue::sim::{Line, Sim};

const EXAMPLES: &str = "\
Examples:
  yue sim --hosts 'server=server.lua, client=client.lua'
  yue sim --seed 7 --seconds 60 --hosts 'server=-c 2 server.lua port=80,
    bot*20=bots.lua ws://server:80/rpc 1'

The programs run unchanged, each on a machine of its own, which the others reach
by its name. A host is NAME=SCRIPT with the script's arguments, and -c LOOPS
before the script; NAME*COUNT=… makes several, NAME1, NAME2 and so on. What
they print is shown with the virtual time and the host's name.

A seed determines the whole run: the times of packets, the order of fibers, the
random numbers of the programs. Files, commands and C libraries are not part of
it: a call of them raises an error, unless --allow names it.

Exit codes: 0 the run ended well, 1 a program failed, 2 wrong usage.";

/// Run several programs together, in virtual time and repeatably.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The hosts, separated by commas, and the program of each. May be given several times.
    #[arg(long, value_name = "HOSTS", required = true)]
    hosts: Vec<String>,

    /// The seed of the run.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// The virtual time that the run takes.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds::parse_above_0)]
    seconds: f64,

    /// Let the programs make this call, such as io.open, or those of this table, such as yue.fs. May be given several
    /// times.
    #[arg(long, value_name = "CALL")]
    allow: Vec<String>,
}

/// Runs the hosts; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    yue::lua::read_log_level();
    let hosts = match hosts::parse_all(&arguments.hosts) {
        Ok(hosts) => hosts,
        Err(fault) => {
            yue_scheduler::log_outcome(format_args!("{}", fault.text));
            return fault.code;
        }
    };
    let run_time = Duration::from_secs_f64(arguments.seconds);
    let report = system(arguments, hosts).run(move |_| {
        // It fails when the run has failed, which the result says.
        let _ = yue::sleep(run_time);
    });
    let seed = arguments.seed;
    match report {
        Ok(report) => {
            print(format_args!(
                "seed {seed}: {:?}, digest {:016x}\n",
                run_time, report.digest
            ));
            0
        }
        Err(failure) => {
            yue_scheduler::log_outcome(format_args!("seed {seed}: {failure}"));
            1
        }
    }
}

/// The system that the command line describes.
fn system(arguments: &Arguments, hosts: Vec<Host>) -> Sim {
    let sim = Sim::new(arguments.seed).on_output(show);
    let sim = arguments.allow.iter().fold(sim, Sim::allow);
    hosts
        .into_iter()
        .fold(sim, |sim, host| sim.lua(&host.name, host.script))
}

/// Prints a line of a host.
fn show(line: &Line) {
    print(format_args!("{line}\n"));
}

fn print(text: std::fmt::Arguments<'_>) {
    // A reader that has gone needs no more lines.
    let _ = std::io::stdout().write_fmt(text);
}
