//! `yue waits`: the fibers of all local programs that wait for each other, and their deadlocks.
//!
//! Each program lists the waits of its fibers through its admin endpoint; [`yue::admin::graph`] joins them.

use crate::description::printable;
use crate::running::{self, Program, Silent};
use crate::table::duration;
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use yue::admin::graph::{Cycle, Graph, Process};
use yue_rpc::Timeout;

/// The exit codes for a deadlock, and for none in an incomplete graph. Wrong usage is 2, a failure 1.
const DEADLOCK: i32 = 3;
const INCOMPLETE: i32 = 4;

/// A program whose loops are held answers within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The pause before a second look, if some waits of a possible deadlock had only just begun.
const PAUSE: Duration = Duration::from_millis(300);

const AFTER_HELP: &str = "\
Each line of a chain names a fiber, the line of Lua in which it waits, its
process, and what it waits for: a fiber, the holder of a mutex or a semaphore,
or the answer of a call, with the handler that serves it in whichever process.
A chain that ends in a timer, a socket or work is not a deadlock. A deadlock in
which a wait has a time limit `ends by a timeout`.

Waits of a process or a loop that does not answer are missing, and so are
deadlocks through them: the result is then incomplete, and says so.

Exit codes: 0 no deadlock, 3 a deadlock, 4 no deadlock in an incomplete result,
1 a failure, 2 wrong usage.";

/// Show the fibers that wait for each other, and deadlocks, over all programs of yours on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Only these programs: process ids, scripts' names, or addresses of admin endpoints. All of yours by default.
    #[arg(value_name = "PROGRAM")]
    programs: Vec<String>,

    /// Print one JSON object: cycles, chains, and the waits of each process.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(arguments: &Arguments) -> i32 {
    let looked = yue::Runtime::new()
        .map_err(|error| error.to_string())
        .and_then(|runtime| {
            let programs = arguments.programs.clone();
            runtime.run(move || look(&programs))
        });
    match looked {
        Ok((processes, silent)) => {
            let graph = Graph::new(&processes);
            let text = match arguments.json {
                true => as_json(&graph, &processes, &silent),
                false => {
                    let text = as_text(&graph, &processes, &silent);
                    // Names of files, methods and programs are shown, too.
                    text.lines().map(|line| printable(line) + "\n").collect()
                }
            };
            // A reader that has gone needs no list.
            let _ = std::io::stdout().write_all(text.as_bytes());
            match graph.cycles().is_empty() {
                false => DEADLOCK,
                true if is_complete(&graph, &silent) => 0,
                true => INCOMPLETE,
            }
        }
        Err(text) => {
            yue_scheduler::log_outcome(format_args!("{text}"));
            1
        }
    }
}

/// Collects the waits of the programs; twice, if the first look leaves a possible deadlock undecided.
fn look(names: &[String]) -> Result<(Vec<Process>, Vec<Silent>), String> {
    let (programs, mut silent) = match names {
        [] => running::all()?,
        names => running::find_each(names)?,
    };
    let (mut processes, mut failed) = ask(&programs);
    if Graph::new(&processes).is_undecided() {
        yue_scheduler::sleep(PAUSE).map_err(|error| error.to_string())?;
        (processes, failed) = ask(&programs);
    }
    silent.extend(failed);
    // One that has ended meanwhile has no waits.
    silent.retain(|one| running::exists(one.pid));
    Ok((processes, silent))
}

/// Whether all waits are known.
fn is_complete(graph: &Graph<'_>, silent: &[Silent]) -> bool {
    silent.is_empty() && graph.incomplete().next().is_none()
}

/// Asks all programs at once.
fn ask(programs: &[Program]) -> (Vec<Process>, Vec<Silent>) {
    let begin = yue_scheduler::now();
    let questions: Vec<_> = programs
        .iter()
        .map(|program| {
            let admin = program.admin.clone();
            yue_scheduler::spawn(move || {
                let answer = admin.call_within(Timeout::After(ANSWER_MAX), "wait_graph", ());
                (
                    answer,
                    yue_scheduler::now().saturating_since(begin).as_secs_f64(),
                )
            })
        })
        .collect();
    let (mut processes, mut silent) = (Vec::new(), Vec::new());
    for (program, question) in programs.iter().zip(questions) {
        let (pid, name) = (program.info.pid, program.info.name.clone());
        match question.join() {
            Ok((Ok(waits), asked_seconds)) => processes.push(Process {
                pid,
                name,
                asked_seconds,
                waits,
            }),
            Ok((Err(error), _)) => silent.push(Silent::new(pid, &error)),
            Err(error) => silent.push(Silent::new(pid, &error)),
        }
    }
    (processes, silent)
}

fn plural(count: usize, noun: &str) -> String {
    let ending = match (count, noun.ends_with("ss")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {noun}{ending}")
}

fn as_text(graph: &Graph<'_>, processes: &[Process], silent: &[Silent]) -> String {
    let mut lines = Vec::new();
    let cycles = graph.cycles();
    for cycle in &cycles {
        lines.push(cycle.text.clone());
        lines.extend(details(cycle));
        lines.push(String::new());
    }
    let chains = graph.chains();
    if !chains.is_empty() {
        lines.push("longest chains of waits whose end is alive:".to_owned());
        lines.extend(chains.iter().map(|chain| format!("  {}", chain.text)));
        lines.push(String::new());
    }
    for process in graph.incomplete() {
        let (pid, name) = (process.pid, &process.name);
        if process.waits.cut {
            lines.push(format!(
                "process {pid} {name} has more waiting fibers than are shown"
            ));
        }
        for loop_id in &process.waits.blocked {
            lines.push(format!(
                "loop {loop_id} of process {pid} {name} is held and does not answer: its fibers are missing"
            ));
        }
    }
    lines.extend(silent.iter().map(Silent::to_string));
    let (_, waiting) = graph.counts();
    let is_complete = is_complete(graph, silent);
    lines.push(format!(
        "{}, {} {} for another: {}{}",
        plural(processes.len(), "process"),
        plural(waiting, "fiber"),
        if waiting == 1 { "waits" } else { "wait" },
        match cycles.len() {
            0 if !is_complete => "no deadlock found".to_owned(),
            0 => "no deadlock".to_owned(),
            count => plural(count, "deadlock"),
        },
        match is_complete {
            true => "",
            false => ", but the result is incomplete: waits are missing, see above",
        }
    ));
    lines.join("\n") + "\n"
}

/// The waits of a deadlock with their ages.
fn details(cycle: &Cycle) -> Vec<String> {
    let mut lines: Vec<String> = cycle
        .fibers
        .iter()
        .take(20)
        .map(|place| {
            format!(
                "  {} has waited for {}",
                place.text,
                duration(place.seconds)
            )
        })
        .collect();
    if cycle.others > 0 {
        let noun = match cycle.others {
            1 => "fiber waits",
            _ => "fibers wait",
        };
        lines.push(format!("  {} more {noun} for these", cycle.others));
    }
    lines
}

fn as_json(graph: &Graph<'_>, processes: &[Process], silent: &[Silent]) -> String {
    let value = json!({
        "cycles": graph.cycles(),
        "chains": graph.chains(),
        "processes": processes,
        "silent": silent.iter().map(Silent::to_string).collect::<Vec<_>>(),
        "complete": is_complete(graph, silent),
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_have_their_plurals() {
        assert_eq!(plural(1, "process"), "1 process");
        assert_eq!(plural(0, "process"), "0 processes");
        assert_eq!(plural(2, "deadlock"), "2 deadlocks");
    }
}
