//! The `yue` command, as a library: [`main`] is the whole command.
//!
//! ```text
//!   lib.rs      the command line; runs a script     bench/       `yue bench`
//!   usage.rs    wrong usage, suggestions            doctor.rs    `yue doctor`
//!   init.rs     the duty of process 1               signals.rs   signals at the start
//! ```
//!
//! Exit codes: 0 success, 1 a failure (a line on standard error describes it), 2 wrong usage, 128 + n the program was
//! ended by signal n (130 SIGINT, 143 SIGTERM) that it had not bound.
//!
//! ```no_run
//! // The `yue` command under another name.
//! fn main() -> std::process::ExitCode {
//!     yue_cli::main()
//! }
//! ```

mod bench;
mod doctor;
mod init;
mod signals;
mod usage;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use yue::Choice;
use yue::lua::{Chunk, Script};

const EXAMPLES: &str = "\
Examples:
  yue server.lua                      run a program
  yue -c 4 server.lua port=8080       run it on four loops
  yue --io mio server.lua             run it on epoll
  yue -e 'print(1 + 1)'               run a line of Lua; `yue -` runs its input
  yue doctor                          show this machine's driver and limits
  yue bench tcp://127.0.0.1:8080 -m hello -a '[\"world\"]'

Options stand before the script. Everything after it is the script's own.

A running program has an admin endpoint, $XDG_RUNTIME_DIR/yue/PID.sock, for
tools of the same user: yue.open('unix://…').loops(), .fibers(), .metrics() …

Exit codes: 0 success, 1 failure, 2 wrong usage, 128 + n ended by signal n
(SIGINT 130, SIGTERM 143). The first SIGINT or SIGTERM ends a program
gracefully, within 6 seconds; another one ends it at once.";

/// Runs Lua programs whose functions call each other over the network.
#[derive(Debug, Parser)]
#[command(name = "yue", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(subcommand_precedence_over_arg = true, max_term_width = 80)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: Run,
}

/// Longer than any intended run of a fiber and than a pause of a busy machine; shorter than the patience of a client.
const WATCHDOG_MS: u64 = 500;

#[derive(Debug, clap::Args)]
struct Run {
    /// Run the script on this many loops, a thread each. Their listeners share ports.
    #[arg(short = 'c', long = "loops", value_name = "LOOPS", default_value_t = 1, value_parser = parse_loops)]
    loops: usize,

    /// I/O driver: uring, mio, or auto (uring where the kernel allows it). YUE_IO does the same.
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = parse_driver)]
    io: Choice,

    /// Report on standard error what blocks a loop for longer than this. 0: never.
    #[arg(long, value_name = "MS", env = "YUE_WATCHDOG", default_value_t = WATCHDOG_MS)]
    #[arg(value_parser = parse_watchdog)]
    watchdog: u64,

    /// Do not report all fibers, and what they wait for, on SIGQUIT (Ctrl-\).
    #[arg(long)]
    no_report: bool,

    /// Do not open the admin endpoint, through which tools look into the program. YUE_ADMIN=off does the same.
    #[arg(long)]
    no_admin: bool,

    /// Run this Lua code, before the script if there is one. May be given several times.
    #[arg(short = 'e', value_name = "CODE")]
    code: Vec<OsString>,

    /// Read Lua from standard input line by line, after the script if there is one.
    #[arg(short = 'i')]
    interactive: bool,

    /// The script, or - for standard input, and its arguments (yue.args, arg, ...).
    #[arg(trailing_var_arg = true, value_names = ["SCRIPT", "ARGS"])]
    #[arg(required_unless_present_any = ["code", "interactive"])]
    script: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which I/O driver this machine gets and why, and its limits.
    Doctor(doctor::Arguments),
    /// Load a msgpack-rpc server and measure how fast it answers.
    Bench(bench::Arguments),
}

fn parse_loops(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(loops @ 1..=1024) => Ok(loops),
        _ => Err("a number from 1 to 1024 is needed".to_owned()),
    }
}

/// Parses milliseconds. An empty text, as an empty variable has, means the default.
fn parse_watchdog(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(WATCHDOG_MS);
    }
    text.parse()
        .map_err(|_| "milliseconds are needed, here or in YUE_WATCHDOG; 0 means never".to_owned())
}

fn parse_driver(text: &str) -> Result<Choice, String> {
    text.parse()
        .map_err(|error: yue_io::UnknownDriver| error.to_string())
}

/// Parses the process's command line and runs it.
pub fn main() -> ExitCode {
    signals::reset();
    yue_io::stdio::make_outputs_blocking();
    yue_io::stdio::buffer_output_by_lines();
    // Clap's `arg_required_else_help` would count a variable such as YUE_WATCHDOG as an argument.
    if std::env::args_os().len() <= 1 {
        // A reader that has gone needs no help.
        let _ =
            std::io::stderr().write_all(Arguments::command().render_help().to_string().as_bytes());
        return ExitCode::from(2);
    }
    let code = match Arguments::try_parse() {
        Ok(arguments) => match arguments.command {
            Some(Command::Doctor(arguments)) => doctor::main(&arguments),
            Some(Command::Bench(arguments)) => bench::main(arguments),
            None => run(arguments.run),
        },
        Err(error) => show(&error),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Prints the help or the version if the user requested one, or describes wrong usage; returns the exit code.
fn show(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone needs no help.
            let _ = error.print();
        }
        _ => yue_scheduler::log(
            yue_scheduler::LogLevel::Error,
            format_args!("{}", usage::describe(error, std::env::args_os().nth(1))),
        ),
    }
    error.exit_code()
}

/// Starts the report and the watchdog, for programs that hang or block their loop.
fn start_inspection(run: &Run) {
    if run.watchdog > 0
        && let Err(error) = yue::lua::watch_loops(Duration::from_millis(run.watchdog))
    {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!("no watchdog: {error}"),
        );
    }
    if !run.no_report
        && let Err(error) = yue::lua::report_on(libc::SIGQUIT)
    {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!("no report on SIGQUIT: {error}"),
        );
    }
}

/// Whether the variable `YUE_ADMIN` turns the admin endpoint off.
fn admin_is_off() -> bool {
    let setting = std::env::var("YUE_ADMIN").unwrap_or_default();
    ["0", "off", "no", "false"].contains(&setting.as_str())
}

/// Opens the admin endpoint. A program runs without one, too: a machine may have no folder for it.
fn open_admin(script: &Script) -> Option<yue::admin::Endpoint> {
    yue::lua::read_log_level();
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let options = yue::admin::Options {
        name: script.name.as_ref().map(|name| name.display().to_string()),
        args: script.args.iter().map(text).collect(),
        folder: None,
    };
    let opened = yue::admin::listen(options);
    if let Err(error) = &opened {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Debug,
            format_args!("no admin endpoint: {error}"),
        );
    }
    opened.ok()
}

fn run(run: Run) -> i32 {
    init::split_if_orphans_arrive();
    start_inspection(&run);
    let wants_admin = !run.no_admin && !admin_is_off();
    match script_of(run) {
        Ok(script) => {
            let _endpoint = wants_admin.then(|| open_admin(&script)).flatten();
            script.run()
        }
        Err((code, text)) => {
            yue_scheduler::log(yue_scheduler::LogLevel::Error, format_args!("{text}"));
            code
        }
    }
}

/// The script that the command line names. The error is an exit code and a message.
fn script_of(run: Run) -> Result<Script, (i32, String)> {
    if run.interactive && run.loops > 1 {
        let text = "-i reads lines for one loop; leave out -c, or give the script as a file";
        return Err((2, text.to_owned()));
    }
    let words = std::env::args_os().map(OsString::into_encoded_bytes);
    let before = words.len().saturating_sub(run.script.len());
    let command = words.take(before).collect();
    let mut chunks: Vec<Chunk> = run
        .code
        .into_iter()
        .map(|code| Chunk::text("=(command line)", code.into_encoded_bytes()))
        .collect();
    let mut words = run.script.into_iter();
    let name = words.next().map(PathBuf::from);
    let args: Vec<OsString> = words.collect();
    match &name {
        Some(path) if path.as_os_str() == "-" => {
            let mut source = Vec::new();
            std::io::stdin()
                .read_to_end(&mut source)
                .map_err(|error| (1, format!("cannot read standard input: {error}")))?;
            chunks.push(Chunk::text("=stdin", source));
        }
        Some(path) => {
            check(path, args.first())?;
            chunks.push(Chunk::File(path.clone()));
        }
        None => {}
    }
    if run.interactive {
        chunks.push(Chunk::Interactive);
    }
    Ok(Script {
        chunks,
        name,
        args: args.into_iter().map(OsString::into_encoded_bytes).collect(),
        command,
        loops: run.loops,
        io: run.io,
    })
}

/// Checks that the script can be read; it may be anything readable, even a pipe. The refusal here is clearer than
/// Lua's.
fn check(path: &Path, next: Option<&OsString>) -> Result<(), (i32, String)> {
    let shown = path.display();
    match path.metadata() {
        Ok(facts) if facts.is_dir() => Err((1, format!("{shown} is a folder, not a script"))),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = usage::suggest_for_script(&Arguments::command(), path, next)
                .map_or_else(String::new, |advice| format!("; {advice}"));
            Err((1, format!("there is no script {shown}{advice}")))
        }
        Err(error) => Err((1, format!("cannot read the script {shown}: {error}"))),
    }
}
