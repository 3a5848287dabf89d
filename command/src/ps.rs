//! `yue ps`: the programs of this user that run.

use crate::running::{self, Program, Silent};
use crate::table::{self, Column, extra, number, path, text};
use std::io::Write;
use yue::Choice;

const EXAMPLES: &str = "\
Lists the programs of this user that have an admin endpoint. One that does not
answer, because it is stopped for example, is listed by its process id.

Exit code 1: the folder of the endpoints is not safe.";

/// List the programs that run.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Print one JSON array of objects instead of the table.
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 9] = [
    number("PID"),
    path("NAME", 8),
    number("UP"),
    number("LOOPS"),
    number("FIBERS"),
    number("CONNS"),
    number("MEMORY"),
    extra(text("DRIVER")),
    // Many programs have a script of the same name.
    extra(path("FOLDER", 12)),
];

/// Prints the list; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    let json = arguments.json;
    let list = move || running::all().map(|(programs, silent)| shown(&programs, &silent, json));
    match run(list) {
        Ok(text) => {
            // A reader that has gone needs no list.
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err(text) => {
            yue_scheduler::log_outcome(format_args!("{text}"));
            1
        }
    }
}

/// Runs a tool in a fiber.
pub(crate) fn run<T: 'static>(
    tool: impl FnOnce() -> Result<T, String> + 'static,
) -> Result<T, String> {
    // Its few calls are not worth a ring.
    let runtime = yue::Runtime::builder().driver(Choice::Mio).build();
    runtime.map_err(|error| error.to_string())?.run(tool)
}

fn shown(programs: &[Program], silent: &[Silent], json: bool) -> String {
    if json {
        let programs = programs.iter().map(|one| (one.info.pid, object(one)));
        let silent = silent.iter().map(|one| (one.pid, silent_object(one)));
        let mut all: Vec<_> = programs.chain(silent).collect();
        all.sort_by_key(|(pid, _)| *pid);
        let all: Vec<_> = all.into_iter().map(|(_, object)| object).collect();
        return format!("{}\n", serde_json::Value::from(all));
    }
    if programs.is_empty() && silent.is_empty() {
        return "no program of yours runs\n".to_owned();
    }
    let rows: Vec<_> = programs.iter().map(row).collect();
    let mut lines = table::lay_out(&COLUMNS, &rows, table::width());
    if programs.is_empty() {
        lines.clear();
    }
    for one in silent {
        lines.push(silent_line(
            one.pid,
            &one.name,
            one.reason(),
            table::width(),
        ));
    }
    lines.join("\n") + "\n"
}

/// The line of a program that does not answer. A long command line gives way to what is said of it.
fn silent_line(pid: u32, name: &str, reason: &str, width: usize) -> String {
    let begin = format!("{pid}  ");
    let room = width.saturating_sub(begin.len() + 2 + reason.chars().count());
    format!("{begin}{}  {reason}", table::cut_begin(name, room))
}

fn row(program: &Program) -> Vec<String> {
    let info = &program.info;
    vec![
        info.pid.to_string(),
        table::plain(&info.name),
        table::duration(uptime(program)),
        info.loops.to_string(),
        table::count(info.fibers as f64),
        table::count(info.connections as f64),
        table::bytes(info.memory_bytes),
        info.driver.clone().unwrap_or_default(),
        folder(program).map_or(String::new(), |folder| table::plain(&folder)),
    ]
}

/// The working folder of a program, if it can be read.
fn folder(program: &Program) -> Option<String> {
    let folder = std::fs::read_link(format!("/proc/{}/cwd", program.info.pid)).ok()?;
    Some(folder.to_string_lossy().into_owned())
}

fn uptime(program: &Program) -> f64 {
    (table::unix_seconds() - program.info.start_time_seconds).max(0.0)
}

fn object(program: &Program) -> serde_json::Value {
    let info = &program.info;
    serde_json::json!({
        "pid": info.pid,
        "answers": true,
        "name": info.name,
        "args": info.args,
        "folder": folder(program),
        "version": info.version,
        "uptime_seconds": uptime(program),
        "loops": info.loops,
        "fibers": info.fibers,
        "connections": info.connections,
        "requests": info.requests,
        "calls": info.calls,
        "memory_bytes": info.memory_bytes,
        "driver": info.driver,
    })
}

fn silent_object(silent: &Silent) -> serde_json::Value {
    serde_json::json!({
        "pid": silent.pid,
        "answers": false,
        "name": silent.name,
        "error": silent.error,
    })
}

#[cfg(test)]
mod tests {
    use super::silent_line;

    #[test]
    fn the_line_of_a_silent_program_says_so_however_long_its_command_line_is() {
        assert_eq!(
            silent_line(4711, "yue game.lua", "does not answer", 80),
            "4711  yue game.lua  does not answer"
        );
        assert_eq!(
            silent_line(
                4711,
                "/a/very/long/path/yue /tmp/game.lua",
                "does not answer",
                41
            ),
            "4711  …yue /tmp/game.lua  does not answer"
        );
        let long = "x".repeat(500);
        for width in [40, 80, 160] {
            let line = silent_line(4711, &long, "does not answer", width);
            assert_eq!(line.chars().count(), width);
            assert!(line.ends_with("  does not answer"), "{line}");
        }
    }
}
