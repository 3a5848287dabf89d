//! One seed, or many, divided among processes.

use super::hosts::Fault;
use super::{Arguments, System, print, replay};
use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use yue::sim::{Report, Search, search_in_processes};

/// Runs the seeds of the command line.
///
/// # Errors
/// When one has failed, with all that there is to say about it.
pub(super) fn run(arguments: &Arguments, system: &System) -> Result<(), Fault> {
    let (first, runs) = (arguments.seed, arguments.runs);
    let end = first.checked_add(runs).ok_or_else(|| Fault {
        code: 2,
        text: "the seeds are too large; see yue sim --help".to_owned(),
    })?;
    let processes = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    match &arguments.part {
        None if runs > 1 && processes > 1 => {
            let searched = search_in_processes(first..end, processes.min(runs), |part| {
                let mut command = Command::new(std::env::current_exe()?);
                command
                    .args(std::env::args_os().skip(1))
                    .args(["--part", part]);
                Ok(command)
            });
            searched.map_err(|text| failed(without_prefix(&text).to_owned()))?;
            print(format_args!("{runs} runs, no failure\n"));
            Ok(())
        }
        None => run_here(arguments, system, Search::new(first..end), runs == 1),
        Some(part) => match Search::parse(part) {
            Some(search) => run_here(arguments, system, search, false),
            None => Err(failed(format!("'{part}' names no seeds"))),
        },
    }
}

fn failed(text: String) -> Fault {
    Fault { code: 1, text }
}

/// Removes what the process of the search has put before its message.
fn without_prefix(text: &str) -> &str {
    text.split_once("seed ")
        .map_or(text, |(before, _)| &text[before.len()..])
}

fn run_here(
    arguments: &Arguments,
    system: &System,
    search: Search,
    is_single: bool,
) -> Result<(), Fault> {
    let search = match &system.faults {
        Some(faults) => search.faults(faults.clone()),
        None => search,
    };
    // What is printed once is not printed again by the runs that look for fewer faults.
    let prints = Cell::new(is_single);
    let twice = if is_single { 0 } else { 2 };
    let outcome = search
        .twice(twice)
        .run(|seed| system.run(seed, prints.take()));
    match outcome {
        Ok(Some(report)) if is_single => {
            show_report(arguments, &report).map_err(failed)?;
            print(format_args!("{}", report.unread_text()));
            let (seed, digest) = (arguments.seed, report.digest);
            let time = match &system.scenario {
                Some(_) => report.elapsed,
                None => system.run_time,
            };
            print(format_args!(
                "seed {seed}: {time:?}, digest {digest:016x}\n"
            ));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(found) => {
            let report = &found.failure.report;
            let more = show_report(arguments, report).unwrap_or_else(|problem| problem);
            Err(failed(
                found.describe(&replay::command(arguments, found.seed), &more),
            ))
        }
    }
}

/// Prints and draws what the command line asks for; returns a remark about it.
fn show_report(arguments: &Arguments, report: &Report) -> Result<String, String> {
    if arguments.trace {
        print(format_args!("{}", report.trace_text()));
    }
    match &arguments.timeline {
        Some(file) => write_timeline(report, file),
        None => Ok("--trace prints all of it, --timeline FILE.html draws it".to_owned()),
    }
}

fn write_timeline(report: &Report, file: &Path) -> Result<String, String> {
    let shown = file.display();
    match std::fs::write(file, report.timeline()) {
        Ok(()) => Ok(format!("the timeline: {shown}")),
        Err(error) => Err(format!("cannot write {shown}: {error}")),
    }
}
